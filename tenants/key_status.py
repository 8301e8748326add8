"""The rights of a key, and the levels of its limits and budgets, for its own holder."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta

from django.db import Error as DatabaseError
from django_scopes import scopes_disabled

from gateway.pipeline.ports import Dimension, LimitRule, Principal
from gateway.protocol.json.types import JsonObject
from gateway.state.rate_limits import Level
from tenants.budget_usage import Spender, SpenderUsage, read_usages
from tenants.database import database_away
from tenants.directory import read_holders
from tenants.limits import usd
from tenants.models import VirtualKey
from tenants.rate_limiter import RateLimiter
from tenants.rest.fields import render_instant
from tenants.rest.keys import render_info, render_whole_key
from tenants.rules import OWNERS

InThread = Callable[[Callable[[str], JsonObject], str], Awaitable[JsonObject]]


class KeyStatusReader:
    """Reads the database in a thread, and the counters of rate limits."""

    def __init__(self, in_thread: InThread, limiter: RateLimiter, now: Callable[[], float]) -> None:
        self._in_thread = in_thread
        self._limiter = limiter
        self._now = now

    async def read(self, principal: Principal) -> JsonObject:
        """LiteLLM's fields of /key/info, `limits` and `budgets`. Raises GatewayFault while the database is away.

        Shape of a limit: {"scope", "dimension", "model", "period", "limit", "used", "remaining", "reset_at"}; of a
        budget: {"scope", "model", "budget_duration", "limit", "soft_limit", "used", "held", "remaining", "reset_at"} in
        USD. `scope` is whose it is: key, user, team, … Tokens that running calls have reserved count as used.
        """
        if principal.is_master:
            return {"key_alias": principal.key_alias, "limits": [], "budgets": []}
        try:
            fields = await self._in_thread(read_key_fields, principal.key_id)
        except DatabaseError:
            raise database_away("read the key") from None
        rules = principal.rules.limits
        levels = await self._limiter.read_levels(rules) if rules else ()
        now = datetime.fromtimestamp(self._now(), UTC)
        return {
            **fields,
            "limits": [_render_limit(rule, level, now) for rule, level in zip(rules, levels, strict=True)],
        }


def read_key_fields(key_id: str) -> JsonObject:
    with scopes_disabled():  # the key was found by its text
        rows = VirtualKey.objects.select_related("organization", "team", "user", "budget_template")
        key = rows.get(pk=key_id)
        spenders = [
            Spender(key.organization, holder.scope, holder.scope_id, holder.template_id) for holder in read_holders(key)
        ]
        budgets = _render_budgets(spenders, read_usages(spenders))
        return {"key": key.digest, **render_info(render_whole_key(key)), "budgets": budgets}


def _render_limit(rule: LimitRule, level: Level, now: datetime) -> JsonObject:
    is_parallel = rule.dimension is Dimension.PARALLEL
    resets_at = now + timedelta(seconds=level.resets_in_s)
    return {
        "scope": rule.owner,
        "dimension": rule.dimension.value,
        "model": rule.model or None,
        "period": None if is_parallel else f"{rule.span_s}s",
        "limit": rule.limit,
        "used": level.used,
        "remaining": max(0, rule.limit - level.used),
        "reset_at": render_instant(resets_at if level.used else now),
    }


def _render_budgets(spenders: Sequence[Spender], usages: Sequence[SpenderUsage]) -> list[JsonObject]:
    return [
        {
            "scope": OWNERS[spender.scope],
            "model": entry.budget.model or None,
            "budget_duration": entry.budget.duration or None,
            "limit": usd(entry.state.limit_pusd),
            "soft_limit": usd(entry.budget.soft_limit_pusd),
            "used": usd(max(0, entry.state.spent_pusd)),
            "held": usd(entry.state.leased_pusd),
            "remaining": usd(max(0, room) if (room := entry.state.room_pusd) is not None else None),
            "reset_at": render_instant(entry.state.ends_at),
        }
        for spender, usage in zip(spenders, usages, strict=True)
        for entry in usage.budgets
    ]
