"""The work that bookkeeping has left to do, for metrics: rows without a price yet, and rows that no price covers."""

from dataclasses import dataclass

from django.db.models import Q
from django_scopes import scopes_disabled

from billing.models import SpendLog
from tenants.database import database_now

#: Counts stop here: a scrape never reads more rows.
MOST_ROWS = 10_000


@dataclass(frozen=True, slots=True)
class Backlog:
    """`lag_s`: the age of the oldest row that waits for its price."""

    waiting: int
    lag_s: float
    unpriced: int


def read_backlog() -> Backlog:
    """The rows of all organizations. Each query reads a partial index, and at most MOST_ROWS rows."""
    with scopes_disabled():
        waiting = SpendLog.objects.filter(state=SpendLog.State.METERED).order_by("id")
        first = waiting.values_list("ended_at", "started_at").first()
        # as the index's condition has it, then the state itself
        uncosted = SpendLog.objects.filter(state__in=[SpendLog.State.UNPRICED, SpendLog.State.LOST])
        unpriced = uncosted.filter(Q(state=SpendLog.State.UNPRICED)).order_by()[:MOST_ROWS].count()
        count = waiting[:MOST_ROWS].count() if first is not None else 0
    lag_s = 0.0
    if first is not None:
        ended_at, started_at = first
        lag_s = max((database_now() - (ended_at or started_at)).total_seconds(), 0.0)
    return Backlog(count, lag_s, unpriced)
