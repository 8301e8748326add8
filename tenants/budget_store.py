"""The amounts of budget windows that processes lease, in the database: the wall itself.

A window's settled and leased amounts never pass its limit, whatever processes there are: a process spends only what it
has leased. Pricing moves a cost from leased to settled (billing/bookkeeping.py). All of a call's windows are leased in
one transaction, or none. Every transaction locks budgets before it makes windows, and windows last, all of them at once
and in the order of their ids; so does a transaction that deletes budgets (`lock_budgets`). The holder of a window's
lock alone changes its leases.

A lease is what the process has left of it, and what its calls reserve, and what they have cost and is not priced. A
call that cost more than was leased makes it negative when it is priced; the process accounts for the difference when it
leases again or gives back.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

from django.db import IntegrityError, connection, models, transaction
from django.utils import timezone
from django_scopes import scopes_disabled

from gateway.protocol.amounts import PUSD
from tenants.budget_windows import ALL_TIME
from tenants.models import Budget, BudgetLease, BudgetWindow, Scope, SpendTotal
from tenants.rolling_spend import add_costs, count_current, drop_expired, length_of
from tenants.rules import scope_id_of

logger = logging.getLogger(__name__)

_ADD_SPEND = (
    "INSERT INTO tenants_spendtotal (organization_id, scope, scope_id, pusd, credit_pusd) VALUES (%s, %s, %s, %s, 0) "
    "ON CONFLICT (organization_id, scope, scope_id) DO UPDATE SET pusd = tenants_spendtotal.pusd + excluded.pusd"
)
_WRITE_WINDOW = "UPDATE tenants_budgetwindow SET settled_pusd = %s, leased_pusd = %s, credit_pusd = %s WHERE id = %s"
MAX_TRIES = 40  # of a lease; each fails only where one of its windows was deleted since it was read
MAX_SLICE_PUSD = 1 * PUSD
SLICES = 100  # a process leases this part of what is left, so that it seldom has to ask
SCARCE_SLICES = 5  # with less left than so many of its leases, a process gives back at once what it does not use
#: A lease that began later than this after a call is not what the call was reserved of. The clock may step.
CLOCK_STEP = timedelta(seconds=2)
THRESHOLDS = (80, 100)  # percent of a limit that are reported


@dataclass(frozen=True, slots=True)
class LeaseRequest:
    """At least `amount_pusd` of the window of a budget that one spender is in."""

    budget_id: str
    organization_id: str
    scope: str
    scope_id: str
    starts_at: datetime
    ends_at: datetime | None
    amount_pusd: int

    @property
    def key(self) -> tuple[str, str, str, datetime]:
        return self.budget_id, self.scope, self.scope_id, self.starts_at


@dataclass(frozen=True, slots=True)
class WindowState:
    """A window as it was found. Amounts are picodollars; without a limit, the budget is soft. A rolling window has no
    end: `ends_at` is the instant at which its oldest amount leaves it."""

    limit_pusd: int | None
    spent_pusd: int
    leased_pusd: int
    ends_at: datetime | None
    is_rolling: bool = False

    @property
    def room_pusd(self) -> int | None:
        return None if self.limit_pusd is None else self.limit_pusd - self.spent_pusd - self.leased_pusd


@dataclass(frozen=True, slots=True)
class Leased:
    """The window and the amount that were leased for one request; no amount where the budget has no hard limit, and no
    window where there is no budget any more."""

    window_id: str = ""
    lease_id: str = ""
    amount_pusd: int | None = None
    is_scarce: bool = False  # little of the window is left for other processes


@dataclass(frozen=True, slots=True)
class LeaseRefused:
    """Nothing was leased: the request at `place` does not fit its window."""

    place: int
    state: WindowState


@dataclass(frozen=True, slots=True)
class WindowCost:
    """The cost of a call, to be settled in a window. That of a row that is corrected may be negative."""

    window_id: str
    writer_id: str  # of the process that made the call
    started_at: datetime
    pusd: int


def lease(
    requests: Sequence[LeaseRequest], writer_id: str, is_wanted: Callable[[], bool] = lambda: True
) -> list[Leased] | LeaseRefused:
    """Leases for all requests, or for none. Nothing either where the caller has given up waiting meanwhile: it would
    never learn what it has leased."""
    for _ in range(MAX_TRIES - 1):
        with suppress(IntegrityError):  # a window was deleted while it was leased
            return _lease(requests, writer_id, is_wanted)
    return _lease(requests, writer_id, is_wanted)


def _lease(
    requests: Sequence[LeaseRequest], writer_id: str, is_wanted: Callable[[], bool]
) -> list[Leased] | LeaseRefused:
    with transaction.atomic():
        windows = _lock_windows_of(requests)
        changes = _Changes(windows.values(), [writer_id])
        leased: list[Leased] = []
        for place, request in enumerate(requests):
            window = windows.get(request.key)
            if window is None:  # the budget was deleted a moment ago
                leased.append(Leased())
                continue
            state = changes.read_state(window)
            room = state.room_pusd
            if room is None:
                leased.append(Leased(window.id))
                continue
            entry = changes.lease_of(window, writer_id)
            owed = max(0, -entry.amount_pusd)  # is settled already
            if room < request.amount_pusd - owed:
                transaction.set_rollback(True)
                return LeaseRefused(place, state)
            amount = max(request.amount_pusd, min(room // SLICES, MAX_SLICE_PUSD))
            changes.add(entry, amount)
            leased.append(Leased(window.id, entry.id, amount, room - amount < SCARCE_SLICES * amount))
        changes.write()
        if not is_wanted():
            transaction.set_rollback(True)
    return leased


def read_state(window: BudgetWindow, next_at: datetime | None = None) -> WindowState:
    """The state of a window that was read with its budget. A rolling one has its current amounts, and the instant at
    which the next of them leaves (see `count_current`)."""
    budget = window.budget
    limit = budget.limit_pusd
    if limit is not None and budget.increase_ends_at is not None and budget.increase_ends_at > timezone.now():
        limit += budget.increase_pusd
    spent, is_rolling = window.settled_pusd - window.credit_pusd, length_of(window) is not None
    return WindowState(limit, spent, window.leased_pusd, next_at if is_rolling else window.ends_at, is_rolling)


def give_back(amounts: Mapping[str, int]) -> None:
    """Gives back what a process will not spend of its leases: {lease id: amount}. A negative amount accounts for a call
    that cost more than was leased. Leases that were returned already are left out."""
    with transaction.atomic():
        rows = list(BudgetLease.objects.filter(id__in=amounts).values_list("window_id", "writer_id"))
        changes = _Changes(_lock_windows(row[0] for row in rows), [row[1] for row in rows])
        for entry in changes.leases:
            if entry.id in amounts:
                changes.add(entry, -amounts[entry.id])
        changes.write(drop_empty=True)


def settle_costs(costs: Sequence[WindowCost]) -> None:
    """Moves costs from leased to settled. Within the transaction that prices the rows."""
    changes = _Changes(_lock_windows({cost.window_id for cost in costs}), {cost.writer_id for cost in costs})
    spent = {window.id: read_state(window).spent_pusd for window in changes.windows.values()}
    for cost in costs:
        window = changes.windows.get(cost.window_id)
        if window is None:  # deleted with its budget
            continue
        window.settled_pusd += cost.pusd
        entry = changes.find(cost.window_id, cost.writer_id)
        # The lease of a call that was settled as lost may be returned already; its process has a new one since
        if entry is not None and entry.created_at - CLOCK_STEP <= cost.started_at:
            changes.add(entry, -cost.pusd)
    present = [(cost.window_id, cost.started_at, cost.pusd) for cost in costs if cost.window_id in changes.windows]
    changes.write()
    add_costs(changes.windows, present)
    for window in changes.windows.values():
        _report_thresholds(window, spent[window.id])


def return_leases_of(writer_ids: Collection[str], find_dead: Callable[[Collection[str]], Collection[str]]) -> None:
    """Returns all that dead processes have leased. The caller has settled all of their calls. They are looked for once
    more behind the locks: a process that is back leases anew, and only afterwards."""
    with transaction.atomic():
        entries = BudgetLease.objects.filter(writer_id__in=writer_ids)
        changes = _Changes(_lock_windows(entries.values_list("window_id", flat=True)), find_dead(writer_ids))
        for entry in changes.leases:
            changes.add(entry, -entry.amount_pusd)
        changes.write(drop_empty=True)


def add_spend(costs: Mapping[tuple[str, str, str], int]) -> None:
    """Adds to what scopes have spent in all: {(organization id, scope, scope id): picodollars}. Within the transaction
    that prices the rows."""
    rows = [(*scope, pusd) for scope, pusd in sorted(costs.items()) if pusd]
    with connection.cursor() as cursor:
        cursor.executemany(_ADD_SPEND, rows)


def lock_budgets(budgets: models.QuerySet[Budget], more: models.Q | None = None) -> None:
    """Locks budgets that are going to be deleted, then their windows and `more` of them, until the end of the caller's
    transaction. A transaction that deletes the budgets of several scopes calls this first with all of them: a call may
    lease of all these scopes at once, in the order of its windows' ids."""
    ids = list(budgets.select_for_update(of=("self",)).order_by("id").values_list("id", flat=True))
    which = models.Q(budget__in=ids) if more is None else models.Q(budget__in=ids) | more
    windows = BudgetWindow.objects.select_for_update(of=("self",)).filter(which)
    for _ in windows.order_by("id").values_list("id", flat=True).iterator():
        pass  # locks it


def delete_budgets(budgets: models.QuerySet[Budget]) -> None:
    """Deletes budgets with their windows."""
    with transaction.atomic():
        lock_budgets(budgets)
        budgets.delete()


def delete_spenders(budgets: models.QuerySet[Budget], scope: str, scope_ids: Collection[str]) -> None:
    """Deletes the budgets of spenders, and their windows in the budgets of templates."""
    of_templates = models.Q(budget__scope=Scope.TEMPLATE, scope=scope, scope_id__in=scope_ids)
    with transaction.atomic():
        lock_budgets(budgets, of_templates)
        budgets.delete()
        BudgetWindow.objects.filter(of_templates).delete()


class _Changes:
    """The changes of locked windows and of their leases of some processes, written at once. What has left a rolling
    window leaves it first."""

    def __init__(self, windows: Iterable[BudgetWindow], writer_ids: Collection[str]) -> None:
        self.windows = {window.id: window for window in windows}
        self._now = timezone.now()
        self._before = {window.id: _amounts_of(window) for window in self.windows.values()}
        self._next_at = count_current(self.windows.values(), self._now)
        rows = BudgetLease.objects.filter(window_id__in=self.windows, writer_id__in=set(writer_ids))
        self._leases = {(row.window_id, row.writer_id): row for row in rows} if self.windows else {}
        self._changed: dict[str, BudgetLease] = {}

    @property
    def leases(self) -> list[BudgetLease]:
        return list(self._leases.values())

    def read_state(self, window: BudgetWindow) -> WindowState:
        return read_state(window, self._next_at.get(window.id))

    def find(self, window_id: str, writer_id: str) -> BudgetLease | None:
        return self._leases.get((window_id, writer_id))

    def lease_of(self, window: BudgetWindow, writer_id: str) -> BudgetLease:
        """The lease of a process, a new one if it has none."""
        entry = self._leases.get((window.id, writer_id))
        if entry is None:
            entry = self._leases[window.id, writer_id] = BudgetLease(window_id=window.id, writer_id=writer_id)
        return entry

    def add(self, entry: BudgetLease, pusd: int) -> None:
        window = self.windows[entry.window_id]
        window.leased_pusd += max(0, entry.amount_pusd + pusd) - max(0, entry.amount_pusd)
        entry.amount_pusd += pusd
        self._changed[entry.id] = entry

    def write(self, *, drop_empty: bool = False) -> None:
        drop_expired(self.windows.values(), self._now)
        changed = [row for row in self.windows.values() if _amounts_of(row) != self._before[row.id]]
        with connection.cursor() as cursor:
            cursor.executemany(_WRITE_WINDOW, [(*_amounts_of(row), row.id) for row in changed])
        empty = [entry.id for entry in self._changed.values() if drop_empty and not entry.amount_pusd]
        BudgetLease.objects.filter(id__in=empty).delete()
        BudgetLease.objects.bulk_create(
            [entry for entry in self._changed.values() if entry.id not in empty],
            update_conflicts=True,
            unique_fields=["window", "writer_id"],
            update_fields=["amount_pusd"],
        )


def _amounts_of(window: BudgetWindow) -> tuple[int, int, int]:
    return window.settled_pusd, window.leased_pusd, window.credit_pusd


def _lock_windows(ids: Iterable[str]) -> list[BudgetWindow]:
    rows = BudgetWindow.objects.select_for_update(of=("self",)).select_related("budget")
    with scopes_disabled():
        return list(rows.filter(id__in=set(ids)).order_by("id"))


def _lock_windows_of(requests: Sequence[LeaseRequest]) -> dict[tuple[str, str, str, datetime], BudgetWindow]:
    """The windows of the requests, made where they are missing, and locked for this transaction. The locks are taken at
    once: a second pass would wait for older windows while it holds newer ones. Raises IntegrityError where a window was
    deleted meanwhile and its budget was not."""
    wanted = {request.key: request for request in requests}
    missing = [wanted[key] for key in sorted(wanted.keys() - _find_windows(wanted).keys())]
    if missing:
        _make_windows(missing)
    rows = _lock_windows(_find_windows(wanted).values())
    windows = {(row.budget_id, row.scope, row.scope_id, row.starts_at): row for row in rows}
    gone = {key[0] for key in wanted.keys() - windows.keys()}
    with scopes_disabled():
        is_kept = bool(gone) and Budget.objects.filter(id__in=gone).exists()
    if is_kept:
        raise IntegrityError("a budget window was deleted while it was leased")
    return windows


def _find_windows(keys: Collection[tuple[str, str, str, datetime]]) -> dict[tuple[str, str, str, datetime], str]:
    """The ids of the windows that exist. Locks nothing."""
    rows = (
        BudgetWindow.objects.filter(budget_id__in={key[0] for key in keys})
        .filter(scope_id__in={key[2] for key in keys}, starts_at__in={key[3] for key in keys})
        .values_list("id", "budget_id", "scope", "scope_id", "starts_at")
    )
    return {row[1:]: row[0] for row in rows if row[1:] in keys}


def _keep_budgets(ids: Collection[str]) -> dict[str, str]:
    """{id: model} of the budgets that exist, which stay until this transaction ends. The foreign key of a new window
    takes the same lock, but only when the transaction is committed, when windows are locked already."""
    rows = Budget.objects.filter(id__in=ids).order_by("id").values_list("id", "model")
    if connection.vendor != "postgresql":
        return dict(rows)
    sql, params = rows.query.sql_with_params()
    with connection.cursor() as cursor:
        cursor.execute(f"{sql} FOR KEY SHARE", params)
        return dict(cursor.fetchall())


def _make_windows(requests: Sequence[LeaseRequest]) -> None:
    """A window of all time begins with what the scope has spent in all, which its settled amount does not count."""
    with scopes_disabled():
        budgets = _keep_budgets({request.budget_id for request in requests})
        BudgetWindow.objects.bulk_create(
            [
                BudgetWindow(
                    budget_id=request.budget_id,
                    scope=request.scope,
                    scope_id=request.scope_id,
                    starts_at=request.starts_at,
                    ends_at=request.ends_at,
                    credit_pusd=0 if budgets[request.budget_id] else -_spent_before(request),
                )
                for request in requests
                if request.budget_id in budgets
            ],
            ignore_conflicts=True,
        )


def _spent_before(request: LeaseRequest) -> int:
    if request.starts_at != ALL_TIME.starts_at:
        return 0
    scope_id = scope_id_of(request.organization_id, request.scope, request.scope_id)
    totals = SpendTotal.objects.filter(organization_id=request.organization_id, scope=request.scope, scope_id=scope_id)
    total = totals.first()
    return max(0, total.pusd - total.credit_pusd) if total is not None else 0


def _report_thresholds(window: BudgetWindow, spent_before: int) -> None:
    """Reports each threshold that the window's spend has just passed."""
    state = read_state(window)
    for kind, limit in (("hard", state.limit_pusd), ("soft", window.budget.soft_limit_pusd)):
        for percent in THRESHOLDS:
            if limit and 100 * spent_before < percent * limit <= 100 * state.spent_pusd:
                fields = {
                    "budget": window.budget_id,
                    "organization": window.budget.organization_id,
                    "scope": window.scope,
                    "scope_id": window.scope_id,
                    "model_group": window.budget.model,
                    "kind": kind,
                    "percent": percent,
                    "spent_pusd": state.spent_pusd,
                    "limit_pusd": limit,
                    "window_starts_at": window.starts_at.isoformat(),
                }
                transaction.on_commit(partial(logger.warning, "a budget reached a threshold", extra=fields))
