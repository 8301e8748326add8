"""The spend rows that count, and what each of them adds to the hourly sums: pricing's own arithmetic, as SQL.

A row counts once it is settled. A late row, and one that was parked on its way from lost to priced, count as the lost
row that they were: by their estimate. The cost of a row is its first cost and its adjustments.
"""

from collections.abc import Mapping
from typing import Any

from django.db.models import (
    BigIntegerField,
    Case,
    Count,
    Exists,
    Expression,
    F,
    Func,
    OuterRef,
    Q,
    Subquery,
    Sum,
    Value,
    When,
)
from django.db.models.expressions import Combinable
from django.db.models.functions import Cast, Coalesce

from billing.latency import BOUNDS_MS
from billing.models import PriceAdjustment, SpendLog
from billing.pricing import COUNTS
from billing.rollups import OUTRUN, RANK_OF_END
from billing.spend_rows import CHARGED_AS_LOST, COMPLETE, WITH_ESTIMATES

State = SpendLog.State
WAS_LOST = Q(state__in=(State.LATE, State.PARKED))
COUNTED = Q(state__in=(State.PRICED, State.UNPRICED, State.LOST, State.LATE)) | (
    Q(state=State.PARKED) & (Q(cost_pusd__isnull=False) | Q(lost_tokens__gt=0))
)
#: An attempt that the client got no answer of, as far as a row tells.
FAILED = WAS_LOST | ~Q(finish=COMPLETE) | ~Q(error_code="") | ~Q(status_code=200)
#: SQLite's SUM fails beyond 64 bits, so amounts are summed in two halves.
HALF = 10**6
MS = 1000  # microseconds


class EpochSeconds(Func):
    """The whole seconds since 1970 of an instant. SQLite's own rounding of fractions is avoided."""

    output_field = BigIntegerField()
    template = "CAST(FLOOR(EXTRACT(EPOCH FROM %(expressions)s)) AS bigint)"

    def as_sqlite(self, compiler: Any, connection: Any, **context: Any) -> Any:
        template = "CAST(strftime('%%%%s', substr(%(expressions)s, 1, 19)) AS integer)"
        return self.as_sql(compiler, connection, template=template, **context)


class EpochMicroseconds(Func):
    """The microseconds since 1970 of an instant. Exact."""

    output_field = BigIntegerField()
    template = "CAST(EXTRACT(EPOCH FROM %(expressions)s) * 1000000 AS bigint)"

    def as_sqlite(self, compiler: Any, connection: Any, **context: Any) -> Any:
        template = (
            "(CAST(strftime('%%%%s', substr(%(expressions)s, 1, 19)) AS integer) * 1000000"
            " + CAST(substr(%(expressions)s, 21, 6) AS integer))"
        )
        return self.as_sql(compiler, connection, template=template, **context)


def elapsed_us(end: str) -> Combinable:
    """Microseconds from the start of a row to an instant in one of its columns."""
    return EpochMicroseconds(end) - EpochMicroseconds("started_at")


def slot_of_time(metric: str, column: str) -> Case:
    """The place of a time among the slots of its metric, as `billing.latency.find_slot` counts. `column`: the time in
    microseconds."""
    whens = [
        When(**{f"{column}__lt": (bound + 1) * MS}, then=Value(place)) for place, bound in enumerate(BOUNDS_MS[metric])
    ]
    return Case(*whens, default=Value(len(whens)), output_field=BigIntegerField())


def number_if(condition: Q, then: int = 1, default: int = 0) -> Case:
    return Case(When(condition, then=Value(then)), default=Value(default), output_field=BigIntegerField())


def count_if(condition: Q) -> Sum:
    return Sum(number_if(condition))


def tokens_of(name: str) -> Expression:
    estimate: Combinable = F("lost_tokens") if name == "input_tokens" else Value(0)
    return Case(When(WAS_LOST, then=estimate), default=F(name), output_field=BigIntegerField())


def cost_of_row() -> Combinable:
    """Picodollars of a row, 0 without a price."""
    return _adjust(_first_cost(), "delta_pusd")


def margin_of_row() -> Combinable:
    """Picodollars that a row costs beyond what its provider is paid."""
    return _adjust(_first_margin(), "margin_delta_pusd")


def cache_saving_of_row() -> Combinable:
    """Picodollars that the prompt cache saved of a row."""
    return _adjust(_first_saving(), "cache_saving_delta_pusd")


def _first_cost() -> Coalesce:
    return Coalesce(F("cost_pusd"), Value(0), output_field=BigIntegerField())


def _first_margin() -> Coalesce:
    return Coalesce(F("cost_pusd") - F("provider_cost_pusd"), Value(0), output_field=BigIntegerField())


def _first_saving() -> Coalesce:
    return Coalesce(F("cache_saving_pusd"), Value(0), output_field=BigIntegerField())


def _adjust(first: Coalesce, column: str) -> Combinable:
    """An amount of a row with what its adjustments change of it."""
    return first + _adjustments_of_row(column) if PriceAdjustment.objects.exists() else first


def _adjustments_of_row(column: str) -> Combinable:
    """The sum of a column of its adjustments; 0 without any."""
    adjustments = PriceAdjustment.objects.filter(spend_id=OuterRef("id")).order_by().values("spend_id")
    delta = Subquery(adjustments.annotate(delta=Sum(column)).values("delta"), output_field=BigIntegerField())
    # A sum of PostgreSQL is numeric, which would not be divided as an integer
    return Cast(Coalesce(delta, Value(0), output_field=BigIntegerField()), BigIntegerField())


def rank_of_row() -> Case:
    """The place of an attempt among those of its request; one that another has outrun is behind all others."""
    return Case(
        When(Q(error_code=OUTRUN) & ~WAS_LOST, then=F("attempt")),
        default=F("attempt") + RANK_OF_END,
        output_field=BigIntegerField(),
    )


def is_end_of_request() -> Q:
    """A condition of rows that are annotated with their `rank`: no other attempt of the request is behind it."""
    others = SpendLog.objects.filter(~Q(attempt=OuterRef("attempt")), request_id=OuterRef("request_id"))
    later = others.filter(COUNTED).annotate(rank=rank_of_row()).filter(rank__gt=OuterRef("rank"))
    return ~Q(Exists(later))


def sum_halves(amount: Combinable, name: str = "cost") -> dict[str, Sum]:
    return {f"{name}_high": Sum(amount / HALF), f"{name}_low": Sum(amount % HALF)}


def join_halves(row: Mapping[str, Any], name: str = "cost") -> int:
    return int(row[f"{name}_high"] or 0) * HALF + int(row[f"{name}_low"] or 0)


def sum_extras_of_rows() -> dict[str, Sum]:
    """The aggregates of EXTRAS of rows: read them with `read_extras`."""
    return {
        "sum_cache_hits": _cache_hits(),
        **sum_halves(cache_saving_of_row(), "saving"),
        **sum_halves(margin_of_row(), "margin"),
    }


def sum_first_amounts() -> dict[str, Sum]:
    """The amounts of rows and their cache hits as they were priced first, without adjustments."""
    return {
        "sum_cache_hits": _cache_hits(),
        **sum_halves(_first_cost()),
        **sum_halves(_first_saving(), "saving"),
        **sum_halves(_first_margin(), "margin"),
    }


def sum_adjustments() -> dict[str, Sum]:
    """What adjustments change of the amounts of rows: for rows that have any, each is looked for by itself."""
    return {
        **sum_halves(_adjustments_of_row("delta_pusd")),
        **sum_halves(_adjustments_of_row("cache_saving_delta_pusd"), "saving"),
        **sum_halves(_adjustments_of_row("margin_delta_pusd"), "margin"),
    }


def has_adjustments() -> Q:
    return Q(id__in=PriceAdjustment.objects.order_by().values("spend_id"))


def _cache_hits() -> Sum:
    return count_if(Q(cache_hit=True) & ~Q(state__in=CHARGED_AS_LOST))


def sum_extras_of_sums() -> dict[str, Sum]:
    """The same of a rollup's sums."""
    return {
        "sum_cache_hits": Sum("cache_hits"),
        **sum_halves(F("cache_saving_pusd"), "saving"),
        **sum_halves(F("margin_pusd"), "margin"),
    }


def read_extras(row: Mapping[str, Any]) -> tuple[int, ...]:
    """In the order of EXTRAS."""
    return int(row.get("sum_cache_hits") or 0), join_halves(row, "saving"), join_halves(row, "margin")


def sum_tokens() -> dict[str, Sum]:
    return {f"sum_{name}": Sum(tokens_of(name)) for name in COUNTS}


def sum_rows() -> dict[str, Expression]:
    """The aggregates of all that an hour's bucket sums: read them with `read_sums`."""
    return {
        "requests": Count("id"),
        "failures": count_if(WAS_LOST | ~Q(finish=COMPLETE)),
        "estimated": count_if(WAS_LOST | Q(usage_source__in=WITH_ESTIMATES)),
        "unpriced": count_if(Q(cost_pusd__isnull=True)),
        **sum_tokens(),
        **sum_halves(cost_of_row()),
    }


def read_sums(row: Mapping[str, Any]) -> tuple[int, ...]:
    """In the order of bookkeeping's SUMS."""
    counts = [int(row[name] or 0) for name in ("requests", "failures", "estimated", "unpriced")]
    return (*counts, *(int(row[f"sum_{name}"] or 0) for name in COUNTS), join_halves(row))
