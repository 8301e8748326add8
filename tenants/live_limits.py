"""The levels of rate limits, for the management API: its views ask the counters that the calls of their process use."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Protocol

from django.utils import timezone

from gateway.pipeline.ports import LimitRule
from gateway.protocol.errors import GatewayFault
from gateway.protocol.json.types import JsonObject
from gateway.state.rate_limits import DAY_S, MINUTE_S, Level

PATIENCE_S = 2.0
PERIODS = {MINUTE_S: "minute", DAY_S: "day"}


class Levels(Protocol):
    """The counters; see tenants.rate_limiter."""

    async def read_levels(self, rules: Sequence[LimitRule]) -> Sequence[Level]: ...


class LiveLimits:
    """The counters of this process, from `connect` until `disconnect`; views run in threads beside their event loop."""

    def __init__(self) -> None:
        self._counters: tuple[Levels, asyncio.AbstractEventLoop] | None = None

    def connect(self, counters: Levels) -> None:
        self._counters = counters, asyncio.get_running_loop()

    def disconnect(self) -> None:
        self._counters = None

    def read(self, rules: Sequence[LimitRule]) -> Sequence[Level] | None:
        """None where this process answers no calls, or its counters are away. It blocks the thread."""
        if self._counters is None or not rules:
            return None
        counters, loop = self._counters
        future = asyncio.run_coroutine_threadsafe(counters.read_levels(rules), loop)
        try:
            return future.result(PATIENCE_S)
        except (TimeoutError, GatewayFault):
            future.cancel()
            return None


LIVE_LIMITS = LiveLimits()


def render_usage(rules: Sequence[LimitRule]) -> list[JsonObject]:
    """Each limit with what is used of it; the last three members are None where that is not known."""
    levels = LIVE_LIMITS.read(rules)
    rows = []
    for place, rule in enumerate(rules):
        level = levels[place] if levels is not None else None
        reset_at = timezone.now() + timedelta(seconds=level.resets_in_s) if level is not None else None
        rows.append(
            {
                "scope": rule.owner,
                "model": rule.model or None,
                "dimension": rule.dimension.value,
                "period": PERIODS.get(rule.span_s),
                "limit": rule.limit,
                "is_shadow": rule.is_shadow,
                "used": level.used if level is not None else None,
                "remaining": max(0, rule.limit - level.used) if level is not None else None,
                "reset_at": reset_at.isoformat() if reset_at is not None else None,
            }
        )
    return rows
