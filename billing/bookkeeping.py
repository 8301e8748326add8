"""Bookkeeping: prices metered rows, settles lost ones and corrects late ones, each exactly once, with the hourly sums
and the rollups in the same transaction. Celery only starts it; the state of the rows says what is to be done."""

import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import lru_cache
from uuid import UUID

from django.db import DataError, IntegrityError, connection, transaction
from django.utils import timezone
from django_scopes import scopes_disabled

from billing.call_context import make_context, read_raw_usage
from billing.grow import grow_sums
from billing.models import Price, SpendLog, Writer
from billing.pricing import (
    MAX_COST_PUSD,
    MAX_PROVIDER_COST_PUSD,
    MAX_SAVING_PUSD,
    NO_CONTEXT,
    PriceContext,
    PriceLines,
    cache_saving,
    count_cost,
)
from billing.rollups import Requests, count_outcomes, hold_requests
from billing.spend_rows import (
    BUCKET,
    CRASHED,
    SUMS,
    Outcome,
    Row,
    find_margin,
    read_instant,
    read_rows,
    sum_lost,
    sum_row,
)
from billing.tag_index import index_tags
from gateway.state import sql
from tenants.budget_store import WindowCost, add_spend, return_leases_of, settle_costs
from tenants.database import database_now
from tenants.end_users import FirstSights
from tenants.models import BudgetLease, Scope
from tenants.rules import member_scope_id

logger = logging.getLogger(__name__)

#: Small, because on SQLite the last byte of an answer waits for the whole batch.
BATCH_ROWS = 100
#: Three heartbeats; and as long again before a suspect is taken for dead. With a sweep a second, the open rows of a
#: process that was killed are settled within ten seconds, and a stall of five seconds is survived.
STALE = timedelta(seconds=3)
FORGET_WRITERS = timedelta(days=1)
#: The database refuses what a row holds: a sum that leaves its range.
UNFIT = (DataError, IntegrityError, OverflowError)

_COST = SUMS.index("cost_pusd")

FIRST_SIGHTS = FirstSights()

State = SpendLog.State

_WRITE = (
    "UPDATE billing_spendlog SET state = %s, price_error = %s, priced_at = %s, cost_pusd = %s, "
    "provider_cost_pusd = %s, cache_saving_pusd = %s WHERE id = %s"
)
#: The same for all rows of one state and error, in one statement.
_WRITE_BATCH = (
    "UPDATE billing_spendlog AS s SET state = %s, price_error = %s, priced_at = %s, cost_pusd = v.cost_pusd, "
    "provider_cost_pusd = v.provider_cost_pusd, cache_saving_pusd = v.cache_saving_pusd "
    "FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::uuid[]) "
    "AS v(cost_pusd, provider_cost_pusd, cache_saving_pusd, id) WHERE s.id = v.id"
)


def price_pending(batch_rows: int = BATCH_ROWS) -> int:
    """Prices one batch of metered rows; returns how many. Several processes may price at the same time."""
    return _settle_in_parts(_price_rows, batch_rows)


def _price_rows(batch_rows: int) -> int:
    with scopes_disabled(), transaction.atomic():
        rows = read_rows("state = 'metered'", batch_rows)
        free, requests = hold_requests(rows)
        _settle([_price_row(row) for row in free], requests)
    FIRST_SIGHTS.create_rows([(row.bucket[0], row.end_user) for row in rows])
    return len(rows)


def correct_lost(batch_rows: int = BATCH_ROWS) -> int:
    """Prices rows that their process closed after they were settled as lost, and takes what they were charged out of
    the sums; returns how many."""
    return _settle_in_parts(_correct_rows, batch_rows)


def _correct_rows(batch_rows: int) -> int:
    with scopes_disabled(), transaction.atomic():
        rows = read_rows("state = 'late'", batch_rows)
        free, requests = hold_requests(rows)
        outcomes = [_correct_row(row) for row in free]
        _settle(outcomes, requests)
    for outcome in outcomes:
        logger.warning(
            "a spend row that was charged as lost is corrected",
            extra={
                "spend_id": str(outcome.row.id),
                "charged_pusd": outcome.row.cost_pusd,
                "cost_pusd": outcome.cost_pusd,
            },
        )
    if rows:
        logger.warning("spend rows charged as lost were corrected", extra={"rows": len(rows)})
    return len(rows)


def sweep_open(batch_rows: int = BATCH_ROWS) -> int:
    """Settles the open rows of dead processes as lost, charged by their estimate; returns how many.

    A process is dead if its heartbeat is stale and stays stale after a sweep has suspected it: after an outage of the
    database every heartbeat is stale, and living processes need a moment for the next one.
    """
    return _settle_in_parts(_sweep_rows, batch_rows)


def _sweep_rows(batch_rows: int) -> int:
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
        dead = list(stale.filter(suspected_at__lt=now - STALE).values_list("id", flat=True))
        if not dead:
            return 0
        marks = ", ".join(["%s"] * len(dead))
        rows = read_rows(sql.fill("state = 'open' AND writer_id IN ({marks})", marks=marks), batch_rows, *dead)
        rows = [row._replace(finish=CRASHED["finish"], usage_source=CRASHED["usage_source"]) for row in rows]
        free, requests = hold_requests(rows)
        priced = [_price_row(row) for row in free]
        outcomes = [replace(each, state=State.LOST, extras=(0, *each.extras[1:])) for each in priced]
        _settle(outcomes, requests)
        SpendLog.objects.filter(id__in=[outcome.row.id for outcome in outcomes]).update(**CRASHED, ended_at=now)
    return len(rows)


def return_dead_leases() -> int:
    """Returns to their budgets what dead processes have leased, once all of their calls are settled; returns how many
    processes that were."""
    with scopes_disabled():
        now = database_now()
        writers = set(BudgetLease.objects.order_by().values_list("writer_id", flat=True).distinct())
        stale = Writer.objects.filter(id__in=writers, seen_at__lt=now - STALE, suspected_at=None)
        stale.update(suspected_at=now)
        dead = _find_dead(writers)
        if not dead:
            return 0
        unsettled = SpendLog.objects.filter(writer_id__in=dead, state__in=(State.OPEN, State.METERED, State.LATE))
        settled = dead.difference(unsettled.order_by().values_list("writer_id", flat=True).distinct())
        return_leases_of(settled, _find_dead)
    return len(settled)


def _find_dead(writers: Collection[str]) -> set[str]:
    """Those of the processes whose heartbeat stayed stale after it was suspected, or that are forgotten."""
    end = database_now() - STALE
    living = Writer.objects.filter(id__in=writers).exclude(seen_at__lt=end, suspected_at__lt=end)
    return set(writers).difference(living.values_list("id", flat=True))


@lru_cache(maxsize=4096)
def find_lines(price_id: str) -> PriceLines | None:
    """Price versions never change, so a process reads each once."""
    price = Price.objects.filter(id=price_id).first() if price_id else None
    return PriceLines.read(price.lines) if price is not None else None


@lru_cache(maxsize=4096)
def find_base_id(price_id: str) -> str:
    """The version that the provider is paid by, of a contract; empty for other prices."""
    found = Price.objects.filter(id=price_id).values_list("base_price_id", flat=True).first() if price_id else None
    return found or ""


def _price_row(row: Row) -> Outcome:
    """The outcome of pricing a row. A row that cannot be priced gets the reason and never stops its batch; one that
    another line priced in part gets a note of it."""
    error = ""
    if row.cache_hit:
        sums = sum_row(row.finish, row.usage_source, row.tokens, 0)
        return Outcome(row, State.PRICED, 0, "", sums, extras=(1, 0, 0))
    provider_pusd, saving = None, None
    try:
        price = find_lines(row.price_id)
        context = context_of(row, price)
        pusd = count_cost(row.tokens, price, context)
    except (ArithmeticError, ValueError) as failure:
        pusd, error = None, f"the price cannot be read: {failure}"[:255]
    else:
        if pusd is None:
            error = "no price covers this usage"
        elif pusd >= MAX_COST_PUSD:
            pusd, error = None, "the cost is out of range"
        elif price is not None:
            error = price.describe_stand_ins(row.tokens, context)[:255]
            provider_pusd = find_provider_cost(row, row.price_id)
            saving = find_cache_saving(row, price, context)
    state = State.UNPRICED if pusd is None else State.PRICED
    sums = sum_row(row.finish, row.usage_source, row.tokens, pusd)
    extras = (0, saving or 0, find_margin(pusd, provider_pusd))
    return Outcome(row, state, pusd, error, sums, provider_pusd, saving, extras)


def find_provider_cost(row: Row, price_id: str) -> int | None:
    """Picodollars that the provider is paid for a row which is charged by this price; None where they are the cost
    itself, unknown, or out of range: an upstream may report any number of searches that the tenant does not pay."""
    base_id = find_base_id(price_id)
    if not base_id:
        return None
    try:
        price = find_lines(base_id)
        pusd = count_cost(row.tokens, price, context_of(row, price))
    except (ArithmeticError, ValueError):
        return None
    return pusd if pusd is None or pusd < MAX_PROVIDER_COST_PUSD else None


def find_cache_saving(row: Row, price: PriceLines | None, context: PriceContext) -> int | None:
    """Picodollars that the prompt cache saved of a row; None where nothing was cached, or where it is more than one
    call can save."""
    saving = cache_saving(row.tokens, price, context)
    return saving if saving is None or abs(saving) < MAX_SAVING_PUSD else None


def context_of(row: Row, price: PriceLines | None) -> PriceContext:
    if price is None or price.is_plain:
        return NO_CONTEXT
    ended_at = None if row.ended_at is None else read_instant(row.ended_at)
    return make_context(row.service_tier, read_instant(row.started_at), ended_at, read_raw_usage(price, row.usage))


def _correct_row(row: Row) -> Outcome:
    """The outcome of pricing a late row; its sums are what has changed since it was settled as lost."""
    outcome, charged = _price_row(row), sum_lost(row)
    sums = tuple(new - old for new, old in zip(outcome.sums, charged, strict=True))
    return replace(outcome, sums=sums, charged=charged)


def _settle_in_parts(settle: Callable[[int], int], batch_rows: int) -> int:
    """Settles so many rows in one transaction. Where the database refuses them, fewer are settled at a time, until the
    one row is found that it refuses: it is parked, and no other one waits for it. Each part has a transaction of its
    own, because the sums are locked in one order: two parts in one could meet another worker in a deadlock."""
    done, size = 0, batch_rows
    while size:
        try:
            count = settle(size)
        except UNFIT:
            if size == 1:
                raise
            size //= 2
            continue
        done += count
        if count < size:
            break
        size = min(2 * size, batch_rows - done)
    return done


def _settle(outcomes: Sequence[Outcome], requests: Requests) -> None:
    """Writes rows and their sums. A row that the database refuses is parked where it is alone; else one of UNFIT is
    raised."""
    if not outcomes:
        return
    if len(outcomes) > 1:
        _write_sums(outcomes, requests)
        return
    try:
        with transaction.atomic():
            _write_sums(outcomes, requests)
    except UNFIT as error:
        _park(outcomes[0], error)


def _write_sums(outcomes: Sequence[Outcome], requests: Requests) -> None:
    write_outcomes(outcomes)
    roll_up(outcomes)
    count_outcomes(outcomes, requests)
    settle_budgets(outcomes)
    index_tags((row.bucket[0], row.id, row.tags) for row in (outcome.row for outcome in outcomes))


def settle_budgets(outcomes: Sequence[Outcome]) -> None:
    """Moves the costs of rows to their budgets' windows, and adds them to what each scope has spent in all."""
    costs: list[WindowCost] = []
    totals: dict[tuple[str, str, str], int] = defaultdict(int)
    for outcome in outcomes:
        row, pusd = outcome.row, outcome.sums[_COST]
        if pusd:
            for scope, scope_id in _spenders(row):
                if scope_id:
                    totals[row.bucket[0], scope, scope_id] += pusd
        if pusd and row.budget_windows:
            started_at = read_instant(row.started_at)
            costs += [WindowCost(name, row.writer_id, started_at, pusd) for name in row.budget_windows.split(",")]
    if totals:
        add_spend(totals)
    if costs:
        settle_costs(costs)


def _spenders(row: Row) -> tuple[tuple[Scope, str], ...]:
    """The scopes whose spend in all is kept, with their ids; an id is empty where the call has no such scope."""
    organization_id, team_id, user_id, key_id = row.bucket[:4]
    return (
        (Scope.ORGANIZATION, organization_id),
        (Scope.TEAM, team_id),
        (Scope.MEMBER, member_scope_id(team_id, user_id) if team_id and user_id else ""),
        (Scope.USER, user_id),
        (Scope.KEY, key_id),
        (Scope.END_USER, row.end_user),
    )


def _park(outcome: Outcome, error: Exception) -> None:
    """The sums do not count the row, and its cost stays what they have counted of it so far."""
    row = outcome.row
    write_outcomes(
        [
            replace(
                outcome,
                state=State.PARKED,
                cost_pusd=row.cost_pusd,
                provider_cost_pusd=row.provider_cost_pusd,
                cache_saving_pusd=row.cache_saving_pusd,
                error="the hourly sums cannot take this row",
            )
        ]
    )
    logger.error(
        "a spend row is parked: the hourly sums cannot take it",
        extra={"spend_id": str(row.id), "price_id": row.price_id, "why": type(error).__name__},
    )


def write_outcomes(outcomes: Sequence[Outcome]) -> None:
    now = connection.ops.adapt_datetimefield_value(timezone.now())
    costs: dict[tuple[State, str], list[tuple[int | None, int | None, int | None, UUID | str]]] = defaultdict(list)
    for outcome in outcomes:
        row = (outcome.cost_pusd, outcome.provider_cost_pusd, outcome.cache_saving_pusd, outcome.row.id)
        costs[outcome.state, outcome.error].append(row)
    with connection.cursor() as cursor:
        for (state, error), rows in costs.items():
            if connection.vendor == "postgresql":
                cursor.execute(_WRITE_BATCH, [state.value, error, now, *map(list, zip(*rows, strict=True))])
            else:
                cursor.executemany(_WRITE, [(state.value, error, now, *row) for row in rows])


def roll_up(outcomes: Sequence[Outcome]) -> None:
    buckets: dict[tuple[datetime | str, tuple[str, ...]], list[tuple[int, ...]]] = defaultdict(list)
    for outcome in outcomes:
        buckets[_hour(outcome.row.started_at), outcome.row.bucket].append(outcome.sums)
    grown = [(hour, *bucket, *map(sum, zip(*sums, strict=True))) for (hour, bucket), sums in buckets.items()]
    grown.sort(key=lambda values: tuple(map(str, values[: 1 + len(BUCKET)])))  # two workers cannot deadlock
    columns = {"hour": "timestamptz", **dict.fromkeys(BUCKET, "text"), **dict.fromkeys(SUMS, "bigint")}
    grow_sums("billing_usagehour", columns, ("hour", *BUCKET), SUMS, grown)


def _hour(instant: datetime | str) -> datetime | str:
    """The start of an instant's hour; SQLite keeps an instant as the text of its UTC time."""
    if isinstance(instant, str):
        return f"{instant[:13]}:00:00"
    return instant.replace(minute=0, second=0, microsecond=0)
