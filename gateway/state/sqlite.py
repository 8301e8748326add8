"""Group commit's SQLite backend: one connection in one thread, BEGIN IMMEDIATE, fsync only for durable statements."""

import asyncio
import contextlib
import sqlite3
import threading
import time
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from queue import SimpleQueue

from gateway.state.statement import DatabaseAway, Operation, RowRefused, Statement

BUSY_TIMEOUT_S = 20
RETRY_S = 0.0003


class SQLiteBackend:
    """WAL with synchronous=NORMAL writes a commit into the page cache, which outlives the process; FULL adds the
    fsync that outlives a power cut."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._queue: SimpleQueue[tuple[Sequence[Operation], asyncio.Future[None]] | None] = SimpleQueue()
        self._connection: sqlite3.Connection | None = None  # of the thread
        self._quick: sqlite3.Connection | None = None  # of the event loop
        self._is_full = True
        self._thread = threading.Thread(target=self._run, name="sqlite writer", daemon=True)
        self._thread.start()

    async def write(self, operations: Sequence[Operation]) -> None:
        future = asyncio.get_running_loop().create_future()
        self._queue.put((operations, future))
        await future

    def write_now(self, operation: Operation) -> bool:
        """Writes in the event loop itself: without fsync a lone row takes less time than two thread switches."""
        statement, row = operation
        try:
            if self._quick is None:
                self._quick = self._open(timeout_s=0)
                self._quick.execute("PRAGMA synchronous=NORMAL")
                self._quick.execute("PRAGMA wal_autocheckpoint=0")  # checkpoints are left to the writer's thread
            self._quick.execute(statement.sqlite, row)
        except (sqlite3.Error, OverflowError, UnicodeError):  # mostly because another connection writes
            return False
        return True

    async def close(self) -> None:
        if self._quick is not None:
            self._quick.close()
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            operations, future = item
            error: Exception | None = None
            try:
                self._write(operations)
            except Exception as caught:  # noqa: BLE001 - reported to the waiting task; the thread must outlive it
                error = caught
                if not isinstance(caught, DatabaseAway | RowRefused):
                    self._disconnect()
            with contextlib.suppress(RuntimeError):  # the event loop of the waiting task is closed
                future.get_loop().call_soon_threadsafe(_resolve, future, error)
        self._disconnect()

    def _write(self, operations: Sequence[Operation]) -> None:
        try:
            connection = self._connection or self._connect()
            is_full = any(statement.is_durable for statement, _ in operations)
            if is_full is not self._is_full:
                connection.execute(f"PRAGMA synchronous={'FULL' if is_full else 'NORMAL'}")
                self._is_full = is_full
            _begin(connection)
            try:
                for statement, run in groupby(operations, key=_statement):
                    connection.executemany(statement.sqlite, [row for _, row in run])
                connection.execute("COMMIT")
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
        except (
            sqlite3.IntegrityError,
            sqlite3.DataError,
            sqlite3.InterfaceError,
            sqlite3.ProgrammingError,  # a value of a type, or a number of values, that cannot be bound
            OverflowError,
            UnicodeError,
        ) as error:
            raise RowRefused(str(error)) from error
        except sqlite3.Error as error:
            self._disconnect()
            raise DatabaseAway(str(error)) from error

    def _connect(self) -> sqlite3.Connection:
        connection = self._open(timeout_s=BUSY_TIMEOUT_S)
        connection.execute("PRAGMA synchronous=FULL")
        self._is_full = True
        self._connection = connection
        return connection

    def _open(self, *, timeout_s: float) -> sqlite3.Connection:
        """Opens a connection. While it opens, it waits so long for a locked database; its statements never wait."""
        # mode=rw: a missing database is an outage, not a reason to create an empty one
        connection = sqlite3.connect(f"file:{self._path}?mode=rw", uri=True, timeout=timeout_s, isolation_level=None)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA secure_delete=ON")  # erased rows do not remain in free pages
        connection.execute("PRAGMA busy_timeout=0")
        return connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()


def _begin(connection: sqlite3.Connection) -> None:
    """Waits for the write lock in short steps: SQLite's own steps grow to a tenth of a second, and the last byte of
    every answer would wait as long behind a pricing batch of a few milliseconds."""
    end = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("BEGIN IMMEDIATE")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                raise
        time.sleep(RETRY_S)


def _statement(operation: Operation) -> Statement:
    return operation[0]


def _resolve(future: asyncio.Future[None], error: Exception | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
