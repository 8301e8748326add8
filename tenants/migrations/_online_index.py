"""An index that is built while rows are written. The name begins with `_`, so that Django takes it for no migration."""

from typing import Any

from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor


class AddIndexOnline(migrations.AddIndex):
    """AddIndexConcurrently on PostgreSQL, AddIndex elsewhere."""

    def database_forwards(
        self, app_label: str, schema_editor: BaseDatabaseSchemaEditor, from_state: Any, to_state: Any
    ) -> None:
        is_postgres = schema_editor.connection.vendor == "postgresql"
        operation = AddIndexConcurrently if is_postgres else migrations.AddIndex
        operation(self.model_name, self.index).database_forwards(app_label, schema_editor, from_state, to_state)
