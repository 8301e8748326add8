"""Group commit over a real SQLite file and a real PostgreSQL: the same promises on both."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import psycopg
import pytest

from gateway.protocol.errors import GatewayFault
from gateway.state.group_commit import Backend, GroupCommit
from gateway.state.postgres import PostgresBackend
from gateway.state.spool import Spool, SpoolFull
from gateway.state.sqlite import SQLiteBackend
from gateway.state.statement import DatabaseAway, Operation, RowRefused
from gateway.state.unit_of_work import UnitOfWork
from tests.fakes.memory import WRITTEN, insert
from tests.fakes.services import Postgres, running_postgres

INSERT = insert()
FLEETING = insert("fleeting", is_durable=False)
UNSPOOLED = insert("unspooled", is_durable=False, is_spooled=False)
OWED = replace(insert("owed"), is_owed=True)
STATEMENTS = (INSERT, FLEETING, UNSPOOLED, OWED)
PATIENCE_S = 30
PIECE_BYTES = 16 * 1024
FROZEN_S = 30  # each call to a frozen database ends after its own limits


class Database(Protocol):
    def backend(self) -> Backend: ...

    def rows(self) -> list[tuple[str, int]]:
        """In the order in which they were written, seen by another connection."""

    @contextmanager
    def outage(self) -> Iterator[None]: ...


class SQLiteFile:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._run("PRAGMA journal_mode=WAL")  # as Django has made it: who changes it waits for no lock
        self._run(WRITTEN)

    def backend(self) -> Backend:
        return SQLiteBackend(self.path)

    def rows(self) -> list[tuple[str, int]]:
        return self._run("SELECT name, number FROM written ORDER BY rowid")

    @contextmanager
    def outage(self) -> Iterator[None]:
        self._run("ALTER TABLE written RENAME TO away")
        yield
        self._run("ALTER TABLE away RENAME TO written")

    @contextmanager
    def locked(self) -> Iterator[None]:
        connection = sqlite3.connect(self.path, isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("COMMIT")
        connection.close()

    def _run(self, statement: str) -> list[Any]:
        connection = sqlite3.connect(self.path)
        with connection:
            rows = connection.execute(statement).fetchall()
        connection.close()
        return rows


class PostgresDatabase:
    def __init__(self, server: Postgres) -> None:
        self.uri = server.fresh_database()
        self._admin = server.fresh_database()
        self._run(WRITTEN)

    def backend(self) -> Backend:
        return PostgresBackend(self.uri)

    def rows(self) -> list[tuple[str, int]]:
        return self._run("SELECT name, number FROM written ORDER BY ctid")

    @contextmanager
    def outage(self) -> Iterator[None]:
        name = psycopg.conninfo.conninfo_to_dict(self.uri)["dbname"]
        with psycopg.connect(self._admin, autocommit=True) as connection:
            connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false'.encode())
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
            yield
            connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true'.encode())

    def _run(self, statement: str) -> list[Any]:
        with psycopg.connect(self.uri, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []


@pytest.fixture
def database(engine: str, request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    if engine == "sqlite":
        return SQLiteFile(tmp_path / "db.sqlite3")
    return PostgresDatabase(request.getfixturevalue("postgres"))


class Counting:
    """A backend that remembers the sizes of the batches it took."""

    def __init__(self, backend: Backend) -> None:
        self.inner = backend
        self.sizes: list[int] = []

    def write_now(self, operation: Operation) -> bool:
        return self.inner.write_now(operation)

    async def write(self, operations: Sequence[Operation]) -> None:
        await self.inner.write(operations)
        self.sizes.append(len(operations))

    async def close(self) -> None:
        await self.inner.close()


Act = Callable[[GroupCommit], Awaitable[object]]


def perform(database: Database, folder: Path, act: Act, *, name: str = "mine") -> Counting:
    async def story() -> Counting:
        backend = Counting(database.backend())
        commits = GroupCommit(backend, Spool(folder / "spool", name, STATEMENTS), retry_s=0.05)
        await commits.open()
        try:
            await asyncio.wait_for(act(commits), PATIENCE_S)
        finally:
            await asyncio.wait_for(commits.close(), PATIENCE_S)
        return backend

    return asyncio.run(story())


def numbered(*numbers: int) -> list[tuple[str, int]]:
    return [(f"row {number:04d}", number) for number in numbers]


def submit_all(commits: GroupCommit, rows: Sequence[tuple[Any, ...]]) -> "asyncio.Future[list[Any]]":
    return asyncio.gather(*[commits.submit(INSERT, row) for row in rows], return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - what is waited for happens in another process
        await asyncio.sleep(0.02)


def test_a_row_is_seen_by_others_when_its_future_is_done(database: Database, tmp_path: Path) -> None:
    async def act(commits: GroupCommit) -> None:
        for statement, number in ((INSERT, 1), (FLEETING, 2), (INSERT, 3)):
            await commits.submit(statement, *numbered(number))
            assert database.rows()[-1] == numbered(number)[0]

    perform(database, tmp_path, act)


def test_a_crowd_shares_few_commits_and_keeps_its_order(database: Database, tmp_path: Path) -> None:
    rows = numbered(*range(700))
    backend = perform(database, tmp_path, lambda commits: submit_all(commits, rows))
    assert database.rows() == rows
    assert len(backend.sizes) <= 2


def test_a_batch_of_both_kinds_is_one_transaction_in_order(database: Database, tmp_path: Path) -> None:
    rows = numbered(*range(30))

    async def act(commits: GroupCommit) -> None:
        kinds = (INSERT, FLEETING, FLEETING, INSERT, INSERT)
        await asyncio.gather(*[commits.submit(kinds[at % 5], row) for at, row in enumerate(rows)])

    assert perform(database, tmp_path, act).sizes == [30]
    assert database.rows() == rows


def test_writing_a_batch_twice_changes_nothing(database: Database, tmp_path: Path) -> None:
    async def act(commits: GroupCommit) -> None:
        for _ in range(2):
            await submit_all(commits, numbered(1, 2, 3) + numbered(1, 2))

    perform(database, tmp_path, act)
    assert database.rows() == numbered(1, 2, 3)


POISON: dict[str, tuple[Any, ...]] = {
    "a violated check": ("poison", -1),
    "a missing value": ("poison", None),
    "a number beyond 64 bits": ("poison", 2**70),
    "a lone surrogate": ("poison \ud800", 1),
}


@pytest.mark.parametrize("poison", POISON.values(), ids=POISON.keys())
def test_a_poison_row_fails_alone(database: Database, tmp_path: Path, poison: tuple[Any, ...]) -> None:
    async def act(commits: GroupCommit) -> None:
        outcomes = await submit_all(commits, [*numbered(1, 2), poison, *numbered(3)])
        assert [isinstance(result, GatewayFault) for result in outcomes] == [False, False, True, False]
        await commits.submit(INSERT, *numbered(4))

    perform(database, tmp_path, act)
    assert database.rows() == numbered(1, 2, 3, 4)
    assert [path.suffix for path in (tmp_path / "spool").iterdir()] == [".refused"]


def unit_of(*operations: Operation) -> UnitOfWork:
    unit = UnitOfWork()
    for statement, row in operations:
        unit.add(statement, row)
    return unit


@pytest.mark.parametrize("poison", POISON.values(), ids=POISON.keys())
def test_a_poisoned_unit_keeps_its_owed_row_and_no_other(
    database: Database, tmp_path: Path, poison: tuple[Any, ...]
) -> None:
    async def act(commits: GroupCommit) -> None:
        units = [
            unit_of((INSERT, *numbered(1)), (INSERT, poison), (OWED, *numbered(2))),
            unit_of((INSERT, *numbered(3)), (OWED, *numbered(4))),
        ]
        outcomes = await asyncio.gather(*map(commits.commit, units), return_exceptions=True)
        assert [isinstance(result, GatewayFault) for result in outcomes] == [True, False]

    perform(database, tmp_path, act)
    assert database.rows() == numbered(2, 3, 4)


def test_units_of_an_outage_are_replayed_whole_and_a_poisoned_one_as_if_there_was_none(
    database: Database, tmp_path: Path
) -> None:
    async def act(commits: GroupCommit) -> None:
        await commits.submit(INSERT, *numbered(0))
        with database.outage():
            await commits.commit(unit_of((INSERT, *numbered(1)), (OWED, *numbered(2))))
            await commits.commit(
                unit_of((INSERT, *numbered(3)), (INSERT, POISON["a violated check"]), (OWED, *numbered(4)))
            )
            await commits.commit(unit_of((INSERT, *numbered(5)), (OWED, *numbered(6))))
        await until(lambda: len(database.rows()) == 6)

    perform(database, tmp_path, act)
    assert database.rows() == numbered(0, 1, 2, 4, 5, 6)


def test_a_refused_batch_leaves_nothing_behind(database: Database) -> None:
    async def story() -> None:
        backend = database.backend()
        with pytest.raises(RowRefused):
            await backend.write([(INSERT, *numbered(1)), (FLEETING, *numbered(2)), (INSERT, ("poison", -1))])
        assert database.rows() == []
        await backend.write([(INSERT, *numbered(3))])
        await backend.close()

    asyncio.run(story())
    assert database.rows() == numbered(3)


def test_an_outage_loses_no_row_and_doubles_none(database: Database, tmp_path: Path) -> None:
    async def act(commits: GroupCommit) -> None:
        await submit_all(commits, numbered(1, 2))
        with database.outage():
            assert await submit_all(commits, numbered(3, 4)) == [None, None]
            assert await submit_all(commits, numbered(5)) == [None]
            assert not commits.is_connected
        await commits.submit(INSERT, *numbered(6))
        await until(lambda: len(database.rows()) == 6 and commits.is_connected)
        await commits.submit(INSERT, *numbered(7))

    perform(database, tmp_path, act)
    assert database.rows() == numbered(1, 2, 3, 4, 5, 6, 7)
    assert list((tmp_path / "spool").iterdir()) == []


def test_what_is_not_spooled_fails_in_an_outage_and_may_be_tried_again(
    database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def act(commits: GroupCommit) -> None:
        with database.outage():
            outcomes = await asyncio.gather(
                commits.submit(UNSPOOLED, *numbered(1)),
                commits.submit(INSERT, *numbered(2)),
                return_exceptions=True,
            )
            assert [type(result) for result in outcomes] == [DatabaseAway, type(None)]
            unwatched = commits.submit(UNSPOOLED, *numbered(1))
            await asyncio.wait([unwatched])
            del unwatched  # its caller has not asked for the outcome
        await until(lambda: database.rows() == numbered(2))
        await commits.submit(UNSPOOLED, *numbered(1))

    perform(database, tmp_path, act)
    assert database.rows() == numbered(2, 1)
    assert [record.message for record in caplog.records if record.name == "asyncio"] == []


class Disk(Spool):
    """Without room while `is_full`."""

    is_full = False

    def append(self, rows: Sequence[tuple[str, Any]]) -> None:
        if self.is_full and rows:
            raise SpoolFull("no space left")
        super().append(rows)


def test_what_is_owed_is_written_though_its_caller_was_told_that_it_is_not(database: Database, tmp_path: Path) -> None:
    """A call was made and paid for: its row must not stay open because the disk was full when it ended."""

    async def story() -> None:
        spool = Disk(tmp_path / "spool", "mine", STATEMENTS)
        commits = GroupCommit(database.backend(), spool, retry_s=0.05)
        await commits.open()
        with database.outage():
            await commits.submit(INSERT, *numbered(1))  # into the spool
            spool.is_full = True
            for statement, number in ((OWED, 2), (INSERT, 3), (OWED, 4)):
                with pytest.raises(GatewayFault):
                    await commits.submit(statement, *numbered(number))
        await until(lambda: len(database.rows()) == 3)
        await commits.submit(INSERT, *numbered(5))
        await commits.close()

    asyncio.run(asyncio.wait_for(story(), PATIENCE_S))
    assert database.rows() == numbered(1, 2, 4, 5)


def test_the_replay_comes_by_itself(database: Database, tmp_path: Path) -> None:
    async def act(commits: GroupCommit) -> None:
        with database.outage():
            await submit_all(commits, numbered(1, 2))
        await until(lambda: database.rows() == numbered(1, 2))

    perform(database, tmp_path, act)


def test_a_database_that_is_away_at_the_start_is_waited_for(database: Database, tmp_path: Path) -> None:
    async def act(commits: GroupCommit) -> None:
        with database.outage():
            await commits.submit(INSERT, *numbered(1))
        await until(lambda: database.rows() == numbered(1))

    perform(database, tmp_path, act)


def test_what_a_killed_process_had_acknowledged_is_replayed_by_the_next(database: Database, tmp_path: Path) -> None:
    async def killed() -> None:
        spool = Spool(tmp_path / "spool", "killed", STATEMENTS)
        backend = database.backend()
        commits = GroupCommit(backend, spool)
        await commits.open()
        with database.outage():
            assert await submit_all(commits, numbered(*range(5))) == [None] * 5
            assert commits._task is not None
            commits._task.cancel()  # as far as a killed process gets
            await asyncio.wait([commits._task])
        await backend.close()
        spool.release()
        with (tmp_path / "spool" / "killed.spool").open("ab") as file:
            file.write(b"\0\0\0\x50half a rec")  # never acknowledged

    asyncio.run(killed())
    perform(database, tmp_path, lambda commits: submit_all(commits, numbered(5)), name="next")
    assert database.rows() == numbered(*range(6))
    assert list((tmp_path / "spool").iterdir()) == []


def test_an_outage_within_the_replay_doubles_nothing(database: Database, tmp_path: Path) -> None:
    async def act(commits: GroupCommit) -> None:
        with database.outage():
            await submit_all(commits, numbered(*range(500)))  # three batches of the spool
        await until(lambda: len(database.rows()) > 0)
        with database.outage():
            await commits.submit(INSERT, *numbered(500))
        await until(lambda: len(database.rows()) == 501)

    perform(database, tmp_path, act)
    assert sorted(database.rows()) == numbered(*range(501))


def test_a_missing_sqlite_file_is_an_outage_and_never_made(tmp_path: Path) -> None:
    async def story() -> None:
        backend = SQLiteBackend(tmp_path / "absent.sqlite3")
        with pytest.raises(DatabaseAway):
            await backend.write([(INSERT, *numbered(1))])
        await backend.close()

    asyncio.run(story())
    assert list(tmp_path.iterdir()) == []


def test_sqlite_owes_an_fsync_only_where_a_statement_is_durable(tmp_path: Path) -> None:
    database = SQLiteFile(tmp_path / "db.sqlite3")

    async def story() -> list[int]:
        backend = SQLiteBackend(database.path)
        fullness = []
        for statements in ([FLEETING], [INSERT], [FLEETING], [FLEETING, INSERT]):
            await backend.write([(one, *numbered(number)) for number, one in enumerate(statements)])
            assert backend._connection is not None
            fullness.append(int(backend._is_full))
        await backend.close()
        return fullness

    assert asyncio.run(story()) == [0, 1, 0, 1]


class Unfit:
    """A value that fails while SQLite asks what it is, with an error that is none of SQLite's."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __conform__(self, protocol: object) -> str:
        raise self.error

    def __str__(self) -> str:
        return "unfit"


@pytest.mark.parametrize("row", [("unfit", Unfit(RuntimeError())), ("unfit", object()), ("unfit", 1, 2)])
def test_sqlites_writer_outlives_an_error_that_nobody_foresaw(tmp_path: Path, row: tuple[Any, ...]) -> None:
    database = SQLiteFile(tmp_path / "db.sqlite3")

    async def act(commits: GroupCommit) -> None:
        outcomes = await submit_all(commits, [*numbered(1), row, *numbered(2)])
        assert [isinstance(result, GatewayFault) for result in outcomes] == [False, True, False]
        await commits.submit(INSERT, *numbered(3))
        assert commits.is_connected

    perform(database, tmp_path, act)
    assert database.rows() == numbered(1, 2, 3)
    [file] = (tmp_path / "spool").iterdir()
    assert file.suffix == ".refused"
    assert b"unfit" in file.read_bytes()


def test_what_sqlites_writer_has_no_memory_for_is_an_outage_and_leaves_the_file_unlocked(tmp_path: Path) -> None:
    database = SQLiteFile(tmp_path / "db.sqlite3")

    async def story() -> None:
        backend = SQLiteBackend(database.path)
        with pytest.raises(MemoryError):
            await backend.write([(INSERT, *numbered(1)), (INSERT, ("unfit", Unfit(MemoryError())))])
        assert database.rows() == []
        database._run("INSERT INTO written VALUES ('by another', 1)")
        await backend.write([(INSERT, *numbered(2))])
        await backend.close()

    asyncio.run(story())
    assert [name for name, _ in database.rows()] == ["by another", "row 0002"]


def test_sqlites_writer_outlives_the_event_loop_of_whoever_asked(tmp_path: Path) -> None:
    database = SQLiteFile(tmp_path / "db.sqlite3")
    backend = SQLiteBackend(database.path)

    async def leave() -> None:
        writing = asyncio.ensure_future(backend.write([(INSERT, *numbered(1))]))
        await asyncio.sleep(0)
        writing.cancel()

    async def stay() -> None:
        await backend.write([(INSERT, *numbered(2))])
        await backend.close()

    with database.locked():
        asyncio.run(leave())
    asyncio.run(asyncio.wait_for(stay(), PATIENCE_S))
    assert database.rows() == numbered(1, 2)


@pytest.mark.only_on("postgres")
def test_a_postgresql_that_became_a_read_only_standby_is_an_outage_not_a_poison(postgres: Postgres) -> None:
    database = PostgresDatabase(postgres)
    name = psycopg.conninfo.conninfo_to_dict(database.uri)["dbname"]
    database._run(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')

    async def story() -> None:
        backend = database.backend()
        try:
            with pytest.raises(DatabaseAway):
                await backend.write([(INSERT, *numbered(1))])
        finally:
            await backend.close()

    asyncio.run(story())


@pytest.mark.only_on("postgres")
def test_a_postgresql_that_does_not_answer_a_statement_is_an_outage(postgres: Postgres) -> None:
    """Another connection holds a lock: lock_timeout ends the wait here, statement_timeout in production."""
    database = PostgresDatabase(postgres)
    name = psycopg.conninfo.conninfo_to_dict(database.uri)["dbname"]
    database._run(f"ALTER DATABASE \"{name}\" SET lock_timeout = '100ms'")

    async def story() -> None:
        backend = database.backend()
        with psycopg.connect(database.uri) as blocker:
            blocker.execute("LOCK TABLE written IN ACCESS EXCLUSIVE MODE")
            with pytest.raises(DatabaseAway):
                await backend.write([(INSERT, *numbered(1))])
        await backend.write([(INSERT, *numbered(2))])
        await backend.close()

    asyncio.run(story())
    assert database.rows() == numbered(2)


@pytest.mark.only_on("postgres")
def test_a_restart_of_postgresql_between_two_writes_is_no_outage(postgres: Postgres) -> None:
    database = PostgresDatabase(postgres)

    async def story() -> None:
        backend = database.backend()
        await backend.write([(INSERT, *numbered(1))])
        await backend.write([(FLEETING, *numbered(2))])
        with database.outage():  # cuts both connections
            pass
        await backend.write([(INSERT, *numbered(3))])
        await backend.write([(FLEETING, *numbered(4))])
        await backend.close()

    asyncio.run(story())
    assert database.rows() == numbered(1, 2, 3, 4)


@pytest.mark.only_on("postgres")
def test_while_postgresql_is_frozen_rows_are_spooled_and_none_is_doubled(tmp_path: Path) -> None:
    with running_postgres() as server:
        database = PostgresDatabase(server)

        async def story() -> None:
            backend = PostgresBackend(database.uri, limit_s=0.2)
            commits = GroupCommit(backend, Spool(tmp_path / "spool", "mine", STATEMENTS), retry_s=0.05)
            await commits.open()
            await commits.submit(INSERT, *numbered(0))
            with server.frozen():
                for number in range(1, 20):
                    await commits.submit(INSERT, *numbered(number))
                with pytest.raises(DatabaseAway):
                    await commits.submit(UNSPOOLED, ("unspooled", 0))
                assert not commits.is_connected
            await until(lambda: commits.is_connected)
            await commits.submit(INSERT, *numbered(20))
            await commits.close()

        asyncio.run(asyncio.wait_for(story(), FROZEN_S))
        assert database.rows() == numbered(*range(21))


@pytest.mark.only_on("postgres")
def test_a_group_commit_ends_though_postgresql_is_frozen_and_keeps_its_rows(tmp_path: Path) -> None:
    with running_postgres() as server:
        database = PostgresDatabase(server)

        async def frozen() -> None:
            backend = PostgresBackend(database.uri, limit_s=0.2)
            commits = GroupCommit(backend, Spool(tmp_path / "spool", "mine", STATEMENTS), retry_s=0.05)
            await commits.open()
            await commits.submit(INSERT, *numbered(1))
            with server.frozen():
                await commits.submit(INSERT, *numbered(2))
                await commits.close()

        asyncio.run(asyncio.wait_for(frozen(), FROZEN_S))
        perform(database, tmp_path, lambda commits: commits.submit(INSERT, *numbered(3)), name="mine")
        assert database.rows() == numbered(1, 2, 3)


class SlowLink:
    """A TCP port in front of the server's socket. It carries so many bytes a second to the server."""

    def __init__(self, socket_path: Path, bytes_s: int) -> None:
        self._socket_path = socket_path
        self._bytes_s = bytes_s
        self._carriers: list[asyncio.Task[None] | None] = []

    async def open(self) -> int:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0, limit=PIECE_BYTES)
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        self._server.close()
        await asyncio.gather(*(carrier for carrier in self._carriers if carrier is not None))

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._carriers.append(asyncio.current_task())
        server_reader, server_writer = await asyncio.open_unix_connection(str(self._socket_path))
        await asyncio.gather(self._pump(reader, server_writer, 1 / self._bytes_s), self._pump(server_reader, writer, 0))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, byte_s: float) -> None:
        with suppress(OSError):
            while piece := await reader.read(PIECE_BYTES):
                await asyncio.sleep(byte_s * len(piece))
                writer.write(piece)
                await writer.drain()
        with suppress(OSError):
            writer.close()
            await writer.wait_closed()


@pytest.mark.only_on("postgres")
def test_a_body_that_a_slow_link_carries_for_longer_than_the_usual_limits_is_written(postgres: Postgres) -> None:
    database = PostgresDatabase(postgres)
    folder = Path(str(psycopg.conninfo.conninfo_to_dict(database.uri)["host"]))
    size = 5 * 1024 * 1024
    write_length = replace(
        INSERT,
        postgres="INSERT INTO written (name, number) SELECT v.name, length(v.body) "
        "FROM unnest(%b::text[], %b::bytea[]) AS v(name, body)",
    )

    async def story() -> None:
        link = SlowLink(folder / ".s.PGSQL.5432", size // 7)
        port = await link.open()
        backend = PostgresBackend(psycopg.conninfo.make_conninfo(database.uri, host="127.0.0.1", port=port))
        try:
            await backend.write([(write_length, ("large", bytes(size)))])
        finally:
            await backend.close()
            await link.close()

    asyncio.run(story())
    assert database.rows() == [("large", size)]


WRITE_LENGTH = replace(
    INSERT,
    name="length",
    postgres="INSERT INTO written (name, number) SELECT v.name, length(v.body) "
    "FROM unnest(%b::text[], %b::bytea[]) AS v(name, body) ON CONFLICT DO NOTHING",
)


@pytest.mark.only_on("postgres")
def test_a_slow_link_spools_a_large_unit_as_one_and_carries_it_in_the_end_while_others_are_written(
    postgres: Postgres, tmp_path: Path
) -> None:
    """Far below the expected speed: the first two tries are late, each has twice the time of the one before."""
    database = PostgresDatabase(postgres)
    folder = Path(str(psycopg.conninfo.conninfo_to_dict(database.uri)["host"]))
    size = 4 * 1024 * 1024
    statements = (*STATEMENTS, WRITE_LENGTH)

    async def story() -> None:
        link = SlowLink(folder / ".s.PGSQL.5432", size // 4)
        port = await link.open()
        conninfo = psycopg.conninfo.make_conninfo(database.uri, host="127.0.0.1", port=port)
        backends = [PostgresBackend(conninfo, limit_s=1, bytes_per_s=32 * size) for _ in range(2)]
        patient = GroupCommit(backends[1], Spool(tmp_path / "large", "mine", statements), retry_s=0.05)
        commits = GroupCommit(backends[0], Spool(tmp_path, "mine", statements), patient=patient, retry_s=0.05)
        await commits.open()
        large = commits.submit(WRITE_LENGTH, ("large", bytes(size)))
        for number in range(5):
            await commits.submit(INSERT, *numbered(number))
        await large
        assert (tmp_path / "large" / "mine.spool").exists()
        assert ("large", size) not in database.rows()
        await until(lambda: ("large", size) in database.rows())
        await until(lambda: patient.is_connected)
        await commits.close()
        await link.close()

    asyncio.run(asyncio.wait_for(story(), 2 * PATIENCE_S))
    assert database.rows() == [*numbered(*range(5)), ("large", size)]
    assert list((tmp_path / "large").iterdir()) == []


@pytest.mark.only_on("postgres")
def test_a_batch_that_a_slow_link_carries_too_late_is_halved_and_not_spooled(
    postgres: Postgres, tmp_path: Path
) -> None:
    database = PostgresDatabase(postgres)
    folder = Path(str(psycopg.conninfo.conninfo_to_dict(database.uri)["host"]))
    rows = [(f"row {number:04d}", bytes(32 * 1024)) for number in range(30)]
    spool = Spool(tmp_path / "spool", "mine", (*STATEMENTS, WRITE_LENGTH))

    async def story() -> None:
        link = SlowLink(folder / ".s.PGSQL.5432", 256 * 1024)
        port = await link.open()
        backend = Counting(
            PostgresBackend(
                psycopg.conninfo.make_conninfo(database.uri, host="127.0.0.1", port=port),
                limit_s=1.5,
                bytes_per_s=1 << 30,
            )
        )
        commits = GroupCommit(backend, spool, retry_s=0.05)
        await commits.open()
        await asyncio.gather(*(commits.submit(WRITE_LENGTH, row) for row in rows))
        assert commits.is_connected
        assert len(backend.sizes) > 1
        await commits.close()
        await link.close()

    asyncio.run(asyncio.wait_for(story(), 2 * PATIENCE_S))
    assert database.rows() == [(name, len(body)) for name, body in rows]
    assert not list((tmp_path / "spool").iterdir())
