"""SQL texts: the same statement for both databases, and no name that is not one."""

import pytest

from gateway.state import sql

COLUMNS = {"id": "text", "amount": "bigint"}


def test_an_insert_takes_a_row_on_sqlite_and_a_batch_on_postgresql() -> None:
    constants = {"state": "'open'"}
    assert sql.sqlite_insert("thing", COLUMNS, constants) == (
        "INSERT INTO thing (id, amount, state) VALUES (?, ?, 'open') ON CONFLICT DO NOTHING"
    )
    assert sql.postgres_insert("thing", COLUMNS, constants) == (
        "INSERT INTO thing (id, amount, state) SELECT v.*, 'open' "
        "FROM unnest(%b::text[], %b::bigint[]) AS v(id, amount) ON CONFLICT DO NOTHING"
    )


def test_an_update_sets_all_but_its_keys() -> None:
    where = "s.id = {id} AND s.state = 'open'"
    assert sql.sqlite_update("thing", COLUMNS, where) == (
        "UPDATE thing AS s SET amount = ?2 WHERE s.id = ?1 AND s.state = 'open'"
    )
    assert sql.postgres_update("thing", COLUMNS, where) == (
        "UPDATE thing AS s SET amount = v.amount FROM unnest(%b::text[], %b::bigint[]) AS v(id, amount) "
        "WHERE s.id = v.id AND s.state = 'open'"
    )


def test_a_query_has_each_databases_marks_and_clock_in_its_parts_as_well() -> None:
    query = sql.query("SELECT {what} FROM thing WHERE id = {mark} LIMIT {most}", what="id, {now}", most=3)
    assert query.sqlite == "SELECT id, strftime('%Y-%m-%d %H:%M:%f', 'now') FROM thing WHERE id = ? LIMIT 3"
    assert query.postgres == "SELECT id, now() FROM thing WHERE id = %s LIMIT 3"


@pytest.mark.parametrize("name", ["", "a b", "a;", "a'", "A", "1a", "a)"])
def test_what_is_no_name_is_refused(name: str) -> None:
    for build in (
        lambda: sql.names([name]),
        lambda: sql.unnest({name: "text"}),
        lambda: sql.unnest({"id": name}),
        lambda: sql.sqlite_insert(name, COLUMNS),
        lambda: sql.postgres_update("thing", {"id": "text", name: "text"}, "s.id = {id}"),
    ):
        with pytest.raises(ValueError, match="not a name"):
            build()
