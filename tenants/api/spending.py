"""The `limits` and the `spend` of scopes in answers of /api/, with exact amounts."""

from collections.abc import Sequence

from gateway.protocol.amounts import usd_text
from gateway.protocol.json.types import JsonObject
from tenants.budget_usage import Spender, SpenderUsage, read_usages
from tenants.limits import render_rows, render_scopes, usd_or_none
from tenants.rest.fields import render_instant

NOTHING = SpenderUsage((), 0)


def render_spenders(spenders: Sequence[Spender | None]) -> list[JsonObject]:
    """`limits` and `spend` of scopes of one kind, in this order, with a fixed number of queries. None: a thing that has
    neither, such as a user outside organizations."""
    present = [spender for spender in spenders if spender is not None]
    names = [(spender.organization.id, spender.scope_id) for spender in present]
    limits = render_scopes(present[0].scope, names, amount=usd_or_none) if present else {}
    usages = dict(zip(names, read_usages(present), strict=True))
    rows: list[JsonObject] = []
    for spender in spenders:
        name = (spender.organization.id, spender.scope_id) if spender is not None else ("", "")
        own = limits.get(name) or render_rows([], [], amount=usd_or_none)
        rows.append({"limits": own, "spend": render_usage(usages.get(name, NOTHING))})
    return rows


def render_usage(usage: SpenderUsage) -> JsonObject:
    main = usage.main
    has_window = main is not None and bool(main.budget.duration)
    return {
        "spent_usd": usd_text(max(0, main.state.spent_pusd) if main is not None and has_window else usage.total_pusd),
        "total_usd": usd_text(usage.total_pusd),
        "held_usd": usd_text(main.state.leased_pusd if main is not None else 0),
        "resets_at": render_instant(main.state.ends_at) if main is not None else None,
        "budgets": [
            {
                "model": entry.budget.model or None,
                "duration": entry.budget.duration or None,
                "limit_usd": usd_or_none(entry.state.limit_pusd),
                "soft_limit_usd": usd_or_none(entry.budget.soft_limit_pusd),
                "spent_usd": usd_text(max(0, entry.state.spent_pusd)),
                "held_usd": usd_text(entry.state.leased_pusd),
                "left_usd": usd_or_none(max(0, room) if (room := entry.state.room_pusd) is not None else None),
                "resets_at": render_instant(entry.state.ends_at),
            }
            for entry in usage.budgets
        ],
    }
