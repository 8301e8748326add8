"""Reads of the data path on PostgreSQL: a few connections of its own, in the event loop."""

from collections.abc import Sequence

import psycopg
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from gateway.state.group_commit import DatabaseAway
from gateway.state.reader import Found, Query

CONNECTIONS = 4
TIMEOUT_S = 5.0


class PostgresReader:
    def __init__(self, conninfo: str) -> None:
        self._pool = AsyncConnectionPool(
            conninfo,
            min_size=1,
            max_size=CONNECTIONS,
            open=False,
            timeout=TIMEOUT_S,
            kwargs={
                "autocommit": True,
                "prepare_threshold": 1,
                "options": f"-c timezone=UTC -c statement_timeout={int(TIMEOUT_S * 1000)}",
            },
        )

    async def open(self) -> None:
        await self._pool.open(wait=False)

    async def fetch(self, query: Query, parameters: Sequence[object]) -> list[Found]:
        try:
            async with self._pool.connection() as connection:
                cursor = await connection.execute(query.postgres, parameters)
                return await cursor.fetchall()
        except (psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout, OSError) as error:
            raise DatabaseAway(type(error).__name__) from error

    async def close(self) -> None:
        await self._pool.close()
