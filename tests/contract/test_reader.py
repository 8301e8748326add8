"""A read of the data path sees all that was committed before it began, in either database."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from django.db import connection
from django.utils import timezone
from django_scopes import scopes_disabled

from gateway.models import StoredResponse
from gateway.state.postgres_reader import CONNECTIONS, PostgresReader
from gateway.state.reader import Query, Reader
from gateway.state.sqlite_reader import YIELD_BYTES, SQLiteReader
from gateway.state.statement import DatabaseAway
from tenants.models import DEFAULT_ORGANIZATION
from tests.contract.replica import conninfo, reader
from tests.fakes.services import Postgres, running_postgres

PATIENCE_S = 30
LONG = Query(*["SELECT body FROM gateway_storedresponse"] * 2)
SHORT = Query(*["SELECT provider FROM gateway_storedresponse WHERE id = 'r0'"] * 2)
CHANGE = "UPDATE gateway_storedresponse SET provider = 'changed' WHERE id = 'r0'"

pytestmark = pytest.mark.django_db(transaction=True, available_apps=["gateway"])


@pytest.fixture(autouse=True)
def rows() -> None:
    now = timezone.now()
    with scopes_disabled():
        StoredResponse.objects.bulk_create(
            StoredResponse(
                id=f"r{number}",
                organization_id=DEFAULT_ORGANIZATION,
                owner="team:home",
                model_group="m",
                status="completed",
                created_at=now,
                expires_at=now,
                body=bytes(YIELD_BYTES + 1),
            )
            for number in range(5)
        )


def commit(text: str) -> None:
    """Commits at once: the event loop has no turn."""
    if connection.vendor == "sqlite":
        other = sqlite3.connect(connection.settings_dict["NAME"])
        with other:
            other.execute(text)
        other.close()
    else:
        with psycopg.connect(conninfo()) as away:
            away.execute(text.encode())


def play(story: Callable[[Reader], Awaitable[None]]) -> None:
    async def whole() -> None:
        under_test = reader()
        await under_test.open()
        try:
            await asyncio.wait_for(story(under_test), PATIENCE_S)
        finally:
            await under_test.close()

    asyncio.run(whole())


def test_a_row_that_was_committed_beside_a_long_read_is_found() -> None:
    async def story(under_test: Reader) -> None:
        for _ in range(3):  # with connections that were used before, too
            commit("UPDATE gateway_storedresponse SET provider = ''")
            reading = asyncio.create_task(under_test.fetch(LONG, ()))
            await asyncio.sleep(0)
            commit(CHANGE)
            assert not reading.done()
            assert await under_test.fetch(SHORT, ()) == [("changed",)]
            assert [len(body) for (body,) in await reading] == [YIELD_BYTES + 1] * 5

    play(story)


def test_many_long_reads_at_once_are_each_whole() -> None:
    async def story(under_test: Reader) -> None:
        results = await asyncio.gather(*(under_test.fetch(LONG, ()) for _ in range(12)))
        assert [len(rows) for rows in results] == [5] * 12
        assert await under_test.fetch(SHORT, ()) == [("",)]

    play(story)


@pytest.mark.only_on("sqlite")  # PostgreSQL has no log that a reader keeps from being emptied
def test_a_read_that_is_cancelled_holds_nothing_back() -> None:
    async def story(under_test: Reader) -> None:
        reading = asyncio.create_task(under_test.fetch(LONG, ()))
        await asyncio.sleep(0)
        commit(CHANGE)
        reading.cancel()
        outcome = await asyncio.gather(reading, return_exceptions=True)
        assert isinstance(outcome[0], asyncio.CancelledError)
        other = sqlite3.connect(connection.settings_dict["NAME"], timeout=0)
        assert other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
        other.close()

    play(story)


@pytest.mark.only_on("sqlite")
def test_a_sqlite_file_that_was_away_is_read_as_soon_as_it_is_there(tmp_path: Path) -> None:
    async def story() -> None:
        path = tmp_path / "db.sqlite3"
        query = Query("SELECT 1 FROM there", "")
        under_test = SQLiteReader(path)
        with pytest.raises(DatabaseAway):
            await under_test.fetch(query, ())
        other = sqlite3.connect(path)
        other.execute("CREATE TABLE there AS SELECT 1")
        other.close()
        assert await under_test.fetch(query, ()) == [(1,)]
        await under_test.close()

    asyncio.run(story())


# PostgreSQL that goes away, whatever the suite runs on


ONE = Query("", "SELECT 1")
SLOW = Query("", "SELECT pg_sleep(0.1)")
ENDLESS = Query("", "SELECT pg_sleep(600)")


@contextmanager
def outage(postgres: Postgres, uri: str) -> Iterator[None]:
    """An outage of one database: its connections are cut and new ones refused."""
    name = psycopg.conninfo.conninfo_to_dict(uri)["dbname"]
    with psycopg.connect(postgres.fresh_database(), autocommit=True) as admin:
        admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false'.encode())
        admin.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", [name])
        yield
        admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true'.encode())


async def until_running(uri: str, count: int) -> None:
    """Returns when so many of the endless statements run."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query = %s"
    async with await psycopg.AsyncConnection.connect(uri, autocommit=True) as admin:
        while await (await admin.execute(query, [ENDLESS.postgres])).fetchone() != (count,):  # noqa: ASYNC110 - as below
            await asyncio.sleep(0.01)


async def used(uri: str, limit_s: float = 10) -> PostgresReader:
    """A reader all of whose connections are made."""
    under_test = PostgresReader(uri, limit_s=limit_s)
    await under_test.open()
    await asyncio.gather(*(under_test.fetch(SLOW, ()) for _ in range(CONNECTIONS)))
    return under_test


@pytest.mark.only_on("postgres")
def test_a_restart_of_postgresql_is_not_seen_by_those_who_read_after_it(postgres: Postgres) -> None:
    async def story() -> None:
        uri = postgres.fresh_database()
        for crowd in (1, CONNECTIONS, 3 * CONNECTIONS):
            under_test = await used(uri)
            with outage(postgres, uri):
                pass
            for _ in range(2):
                assert await asyncio.gather(*(under_test.fetch(ONE, ()) for _ in range(crowd))) == [[(1,)]] * crowd
            await under_test.close()

    asyncio.run(asyncio.wait_for(story(), PATIENCE_S))


@pytest.mark.only_on("postgres")
def test_the_first_read_after_an_outage_of_postgresql_is_answered(postgres: Postgres) -> None:
    async def story() -> None:
        uri = postgres.fresh_database()
        under_test = await used(uri)
        with outage(postgres, uri):
            for _ in range(10):  # clients that go on asking make it no later
                with pytest.raises(DatabaseAway):
                    await under_test.fetch(ONE, ())
        assert await under_test.fetch(ONE, ()) == [(1,)]
        await under_test.close()

    asyncio.run(asyncio.wait_for(story(), PATIENCE_S))


@pytest.mark.only_on("postgres")
def test_readers_share_few_connections_and_leave_none(postgres: Postgres) -> None:
    async def story() -> None:
        uri = postgres.fresh_database()
        under_test = PostgresReader(uri)
        counted = Query("", "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
        await asyncio.gather(*(under_test.fetch(SLOW, ()) for _ in range(3 * CONNECTIONS)))
        assert await under_test.fetch(counted, ()) == [(CONNECTIONS,)]
        last = asyncio.create_task(under_test.fetch(SLOW, ()))
        await asyncio.sleep(0)
        await under_test.close()
        await last
        other = PostgresReader(uri)
        while await other.fetch(counted, ()) != [(1,)]:  # noqa: ASYNC110 - what is waited for happens in the server
            await asyncio.sleep(0.02)
        await other.close()

    asyncio.run(asyncio.wait_for(story(), PATIENCE_S))


@pytest.mark.only_on("postgres")
def test_a_read_that_is_cancelled_leaves_its_connection_to_others(postgres: Postgres) -> None:
    async def story() -> None:
        uri = postgres.fresh_database()
        under_test = await used(uri)
        for _ in range(2):
            reading = [asyncio.create_task(under_test.fetch(ENDLESS, ())) for _ in range(CONNECTIONS)]
            await until_running(uri, CONNECTIONS)
            for task in reading:
                task.cancel()
            ended = await asyncio.gather(*reading, return_exceptions=True)
            assert {type(error) for error in ended} == {asyncio.CancelledError}
            assert await under_test.fetch(ONE, ()) == [(1,)]
        await under_test.close()

    asyncio.run(asyncio.wait_for(story(), PATIENCE_S))


@pytest.mark.only_on("postgres")
def test_a_read_that_a_frozen_postgresql_does_not_answer_is_given_up() -> None:
    async def story(server: Postgres) -> None:
        under_test = await used(server.fresh_database(), limit_s=0.2)
        with server.frozen():
            reads = [under_test.fetch(ONE, ()) for _ in range(3 * CONNECTIONS)]  # the last of them find no connection
            outcomes = await asyncio.gather(*reads, return_exceptions=True)
            assert {type(error) for error in outcomes} == {DatabaseAway}
        assert await under_test.fetch(ONE, ()) == [(1,)]
        await under_test.close()

    with running_postgres() as server:
        asyncio.run(asyncio.wait_for(story(server), PATIENCE_S))
