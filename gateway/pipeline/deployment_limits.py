"""The limits of a deployment itself (rpm, tpm, parallel calls) and its budgets, the same for all processes.

They never hold a client: a call that one refuses goes to another deployment, or gets a 429 at once.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from gateway.pipeline.ports import BudgetHold, Dimension, LimitRule, Principal
from gateway.protocol.call import Call
from gateway.protocol.errors import Fault
from gateway.protocol.provider import Target
from gateway.protocol.usage import Usage
from gateway.state.rate_limits import MINUTE_S, SLOT_LEASE_S, SLOT_S, Demand, Grant, RateLimits, Refusal


class DeploymentFull(Exception):
    """The limits of a deployment admit no call now; they do in `wait_s` (None: never one of this size). Its budgets
    refuse one call alone: then `fault` is what the client gets where no other deployment answers."""

    def __init__(self, wait_s: float | None, fault: Fault | None = None) -> None:
        super().__init__(wait_s)
        self.wait_s = wait_s
        self.fault = fault


class DeploymentBudgets(Protocol):
    """The budgets of deployments. An attempt reserves what it may cost there, beside what its caller reserves."""

    async def hold(self, principal: Principal, call: Call, target: Target) -> BudgetHold | None:
        """None where the deployment has no budget, or the call costs nothing there. Raises DeploymentFull with a
        fault."""


class NoDeploymentBudgets:
    """DeploymentBudgets where no deployment has one."""

    async def hold(self, principal: Principal, call: Call, target: Target) -> BudgetHold | None:
        return None


def limit_rules(target: Target) -> Sequence[LimitRule]:
    """The limits of a deployment itself."""
    if target.rpm is None and target.tpm is None and target.max_parallel is None:
        return ()
    limits = (
        (Dimension.REQUESTS, target.rpm, MINUTE_S),
        (Dimension.TOKENS, target.tpm, MINUTE_S),
        (Dimension.PARALLEL, target.max_parallel, SLOT_S),
    )
    name = f"{{tollgate}}:deployment:{target.deployment_id}"
    return [
        LimitRule(f"{name}:{dimension}", "deployment", dimension, limit, span_s)
        for dimension, limit, span_s in limits
        if limit is not None
    ]


class DeploymentLimits:
    """`estimate`: the tokens that a call may take of a deployment, input and output. From `start()` on, the slots of
    running calls are renewed. Closes: the owner, with `close()`."""

    def __init__(
        self,
        counters: RateLimits,
        *,
        new_id: Callable[[], str],
        estimate: Callable[[Call, Target], int],
        renew_s: float = SLOT_LEASE_S / 3,
    ) -> None:
        self._counters = counters
        self._new_id = new_id
        self._estimate = estimate
        self._renew_s = renew_s
        self._running: dict[str, Grant] = {}
        self._renewing: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._renewing = asyncio.create_task(self._renew(), name="slots of deployments")

    async def close(self) -> None:
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.gather(self._renewing, return_exceptions=True)

    async def take(self, target: Target, call: Call) -> Grant | None:
        """None where the deployment has no limits. Raises DeploymentFull."""
        rules = limit_rules(target)
        if not rules:
            return None
        tokens = self._estimate(call, target) if target.tpm is not None else 0
        demands = [
            Demand(rule.counter, rule.limit, tokens if rule.dimension is Dimension.TOKENS else 1, rule.span_s)
            for rule in rules
        ]
        taken = await self._counters.take(self._new_id(), demands)
        if isinstance(taken, Refusal):
            raise DeploymentFull(taken.retry_after_s)
        self._running[taken.call_id] = taken
        return taken

    async def settle(self, grant: Grant, usage: Usage) -> None:
        """The attempt has ended with this usage. Once; later calls do nothing."""
        tokens = usage.total_input + usage.total_output
        await self._replace(
            grant, [tokens if demand.counter.endswith(":tokens") else demand.amount for demand in grant.demands]
        )

    async def give_back(self, grant: Grant) -> None:
        """The attempt was not begun: it counts as none. Does nothing where it has ended."""
        await self._replace(grant, [0] * len(grant.demands))

    async def _replace(self, grant: Grant, amounts: Sequence[int]) -> None:
        if self._running.pop(grant.call_id, None) is not None:
            await self._counters.settle(grant, amounts)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._renew_s)
            if self._running:
                await self._counters.renew(list(self._running.values()))
