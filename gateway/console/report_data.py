"""The figures of the spend report's page: the rows, those of the days before, and the parts of its chart.

All come from `report_spend`, as the API's and the command's do. A report by time has a row for each member and unit,
tens of thousands with many members: so the chart reads its few members alone by time, and the sums of all calls.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from django.db.models import Q, QuerySet

from billing.models import SpendLog, UsageSeries
from billing.reports.comparison import compare, find_previous
from billing.reports.kept import has_sums
from billing.reports.period import HOUR_S, UNITS, Period, name_unit
from billing.reports.plan import MEMBERS
from billing.reports.query import COLUMNS, ReportQuery
from billing.reports.spend import NOTHING, Report, Sums, report_spend
from gateway.protocol.errors import BadRequest

SERIES = 6  # of the chart; the others are one more
MAX_HOURLY_DAYS, MAX_DAILY_DAYS = 2, 45
EVERYTHING = Q()

Members = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Source:
    """The rows and the series that the reader may see."""

    rows: QuerySet[SpendLog]
    series: QuerySet[UsageSeries]

    def read(self, query: ReportQuery, among: Q = EVERYTHING) -> Report:
        """`among`: by columns that rows and series have. Raises BadRequest where there would be too many rows."""
        return report_spend(self.rows.filter(among), query, series=self.series.filter(among))


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
    source = Source(rows, series)
    report, chart = _read_both(source, query)
    query_before = replace(query, period=find_previous(query.period))
    if not has_comparison or not has_sums(query_before):
        return Figures(report.rows, report.total, None, None, chart)
    before = source.read(query_before)
    compared = compare(report, before, query.period)
    return Figures(
        [(members, sums.sums) for members, sums in compared.rows],
        report.total,
        {members: sums.previous for members, sums in compared.rows},
        before.total,
        chart,
    )


def _read_both(source: Source, query: ReportQuery) -> tuple[Report, Chart | None]:
    unit = next((name for name in query.group_by if name in UNITS), "")
    if unit:
        report = source.read(query)
        return report, make_chart(report, unit, query.period)
    if query.group_by[0] in MEMBERS:
        return _read_by_member(source, query)
    report = source.read(query)
    return report, _read_chart(source, query, report)


def _read_by_member(source: Source, query: ReportQuery) -> tuple[Report, Chart | None]:
    """The report by end user or tag first, and its chart: of a few of them alone the spend rows would be read."""
    unit = _find_unit(query)
    try:
        by_time = source.read(replace(query, group_by=(unit, query.group_by[0])))
    except BadRequest:  # more rows than a report has: the report itself may have less
        return source.read(query), None
    chart = make_chart(by_time, unit, query.period)
    return (_sum_over_time(by_time) if len(query.group_by) == 1 else source.read(query)), chart


def _read_chart(source: Source, query: ReportQuery, report: Report) -> Chart:
    """The chart of a report without a unit of time: of the dearest members of its first dimension, and of all others
    together. All calls are read last, so that a call that is settled meanwhile is one of the others."""
    unit, dimension = _find_unit(query), query.group_by[0]
    if "tag" in query.group_by:  # a call with two tags would count twice
        report = source.read(replace(query, group_by=(dimension,), measures=()))
    costs: dict[str, int] = defaultdict(int)
    for members, sums in report.rows:
        costs[members[0]] += sums.cost_pusd
    by_time = replace(query, group_by=(unit, dimension), measures=())
    if len(costs) <= SERIES:
        return make_chart(source.read(by_time), unit, query.period)
    dearest = _sort_dearest(costs)[:SERIES]
    found = source.read(by_time, Q(**{f"{COLUMNS[dimension]}__in": dearest}))
    everything = source.read(replace(by_time, group_by=(unit,)))
    return make_chart(found, unit, query.period, everything)


def _sort_dearest(costs: Mapping[str, int]) -> list[str]:
    """The members of these costs; of equal ones by name."""
    return sorted(costs, key=lambda name: (-costs[name], name))


def _find_unit(query: ReportQuery) -> str:
    """The unit of the chart: a day where the hours of the period are deleted, which the report itself does not read."""
    unit = choose_unit(query.period)
    return unit if unit != "hour" or has_sums(replace(query, group_by=(unit,))) else "day"


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


def make_chart(report: Report, unit: str, period: Period, everything: Report | None = None) -> Chart:
    """The chart of a report that has the unit among its dimensions. `everything`: the report by the unit alone, where
    `report` is of some members; what it has more is that of the others."""
    place = report.group_by.index(unit)
    costs: dict[str, dict[str, int]] = {}
    of_others: dict[str, int] = defaultdict(int)
    for members, sums in report.rows:
        name = members[1 - place] if len(members) > 1 else ""
        of_unit = costs.setdefault(name, {})
        of_unit[members[place]] = of_unit.get(members[place], 0) + sums.cost_pusd
        of_others[members[place]] -= sums.cost_pusd
    for members, sums in everything.rows if everything is not None else ():
        of_others[members[0]] += sums.cost_pusd
    units = sorted({*list_units(unit, period), *of_others}, key=_instant_of if unit == "hour" else None)
    names = _sort_dearest({name: sum(of_unit.values()) for name, of_unit in costs.items()})
    series: list[tuple[str | None, Sequence[int]]] = [
        (name, [costs[name].get(one, 0) for one in units]) for name in names[:SERIES]
    ]
    if everything is not None:
        series.append((None, [of_others[one] for one in units]))
    elif names[SERIES:]:
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
