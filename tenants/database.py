"""The clock of the database, its row locks, and the error of an outage."""

from datetime import datetime
from typing import TypeVar

from django.db import connection
from django.db.models import Model, QuerySet
from django.utils import timezone

from gateway.protocol.errors import GatewayFault

Row = TypeVar("Row", bound=Model)


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


def database_away(action: str) -> GatewayFault:
    """The 503 of a gateway that cannot do something because its database does not answer."""
    return GatewayFault(f"The gateway cannot {action} now: its database is away.", headers=((b"retry-after", b"2"),))
