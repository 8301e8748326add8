"""Rate limits while Redis is away: what stands in, what the log says, and how the outage ends."""

import asyncio
from collections.abc import Sequence

import pytest
from redis import RedisError

from gateway.protocol.errors import GatewayFault
from gateway.state import shared_rate_limits
from gateway.state.memory_rate_limits import MemoryRateLimits
from gateway.state.rate_limits import SLOT_S, Demand, Grant, Level, Refusal
from gateway.state.shared_rate_limits import SharedRateLimits

RULE = Demand("{o}:requests", 2, 1)
SLOT = Demand("{o}:slots", 1, 1, SLOT_S)


class Remote:
    """Counters of all processes that can fail, or never answer."""

    def __init__(self) -> None:
        self.counters = MemoryRateLimits()
        self.error: Exception | None = None
        self.answers = asyncio.Event()
        self.answers.set()
        self.steps = 0

    async def _check(self) -> None:
        self.steps += 1
        if self.error is not None:
            raise self.error

    async def take(self, call_id: str, demands: Sequence[Demand]) -> Grant | Refusal:
        await self._check()
        result = await self.counters.take(call_id, demands)
        await self.answers.wait()
        if isinstance(result, Refusal):
            return result
        return Grant(result.call_id, result.demands, result.at_s, result.levels, is_shared=True)

    async def settle(self, grant: Grant, amounts: Sequence[int]) -> None:
        await self._check()
        await self.answers.wait()
        await self.counters.settle(grant, amounts)

    async def renew(self, grants: Sequence[Grant]) -> None:
        await self._check()
        await self.counters.renew(grants)

    async def read(self, demands: Sequence[Demand]) -> tuple[Level, ...]:
        await self._check()
        return await self.counters.read(demands)


def sharing(remote: Remote, local: MemoryRateLimits | None) -> SharedRateLimits:
    return SharedRateLimits(remote, local, retry_s=0.01)


async def admitted(limits: SharedRateLimits, count: int) -> int:
    return sum([isinstance(await limits.take(str(n), [RULE]), Grant) for n in range(count)])


@pytest.mark.parametrize("error", [RedisError("gone"), ConnectionResetError("gone"), TimeoutError("late")])
async def test_the_process_counts_alone_until_redis_is_back(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    remote = Remote()
    limits = sharing(remote, MemoryRateLimits())
    assert await admitted(limits, 1) == 1
    remote.error = error
    assert await admitted(limits, 5) == 2
    assert [level.used for level in await limits.read([RULE])] == [2]
    remote.error = None
    await asyncio.sleep(0.1)
    assert await admitted(limits, 5) == 1, "the counters of all processes have what they had"
    assert [record.getMessage() for record in caplog.records if record.name == shared_rate_limits.__name__] == [
        "Redis is away: each process counts alone",
        "Redis is back: rate limits are shared again",
    ]
    await limits.close()


async def test_calls_with_limits_are_refused_where_the_setting_says_so() -> None:
    remote = Remote()
    limits = sharing(remote, None)
    grant = await limits.take("call", [RULE])
    assert isinstance(grant, Grant)
    remote.error = RedisError("gone")
    with pytest.raises(GatewayFault) as refused:
        await limits.take("call", [RULE])
    assert refused.value.status == 503
    await limits.settle(grant, [1])  # a call that ends in an outage is not an error
    await limits.renew([grant])
    await limits.close()


async def test_grants_are_settled_where_they_were_taken() -> None:
    remote, local = Remote(), MemoryRateLimits()
    limits = sharing(remote, local)
    shared = await limits.take("shared", [SLOT])
    remote.error = RedisError("gone")
    alone = await limits.take("alone", [SLOT])
    assert isinstance(shared, Grant)
    assert isinstance(alone, Grant)
    remote.error = None
    await asyncio.sleep(0.1)
    await limits.renew([shared, alone])
    await limits.settle(shared, [1])
    await limits.settle(alone, [1])
    assert [level.used for level in (*await remote.counters.read([SLOT]), *await local.read([SLOT]))] == [0, 0]
    await limits.close()


async def slots_in_use(remote: Remote) -> int:
    return (await remote.counters.read([SLOT]))[0].used


async def test_a_client_that_leaves_amid_a_step_keeps_no_slot() -> None:
    remote = Remote()
    limits = sharing(remote, MemoryRateLimits())
    remote.answers.clear()
    taking = asyncio.create_task(limits.take("call", [SLOT]))
    await asyncio.sleep(0.01)
    assert await slots_in_use(remote) == 1
    taking.cancel()
    await asyncio.gather(taking, return_exceptions=True)
    remote.answers.set()
    await asyncio.sleep(0.01)
    assert await slots_in_use(remote) == 0

    grant = await limits.take("call", [SLOT])
    assert isinstance(grant, Grant)
    remote.answers.clear()
    settling = asyncio.create_task(limits.settle(grant, [1]))
    await asyncio.sleep(0.01)
    settling.cancel()
    await asyncio.gather(settling, return_exceptions=True)
    remote.answers.set()
    await asyncio.sleep(0.01)
    assert await slots_in_use(remote) == 0
    await limits.close()
