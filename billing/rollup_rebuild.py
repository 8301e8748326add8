"""Builds the rollups of a day from its spend rows: those of the time before the rollups, and those that disagree.

A day is built in one transaction beside which nothing is settled: pricing waits, and on SQLite every other write.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from uuid import UUID

from django.db import connection, transaction
from django.db.models import Sum
from django_scopes import scopes_disabled

from billing.models import (
    FIRST_DAY,
    PriceAdjustment,
    SpendLog,
    UsageCoverage,
    UsageDay,
    UsageMember,
    UsageMemberDay,
    UsageQuarter,
)
from billing.retention import rows_complete_from
from billing.rollups import Changes, Requests, count_row, find_counted, lock_rollups
from billing.row_ids import first_id
from billing.spend_rows import NO_EXTRAS, Row, read_rows

logger = logging.getLogger(__name__)

DAY = timedelta(days=1)
CHUNK_ROWS = 500
#: Sums that are held before they are written, each about a kilobyte.
MAX_SUMS = 20_000


def rebuild_day(day: date) -> int:
    """Replaces the rollups of a day of UTC by the sums of its rows; returns how many rows these are. A day whose rows
    may have been deleted keeps its rollups."""
    begin = datetime.combine(day, time.min, UTC)
    count, changes = 0, Changes()
    with scopes_disabled(), transaction.atomic():
        lock_rollups()
        kept_from = rows_complete_from()
        if kept_from is not None and begin < kept_from:
            return 0
        UsageQuarter.objects.filter(starts_at__gte=begin, starts_at__lt=begin + DAY).delete()
        for table in (UsageDay, UsageMemberDay, UsageMember):
            table.objects.filter(starts_at=begin).delete()
        for rows in _read_day(begin):
            _add_rows(changes, rows)
            count += len(rows)
            if changes.size > MAX_SUMS:
                changes.write()
                changes = Changes()
        changes.write()
    logger.info("the rollups of a day are built from its rows", extra={"day": day.isoformat(), "rows": count})
    return count


def complete_coverage() -> Iterator[tuple[date, int]]:
    """Builds the days before the rollups, the last one first; yields each with its rows. Where it is interrupted, the
    next run goes on. Rollups of end users and tags are not complete on days whose rows may have been deleted."""
    with scopes_disabled():
        oldest = find_oldest_day()
        coverage, _ = UsageCoverage.objects.get_or_create(
            id=1, defaults={"complete_from": datetime.now(UTC).date() + DAY}
        )
    day = max(coverage.complete_from, coverage.members_complete_from)
    while oldest is not None and day > (oldest if day <= coverage.complete_from else max(oldest, first_whole_day())):
        day -= DAY
        rows = rebuild_day(day)
        _cover(day)
        yield day, rows
    _cover(FIRST_DAY)


def first_whole_day() -> date:
    """The first day of UTC of which no row has been deleted."""
    kept_from = rows_complete_from()
    return FIRST_DAY if kept_from is None else kept_from.astimezone(UTC).date()


def _cover(day: date) -> None:
    coverage = UsageCoverage.objects.filter(id=1)
    coverage.filter(complete_from__gt=day).update(complete_from=day)
    day = max(day, first_whole_day())
    coverage.filter(members_complete_from__gt=day).update(members_complete_from=day)


def find_oldest_day() -> date | None:
    """The day before that of the oldest row, for the clock may have been set back; None without rows."""
    first = SpendLog.objects.order_by("id").values_list("started_at", flat=True).first()
    return None if first is None else first.astimezone(UTC).date() - DAY


def _read_day(begin: datetime) -> Iterator[list[Row]]:
    """The rows of a day. The id of a row is made when its call begins; the clock may have been set since."""
    after, end = first_id(begin - DAY), first_id(begin + 2 * DAY)
    where = "id > %s AND id < %s AND started_at >= %s AND started_at < %s"
    bounds = [str(connection.ops.adapt_datetimefield_value(instant)) for instant in (begin, begin + DAY)]
    while rows := read_rows(where, CHUNK_ROWS, _key(after), _key(end), *bounds, lock=""):
        yield rows
        after = UUID(str(rows[-1].id))


def _add_rows(changes: Changes, rows: Sequence[Row]) -> None:
    requests: Requests = find_counted(rows)
    deltas = _find_deltas(rows)
    for row in rows:
        counted = count_row(row, *deltas.get(UUID(str(row.id)), (0, NO_EXTRAS)))
        if counted is not None:
            is_end = max(requests[str(row.request_id)].values()).rank == counted.rank
            changes.add_attempt(counted, is_end=is_end)


def _find_deltas(rows: Sequence[Row]) -> Mapping[UUID, tuple[int, tuple[int, ...]]]:
    """Row → picodollars of its adjustments, and what they change of EXTRAS."""
    adjustments = PriceAdjustment.objects.filter(spend_id__in=[row.id for row in rows]).order_by()
    sums = adjustments.values("spend_id").annotate(
        delta=Sum("delta_pusd"), margin=Sum("margin_delta_pusd"), saving=Sum("cache_saving_delta_pusd")
    )
    return {row["spend_id"]: (int(row["delta"]), (0, int(row["saving"]), int(row["margin"]))) for row in sums}


def _key(row_id: UUID) -> UUID | str:
    return row_id if connection.vendor == "postgresql" else row_id.hex
