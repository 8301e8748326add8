"""Late and parked rows; money and tokens stay integers, and a bucket's sums stay within 64 bits."""

from django.db import migrations, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.state import StateApps

from billing.models.constraints import WholeNumbers

MAX_SUM = 2**60
TOKENS = (
    "input_tokens",
    "input_audio_tokens",
    "cache_read_tokens",
    "cache_write_5m_tokens",
    "cache_write_1h_tokens",
    "output_tokens",
    "output_audio_tokens",
    "reasoning_tokens",
)
STATES = ("open", "metered", "priced", "unpriced", "aborted", "lost", "late", "parked")


def make_whole(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    """Sums that have left 64 bits became REAL on SQLite: they become the largest sum, which nothing is added to."""
    least, is_sqlite = ("MIN", True) if schema_editor.connection.vendor == "sqlite" else ("LEAST", False)
    for table, columns, limit in (
        ("billing_usagehour", ("requests", *TOKENS, "cost_pusd"), MAX_SUM),
        ("billing_spendlog", (*TOKENS, "cost_pusd"), None),
    ):
        for column in columns if is_sqlite or limit else ():
            value, tests = column, []
            if is_sqlite:
                value = f"CAST({column} AS INTEGER)"
                tests.append(f"typeof({column}) NOT IN ('integer', 'null')")
            if limit:
                value = f"{least}({value}, {limit})"
                tests.append(f"{column} > {limit}")
            schema_editor.execute(f"UPDATE {table} SET {column} = {value} WHERE {' OR '.join(tests)}")


class Migration(migrations.Migration):
    dependencies = [("billing", "0001_initial")]

    operations = [
        migrations.AddField(
            model_name="spendlog",
            name="lost_tokens",
            field=models.BigIntegerField(db_default=0, default=0),
        ),
        migrations.AlterField(
            model_name="spendlog",
            name="state",
            field=models.CharField(
                choices=[(state, state.capitalize()) for state in STATES], default="open", max_length=8
            ),
        ),
        migrations.RunPython(make_whole, migrations.RunPython.noop),
        migrations.AddConstraint(
            model_name="spendlog",
            constraint=WholeNumbers(fields=(*TOKENS, "lost_tokens", "cost_pusd"), name="spend_log_is_whole"),
        ),
        migrations.AddConstraint(
            model_name="usagehour",
            constraint=WholeNumbers(
                fields=("requests", *TOKENS, "cost_pusd"), maximum=MAX_SUM, name="usage_hour_is_whole"
            ),
        ),
    ]
