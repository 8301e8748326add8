"""Group commit: what many requests want written goes to the database in one transaction.

Without a timer: what is queued is committed whenever the last commit is done, so a lone request waits for one
commit and a crowd shares it. While the database refuses, batches go to a local spool, fsynced, and are replayed in
order when it is back; whether it is, a task of its own finds out, so that nobody waits for a database that does not
answer. Every statement must therefore be harmless when it runs twice.
"""

import asyncio
import contextlib
import logging
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from gateway.protocol.errors import GatewayFault
from gateway.state.spool import Spool, SpoolFull

logger = logging.getLogger(__name__)

Row = tuple[object, ...]
Result = TypeVar("Result")
Faults = dict[int, Exception]  # by the index of an operation: why it is not safe


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement in both databases' words. `types` are the PostgreSQL types of a row's columns, in order."""

    name: str
    types: tuple[str, ...]
    sqlite: str  # with ? for each column
    postgres: str  # with one %b, a binary array, for each column: … FROM unnest(%b::type[], …)
    is_durable: bool  # acknowledged after an fsync; otherwise it survives the process, not a power cut
    is_spooled: bool = True  # otherwise it fails with DatabaseAway
    is_owed: bool = False  # written later, from memory, where neither the database nor the spool takes it
    rank: int = 0  # within one transaction lower ranks are written first
    is_set_aside: bool = True  # kept in a file for a person where the database refuses it


Operation = tuple[Statement, Row]


class DatabaseAway(Exception):
    """The database cannot be reached or refuses to write: the batch may be tried again later."""


class RowRefused(Exception):
    """The database took none of the batch because of what a row holds."""


class Backend(Protocol):
    """Writes a batch in one transaction. Raises DatabaseAway or RowRefused."""

    async def write(self, operations: Sequence[Operation]) -> None: ...

    def write_now(self, operation: Operation) -> bool:
        """Writes one operation that owes no fsync, without waiting for anybody; False where that cannot be."""

    async def close(self) -> None: ...


class GroupCommit:
    """Closes: the owner, with `close()`, which writes what is queued."""

    def __init__(self, backend: Backend, spool: Spool, *, max_queued: int = 10_000, retry_s: float = 1.0) -> None:
        self._backend = backend
        self._spool = spool
        self._max_queued = max_queued
        self._retry_s = retry_s
        self._queue: list[tuple[Operation, asyncio.Future[None]]] = []
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._probe: asyncio.Task[None] | None = None  # while the database is away
        self._owed: list[Operation] = []
        self._is_writing = False
        self._is_closing = False
        self._is_closed = False
        self._is_refused = False  # by the spool as well
        self.is_connected = True

    async def open(self) -> None:
        self._task = asyncio.create_task(self._run(), name="group commit")

    async def close(self) -> None:
        self._is_closing = True
        self._wake.set()
        if self._task is not None:
            await self._task
        await self._backend.close()

    def submit(self, statement: Statement, row: Row) -> asyncio.Future[None]:
        """A future that is done when the row is safe; it fails with a GatewayFault, or with DatabaseAway where the
        statement is not spooled. Raises GatewayFault when the queue is full."""
        if self._is_closed:
            raise GatewayFault("The gateway's ledger is closed.")
        if len(self._queue) >= self._max_queued and not statement.is_durable:  # what is owed is always taken
            raise GatewayFault(
                "The gateway's ledger is overloaded; try again shortly.", headers=((b"retry-after", b"1"),)
            )
        future = asyncio.get_running_loop().create_future()
        is_busy = self._queue or self._is_writing or self._probe is not None
        if not (is_busy or statement.is_durable) and self._spool.is_empty and self._backend.write_now((statement, row)):
            future.set_result(None)
            return future
        self._queue.append(((statement, row), future))
        self._wake.set()
        return future

    async def _run(self) -> None:
        while not (self._is_closing and not self._queue):
            if self._queue:
                await asyncio.sleep(0)  # whoever is ready in this turn of the loop shares the commit
                await self._commit_queued()
            elif self._is_behind and self._probe is None:
                await self._catch_up()
            else:
                self._wake.clear()
                await self._wake.wait()
        self._is_closed = True
        if self._probe is not None:
            self._probe.cancel()
            await asyncio.wait([self._probe])
        if self._is_behind:
            await self._catch_up()
        if self._owed:
            logger.error("rows are lost that neither the database nor the spool takes", extra={"rows": len(self._owed)})

    @property
    def _is_behind(self) -> bool:
        return bool(self._owed) or not self._spool.is_empty

    async def _catch_up(self) -> None:
        """What is spooled, then what is owed."""
        if not await self._guarded(self._replay()):
            self._look_for_it()
            return
        owed, self._owed = self._owed, []
        if owed:
            await self._write_guarded(owed)
        if self._owed:
            self._look_for_it()  # and try again after a pause

    async def _commit_queued(self) -> None:
        batch, self._queue = self._queue, []
        batch.sort(key=_statement_rank)  # rows of one statement together: one execution for all of them
        self._is_writing = True
        faults = await self._write_guarded([operation for operation, _ in batch])
        self._is_writing = False
        for index, (_, future) in enumerate(batch):
            if not future.done():  # a cancelled request no longer waits
                fault = faults.get(index)
                if fault is None:
                    future.set_result(None)
                else:
                    future.set_exception(fault)
                    future.exception()  # it is logged here: whoever does not wait for it need not hear of it

    async def _guarded(self, work: Coroutine[Any, Any, Result]) -> Result | None:
        """None after an unforeseen error: the writer must outlive it, or every later request would wait for ever."""
        try:
            return await work
        except Exception:
            logger.exception("the ledger's writer met an unforeseen error")
            return None

    async def _write_guarded(self, operations: list[Operation]) -> Faults:
        faults = await self._guarded(self._write(operations))
        if faults is not None:
            return faults
        self._owe(operations)
        return dict.fromkeys(range(len(operations)), _unrecorded())

    def _owe(self, operations: Iterable[Operation]) -> None:
        self._owed += [operation for operation in operations if operation[0].is_owed]
        del self._owed[self._max_queued :]

    async def _write(self, operations: list[Operation]) -> Faults:
        """To the database; to the spool while the database is away, or behind what is spooled already."""
        if self._probe is None and await self._replay():
            try:
                await self._send(operations)
                self._note_back()
                return {}
            except DatabaseAway as error:
                self._note_away(error)
            except RowRefused:
                return await self._write_singly(operations)
        return self._to_spool(operations, 0)

    async def _send(self, operations: Sequence[Operation]) -> None:
        """What the machine lacks now it may have later. Any other error that nobody foresaw lies in a row: alone it is
        found out, set aside and told to whoever wrote it, and no row beside it or behind it has to wait."""
        try:
            await self._backend.write(operations)
        except (DatabaseAway, RowRefused):
            raise
        except Exception as error:
            logger.exception("the database's writer met an unforeseen error")
            name = type(error).__name__
            raise (DatabaseAway(name) if isinstance(error, MemoryError | OSError) else RowRefused(name)) from error

    async def _write_singly(self, operations: list[Operation]) -> Faults:
        """One row poisoned its batch: the others must not suffer for it."""
        faults: Faults = {}
        for index, operation in enumerate(operations):
            try:
                await self._send([operation])
            except RowRefused as error:
                self._set_aside(operation, error)
                faults[index] = _unrecorded()
            except DatabaseAway as error:
                self._note_away(error)
                return faults | self._to_spool(operations, index)
        return faults

    def _to_spool(self, operations: list[Operation], first: int) -> Faults:
        left = list(enumerate(operations))[first:]
        faults: Faults = {index: DatabaseAway(of.name) for index, (of, _) in left if not of.is_spooled}
        try:
            self._spool.append([(of.name, row) for _, (of, row) in left if of.is_spooled])
        except SpoolFull as error:
            if not self._is_refused:
                logger.error("neither the database nor the spool takes a row", extra={"why": str(error)})
            self._is_refused = True
            fault = GatewayFault("The gateway cannot record the call now; try again shortly.")
            faults |= {index: fault for index, (of, _) in left if of.is_spooled}
            self._owe(operation for _, operation in left)
        return faults

    def _set_aside(self, operation: Operation, error: RowRefused) -> None:
        statement, row = operation
        logger.error("a row was refused by the database", extra={"statement": statement.name, "why": str(error)})
        if not statement.is_set_aside:
            return
        try:
            self._spool.set_aside(statement.name, row)
        except OSError as failure:
            logger.error("a refused row could not be set aside", extra={"why": str(failure)})

    async def _replay(self) -> bool:
        """Spooled rows into the database, in order; whether nothing is spooled any more."""
        if self._spool.is_empty:
            return True
        try:
            for batch in self._spool.batches():
                try:
                    await self._send(batch)
                except RowRefused:
                    for operation in batch:
                        try:
                            await self._send([operation])
                        except RowRefused as error:
                            self._set_aside(operation, error)
        except DatabaseAway as error:
            self._note_away(error)
            return False
        self._spool.clear()
        self._note_back()
        logger.warning("the database is back, the spool is replayed")
        return True

    def _note_back(self) -> None:
        self.is_connected = True
        self._is_refused = False

    def _note_away(self, error: DatabaseAway) -> None:
        if self.is_connected:
            logger.error("the database is away, rows go to the spool", extra={"why": str(error)})
        self.is_connected = False
        self._look_for_it()

    def _look_for_it(self) -> None:
        if self._probe is None and not self._is_closed:
            self._probe = asyncio.create_task(self._guarded(self._until_it_is_back()), name="looking for the database")

    async def _until_it_is_back(self) -> None:
        """Meanwhile the backend is this task's alone."""
        try:
            while True:
                await asyncio.sleep(self._retry_s)
                with contextlib.suppress(DatabaseAway):
                    await self._backend.write(())
                    return
        finally:
            self._probe = None
            self._wake.set()


def _statement_rank(queued: tuple[Operation, asyncio.Future[None]]) -> int:
    return queued[0][0].rank


def _unrecorded() -> GatewayFault:
    return GatewayFault("The gateway could not record the call.", status=500)
