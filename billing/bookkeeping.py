"""Bookkeeping: prices metered rows and settles lost ones, each exactly once, with the hourly rollup in the same
transaction. Celery only starts it; the state of the rows says what is to be done."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import lru_cache
from typing import Any
from uuid import UUID

from django.db import connection, transaction
from django.db.models import QuerySet
from django.utils import timezone
from django_scopes import scopes_disabled

from billing.models import Price, SpendLog, Writer
from billing.pricing import COVERED_BY, PriceLines, cost
from gateway.protocol.call import Finish
from gateway.protocol.usage import Usage, UsageSource
from gateway.state import sql
from tenants.database import database_now, lock_rows

#: Small, because on SQLite the last byte of an answer waits for the whole batch.
BATCH_ROWS = 100
MAX_COST_PUSD = 2**62  # 4.6 million USD for one call: the usage is wrong, and sums would leave 64 bits
STALE = timedelta(seconds=6)  # three heartbeats; and as long again before a suspect is taken for dead
FORGET_WRITERS = timedelta(days=1)
CRASHED = {"finish": Finish.GATEWAY_CRASH.value, "usage_source": UsageSource.ESTIMATED.value}

Row = Mapping[str, Any]
TOKENS = tuple(COVERED_BY)
BUCKET = ("organization_id", "team_id", "user_id", "key_id", "model_group", "provider", "deployment_id")
SUMS = ("requests", "failures", "estimated", "unpriced", *TOKENS, "cost_pusd")
READ = ("id", "started_at", "price_id", "usage_source", "finish", *BUCKET, *TOKENS)
#: Adds to the sums of an hour's bucket.
_GROW = sql.fill(
    "INSERT INTO billing_usagehour ({columns}) VALUES ({marks}) ON CONFLICT ({bucket}) DO UPDATE SET {sums}",
    columns=sql.names(["hour", *BUCKET, *SUMS]),
    marks=", ".join(["%s"] * len(["hour", *BUCKET, *SUMS])),
    bucket=sql.names(["hour", *BUCKET]),
    sums=", ".join(f"{name} = billing_usagehour.{name} + excluded.{name}" for name in SUMS),
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The new state of one row."""

    id: UUID
    state: SpendLog.State
    cost_pusd: int | None
    error: str = ""


def price_pending(batch_rows: int = BATCH_ROWS) -> int:
    """Prices one batch of metered rows; returns how many. Several processes may price at the same time."""
    with scopes_disabled(), transaction.atomic():
        rows = _metered(batch_rows)
        if not rows:
            return 0
        outcomes = [_priced(row) for row in rows]
        _write(outcomes)
        _roll_up(zip(rows, outcomes, strict=True))
    return len(rows)


def sweep_open(batch_rows: int = BATCH_ROWS) -> int:
    """Settles the open rows of dead processes as lost, charged by their estimate; returns how many.

    A process is dead if its heartbeat is stale and stays stale after a sweep has suspected it: after an outage of the
    database every heartbeat is stale, and living processes need a moment for the next one.
    """
    with scopes_disabled(), transaction.atomic():
        now = database_now()
        writers = set(SpendLog.objects.filter(state="open").order_by().values_list("writer_id", flat=True).distinct())
        Writer.objects.filter(seen_at__lt=now - FORGET_WRITERS).exclude(id__in=writers).delete()
        if not writers:
            return 0
        existing = set(Writer.objects.filter(id__in=writers).values_list("id", flat=True))
        Writer.objects.bulk_create([Writer(id=name, seen_at=now) for name in writers - existing], ignore_conflicts=True)
        stale = Writer.objects.filter(id__in=writers, seen_at__lt=now - STALE)
        stale.filter(suspected_at=None).update(suspected_at=now)
        dead = stale.filter(suspected_at__lt=now - STALE).values_list("id", flat=True)
        rows = _locked(SpendLog.objects.filter(state="open", writer_id__in=list(dead)), batch_rows)
        rows = [{**row, **CRASHED} for row in rows]
        outcomes = [replace(_priced(row), state=SpendLog.State.LOST) for row in rows]
        _write(outcomes)
        SpendLog.objects.filter(id__in=[outcome.id for outcome in outcomes]).update(**CRASHED, ended_at=now)
        _roll_up(zip(rows, outcomes, strict=True))
    return len(rows)


def _metered(limit: int) -> list[Row]:
    return _locked(SpendLog.objects.filter(state="metered"), limit)


def _locked(rows: QuerySet[SpendLog], limit: int) -> list[Row]:
    return list(lock_rows(rows.order_by("id")).values(*READ)[:limit])


def _usage(row: Row) -> Usage:
    return Usage(**{name: row[name] for name in TOKENS})


@lru_cache(maxsize=4096)
def _price(price_id: str) -> PriceLines | None:
    """Price versions never change, so a process reads each once."""
    price = Price.objects.filter(id=price_id).first() if price_id else None
    return PriceLines.read(price.lines) if price is not None else None


def _priced(row: Row) -> Outcome:
    """The outcome of pricing a row. A row that cannot be priced gets the reason and never stops its batch."""
    try:
        pusd = cost(_usage(row), _price(str(row["price_id"])))
    except (ArithmeticError, ValueError) as error:
        return Outcome(row["id"], SpendLog.State.UNPRICED, None, f"the price cannot be read: {error}"[:255])
    if pusd is None:
        return Outcome(row["id"], SpendLog.State.UNPRICED, None, "no price covers this usage")
    if pusd >= MAX_COST_PUSD:
        return Outcome(row["id"], SpendLog.State.UNPRICED, None, "the cost is out of range")
    return Outcome(row["id"], SpendLog.State.PRICED, pusd)


def _write(outcomes: Sequence[Outcome]) -> None:
    now = timezone.now()
    adapt = connection.ops.adapt_datetimefield_value
    with connection.cursor() as cursor:
        cursor.executemany(
            "UPDATE billing_spendlog SET state = %s, cost_pusd = %s, price_error = %s, priced_at = %s WHERE id = %s",
            [(o.state.value, o.cost_pusd, o.error, adapt(now), _id(o.id)) for o in outcomes],
        )


def _id(value: UUID) -> str | UUID:
    return value if connection.features.has_native_uuid_field else value.hex


def _roll_up(settled: Iterable[tuple[Row, Outcome]]) -> None:
    buckets: dict[tuple[Any, ...], list[int]] = defaultdict(lambda: [0] * len(SUMS))
    for row, outcome in settled:
        hour = row["started_at"].replace(minute=0, second=0, microsecond=0)
        sums = buckets[(hour, *(row[name] for name in BUCKET))]
        values = (
            1,
            int(row["finish"] != "complete"),
            int(row["usage_source"] == "estimated"),
            int(outcome.cost_pusd is None),
            *(row[name] for name in TOKENS),
            outcome.cost_pusd or 0,
        )
        for index, value in enumerate(values):
            sums[index] += value
    adapt = connection.ops.adapt_datetimefield_value
    with connection.cursor() as cursor:
        cursor.executemany(
            _GROW,
            # sorted, so that two workers cannot deadlock
            [(adapt(key[0]), *key[1:], *sums) for key, sums in sorted(buckets.items(), key=lambda item: str(item[0]))],
        )
