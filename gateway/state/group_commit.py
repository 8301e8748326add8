"""Group commit: the rows of many requests go to the database in one transaction.

There is no timer: the next commit begins when the last one ends, so a lone request waits for one commit and a crowd
shares one. While the database refuses, units go to a local spool, fsynced, and are replayed in order when it is back.
A task of its own looks for the database, so that no request waits for one that does not answer.

A batch that the database takes too long for is halved. Large units, and a single one that is late, go to a patient
group commit with a connection and a spool of its own, so that no other request waits for them.
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
    BYTES_PER_S,
    MAX_BATCH_BYTES,
    MAX_BATCH_ROWS,
    SMALL_BYTES,
    DatabaseAway,
    DatabaseLate,
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
Queued = tuple[Unit, int, asyncio.Future[None]]  # (rows, bytes, done when the rows are safe)
Faults = dict[int, Exception]  # {index of a unit: why it is not safe}


#: A write that takes longer than this and its size allow, as behind a lock, says that the database takes none.
LATE_S = 8.0
GROWTH = 1.05  # of the next batch, with each that was in time
CLOSE_LIMIT_S = 60.0  # for the patient one to write what it has; then it goes to the spool


class Backend(Protocol):
    """Writes a batch in one transaction. Raises DatabaseAway or RowRefused."""

    async def write(self, operations: Unit) -> None: ...

    def write_now(self, operation: Operation) -> bool:
        """Writes one operation that needs no fsync, without waiting; False where the database is not free for it."""

    async def close(self) -> None: ...


class GroupCommit:
    """Closes: the owner, with `close()`, which writes what is queued."""

    def __init__(
        self,
        backend: Backend,
        spool: Spool,
        *,
        max_queued: int = 10_000,
        retry_s: float = 1.0,
        patient: "GroupCommit | None" = None,
    ) -> None:
        self._backend = backend
        self._spool = spool
        self._max_queued = max_queued
        self._retry_s = retry_s
        self._queue: list[Queued] = []
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._probe: asyncio.Task[None] | None = None  # while the database is away
        self._owed: list[Operation] = []
        self._is_writing = False
        self._has_written_now = False  # in this turn of the event loop: further rows share a commit
        self._late_at = 0.0  # of the present write
        self._is_closing = False
        self._is_closed = False
        self._is_refused = False  # by the spool as well
        self._batch_share = 1.0  # of the usual size of a batch: less while the database takes long
        self._patient = patient
        self._ahead: GroupCommit | None = None  # what the patient one has to let go first
        if patient is not None:
            patient._ahead = self
        self.is_connected = True

    @property
    def is_writable(self) -> bool:
        """The database took the last write, and the present one, if any, does not wait for long."""
        return self.is_connected and not (self._is_writing and time.monotonic() > self._late_at)

    @property
    def queue_length(self) -> int:
        """The units that wait for the database."""
        return len(self._queue) + (self._patient.queue_length if self._patient is not None else 0)

    @property
    def spool_bytes(self) -> int:
        """The bytes of rows that wait in the spools of this process."""
        return self._spool.size_bytes + (self._patient.spool_bytes if self._patient is not None else 0)

    async def open(self) -> None:
        self._task = asyncio.create_task(self._run(), name="group commit")
        if self._patient is not None:
            await self._patient.open()

    async def close(self) -> None:
        self._is_closing = True
        self._wake.set()
        if self._task is not None:
            try:
                async with asyncio.timeout(CLOSE_LIMIT_S if self._ahead is not None else None):
                    await self._task
            except TimeoutError:
                self._to_spool([unit for unit, _, _ in self._queue], 0)
                await self._stop_probe()
        await self._backend.close()
        if self._patient is not None:
            await self._patient.close()

    def submit(self, statement: Statement, row: Row) -> asyncio.Future[None]:
        """Queues a row. The future is done when the row is safe; it fails with a GatewayFault, or with DatabaseAway
        where the statement is not spooled. Raises GatewayFault when the queue is full, which takes durable rows
        always."""
        operation = (statement, row)
        self._check_room((operation,))
        is_busy = self._queue or self._is_writing or self._has_written_now or self._probe is not None
        if not (is_busy or statement.is_durable) and self._spool.is_empty:
            loop = asyncio.get_running_loop()
            self._has_written_now = True
            loop.call_soon(self._end_turn)
            if self._backend.write_now(operation):
                self._note_back()
                future = loop.create_future()
                future.set_result(None)
                return future
        return self._enqueue((operation,))

    def _end_turn(self) -> None:
        self._has_written_now = False

    def submit_rows(self, statement: Statement, rows: Iterable[Row]) -> asyncio.Future[None]:
        """Queues rows that are written together. The future and the faults are those of `submit`."""
        unit = [(statement, row) for row in rows]
        self._check_room(unit)
        return self._enqueue(unit)

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
        queued = (unit, size_of(unit), future)
        if self._patient is not None and queued[1] > MAX_BATCH_BYTES:
            self._patient._append(queued)
        else:
            self._append(queued)
        return future

    def _append(self, queued: Queued) -> None:
        self._queue.append(queued)
        self._wake.set()

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
        await self._stop_probe()
        if self._is_behind and (self._ahead is None or self._owed):
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
        batch, size = self._take_batch()
        units = [unit for unit, _, _ in batch]
        self._is_writing = True
        self._late_at = time.monotonic() + LATE_S + size / BYTES_PER_S
        try:
            faults = await self._write_guarded(units)
        except asyncio.CancelledError:
            self._queue[:0] = batch
            raise
        self._is_writing = False
        for index, queued in enumerate(batch):
            future = queued[2]
            fault = faults.get(index)
            if isinstance(fault, DatabaseLate) and self._patient is not None:
                self._patient._append(queued)
            elif not future.done():  # a cancelled request no longer waits
                if fault is None:
                    future.set_result(None)
                else:
                    future.set_exception(fault)
                    future.exception()  # it is logged here; a caller that does not wait need not read it

    def _take_batch(self) -> tuple[list[Queued], int]:
        """The first units of the queue, as many as fit into one batch, and their bytes; always one, however large."""
        total = rows = 0
        max_bytes, max_rows = MAX_BATCH_BYTES * self._batch_share, MAX_BATCH_ROWS * self._batch_share
        for index, (unit, size, _) in enumerate(self._queue):
            rows += len(unit)
            if (total + size > max_bytes or rows > max_rows) and index:
                batch, self._queue = self._queue[:index], self._queue[index:]
                return batch, total
            total += size
        batch, self._queue = self._queue, []
        return batch, total

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
        faults: Faults = {}
        count = 0
        if self._probe is None and await self._replay():
            faults, count = await self._write_units(units)
            if count == len(units):
                self._note_back()
                return faults
        return faults | self._to_spool(units, count)

    async def _write_units(self, units: Sequence[Unit]) -> tuple[Faults, int]:
        """(the faults of single units, how many of the units are done with): fewer than all while the database is away.
        Halves of a late batch are written in order. One row that poisons its batch does not harm the other units."""
        faults: Faults = {}
        pieces = [range(len(units))]
        while pieces:
            piece = pieces.pop()
            operations = [operation for index in piece for operation in units[index]]
            operations.sort(key=_rank)  # rows of one statement together: one execution for all of them
            try:
                await self._send(operations)
                self._batch_share = min(self._batch_share * GROWTH, 1.0)
            except DatabaseLate as error:
                if len(piece) > 1:
                    self._late_at = time.monotonic() + LATE_S + MAX_BATCH_BYTES / BYTES_PER_S
                    self._batch_share = max(self._batch_share / 2, SMALL_BYTES / MAX_BATCH_BYTES)
                    pieces += [piece[len(piece) // 2 :], piece[: len(piece) // 2]]
                elif self._patient is not None:
                    faults[piece.start] = error
                else:
                    self._note_away(error)
                    return faults, piece.start
            except DatabaseAway as error:
                self._note_away(error)
                return faults, piece.start
            except RowRefused as error:
                if len(piece) > 1:
                    pieces += [piece[place : place + 1] for place in reversed(range(len(piece)))]
                    continue
                try:
                    await self._write_owed(units[piece.start], error)
                except DatabaseAway as outage:
                    self._note_away(outage)
                    return faults, piece.start
                faults[piece.start] = _unrecorded()
        return faults, len(units)

    async def _send(self, operations: Unit) -> None:
        """Memory or files that are lacking now may be there later. Any other unforeseen error lies in a row: the row is
        found by writing units singly, and set aside; its writer gets the fault, and no other row waits for it."""
        if self._ahead is not None and (self._ahead._is_behind or not self._ahead.is_connected):
            raise DatabaseAway("earlier rows are in the spool")
        try:
            await self._backend.write(operations)
        except (DatabaseAway, RowRefused):
            raise
        except Exception as error:
            logger.exception("the database's writer met an unforeseen error")
            name = type(error).__name__
            raise (DatabaseAway(name) if isinstance(error, MemoryError | OSError) else RowRefused(name)) from error

    async def _write_owed(self, unit: Unit, refusal: RowRefused) -> None:
        """Writes the rows of a refused unit that are owed, one by one, and sets the others aside. Raises
        DatabaseAway."""
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
        for units in self._spool.batches():
            faults, count = await self._write_units(units)
            late = next((fault for fault in faults.values() if isinstance(fault, DatabaseLate)), None)
            if late is not None:
                self._note_away(late)  # the next try gives it more time
            if late is not None or count < len(units):
                return False
        self._spool.clear()
        self._note_back()
        logger.warning("the database is back, the spool is replayed")
        return True

    def _note_back(self) -> None:
        self.is_connected = True
        self._is_refused = False

    def _note_away(self, error: DatabaseAway) -> None:
        if self.is_connected and isinstance(error, DatabaseLate):
            logger.error("the database is slow, a large row goes to the spool", extra={"why": str(error)})
        elif self.is_connected and self._ahead is None:
            logger.error("the database is away, rows go to the spool", extra={"why": str(error)})
        self.is_connected = False
        self._start_probe()

    def _start_probe(self) -> None:
        if self._probe is None and not self._is_closed:
            self._probe = asyncio.create_task(self._guarded(self._wait_for_database()), name="looking for the database")

    async def _stop_probe(self) -> None:
        if self._probe is not None:
            self._probe.cancel()
            await asyncio.wait([self._probe])

    async def _wait_for_database(self) -> None:
        """Meanwhile the backend is this task's alone."""
        try:
            while True:
                await asyncio.sleep(self._retry_s)
                with contextlib.suppress(DatabaseAway):
                    await self._send(())
                    return
        finally:
            self._probe = None
            self._wake.set()


def _rank(operation: Operation) -> int:
    return operation[0].rank


def _unrecorded() -> GatewayFault:
    return GatewayFault("The gateway could not record the call.", status=500)
