"""Retention of the rollups of reports: one process at a time deletes old sums, in small transactions, the oldest first.

Sums of a day outlast its rows: those of rows that may still stand prove these rows, and reports read no others. Reports
refuse the time whose sums are deleted (billing/reports/kept.py), and what is settled of it later adds to no sums of it
(billing/rollups.py). Hourly sums, which prove the spend in all, and series stay.
"""

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, TypeAlias

from django.db import connection, transaction
from django.utils import timezone
from django_scopes import scopes_disabled

from billing.models import UsageDay, UsageMember, UsageMemberDay, UsageQuarter
from billing.retention import ALWAYS, PAUSE_S, POSTGRES_ROWS, SQLITE_ROWS, Purged, rows_complete_from
from billing.retention_lease import Kind, Lease, read_complete_from, take_lease
from billing.rollups import FIRST_INSTANT, lock_rollups

Table: TypeAlias = type[UsageQuarter] | type[UsageDay] | type[UsageMemberDay] | type[UsageMember]
#: In the order in which they are deleted: a sum of a member before the member.
TABLES: Mapping[Kind, Sequence[Table]] = {
    Kind.QUARTERS: (UsageQuarter,),
    Kind.DAYS: (UsageMemberDay, UsageMember, UsageDay),
}


class Span(NamedTuple):
    starts_at: datetime
    ends_at: datetime


def purge_rollups(
    keep_days: int, keep_quarter_days: int = 0, *, busy_s: float = ALWAYS, batch_rows: int | None = None
) -> Purged:
    """Deletes the sums of more than so many days ago, for about so many seconds. 0 days: none; quarters of an hour go
    with their days at the latest."""
    end, rows = time.monotonic() + busy_s, 0
    batch_rows = batch_rows or (SQLITE_ROWS if connection.vendor == "sqlite" else POSTGRES_ROWS)
    days_of_quarters = min(filter(None, (keep_days, keep_quarter_days)), default=0)
    with scopes_disabled():
        for kind, days in ((Kind.QUARTERS, days_of_quarters), (Kind.DAYS, keep_days)):
            purged = _purge(kind, days, end, batch_rows)
            rows += purged.rows
            if not purged.is_done:
                return Purged(rows, is_done=False)
    return Purged(rows, is_done=True)


def _purge(kind: Kind, keep_days: int, end: float, batch_rows: int) -> Purged:
    horizon = _find_horizon(kind, keep_days) if keep_days else None
    lease = take_lease(kind) if horizon is not None else None
    if horizon is None or lease is None or not _announce(lease, horizon):
        return Purged(0, is_done=True)
    rows = 0
    for table in TABLES[kind]:
        begin = FIRST_INSTANT
        while deleted := _delete(lease, table, Span(begin, horizon), batch_rows):
            rows, begin = rows + len(deleted), deleted[-1]
            if time.monotonic() > end:
                lease.release()
                return Purged(rows, is_done=False)
            time.sleep(PAUSE_S)
    lease.release()
    return Purged(rows, is_done=True)


def _find_horizon(kind: Kind, keep_days: int) -> datetime | None:
    """The last midnight, of UTC, until which sums may go: none of a day whose rows are complete. None without any."""
    kept_from = rows_complete_from()
    if kept_from is None:
        return None
    horizon = min(timezone.now() - timedelta(days=keep_days), kept_from).astimezone(UTC)
    horizon = horizon.replace(hour=0, minute=0, second=0, microsecond=0)
    has_sums = any(table.objects.filter(starts_at__lt=horizon).exists() for table in TABLES[kind])
    return horizon if has_sums else None


def _announce(lease: Lease, horizon: datetime) -> bool:
    """Before the first sum goes: reports refuse the time before, and pricing of it has ended or knows the horizon."""
    with transaction.atomic():
        announced = read_complete_from(lease.kind)
        if announced is None or announced < horizon:
            lock_rollups()
        if not lease.hold():
            return False
        lease.announce(horizon)
    return True


def _delete(lease: Lease, table: Table, span: Span, limit: int) -> Sequence[datetime]:
    """Deletes the oldest sums, or members, of a span; returns their instants, none also where another process has
    taken over. The next batch begins at the last one: what was deleted may stand in the index for long."""
    with transaction.atomic():
        if not lease.hold():
            return ()
        if issubclass(table, UsageMember):
            return _delete_members(span, limit)
        old = table.objects.filter(starts_at__gte=span.starts_at, starts_at__lt=span.ends_at)
        keys = list(old.order_by("pk").values_list("pk", flat=True)[:limit])
        if keys:
            old.filter(starts_at__lte=keys[-1][0], pk__lte=keys[-1]).delete()
        return [key[0] for key in keys]


def _delete_members(span: Span, limit: int) -> Sequence[datetime]:
    old = UsageMember.objects.filter(starts_at__gte=span.starts_at, starts_at__lt=span.ends_at)
    oldest = old.order_by("starts_at", "organization_id", "dimension", "name").values_list("id", "starts_at")[:limit]
    members = list(oldest)
    UsageMember.objects.filter(id__in=[member_id for member_id, _ in members]).delete()
    return [starts_at for _, starts_at in members]
