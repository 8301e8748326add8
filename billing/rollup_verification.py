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
_COUNTS = ("requests", "attempts", "estimated", "unpriced")


def find_wrong_sums() -> Iterator[tuple[date, Disagreement]]:
    """The days of UTC with sums that differ."""
    coverage = UsageCoverage.objects.first()
    if coverage is None:
        return
    begin = datetime.combine(coverage.complete_from, time.min, UTC)
    kept_from = rows_complete_from()
    if kept_from is not None:  # the first day whose requests have no attempt that has been deleted
        begin = max(begin, datetime.combine(kept_from.astimezone(UTC).date() + DAY, time.min, UTC))
    quarters = UsageQuarter.objects.filter(starts_at__gte=begin)
    yield from _compare("quarter", QUARTER_S, _sum_rows(begin), _sum_rollup(quarters, QUARTER_S, SLOTS["duration"]))
    days = UsageDay.objects.filter(starts_at__gte=begin)
    yield from _compare("day", DAY_S, _sum_rollup(quarters, DAY_S, COLUMNS), _sum_rollup(days, DAY_S, COLUMNS))


def _compare(
    unit: str, unit_s: int, some: Iterable[tuple[int, Bucket, Sums]], others: Iterable[tuple[int, Bucket, Sums]]
) -> Iterator[tuple[date, Disagreement]]:
    for number, expected, found in join_sides(by_number(some), by_number(others)):
        begin = datetime.fromtimestamp(number * unit_s, UTC)
        for series in sorted({*expected, *found}):
            where = f"{unit} {begin:%Y-%m-%dT%H:%M}Z of {'/'.join(name or '-' for name in series)}"
            pairs = zip(NAMES, expected.get(series, NOTHING), found.get(series, NOTHING), strict=True)
            for name, one, other in pairs:
                if one != other:
                    yield begin.date(), Disagreement(where, name, one, other)


def _sum_rows(begin: datetime) -> Iterator[tuple[int, Bucket, Sums]]:
    rows: QuerySet[Any, Any] = SpendLog.objects.filter(COUNTED, id__gte=first_id(begin - DAY), started_at__gte=begin)
    keys: dict[str, Combinable] = {
        "number": EpochSeconds("started_at") / QUARTER_S,
        "failed": number_if(FAILED),
        "rank": rank_of_row(),
    }
    groups = rows.annotate(**keys).order_by("number").values("number", *SERIES[:-1], "failed")
    found = groups.annotate(
        attempts=Count("id"),
        requests=count_if(is_end_of_request()),
        estimated=count_if(WAS_LOST | Q(usage_source__in=WITH_ESTIMATES)),
        unpriced=count_if(Q(cost_pusd__isnull=True)),
        timed=count_if(~FAILED & Q(ended_at__isnull=False)),
        **sum_tokens(),
        **sum_halves(cost_of_row()),
    )
    for row in stream(found):
        series = (*(row[name] for name in SERIES[:-1]), "failure" if row["failed"] else "success")
        yield row["number"], series, _sums_of(row)


def _sum_rollup(sums: QuerySet[Any, Any], unit_s: int, timed: Sequence[str]) -> Iterator[tuple[int, Bucket, Sums]]:
    dimensions = {f"of_{name}": F(f"series__{name}") for name in SERIES}
    groups = sums.annotate(number=EpochSeconds("starts_at") / unit_s, **dimensions).order_by("number")
    found = groups.values("number", *dimensions).annotate(
        **{f"sum_{name}": Sum(name) for name in (*_COUNTS, *COUNTS)},
        timed=sum((Coalesce(Sum(name), 0) for name in timed[1:]), Coalesce(Sum(timed[0]), 0)),
        **sum_halves(F("cost_pusd")),
    )
    for row in stream(found):
        *texts, is_failure = (row[name] for name in dimensions)
        sums_of = {name: row[f"sum_{name}"] for name in _COUNTS}
        yield row["number"], (*texts, "failure" if is_failure else "success"), _sums_of({**row, **sums_of})


def _sums_of(row: Mapping[str, Any]) -> Sums:
    """In the order of NAMES."""
    counts = (row[name] for name in _COUNTS)
    return (*counts, *(row[f"sum_{name}"] for name in COUNTS), join_halves(row), row["timed"])
