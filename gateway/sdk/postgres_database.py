"""PostgresDatabase: the table of stored responses in a schema of its own, apart from the tables of a gateway."""

import asyncio
from collections.abc import Sequence

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from gateway.pipeline.responses.rows import COLUMNS
from gateway.sdk.database_store import columns_of
from gateway.state import sql
from gateway.state.postgres import AWAY, LIMIT_S, Connection, PostgresBackend, connect, limited
from gateway.state.postgres_reader import PostgresReader
from gateway.state.statement import DatabaseAway, Operation

SCHEMA = "tollgate_sdk"
WRITERS = 4  # connections that write, beside those of the reader
WAIT_S = 20.0  # for one of them
LOCK_S = 30.0  # for another process that makes the table
FIND_COLUMNS = (
    "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass('tollgate_sdk.gateway_storedresponse') "
    "AND attnum > 0 AND NOT attisdropped"
)
MAKE = (
    "CREATE SCHEMA IF NOT EXISTS tollgate_sdk",
    sql.fill("CREATE TABLE IF NOT EXISTS tollgate_sdk.gateway_storedresponse ({columns})", columns=columns_of({})),
    "CREATE INDEX IF NOT EXISTS sdk_stored_response_expiry ON tollgate_sdk.gateway_storedresponse (expires_at)",
    "CREATE INDEX IF NOT EXISTS sdk_stored_response_parent ON tollgate_sdk.gateway_storedresponse (parent_id)",
)
LOCK = "SELECT pg_advisory_xact_lock(7236451982640771)"  # any number that others do not use


class PostgresDatabase:
    """See gateway.sdk.database_store.Database. Raises ValueError for an address that is none; no error tells it."""

    def __init__(self, url: str) -> None:
        check_credentials(url)
        try:
            options = conninfo_to_dict(url).get("options") or ""
            self._conninfo = make_conninfo(url, options=f"{options} -c search_path={SCHEMA}")
        except psycopg.Error:  # its text may have parts of the address
            raise ValueError("The store's address is no address of PostgreSQL.") from None

    async def prepare(self) -> None:
        try:
            connection = await connect(self._conninfo)
            try:
                with limited(connection, LOCK_S + LIMIT_S):
                    await _make_table(connection)
            finally:
                await connection.close()
        except (psycopg.Error, *AWAY) as error:
            text = " ".join(str(error).split()) or type(error).__name__
            raise OSError(f"The store in PostgreSQL cannot be opened: {text}") from None

    def open_writer(self) -> "PostgresWriters":
        return PostgresWriters(self._conninfo)

    def open_reader(self) -> PostgresReader:
        return PostgresReader(self._conninfo)


class PostgresWriters:
    """At most WRITERS connections, opened when they are needed."""

    def __init__(self, conninfo: str) -> None:
        self._conninfo = conninfo
        self._places = asyncio.Semaphore(WRITERS)
        self._idle: list[PostgresBackend] = []
        self._is_closed = False

    async def write(self, operations: Sequence[Operation]) -> None:
        try:
            async with asyncio.timeout(WAIT_S):
                await self._places.acquire()
        except TimeoutError:
            raise DatabaseAway("every connection is busy") from None
        backend = self._idle.pop() if self._idle else PostgresBackend(self._conninfo)
        try:
            await backend.write(operations)
        finally:
            self._idle.append(backend)
            self._places.release()
            if self._is_closed:
                await self._close_idle()

    async def close(self) -> None:
        self._is_closed = True
        await self._close_idle()

    async def _close_idle(self) -> None:
        idle, self._idle = self._idle, []
        for backend in idle:
            await backend.close()


async def _make_table(connection: Connection) -> None:
    """A role that may only use the table need not be allowed to make it."""
    names = await _find_columns(connection)
    if not names:
        async with connection.transaction():
            await connection.execute(f"SET LOCAL statement_timeout = {int(LOCK_S * 1000)}")
            await connection.execute(LOCK)  # processes that begin together
            for statement in MAKE:
                await connection.execute(statement.encode())
        names = await _find_columns(connection)
    if missing := sorted(COLUMNS.keys() - names):
        raise OSError(f"the table {SCHEMA}.gateway_storedresponse lacks {', '.join(missing)}")


async def _find_columns(connection: Connection) -> frozenset[str]:
    cursor = await connection.execute(FIND_COLUMNS)
    return frozenset([name for (name,) in await cursor.fetchall()])


def check_credentials(url: str) -> None:
    """Raises ValueError where a special character of the password is not encoded: libpq would take the rest of the
    password for the host, and tell it in its errors."""
    place, _, rest = url.partition("://")[2].partition("/")
    credentials, _, _ = place.rpartition("@")
    if "@" in rest or any(sign in credentials for sign in "@?#"):
        raise ValueError("Encode the special characters of the store's user and password: %40 stands for @, %2F for /.")
