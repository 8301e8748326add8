"""Rate limits and budgets: how full each is, and whether a call would fit."""

from collections.abc import Mapping, Sequence

from django_scopes import scopes_disabled

from billing.estimate import CallEstimate
from gateway.pipeline.ports import BudgetRule, LimitRule, Rules
from gateway.protocol.amounts import usd_text
from gateway.protocol.json.types import JsonObject
from tenants.budget_usage import BudgetUsage, Spender, read_windows
from tenants.live_limits import LIVE_LIMITS, render_usage
from tenants.models import Budget, Organization, Scope
from tenants.rate_limiter import amount_of
from tenants.rules import scope_id_of


def explain_limits(rules: Rules, estimate: CallEstimate) -> list[JsonObject]:
    """Each rate limit, how full it is, and what the call would take of it."""
    rows: list[JsonObject] = []
    for rule, row in zip(rules.limits, render_usage(rules.limits), strict=True):
        requested = amount_of(rule, estimate)
        would_refuse = not rule.is_shadow and (row["used"] or 0) + requested > rule.limit
        rows.append({**row, "requested": requested, "would_refuse": would_refuse})
    return rows


def explain_budgets(rules: Rules, estimate: CallEstimate) -> list[JsonObject]:
    """Each budget's current window, and whether the call would fit. All that processes lease counts as held."""
    rows: list[JsonObject] = []
    for rule, usage in _read_usages(rules.budgets):
        state, room = usage.state, usage.state.room_pusd
        rows.append(
            {
                "scope": rule.owner,
                "model": rule.model or None,
                "duration": rule.duration or None,
                "limit": usd_text(state.limit_pusd) if state.limit_pusd is not None else None,
                "spent": usd_text(state.spent_pusd),
                "held": usd_text(state.leased_pusd),
                "left": usd_text(room) if room is not None else None,
                "reset_at": state.ends_at.isoformat() if state.ends_at is not None else None,
                "would_refuse": _is_too_small(room, estimate),
            }
        )
    return rows


def find_full(rules: Mapping[str, Sequence[LimitRule]], estimates: Mapping[str, CallEstimate]) -> set[str]:
    """Those with a limit that would refuse the call now. Without counters in this process no limit refuses."""
    pairs = [(name, rule) for name, own in rules.items() for rule in own]
    levels = LIVE_LIMITS.read([rule for _, rule in pairs])
    if levels is None:
        return set()
    return {
        name
        for (name, rule), level in zip(pairs, levels, strict=True)
        if level.used + amount_of(rule, estimates[name]) > rule.limit
    }


def find_spent(rules: Mapping[str, Sequence[BudgetRule]], estimates: Mapping[str, CallEstimate]) -> set[str]:
    """Those with a budget that has no room for the call."""
    names = {rule.budget_id: name for name, own in rules.items() for rule in own}
    usages = _read_usages([rule for own in rules.values() for rule in own])
    return {
        names[rule.budget_id]
        for rule, usage in usages
        if _is_too_small(usage.state.room_pusd, estimates[names[rule.budget_id]])
    }


def _is_too_small(room_pusd: int | None, estimate: CallEstimate) -> bool:
    return room_pusd is not None and bool(estimate.cost_pusd) and room_pusd < (estimate.cost_pusd or 0)


def _read_usages(rules: Sequence[BudgetRule]) -> list[tuple[BudgetRule, BudgetUsage]]:
    """The current window of each budget that still exists."""
    with scopes_disabled():  # a template may be the platform's; the rules are the principal's
        stored = Budget.objects.in_bulk([rule.budget_id for rule in rules])
        organizations = Organization.objects.in_bulk({rule.organization_id for rule in rules})
    present = [rule for rule in rules if rule.budget_id in stored]
    pairs = [
        (
            stored[rule.budget_id],
            Spender(
                organizations[rule.organization_id],
                Scope(rule.scope),
                scope_id_of(rule.organization_id, rule.scope, rule.scope_id),
            ),
        )
        for rule in present
    ]
    return list(zip(present, read_windows(pairs), strict=True))
