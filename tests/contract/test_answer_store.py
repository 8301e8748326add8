"""One contract for the stores of cached answers, in memory and in Redis."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from gateway.state.answer_store import ENTRY_OVERHEAD_BYTES, SHARE, AnswerStore
from gateway.state.memory_answer_store import MOST_DROPPED, MemoryAnswerStore
from gateway.state.redis_answer_store import MAX_PENDING_BYTES, PREFIX, RedisAnswerStore
from tests.fakes.services import RedisServer, restartable_redis

pytestmark = pytest.mark.only_on("sqlite")  # no database takes part

ROOM = 16 * 1024
VALUE = b"v" * ENTRY_OVERHEAD_BYTES  # with its overhead an eighth of the room
ENTRIES = ROOM // (2 * ENTRY_OVERHEAD_BYTES)
LONG = 1000.0


@pytest.fixture(scope="module", autouse=True)
def engine() -> None:
    """The stores know no database."""


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    with restartable_redis() as server:
        yield server


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["memory", "redis"])
async def store(request: pytest.FixtureRequest, clock: Clock) -> AsyncIterator[AnswerStore]:
    if request.param == "memory":
        yield MemoryAnswerStore(ROOM, clock)
        return
    server: RedisServer = request.getfixturevalue("redis_server")
    async with Redis.from_url(server.url) as client:
        await client.flushall()
        store = RedisAnswerStore(client, ROOM)
        yield store
        await store.close()


async def read(store: AnswerStore, key: str, max_bytes: int = ROOM) -> bytes | None:
    return await store.get(key, max_bytes)


async def present(store: AnswerStore, *keys: str) -> list[str]:
    return [key for key in keys if await read(store, key) is not None]


async def present_large(store: AnswerStore, *keys: str) -> list[str]:
    return [key for key in keys if await read(store, key, 10**8) is not None]


async def fill(store: AnswerStore, owner: str, count: int) -> list[str]:
    keys = [f"{owner}-{number}" for number in range(count)]
    for key in keys:
        await store.put(key, VALUE, owner=owner, ttl_s=LONG)
    return keys


async def wait_until_expired(store: AnswerStore, key: str) -> None:
    """Redis has its own clock."""
    while await read(store, key) is not None:
        pass


async def test_an_answer_is_read_as_it_was_written(store: AnswerStore) -> None:
    value = bytes(range(256)) + b"\r\n\0"
    assert await read(store, "a") is None
    await store.put("a", value, owner="o", ttl_s=LONG)
    assert await read(store, "a") == value
    assert await read(store, "b") is None


async def test_a_later_answer_replaces_the_former_one(store: AnswerStore) -> None:
    for value in (b"first", b"second", b"x"):
        await store.put("a", value, owner="o", ttl_s=LONG)
        assert await read(store, "a") == value


async def test_an_answer_that_is_larger_than_asked_for_is_none(store: AnswerStore) -> None:
    await store.put("a", b"12345", owner="o", ttl_s=LONG)
    assert await read(store, "a", 4) is None
    assert await read(store, "a", 5) == b"12345"


async def test_an_answer_ends_with_its_time(store: AnswerStore, clock: Clock) -> None:
    await store.put("short", b"1", owner="o", ttl_s=0.05)
    await store.put("long", b"2", owner="o", ttl_s=LONG)
    clock.now = 0.06
    await wait_until_expired(store, "short")
    assert await read(store, "long") == b"2"


async def test_a_replaced_answer_lives_as_long_as_the_later_one(store: AnswerStore, clock: Clock) -> None:
    await store.put("a", b"1", owner="o", ttl_s=0.05)
    await store.put("a", b"2", owner="o", ttl_s=LONG)
    await store.put("other", b"3", owner="o", ttl_s=0.05)
    clock.now = 0.06
    await wait_until_expired(store, "other")
    assert await read(store, "a") == b"2"


async def test_what_is_larger_than_the_room_displaces_nothing_but_its_former_self(store: AnswerStore) -> None:
    await store.put("a", b"1", owner="o", ttl_s=LONG)
    await store.put("b", b"2", owner="o", ttl_s=LONG)
    await store.put("b", b"x" * ROOM, owner="o", ttl_s=LONG)
    assert await present(store, "a", "b") == ["a"]


async def test_the_oldest_answers_make_room(store: AnswerStore) -> None:
    keys = await fill(store, "o", ENTRIES)
    assert await present(store, *keys) == keys
    await store.put("new", VALUE, owner="o", ttl_s=LONG)
    assert await present(store, *keys, "new") == [*keys[1:], "new"]
    await store.put("large", VALUE * 5, owner="o", ttl_s=LONG)  # three entries' room
    assert await present(store, *keys, "new", "large") == [*keys[4:], "new", "large"]


async def test_replacing_an_answer_displaces_no_other(store: AnswerStore) -> None:
    keys = await fill(store, "o", ENTRIES)
    for _ in range(2 * ENTRIES):
        await store.put(keys[-1], VALUE, owner="o", ttl_s=LONG)
    assert await present(store, *keys) == keys


async def test_a_flood_of_one_owner_displaces_its_own_answers(store: AnswerStore) -> None:
    quiet = await fill(store, "quiet", ENTRIES // SHARE)
    await fill(store, "flood", 10 * ENTRIES)
    assert await present(store, *quiet) == quiet


async def test_an_owner_below_its_share_finds_room(store: AnswerStore) -> None:
    flood = await fill(store, "flood", ENTRIES)
    quiet = await fill(store, "quiet", ENTRIES // SHARE)
    assert await present(store, *quiet) == quiet
    assert await present(store, *flood) == flood[len(quiet) :]


@pytest.mark.parametrize("seed", range(3))
async def test_the_room_is_never_exceeded(store: AnswerStore, seed: int) -> None:
    """Owners, sizes and keys at random; a key may pass to another owner."""
    draw = random.Random(seed)
    sizes: dict[str, int] = {}
    for _ in range(400):
        key, size = f"k{draw.randrange(40)}", draw.choice([0, 1, 700, 3000, 9000])
        await store.put(key, b"x" * size, owner=f"o{draw.randrange(4)}", ttl_s=LONG)
        sizes[key] = size + ENTRY_OVERHEAD_BYTES
    left = [key for key in sizes if await read(store, key) is not None]
    assert sum(sizes[key] for key in left) <= ROOM


async def test_ten_thousand_expiries_of_one_answer_are_not_all_remembered(clock: Clock) -> None:
    store = MemoryAnswerStore(ROOM, clock)
    for _ in range(10_000):
        await store.put("a", b"1", owner="o", ttl_s=LONG)
    assert len(store._expiries) < 100


async def test_answers_that_expire_together_are_dropped_in_small_steps(clock: Clock) -> None:
    store = MemoryAnswerStore(100 * MOST_DROPPED * ENTRY_OVERHEAD_BYTES, clock)
    keys = [f"k{number}" for number in range(10 * MOST_DROPPED)]
    for key in keys:
        await store.put(key, b"1", owner="o", ttl_s=1.0)
    clock.now = 1.0
    assert await read(store, keys[-1]) is None
    assert len(store._entries) == 9 * MOST_DROPPED
    assert await present(store, *keys) == []
    assert not store._entries


async def test_the_store_in_redis_mends_counts_that_redis_has_lost(redis_server: RedisServer) -> None:
    async with Redis.from_url(redis_server.url) as client:
        await client.flushall()
        store = RedisAnswerStore(client, ROOM)
        for lost in ("sizes", "all", "sums", "owner:*"):
            await fill(store, "o", ENTRIES)
            names = [name async for name in client.scan_iter(f"{PREFIX}{lost}")]
            assert names
            await client.delete(*names)
            keys = await fill(store, "p", 3 * ENTRIES)
            kept = await present(store, *keys)
            assert 0 < len(kept) <= ENTRIES
            assert kept == keys[-len(kept) :]
            await client.flushall()
        await store.close()


async def test_a_slow_redis_does_not_fill_the_memory_with_answers(redis_server: RedisServer) -> None:
    value = b"v" * (MAX_PENDING_BYTES // 4)
    async with Redis.from_url(redis_server.url) as client:
        await client.flushall()
        store = RedisAnswerStore(client, 100 * len(value))
        keys = [f"k{number}" for number in range(20)]
        await asyncio.gather(*[store.put(key, value, owner="o", ttl_s=LONG) for key in keys])
        assert await present_large(store, *keys) == keys[:3]
        await store.put("alone", value * 5, owner="o", ttl_s=LONG)
        assert await present_large(store, "alone") == ["alone"], "one that is larger than all of them may wait"
        await store.close()


async def test_every_key_in_redis_expires(redis_server: RedisServer) -> None:
    async with Redis.from_url(redis_server.url) as client:
        await client.flushall()
        store = RedisAnswerStore(client, ROOM)
        await fill(store, "o", 3)
        assert all([await client.pttl(name) > 0 async for name in client.scan_iter("*")])
        await store.close()


async def test_a_redis_that_is_away_is_an_empty_one(clock: Clock) -> None:
    with restartable_redis() as server:
        async with Redis.from_url(server.url, retry=Retry(NoBackoff(), 0)) as client:
            store = RedisAnswerStore(client, ROOM, clock)
            await store.put("a", b"1", owner="o", ttl_s=LONG)
            server.kill()
            assert await read(store, "a") is None
            await store.put("a", b"2", owner="o", ttl_s=LONG)
            server.start()
            assert await read(store, "a") is None  # it is not asked so soon
            clock.now += 10
            await store.put("a", b"3", owner="o", ttl_s=LONG)
            assert await read(store, "a") == b"3"
            await store.close()


async def test_what_another_program_has_put_in_the_place_of_an_answer_is_none(redis_server: RedisServer) -> None:
    async with Redis.from_url(redis_server.url) as client:
        await client.flushall()
        store = RedisAnswerStore(client, ROOM)
        await client.set(f"{PREFIX}entry:a", b"x" * (ROOM + 1))
        assert await read(store, "a") is None
        await client.rpush(f"{PREFIX}entry:b", "1")
        assert await read(store, "b") is None
        await store.close()
