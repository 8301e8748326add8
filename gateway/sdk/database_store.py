"""The stored responses in a database of the program, which several processes may share.

The table has the columns of the gateway's own.
"""

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from gateway.pipeline.responses.limits import MAX_HISTORY_BYTES
from gateway.pipeline.responses.rows import COLUMNS, STORE, ResponseRows, row_of
from gateway.protocol.dialects.responses.stored import Chain, Listing, Owner, Page, StoredResponse
from gateway.protocol.errors import BadRequest, GatewayFault
from gateway.sdk.background_loop import BackgroundLoop
from gateway.sdk.sessions import not_offered
from gateway.state import sql
from gateway.state.reader import Reader
from gateway.state.statement import DatabaseAway, Operation, RowRefused, Statement
from gateway.state.unit_of_work import UnitOfWork

KEY = {"id": "text", "organization_id": "text", "owner": "text"}
DELETE = Statement(
    name="delete response",
    types=tuple(KEY.values()),
    sqlite="DELETE FROM gateway_storedresponse WHERE id = ? AND organization_id = ? AND owner = ?",
    postgres=sql.fill(
        "DELETE FROM gateway_storedresponse AS s USING {rows} "
        "WHERE s.id = v.id AND s.organization_id = v.organization_id AND s.owner = v.owner",
        rows=sql.unnest(KEY),
    ),
    is_durable=True,
)
#: Some of the expired responses. Ancestors live as long as the responses that build upon them.
EXPIRED = (
    "DELETE FROM gateway_storedresponse WHERE id IN (SELECT r.id FROM gateway_storedresponse AS r "
    "WHERE r.expires_at < {now} "
    "AND NOT EXISTS (SELECT 1 FROM gateway_storedresponse AS child WHERE child.parent_id = r.id) LIMIT 2000{lock})"
)
PURGE = Statement(
    name="purge responses",
    types=(),
    sqlite=sql.fill(EXPIRED, now=sql.SQLITE_NOW, lock=""),
    postgres=sql.fill(EXPIRED, now=sql.POSTGRES_NOW, lock=" FOR UPDATE SKIP LOCKED"),
    is_durable=False,
)
PURGE_AFTER = 1000  # units that are written


class Writer(Protocol):
    """Any number of tasks may write at a time."""

    async def write(self, operations: Sequence[Operation]) -> None:
        """Writes all in one transaction. Raises DatabaseAway or RowRefused."""

    async def close(self) -> None: ...


class Database(Protocol):
    """A place of the table. Writers and readers belong to the event loop that first uses them."""

    async def prepare(self) -> None:
        """Makes the table where there is none. Raises OSError, which tells no credential."""

    def open_writer(self) -> Writer: ...

    def open_reader(self) -> Reader: ...


class DatabaseStore:
    """A SessionStore. It opens in the loop that first uses it, and again after a fork. Closes: the background loop, or
    the owner with `close()`."""

    def __init__(self, database: Database, background: BackgroundLoop) -> None:
        self._database = database
        self._background = background
        self._loop: asyncio.AbstractEventLoop | None = None
        self._units = 0

    @property
    def responses(self) -> "DatabaseStore":
        return self

    async def prepare(self) -> None:
        """Raises OSError where the database cannot be used."""
        await self._database.prepare()

    async def commit(self, unit: UnitOfWork) -> None:
        self._open()
        if unit.operations:
            await self._write(unit.operations)
            self._units += 1
        for action in unit.follow_ups:
            await action()
        if unit.operations and self._units % PURGE_AFTER == 0:
            with contextlib.suppress(GatewayFault, BadRequest):  # the next one may pass
                await self._write([(PURGE, ())])

    async def close(self) -> None:
        self._background.drop(self.close)
        if self._loop is asyncio.get_running_loop():
            self._loop = None
            await self._reader.close()
            await self._writer.close()

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

    async def _write(self, operations: Sequence[Operation]) -> None:
        with _reporting_outage():
            await asyncio.shield(asyncio.ensure_future(self._writer.write(operations)))

    def _open(self) -> None:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop = loop
            self._writer = self._database.open_writer()
            self._reader = self._database.open_reader()
            self._rows = ResponseRows(self._reader, MAX_HISTORY_BYTES)
            self._background.on_close(self.close)


def columns_of(types: dict[str, str], default: str = "") -> str:
    """The columns of CREATE TABLE. `types`: {PostgreSQL's type: the database's}; `default`: of other types."""
    names = {name: types.get(kind, default or kind) for name, kind in COLUMNS.items()}
    return ", ".join(f"{name} {kind}{' NOT NULL PRIMARY KEY' if name == 'id' else ''}" for name, kind in names.items())


@contextmanager
def _reporting_outage() -> Iterator[None]:
    try:
        yield
    except DatabaseAway:
        raise GatewayFault("The store of responses does not answer.", code="store_unavailable") from None
    except RowRefused:
        raise BadRequest("The store of responses does not take this response.", code="store_refused") from None
