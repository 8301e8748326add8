"""Reads of the data path on SQLite."""

import asyncio
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from gateway.state.reader import Found, Query
from gateway.state.statement import DatabaseAway

YIELD_BYTES = 256 * 1024  # read in one step of the event loop
IDLE = 2  # connections that stay open for the next reads


class SQLiteReader:
    """Reads in the event loop itself: a look-up takes microseconds, less than two thread switches, and in WAL mode a
    reader never waits for a writer. A long result is read in steps.

    Every running fetch has its own connection, because all cursors of one connection see the database as its oldest
    open cursor does: a read beside a long one would miss later commits. A short result is read in one step, so mostly
    there is one connection.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._idle: list[sqlite3.Connection] = []
        self._is_closed = False

    async def open(self) -> None:
        return

    async def fetch(self, query: Query, parameters: Sequence[object]) -> list[Found]:
        connection: sqlite3.Connection | None = None
        try:
            connection = self._idle.pop() if self._idle else self._connect()
            rows = await _read(connection, query.sqlite, parameters)
        except sqlite3.Error as error:
            if connection is not None:
                connection.close()
                connection = None
            self._close_idle()  # they may be broken too
            raise DatabaseAway(str(error)) from error
        finally:
            if connection is not None:
                self._put_back(connection)
        return rows

    async def close(self) -> None:
        self._is_closed = True
        self._close_idle()

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(f"file:{self._path}?mode=ro", uri=True, isolation_level=None)

    def _put_back(self, connection: sqlite3.Connection) -> None:
        if self._is_closed or len(self._idle) >= IDLE:
            connection.close()
        else:
            self._idle.append(connection)

    def _close_idle(self) -> None:
        while self._idle:
            self._idle.pop().close()


async def _read(connection: sqlite3.Connection, text: str, parameters: Sequence[object]) -> list[Found]:
    rows: list[Found] = []
    size = 0
    with closing(connection.execute(text, tuple(parameters))) as cursor:  # also where the fetch is cancelled
        for row in cursor:
            rows.append(row)
            size += sum(len(value) for value in row if type(value) is bytes)
            if size > YIELD_BYTES:
                size = 0
                await asyncio.sleep(0)
    return rows
