"""SQLiteDatabase: the table of stored responses in one file."""

import asyncio
import contextlib
import sqlite3
from contextlib import closing
from pathlib import Path

from gateway.sdk.database_store import PURGE, columns_of
from gateway.state import sql
from gateway.state.sqlite import SQLiteBackend
from gateway.state.sqlite_reader import SQLiteReader

#: {PostgreSQL's type: SQLite's}, as Django makes them.
TYPES = {"bytea": "BLOB", "bigint": "INTEGER", "integer": "INTEGER", "boolean": "INTEGER"}
SCHEMA = (
    sql.fill("CREATE TABLE IF NOT EXISTS gateway_storedresponse ({columns})", columns=columns_of(TYPES, "TEXT")),
    "CREATE INDEX IF NOT EXISTS sdk_stored_response_expiry ON gateway_storedresponse (expires_at)",
    "CREATE INDEX IF NOT EXISTS sdk_stored_response_parent ON gateway_storedresponse (parent_id)",
)


class _Writer(SQLiteBackend):
    async def close(self) -> None:
        with contextlib.suppress(RuntimeError):  # at the exit of Python nothing can wait for its thread any more
            await super().close()


class SQLiteDatabase:
    """See gateway.sdk.database_store.Database."""

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()

    async def prepare(self) -> None:
        await asyncio.to_thread(self._prepare)

    def open_writer(self) -> SQLiteBackend:
        return _Writer(self._path)

    def open_reader(self) -> SQLiteReader:
        return SQLiteReader(self._path)

    def _prepare(self) -> None:
        try:
            self._path.touch(mode=0o600)  # what was said is for its owner alone
            with closing(sqlite3.connect(self._path, timeout=20)) as connection, connection:
                connection.execute("PRAGMA journal_mode=WAL")
                for statement in (*SCHEMA, PURGE.sqlite):
                    connection.execute(statement)
        except (sqlite3.Error, OSError) as error:
            raise OSError(f"{self._path} cannot be opened as a database: {error}") from None
