"""The gateway's own days of each model: sums of the rollups, and what the rows tell about how sure they are.

Costs are those of the provider: without the margin of a contract.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from itertools import islice
from typing import Any

from django.db.models import Count, Q, QuerySet
from django.db.models.expressions import RawSQL

from billing.bookkeeping import find_base_id, find_lines
from billing.catalogue.lines import Rate
from billing.counted_rows import (
    COUNTED,
    WAS_LOST,
    EpochSeconds,
    sum_tokens,
)
from billing.models import SpendLog, UsageSeries
from billing.pricing import COUNTS
from billing.reconciliation.comparison import Ours, Place
from billing.reconciliation.lines import Component
from billing.reports.period import DAY_S, Period
from billing.reports.query import ReportQuery
from billing.reports.spend import COUNTERS, SLACK, Sums, report_spend
from billing.repricing import WITHOUT_COST
from billing.row_ids import first_id
from billing.spend_rows import WITH_ESTIMATES

_COMPONENTS: Mapping[str, Component] = {
    "input_tokens": Component.INPUT,
    "input_audio_tokens": Component.INPUT_AUDIO,
    "cache_read_tokens": Component.CACHE_READ,
    "cache_write_5m_tokens": Component.CACHE_WRITE,
    "cache_write_1h_tokens": Component.CACHE_WRITE,
    "output_tokens": Component.OUTPUT,
    "output_audio_tokens": Component.OUTPUT_AUDIO,
    "reasoning_tokens": Component.OUTPUT,
}
_ATTEMPTS, _ESTIMATED, _UNPRICED = (COUNTERS.index(name) for name in ("attempts", "estimated", "unpriced"))
#: As literals and with the very conditions of the indexes, without which SQLite does not see that its partial indexes
#: have these rows.
_METERED = Q(state=RawSQL("'metered'", []))
_IN_ODD_STATE = Q(state__in=[RawSQL("'aborted'", []), RawSQL("'lost'", []), RawSQL("'parked'", [])])
_UNCOUNTED = _IN_ODD_STATE & Q(state="parked", cost_pusd=None, lost_tokens=0)
_EPOCH = date(1970, 1, 1)
#: A call that runs longer than this before midnight is not looked for.
LONGEST_CALL = timedelta(hours=2)
DAYS_PER_QUERY = 31


@dataclass(frozen=True, slots=True)
class SpendRows:
    """The rows of the spend log and the series of the rollups that the reader may see: all of them."""

    rows: QuerySet[SpendLog]
    series: QuerySet[UsageSeries]


def read_ours(
    spend: SpendRows, period: Period, providers: Collection[str], names: Mapping[str, str]
) -> dict[Place, Ours]:
    """`period`: days of UTC; `names`: upstream model → the name under which it is compared. Raises BadRequest where
    the days have too many models."""
    found: dict[Place, Ours] = defaultdict(Ours)
    rows = spend.rows.filter(provider__in=providers)
    series = spend.series.filter(provider__in=providers)
    report = report_spend(rows, ReportQuery(period, ("day", "upstream_model")), series=series, param="end_date")
    for (day, model), sums in report.rows:
        _add_sums(found[date.fromisoformat(day), names.get(model, model)], sums)
    within = rows.filter(started_at__gte=period.starts_at, started_at__lt=period.ends_at)
    _add_details(found, _Details(within, names), report.total, period)
    return dict(found)


def find_rates(
    spend: SpendRows, providers: Collection[str], day: date, models: Collection[str]
) -> dict[Component, Rate]:
    """Picodollars a token that the provider is paid by the price of the day's first priced call, in the standard tier.
    `models`: upstream models."""
    begin = datetime.combine(day, time.min, UTC)
    end = begin + timedelta(days=1)
    rows = spend.rows.filter(
        id__gte=first_id(begin), id__lt=first_id(end), provider__in=providers, upstream_model__in=models, state="priced"
    )
    price_id = rows.exclude(price_id="").order_by("id").values_list("price_id", flat=True).first()
    price = find_lines(find_base_id(price_id) or price_id) if price_id else None
    if price is None:
        return {}
    rates = zip(COUNTS, price.per_token, strict=True)
    return {
        component: rate for name, rate in reversed(list(rates)) if (component := _COMPONENTS[name]) and rate is not None
    }


def _add_sums(ours: Ours, sums: Sums) -> None:
    ours.pusd += sums.cost_pusd - sums.margin_pusd  # what the provider is paid
    ours.attempts += sums.counts[_ATTEMPTS]
    ours.estimated_attempts += sums.counts[_ESTIMATED]
    ours.tokens.update(_by_component(dict(zip(COUNTS, sums.tokens, strict=True))))


def _add_details(found: dict[Place, Ours], details: "_Details", total: Sums, period: Period) -> None:
    """The rows are read only for what the sums say that there is. All rows of the period are looked through for
    estimates alone: the other conditions have an index of few rows, which a database would not take beside bounds of
    the primary key, or such bounds of their own."""
    if total.counts[_UNPRICED]:
        for place, tokens in details.group([WITHOUT_COST]):
            found[place].unpriced.update(tokens)
    if total.counts[_ESTIMATED]:
        ids = Q(id__gte=first_id(period.starts_at - SLACK), id__lt=first_id(period.ends_at + SLACK))
        for place, tokens in details.group([ids & COUNTED & (WAS_LOST | Q(usage_source__in=WITH_ESTIMATES))]):
            found[place].estimated.update(tokens)
    for condition in (_METERED, _UNCOUNTED):
        for place, tokens in details.group([condition]):
            found[place].unsettled.update(tokens)
    midnights = _find_midnights(period)
    while windows := list(islice(midnights, DAYS_PER_QUERY)):
        for place, tokens in details.group(windows):
            found[place].crossing.update(tokens)


def _find_midnights(period: Period) -> Iterator[Q]:
    """For each day the condition of the rows that began before its end and ended after it."""
    day = period.start
    while day <= period.end:
        midnight = datetime.combine(day + timedelta(days=1), time.min, UTC)
        ids = Q(id__gte=first_id(midnight - LONGEST_CALL), id__lt=first_id(midnight))
        yield ids & COUNTED & Q(started_at__lt=midnight, ended_at__gte=midnight)
        day += timedelta(days=1)


class _Details:
    def __init__(self, rows: QuerySet[SpendLog], names: Mapping[str, str]) -> None:
        self._rows, self._names = rows, names

    def group(self, conditions: Sequence[Q]) -> Iterator[tuple[Place, Counter[Component]]]:
        """Each condition is a query of its own within one statement: of a disjunction SQLite reads all rows."""
        first, *others = [self._group(condition).annotate(**sum_tokens()) for condition in conditions]
        groups = first.union(*others, all=True) if others else first
        for row in groups.iterator(chunk_size=2_000):
            yield self._place_of(row), _by_component({name: int(row[f"sum_{name}"] or 0) for name in COUNTS})

    def _group(self, condition: Q) -> QuerySet[Any, Any]:
        days: QuerySet[Any, Any] = self._rows.filter(condition).order_by()
        days = days.annotate(of_day=EpochSeconds("started_at") / DAY_S).values("of_day", "upstream_model")
        grouped: QuerySet[Any, Any] = days.annotate(count=Count("id"))
        return grouped

    def _place_of(self, row: Mapping[str, Any]) -> Place:
        model = row["upstream_model"]
        return _EPOCH + timedelta(days=int(row["of_day"])), self._names.get(model, model)


def _by_component(tokens: Mapping[str, int]) -> Counter[Component]:
    found: Counter[Component] = Counter()
    for name, count in tokens.items():
        found[_COMPONENTS[name]] += count
    return found
