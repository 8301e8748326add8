"""The tables that a report reads: the rollups of days for whole days of UTC, those of quarters of an hour at the edges,
and the spend rows of the time before the rollups. End users and tags have rollups of days alone, so the edges of a
report by them are spend rows too.

A day of UTC in which a unit of the report begins is cut. It is read whole, for the unit of its noon; the quarters on
the other side of the cut are read too, and moved to the unit that they are of. So a report by day in a zone an hour
beside UTC reads the quarters of one hour in 24. End users and tags cannot be moved: their cut days are spend rows.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time

from billing.models import UsageCoverage
from billing.reports.period import DAY_S, Period
from billing.retention import rows_complete_from

QUARTER_S = 900
NOON_S = DAY_S // 2
#: Dimensions that no series has: only days have rollups of them, each of its own.
MEMBERS = frozenset({"end_user", "tag"})


@dataclass(frozen=True, slots=True)
class Span:
    starts_at: datetime
    ends_at: datetime


@dataclass(frozen=True, slots=True)
class Plan:
    """Disjoint parts of a period. `days`: the whole days from the first to the last, without `cut_days`. `moved`: the
    quarters of these days that are of another unit than the noon of their day. `deleted`: parts whose rows may have
    been deleted; their quarters know no end user and no tag."""

    rows: Sequence[Span]
    quarters: Sequence[Span] = ()
    days: Span | None = None
    cut_days: Collection[datetime] = ()
    deleted: Sequence[Span] = ()
    moved: Sequence[Span] = ()


def read_coverage(group_by: Collection[str]) -> date | None:
    """The first day of UTC from which on the rollups of these dimensions are complete; None where they are not in
    use."""
    days = UsageCoverage.objects.values_list("complete_from", "members_complete_from").first()
    return None if days is None else days[0] if MEMBERS.isdisjoint(group_by) else max(days)


def find_deleted() -> Span | None:
    """The span whose rows may have been deleted, and of which there are rollups."""
    kept_from, complete_from = rows_complete_from(), read_coverage(())
    if kept_from is None or complete_from is None:
        return None
    return Span(datetime.combine(complete_from, time.min, UTC), kept_from)


def split_deleted(plan: Plan, period: Period, deleted: Span | None) -> Plan:
    """The plan of a report by end user or tag, with the parts of `rows` that are deleted apart."""
    if deleted is None or not _fits_quarters(period):
        return plan
    lost = [_cut(span, deleted.starts_at, deleted.ends_at) for span in plan.rows]
    before = [_cut(span, span.starts_at, deleted.starts_at) for span in plan.rows]
    behind = [_cut(span, max(deleted.starts_at, deleted.ends_at), span.ends_at) for span in plan.rows]
    rows = [span for pair in zip(before, behind, strict=True) for span in pair]
    return replace(plan, rows=_filled(rows), deleted=_filled(lost))


def _cut(span: Span, starts_at: datetime, ends_at: datetime) -> Span:
    return Span(max(span.starts_at, starts_at), min(span.ends_at, ends_at))


def _filled(spans: Iterable[Span]) -> Sequence[Span]:
    return [span for span in spans if span.starts_at < span.ends_at]


def make_plan(period: Period, group_by: Sequence[str], complete_from: date | None) -> Plan:
    everything = [Span(period.starts_at, period.ends_at)]
    if complete_from is None or not _fits_quarters(period):
        return Plan(everything)
    plan = _plan_sums(period, group_by, complete_from)
    members = MEMBERS.intersection(group_by)
    if not members:
        return plan
    if plan.days is None or len(members) > 1:
        return Plan(everything)
    return Plan([*plan.rows, *plan.quarters], (), plan.days, plan.cut_days)


def _plan_sums(period: Period, group_by: Sequence[str], complete_from: date) -> Plan:
    begin, end = _epoch(period.starts_at), _epoch(period.ends_at)
    covered = max(begin, min(end, _epoch(datetime.combine(complete_from, time.min, UTC))))
    if covered == end:
        return Plan([Span(period.starts_at, period.ends_at)])
    rows = [Span(period.starts_at, _instant(covered))] if begin < covered else []
    if "hour" in group_by:
        return Plan(rows, [Span(_instant(covered), period.ends_at)])
    first, last = -(-covered // DAY_S) * DAY_S, end // DAY_S * DAY_S
    if first >= last:
        return Plan(rows, [Span(_instant(covered), period.ends_at)])
    cuts = _find_cuts(period, group_by, first, last)
    can_move = MEMBERS.isdisjoint(group_by)
    cut_days = [day for day, instants in cuts.items() if len(instants) > 1 or not can_move]
    if len(cut_days) * DAY_S == last - first:
        return Plan(rows, [Span(_instant(covered), period.ends_at)])
    edges = [(covered, first), *((day, day + DAY_S) for day in cut_days), (last, end)]
    quarters = [Span(_instant(one), _instant(other)) for one, other in edges if one < other]
    moved = [_far_side(day, instants[0]) for day, instants in cuts.items() if len(instants) == 1 and can_move]
    days = Span(_instant(first), _instant(last))
    return Plan(rows, quarters, days, [_instant(day) for day in cut_days], moved=moved)


def _find_cuts(period: Period, group_by: Sequence[str], first: int, last: int) -> Mapping[int, list[int]]:
    """Day of UTC, ascending → the instants within it at which a unit begins."""
    cuts: dict[int, list[int]] = defaultdict(list)
    for at in period.find_starts(group_by):
        if first < at < last and at % DAY_S:
            cuts[at // DAY_S * DAY_S].append(at)
    return cuts


def _far_side(day: int, cut: int) -> Span:
    """The part of a day that its noon is not in."""
    one, other = (day, cut) if cut <= day + NOON_S else (cut, day + DAY_S)
    return Span(_instant(one), _instant(other))


def _fits_quarters(period: Period) -> bool:
    """False in a zone whose clock is no whole number of quarters of an hour beside UTC: there was none after 1972."""
    instants = [_epoch(period.starts_at), _epoch(period.ends_at)]
    return all(number % QUARTER_S == 0 for pair in period.find_offsets() for number in pair) and all(
        number % QUARTER_S == 0 for number in instants
    )


def _epoch(instant: datetime) -> int:
    return int(instant.timestamp())


def _instant(epoch: int) -> datetime:
    return datetime.fromtimestamp(epoch, UTC)
