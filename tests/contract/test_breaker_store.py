"""One contract for what breakers share, in memory and in Redis. Redis' own clock decides there: lengths are compared
with the length of the test."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import pytest
from redis import RedisError
from redis.asyncio import Redis

from gateway.state.breaker_store import (
    LEASE_S,
    Accepted,
    BreakerStore,
    Ejected,
    Ended,
    LeaseWanted,
    Refused,
    SharedEjection,
)
from gateway.state.redis_breaker_store import KEY, RedisBreakerStore
from tests.fakes.breaker_store import MemoryBreakerStore
from tests.fakes.services import RedisServer, restartable_redis

pytestmark = pytest.mark.only_on("sqlite")  # no database takes part
MOST = 20


@pytest.fixture(scope="module", autouse=True)
def engine() -> None:
    """The store knows no database."""


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    with restartable_redis() as server:
        yield server


@pytest.fixture(params=["memory", "redis"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[BreakerStore]:
    if request.param == "memory":
        yield MemoryBreakerStore(time.time, most=MOST)
        return
    server: RedisServer = request.getfixturevalue("redis_server")
    async with Redis.from_url(server.url) as client:
        await client.flushall()
        shared = RedisBreakerStore(client, most=MOST)
        yield shared
        await shared.close()


def ejected(name: str, left_s: float = 100.0, number: int = 1, reason: str = "server") -> Ejected:
    return Ejected(name, SharedEjection(reason, number, left_s))


async def test_an_ejection_of_one_process_is_known_to_the_others(store: BreakerStore) -> None:
    await store.sync("one", [ejected("a", 50.0, 3, "rate_limit"), ejected("b", -10.0)])
    states = await store.sync("two", [])
    assert set(states.ejections) == {"a", "b"}
    known = states.ejections["a"]
    assert (known.reason, known.number) == ("rate_limit", 3)
    assert 20 < known.left_s <= 50.001
    assert states.ejections["b"].left_s <= -9.99, "it is half open"


async def test_of_two_ejections_the_longer_one_counts(store: BreakerStore) -> None:
    await store.sync("one", [ejected("a", 200.0, 2)])
    states = await store.sync("two", [ejected("a", 100.0, 1)])
    assert states.ejections["a"].number == 2
    states = await store.sync("two", [ejected("a", 300.0, 1)])
    assert states.ejections["a"].number == 1


async def test_an_end_is_that_of_the_ejection_that_the_process_knew(store: BreakerStore) -> None:
    await store.sync("one", [ejected("a", 100.0)])
    states = await store.sync("two", [Ended("a", 40.0)])
    assert set(states.ejections) == {"a"}, "another process has made a longer one since"
    states = await store.sync("two", [Ended("a", 100.0), Ended("unknown", 0.0)])
    assert not states.ejections


async def test_what_is_over_for_long_is_dropped(store: BreakerStore) -> None:
    states = await store.sync("one", [ejected("a", -299.0), ejected("b", -301.0)])
    assert set(states.ejections) == {"a"}


async def test_a_refusal_has_the_first_instant_and_stays_until_it_is_taken_away(store: BreakerStore) -> None:
    await store.sync("one", [Refused("a", 1_800_000_000.25)])
    states = await store.sync("two", [Refused("a", 1_800_000_010.0), ejected("a")])
    assert states.refused == {"a": 1_800_000_000.25}
    states = await store.sync("two", [Accepted("a")])
    assert not states.refused
    assert set(states.ejections) == {"a"}


async def test_one_process_has_the_lease_of_a_probe(store: BreakerStore) -> None:
    changes = [ejected("a", -1.0), LeaseWanted("a")]
    all_states = await asyncio.gather(*(store.sync(f"process-{n}", changes) for n in range(10)))
    owners = {states.leases["a"].owner for states in all_states if "a" in states.leases}
    assert len(owners) == 1
    states = await store.sync("another", [LeaseWanted("a")])
    assert {states.leases["a"].owner} == owners
    states = await store.sync(owners.pop(), [LeaseWanted("a")])
    assert LEASE_S - 1 < states.leases["a"].left_s <= LEASE_S


@pytest.mark.parametrize("end", [Ended("a", 0.0), ejected("a", 100.0)])
async def test_the_end_of_a_probe_ends_its_lease(store: BreakerStore, end: Ended | Ejected) -> None:
    await store.sync("one", [ejected("a", -1.0), LeaseWanted("a")])
    assert not (await store.sync("one", [end])).leases


async def test_the_number_of_entries_is_bounded(store: BreakerStore) -> None:
    await store.sync("one", [ejected("first"), *(Refused(f"r{n}", 1.0) for n in range(3 * MOST))])
    states = await store.sync("one", [ejected(f"e{n}") for n in range(3 * MOST)])
    assert len(states.refused) + len(states.ejections) == MOST
    states = await store.sync("one", [ejected("first", 500.0)])
    assert states.ejections["first"].left_s > 400, "one that has its place is changed"


async def test_ids_and_classes_are_any_text(store: BreakerStore) -> None:
    names = ["a b:c", "ü\n'\"", "x" * 600]
    states = await store.sync("one", [change for name in names for change in (ejected(name), Refused(name, 5.0))])
    assert set(states.ejections) == set(states.refused) == set(names)


# Redis alone


async def test_a_redis_that_has_lost_everything_has_another_generation(redis_server: RedisServer) -> None:
    async with Redis.from_url(redis_server.url) as client:
        await client.flushall()
        store = RedisBreakerStore(client)
        first = await store.sync("one", [ejected("a")])
        assert (await store.sync("two", [])).generation == first.generation
        await client.flushall()
        second = await store.sync("one", [])
        assert second.generation not in {"", first.generation}
        assert not second.ejections


async def test_what_another_version_has_written_is_skipped(redis_server: RedisServer) -> None:
    async with Redis.from_url(redis_server.url) as client:
        await client.flushall()
        store = RedisBreakerStore(client)
        await store.sync("one", [ejected("a")])
        await client.hset(KEY, mapping={"e:x": "soon", "e:y": "99999999999999", "r:z": "", "q:a": "1", "p:a": "1 2 3"})
        states = await store.sync("one", [ejected("b"), Ended("x", 0.0)])
        assert set(states.ejections) == {"a", "b"}
        assert not states.refused
        assert not states.leases


async def test_an_ended_lease_is_free_also_where_the_clock_went_back(redis_server: RedisServer) -> None:
    async with Redis.from_url(redis_server.url) as client:
        await client.flushall()
        store = RedisBreakerStore(client)
        for until_s in (time.time() - 1, time.time() + 3600):
            await client.hset(KEY, "p:a", f"{round(until_s * 1000)} gone")
            states = await store.sync("one", [LeaseWanted("a")])
            assert states.leases["a"].owner == "one"


async def test_a_key_of_another_kind_is_an_outage(redis_server: RedisServer) -> None:
    async with Redis.from_url(redis_server.url) as client:
        await client.flushall()
        await client.set(KEY, "text")
        with pytest.raises(RedisError):
            await RedisBreakerStore(client).sync("one", [])
