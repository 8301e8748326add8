"""The clock of the database, its row locks, and the error of an outage."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Protocol, TypeVar, TypeVarTuple

from django.db import InterfaceError, OperationalError, connection
from django.db.models import Model, QuerySet
from django.utils import timezone

from gateway.protocol.errors import GatewayFault

logger = logging.getLogger(__name__)

Row = TypeVar("Row", bound=Model)
Result = TypeVar("Result")
Arguments = TypeVarTuple("Arguments")


class InThread(Protocol):
    """Runs a function that uses the ORM beside the event loop. Raises a DatabaseError while the database is away."""

    async def __call__(self, function: Callable[[*Arguments], Result], *arguments: *Arguments) -> Result: ...


class OutageLog:
    """Lets the tasks of a worker end quietly while the database is away: one log line an outage, and one at its end."""

    def __init__(self) -> None:
        self._is_away = False

    @contextmanager
    def note_outage(self) -> Iterator[None]:
        """Ends the block where the database is away; the schedule repeats it."""
        try:
            yield
        except (OperationalError, InterfaceError) as error:
            if not self._is_away:
                logger.error("the database is away", extra={"why": str(error).partition("\n")[0]})
            self._is_away = True
            connection.close()  # the next task gets a new one
        else:
            if self._is_away:
                logger.warning("the database is back")
            self._is_away = False


OUTAGES = OutageLog()


def database_now() -> datetime:
    """The clock by which heartbeats and leases are written."""
    if connection.vendor == "sqlite":
        return timezone.now()
    with connection.cursor() as cursor:
        cursor.execute("SELECT now()")
        now: datetime = cursor.fetchone()[0]
    return now


def lock_rows(rows: QuerySet[Row]) -> QuerySet[Row]:
    """The rows that no other transaction has locked, locked for this one. SQLite locks no rows: its transaction holds
    the one write lock."""
    if connection.features.has_select_for_update_skip_locked:
        return rows.select_for_update(skip_locked=True)
    return rows


def lock_transaction(number: int) -> None:
    """Lets one transaction at a time go on, of those that lock this number. SQLite's write lock does so."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [number])


def try_lock_transaction(number: int) -> bool:
    """False where another transaction has locked this number. On SQLite the write lock has waited for that one."""
    if connection.vendor != "postgresql":
        return True
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", [number])
        is_locked: bool = cursor.fetchone()[0]
    return is_locked


def database_away(action: str) -> GatewayFault:
    """The 503 of a gateway that cannot do something because its database does not answer."""
    return GatewayFault(f"The gateway cannot {action} now: its database is away.", headers=((b"retry-after", b"2"),))
