"""The stored responses in a database of the program: one file that several processes may share.

The table has the columns of the gateway's own.
"""

import asyncio
import contextlib
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from gateway.pipeline.responses.limits import MAX_HISTORY_BYTES
from gateway.pipeline.responses.rows import COLUMNS, STORE, ResponseRows, row_of
from gateway.protocol.dialects.responses.stored import Chain, Listing, Owner, Page, StoredResponse
from gateway.protocol.errors import BadRequest, GatewayFault
from gateway.sdk.sessions import not_offered
from gateway.state import sql
from gateway.state.sqlite import SQLiteBackend
from gateway.state.sqlite_reader import SQLiteReader
from gateway.state.statement import DatabaseAway, RowRefused, Statement
from gateway.state.unit_of_work import UnitOfWork

TABLE = "gateway_storedresponse"
#: {PostgreSQL's type: SQLite's}, as Django makes them.
TYPES = {"bytea": "BLOB", "bigint": "INTEGER", "integer": "INTEGER", "boolean": "INTEGER"}
SCHEMA = sql.fill(
    "CREATE TABLE IF NOT EXISTS {table} ({columns})",
    table=TABLE,
    columns=", ".join(
        f"{name} {TYPES.get(kind, 'TEXT')} NOT NULL PRIMARY KEY"
        if name == "id"
        else f"{name} {TYPES.get(kind, 'TEXT')}"
        for name, kind in COLUMNS.items()
    ),
)
EXPIRY_INDEX = "CREATE INDEX IF NOT EXISTS sdk_stored_response_expiry ON gateway_storedresponse (expires_at)"
DELETE = Statement(
    name="delete response",
    types=("text", "text", "text"),
    sqlite="DELETE FROM gateway_storedresponse WHERE id = ? AND organization_id = ? AND owner = ?",
    postgres="",
    is_durable=True,
)
#: Ancestors live as long as the responses that build upon them.
PURGE_TEXT = (
    "DELETE FROM gateway_storedresponse AS r WHERE r.expires_at < strftime('%Y-%m-%d %H:%M:%f', 'now') "
    "AND NOT EXISTS (SELECT 1 FROM gateway_storedresponse AS child WHERE child.parent_id = r.id)"
)
PURGE = Statement(name="purge responses", types=(), sqlite=PURGE_TEXT, postgres="", is_durable=False)
PURGE_AFTER = 1000  # units that are written


def open_store(url: str) -> "SQLiteStore":
    """The store of `sqlite:///path`. Raises ValueError for another address, OSError where the file cannot be opened."""
    parts = urlsplit(url)
    if parts.scheme != "sqlite" or parts.netloc or not parts.path.removeprefix("/"):
        raise ValueError("A store is sqlite:///sessions.db, sqlite:////absolute/path.db, or None for memory.")
    return SQLiteStore(Path(unquote(parts.path.removeprefix("/"))))


class SQLiteStore:
    """A SessionStore. It opens in the loop that first uses it, and again after a fork. Closes: `close()`."""

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._units = 0
        try:
            self._path.touch(mode=0o600)  # what was said is for its owner alone
            with closing(sqlite3.connect(self._path, timeout=20)) as connection, connection:
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute(SCHEMA)
                connection.execute(EXPIRY_INDEX)
                connection.execute(PURGE_TEXT)
        except (sqlite3.Error, OSError) as error:
            raise OSError(f"{path} cannot be opened as a database: {error}") from None

    @property
    def responses(self) -> "SQLiteStore":
        return self

    async def commit(self, unit: UnitOfWork) -> None:
        self._open()
        if unit.operations:
            self._units += 1
            if self._units % PURGE_AFTER == 0:
                unit.add(PURGE, ())
            with _reporting_outage():
                await asyncio.shield(asyncio.ensure_future(self._backend.write(unit.operations)))
        for action in unit.follow_ups:
            await action()

    async def close(self) -> None:
        if self._loop is asyncio.get_running_loop():
            self._loop = None
            await self._reader.close()
            with contextlib.suppress(RuntimeError):  # at the exit of Python nothing can wait for its thread any more
                await self._backend.close()

    def add(self, unit: UnitOfWork, response: StoredResponse) -> None:
        unit.add(STORE, row_of(response))

    async def find(self, owner: Owner, response_id: str) -> StoredResponse | None:
        self._open()
        with _reporting_outage():
            return await self._rows.find(owner, response_id)

    async def chain(self, owner: Owner, response_id: str) -> Chain | None:
        self._open()
        with _reporting_outage():
            return await self._rows.chain(owner, response_id)

    async def page(self, owner: Owner, listing: Listing) -> Page[StoredResponse]:
        raise not_offered("A list of responses")

    async def delete(self, owner: Owner, response_id: str) -> bool:
        if await self.find(owner, response_id) is None:
            return False
        unit = UnitOfWork()
        unit.add(DELETE, (response_id, owner.organization_id, owner.scope))
        await self.commit(unit)
        return True

    async def cancel(self, stored: StoredResponse) -> StoredResponse | None:
        return await self.find(stored.owner, stored.id)

    def _open(self) -> None:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop = loop
            self._backend = SQLiteBackend(self._path)
            self._reader = SQLiteReader(self._path)
            self._rows = ResponseRows(self._reader, MAX_HISTORY_BYTES)


@contextmanager
def _reporting_outage() -> Iterator[None]:
    try:
        yield
    except DatabaseAway:
        raise GatewayFault("The store of responses does not answer.", code="store_unavailable") from None
    except RowRefused:
        raise BadRequest("The store of responses does not take this response.", code="store_refused") from None
