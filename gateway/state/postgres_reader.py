"""Reads of the data path on PostgreSQL: a few connections in the event loop."""

import asyncio
from collections.abc import Sequence

import psycopg
from psycopg.pq import TransactionStatus

from gateway.state.postgres import AWAY, LIMIT_S, Connection, connect, limited
from gateway.state.reader import Found, Query
from gateway.state.statement import DatabaseAway

CONNECTIONS = 4
TIMEOUT_S = 5.0  # to get one of them


class PostgresReader:
    """Connections are opened when a read needs them, so that the first read after an outage notices its end, and stay
    open. If one was cut since its last read, as by a restart of the database, the others were too: the reader closes
    all idle connections and repeats the read over a new one."""

    def __init__(self, conninfo: str, *, limit_s: float = LIMIT_S) -> None:
        self._conninfo = conninfo
        self._limit_s = limit_s
        self._places = asyncio.Semaphore(CONNECTIONS)
        self._idle: list[Connection] = []
        self._is_closed = False

    async def open(self) -> None:
        return

    async def fetch(self, query: Query, parameters: Sequence[object]) -> list[Found]:
        if self._places.locked():
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    await self._places.acquire()
            except TimeoutError as error:
                raise DatabaseAway("every connection is busy") from error
        else:  # without the cost of a timer
            await self._places.acquire()
        try:
            if self._idle:
                connection = self._idle.pop()
                try:
                    return await self._read(connection, query, parameters)
                except (psycopg.OperationalError, psycopg.InterfaceError):
                    if not connection.closed:
                        raise
                    await self._close_idle()
            return await self._read(await connect(self._conninfo), query, parameters)
        except AWAY as error:
            if isinstance(error, TimeoutError):
                await self._close_idle()  # they lead to the same server
            raise DatabaseAway(type(error).__name__) from error
        finally:
            self._places.release()

    async def close(self) -> None:
        self._is_closed = True
        await self._close_idle()

    async def _read(self, connection: Connection, query: Query, parameters: Sequence[object]) -> list[Found]:
        try:
            with limited(connection, self._limit_s):
                cursor = await connection.execute(
                    query.postgres, parameters, binary=True
                )  # as text a byte takes two digits
                return await cursor.fetchall()
        finally:
            if self._is_closed or connection.info.transaction_status is not TransactionStatus.IDLE:
                await connection.close()
            else:
                self._idle.append(connection)

    async def _close_idle(self) -> None:
        idle, self._idle = self._idle, []
        for connection in idle:
            await connection.close()
