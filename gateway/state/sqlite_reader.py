"""Reads of the data path on SQLite."""

import asyncio
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from gateway.state.group_commit import DatabaseAway
from gateway.state.reader import Found, Query

YIELD_BYTES = 256 * 1024  # read in one step of the event loop


class SQLiteReader:
    """In the event loop itself: a look-up of microseconds is not worth two thread switches, and in WAL mode nobody
    who writes makes a reader wait. A long result is read in steps."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None

    async def open(self) -> None:
        return

    async def fetch(self, query: Query, parameters: Sequence[object]) -> list[Found]:
        try:
            if self._connection is None:
                self._connection = sqlite3.connect(f"file:{self._path}?mode=ro", uri=True, isolation_level=None)
            rows: list[Found] = []
            size = 0
            for row in self._connection.execute(query.sqlite, tuple(parameters)):
                rows.append(row)
                size += sum(len(value) for value in row if type(value) is bytes)
                if size > YIELD_BYTES:
                    size = 0
                    await asyncio.sleep(0)
        except sqlite3.Error as error:
            await self.close()
            raise DatabaseAway(str(error)) from error
        return rows

    async def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
