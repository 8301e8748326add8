"""Group commit: the rows of many requests go to the database in one transaction.

There is no timer: the next commit begins when the last one ends, so a lone request waits for one commit and a crowd
shares one. While the database refuses, units go to a local spool, fsynced, and are replayed in order when it is back.
A task of its own looks for the database, so that no request waits for one that does not answer.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Coroutine, Iterable, Sequence
from typing import Protocol, TypeVar

from gateway.protocol.errors import GatewayFault
from gateway.state.spool import Spool, SpoolFull
from gateway.state.statement import (
    MAX_BATCH_BYTES,
    SLOWEST_BYTES_PER_S,
    DatabaseAway,
    Operation,
    Row,
    RowRefused,
    Statement,
    size_of,
)
from gateway.state.unit_of_work import UnitOfWork

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
Unit = Sequence[Operation]  # in the order in which they are written
Faults = dict[int, Exception]  # {index of a unit: why it is not safe}


#: A write that takes longer than this and its size allow, as behind a lock, says that the database takes none.
LATE_S = 8.0


class Backend(Protocol):
    """Writes a batch in one transaction. Raises DatabaseAway or RowRefused."""

    async def write(self, operations: Unit) -> None: ...

    def write_now(self, operation: Operation) -> bool:
        """Writes one operation that needs no fsync, without waiting; False where the database is not free for it."""

    async def close(self) -> None: ...


class GroupCommit:
    """Closes: the owner, with `close()`, which writes what is queued."""

    def __init__(self, backend: Backend, spool: Spool, *, max_queued: int = 10_000, retry_s: float = 1.0) -> None:
        self._backend = backend
        self._spool = spool
        self._max_queued = max_queued
        self._retry_s = retry_s
        self._queue: list[tuple[Unit, asyncio.Future[None]]] = []
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._probe: asyncio.Task[None] | None = None  # while the database is away
        self._owed: list[Operation] = []
        self._is_writing = False
        self._late_at = 0.0  # of the present write
        self._is_closing = False
        self._is_closed = False
        self._is_refused = False  # by the spool as well
        self.is_connected = True

    @property
    def is_writable(self) -> bool:
        """The database took the last write, and the present one, if any, does not wait for long."""
        return self.is_connected and not (self._is_writing and time.monotonic() > self._late_at)

    async def open(self) -> None:
        self._task = asyncio.create_task(self._run(), name="group commit")

    async def close(self) -> None:
        self._is_closing = True
        self._wake.set()
        if self._task is not None:
            await self._task
        await self._backend.close()

    def submit(self, statement: Statement, row: Row) -> asyncio.Future[None]:
        """Queues a row. The future is done when the row is safe; it fails with a GatewayFault, or with DatabaseAway
        where the statement is not spooled. Raises GatewayFault when the queue is full, which takes durable rows
        always."""
        operation = (statement, row)
        self._check_room((operation,))
        is_busy = self._queue or self._is_writing or self._probe is not None
        if not (is_busy or statement.is_durable) and self._spool.is_empty and self._backend.write_now(operation):
            self._note_back()
            future = asyncio.get_running_loop().create_future()
            future.set_result(None)
            return future
        return self._enqueue((operation,))

    async def commit(self, unit: UnitOfWork) -> None:
        """Queues the unit at once, and returns when its rows are safe and its follow-ups have run. Raises as the
        future of `submit` does."""
        operations = unit.operations
        self._check_room(operations)
        operations.sort(key=_rank)
        unit.done = self._enqueue(operations)
        if not unit.follow_ups:
            await unit.done
            return
        await asyncio.shield(unit.done)
        for follow_up in unit.follow_ups:
            await follow_up()

    def _check_room(self, unit: Unit) -> None:
        if self._is_closed:
            raise GatewayFault("The gateway's ledger is closed.")
        if len(self._queue) >= self._max_queued and not any(statement.is_durable for statement, _ in unit):
            raise GatewayFault(
                "The gateway's ledger is overloaded; try again shortly.", headers=((b"retry-after", b"1"),)
            )

    def _enqueue(self, unit: Unit) -> asyncio.Future[None]:
        future = asyncio.get_running_loop().create_future()
        self._queue.append((unit, future))
        self._wake.set()
        return future

    async def _run(self) -> None:
        while not (self._is_closing and not self._queue):
            if self._queue:
                await asyncio.sleep(0)  # every request that is ready in this turn of the loop shares the commit
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
        """Writes the spooled rows, then the owed ones."""
        if not await self._guarded(self._replay()):
            self._start_probe()
            return
        owed, self._owed = self._owed, []
        if owed:
            await self._write_guarded([(operation,) for operation in owed])
        if self._owed:
            self._start_probe()  # and try again after a pause

    async def _commit_queued(self) -> None:
        batch = self._take_batch()
        self._is_writing = True
        size = sum(size_of(unit) for unit, _ in batch)
        self._late_at = time.monotonic() + LATE_S + size / SLOWEST_BYTES_PER_S
        faults = await self._write_guarded([unit for unit, _ in batch])
        self._is_writing = False
        for index, (_, future) in enumerate(batch):
            if not future.done():  # a cancelled request no longer waits
                fault = faults.get(index)
                if fault is None:
                    future.set_result(None)
                else:
                    future.set_exception(fault)
                    future.exception()  # it is logged here; a caller that does not wait need not read it

    def _take_batch(self) -> list[tuple[Unit, asyncio.Future[None]]]:
        """The first units of the queue, as many as fit into one batch; always one, however large."""
        size = 0
        for index, (unit, _) in enumerate(self._queue):
            size += size_of(unit)
            if size > MAX_BATCH_BYTES and index:
                batch, self._queue = self._queue[:index], self._queue[index:]
                return batch
        batch, self._queue = self._queue, []
        return batch

    async def _guarded(self, work: Coroutine[object, None, Result]) -> Result | None:
        """None after an unforeseen error: the writer must outlive it, or every later request would wait for ever."""
        try:
            return await work
        except Exception:
            logger.exception("the ledger's writer met an unforeseen error")
            return None

    async def _write_guarded(self, units: Sequence[Unit]) -> Faults:
        faults = await self._guarded(self._write(units))
        if faults is not None:
            return faults
        self._keep_owed(units)
        return dict.fromkeys(range(len(units)), _unrecorded())

    def _keep_owed(self, units: Iterable[Unit]) -> None:
        self._owed += [operation for unit in units for operation in unit if operation[0].is_owed]
        del self._owed[self._max_queued :]

    async def _write(self, units: Sequence[Unit]) -> Faults:
        """Writes to the database; to the spool while the database is away, or behind what is spooled already."""
        if self._probe is None and await self._replay():
            operations = [operation for unit in units for operation in unit]
            operations.sort(key=_rank)  # rows of one statement together: one execution for all of them
            try:
                await self._send(operations)
                self._note_back()
                return {}
            except DatabaseAway as error:
                self._note_away(error)
            except RowRefused:
                return await self._write_singly(units)
        return self._to_spool(units, 0)

    async def _send(self, operations: Unit) -> None:
        """Memory or files that are lacking now may be there later. Any other unforeseen error lies in a row: the row is
        found by writing units singly, and set aside; its writer gets the fault, and no other row waits for it."""
        try:
            await self._backend.write(operations)
        except (DatabaseAway, RowRefused):
            raise
        except Exception as error:
            logger.exception("the database's writer met an unforeseen error")
            name = type(error).__name__
            raise (DatabaseAway(name) if isinstance(error, MemoryError | OSError) else RowRefused(name)) from error

    async def _write_singly(self, units: Sequence[Unit]) -> Faults:
        """One row poisoned its batch: the other units must not suffer for it."""
        faults: Faults = {}
        for index, unit in enumerate(units):
            try:
                if not await self._is_written(unit):
                    faults[index] = _unrecorded()
            except DatabaseAway as error:
                self._note_away(error)
                return faults | self._to_spool(units, index)
        return faults

    async def _is_written(self, unit: Unit) -> bool:
        """Writes one unit in a transaction of its own. Where the database refuses it, writes the rows that are owed
        one by one, refuses the others, and returns False. Raises DatabaseAway."""
        try:
            await self._send(unit)
            return True
        except RowRefused as error:
            refusal = error
        refused: list[tuple[Operation, RowRefused]] = []
        for operation in unit:
            if operation[0].is_owed and len(unit) > 1:
                try:
                    await self._send((operation,))
                except RowRefused as error:
                    refused.append((operation, error))
            else:
                refused.append((operation, refusal))
        for operation, reason in refused:
            self._set_aside(operation, reason)
        return False

    def _to_spool(self, units: Sequence[Unit], first: int) -> Faults:
        faults: Faults = {}
        spooled: dict[int, Unit] = {}
        for index in range(first, len(units)):
            unit = units[index]
            unspooled = next((statement.name for statement, _ in unit if not statement.is_spooled), None)
            if unspooled is None:
                spooled[index] = unit
            else:
                faults[index] = DatabaseAway(unspooled)
        try:
            self._spool.append(*[[(statement.name, row) for statement, row in unit] for unit in spooled.values()])
        except SpoolFull as error:
            if not self._is_refused:
                logger.error("neither the database nor the spool takes a row", extra={"why": str(error)})
            self._is_refused = True
            fault = GatewayFault("The gateway cannot record the call now; try again shortly.")
            faults |= dict.fromkeys(spooled, fault)
            self._keep_owed(units[first:])
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
        """Writes the spooled units to the database, in order; True when the spool is empty."""
        if self._spool.is_empty:
            return True
        try:
            for units in self._spool.batches():
                try:
                    await self._send([operation for unit in units for operation in unit])
                except RowRefused:
                    for unit in units:
                        await self._is_written(unit)
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
        self._start_probe()

    def _start_probe(self) -> None:
        if self._probe is None and not self._is_closed:
            self._probe = asyncio.create_task(self._guarded(self._wait_for_database()), name="looking for the database")

    async def _wait_for_database(self) -> None:
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


def _rank(operation: Operation) -> int:
    return operation[0].rank


def _unrecorded() -> GatewayFault:
    return GatewayFault("The gateway could not record the call.", status=500)
