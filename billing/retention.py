"""Retention of the spend log: one process at a time deletes old rows, in small transactions, the oldest first.

Deleted are rows that nothing waits for: those that are priced, or charged by an estimate, and those of calls that no
upstream got. Rows without a price stay until they have one, and rows of budget windows that have not ended. Sums and
rollups stay; what the deleted rows prove there is kept by RetiredSpend.
"""

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from django.db import connection, transaction
from django.db.models import Min, Q, Sum
from django.utils import timezone
from django_scopes import scopes_disabled

from billing.log_search import SLACK_AFTER
from billing.models import PriceAdjustment, RetiredSpend, SpendLog, SpendLogTag, UsageCoverage
from billing.retention_lease import Kind, Lease, read_complete_from, take_lease
from billing.rollups import share_rollups
from billing.row_ids import first_id
from billing.tag_index import read_tags
from gateway.state import sql
from tenants.budget_windows import ALL_TIME, BUCKETS, rolling_length
from tenants.models import BudgetWindow

#: SQLite has one writer, and an answer's last byte waits for it.
SQLITE_ROWS, POSTGRES_ROWS = 100, 1_000
PAUSE_S = 0.005
ALWAYS = float("inf")
State = SpendLog.State
SETTLED_FOR_GOOD = Q(state=State.PRICED) | Q(state=State.ABORTED) | Q(state=State.LOST, cost_pusd__isnull=False)
_GROW = sql.fill(
    "INSERT INTO billing_retiredspend ({columns}) VALUES (%s, %s, %s, %s) "
    "ON CONFLICT (organization_id, kind, holder) DO UPDATE SET pusd = billing_retiredspend.pusd + excluded.pusd",
    columns=sql.names(["organization_id", "kind", "holder", "pusd"]),
)


@dataclass(frozen=True, slots=True)
class Purged:
    """`is_done`: nothing is left that may be deleted now, or another process is at it."""

    rows: int
    is_done: bool


def rows_complete_from() -> datetime | None:
    """No row of a call that began then or later has been deleted; None where none ever was."""
    return read_complete_from(Kind.ROWS)


def purge_spend_logs(keep_days: int, *, busy_s: float = ALWAYS, batch_rows: int | None = None) -> Purged:
    """Deletes rows of calls that began more than so many days ago, for about so many seconds; 0 days: none."""
    if not keep_days:
        return Purged(0, is_done=True)
    end, rows = time.monotonic() + busy_s, 0
    batch_rows = batch_rows or (SQLITE_ROWS if connection.vendor == "sqlite" else POSTGRES_ROWS)
    with scopes_disabled():
        horizon = find_horizon(timezone.now() - timedelta(days=keep_days))
        lease = take_lease(Kind.ROWS) if horizon is not None else None
        if horizon is None or lease is None or not _announce(lease, horizon):
            return Purged(0, is_done=True)
        cursor: UUID | None = None
        while ids := _find_ids(horizon, cursor, batch_rows):
            deleted = _delete(lease, ids)
            if deleted is None:
                return Purged(rows, is_done=True)
            rows += deleted
            cursor = ids[-1]
            if time.monotonic() > end:
                break
            time.sleep(PAUSE_S)
        lease.release()
    return Purged(rows, is_done=not ids)


def find_horizon(before: datetime) -> datetime | None:
    """The last midnight, of UTC, until which rows may go: not after `before`, nor within a budget window that has not
    ended. None while reports of the oldest rows would have nothing else to read: their rollups are not built."""
    now = timezone.now()
    open_windows = BudgetWindow.objects.filter(ends_at__gt=now).aggregate(first=Min("starts_at"))
    starts = [before, *([open_windows["first"]] if open_windows["first"] is not None else [])]
    endless = BudgetWindow.objects.filter(ends_at=None).exclude(starts_at=ALL_TIME.starts_at)
    begins = endless.order_by().values_list("starts_at", flat=True).distinct()
    lengths = [length for begin in begins if (length := rolling_length(begin, None)) is not None]
    starts += [now - length - length / BUCKETS for length in lengths]
    horizon = min(starts).astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    oldest = SpendLog.objects.order_by("id").values_list("started_at", flat=True).first()
    if oldest is None or oldest >= horizon:
        return None
    coverage = UsageCoverage.objects.values_list("complete_from", flat=True).first()
    return horizon if coverage is None or coverage <= oldest.astimezone(UTC).date() else None


def _announce(lease: Lease, horizon: datetime) -> bool:
    """Before the first row goes, so that no check of the ledger misses rows that it takes for complete, and no day is
    built from what is left of its rows."""
    with transaction.atomic():
        share_rollups()
        if not lease.hold():
            return False
        lease.announce(horizon)
    return True


def _find_ids(horizon: datetime, cursor: UUID | None, limit: int) -> list[UUID]:
    """Outside of a transaction: rows that stay may be many, and on SQLite a write waits for every other one."""
    rows = SpendLog.objects.filter(SETTLED_FOR_GOOD, id__lt=first_id(horizon + SLACK_AFTER), started_at__lt=horizon)
    if cursor is not None:
        rows = rows.filter(id__gt=cursor)
    return list(rows.order_by("id").values_list("id", flat=True)[:limit])


def _delete(lease: Lease, ids: Sequence[UUID]) -> int | None:
    """Deletes those of the rows that may still go; None if another process has taken over."""
    with transaction.atomic():
        if not lease.hold():
            return None
        rows = SpendLog.objects.select_for_update().filter(SETTLED_FOR_GOOD, id__in=ids).order_by("id")
        found = list(
            rows.values_list("id", "organization_id", "state", "cost_pusd", "end_user", "budget_windows", "tags")
        )
        locked = [row[0] for row in found]
        adjustments = PriceAdjustment.objects.filter(spend_id__in=locked)
        sums = adjustments.order_by().values("spend_id").annotate(delta=Sum("delta_pusd"))
        deltas: dict[UUID, int] = {row["spend_id"]: int(row["delta"]) for row in sums}
        retired: dict[tuple[str, str, str], int] = defaultdict(int)
        for row_id, organization_id, state, cost_pusd, end_user, windows, _tags in found:
            pusd = (cost_pusd or 0) + deltas.get(row_id, 0) if state != State.ABORTED else 0
            if pusd and end_user:
                retired[organization_id, RetiredSpend.Kind.END_USER.value, end_user] += pusd
            for window in windows.split(",") if pusd and windows else ():
                retired[organization_id, RetiredSpend.Kind.WINDOW.value, window] += pusd
        _retire(retired)
        _delete_tags((organization_id, tags, row_id) for row_id, organization_id, *_rest, tags in found)
        adjustments.order_by().delete()
        SpendLog.objects.filter(id__in=locked).delete()
    return len(found)


def _retire(sums: Mapping[tuple[str, str, str], int]) -> None:
    if sums:
        with connection.cursor() as cursor:
            cursor.executemany(_GROW, [(*key, pusd) for key, pusd in sorted(sums.items())])


def _delete_tags(rows: Iterable[tuple[str, str, UUID]]) -> None:
    """By their whole key, which is their only index."""
    named: dict[tuple[str, str], list[UUID]] = defaultdict(list)
    longest = SpendLogTag._meta.get_field("tag").max_length
    for organization_id, tags, row_id in rows:
        for tag in read_tags(tags)[: SpendLogTag.MOST]:
            named[organization_id, tag[:longest]].append(row_id)
    for (organization_id, tag), ids in named.items():
        SpendLogTag.objects.filter(organization=organization_id, tag=tag, spend_id__in=ids).delete()
