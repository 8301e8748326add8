"""During an upgrade two versions serve from one database: the statements of the earlier one work on the new schema."""

import asyncio
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection, migrations
from django.db.migrations.loader import MigrationLoader

from gateway.models import StoredResponse
from gateway.protocol.json.types import JsonObject
from gateway.state.reader import Query
from gateway.state.statement import Row, Statement
from gateway.stores.schema import SchemaBehind, check_schema, missing_migrations
from tenants.models import DEFAULT_ORGANIZATION
from tests.contract.replica import backend, reader

pytestmark = pytest.mark.django_db(transaction=True)

FIXTURES = Path(__file__).parents[1] / "fixtures" / "statements"
#: What the first release came with; no earlier version has to bear it.
FIRST_RELEASE = {"gateway": "0004", "tenants": "0003", "billing": "0001"}
#: The first migrations that change one table each.
ONE_TABLE_FROM = {"billing": "0016"}
#: An operation that takes something away, or changes it, under a version that still uses it.
DESTRUCTIVE = (
    migrations.RemoveField,
    migrations.RenameField,
    migrations.DeleteModel,
    migrations.RenameModel,
    migrations.AlterModelTable,
)
CHANGES_OF_A_TABLE = (
    migrations.AddField,
    migrations.AlterField,
    migrations.AddConstraint,
    migrations.RemoveConstraint,
)
VALUES: dict[str, object] = {
    "uuid": "0" * 32,
    "text": "x",
    "smallint": 1,
    "integer": 1,
    "bigint": 1,
    "boolean": True,
    "timestamptz": "2026-01-01 00:00:00.000000",
    "jsonb": "{}",
    "bytea": b"x",
}
COLUMNS: dict[str, object] = {
    "organization_id": DEFAULT_ORGANIZATION,
    "tags": "[]",
    "metadata": "{}",
    "status": "completed",
    "state": "metered",
}


def statements() -> list[Any]:
    return [
        pytest.param(entry, id=f"{path.stem} {place}")
        for path in sorted(FIXTURES.glob("*.json"))
        for place, entry in json.loads(path.read_text()).items()
    ]


def sample(entry: JsonObject) -> Row:
    """A row that the statement takes; PostgreSQL's text names the columns."""
    named = re.search(r"AS v\(([a-z_0-9, ]+)\)", entry["postgres"])
    names: Sequence[str] = named.group(1).split(", ") if named else ()
    return tuple(
        COLUMNS.get(name, VALUES[kind]) for name, kind in zip([*names, *entry["types"]], entry["types"], strict=False)
    )


@pytest.mark.parametrize("entry", statements())
def test_a_statement_of_an_earlier_version_works_on_this_schema(entry: JsonObject) -> None:
    async def run() -> None:
        if "types" not in entry:
            reads = reader()
            await reads.fetch(Query(entry["sqlite"], entry["postgres"]), parameters(entry["postgres"]))
            await reads.close()
            return
        writes = backend()
        try:
            statement = Statement("earlier", tuple(entry["types"]), entry["sqlite"], entry["postgres"], True)
            await writes.write([(statement, sample(entry))])
        finally:
            await writes.close()

    asyncio.run(run())
    table = re.match(r"INSERT INTO ([a-z_]+) .* VALUES ", entry["sqlite"])
    if table:
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT count(*) FROM {table.group(1)}")
            assert cursor.fetchone() == (1,), "the row is written"


def parameters(text: str) -> list[object]:
    """Numbers where the query compares with one, texts elsewhere."""
    return [1 if re.search(r"(<=?|>=?) $", before) else "x" for before in text.split("%s")[:-1]]


def test_a_store_of_the_version_before_the_head_works() -> None:
    columns = [field.column for field in StoredResponse._meta.concrete_fields if field.column != "head"]
    values = {
        "organization_id": DEFAULT_ORGANIZATION,
        "created_at": VALUES["timestamptz"],
        "expires_at": VALUES["timestamptz"],
        "completed_at": None,
        "metadata": "{}",
        "body": b"x",
    }
    numbers = {"depth", "input_tokens", "output_tokens", "is_background", "is_streamed"}
    row = [values.get(name, False if name.startswith("is_") else 0 if name in numbers else "x") for name in columns]
    with connection.cursor() as cursor:
        places = ", ".join(["%s"] * len(columns))
        cursor.execute(f"INSERT INTO gateway_storedresponse ({', '.join(columns)}) VALUES ({places})", row)
        cursor.execute("SELECT length(head) FROM gateway_storedresponse")
        assert cursor.fetchone() == (0,)


def test_a_migration_leaves_the_earlier_version_working() -> None:
    """Columns are added with a database default, or nullable; nothing is taken away."""
    for (app, name), migration in MigrationLoader(None).disk_migrations.items():
        if name[:4] <= FIRST_RELEASE.get(app, "9999"):
            continue
        for operation in migration.operations:
            assert not isinstance(operation, DESTRUCTIVE), f"{app}.{name}: {operation.describe()}"
            if isinstance(operation, migrations.AddField):
                field = operation.field
                is_filled = field.null or field.has_db_default() or field.many_to_many
                assert is_filled, f"{app}.{name}: {operation.describe()}: give it a db_default"


def test_a_migration_locks_one_table_that_others_write() -> None:
    """Pricing locks several in one transaction: a migration that did so too would be ended as a deadlock."""
    for (app, name), migration in MigrationLoader(None).disk_migrations.items():
        if name[:4] < ONE_TABLE_FROM.get(app, "9999"):
            continue
        made = {each.name_lower for each in migration.operations if isinstance(each, migrations.CreateModel)}
        changed = {each.model_name_lower for each in migration.operations if isinstance(each, CHANGES_OF_A_TABLE)}
        assert len(changed - made) <= 1, f"{app}.{name} changes {sorted(changed - made)}"


def test_the_missing_migration_is_named() -> None:
    check_schema()
    [(_, newest)] = MigrationLoader(None).graph.leaf_nodes("gateway")
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM django_migrations WHERE name = %s", [newest])
    try:
        assert missing_migrations() == [f"gateway.{newest}"]
        with pytest.raises(SchemaBehind, match=rf"lacks the migration gateway\.{newest}: run"):
            check_schema()
    finally:
        call_command("migrate", "gateway", fake=True, verbosity=0)
    check_schema()
