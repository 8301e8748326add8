"""The spend of rolling windows, by the buckets that their calls began in. A window's settled amount is the sum of its
buckets; what is older than the window is long leaves both. Within transactions that have locked the windows."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from django.db import connection
from django.db.models import Q

from tenants.budget_windows import bucket_end, rolling_length
from tenants.models import BudgetWindow, RollingSpend

_ADD = (
    "INSERT INTO tenants_rollingspend (window_id, ends_at, settled_pusd) VALUES (%s, %s, %s) "
    "ON CONFLICT (window_id, ends_at) DO UPDATE "
    "SET settled_pusd = tenants_rollingspend.settled_pusd + excluded.settled_pusd"
)


def length_of(window: BudgetWindow) -> timedelta | None:
    """None for a window that does not roll."""
    return rolling_length(window.starts_at, window.ends_at)


def count_current(windows: Iterable[BudgetWindow], now: datetime) -> dict[str, datetime]:
    """Takes out of rolling windows, in memory, what has left them. Returns the instants at which the next amounts will
    leave: {window id: instant}. An amount that an administrator credited leaves first."""
    rolling = {window.id: (window, length) for window in windows if (length := length_of(window)) is not None}
    next_at: dict[str, datetime] = {}
    if not rolling:
        return next_at
    rows = RollingSpend.objects.filter(window_id__in=rolling).order_by("ends_at")
    for window_id, ends_at, pusd in rows.values_list("window_id", "ends_at", "settled_pusd"):
        window, length = rolling[window_id]
        if ends_at + length > now:
            next_at.setdefault(window_id, ends_at + length)
            continue
        window.settled_pusd -= pusd
        window.credit_pusd -= min(max(0, window.credit_pusd), max(0, pusd))
    return next_at


def drop_expired(windows: Iterable[BudgetWindow], now: datetime) -> None:
    """Deletes the buckets that `count_current` took out at the same instant."""
    expired = Q(pk__in=())
    for window in windows:
        if (length := length_of(window)) is not None:
            expired |= Q(window_id=window.id, ends_at__lte=now - length)
    if expired != Q(pk__in=()):
        RollingSpend.objects.filter(expired).delete()


def add_costs(windows: Mapping[str, BudgetWindow], costs: Iterable[tuple[str, datetime, int]]) -> None:
    """Adds costs to the buckets of those of the windows that roll: (window id, the call's begin, picodollars)."""
    sums: dict[tuple[str, datetime], int] = defaultdict(int)
    for window_id, started_at, pusd in costs:
        if (length := length_of(windows[window_id])) is not None:
            sums[window_id, bucket_end(length, started_at)] += pusd
    if not sums:
        return
    adapt = connection.ops.adapt_datetimefield_value
    with connection.cursor() as cursor:
        cursor.executemany(_ADD, [(name, adapt(ends_at), pusd) for (name, ends_at), pusd in sorted(sums.items())])
