"""The check of the ledger: rows and adjustments = hourly sums = rollups = settled budgets = spend in all, to the last
picodollar.

It reads one state of the database, whatever is priced meanwhile, and holds one hour of sums, or a part of the windows,
at a time.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from itertools import chain
from typing import Any

from django.db import connection, transaction
from django.db.models import F, Q, QuerySet, Sum
from django_scopes import scopes_disabled

from billing.counted_rows import (
    COUNTED,
    EpochSeconds,
    cost_of_row,
    join_halves,
    read_sums,
    sum_halves,
    sum_rows,
)
from billing.member_verification import find_wrong_members
from billing.models import SpendLog, UsageHour
from billing.retention import rows_complete_from
from billing.retired_spend import retired_of_windows, with_retired
from billing.rollup_rebuild import complete_coverage, find_oldest_day, rebuild_day
from billing.rollup_verification import find_wrong_sums
from billing.sides import Bucket, Disagreement, Sums, by_number, join_sides, parts, stream
from billing.spend_rows import BUCKET, SUMS
from tenants.budget_windows import ALL_TIME
from tenants.models import BudgetWindow, RollingSpend, Scope, SpendTotal
from tenants.rolling_spend import length_of

HOUR_S = 3600
WINDOWS_AT_ONCE = 50_000
NOTHING: Sums = (0,) * len(SUMS)
#: Scope → the column of the hourly sums that names it.
SCOPES: Mapping[Scope, str] = {
    Scope.ORGANIZATION: "organization_id",
    Scope.TEAM: "team_id",
    Scope.USER: "user_id",
    Scope.KEY: "key_id",
}


def verify_ledger() -> Iterator[Disagreement]:
    with scopes_disabled(), _one_state():
        yield from _verify_hours()
        yield from (disagreement for _, disagreement in chain(find_wrong_sums(), find_wrong_members()))
        yield from _verify_totals()
        yield from _verify_windows()


def repair_rollups() -> Iterator[tuple[date, int]]:
    """Builds the rollups of days that have none, then of those that differ from their rows; yields each day with the
    number of its rows. A day that lost some of its rows since it was rolled up keeps its rollups."""
    yield from complete_coverage()
    with scopes_disabled(), _one_state():
        oldest = find_oldest_day()
        found = chain(find_wrong_sums(), find_wrong_members())
        wrong = sorted({day for day, _ in found if oldest is not None and day >= oldest})
    for day in wrong:
        yield day, rebuild_day(day)


@contextmanager
def _one_state() -> Iterator[None]:
    """A transaction that sees no later commit. On SQLite it reads without the lock of writers."""
    if connection.in_atomic_block:
        yield
        return
    if connection.vendor == "postgresql":
        with transaction.atomic():
            with connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            yield
        return
    with connection.cursor() as cursor:
        cursor.execute("BEGIN DEFERRED")
        try:
            yield
        finally:
            cursor.execute("ROLLBACK")


# Hourly sums


def _verify_hours() -> Iterator[Disagreement]:
    """The hours from the day on of which no row has been deleted."""
    begin = rows_complete_from()
    rows = SpendLog.objects.filter(COUNTED, Q() if begin is None else Q(started_at__gte=begin))
    rows = rows.annotate(number=EpochSeconds("started_at") / HOUR_S).order_by("number")
    expected = rows.values("number", *BUCKET).annotate(**sum_rows())
    hours = UsageHour.objects.filter(Q() if begin is None else Q(hour__gte=begin)).order_by("hour")
    hours = hours.annotate(number=EpochSeconds("hour") / HOUR_S)
    found = hours.values("number", *BUCKET, *SUMS)
    by_rows = by_number((row["number"], _bucket_of(row), read_sums(row)) for row in stream(expected))
    by_sums = by_number((row["number"], _bucket_of(row), tuple(row[name] for name in SUMS)) for row in stream(found))
    for number, rows_of_hour, sums_of_hour in join_sides(by_rows, by_sums):
        hour = datetime.fromtimestamp(number * HOUR_S, UTC)
        for bucket in sorted({*rows_of_hour, *sums_of_hour}):
            pairs = zip(SUMS, rows_of_hour.get(bucket, NOTHING), sums_of_hour.get(bucket, NOTHING), strict=True)
            where = f"hour {hour:%Y-%m-%dT%H}Z of {'/'.join(name or '-' for name in bucket)}"
            yield from (Disagreement(where, name, one, other) for name, one, other in pairs if one != other)


def _bucket_of(row: Mapping[str, Any]) -> Bucket:
    return tuple(row[name] for name in BUCKET)


# Spend in all


def _verify_totals() -> Iterator[Disagreement]:
    for scope, column in SCOPES.items():
        hours = UsageHour.objects.exclude(**{column: ""}).order_by()
        sums = hours.annotate(scope_id=F(column)).values("organization_id", "scope_id")
        yield from _verify_scope(scope, sums.annotate(**sum_halves(F("cost_pusd"))))
    rows = SpendLog.objects.filter(COUNTED).exclude(end_user="").order_by()
    named = rows.annotate(scope_id=F("end_user")).values("organization_id", "scope_id")
    yield from _verify_scope(Scope.END_USER, with_retired(named.annotate(**sum_halves(cost_of_row()))))


def _verify_scope(scope: Scope, sums: QuerySet[Any, Any] | Iterable[Mapping[str, Any]]) -> Iterator[Disagreement]:
    """A scope that was deleted has no total any more. What totals have that no row explains is told as one amount."""
    explained = 0
    for part in parts(stream(sums) if isinstance(sums, QuerySet) else sums):
        ids = {row["scope_id"] for row in part}
        rows = SpendTotal.objects.filter(scope=scope, scope_id__in=ids).order_by()
        totals = {(row.organization_id, row.scope_id): row.pusd for row in rows}
        for row in part:
            found, expected = totals.get((row["organization_id"], row["scope_id"])), join_halves(row)
            explained += found or 0
            if found is not None and found != expected:
                yield Disagreement(f"spend in all of {scope} {row['scope_id']}", "pusd", expected, found)
    of_scope = SpendTotal.objects.filter(scope=scope).aggregate(**sum_halves(F("pusd")))
    if join_halves(of_scope) != explained:
        yield Disagreement(f"spend in all of every {scope} together", "pusd", explained, join_halves(of_scope))


# Budgets


def _verify_windows() -> Iterator[Disagreement]:
    """Each window against the rows that were settled in it; a rolling one against what has not left it yet."""
    after = ""
    while windows := list(BudgetWindow.objects.filter(id__gt=after).order_by("id")[:WINDOWS_AT_ONCE]):
        after = windows[-1].id
        rolling = [window for window in windows if length_of(window) is not None]
        fixed = [window for window in windows if length_of(window) is None]
        settled = _settled_by_rows({window.id for window in fixed}) if fixed else {}
        for part in parts(rolling):
            buckets = RollingSpend.objects.filter(window__in=part).order_by().values("window_id")
            sums = buckets.annotate(**sum_halves(F("settled_pusd")))
            settled |= {row["window_id"]: join_halves(row) for row in sums}
        for window in windows:
            yield from _verify_window(window, settled.get(window.id, 0))


def _verify_window(window: BudgetWindow, expected: int) -> Iterator[Disagreement]:
    """A window for all time began with what its scope had spent before there was a budget."""
    is_for_all_time = window.ends_at is None and window.starts_at == ALL_TIME.starts_at
    if window.settled_pusd == expected or (is_for_all_time and window.settled_pusd > expected):
        return
    where = f"window {window.id} of {window.scope} {window.scope_id}"
    yield Disagreement(where, "settled_pusd", expected, window.settled_pusd)


def _settled_by_rows(ids: set[str]) -> dict[str, int]:
    """Window → picodollars of the rows that name it."""
    rows = SpendLog.objects.filter(COUNTED).exclude(budget_windows="").order_by()
    sums = rows.values("budget_windows").annotate(**sum_halves(cost_of_row()))
    settled: dict[str, int] = {}
    for row in stream(sums):
        for name in row["budget_windows"].split(","):
            if name in ids:
                settled[name] = settled.get(name, 0) + join_halves(row)
    for part in parts(ids):
        for name, pusd in retired_of_windows(part):
            settled[name] = settled.get(name, 0) + pusd
    return settled


def count_rows() -> Sequence[int]:
    """(requests, picodollars) of all hourly sums."""
    with scopes_disabled():
        hours = UsageHour.objects.aggregate(rows=Sum("requests"), **sum_halves(F("cost_pusd")))
    return int(hours["rows"] or 0), join_halves(hours)
