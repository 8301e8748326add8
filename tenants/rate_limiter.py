"""The rate limits of calls: taken before a call, settled by its usage, and told in headers, refusals and the log."""

import asyncio
import math
from collections.abc import Callable, Sequence
from typing import Protocol

from gateway.pipeline.ports import Dimension, Headers, LimitRule
from gateway.protocol.errors import RateLimited
from gateway.state.rate_limits import (
    DAY_S,
    MINUTE_S,
    SLOT_LEASE_S,
    SLOT_S,
    Demand,
    Grant,
    Level,
    RateLimits,
    Refusal,
)
from tenants.limit_events import LimitEvents
from tenants.limit_headers import draft_headers, limit_headers

#: An estimate above this counts as this: the counters add exactly up to 2^53.
MOST_TOKENS = 10**12
ALL_DIMENSIONS = frozenset(Dimension)
PERIODS = {MINUTE_S: " per minute", DAY_S: " per day"}


class TokenEstimate(Protocol):
    """The tokens that a call is reserved by."""

    @property
    def input_tokens(self) -> int: ...

    @property
    def output_tokens(self) -> int: ...


class TakenLimits:
    """The amounts that one call has taken of its rate limits."""

    __slots__ = ("_grant", "_limiter", "_rules", "headers")

    def __init__(self, limiter: "RateLimiter", rules: Sequence[LimitRule], grant: Grant, headers: Headers) -> None:
        self._limiter = limiter
        self._rules = rules
        self._grant = grant
        self.headers = headers

    async def settle(self, input_tokens: int, output_tokens: int) -> None:
        amounts = [
            tokens if (tokens := _tokens(rule, input_tokens, output_tokens)) is not None else demand.amount
            for rule, demand in zip(self._rules, self._grant.demands, strict=True)
        ]
        await self._limiter.settle(self._grant, amounts)


class RateLimiter:
    """Takes all rate limits of a call in one step. It takes those of the `dimensions`. From `start()` on, the slots of
    running calls are renewed. Closes: the owner, with `close()`."""

    def __init__(
        self,
        counters: RateLimits,
        *,
        now: Callable[[], float],
        new_id: Callable[[], str],
        dimensions: frozenset[Dimension] = ALL_DIMENSIONS,
        has_draft_headers: bool = False,
        renew_s: float = SLOT_LEASE_S / 3,
    ) -> None:
        self._counters = counters
        self._now = now
        self._new_id = new_id
        self._dimensions = dimensions
        self._has_draft_headers = has_draft_headers
        self._renew_s = renew_s
        self._events = LimitEvents()
        self._running: dict[str, Grant] = {}  # calls that hold slots
        self._renewing: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._renewing = asyncio.create_task(self._renew(), name="slots of running calls")

    async def close(self) -> None:
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.gather(self._renewing, return_exceptions=True)

    async def take(
        self, rules: Sequence[LimitRule], estimate: TokenEstimate, *, is_repeat: bool = False
    ) -> TakenLimits | None:
        """None where no rule is to be taken here. A repeat counts as no further request. Raises RateLimited, or
        GatewayFault where the counters are away."""
        rules = [rule for rule in rules if rule.dimension in self._dimensions]
        if not rules:
            return None
        demands = _demands(rules, estimate, requests=0 if is_repeat else 1)
        result = await self._counters.take(self._new_id(), demands)
        self._events.note(rules, result.levels, self._now())
        if isinstance(result, Refusal):
            raise self._refuse(rules, result)
        if any(rule.span_s == SLOT_S for rule in rules):
            self._running[result.call_id] = result
        return TakenLimits(self, rules, result, self._headers(rules, result.levels))

    async def read_headers(self, rules: Sequence[LimitRule], estimate: TokenEstimate) -> Headers:
        """The headers for a call that takes nothing."""
        rules = [rule for rule in rules if rule.dimension in self._dimensions]
        return self._headers(rules, await self._counters.read(_demands(rules, estimate))) if rules else []

    async def read_levels(self, rules: Sequence[LimitRule]) -> Sequence[Level]:
        return await self._counters.read([Demand(rule.counter, rule.limit, 0, rule.span_s) for rule in rules])

    async def settle(self, grant: Grant, amounts: Sequence[int]) -> None:
        self._running.pop(grant.call_id, None)
        await self._counters.settle(grant, amounts)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._renew_s)
            if self._running:
                await self._counters.renew(list(self._running.values()))

    def _headers(
        self, rules: Sequence[LimitRule], levels: Sequence[Level], retry_after_s: float | None = None
    ) -> Headers:
        headers = limit_headers(rules, levels)
        if self._has_draft_headers:
            headers += draft_headers(rules, levels, retry_after_s)
        return headers

    def _refuse(self, rules: Sequence[LimitRule], refusal: Refusal) -> RateLimited:
        place = refusal.refused[0]
        rule, demand = rules[place], refusal.demands[place]
        headers = self._headers(rules, refusal.levels, refusal.retry_after_s)
        model = f" of model {rule.model}" if rule.model else ""
        kind = "parallel requests" if rule.dimension is Dimension.PARALLEL else rule.dimension.value.replace("_", " ")
        text = (
            f"Rate limit exceeded for {rule.owner}{model}. Limit type: {kind}. Current limit: "
            f"{rule.limit}{PERIODS.get(rule.span_s, '')}, used: {refusal.levels[place].used}, "
            f"requested: {demand.amount}."
        )
        wait_s = refusal.retry_after_s
        if wait_s is None:
            headers.append((b"x-should-retry", b"false"))
            fault = RateLimited(f"{text} The request alone is larger than the limit.", code="request_too_large")
        else:
            whole_s = max(1, math.ceil(wait_s))
            headers += [(b"retry-after", b"%d" % whole_s), (b"retry-after-ms", b"%d" % math.ceil(wait_s * 1000))]
            fault = RateLimited(f"{text} Try again in {whole_s} s.")
        fault.headers = tuple(headers)
        fault.dimension = rule.dimension.value
        return fault


def _demands(rules: Sequence[LimitRule], estimate: TokenEstimate, *, requests: int = 1) -> list[Demand]:
    demands = []
    for rule in rules:
        amount = amount_of(rule, estimate, requests=requests)
        demands.append(Demand(rule.counter, rule.limit, min(amount, MOST_TOKENS), rule.span_s, rule.is_shadow))
    return demands


def amount_of(rule: LimitRule, estimate: TokenEstimate, *, requests: int = 1) -> int:
    """The amount that a call of this estimate takes of the limit."""
    tokens = _tokens(rule, estimate.input_tokens, estimate.output_tokens)
    if tokens is not None:
        return tokens
    return requests if rule.dimension is Dimension.REQUESTS else 1


def _tokens(rule: LimitRule, input_tokens: int, output_tokens: int) -> int | None:
    """The tokens that the rule counts; None where it counts calls."""
    match rule.dimension:
        case Dimension.TOKENS:
            return input_tokens + output_tokens
        case Dimension.INPUT_TOKENS:
            return input_tokens
        case Dimension.OUTPUT_TOKENS:
            return output_tokens
        case _:
            return None
