"""The time of which reports have sums: rollups may be deleted after their rows, and a report of such days is refused,
for it would be of a part.
"""

from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from itertools import chain
from zoneinfo import ZoneInfo

from billing.reports.period import Period
from billing.reports.plan import MEMBERS, Plan, find_deleted, make_plan, read_coverage, split_deleted
from billing.reports.query import ReportQuery
from billing.retention_lease import Kind, read_all_complete_from
from gateway.protocol.errors import BadRequest

ONE_DAY = timedelta(days=1)
UTC_ZONE = "UTC"


def plan_report(query: ReportQuery, *, has_series: bool) -> Plan:
    """The tables that a report reads; without series these are the rows. Raises BadRequest where sums that it would
    read may have been deleted."""
    plan = make_plan(query.period, query.group_by, read_coverage(query.group_by) if has_series else None)
    if has_series and not MEMBERS.isdisjoint(query.group_by):
        plan = split_deleted(plan, query.period, find_deleted())
    check_sums(plan, query.period)
    return plan


def has_sums(query: ReportQuery) -> bool:
    """False where sums that the report would read may have been deleted."""
    try:
        plan_report(query, has_series=MEMBERS.isdisjoint(name for name, _ in query.filters))
    except BadRequest:
        return False
    return True


def find_first_day(zone: ZoneInfo) -> date | None:
    """The first day of a zone of which no sums have been deleted; None where none ever were."""
    return _first_of(read_all_complete_from(), zone)


def _first_of(kept: Mapping[int, datetime], zone: ZoneInfo) -> date | None:
    kept_from = kept.get(Kind.DAYS)
    return None if kept_from is None else _first_whole_day(kept_from, zone)


def check_days(period: Period) -> None:
    """Raises BadRequest where sums of the period may have been deleted."""
    _check_days(period, read_all_complete_from())


def _check_days(period: Period, kept: Mapping[int, datetime]) -> None:
    first = _first_of(kept, period.zone)
    if first is not None and period.start < first:
        raise BadRequest(
            f"Sums of the days before {first} have been deleted. Begin the report on {first} or later.",
            param="start_date",
        )


def check_sums(plan: Plan, period: Period) -> None:
    """Raises BadRequest where sums of the period, or the quarters of an hour that its report reads, may have been
    deleted."""
    kept = read_all_complete_from()
    _check_days(period, kept)
    kept_from = kept.get(Kind.QUARTERS)
    quarters = chain(plan.quarters, plan.moved, plan.deleted)
    if kept_from is None or all(span.starts_at >= kept_from for span in quarters):
        return
    first = _first_whole_day(kept_from, period.zone)
    advice = "leave 'hour' out of 'group_by'" if period.zone.key == UTC_ZONE else "ask for days of UTC without 'hour'"
    raise BadRequest(
        f"Sums of the hours before {first} have been deleted, those of days of UTC have not. Begin the report on "
        f"{first} or later, or {advice}.",
        param="start_date",
    )


def _first_whole_day(instant: datetime, zone: ZoneInfo) -> date:
    """The first day of a zone that does not begin before an instant."""
    day = instant.astimezone(zone).date()
    midnight = datetime.combine(day, time.min, zone).astimezone(UTC)
    return day if midnight >= instant else day + ONE_DAY
