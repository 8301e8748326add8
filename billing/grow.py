"""Adding to sums that are kept by keys, in one statement for many rows where the database reads each statement anew."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import TypeAlias

from django.db import connection

from gateway.state import sql

Value: TypeAlias = str | int | datetime | None
_GROW = "INSERT INTO {table} ({columns}) {rows} ON CONFLICT ({keys}) DO UPDATE SET {changes}"


def grow_sums(
    table: str,
    columns: Mapping[str, str],
    keys: Collection[str],
    sums: Collection[str],
    rows: Sequence[Sequence[Value]],
) -> None:
    """Adds each row's `sums` to the row with its keys, or makes it. NULL stands for 0. No two rows have the same
    keys. `columns`: name → PostgreSQL type, in the order of a row."""
    if not rows:
        return
    is_postgres = connection.vendor == "postgresql"
    values = f"VALUES ({', '.join(['%s'] * len(columns))})"
    arrays = ", ".join(f"%s::{kind}[]" for kind in columns.values())
    text = sql.fill(
        _GROW,
        table=sql.names([table]),
        columns=sql.names(columns),
        rows=sql.fill("SELECT * FROM unnest({arrays}) AS v", arrays=arrays) if is_postgres else values,
        keys=sql.names(keys),
        changes=", ".join(
            f"{name} = COALESCE({table}.{name} + excluded.{name}, {table}.{name}, excluded.{name})" for name in sums
        ),
    )
    with connection.cursor() as cursor:
        if is_postgres:
            cursor.execute(text, [list(column) for column in zip(*rows, strict=True)])
        else:
            cursor.executemany(text, rows)
