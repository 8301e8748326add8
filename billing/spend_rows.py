"""The spend rows that bookkeeping settles, as the database's driver gives them, and the outcome of settling one."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID

from django.db import connection

from billing.models import SpendLog
from billing.pricing import COUNTS
from gateway.protocol.call import Finish
from gateway.protocol.usage import UsageSource
from gateway.state import sql

State = SpendLog.State
TOKENS = COUNTS
BUCKET = ("organization_id", "team_id", "user_id", "key_id", "model_group", "provider", "deployment_id")
SUMS = ("requests", "failures", "estimated", "unpriced", *TOKENS, "cost_pusd")
#: Further sums of the rollups alone, which no budget and no total has.
EXTRAS = ("cache_hits", "cache_saving_pusd", "margin_pusd")
#: States of rows that count as lost ones, before and after their process closed them.
CHARGED_AS_LOST = (State.LOST, State.LATE, State.PARKED)
NO_EXTRAS = (0,) * len(EXTRAS)
SKIP_LOCKED, WAIT_LOCKED = " FOR UPDATE SKIP LOCKED", " FOR UPDATE"
COMPLETE, ESTIMATED = Finish.COMPLETE.value, UsageSource.ESTIMATED.value
WITH_ESTIMATES = (ESTIMATED, UsageSource.PARTIAL.value)
CRASHED = {"finish": Finish.GATEWAY_CRASH.value, "usage_source": ESTIMATED}


class Row(NamedTuple):
    """The columns of a spend log that settling reads, as the database's driver gives them; BUCKET and TOKENS follow the
    named ones."""

    id: UUID | str
    request_id: UUID | str
    attempt: int
    state: str
    started_at: datetime | str
    first_token_at: datetime | str | None
    ended_at: datetime | str | None
    upstream_model: str
    application: str
    operation: str
    price_id: str
    service_tier: str
    usage: str
    usage_source: str
    finish: str
    status_code: int
    error_code: str
    cost_pusd: int | None  # of a late row: what it was charged as a lost one, as the two after it
    provider_cost_pusd: int | None
    cache_saving_pusd: int | None
    lost_tokens: int
    writer_id: str
    end_user: str
    tags: str
    budget_windows: str
    cache_hit: bool
    bucket: tuple[str, ...]
    tokens: tuple[int, ...]


NAMED = Row._fields[:-2]
_FIRST_TOKENS = len(NAMED) + len(BUCKET)
_READ = sql.fill(
    "SELECT {columns} FROM billing_spendlog WHERE {{where}} ORDER BY id LIMIT {{limit}}{{lock}}",
    columns=sql.names([*NAMED, *BUCKET, *TOKENS]),
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The new state of one row, and what it adds to its bucket's sums. `charged`: the sums that a late row has counted
    as a lost one, and that `sums` takes back. `extras`: in the order of EXTRAS, all that the row counts; of a repricing
    what it changes."""

    row: Row
    state: State
    cost_pusd: int | None
    error: str
    sums: tuple[int, ...]
    provider_cost_pusd: int | None = None  # None: the cost itself
    cache_saving_pusd: int | None = None  # None: unknown, or nothing was cached
    extras: tuple[int, ...] = NO_EXTRAS
    charged: tuple[int, ...] | None = None


def read_rows(where: str, limit: int, *values: str | int | UUID, lock: str = SKIP_LOCKED) -> list[Row]:
    """The oldest rows, locked for this transaction. Without the ORM, which would convert each id and instant."""
    lock = lock if connection.features.has_select_for_update_skip_locked else ""
    with connection.cursor() as cursor:
        cursor.execute(sql.fill(_READ, where=where, limit=limit, lock=lock), values)
        found = cursor.fetchall()
    first = len(NAMED)
    make = Row._make
    return [make((*columns[:first], columns[first:_FIRST_TOKENS], columns[_FIRST_TOKENS:])) for columns in found]


def read_instant(instant: datetime | str) -> datetime:
    """In UTC, which SQLite's instants do not say."""
    value = datetime.fromisoformat(instant) if isinstance(instant, str) else instant
    return value if value.tzinfo is not None else value.replace(tzinfo=UTC)


def sum_row(finish: str, usage_source: str, tokens: Sequence[int], cost_pusd: int | None) -> tuple[int, ...]:
    """The amount that one row adds to each of SUMS."""
    is_unpriced = cost_pusd is None
    return (1, finish != COMPLETE, usage_source in WITH_ESTIMATES, is_unpriced, *tokens, cost_pusd or 0)


def sum_lost(row: Row) -> tuple[int, ...]:
    """The amount that a row has added as a lost one, before its process closed it."""
    estimate = tuple(row.lost_tokens if name == "input_tokens" else 0 for name in TOKENS)
    return sum_row(CRASHED["finish"], CRASHED["usage_source"], estimate, row.cost_pusd)


def find_margin(cost_pusd: int | None, provider_cost_pusd: int | None) -> int:
    """The picodollars that a row costs beyond what its provider is paid; 0 without a price."""
    return 0 if cost_pusd is None or provider_cost_pusd is None else cost_pusd - provider_cost_pusd


def extra_sums(row: Row) -> tuple[int, ...]:
    """The amount that a settled row has added to each of EXTRAS. A lost row is no hit, for it is charged."""
    return (
        int(row.cache_hit and row.state not in CHARGED_AS_LOST),
        row.cache_saving_pusd or 0,
        find_margin(row.cost_pusd, row.provider_cost_pusd),
    )
