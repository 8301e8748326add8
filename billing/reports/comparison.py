"""A report beside that of the period before: the same dimensions, and every unit of time beside its counterpart.

Whole months are compared to as many whole months before them, any other period to as many days before it. The days of
the zone are counted, so a change of the clock in one of the two moves nothing.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from billing.reports.period import UNITS, Period
from billing.reports.spend import NOTHING, Report, Sums, order_of

#: The measures of the period before that a row has.
COMPARED = ("cost", "requests")
PREVIOUS_MEASURES = tuple(f"previous_{name}" for name in COMPARED)
ONE_DAY = timedelta(days=1)
MONTHS = 12


@dataclass(frozen=True, slots=True)
class ComparedSums:
    """`previous` is None for a unit of time without a counterpart, such as the 31st day after a month of 30."""

    sums: Sums
    previous: Sums | None

    def render(self, measures: Collection[str] = ()) -> dict[str, str | int | None]:
        before = self.previous.render() if self.previous is not None else {}
        return {**self.sums.render(measures), **{f"previous_{name}": before.get(name) for name in COMPARED}}


@dataclass(frozen=True, slots=True)
class ComparedReport:
    """A report like `Report`; a row is there if either period has it; `previous` is the period before."""

    group_by: tuple[str, ...]
    rows: Sequence[tuple[tuple[str, ...], ComparedSums]]
    total: ComparedSums
    previous: Period
    measures: tuple[str, ...] = ()


def find_previous(period: Period) -> Period:
    months = _count_months(period)
    days = period.end - period.start + ONE_DAY
    start = _add_months(period.start, -months) if months else period.start - days
    assert start is not None  # the first day of a month is in every month
    return Period(start, period.start - ONE_DAY, period.zone)


def compare(report: Report, before: Report, period: Period) -> ComparedReport:
    """`before`: the report of the period that `find_previous` tells, by the same dimensions."""
    previous = find_previous(period)
    shifted: dict[tuple[str, ...], Sums] = {}
    for members, sums in before.rows:
        moved = _shift_members(report.group_by, members, previous, period)
        if moved is not None:
            shifted[moved] = shifted.get(moved, NOTHING) + sums
    current = dict(report.rows)
    names = sorted({*current, *shifted}, key=lambda members: order_of(report.group_by, members))
    rows: list[tuple[tuple[str, ...], ComparedSums]] = []
    for members in names:
        known = shifted.get(members)
        if known is None and _shift_members(report.group_by, members, period, previous) is not None:
            known = NOTHING
        rows.append((members, ComparedSums(current.get(members, NOTHING), known)))
    return ComparedReport(report.group_by, rows, ComparedSums(report.total, before.total), previous, report.measures)


def _shift_members(
    group_by: Sequence[str], members: Sequence[str], source: Period, target: Period
) -> tuple[str, ...] | None:
    moved: list[str] = []
    for name, member in zip(group_by, members, strict=True):
        counterpart = _shift_unit(name, member, source, target) if name in UNITS else member
        if counterpart is None:
            return None
        moved.append(counterpart)
    return tuple(moved)


def _shift_unit(unit: str, member: str, source: Period, target: Period) -> str | None:
    """The unit of time of `target` that has the place which this one has in `source`; None where there is none."""
    if unit == "hour":
        return _shift_hour(datetime.fromisoformat(member), source, target)
    if unit == "day":
        day = _shift_day(date.fromisoformat(member), source, target)
        return None if day is None else day.isoformat()
    if unit == "week":
        week = _monday(target.start) + (date.fromisoformat(member) - _monday(source.start))
        return week.isoformat() if week <= target.end else None
    month = _add_months(date.fromisoformat(f"{member}-01"), _months_between(source.start, target.start))
    return f"{month:%Y-%m}" if month is not None and month <= target.end else None


def _shift_day(day: date, source: Period, target: Period) -> date | None:
    if _count_months(source):
        return _add_months(day, _months_between(source.start, target.start))
    return day + (target.start - source.start)


def _shift_hour(hour: datetime, source: Period, target: Period) -> str | None:
    local = hour.astimezone(source.zone)
    day = _shift_day(local.date(), source, target)
    if day is None:
        return None
    moved = datetime.combine(day, local.timetz()).replace(fold=local.fold)
    known = moved.astimezone(UTC).astimezone(target.zone)  # the clock may skip it that day
    return moved.isoformat() if known.replace(tzinfo=None) == moved.replace(tzinfo=None) else None


def _count_months(period: Period) -> int:
    """The number of months that the period is; 0 where it is not whole months."""
    after = period.end + ONE_DAY
    return _months_between(period.start, after) if period.start.day == after.day == 1 else 0


def _months_between(first: date, second: date) -> int:
    return (second.year - first.year) * MONTHS + second.month - first.month


def _add_months(day: date, months: int) -> date | None:
    """The same day of another month; None where that month is too short."""
    year, month = divmod(day.year * MONTHS + day.month - 1 + months, MONTHS)
    try:
        return day.replace(year=year, month=month + 1)
    except ValueError:
        return None


def _monday(day: date) -> date:
    return day - timedelta(days=day.weekday())
