"""WholeNumbers: a constraint that keeps money and tokens integers, and their sums within 64 bits."""

from collections.abc import Sequence
from typing import Any

from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.models import BaseConstraint, Model

#: The largest sum of one bucket: 1.15 million USD, or more tokens than an hour can have.
MAX_SUM = 2**60


class WholeNumbers(BaseConstraint):
    """SQLite stores an integer that leaves 64 bits as REAL; there a CHECK refuses what is no integer. PostgreSQL's
    bigint refuses it without a CHECK. With `maximum`, both databases refuse larger values too."""

    def __init__(self, *, fields: Sequence[str], name: str, maximum: int | None = None) -> None:
        super().__init__(name=name)
        self.fields, self.maximum = tuple(fields), maximum

    def constraint_sql(self, model: type[Model] | None, schema_editor: BaseDatabaseSchemaEditor | None) -> str:
        return self._build("_check_sql", None, schema_editor)

    def create_sql(self, model: type[Model] | None, schema_editor: BaseDatabaseSchemaEditor | None) -> str:
        return self._build("_create_check_sql", model, schema_editor)

    def remove_sql(self, model: type[Model] | None, schema_editor: BaseDatabaseSchemaEditor | None) -> str:
        return self._build("_delete_check_sql", model, schema_editor)

    def validate(
        self, model: type[Model], instance: Model, exclude: set[str] | None = None, using: str = "default"
    ) -> None:
        """Only the database checks: no form writes these columns."""

    def deconstruct(self) -> tuple[str, Sequence[Any], dict[str, Any]]:
        path, arguments, options = super().deconstruct()
        return path, arguments, options | {"fields": self.fields, "maximum": self.maximum}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, WholeNumbers) and self.deconstruct() == other.deconstruct()

    def __hash__(self) -> int:
        return hash((self.name, self.fields, self.maximum))

    def _build(self, method: str, model: type[Model] | None, editor: Any) -> str:
        """The SQL of a schema editor's method; empty where the database needs no CHECK."""
        check = self._condition(editor)
        if not check:
            return ""
        arguments = [] if model is None else [model]
        conditions = [] if method == "_delete_check_sql" else [check]
        return str(getattr(editor, method)(*arguments, self.name, *conditions))

    def _condition(self, editor: Any) -> str:
        columns = [editor.quote_name(name) for name in self.fields]
        checks = [f"{column} <= {self.maximum}" for column in columns if self.maximum is not None]
        if editor.connection.vendor == "sqlite":
            checks += [f"typeof({column}) IN ('integer', 'null')" for column in columns]
        return " AND ".join(checks)
