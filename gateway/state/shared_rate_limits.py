"""Rate limits in Redis, and what stands in for them while Redis is away."""

import asyncio
import logging
from collections.abc import Coroutine, Sequence

from redis import RedisError

from gateway.protocol.errors import GatewayFault
from gateway.state.rate_limits import Demand, Grant, Level, RateLimits, Refusal

logger = logging.getLogger(__name__)

RETRY_S = 0.5
OUTAGES = (RedisError, OSError, TimeoutError)
PROBE = Demand("{tollgate}:probe", limit=1, amount=0)


class SharedRateLimits:
    """RateLimits of all processes. While they are away, those of this process alone take their place, each with the
    whole limit; without `local`, calls that have limits are refused (503). Closes: the owner, with `close()`."""

    def __init__(self, shared: RateLimits, local: RateLimits | None, *, retry_s: float = RETRY_S) -> None:
        self._shared = shared
        self._local = local
        self._retry_s = retry_s
        self._is_away = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def take(self, call_id: str, demands: Sequence[Demand]) -> Grant | Refusal:
        if not self._is_away:
            try:
                return await self._shared.take(call_id, demands)
            except OUTAGES as error:
                self._note_outage(error)
            except asyncio.CancelledError:  # the client is gone, and the step may have been made
                self._run(self._release(call_id, demands))
                raise
        return await self._stand_in().take(call_id, demands)

    async def settle(self, grant: Grant, amounts: Sequence[int]) -> None:
        if not grant.is_shared:
            await self._stand_in().settle(grant, amounts)
        elif not self._is_away:  # else buckets and slots expire
            try:
                await self._shared.settle(grant, amounts)
            except OUTAGES as error:
                self._note_outage(error)
            except asyncio.CancelledError:
                self._run(self._release(grant.call_id, grant.demands))
                raise

    async def renew(self, grants: Sequence[Grant]) -> None:
        if self._local is not None:
            await self._local.renew([grant for grant in grants if not grant.is_shared])
        if not self._is_away:
            try:
                await self._shared.renew([grant for grant in grants if grant.is_shared])
            except OUTAGES as error:
                self._note_outage(error)

    async def read(self, demands: Sequence[Demand]) -> tuple[Level, ...]:
        if not self._is_away:
            try:
                return await self._shared.read(demands)
            except OUTAGES as error:
                self._note_outage(error)
        return await self._stand_in().read(demands)

    def _stand_in(self) -> RateLimits:
        if self._local is None:
            raise GatewayFault("The gateway cannot check rate limits at the moment. Try again in a few seconds.")
        return self._local

    def _note_outage(self, error: Exception) -> None:
        if not self._is_away:
            self._is_away = True
            consequence = "calls with rate limits are refused" if self._local is None else "each process counts alone"
            why = f"{type(error).__name__}: {error}".partition("\n")[0]
            logger.error("Redis is away: %s", consequence, extra={"why": why})
            self._run(self._wait_for_end())

    async def _wait_for_end(self) -> None:
        while self._is_away:
            await asyncio.sleep(self._retry_s)
            try:
                await self._shared.take("probe", [PROBE])
            except OUTAGES:
                continue
            self._is_away = False
            logger.warning("Redis is back: rate limits are shared again")

    async def _release(self, call_id: str, demands: Sequence[Demand]) -> None:
        """Gives the slots of a call back, whether or not it has them."""
        amounts = [demand.amount for demand in demands]
        try:
            await self._shared.settle(Grant(call_id, tuple(demands), 0.0, (), is_shared=True), amounts)
        except OUTAGES as error:
            self._note_outage(error)

    def _run(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work, name="rate limits")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
