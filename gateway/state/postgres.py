"""Group commit's PostgreSQL backend: psycopg in the event loop, one round trip a batch."""

import asyncio
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from gateway.state.statement import (
    BYTES_PER_S,
    MAX_BATCH_BYTES,
    DatabaseAway,
    DatabaseLate,
    Operation,
    RowRefused,
    is_small,
    size_of,
)

Connection = psycopg.AsyncConnection[tuple[Any, ...]]

CONNECT_TIMEOUT_S = 3  # of each address
CONNECT_LIMIT_S = 10.0  # of all of them, and of their names
STATEMENT_TIMEOUT_S = 5.0  # of the server; a server that is frozen or cut off does not report it
LIMIT_S = STATEMENT_TIMEOUT_S + 1
ANSWER_LIMIT_S = 2.0  # of a database that answers, to take a new connection
MAX_PATIENCE = 64
#: A slow proxy lets a large write stand still for longer than the settings' limit.
LARGE_USER_TIMEOUT_MS = 60_000
#: Errors that mean that the database is away. A TimeoutError is an OSError.
AWAY = (psycopg.OperationalError, psycopg.InterfaceError, psycopg.errors.ReadOnlySqlTransaction, OSError)
#: Errors of a batch that took too long, by our clock or by the server's.
LATE = (TimeoutError, psycopg.errors.QueryCanceled)


class PostgresBackend:
    """Two connections: one commits durably, the other with synchronous_commit off, whose commits outlive this
    process and lose at most the last moments when the database server loses power. A large batch has a connection of
    its own and time by its size; after a batch that was late the next one gets twice the time, up to MAX_PATIENCE
    times as much."""

    def __init__(self, conninfo: str, *, limit_s: float = LIMIT_S, bytes_per_s: int = BYTES_PER_S) -> None:
        self._conninfo = conninfo
        self._limit_s = limit_s
        self._bytes_per_s = bytes_per_s
        self._patience = 1  # with batches that are not small, until they are in time again
        self._connections: dict[bool, Connection] = {}

    async def write(self, operations: Sequence[Operation]) -> None:
        is_durable = any(statement.is_durable for statement, _ in operations)
        try:
            size = size_of(operations)
            if size > MAX_BATCH_BYTES or (self._patience > 1 and not is_small(operations)):
                await self._send_large(is_durable, operations, size)
            elif not await self._is_sent_over_last(is_durable, operations, size):
                await self._send(await self._connect(is_durable), operations, size)
        except AWAY as error:
            await self.close()
            if isinstance(error, LATE) and not is_small(operations) and await self._answers():
                self._patience = min(self._patience * 2, MAX_PATIENCE)
                raise DatabaseLate(type(error).__name__) from error
            raise DatabaseAway(type(error).__name__) from error
        except psycopg.Error as error:  # its whole text may quote the row
            raise RowRefused(error.diag.message_primary or type(error).__name__) from error
        except UnicodeError as error:
            raise RowRefused(type(error).__name__) from error

    def write_now(self, operation: Operation) -> bool:
        return False  # every write is a round trip

    async def close(self) -> None:
        for connection in self._connections.values():
            await connection.close()
        self._connections.clear()

    async def _is_sent_over_last(self, is_durable: bool, operations: Sequence[Operation], size: int) -> bool:
        """Sends over the connection of the last write; returns False if there is none or it was cut. The database may
        have committed a batch that was cut, so every statement must be harmless when it runs twice."""
        connection = self._connections.get(is_durable)
        if connection is None:
            return False
        try:
            await self._send(connection, operations, size)
        except (psycopg.OperationalError, psycopg.InterfaceError):
            if not connection.closed:
                raise
            await self.close()
            return False
        return True

    async def _send_large(self, is_durable: bool, operations: Sequence[Operation], size: int) -> None:
        """Sends over a connection of its own: the server counts the reading of the rows as time of the statement."""
        limit_s = (self._limit_s + size / self._bytes_per_s) * self._patience
        options = f"{_synchronous_commit(is_durable)} -c statement_timeout={int(limit_s * 1000)}"
        conninfo = make_conninfo(self._conninfo, tcp_user_timeout=LARGE_USER_TIMEOUT_MS)
        connection = await connect(conninfo, options)
        try:
            with limited(connection, limit_s):
                await self._execute(connection, operations)
        finally:
            await connection.close()
        self._patience = max(self._patience // 2, 1)

    async def _answers(self) -> bool:
        try:
            async with asyncio.timeout(ANSWER_LIMIT_S):
                connection = await connect(self._conninfo)
        except AWAY:
            return False
        await connection.close()
        return True

    async def _send(self, connection: Connection, operations: Sequence[Operation], size: int) -> None:
        with limited(connection, self._limit_s + size / self._bytes_per_s):
            await self._execute(connection, operations)

    async def _execute(self, connection: Connection, operations: Sequence[Operation]) -> None:
        # The statements of one pipeline are one implicit transaction.
        async with connection.pipeline():
            for statement, run in groupby(operations, key=lambda operation: operation[0]):
                columns = [list(column) for column in zip(*(row for _, row in run), strict=True)]
                await connection.execute(statement.postgres, columns)

    async def _connect(self, is_durable: bool) -> Connection:
        connection = await connect(self._conninfo, _synchronous_commit(is_durable))
        self._connections[is_durable] = connection
        return connection


def _synchronous_commit(is_durable: bool) -> str:
    return f"-c synchronous_commit={'on' if is_durable else 'off'}"


async def connect(conninfo: str, options: str = "") -> Connection:
    """`options` are added to those of the address."""
    given = conninfo_to_dict(conninfo).get("options") or ""
    async with asyncio.timeout(CONNECT_LIMIT_S):
        return await psycopg.AsyncConnection.connect(
            conninfo,
            autocommit=True,
            connect_timeout=CONNECT_TIMEOUT_S,
            prepare_threshold=1,
            options=f"{given} -c timezone=UTC -c statement_timeout={int(STATEMENT_TIMEOUT_S * 1000)} {options}",
        )


@contextmanager
def limited(connection: Connection, limit_s: float) -> Iterator[None]:
    """Cuts the connection and raises TimeoutError if the block takes longer. Cancelling a wait would make psycopg ask
    the server to stop and wait for its answer; shutting the socket down ends the wait at once."""
    is_late = False

    def cut() -> None:
        nonlocal is_late
        is_late = True
        if not connection.closed:
            # a copy of the descriptor: libpq closes its own
            with socket.socket(fileno=os.dup(connection.fileno())) as end:
                end.shutdown(socket.SHUT_RDWR)

    timer = asyncio.get_running_loop().call_later(limit_s, cut)
    try:
        yield
    except psycopg.Error as error:
        if is_late:
            raise TimeoutError("the database does not answer") from error
        raise
    finally:
        timer.cancel()
