"""The indexes of the spend log's filters, built on PostgreSQL without stopping writes; and the tags of existing rows."""

from typing import Any

import django.db.models.deletion
from django.db import connection, migrations, models, transaction

from billing.migrations._online_index import AddIndexOnline
from billing.tag_index import index_tags

BATCH_ROWS = 500
SETTLED = models.Q(("state__in", ["open", "metered"]), _negated=True)


def index_existing_tags(apps: Any, schema_editor: Any) -> None:
    """In small transactions, by the primary key. Rows that a worker of the version before prices meanwhile stay without:
    a list by tag does not show them."""
    rows = apps.get_model("billing", "SpendLog")._base_manager.order_by("id")
    last = None
    while True:
        part = rows.filter(id__gt=last) if last is not None else rows
        batch = list(part.values_list("organization_id", "id", "tags", "state")[:BATCH_ROWS])
        if not batch:
            return
        last = batch[-1][1]
        is_postgres = connection.vendor == "postgresql"
        with transaction.atomic():
            index_tags(
                (organization_id, row_id if is_postgres else row_id.hex, tags)
                for organization_id, row_id, tags, state in batch
                if state not in ("open", "metered", "aborted", "parked")
            )


class Migration(migrations.Migration):
    atomic = False
    dependencies = [
        ("billing", "0013_price_list"),
        ("tenants", "0013_key_timeouts"),
    ]

    operations = [
        migrations.CreateModel(
            name="SpendLogTag",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "organization_id", "tag", "spend_id", blank=True, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("tag", models.CharField(max_length=255)),
                ("spend_id", models.UUIDField()),
                (
                    "organization",
                    models.ForeignKey(
                        db_constraint=False,
                        db_index=False,
                        on_delete=django.db.models.deletion.DO_NOTHING,
                        related_name="+",
                        to="tenants.organization",
                    ),
                ),
            ],
        ),
        *(
            AddIndexOnline(model_name="spendlog", index=models.Index(fields=fields, name=name, condition=condition))
            for name, fields, condition in (
                ("spend_log_key_id", ["key_id", "-id"], SETTLED & ~models.Q(key_id="")),
                ("spend_log_user", ["user_id", "-id"], SETTLED & ~models.Q(user_id="")),
                ("spend_log_team", ["team_id", "-id"], SETTLED & ~models.Q(team_id="")),
                ("spend_log_source", ["source", "-id"], SETTLED & ~models.Q(source="")),
                ("spend_log_model_group", ["organization", "model_group", "-id"], SETTLED),
                ("spend_log_deployment", ["organization", "deployment_id", "-id"], SETTLED),
                ("spend_log_application", ["organization", "application", "-id"], SETTLED & ~models.Q(application="")),
                ("spend_log_end_user", ["organization", "end_user", "-id"], SETTLED & ~models.Q(end_user="")),
                ("spend_log_error", ["organization", "error_code", "-id"], SETTLED & ~models.Q(error_code="")),
                (
                    "spend_log_failure",
                    ["organization", "-id"],
                    SETTLED & ~models.Q(error_code="", finish="complete", status_code=200),
                ),
                ("spend_log_odd_state", ["state", "-id"], models.Q(state__in=["aborted", "lost", "parked"])),
            )
        ),
        migrations.RunPython(index_existing_tags, migrations.RunPython.noop, elidable=True),
    ]
