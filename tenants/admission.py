"""The pipeline's Admission port: the rate limits and budgets of a call, reserved before it and settled after it.

Budgets are asked first, because they are given back most cheaply; then all rate limits in one step. What one of them
refuses burns nothing of the others.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC
from typing import Protocol, TypeAlias

from django.db import Error as DatabaseError

from gateway.pipeline.large_bodies import read_sized
from gateway.pipeline.ports import (
    Attempt,
    BudgetRule,
    Dimension,
    Headers,
    Principal,
    Reservation,
    Rules,
)
from gateway.protocol.amounts import PLACES, PUSD
from gateway.protocol.call import Call
from gateway.protocol.errors import BudgetExceeded, Fault, Forbidden
from gateway.protocol.output_limit import lower_output
from gateway.protocol.provider import Target
from gateway.state.statement import DatabaseAway
from tenants.budget_leases import BudgetLeases, BudgetRefused, Hold
from tenants.database import database_away
from tenants.models import Scope
from tenants.rate_limiter import RateLimiter, TakenLimits, TokenEstimate

HELD_RETRY_S = 1
#: Each of a call's budgets may pay for less output than the one before it.
MAX_LOWERINGS = 4
LOWERED_HEADER = b"x-tollgate-max-tokens-lowered"

#: (call, target, picodollars) → the largest output limit that these pay, below that of the call; None where there is
#: none of use.
FindOutputLimit: TypeAlias = Callable[[Call, Target, int], int | None]


class Estimate(TokenEstimate, Protocol):
    """The tokens that a call is reserved by, and their cost at a target."""

    @property
    def cost_pusd(self) -> int | None:
        """None where no price covers the call."""


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """A TokenEstimate."""

    input_tokens: int = 0
    output_tokens: int = 0


NO_TOKENS = TokenCounts()


class ScopeRules(Protocol):
    """The rules of the scopes that a call names: its end user and its tags."""

    async def find(self, principal: Principal, call: Call) -> Rules:
        """Raises Forbidden for an end user who is blocked, or may not call the model."""


class LimitAdmission:
    """Admission by the rules of the principal, the end user, the tags and the deployment. With `find_output_limit`,
    the output of a call is limited to what its budgets still pay."""

    def __init__(
        self,
        limiter: RateLimiter,
        budgets: BudgetLeases,
        scopes: ScopeRules,
        *,
        estimate: Callable[[Call, Target], Estimate],
        now: Callable[[], float],
        budget_status: int = 429,
        find_output_limit: FindOutputLimit | None = None,
    ) -> None:
        self._limiter = limiter
        self._budgets = budgets
        self._scopes = scopes
        self._estimate = estimate
        self._now = now
        self._budget_status = budget_status
        self._find_output_limit = find_output_limit

    async def reserve(
        self, principal: Principal, call: Call, target: Target, *, is_repeat: bool = False
    ) -> Reservation | None:
        rules = await self._find_rules(principal, call)
        limits, budgets = rules.limits, rules.budgets
        if not rules:
            return None
        reservation = _Reservation(self, principal, budgets)
        try:
            estimate = await self._hold(reservation, call, target)
        except BudgetRefused as refused:
            fault = budget_exceeded(refused, self._budget_status, self._now())
            fault.headers += tuple(await self._limiter.read_headers(limits, self._estimate(call, target)))
            raise fault from None
        with ExitStack() as undo:
            undo.callback(reservation.release_budgets)
            reservation.note_taken(await self._limiter.take(limits, estimate, is_repeat=is_repeat))
            undo.pop_all()
        return reservation

    async def _hold(self, reservation: "_Reservation", call: Call, target: Target) -> Estimate:
        """Reserves the budgets, with a lower output limit where they do not pay for the whole. Returns the estimate.
        Raises BudgetRefused, for the call as it came, and as `hold_budgets`."""
        first: BudgetRefused | None = None
        for _ in range(MAX_LOWERINGS + 1):
            estimate = self._estimate(call, target)
            try:
                await reservation.hold_budgets(call, estimate.cost_pusd)
            except BudgetRefused as refused:
                first = first or refused
                limit = self._find_output_limit and self._find_output_limit(call, target, refused.payable_pusd)
                if limit is None:
                    break
                call = await read_sized(len(call.raw), lower_output, call, limit)
                reservation.output_limit = limit
            else:
                return estimate
        assert first is not None
        raise first

    async def charge(self, principal: Principal, call: Call, target: Target) -> Headers:
        limits = (await self._find_rules(principal, call)).limits
        rates = [rule for rule in limits if rule.dimension is not Dimension.PARALLEL]
        taken = await self._limiter.take(rates, self._estimate(call, target)) if rates else None
        return taken.headers if taken is not None else []

    async def charge_request(self, principal: Principal, call: Call) -> Headers:
        limits = (await self._find_rules(principal, call)).limits
        requests = [rule for rule in limits if rule.dimension is Dimension.REQUESTS]
        taken = await self._limiter.take(requests, NO_TOKENS) if requests else None
        return taken.headers if taken is not None else []

    async def _find_rules(self, principal: Principal, call: Call) -> Rules:
        """The rules that apply to the call."""
        rules = principal.rules
        if call.end_user or call.tags:
            rules += await self._scopes.find(principal, call)
        return rules.for_model(principal.resolve_model(call.model)) if rules else rules

    async def hold_budgets(self, budgets: Sequence[BudgetRule], cost_pusd: int) -> Hold:
        """Raises BudgetRefused; GatewayFault where the database must be asked and is away."""
        try:
            return await self._budgets.reserve(budgets, cost_pusd)
        except (DatabaseError, DatabaseAway):
            raise database_away("check budgets") from None

    async def extend_hold(self, hold: Hold, cost_pusd: int) -> bool:
        """False where the budgets do not allow it, or cannot be asked."""
        try:
            return await self._budgets.extend(hold, cost_pusd)
        except (DatabaseError, DatabaseAway):
            return False

    def estimate_cost(self, call: Call, target: Target) -> int | None:
        return self._estimate(call, target).cost_pusd


class _Reservation:
    """See gateway.pipeline.ports.Reservation."""

    __slots__ = (
        "_admission",
        "_budgets",
        "_cost_pusd",
        "_hold",
        "_input_tokens",
        "_is_settled",
        "_output_tokens",
        "_principal",
        "_taken",
        "headers",
        "output_limit",
        "windows",
    )

    def __init__(self, admission: LimitAdmission, principal: Principal, budgets: Sequence[BudgetRule]) -> None:
        self._admission = admission
        self._principal = principal
        self._budgets = budgets
        self._taken: TakenLimits | None = None
        self._hold: Hold | None = None
        self._cost_pusd = self._input_tokens = self._output_tokens = 0
        self._is_settled = False
        self.headers: Headers = []
        self.windows: tuple[str, ...] = ()
        self.output_limit: int | None = None

    async def hold_budgets(self, call: Call, cost_pusd: int | None) -> None:
        """Reserves the estimated cost; None is that of a model without a price. What costs nothing needs no budget.
        Raises Forbidden, BudgetRefused or GatewayFault."""
        if not self._budgets or cost_pusd == 0:
            return
        if cost_pusd is None:
            self._check_unpriced(call)
        self._hold = await self._admission.hold_budgets(self._budgets, cost_pusd or 0)
        self.windows = self._hold.windows

    def _check_unpriced(self, call: Call) -> None:
        if self._principal.refuses_unpriced and any(rule.is_hard for rule in self._budgets):
            raise Forbidden(
                f"The model '{call.model}' has no price, and a hard budget applies to this request: the organization "
                "blocks calls whose cost is unknown.",
                param="model",
                code="model_unpriced",
            )

    def note_taken(self, taken: TakenLimits | None) -> None:
        self._taken = taken
        self.headers = list(taken.headers) if taken is not None else []
        if self.output_limit is not None:
            self.headers.append((LOWERED_HEADER, b"%d" % self.output_limit))

    def release_budgets(self) -> None:
        if self._hold is not None:
            self._hold.settle(0)

    async def extend(self, call: Call, target: Target, running: Sequence[Attempt] = ()) -> bool:
        cost_pusd = self._admission.estimate_cost(call, target)
        running_pusd = sum(self._admission.estimate_cost(attempt.call, attempt.target) or 0 for attempt in running)
        try:
            if self._hold is None:  # all targets so far were free
                await self.hold_budgets(call, cost_pusd)
                return True
            if cost_pusd is None:
                self._check_unpriced(call)
        except (Fault, BudgetRefused):
            return False
        return await self._admission.extend_hold(self._hold, self._cost_pusd + running_pusd + (cost_pusd or 0))

    def add(self, attempt: Attempt) -> None:
        self._cost_pusd += attempt.cost_pusd or 0
        self._input_tokens += attempt.usage.total_input
        self._output_tokens += attempt.usage.total_output

    async def settle(self) -> None:
        if self._is_settled:
            return
        self._is_settled = True
        if self._hold is not None:
            self._hold.settle(self._cost_pusd)
        if self._taken is not None:
            await self._taken.settle(self._input_tokens, self._output_tokens)


def budget_exceeded(refused: BudgetRefused, status: int, now_s: float) -> BudgetExceeded:
    """The refusal of a budget. Only the one for amounts that running calls hold may be tried again. That of a
    deployment, which many callers share, tells no amounts."""
    rule, amount, state = refused.rule, refused.amount_pusd, refused.state
    limit, spent = state.limit_pusd or 0, state.spent_pusd
    what = f"{rule.owner[0].upper()}{rule.owner[1:]}{f' (model {rule.model})' if rule.model else ''}"
    verb = "The oldest amount leaves the rolling window at" if state.is_rolling else "Resets at"
    reset = f" {verb} {state.ends_at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}." if state.ends_at is not None else ""
    is_shared = rule.scope == Scope.DEPLOYMENT
    text = "Budget has been exceeded! The deployment has no budget left for this request." + reset
    if not is_shared:
        text = (
            f"Budget has been exceeded! {what}: current cost: {_usd(spent)}, held by running calls: "
            f"{_usd(state.leased_pusd)}, max budget: {_usd(limit)}.{reset}"
        )
    if spent < limit and amount <= limit - spent:
        return BudgetExceeded(
            f"{text} Try again when a running call has ended."
            if is_shared
            else f"{text} This request may cost {_usd(amount)}; try again when a running call has ended.",
            status=status,
            code="budget_held",
            headers=((b"retry-after", b"%d" % HELD_RETRY_S), (b"x-should-retry", b"true")),
        )
    headers: Headers = [(b"x-should-retry", b"false")]
    if state.ends_at is not None:
        headers.append((b"x-ratelimit-reset-budget", b"%d" % max(0, state.ends_at.timestamp() - now_s)))
    if spent < limit and not is_shared:
        text += f" This request may cost {_usd(amount)}, more than is left."
    return BudgetExceeded(text, status=status, headers=tuple(headers))


def _usd(pusd: int) -> str:
    """Dollars without trailing zeros: 0.25."""
    sign = "-" if pusd < 0 else ""
    whole, rest = divmod(abs(pusd), PUSD)
    decimals = f"{rest:0{PLACES}d}".rstrip("0")
    return f"{sign}${whole}.{decimals or '0'}"
