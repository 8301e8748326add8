"""The check of the rollups: quarters of an hour against the spend rows, and days against their quarters.

The rows are summed by the database, and not by the code that writes the rollups. Of latency only the number of the
attempts that were timed is compared.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, time
from typing import Any

from django.db.models import Count, F, Q, QuerySet, Sum
from django.db.models.expressions import Combinable
from django.db.models.functions import Coalesce

from billing.counted_rows import (
    COUNTED,
    FAILED,
    WAS_LOST,
    EpochSeconds,
    cost_of_row,
    count_if,
    is_end_of_request,
    join_halves,
    number_if,
    rank_of_row,
    read_extras,
    sum_extras_of_rows,
    sum_extras_of_sums,
    sum_halves,
    sum_tokens,
)
from billing.latency import COLUMNS, SLOTS
from billing.models import SpendLog, UsageCoverage, UsageDay, UsageQuarter
from billing.pricing import COUNTS
from billing.retention import rows_complete_from
from billing.rollup_rebuild import DAY
from billing.rollups import MEASURES, SERIES
from billing.row_ids import first_id
from billing.sides import Bucket, Disagreement, Sums, by_number, join_sides, stream
from billing.spend_rows import WITH_ESTIMATES

QUARTER_S, DAY_S = 900, 86_400
NAMES = (*MEASURES, "timed attempts")
NOTHING: Sums = (0,) * len(NAMES)
ALL = Q()
_COUNTS = ("requests", "attempts", "estimated", "unpriced")


def find_wrong_sums() -> Iterator[tuple[date, Disagreement]]:
    """The days of UTC with sums that differ."""
    coverage = UsageCoverage.objects.first()
    if coverage is None:
        return
    begin = first_checked(coverage.complete_from)
    quarters = UsageQuarter.objects.filter(starts_at__gte=begin)
    yield from _compare("quarter", QUARTER_S, _sum_rows(begin), _sum_rollup(quarters, QUARTER_S, SLOTS["duration"]))
    days = UsageDay.objects.filter(starts_at__gte=begin)
    yield from _compare("day", DAY_S, _sum_rollup(quarters, DAY_S, COLUMNS), _sum_rollup(days, DAY_S, COLUMNS))


def first_checked(complete_from: date) -> datetime:
    """The first day of complete rollups whose requests have no attempt that has been deleted."""
    kept_from = rows_complete_from()
    first = complete_from if kept_from is None else max(complete_from, kept_from.astimezone(UTC).date() + DAY)
    return datetime.combine(first, time.min, UTC)


def _compare(
    unit: str, unit_s: int, some: Iterable[tuple[int, Bucket, Sums]], others: Iterable[tuple[int, Bucket, Sums]]
) -> Iterator[tuple[date, Disagreement]]:
    for number, expected, found in join_sides(by_number(some), by_number(others)):
        begin = datetime.fromtimestamp(number * unit_s, UTC)
        for disagreement in compare_sums(f"{unit} {begin:%Y-%m-%dT%H:%M}Z", expected, found):
            yield begin.date(), disagreement


def compare_sums(where: str, expected: Mapping[Bucket, Sums], found: Mapping[Bucket, Sums]) -> Iterator[Disagreement]:
    for bucket in sorted({*expected, *found}):
        of = f"{where} of {'/'.join(name or '-' for name in bucket)}"
        pairs = zip(NAMES, expected.get(bucket, NOTHING), found.get(bucket, NOTHING), strict=True)
        yield from (Disagreement(of, name, one, other) for name, one, other in pairs if one != other)


def _sum_rows(begin: datetime) -> Iterator[tuple[int, Bucket, Sums]]:
    for row in stream(group_rows(begin, QUARTER_S).order_by("number")):
        yield row["number"], series_of(row), sums_of(row)


def group_rows(begin: datetime, unit_s: int, *also: str, where: Q = ALL) -> QuerySet[Any, Any]:
    """The rows since then by the `number` of their unit, their series and further columns."""
    rows = SpendLog.objects.filter(COUNTED, where, id__gte=first_id(begin - DAY), started_at__gte=begin)
    keys: dict[str, Combinable] = {
        "number": EpochSeconds("started_at") / unit_s,
        "failed": number_if(FAILED),
        "rank": rank_of_row(),
    }
    groups: QuerySet[Any, Any] = rows.order_by().annotate(**keys).values("number", *SERIES[:-1], "failed", *also)
    found: QuerySet[Any, Any] = groups.annotate(
        attempts=Count("id"),
        requests=count_if(is_end_of_request()),
        estimated=count_if(WAS_LOST | Q(usage_source__in=WITH_ESTIMATES)),
        unpriced=count_if(Q(cost_pusd__isnull=True)),
        timed=count_if(~FAILED & Q(ended_at__isnull=False)),
        **sum_tokens(),
        **sum_halves(cost_of_row()),
        **sum_extras_of_rows(),
    )
    return found


def series_of(row: Mapping[str, Any]) -> Bucket:
    return (*(row[name] for name in SERIES[:-1]), "failure" if row["failed"] else "success")


def _sum_rollup(sums: QuerySet[Any, Any], unit_s: int, timed: Sequence[str]) -> Iterator[tuple[int, Bucket, Sums]]:
    sums = sums.annotate(number=EpochSeconds("starts_at") / unit_s).order_by("number")
    for row in stream(group_sums(sums, "number", timed=timed)):
        yield row["number"], series_of_sums(row), sums_of({**row, **counts_of_sums(row)})


def group_sums(sums: QuerySet[Any, Any], *by: str, timed: Sequence[str]) -> QuerySet[Any, Any]:
    """Sums of a rollup by their series and further columns. `timed`: the columns of latency that count the attempts."""
    groups = sums.annotate(**{f"of_{name}": F(f"series__{name}") for name in SERIES})
    found: QuerySet[Any, Any] = groups.values(*by, *(f"of_{name}" for name in SERIES)).annotate(
        **{f"sum_{name}": Sum(name) for name in (*_COUNTS, *COUNTS)},
        timed=sum((Coalesce(Sum(name), 0) for name in timed[1:]), Coalesce(Sum(timed[0]), 0)),
        **sum_halves(F("cost_pusd")),
        **sum_extras_of_sums(),
    )
    return found


def series_of_sums(row: Mapping[str, Any]) -> Bucket:
    *texts, is_failure = (row[f"of_{name}"] for name in SERIES)
    return (*texts, "failure" if is_failure else "success")


def counts_of_sums(row: Mapping[str, Any]) -> dict[str, int]:
    return {name: row[f"sum_{name}"] for name in _COUNTS}


def sums_of(row: Mapping[str, Any]) -> Sums:
    """In the order of NAMES."""
    counts = (row[name] for name in _COUNTS)
    return (*counts, *(row[f"sum_{name}"] for name in COUNTS), join_halves(row), *read_extras(row), row["timed"])
