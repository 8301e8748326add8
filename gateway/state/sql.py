"""SQL texts for both databases, built once at import from literals and from names that are checked here.

A value is never part of a text: it is bound, to `?` on SQLite and to `%s` or `%b` on PostgreSQL.
"""

import re
from collections.abc import Iterable, Mapping

from gateway.state.reader import Query

Columns = Mapping[str, str]  # name → PostgreSQL type, in the order of a row

SQLITE_NOW = "strftime('%Y-%m-%d %H:%M:%f', 'now')"
POSTGRES_NOW = "now()"
_NAME = re.compile(r"[a-z_][a-z0-9_]*")
_TYPE = re.compile(r"[a-z]+")


def fill(template: str, **parts: str | int) -> str:
    """The template with its `{parts}`: literals, numbers, and what the functions of this module return."""
    return template.format(**parts)


def names(columns: Iterable[str]) -> str:
    """`a, b`. Raises ValueError for what is no column's name."""
    return ", ".join(_checked(_NAME, name) for name in columns)


def unnest(columns: Columns) -> str:
    """The rows of a batch as PostgreSQL's table `v`; each column is bound as one binary array."""
    arrays = ", ".join(f"%b::{_checked(_TYPE, kind)}[]" for kind in columns.values())
    return f"unnest({arrays}) AS v({names(columns)})"


def sqlite_insert(table: str, columns: Columns, constants: Columns | None = None) -> str:
    """Inserts a row and, into further columns, constants that are SQL; a row that exists already stays."""
    values = ["?" for _ in columns] + list((constants or {}).values())
    return _insert(table, [*columns, *(constants or {})], f"VALUES ({', '.join(values)})")


def postgres_insert(table: str, columns: Columns, constants: Columns | None = None) -> str:
    """The same for a batch of rows."""
    values = ["v.*", *(constants or {}).values()]
    rows = fill("SELECT {values} FROM {rows}", values=", ".join(values), rows=unnest(columns))
    return _insert(table, [*columns, *(constants or {})], rows)


def sqlite_update(
    table: str, columns: Columns, where: str, *, keys: Iterable[str] = ("id",), computed: Columns | None = None
) -> str:
    """Sets every column except the keys. In `where` the table is `s` and a value of the row is its column's name in
    braces: `s.id = {id}`; so too in `computed`, the columns that are set to an SQL expression."""
    values = {name: f"?{place}" for place, name in enumerate(columns, 1)}
    return _update(table, values, "", where, keys, computed or {})


def postgres_update(
    table: str, columns: Columns, where: str, *, keys: Iterable[str] = ("id",), computed: Columns | None = None
) -> str:
    """The same for a batch of rows."""
    values = {name: f"v.{name}" for name in columns}
    return _update(table, values, f"FROM {unnest(columns)} ", where, keys, computed or {})


def query(template: str, **parts: str | int) -> Query:
    """A read in both databases' words. `{mark}` is the place of a parameter and `{now}` the database's clock, in the
    template and in its parts."""
    return Query(
        sqlite=_read(template, parts, {"mark": "?", "now": SQLITE_NOW}),
        postgres=_read(template, parts, {"mark": "%s", "now": POSTGRES_NOW}),
    )


def _insert(table: str, columns: Iterable[str], rows: str) -> str:
    text = "INSERT INTO {table} ({columns}) {rows} ON CONFLICT DO NOTHING"
    return fill(text, table=names([table]), columns=names(columns), rows=rows)


def _update(
    table: str, values: Mapping[str, str], rows: str, where: str, keys: Iterable[str], computed: Mapping[str, str]
) -> str:
    expressions = dict(values) | {name: fill(expression, **values) for name, expression in computed.items()}
    changes = ", ".join(f"{names([name])} = {value}" for name, value in expressions.items() if name not in keys)
    text = "UPDATE {table} AS s SET {changes} {rows}WHERE {where}"
    return fill(text, table=names([table]), changes=changes, rows=rows, where=fill(where, **values))


def _read(template: str, parts: Mapping[str, str | int], words: Mapping[str, str]) -> str:
    return template.format(**words, **{name: str(part).format(**words) for name, part in parts.items()})


def _checked(pattern: re.Pattern[str], text: str) -> str:
    if not pattern.fullmatch(text):
        raise ValueError(f"not a name in SQL: {text!r}")
    return text
