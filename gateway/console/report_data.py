"""The figures of the spend report's page: the rows, those of the days before, and the parts of its chart.

All come from `report_spend`, as the API's and the command's do. A report by one dimension and by time is one query: its
rows are the sums over the time.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial

from django.db.models import QuerySet

from billing.models import SpendLog, UsageSeries
from billing.reports.comparison import compare, find_previous
from billing.reports.period import HOUR_S, UNITS, Period, name_unit
from billing.reports.query import ReportQuery
from billing.reports.spend import NOTHING, Report, Sums, report_spend
from gateway.protocol.errors import BadRequest

SERIES = 6  # of the chart; the others are one more
MAX_HOURLY_DAYS, MAX_DAILY_DAYS = 2, 45

Members = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Chart:
    """`units`: the names of the hours, days, weeks or months. `series`: (member, the cost of each unit in picodollars),
    the dearest first; the members beyond SERIES are one series, whose member is None."""

    units: Sequence[str]
    series: Sequence[tuple[str | None, Sequence[int]]]


@dataclass(frozen=True, slots=True)
class Figures:
    """`previous`: of the same members in the period before, None of a unit of time without a counterpart there; None
    where nothing is compared. `chart`: None where the report has too many rows for one."""

    rows: Sequence[tuple[Members, Sums]]
    total: Sums
    previous: Mapping[Members, Sums | None] | None
    previous_total: Sums | None
    chart: Chart | None


def find_figures(
    rows: QuerySet[SpendLog], query: ReportQuery, *, series: QuerySet[UsageSeries], has_comparison: bool
) -> Figures:
    """`rows` and `series`: those that the reader may see. Raises BadRequest where there would be too many rows."""
    read = partial(report_spend, rows, series=series)
    report, chart = _read_both(read, query)
    if not has_comparison:
        return Figures(report.rows, report.total, None, None, chart)
    before = read(replace(query, period=find_previous(query.period)))
    compared = compare(report, before, query.period)
    return Figures(
        [(members, sums.sums) for members, sums in compared.rows],
        report.total,
        {members: sums.previous for members, sums in compared.rows},
        before.total,
        chart,
    )


def _read_both(read: Callable[[ReportQuery], Report], query: ReportQuery) -> tuple[Report, Chart | None]:
    """The report and its chart, by as few queries as possible."""
    unit = next((name for name in query.group_by if name in UNITS), "")
    others = [name for name in query.group_by if name not in UNITS]
    if unit:
        report = read(query)
        return report, make_chart(report, unit, query.period)
    unit = choose_unit(query.period)
    try:
        by_time = read(replace(query, group_by=(unit, others[0])))
    except BadRequest:  # more rows than a report has: the report itself may have less
        return read(query), None
    chart = make_chart(by_time, unit, query.period)
    return (_sum_over_time(by_time) if len(others) == 1 else read(query)), chart


def choose_unit(period: Period) -> str:
    """The unit of a chart of the period: some fifty bars at most."""
    days = (period.end - period.start).days + 1
    return "hour" if days <= MAX_HOURLY_DAYS else "day" if days <= MAX_DAILY_DAYS else "week"


def _sum_over_time(report: Report) -> Report:
    """The report by (unit, dimension) as one by the dimension."""
    sums: dict[Members, Sums] = {}
    for (_unit, member), row in report.rows:
        sums[(member,)] = sums.get((member,), NOTHING) + row
    return Report(report.group_by[1:], sorted(sums.items()), report.total)


def make_chart(report: Report, unit: str, period: Period) -> Chart:
    """The chart of a report that has the unit among its dimensions."""
    place = report.group_by.index(unit)
    costs: dict[str, dict[str, int]] = {}
    for members, sums in report.rows:
        name = members[1 - place] if len(members) > 1 else ""
        of_unit = costs.setdefault(name, {})
        of_unit[members[place]] = of_unit.get(members[place], 0) + sums.cost_pusd
    found = {members[place] for members, _ in report.rows}
    units = sorted({*list_units(unit, period), *found}, key=_instant_of if unit == "hour" else None)
    names = sorted(costs, key=lambda name: (-sum(costs[name].values()), name))
    series: list[tuple[str | None, Sequence[int]]] = [
        (name, [costs[name].get(one, 0) for one in units]) for name in names[:SERIES]
    ]
    if names[SERIES:]:
        series.append((None, [sum(costs[name].get(one, 0) for name in names[SERIES:]) for one in units]))
    return Chart(units, series)


def list_units(unit: str, period: Period) -> list[str]:
    """The names of all units of a period, also of those without spend."""
    if unit != "hour":
        days = (period.end - period.start).days + 1
        midnights = (
            datetime.combine(period.start + timedelta(days=day), datetime.min.time(), tzinfo=UTC) for day in range(days)
        )
        return list(dict.fromkeys(name_unit(unit, int(midnight.timestamp()), 0) for midnight in midnights))
    first, end = int(period.starts_at.timestamp()), int(period.ends_at.timestamp())
    names = []
    for epoch in range(first, end, HOUR_S):
        offset = datetime.fromtimestamp(epoch, period.zone).utcoffset() or timedelta()
        offset_s = int(offset.total_seconds())
        local_s = epoch + offset_s
        names.append(name_unit("hour", local_s - local_s % HOUR_S, offset_s))
    return names


def _instant_of(hour: str) -> float:
    return datetime.fromisoformat(hour).timestamp()
