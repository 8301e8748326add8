"""CallLedger: the pipeline's Ledger port for one call. It prices the attempts, and stores what their steps add."""

import asyncio
from collections.abc import Awaitable, Callable

from billing.ledger import MAX_CALL_TOKENS, attempt_cost
from billing.pricing import PriceLines, bound_counts
from gateway.pipeline.ports import Attempt
from gateway.sdk.details import AttemptDetails
from gateway.state.unit_of_work import UnitOfWork


class CallLedger:
    """It keeps nothing of an attempt but its details."""

    __slots__ = ("_commit", "_find_price", "attempts")

    def __init__(
        self, find_price: Callable[[str], PriceLines | None], commit: Callable[[UnitOfWork], Awaitable[None]]
    ) -> None:
        self._find_price = find_price
        self._commit = commit
        self.attempts: list[AttemptDetails] = []

    async def open(self, attempt: Attempt) -> None:
        """Nothing is written of an attempt that has not ended."""

    async def record(self, attempt: Attempt) -> None:
        attempt.cost_pusd = 0
        self.attempts.append(AttemptDetails.of(attempt))

    async def close(self, attempt: Attempt) -> None:
        attempt.usage = bound_counts(attempt.usage, MAX_CALL_TOKENS)
        attempt.cost_pusd = attempt_cost(attempt, self._find_price(attempt.target.price_id))
        self.attempts.append(AttemptDetails.of(attempt))
        unit = UnitOfWork()
        for step in attempt.steps:
            step(attempt, unit)
        if unit.operations or unit.follow_ups:
            # Shielded: what follows the write happens though the call is cancelled while it is written
            await asyncio.shield(self._commit(unit))
