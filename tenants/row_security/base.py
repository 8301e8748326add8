"""Django's PostgreSQL backend with connections that follow the active scope. ENGINE is `tenants.row_security`.

Before each statement the connection compares the active scope with the one that it has told the server last, and tells
the server where they differ. So a connection that stays open, or comes out of a pool, cannot keep the scope of its
last user.
"""

from collections.abc import Callable, Mapping
from typing import Any

from django.db.backends.postgresql import base
from psycopg.pq import TransactionStatus

from tenants.row_security.settings import SET, Wall, active_wall

#: Statements that read no row. They also run in a failed transaction, where the server accepts nothing else.
TRANSACTION_CONTROL = ("SAVEPOINT ", "RELEASE SAVEPOINT ", "ROLLBACK TO SAVEPOINT ")


class DatabaseWrapper(base.DatabaseWrapper):
    """`_wall`: what the server knows; None where that is uncertain."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._wall: Wall | None = None
        self.execute_wrappers.append(self._follow_scope)

    def connect(self) -> None:
        self._wall = None
        super().connect()
        self._wall = None  # a pool gives connections that others have used

    def commit(self) -> None:
        if self.connection is not None and self.connection.info.transaction_status is TransactionStatus.INERROR:
            self._wall = None  # the server rolls back instead
        super().commit()

    def rollback(self) -> None:
        self._wall = None  # the server takes back what the transaction has set
        super().rollback()

    def savepoint_rollback(self, sid: str) -> None:
        self._wall = None
        super().savepoint_rollback(sid)

    def _follow_scope(
        self, execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Mapping[str, Any]
    ) -> Any:
        if not (isinstance(sql, str) and sql.startswith(TRANSACTION_CONTROL)):
            wall = active_wall()
            if wall != self._wall:
                self._wall = None
                with self.wrap_database_errors:
                    self.connection.execute(SET, wall)
                self._wall = wall
        return execute(sql, params, many, context)
