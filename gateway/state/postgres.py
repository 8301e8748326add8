"""Group commit's PostgreSQL backend: psycopg in the event loop, one round trip a batch."""

from collections.abc import Sequence
from itertools import groupby

import psycopg

from gateway.state.group_commit import DatabaseAway, Operation, RowRefused

CONNECT_TIMEOUT_S = 3
STATEMENT_TIMEOUT_MS = 5000


class PostgresBackend:
    """Two connections: one commits durably, the other with synchronous_commit off, whose commits outlive this
    process and lose at most the last moments when the database server loses power."""

    def __init__(self, conninfo: str) -> None:
        self._conninfo = conninfo
        self._connections: dict[bool, psycopg.AsyncConnection[tuple[object, ...]]] = {}

    async def write(self, operations: Sequence[Operation]) -> None:
        is_durable = any(statement.is_durable for statement, _ in operations)
        try:
            connection = self._connections.get(is_durable) or await self._connect(is_durable)
            # The statements of one pipeline are one implicit transaction.
            async with connection.pipeline():
                for statement, run in groupby(operations, key=lambda operation: operation[0]):
                    columns = [list(column) for column in zip(*(row for _, row in run), strict=True)]
                    await connection.execute(statement.postgres, columns)
        except (
            psycopg.OperationalError,
            psycopg.InterfaceError,
            psycopg.errors.ReadOnlySqlTransaction,
            OSError,
        ) as error:
            await self.close()
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

    async def _connect(self, is_durable: bool) -> psycopg.AsyncConnection[tuple[object, ...]]:
        connection = await psycopg.AsyncConnection.connect(
            self._conninfo,
            autocommit=True,
            connect_timeout=CONNECT_TIMEOUT_S,
            prepare_threshold=1,
            options=f"-c timezone=UTC -c statement_timeout={STATEMENT_TIMEOUT_MS} "
            f"-c synchronous_commit={'on' if is_durable else 'off'}",
        )
        self._connections[is_durable] = connection
        return connection
