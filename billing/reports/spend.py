"""The report of spend: sums of a period by one or two dimensions, from the rollups or from the rows themselves; the
numbers are the same.

The database groups by the columns and by the local hour or day; the units of time and the tags are folded here. A
request counts once, by the attempt that was its end; each attempt counts its own cost and tokens.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import reduce
from itertools import product
from operator import add, or_
from types import MappingProxyType
from typing import Any, TypeVar

from django.db.models import BigIntegerField, Case, Count, F, Q, QuerySet, Sum, Value, When
from django.db.models.expressions import Combinable

from billing.counted_rows import (
    COUNTED,
    FAILED,
    WAS_LOST,
    EpochSeconds,
    count_if,
    elapsed_us,
    has_adjustments,
    is_end_of_request,
    join_halves,
    number_if,
    rank_of_row,
    read_extras,
    slot_of_time,
    sum_adjustments,
    sum_extras_of_sums,
    sum_first_amounts,
    sum_halves,
    sum_tokens,
)
from billing.latency import COLUMNS as LATENCY_COLUMNS
from billing.latency import SLOTS, find_percentile
from billing.log_search import has_tag
from billing.models import SpendLog, UsageDay, UsageMemberDay, UsageQuarter, UsageSeries
from billing.models.usage import UsageSums
from billing.pricing import COUNTS
from billing.reports.kept import check_sums, plan_report
from billing.reports.period import DAY_S, HOUR_S, UNITS, Period, name_unit
from billing.reports.plan import (
    MEMBERS,
    NOON_S,
    Plan,
    Span,
)
from billing.reports.query import COLUMNS, LATENCY, MARGIN, ReportQuery
from billing.row_ids import first_id
from billing.spend_rows import WITH_ESTIMATES
from billing.tag_index import read_tags as read_row_tags
from billing.usage_members import END_USER, TAG, TAGGED, UNNAMED
from gateway.protocol.amounts import usd_text
from gateway.protocol.errors import BadRequest

#: Rows of one answer, each about a kilobyte in memory.
MAX_ROWS = 50_000
CHUNK_ROWS = 2_000  # that the database hands over at once
#: The id of a row is made when its call begins; the clock may have been set back since.
SLACK = timedelta(days=1)
COUNTERS = ("requests", "attempts", "failures", "failed_attempts", "estimated", "unpriced", "cache_hits")
ATTEMPTS = COUNTERS.index("attempts")
PERCENTS = (50, 95, 99)
#: The measures that are amounts of money.
AMOUNTS = frozenset({"cost", "cache_savings", "provider_cost", "margin"})
#: Metric of latency → the column of the instant at which it ends.
ENDS: Mapping[str, str] = {"duration": "ended_at", "ttft": "first_token_at"}
NO_SLOTS = (0,) * len(LATENCY_COLUMNS)
#: The end users, or the tags, that a day's rollups have no room to name, and those of deleted rows without such sums.
OTHER = "other"
NOON = "noon_unit"  # of a group: the local day for which its day of UTC is read
#: What a group has beside its members and its measures.
KEYS = frozenset({"local_unit", "offset", NOON})
Rollup = TypeVar("Rollup", bound=UsageSums)


@dataclass(frozen=True, slots=True)
class Sums:
    """`counts`: in the order of COUNTERS; `tokens`: in the order of COUNTS. `slots`: the attempts of each slot of
    latency, in the order of its columns; empty where the report has no latency."""

    cost_pusd: int
    counts: tuple[int, ...]
    tokens: tuple[int, ...]
    saving_pusd: int = 0
    margin_pusd: int = 0
    slots: tuple[int, ...] = ()

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(
            self.cost_pusd + other.cost_pusd,
            tuple(map(sum, zip(self.counts, other.counts, strict=True))),
            tuple(map(sum, zip(self.tokens, other.tokens, strict=True))),
            self.saving_pusd + other.saving_pusd,
            self.margin_pusd + other.margin_pusd,
            tuple(map(add, self.slots, other.slots)) if self.slots and other.slots else self.slots or other.slots,
        )

    def render(self, measures: Collection[str] = ()) -> dict[str, str | int | None]:
        """`measures`: of MORE_MEASURES, beside those that every report has."""
        tokens = dict(zip(COUNTS, self.tokens, strict=True))
        writes = tokens["cache_write_5m_tokens"] + tokens["cache_write_1h_tokens"]
        return {
            "cost": usd_text(self.cost_pusd),
            **dict(zip(COUNTERS, self.counts, strict=True)),
            **tokens,
            "cache_write_tokens": writes,
            "cache_savings": usd_text(self.saving_pusd),
            **(self._render_latency() if LATENCY in measures else {}),
            **(self._render_margin() if MARGIN in measures else {}),
        }

    def _render_latency(self) -> dict[str, str | int | None]:
        slots = dict(zip(LATENCY_COLUMNS, self.slots or NO_SLOTS, strict=True))
        return {
            f"{metric}_p{percent}_ms": find_percentile(metric, [slots[name] for name in names], percent)
            for metric, names in SLOTS.items()
            for percent in PERCENTS
        }

    def _render_margin(self) -> dict[str, str | int | None]:
        return {"provider_cost": usd_text(self.cost_pusd - self.margin_pusd), "margin": usd_text(self.margin_pusd)}


NOTHING = Sums(0, (0,) * len(COUNTERS), (0,) * len(COUNTS))
MEASURES = tuple(NOTHING.render())


@dataclass(frozen=True, slots=True)
class Report:
    """`rows`: (members, in the order of `group_by`; sums), sorted. `total` counts each row of the spend log once.
    `measures`: those beside the usual ones."""

    group_by: tuple[str, ...]
    rows: Sequence[tuple[tuple[str, ...], Sums]]
    total: Sums
    measures: tuple[str, ...] = ()


def report_spend(
    rows: QuerySet[SpendLog],
    query: ReportQuery,
    *,
    series: QuerySet[UsageSeries] | None = None,
    max_rows: int = MAX_ROWS,
    param: str = "group_by",
) -> Report:
    """`rows` and `series`: those that the reader may see; without the series, everything is read from rows. Raises
    BadRequest where the answer would have too many rows, with the `param` that its client can change, or sums of the
    period have been deleted."""
    group_by, has_latency = query.group_by, LATENCY in query.measures
    for name, member in query.filters:
        rows = rows.filter(_match(name, member, Place("started_at", "", FAILED)))
        if series is not None:  # no series has an end user or a tag
            series = None if name in MEMBERS else series.filter(_match(name, member, OF_SERIES))
    folded: dict[tuple[str, ...], Sums] = {}
    total = NOTHING
    for group in _find_groups(rows, series, query):
        sums = _read_sums(group, has_latency=has_latency)
        if "is_part" not in group:
            total += sums
        for members in product(*(_members_of(name, group) for name in group_by)):
            known = folded.get(members)
            folded[members] = sums if known is None else known + sums
        if len(folded) > max_rows:
            advice = (
                "fewer days, or group by less" if param == "group_by" else "fewer days, with start_date and end_date"
            )
            raise BadRequest(f"The report has more than {max_rows:,} rows. Ask for {advice}.", param=param)
    # What a corrected row has left behind in a rollup is nothing
    found = [(members, sums) for members, sums in folded.items() if sums.counts[ATTEMPTS]]
    return Report(group_by, sorted(found, key=lambda row: order_of(group_by, row[0])), total, query.measures)


def _find_groups(
    rows: QuerySet[SpendLog], series: QuerySet[UsageSeries] | None, query: ReportQuery
) -> Iterator[Mapping[str, Any]]:
    """The groups of each table that the report reads, one table after the other. Of rows the latency is in groups of
    its own, each of one slot."""
    period, group_by, has_latency = query.period, query.group_by, LATENCY in query.measures
    plan = plan_report(query, has_series=series is not None)
    for span in plan.rows:
        found = _rows_of(rows, span, period)
        yield from _stream(_group_rows(found, period, group_by))
        yield from _stream(_group_adjustments(found, period, group_by))
        for metric in ENDS if has_latency else ():
            yield from _stream(_group_times(found, period, group_by, metric))
    if series is not None:
        yield from _find_sums(series, query, plan)
    check_sums(plan, period)  # again, for sums that were deleted meanwhile


def _find_sums(series: QuerySet[UsageSeries], query: ReportQuery, plan: Plan) -> Iterator[Mapping[str, Any]]:
    """The groups of each rollup."""
    period, group_by = query.period, query.group_by
    if plan.quarters:
        yield from _stream(_group_sums(_quarters_of(plan.quarters), series, query))
    if plan.deleted:
        lost = _group_sums(_quarters_of(plan.deleted), series, query)
        yield from ({**group, "of_member": OTHER} for group in _stream(lost))
    if plan.days is not None:
        days = _days_of(UsageDay.objects.all(), plan, plan.days)
        unit = {"local_unit": _unit_of_noon(period)} if not UNITS.keys().isdisjoint(group_by) else {}
        yield from _stream(_group_sums(days, series, query, unit))
        for dimension in MEMBERS.intersection(group_by):
            members = _days_of(UsageMemberDay.objects.all(), plan, plan.days)
            yield from _find_members(members, series, query, dimension)
    if plan.moved:
        moved = _group_sums(_quarters_of(plan.moved), series, query, {NOON: _unit_of_noon(period)})
        yield from _move(_stream(moved))


def _find_members(
    days: QuerySet[UsageMemberDay],
    series: QuerySet[UsageSeries],
    query: ReportQuery,
    dimension: str,
) -> Iterator[Mapping[str, Any]]:
    """The groups of an end user or a tag. The sums by the other dimensions are there already, without a member: what
    has one is taken from these, and is part of the total."""
    kind, every = (TAG, TAGGED[0]) if dimension == "tag" else (END_USER, END_USER)
    unnamed = _group_sums(days.filter(member__dimension=every), series, query, {"of_member": Value("")})
    yield from ({**group, **_negate(group), "is_part": True} for group in _stream(unnamed))
    name = Case(When(member__name=UNNAMED, then=Value(OTHER)), default=F("member__name"))
    named = _group_sums(days.filter(member__dimension=kind), series, query, {"of_member": name})
    yield from ({**group, "is_part": True} for group in _stream(named))


def _negate(group: Mapping[str, Any]) -> Mapping[str, int]:
    """The measures of a group, which are to be taken from another one."""
    return {name: -value for name, value in group.items() if name not in KEYS and not name.startswith("of_") and value}


def _quarters_of(spans: Sequence[Span]) -> QuerySet[UsageQuarter]:
    within = [Q(starts_at__gte=span.starts_at, starts_at__lt=span.ends_at) for span in spans]
    return UsageQuarter.objects.filter(reduce(or_, within))


def _days_of(sums: QuerySet[Rollup], plan: Plan, span: Span) -> QuerySet[Rollup]:
    days = sums.filter(starts_at__gte=span.starts_at, starts_at__lt=span.ends_at)
    return days.exclude(starts_at__in=plan.cut_days) if plan.cut_days else days


def _stream(groups: QuerySet[Any, Any]) -> Iterator[Mapping[str, Any]]:
    return groups.iterator(chunk_size=CHUNK_ROWS)


def _move(groups: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Groups of quarters that stand in the sums of their days, for the unit of noon: they are added to their own unit,
    and taken from that one."""
    for group in groups:
        yield group
        yield {**group, **_negate(group), "local_unit": group[NOON]}


def _rows_of(rows: QuerySet[SpendLog], span: Span, period: Period) -> QuerySet[SpendLog]:
    found = rows.filter(COUNTED, id__gte=first_id(span.starts_at - SLACK)).order_by()
    found = found.filter(started_at__gte=span.starts_at, started_at__lt=span.ends_at)
    if span.ends_at < period.ends_at:
        found = found.filter(id__lt=first_id(span.ends_at + SLACK))
    return found


def _group_rows(rows: QuerySet[SpendLog], period: Period, group_by: Sequence[str]) -> QuerySet[Any, Any]:
    is_end = is_end_of_request()
    keys = _key_expressions(period, group_by, Place("started_at", "", FAILED))
    sums = {
        "sum_attempts": Count("id"),
        "sum_requests": count_if(is_end),
        "sum_failures": count_if(FAILED & is_end),
        "sum_failed_attempts": count_if(FAILED),
        "sum_estimated": count_if(WAS_LOST | Q(usage_source__in=WITH_ESTIMATES)),
        "sum_unpriced": count_if(Q(cost_pusd__isnull=True)),
        **sum_tokens(),
        **sum_first_amounts(),
    }
    groups: QuerySet[Any, Any] = rows.annotate(rank=rank_of_row(), **keys).values(*keys)
    summed: QuerySet[Any, Any] = groups.annotate(**sums)
    return summed


def _group_adjustments(rows: QuerySet[SpendLog], period: Period, group_by: Sequence[str]) -> QuerySet[Any, Any]:
    """What repricing has changed of the amounts of each group. Few rows have adjustments: to look for those of each row
    takes as long as all the rest."""
    keys = _key_expressions(period, group_by, Place("started_at", "", FAILED))
    groups: QuerySet[Any, Any] = rows.filter(has_adjustments()).annotate(**keys).values(*keys)
    summed: QuerySet[Any, Any] = groups.annotate(**sum_adjustments())
    return summed


def _group_times(rows: QuerySet[SpendLog], period: Period, group_by: Sequence[str], metric: str) -> QuerySet[Any, Any]:
    """The successful attempts of each group in each slot of a metric."""
    timed = rows.filter(~FAILED, **{f"{ENDS[metric]}__isnull": False})
    keys = _key_expressions(period, group_by, Place("started_at", "", FAILED))
    timed = timed.annotate(elapsed_us=elapsed_us(ENDS[metric]), **keys)
    slot = {"slot": slot_of_time(metric, "elapsed_us"), "metric": Value(metric)}
    groups: QuerySet[Any, Any] = timed.annotate(**slot).values(*keys, *slot)
    counted: QuerySet[Any, Any] = groups.annotate(timed=Count("id"))
    return counted


def _group_sums(
    sums: QuerySet[Any, Any],
    series: QuerySet[UsageSeries],
    query: ReportQuery,
    more: Mapping[str, Combinable] = MappingProxyType({}),
) -> QuerySet[Any, Any]:
    """The groups of a rollup's sums. `more`: further keys, or those that stand in for a usual one."""
    failed = Q(series__is_failure=True)
    of_series = [name for name in query.group_by if name not in MEMBERS]
    slots = LATENCY_COLUMNS if LATENCY in query.measures else ()
    keys = _key_expressions(query.period, of_series, Place("starts_at", "series__", failed)) | dict(more)
    measures = {
        **{f"sum_{name}": Sum(name) for name in ("requests", "attempts", "estimated", "unpriced", *COUNTS)},
        "sum_failures": Sum("requests", filter=failed),
        "sum_failed_attempts": Sum("attempts", filter=failed),
        **sum_halves(F("cost_pusd")),
        **sum_extras_of_sums(),
        **{f"sum_{name}": Sum(name) for name in slots},
    }
    visible = sums.filter(series__in=series) if series.query.where else sums
    groups: QuerySet[Any, Any] = visible.order_by().annotate(**keys).values(*keys)
    summed: QuerySet[Any, Any] = groups.annotate(**measures)
    return summed


@dataclass(frozen=True, slots=True)
class Place:
    """The columns of a table that has dimensions: its instant, the path to the other ones, and the failures."""

    instant: str
    path: str
    failed: Q


#: A series is of the failures or of the others.
OF_SERIES = Place("", "", Q(is_failure=True))


def _match(dimension: str, member: str, place: Place) -> Q:
    """The condition of the rows, or the series, of one member of a dimension."""
    if dimension == "tag":
        return has_tag(member)
    if dimension == "status":
        return place.failed if member == "failure" else ~place.failed
    return Q(**{COLUMNS[dimension]: member})


def _key_expressions(period: Period, group_by: Sequence[str], place: Place) -> dict[str, Combinable]:
    keys: dict[str, Combinable] = {}
    for name in group_by:
        if name in COLUMNS:
            keys[f"of_{name}"] = F(f"{place.path}{COLUMNS[name]}")
    if "tag" in group_by:
        keys["of_tag"] = F("tags")
    if "status" in group_by:
        keys["of_status"] = number_if(place.failed)
    units = [name for name in group_by if name in UNITS]
    if units:
        epoch, offset = EpochSeconds(place.instant), _offset_of(period, place.instant)
        unit_s = HOUR_S if "hour" in units else DAY_S
        keys["local_unit"] = (epoch + offset) / unit_s
        if "hour" in units:
            keys["offset"] = offset
    return keys


def _unit_of_noon(period: Period) -> Combinable:
    """The local day of the noon of a rollup's day of UTC."""
    (begin, first), *changes = period.find_offsets()
    days = [(-(-(epoch - NOON_S) // DAY_S) * DAY_S, offset) for epoch, offset in changes]
    day = EpochSeconds("starts_at") / DAY_S * DAY_S + NOON_S
    return (day + _choose_offset([(begin, first), *days], "starts_at")) / DAY_S


def _offset_of(period: Period, column: str) -> Combinable:
    """The seconds that the local time of an instant is ahead of UTC."""
    return _choose_offset(period.find_offsets(), column)


def _choose_offset(offsets: Sequence[tuple[int, int]], column: str) -> Combinable:
    """The offset of the last epoch that an instant is not before; the first one of all earlier ones."""
    (_, first), *changes = offsets
    if not changes:
        return Value(first, output_field=BigIntegerField())
    cases = [
        When(**{f"{column}__gte": datetime.fromtimestamp(epoch, UTC)}, then=Value(offset))
        for epoch, offset in changes[::-1]
    ]
    return Case(*cases, default=Value(first), output_field=BigIntegerField())


def _read_sums(group: Mapping[str, Any], *, has_latency: bool) -> Sums:
    if "slot" in group:
        column = SLOTS[group["metric"]][group["slot"]]
        return replace(NOTHING, slots=tuple(group["timed"] if name == column else 0 for name in LATENCY_COLUMNS))
    _, saving_pusd, margin_pusd = read_extras(group)
    return Sums(
        join_halves(group),
        tuple(int(group.get(f"sum_{name}") or 0) for name in COUNTERS),
        tuple(int(group.get(f"sum_{name}") or 0) for name in COUNTS),
        saving_pusd,
        margin_pusd,
        tuple(int(group.get(f"sum_{name}") or 0) for name in LATENCY_COLUMNS) if has_latency else (),
    )


def _members_of(dimension: str, group: Mapping[str, Any]) -> Sequence[str]:
    """The members that a group of rows is of: of a tag there may be several, else one."""
    if dimension in UNITS:
        unit_s = HOUR_S if "offset" in group else DAY_S
        return [name_unit(dimension, int(group["local_unit"]) * unit_s, int(group.get("offset", 0)))]
    if dimension in MEMBERS and f"of_{dimension}" not in group:
        return [str(group.get("of_member", ""))]
    if dimension == "tag":
        return read_tags(group["of_tag"])
    if dimension == "status":
        return ["failure" if group["of_status"] else "success"]
    return [str(group[f"of_{dimension}"])]


def read_tags(text: str) -> Sequence[str]:
    """The tags of a row, each once; the empty tag for a row without any."""
    return read_row_tags(text) or [""]


def order_of(group_by: Sequence[str], members: Sequence[str]) -> tuple[float | str, ...]:
    """Hours by their instants: where the clock is set back, their names are not in order."""
    return tuple(
        datetime.fromisoformat(member).timestamp() if name == "hour" else member
        for name, member in zip(group_by, members, strict=True)
    )
