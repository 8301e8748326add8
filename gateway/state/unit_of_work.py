"""UnitOfWork: what one request writes together."""

import asyncio
from collections.abc import Awaitable, Callable

from gateway.state.statement import Operation, Row, Statement

FollowUp = Callable[[], Awaitable[None]]


class UnitOfWork:
    """Rows that the database, or the spool, takes together or not at all. Group commit writes a unit once.

    Where the database refuses a row of a unit, only the rows that are owed (a spend row, the release of a
    conversation) are written; the others are refused together, and the caller gets the fault.
    """

    __slots__ = ("done", "follow_ups", "operations")

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.follow_ups: list[FollowUp] = []
        self.done: asyncio.Future[None] | None = None  # set once the unit is queued

    def add(self, statement: Statement, row: Row) -> None:
        self.operations.append((statement, row))

    def follow_up(self, action: FollowUp) -> None:
        """`action` runs when the rows are safe, before the writer of the unit goes on. The rows are then written to
        the end even if the writer is cancelled."""
        self.follow_ups.append(action)
