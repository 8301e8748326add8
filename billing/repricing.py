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
    find_lines,
    find_provider_cost,
    roll_up,
    settle_budgets,
    write_outcomes,
)
from billing.models import PriceAdjustment, RepriceJob, SpendLog
from billing.pricing import MAX_COST_PUSD, count_cost
from billing.rollups import adjust_outcomes, share_rollups
from billing.spend_rows import BUCKET, SUMS, WAIT_LOCKED, Outcome, Row, read_instant, read_rows
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
class Change:
    """The new cost of one row. `old_pusd` None: it had none."""

    row: Row
    price_id: str
    old_price_id: str
    old_pusd: int | None
    cost_pusd: int
    note: str

    @property
    def delta_pusd(self) -> int:
        return self.cost_pusd - (self.old_pusd or 0)


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
    """Prices the next rows of a job; False once it has ended. Several processes may do it: they take turns."""
    with scopes_disabled():
        job = RepriceJob.objects.filter(id=job_id, state=RepriceJob.State.RUNNING).first()
        if job is None:
            return False
        scope = Scope(job.model, job.is_unpriced, job.since, job.until, find_deployments(job.model))
        ids = _find_ids(scope, job.cursor)  # before the transaction: on SQLite a write waits for every other one
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


def _find_ids(scope: Scope, cursor: UUID | None) -> list[UUID]:
    return list(_rows_behind(scope, cursor).order_by("id").values_list("id", flat=True)[:BATCH_ROWS])


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
    adjusted = _find_adjusted([row.id for row in rows])
    return [change for row in rows if (change := _compute_change(row, adjusted.get(_hex(row.id)), find_price))]


def _compute_change(row: Row, adjusted: tuple[str, int] | None, find_price: FindPrice) -> Change | None:
    """`adjusted`: the price of the row's last adjustment, and the sum of them. What the response cache has answered
    costs nothing by any price."""
    if row.cache_hit:
        return None
    started_at = read_instant(row.started_at)
    price_id = find_price(row.bucket[_DEPLOYMENT], row.bucket[_ORGANIZATION], started_at, row.upstream_model)
    old_id, old_pusd = row.price_id, row.cost_pusd
    if adjusted is not None:
        old_id, old_pusd = adjusted[0], (row.cost_pusd or 0) + adjusted[1]
    if not price_id or (price_id == old_id and old_pusd is not None):
        return None
    try:
        price = find_lines(price_id)
        context = context_of(row, price)
        cost = count_cost(row.tokens, price, context)
    except (ArithmeticError, ValueError):
        return None
    if price is None or cost is None or cost >= MAX_COST_PUSD or (cost == old_pusd and old_pusd is not None):
        return None
    return Change(row, price_id, old_id, old_pusd, cost, price.describe_stand_ins(row.tokens, context)[:255])


def _find_adjusted(ids: list[UUID | str]) -> Mapping[str, tuple[str, int]]:
    """Row → the price of its last adjustment, and the sum of the differences of all."""
    adjusted: dict[str, tuple[str, int]] = {}
    for row in PriceAdjustment.objects.filter(spend_id__in=ids).order_by("id"):
        _, before = adjusted.get(row.spend_id.hex, ("", 0))
        adjusted[row.spend_id.hex] = row.new_price_id, before + row.delta_pusd
    return adjusted


def _hex(row_id: UUID | str) -> str:
    return UUID(str(row_id)).hex


def _count(rows: list[Row], changes: list[Change]) -> Totals:
    first = {change.row.id for change in changes if change.old_pusd is None}
    unpriced = sum(row.cost_pusd is None and row.id not in first for row in rows)
    return Totals(len(rows), len(changes), unpriced, sum(change.delta_pusd for change in changes))


def _apply_fitting(job: RepriceJob, changes: list[Change]) -> list[Change]:
    """Writes the changes; returns those that are written. Where the database refuses them, halves are written until the
    one is found that it refuses: this row stays as it is, and neither the job nor the next one waits for it."""
    if not changes:
        return []
    try:
        with transaction.atomic():
            _apply(job, changes)
    except UNFIT as error:
        if len(changes) == 1:
            logger.error(
                "a spend row keeps its cost: the sums cannot take another one",
                extra={"spend_id": str(changes[0].row.id), "reprice_job": job.id, "why": type(error).__name__},
            )
            return []
        middle = len(changes) // 2
        return [*_apply_fitting(job, changes[:middle]), *_apply_fitting(job, changes[middle:])]
    return changes


def _apply(job: RepriceJob, changes: list[Change]) -> None:
    """Writes the changes, their sums and their budgets. Within the caller's transaction."""
    first = [change for change in changes if change.old_pusd is None]
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
            old_price_id=change.old_price_id,
            new_price_id=change.price_id,
            cost_pusd=change.cost_pusd,
            delta_pusd=change.delta_pusd,
        )
        for change in changes
        if change.old_pusd is not None
    )
    outcomes = list(_outcomes(changes))
    roll_up(outcomes)
    adjust_outcomes(outcomes)
    settle_budgets(outcomes)


def _outcomes(changes: list[Change]) -> Iterator[Outcome]:
    for change in changes:
        sums = [0] * len(SUMS)
        sums[_COST] = change.delta_pusd
        sums[_UNPRICED] = -1 if change.old_pusd is None else 0
        row = change.row._replace(writer_id="")  # no lease of a process holds the difference
        state = SpendLog.State.LOST if row.state == SpendLog.State.LOST else PRICED  # what its process knows may come
        provider_pusd = find_provider_cost(row, change.price_id)
        yield Outcome(row, state, change.cost_pusd, change.note, tuple(sums), provider_pusd)
