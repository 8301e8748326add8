"""The spending of scopes: their budgets with the current windows, and their totals. Amounts are picodollars."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

from django.db.models import Q
from django.utils import timezone
from django_scopes import scopes_disabled

from tenants.budget_store import WindowState, read_state
from tenants.budget_windows import find_window
from tenants.models import Budget, BudgetWindow, Organization, Scope, SpendTotal
from tenants.rolling_spend import count_current
from tenants.rules import spender_id


@dataclass(frozen=True, slots=True)
class Spender:
    """A scope that spends, and the template that fills in the budgets that it does not have."""

    organization: Organization
    scope: Scope
    scope_id: str
    template_id: str | None = None

    @property
    def window_scope_id(self) -> str:
        return spender_id(self.organization.id, self.scope, self.scope_id)


@dataclass(frozen=True, slots=True)
class BudgetUsage:
    """A budget and the state of its current window."""

    budget: Budget
    state: WindowState

    @property
    def is_main(self) -> bool:
        return not self.budget.model and not self.budget.is_additional


@dataclass(frozen=True, slots=True)
class SpenderUsage:
    """The budgets that apply to a scope, the main one first, and what it has spent in all."""

    budgets: Sequence[BudgetUsage]
    total_pusd: int

    @property
    def main(self) -> BudgetUsage | None:
        return next((usage for usage in self.budgets if usage.is_main), None)

    @property
    def spend_pusd(self) -> int:
        """The spend of the main budget's window; without a duration, of all time."""
        main = self.main
        return max(0, main.state.spent_pusd) if main is not None and main.budget.duration else self.total_pusd


def read_usages(spenders: Sequence[Spender]) -> list[SpenderUsage]:
    """The usage of each spender, in this order, with at most five queries for all of them. All that processes lease
    counts as held. The caller is within the scope of the organization, or of none."""
    if not spenders:
        return []
    places = {(spender.organization.id, spender.scope, spender.scope_id) for spender in spenders}
    templates = {spender.template_id for spender in spenders if spender.template_id}
    named = _name_scopes(spenders)
    own: dict[tuple[str, str, str], list[Budget]] = defaultdict(list)
    inherited: dict[str, list[Budget]] = defaultdict(list)
    with scopes_disabled():  # a template may be another organization's than the active scope's
        rows = list(Budget.objects.filter(named | Q(scope=Scope.TEMPLATE, scope_id__in=templates)))
    for row in rows:
        if (place := (row.organization_id, Scope(row.scope), row.scope_id)) in places:
            own[place].append(row)
        elif row.scope == Scope.TEMPLATE:
            inherited[row.scope_id].append(row)
    pairs: list[tuple[Budget, Spender]] = []
    for spender in spenders:
        own_rows = own[spender.organization.id, spender.scope, spender.scope_id]
        present = {row.model for row in own_rows if row.limit_pusd is not None or row.soft_limit_pusd is not None}
        more = inherited[spender.template_id] if spender.template_id else []
        pairs += [(row, spender) for row in [*own_rows, *(row for row in more if row.model not in present)]]
    usages: dict[Spender, list[BudgetUsage]] = defaultdict(list)
    for (_, spender), usage in zip(pairs, read_windows(pairs), strict=True):
        usages[spender].append(usage)
    totals = _read_totals(spenders)
    return [
        SpenderUsage(
            sorted(usages[spender], key=lambda usage: (usage.budget.model, usage.budget.is_additional)),
            totals[spender],
        )
        for spender in spenders
    ]


def read_windows(pairs: Sequence[tuple[Budget, Spender]]) -> list[BudgetUsage]:
    """The current windows of budgets, each with the scope that spends, in this order, with at most three queries."""
    now = timezone.now()
    keys = []
    for budget, spender in pairs:
        span = find_window(budget.duration, ZoneInfo(spender.organization.time_zone), now)
        keys.append((budget.id, spender.scope, spender.window_scope_id, span))
    rows = BudgetWindow.objects.filter(
        budget_id__in={key[0] for key in keys},
        scope_id__in={key[2] for key in keys},
        starts_at__in={key[3].starts_at for key in keys},
    )
    windows: dict[tuple[str, str, str, datetime], BudgetWindow] = {
        (row.budget_id, row.scope, row.scope_id, row.starts_at): row for row in (rows if keys else ())
    }
    found = [windows.get((budget_id, scope, scope_id, span.starts_at)) for budget_id, scope, scope_id, span in keys]
    # A window of all time that nothing was leased of yet will begin with what the scope has spent
    totals = _read_totals(
        [
            spender
            for (budget, spender), window in zip(pairs, found, strict=True)
            if window is None and not budget.duration and not budget.model
        ]
    )
    next_at = count_current(windows.values(), now)
    usages: list[BudgetUsage] = []
    for (budget, spender), key, existing in zip(pairs, keys, found, strict=True):
        spent = totals.get(spender, 0) if not budget.duration and not budget.model else 0
        window = existing or BudgetWindow(starts_at=key[3].starts_at, ends_at=key[3].ends_at, credit_pusd=-spent)
        window.budget = budget
        usages.append(BudgetUsage(budget, read_state(window, next_at.get(window.id))))
    return usages


def _read_totals(spenders: Collection[Spender]) -> dict[Spender, int]:
    """The picodollars that each spender has spent in all, as far as they count."""
    if not spenders:
        return {}
    rows = {
        (row.organization_id, row.scope, row.scope_id): max(0, row.pusd - row.credit_pusd)
        for row in SpendTotal.objects.filter(_name_scopes(spenders))
    }
    return {spender: rows.get((spender.organization.id, spender.scope, spender.scope_id), 0) for spender in spenders}


def _name_scopes(spenders: Collection[Spender]) -> Q:
    """Matches the rows of the spenders; the caller tells apart those that only share an id."""
    return Q(
        organization_id__in={spender.organization.id for spender in spenders},
        scope__in={spender.scope for spender in spenders},
        scope_id__in={spender.scope_id for spender in spenders},
    )
