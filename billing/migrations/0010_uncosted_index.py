"""The index of rows without a cost, built on PostgreSQL without stopping writes."""

from typing import Any

from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor


class AddIndexOnline(migrations.AddIndex):
    """AddIndexConcurrently on PostgreSQL, AddIndex elsewhere."""

    def database_forwards(
        self, app_label: str, schema_editor: BaseDatabaseSchemaEditor, from_state: Any, to_state: Any
    ) -> None:
        is_postgres = schema_editor.connection.vendor == "postgresql"
        operation = AddIndexConcurrently if is_postgres else migrations.AddIndex
        operation(self.model_name, self.index).database_forwards(app_label, schema_editor, from_state, to_state)


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("billing", "0009_cache_hit")]

    operations = [
        AddIndexOnline(
            model_name="spendlog",
            index=models.Index(
                condition=models.Q(("state__in", ["unpriced", "lost"])), fields=["id"], name="spend_log_uncosted"
            ),
        ),
    ]
