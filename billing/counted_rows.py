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

from billing.models import PriceAdjustment, SpendLog
from billing.pricing import COUNTS
from billing.rollups import OUTRUN, RANK_OF_END
from billing.spend_rows import COMPLETE, WITH_ESTIMATES

State = SpendLog.State
WAS_LOST = Q(state__in=(State.LATE, State.PARKED))
COUNTED = Q(state__in=(State.PRICED, State.UNPRICED, State.LOST, State.LATE)) | (
    Q(state=State.PARKED) & (Q(cost_pusd__isnull=False) | Q(lost_tokens__gt=0))
)
#: An attempt that the client got no answer of, as far as a row tells.
FAILED = WAS_LOST | ~Q(finish=COMPLETE) | ~Q(error_code="") | ~Q(status_code=200)
#: SQLite's SUM fails beyond 64 bits, so amounts are summed in two halves.
HALF = 10**6


class EpochSeconds(Func):
    """The whole seconds since 1970 of an instant. SQLite's own rounding of fractions is avoided."""

    output_field = BigIntegerField()
    template = "CAST(FLOOR(EXTRACT(EPOCH FROM %(expressions)s)) AS bigint)"

    def as_sqlite(self, compiler: Any, connection: Any, **context: Any) -> Any:
        template = "CAST(strftime('%%%%s', substr(%(expressions)s, 1, 19)) AS integer)"
        return self.as_sql(compiler, connection, template=template, **context)


def number_if(condition: Q, then: int = 1, default: int = 0) -> Case:
    return Case(When(condition, then=Value(then)), default=Value(default), output_field=BigIntegerField())


def count_if(condition: Q) -> Sum:
    return Sum(number_if(condition))


def tokens_of(name: str) -> Expression:
    estimate: Combinable = F("lost_tokens") if name == "input_tokens" else Value(0)
    return Case(When(WAS_LOST, then=estimate), default=F(name), output_field=BigIntegerField())


def cost_of_row() -> Combinable:
    """Picodollars of a row, 0 without a price."""
    first = Coalesce(F("cost_pusd"), Value(0), output_field=BigIntegerField())
    if not PriceAdjustment.objects.exists():
        return first
    adjustments = PriceAdjustment.objects.filter(spend_id=OuterRef("id")).order_by().values("spend_id")
    delta = Subquery(adjustments.annotate(delta=Sum("delta_pusd")).values("delta"), output_field=BigIntegerField())
    # A sum of PostgreSQL is numeric, which would not be divided as an integer
    return first + Cast(Coalesce(delta, Value(0), output_field=BigIntegerField()), BigIntegerField())


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


def sum_halves(cost: Combinable) -> dict[str, Sum]:
    return {"cost_high": Sum(cost / HALF), "cost_low": Sum(cost % HALF)}


def join_halves(row: Mapping[str, Any]) -> int:
    return int(row["cost_high"] or 0) * HALF + int(row["cost_low"] or 0)


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
