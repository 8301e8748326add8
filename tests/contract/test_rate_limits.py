"""One contract for the counters of rate limits, in memory and in Redis, on a scripted clock."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack

import pytest
from redis.asyncio import Redis

from gateway.state.memory_rate_limits import MemoryRateLimits
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
from gateway.state.redis_rate_limits import RedisRateLimits
from tests.fakes.services import RedisServer, restartable_redis

pytestmark = pytest.mark.only_on("sqlite")  # no database takes part

KINDS = ("memory", "redis")
#: Greedy clients; each plays ten minutes.
SEEDS = {"memory": 1000, "redis": 4}


@pytest.fixture(scope="module", autouse=True)
def engine() -> None:
    """The counters know no database."""


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    with restartable_redis() as server:
        yield server


@pytest.fixture(scope="module")
def redis_url(redis_server: RedisServer) -> str:
    return redis_server.url


class Clock:
    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


NewLimits = Callable[[], Awaitable[RateLimits]]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def new_limits(kind: str, clock: Clock, request: pytest.FixtureRequest) -> AsyncIterator[NewLimits]:
    """Makes counters that are all empty."""
    if kind == "memory":

        async def in_memory() -> RateLimits:
            return MemoryRateLimits(clock)

        yield in_memory
        return
    url = request.getfixturevalue("redis_url")
    async with Redis.from_url(url) as client, AsyncExitStack() as stack:

        async def in_redis() -> RateLimits:
            await client.flushall()
            limits = RedisRateLimits(client, clock=clock)
            stack.push_async_callback(limits.close)
            return limits

        yield in_redis


@pytest.fixture
async def limits(new_limits: NewLimits) -> RateLimits:
    return await new_limits()


def requests(limit: int, amount: int = 1, *, span_s: int = MINUTE_S, counter: str = "{o}:requests") -> Demand:
    return Demand(f"{counter}:{span_s}", limit, amount, span_s)


def slots(limit: int) -> Demand:
    return Demand("{o}:slots", limit, 1, SLOT_S)


async def take(limits: RateLimits, *demands: Demand, call_id: str = "call") -> Grant:
    result = await limits.take(call_id, demands)
    assert isinstance(result, Grant), result
    return result


async def refuse(limits: RateLimits, *demands: Demand, call_id: str = "call") -> Refusal:
    result = await limits.take(call_id, demands)
    assert isinstance(result, Refusal), result
    return result


async def used(limits: RateLimits, *demands: Demand) -> list[int]:
    return [level.used for level in await limits.read(demands)]


# Sums


@pytest.mark.parametrize(("span_s", "width_s"), [(MINUTE_S, 1), (DAY_S, 60)])
async def test_a_span_admits_its_limit_wherever_it_begins(
    limits: RateLimits, clock: Clock, span_s: int, width_s: int
) -> None:
    """A burst at the end of a bucket blocks until the bucket has left every span that could hold both."""
    demand = requests(3, span_s=span_s)
    clock.now += width_s - 0.001
    start = clock.now
    for _ in range(3):
        await take(limits, demand)
    for now in (start, start + 0.001, start + span_s - 0.001, start + span_s):
        clock.now = now
        refusal = await refuse(limits, demand)
        assert refusal.refused == (0,)
        assert refusal.retry_after_s == pytest.approx(start + 0.001 + span_s - now, abs=1e-5)
    clock.now = start + span_s + 0.0011
    for _ in range(3):
        await take(limits, demand)
    await refuse(limits, demand)


async def test_the_same_request_is_admitted_at_retry_after_and_not_before(limits: RateLimits, clock: Clock) -> None:
    chance = random.Random(7)
    checked = 0
    for _ in range(60):
        clock.now += chance.random() * 4
        demands = [requests(30, chance.randint(1, 12)), requests(90, chance.randint(1, 30), counter="{o}:tokens")]
        demands.append(requests(900, chance.randint(1, 9), span_s=DAY_S))
        result = await limits.take("call", demands)
        if isinstance(result, Grant):
            continue
        checked += 1
        assert result.retry_after_s is not None
        at = clock.now
        clock.now = at + result.retry_after_s - 0.0001
        await refuse(limits, *demands)
        clock.now = at + result.retry_after_s + 0.0001
        await take(limits, *demands)
    assert checked > 10


async def test_all_demands_are_taken_or_none(limits: RateLimits) -> None:
    wide, narrow, slot = requests(100), requests(2, counter="{o}:narrow"), slots(5)
    for n in range(2):
        await take(limits, wide, narrow, slot, call_id=str(n))
    refusal = await refuse(limits, wide, narrow, slot, call_id="third")
    assert refusal.refused == (1,)
    assert [level.used for level in refusal.levels] == [2, 2, 2]
    assert await used(limits, wide, narrow, slot) == [2, 2, 2]


async def test_a_refusal_waits_for_the_last_demand_that_refuses(limits: RateLimits, clock: Clock) -> None:
    first, second = requests(1), requests(1, counter="{o}:second")
    await take(limits, first)
    clock.now += 20
    await take(limits, second)
    refusal = await refuse(limits, first, second)
    assert refusal.refused == (0, 1)
    assert refusal.retry_after_s == pytest.approx(61)


async def test_what_is_larger_than_its_limit_never_fits(limits: RateLimits) -> None:
    refusal = await refuse(limits, requests(10), requests(100, 101, counter="{o}:tokens"))
    assert (refusal.refused, refusal.retry_after_s) == ((1,), None)
    assert await used(limits, requests(10)) == [0]


async def test_levels_tell_the_use_and_the_reset(limits: RateLimits, clock: Clock) -> None:
    clock.now += 0.25
    grant = await take(limits, requests(10, 4), slots(2))
    assert grant.levels == (Level(4, pytest.approx(60.75)), Level(1, pytest.approx(SLOT_LEASE_S)))
    clock.now += 30
    assert await limits.read((requests(10), slots(2))) == (
        Level(4, pytest.approx(30.75)),
        Level(1, pytest.approx(SLOT_LEASE_S - 30)),
    )
    clock.now += 31
    assert await limits.read((requests(10), slots(2))) == (Level(0, 0.0), Level(0, 0.0))


async def test_a_refund_leaves_the_bucket_it_was_taken_from(limits: RateLimits, clock: Clock) -> None:
    demand = requests(100, 90)
    grant = await take(limits, demand)
    clock.now += 30
    await take(limits, requests(100, 10))
    await limits.settle(grant, [40])
    assert await used(limits, demand) == [50]
    clock.now += 31
    assert await used(limits, demand) == [10], "what was left of the first call has expired with its bucket"


async def test_more_than_the_estimate_counts_from_when_it_was_taken(limits: RateLimits, clock: Clock) -> None:
    grant = await take(limits, requests(100, 0))
    clock.now += 59
    await limits.settle(grant, [130])
    assert await used(limits, requests(100)) == [130]
    clock.now += 2
    assert await used(limits, requests(100)) == [0]


async def test_a_settlement_after_the_span_changes_nothing(limits: RateLimits, clock: Clock) -> None:
    grant = await take(limits, requests(100, 90))
    clock.now += 50
    await take(limits, requests(100, 10))
    clock.now += 20
    await limits.settle(grant, [0])
    assert await used(limits, requests(100)) == [10]
    clock.now += 300
    await limits.settle(grant, [95])
    assert await used(limits, requests(100)) == [0]


async def test_a_shadow_limit_counts_and_never_refuses(limits: RateLimits) -> None:
    shadow = Demand("{o}:shadow", 2, 1, MINUTE_S, is_shadow=True)
    for n in range(5):
        grant = await take(limits, shadow, requests(5))
        assert grant.levels[0].used == n + 1
    refusal = await refuse(limits, shadow, requests(5))
    assert refusal.refused == (1,)


@pytest.mark.parametrize("back_s", [0.4, 7.0, 59.0, 90.0, 86_400.0])
async def test_a_clock_that_goes_back_neither_admits_more_nor_blocks_for_longer_than_a_span(
    limits: RateLimits, clock: Clock, back_s: float
) -> None:
    for _ in range(5):
        await take(limits, requests(10))
        clock.now += 3
    grant = await take(limits, requests(10, 3))
    clock.now -= back_s
    assert await used(limits, requests(10)) == [8]
    await take(limits, requests(10, 2))
    refusal = await refuse(limits, requests(10))
    assert refusal.retry_after_s is not None
    assert refusal.retry_after_s <= 61
    await limits.settle(grant, [1])
    assert await used(limits, requests(10)) == [8]
    clock.now += 61
    assert await used(limits, requests(10)) == [0]


async def test_amounts_may_be_large(limits: RateLimits) -> None:
    limit = 10**12
    grant = await take(limits, requests(limit, limit - 1))
    await take(limits, requests(limit, 1))
    await refuse(limits, requests(limit, 1))
    await limits.settle(grant, [5])
    assert await used(limits, requests(limit)) == [6]


# Slots


async def test_slots_are_given_back(limits: RateLimits) -> None:
    first = await take(limits, slots(2), call_id="1")
    await take(limits, slots(2), call_id="2")
    refusal = await refuse(limits, slots(2), call_id="3")
    assert refusal.retry_after_s == pytest.approx(1.0)
    await limits.settle(first, [1])
    await limits.settle(first, [1])
    await take(limits, slots(2), call_id="3")
    await refuse(limits, slots(2), call_id="4")


async def test_a_slot_expires_unless_it_is_renewed(limits: RateLimits, clock: Clock) -> None:
    running = await take(limits, slots(2), call_id="running")
    dead = await take(limits, slots(2), call_id="dead")
    for _ in range(4):
        clock.now += SLOT_LEASE_S / 3
        await limits.renew([running])
    assert await used(limits, slots(2)) == [1]
    await limits.renew([running, dead])
    assert await used(limits, slots(2)) == [1], "an expired slot may be another call's"
    await limits.settle(running, [1])
    await limits.renew([running])
    assert await used(limits, slots(2)) == [0]


async def test_slots_survive_a_clock_that_goes_back(limits: RateLimits, clock: Clock) -> None:
    await take(limits, slots(2), call_id="1")
    clock.now -= 1000
    assert await used(limits, slots(2)) == [1]
    clock.now += SLOT_LEASE_S
    assert await used(limits, slots(2)) == [0]


# Properties


async def test_a_greedy_client_gets_98_percent_and_no_span_admits_more_than_the_limit(
    new_limits: NewLimits, kind: str, clock: Clock
) -> None:
    """Ten minutes of a client that sends in bursts whenever it may."""
    for seed in range(SEEDS[kind]):
        chance, limits = random.Random(seed), await new_limits()
        limit = chance.choice((5, 20, 100))
        start = clock.now = 1_800_000_000 + chance.random() * 1000
        admitted: list[tuple[float, int]] = []
        while clock.now < start + 600:
            result = await limits.take("call", [requests(limit)])
            if isinstance(result, Grant):
                admitted.append((clock.now, 1))
                if chance.random() < 0.2:
                    clock.now += chance.random() * 0.2
            else:
                assert result.retry_after_s is not None
                clock.now += result.retry_after_s + 1e-5
        assert most_in_a_span(admitted, MINUTE_S) <= limit, seed
        assert len(admitted) >= 0.98 * limit * 10, seed


async def test_no_span_uses_more_tokens_than_the_limit(new_limits: NewLimits, kind: str, clock: Clock) -> None:
    """Calls of any size come at any instant, and each gives back a part of its estimate when it ends."""
    for seed in range(SEEDS[kind]):
        chance, limits = random.Random(seed), await new_limits()
        start = clock.now = 1_800_000_000 + chance.random() * 1000
        pause_s = chance.choice((0.2, 1.0, 5.0))
        running: list[tuple[Grant, int]] = []  # and its place among the admitted
        admitted: list[tuple[float, int]] = []
        while clock.now < start + 300:
            clock.now += chance.expovariate(1 / pause_s)
            if running and chance.random() < 0.5:
                grant, place = running.pop(chance.randrange(len(running)))
                usage = chance.randint(0, grant.demands[0].amount)
                admitted[place] = (grant.at_s, usage)
                await limits.settle(grant, [usage])
            result = await limits.take("call", [requests(100, chance.randint(1, 60))])
            if isinstance(result, Grant):
                running.append((result, len(admitted)))
                admitted.append((clock.now, result.demands[0].amount))
        assert most_in_a_span(admitted, MINUTE_S) <= 100, seed


def most_in_a_span(taken: Sequence[tuple[float, int]], span_s: float) -> int:
    """The largest sum of amounts in any half-open span."""
    most = total = first = 0
    for instant, amount in taken:
        total += amount
        while taken[first][0] <= instant - span_s:
            total -= taken[first][1]
            first += 1
        most = max(most, total)
    return most


# Memory


async def test_counters_that_are_empty_again_are_dropped(clock: Clock) -> None:
    """A million end users, each with a limit a minute, one a day that the last thousand use, and slots."""
    limits = MemoryRateLimits(clock)
    largest = 0
    for n in range(1_000_000):
        clock.now += 0.02
        minute, slot = Demand(f"{{o}}:{n}:60", 10, 1, MINUTE_S), Demand(f"{{o}}:{n}:0", 1, 1, SLOT_S)
        day = Demand(f"{{o}}:{n % 1000}:86400", 10_000_000, 1, DAY_S)
        result = await limits.take("call", (minute, slot, day) if n % 2 else (minute, Demand("{o}:0", 0, 1, MINUTE_S)))
        if isinstance(result, Grant):
            await limits.settle(result, (1, 1, 1))
        largest = max(largest, len(limits))
    assert largest < 61 / 0.02 * 2 + 1000


async def test_a_counter_leaves_redis_after_its_span(redis_url: str) -> None:
    async with Redis.from_url(redis_url) as client:
        await client.flushall()
        limits = RedisRateLimits(client)
        names = [requests(5).counter, requests(5, span_s=DAY_S).counter, slots(5).counter]
        await take(limits, requests(5), requests(5, span_s=DAY_S), slots(5))
        lives_s = [await client.ttl(name) for name in names]
        for life_s, span_s, bucket in zip(lives_s, (MINUTE_S, DAY_S, SLOT_LEASE_S), (1, MINUTE_S, 0), strict=True):
            assert span_s <= life_s <= span_s + bucket + 1


# Redis alone


async def test_a_flush_amid_the_run_raises_nothing(redis_url: str) -> None:
    """Neither that of the scripts nor that of the counters."""
    async with Redis.from_url(redis_url) as client:
        await client.flushall()
        limits = RedisRateLimits(client)
        grant = await take(limits, requests(5, 2), slots(5))
        await client.flushall()
        await client.script_flush()
        await limits.settle(grant, [1, 1])
        await limits.renew([grant])
        assert await used(limits, requests(5), slots(5)) == [0, 0]
        await client.script_flush()
        await take(limits, requests(5), slots(5))


async def test_processes_share_the_counters_of_redis(redis_url: str) -> None:
    async with Redis.from_url(redis_url) as one, Redis.from_url(redis_url) as other:
        await one.flushall()
        pair = RedisRateLimits(one), RedisRateLimits(other)
        results = await asyncio.gather(*(pair[n % 2].take(str(n), [requests(10), slots(50)]) for n in range(100)))
        assert sum(isinstance(result, Grant) for result in results) == 10


async def test_a_redis_that_does_not_answer_is_an_error_in_time(redis_server: RedisServer) -> None:
    async with Redis.from_url(redis_server.url) as client:
        limits = RedisRateLimits(client)
        await client.flushall()
        loop = asyncio.get_running_loop()
        with redis_server.frozen():
            start = loop.time()
            steps = [limits.take(str(n), [requests(5)]) for n in range(3)]
            results = await asyncio.gather(*steps, return_exceptions=True)
            assert [type(result) for result in results] == [TimeoutError] * 3
            assert 0.9 < loop.time() - start < 5
        await take(limits, requests(100))
        await limits.close()


async def test_a_call_that_is_cancelled_leaves_the_others_alone(redis_server: RedisServer) -> None:
    async with Redis.from_url(redis_server.url) as client:
        await client.flushall()
        limits = RedisRateLimits(client)
        with redis_server.frozen():
            tasks = [asyncio.create_task(limits.take(str(n), [requests(5)])) for n in range(5)]
            await asyncio.sleep(0.05)
            tasks[0].cancel()
            tasks[3].cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [isinstance(result, Grant) for result in results] == [False, True, True, False, True]
        await limits.close()
