"""Repricing: prices rows again by the versions that are in force now, in small transactions that a job remembers.

A row without a cost gets its first one. A row that has a cost keeps it, and an adjustment holds the difference; sums
and budgets take the difference in the same transaction. Where a job is interrupted it continues behind the last row
that it has done. Setting a price touches no row: only a job does.
"""

import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, TypeAlias
from uuid import UUID

from django.db import connection, transaction
from django.db.models import Q, QuerySet
from django.db.models.expressions import RawSQL
from django.utils import timezone
from django_scopes import scopes_disabled

from billing.bookkeeping import (
    BATCH_ROWS,
    UNFIT,
    context_of,
    find_cache_saving,
    find_lines,
    find_provider_cost,
    roll_up,
    settle_budgets,
    write_outcomes,
)
from billing.models import PriceAdjustment, RepriceJob, SpendLog
from billing.pricing import MAX_COST_PUSD, count_cost
from billing.rollups import adjust_outcomes, share_rollups
from billing.spend_rows import BUCKET, SUMS, WAIT_LOCKED, Outcome, Row, find_margin, read_instant, read_rows
from gateway.state import sql
from tenants.audit import Entry, record
from tenants.revision import write_transaction

logger = logging.getLogger(__name__)

PRICED = SpendLog.State.PRICED
#: Rows that wait for their first cost: a lost one is charged by its estimate.
#: As literals, without which SQLite does not see that its partial index has these rows.
WITHOUT_COST = Q(state__in=[RawSQL("'unpriced'", []), RawSQL("'lost'", [])], cost_pusd=None)
_COST, _UNPRICED = SUMS.index("cost_pusd"), SUMS.index("unpriced")
_ORGANIZATION, _DEPLOYMENT = BUCKET.index("organization_id"), BUCKET.index("deployment_id")


#: The ids of the deployments that a model group has now.
FindDeployments: TypeAlias = Callable[[str], Collection[str]]


class FindPrice(Protocol):
    def __call__(self, deployment_id: str, organization_id: str, started_at: datetime, upstream_model: str) -> str:
        """The id of the price of a call that starts then; empty where there is none."""


@dataclass(frozen=True, slots=True)
class Scope:
    """The rows to price again. `model`: a model group, or the id of a deployment. `deployment_ids`: of the group, whose
    calls have other names where it is a pattern, or where it stood in for another group."""

    model: str
    is_unpriced: bool
    since: datetime | None
    until: datetime
    deployment_ids: Collection[str] = ()

    def filter_rows(self) -> Q:
        states = WITHOUT_COST if self.is_unpriced else WITHOUT_COST | Q(state=PRICED)
        of_model = Q(model_group=self.model) | Q(deployment_id__in=[self.model, *self.deployment_ids])
        since = Q(started_at__gte=self.since) if self.since is not None else Q()
        return states & of_model & since & Q(started_at__lt=self.until)


@dataclass(frozen=True, slots=True)
class Totals:
    """`rows`: seen; `changed`: of these, those whose cost changes; `unpriced`: those that still have no price."""

    rows: int = 0
    changed: int = 0
    unpriced: int = 0
    delta_pusd: int = 0

    def __add__(self, other: "Totals") -> "Totals":
        return Totals(
            self.rows + other.rows,
            self.changed + other.changed,
            self.unpriced + other.unpriced,
            self.delta_pusd + other.delta_pusd,
        )


@dataclass(frozen=True, slots=True)
class Standing:
    """The price of a row and its amounts in picodollars, its adjustments included. `cost_pusd` None: it has none."""

    price_id: str
    cost_pusd: int | None
    margin_pusd: int = 0
    cache_saving_pusd: int = 0

    @classmethod
    def of(cls, row: Row) -> "Standing":
        """Without its adjustments."""
        margin_pusd = find_margin(row.cost_pusd, row.provider_cost_pusd)
        return cls(row.price_id, row.cost_pusd, margin_pusd, row.cache_saving_pusd or 0)

    def add(self, adjustment: PriceAdjustment) -> "Standing":
        return Standing(
            adjustment.new_price_id,
            (self.cost_pusd or 0) + adjustment.delta_pusd,
            self.margin_pusd + adjustment.margin_delta_pusd,
            self.cache_saving_pusd + adjustment.cache_saving_delta_pusd,
        )


@dataclass(frozen=True, slots=True)
class Change:
    """The new price and amounts of one row. `provider_cost_pusd` and `saving_pusd`: None as in the columns of a row."""

    row: Row
    old: Standing
    price_id: str
    cost_pusd: int
    provider_cost_pusd: int | None
    saving_pusd: int | None
    note: str

    @property
    def is_first(self) -> bool:
        """The row had no cost."""
        return self.old.cost_pusd is None

    @property
    def delta_pusd(self) -> int:
        return self.cost_pusd - (self.old.cost_pusd or 0)

    @property
    def margin_delta_pusd(self) -> int:
        return find_margin(self.cost_pusd, self.provider_cost_pusd) - self.old.margin_pusd

    @property
    def saving_delta_pusd(self) -> int:
        return (self.saving_pusd or 0) - self.old.cache_saving_pusd

    def __bool__(self) -> bool:
        return self.is_first or any((self.delta_pusd, self.margin_delta_pusd, self.saving_delta_pusd))


def preview(scope: Scope, find_price: FindPrice, max_rows: int | None = None) -> Totals:
    """The changes that a job would make, of the first rows or of all."""
    totals, cursor = Totals(), None
    with scopes_disabled():
        while (max_rows is None or totals.rows < max_rows) and (ids := _find_ids(scope, cursor)):
            rows = read_rows(_one_of(ids), len(ids), *map(_key, ids), lock="")
            totals += _count(rows, _compute_changes(rows, find_price))
            cursor = ids[-1]
    return totals


def count_rows(scope: Scope, cursor: UUID | None, maximum: int) -> int:
    """The rows of a scope that come behind the cursor, at most `maximum`: so many are counted."""
    with scopes_disabled():
        return _rows_behind(scope, cursor)[:maximum].count()


def start_job(scope: Scope, *, actor: str, reason: str = "") -> RepriceJob:
    with write_transaction():
        job = RepriceJob.objects.create(
            model=scope.model,
            is_unpriced=scope.is_unpriced,
            since=scope.since,
            until=scope.until,
            actor=actor[:255],
            reason=reason[:255],
        )
        record(Entry("create", "reprice_job", job.id, None, {}, {"model": job.model, "is_unpriced": job.is_unpriced}))
    return job


def cancel_job(job_id: str) -> bool:
    """Ends a job that runs, after the transaction that is under way. What it has done stays."""
    ended = {"state": RepriceJob.State.CANCELLED, "ended_at": timezone.now()}
    with write_transaction():
        is_ended = RepriceJob.objects.filter(id=job_id, state=RepriceJob.State.RUNNING).update(**ended) > 0
        if is_ended:
            record(Entry("cancel", "reprice_job", job_id, None, {}, {}))
    return is_ended


def find_running() -> list[str]:
    """The ids of the jobs that have not ended, the oldest first."""
    return list(RepriceJob.objects.filter(state=RepriceJob.State.RUNNING).order_by("id").values_list("id", flat=True))


def run_step(job_id: str, find_price: FindPrice, find_deployments: FindDeployments = lambda model: ()) -> bool:
    """Prices the next rows of a job; False once it has ended. Several processes may do it: they take turns. Where the
    database refuses the rows, fewer are priced: two parts in one transaction would lock sums in another order than
    pricing does, and could meet it in a deadlock."""
    most_rows = BATCH_ROWS
    while True:
        try:
            return _price_next(job_id, find_price, find_deployments, most_rows)
        except UNFIT:
            if most_rows == 1:
                raise
            most_rows //= 2


def _price_next(job_id: str, find_price: FindPrice, find_deployments: FindDeployments, most_rows: int) -> bool:
    """`run_step` of at most so many rows. Raises one of UNFIT where the sums cannot take several."""
    with scopes_disabled():
        job = RepriceJob.objects.filter(id=job_id, state=RepriceJob.State.RUNNING).first()
        if job is None:
            return False
        scope = Scope(job.model, job.is_unpriced, job.since, job.until, find_deployments(job.model))
        ids = _find_ids(scope, job.cursor, most_rows)  # outside of it: on SQLite a write waits for every other one
        with transaction.atomic():
            current = RepriceJob.objects.select_for_update().get(id=job_id)
            if current.state != RepriceJob.State.RUNNING or current.cursor != job.cursor:
                return True  # it was cancelled, or another process was faster
            share_rollups()
            rows = read_rows(_one_of(ids), len(ids), *map(_key, ids), lock=WAIT_LOCKED) if ids else []
            changes = _apply_fitting(current, _compute_changes(rows, find_price))
            totals = _count(rows, changes)
            current.rows += totals.rows
            current.changed += totals.changed
            current.delta_pusd += totals.delta_pusd
            if ids:
                current.cursor = ids[-1]
            else:
                current.state, current.ended_at = RepriceJob.State.DONE, timezone.now()
            current.save()
    return bool(ids)


def _find_ids(scope: Scope, cursor: UUID | None, most_rows: int = BATCH_ROWS) -> list[UUID]:
    return list(_rows_behind(scope, cursor).order_by("id").values_list("id", flat=True)[:most_rows])


def _rows_behind(scope: Scope, cursor: UUID | None) -> QuerySet[SpendLog]:
    rows = SpendLog.objects.filter(scope.filter_rows()).order_by()
    return rows if cursor is None else rows.filter(id__gt=cursor)


def _one_of(ids: list[UUID]) -> str:
    """The condition of `read_rows`: the rows as they are behind the lock."""
    marks = ", ".join(["%s"] * len(ids))
    return sql.fill("id IN ({marks}) AND state IN ('priced', 'unpriced', 'lost')", marks=marks)


def _key(row_id: UUID) -> UUID | str:
    return row_id if connection.vendor == "postgresql" else row_id.hex


def _compute_changes(rows: list[Row], find_price: FindPrice) -> list[Change]:
    """The rows that have another cost by the price in force; none of a row that it does not cover."""
    standings = _find_standings(rows)
    return [change for row in rows if (change := _compute_change(row, standings[row.id], find_price))]


def _compute_change(row: Row, old: Standing, find_price: FindPrice) -> Change | None:
    """None where nothing changes. What the response cache has answered costs nothing by any price."""
    if row.cache_hit:
        return None
    started_at = read_instant(row.started_at)
    price_id = find_price(row.bucket[_DEPLOYMENT], row.bucket[_ORGANIZATION], started_at, row.upstream_model)
    if not price_id or (price_id == old.price_id and old.cost_pusd is not None):
        return None
    try:
        price = find_lines(price_id)
        context = context_of(row, price)
        cost = count_cost(row.tokens, price, context)
    except (ArithmeticError, ValueError):
        return None
    if price is None or cost is None or cost >= MAX_COST_PUSD:
        return None
    note = price.describe_stand_ins(row.tokens, context)[:255]
    saving = find_cache_saving(row, price, context)
    return Change(row, old, price_id, cost, find_provider_cost(row, price_id), saving, note) or None


def _find_standings(rows: list[Row]) -> Mapping[UUID | str, Standing]:
    """The id of each row → how it stands before this job."""
    standings = {_hex(row.id): Standing.of(row) for row in rows}
    for adjustment in PriceAdjustment.objects.filter(spend_id__in=[row.id for row in rows]).order_by("id"):
        key = adjustment.spend_id.hex
        standings[key] = standings[key].add(adjustment)
    return {row.id: standings[_hex(row.id)] for row in rows}


def _hex(row_id: UUID | str) -> str:
    return UUID(str(row_id)).hex


def _count(rows: list[Row], changes: list[Change]) -> Totals:
    first = {change.row.id for change in changes if change.is_first}
    unpriced = sum(row.cost_pusd is None and row.id not in first for row in rows)
    return Totals(len(rows), len(changes), unpriced, sum(change.delta_pusd for change in changes))


def _apply_fitting(job: RepriceJob, changes: list[Change]) -> list[Change]:
    """Writes the changes; returns those that are written. One that the database refuses is left out where it is alone:
    this row stays as it is, and neither the job nor the next one waits for it. Else one of UNFIT is raised."""
    if len(changes) != 1:
        _apply(job, changes)
        return changes
    try:
        with transaction.atomic():
            _apply(job, changes)
    except UNFIT as error:
        logger.error(
            "a spend row keeps its cost: the sums cannot take another one",
            extra={"spend_id": str(changes[0].row.id), "reprice_job": job.id, "why": type(error).__name__},
        )
        return []
    return changes


def _apply(job: RepriceJob, changes: list[Change]) -> None:
    """Writes the changes, their sums and their budgets. Within the caller's transaction."""
    first = [change for change in changes if change.is_first]
    write_outcomes(list(_outcomes(first)))
    by_price: dict[str, list[UUID | str]] = {}
    for change in first:
        by_price.setdefault(change.price_id, []).append(change.row.id)
    for price_id, ids in by_price.items():
        SpendLog.objects.filter(id__in=ids).update(price_id=price_id)
    PriceAdjustment.objects.bulk_create(
        PriceAdjustment(
            spend_id=UUID(str(change.row.id)),
            organization_id=change.row.bucket[_ORGANIZATION],
            job_id=job.id,
            old_price_id=change.old.price_id,
            new_price_id=change.price_id,
            cost_pusd=change.cost_pusd,
            delta_pusd=change.delta_pusd,
            margin_delta_pusd=change.margin_delta_pusd,
            cache_saving_delta_pusd=change.saving_delta_pusd,
        )
        for change in changes
        if not change.is_first
    )
    outcomes = list(_outcomes(changes))
    roll_up(outcomes)
    adjust_outcomes(outcomes)
    settle_budgets(outcomes)


def _outcomes(changes: list[Change]) -> Iterator[Outcome]:
    for change in changes:
        sums = [0] * len(SUMS)
        sums[_COST] = change.delta_pusd
        sums[_UNPRICED] = -1 if change.is_first else 0
        row = change.row._replace(writer_id="")  # no lease of a process holds the difference
        state = SpendLog.State.LOST if row.state == SpendLog.State.LOST else PRICED  # what its process knows may come
        extras = (0, change.saving_delta_pusd, change.margin_delta_pusd)
        provider_pusd, saving = change.provider_cost_pusd, change.saving_pusd
        yield Outcome(row, state, change.cost_pusd, change.note, tuple(sums), provider_pusd, saving, extras)
