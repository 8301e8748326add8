"""A call on its way through the response cache: what is replayed, what is recorded, and what is never kept."""

import asyncio
import contextlib
import gc
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
import pytest

from gateway.pipeline.cached_call import PIECE_BYTES, open_cached_call, split_events
from gateway.pipeline.ports import Attempt, Catalog, ClientStalled, Headers, Principal
from gateway.pipeline.response_cache import CacheSettings, ResponseCache
from gateway.pipeline.run import Inbound, run
from gateway.protocol.call import Call, Finish
from gateway.protocol.dialect import Hints
from gateway.protocol.errors import Fault, GatewayFault, RateLimited
from gateway.protocol.provider import Target
from gateway.protocol.usage import Usage
from gateway.routing.request import PLAIN
from gateway.routing.settings import DEFAULT_SETTINGS, RoutingSettings
from gateway.state.memory_answer_store import MemoryAnswerStore
from gateway.state.unit_of_work import UnitOfWork
from tests.fakes.memory import (
    DIALECTS,
    FOREVER,
    JSON_ANSWER,
    ONE_ATTEMPT,
    PRINCIPAL,
    WHOLE_ANSWER,
    WHOLE_STREAM,
    MemoryLedger,
    MemoryReply,
    Script,
    ScriptedClient,
    chunk,
    event,
    now,
    play,
    routing,
    services,
    target,
)

WHOLE = Script((WHOLE_ANSWER,), headers=JSON_ANSWER)
STREAM = Script(WHOLE_STREAM)
USED = Usage(input_tokens=7, output_tokens=3)


@dataclass
class Walls:
    """Admission that counts the requests of cached answers, and refuses all after `most`."""

    most: int = 1000
    requests: int = 0
    output_limit: int | None = None
    headers: Headers = field(default_factory=lambda: [(b"x-ratelimit-remaining-requests", b"1")])

    async def reserve(self, principal: Principal, call: Call, target: Target, *, is_repeat: bool = False) -> Any:
        return self if self.output_limit is not None else None

    async def charge(self, principal: Principal, call: Call, target: Target) -> Headers:
        return []

    async def charge_request(self, principal: Principal, call: Call) -> Headers:
        self.requests += 1
        if self.requests > self.most:
            raise RateLimited("too many")
        return self.headers

    windows = ()

    def add(self, attempt: Any) -> None: ...

    async def settle(self) -> None: ...


@dataclass
class World:
    """A gateway with one cache. Each answer of the upstream serves one call."""

    answers: Sequence[Script | BaseException] = ()
    targets: tuple[Target, ...] = (target(fingerprint="f"),)
    walls: Walls = field(default_factory=Walls)
    ledger: MemoryLedger = field(default_factory=MemoryLedger)
    stalled_client_s: float = 120.0
    max_entry_bytes: int = 256 * 1024
    settings: RoutingSettings = ONE_ATTEMPT

    def __post_init__(self) -> None:
        self.client = ScriptedClient(self.answers)
        settings = CacheSettings(secret=b"s" * 32, max_entry_bytes=self.max_entry_bytes)
        self.services = services(
            self.client,
            self.ledger,
            cache=ResponseCache(MemoryAnswerStore(1024 * 1024, now), settings),
            admission=self.walls,
            stalled_client_s=self.stalled_client_s,
            routing=routing(settings=self.settings),
        )

    async def ask(
        self,
        *,
        principal: Principal = PRINCIPAL,
        reply: MemoryReply | None = None,
        headers: dict[bytes, bytes] | None = None,
        **body: Any,
    ) -> MemoryReply:
        reply = reply or MemoryReply()
        fields = {"model": "public", "messages": [{"role": "user", "content": "hi"}], "cache": {"ttl": 60}, **body}
        spare = target("spare", model_group="spare")
        catalog = Catalog({(None, "public"): self.targets, (None, "spare"): (spare,)})
        inbound = Inbound("00000000-0000-7000-8000-00000000abcd", headers or {}, orjson.dumps(fields))
        await run(inbound, DIALECTS["chat"], principal, catalog, self.services, reply)
        return reply


def state(reply: MemoryReply) -> bytes | None:
    return dict(reply.headers).get(b"x-tollgate-cache")


def test_the_second_call_has_the_first_ones_answer_for_nothing() -> None:
    async def story() -> None:
        world = World([WHOLE])
        first, second = await world.ask(), await world.ask(user="someone else")
        assert (state(first), state(second)) == (b"miss", b"hit")
        assert first.body == second.body
        headers = dict(second.headers)
        assert float(headers[b"x-litellm-response-cost"]) == 0
        assert headers[b"x-ratelimit-remaining-requests"] == b"1"
        assert headers[b"x-litellm-model-id"] == b"first"
        assert len(headers[b"x-litellm-cache-key"]) == 64
        assert headers[b"age"] == b"0"
        assert len(world.client.requests) == world.walls.requests == 1
        [row] = world.ledger.recorded
        assert (row.is_cached, row.cost_pusd, row.usage, row.upstream_id) == (True, 0, USED, "chatcmpl-1")
        assert row.request_id == "00000000-0000-7000-8000-00000000abcd"
        assert row.call.end_user == "someone else"

    play(story())


def test_a_stream_is_replayed_as_the_stream_that_it_was() -> None:
    async def story() -> None:
        world = World([STREAM, WHOLE])
        first, second = await world.ask(stream=True), await world.ask(stream=True)
        assert (state(first), state(second)) == (b"miss", b"hit")
        assert first.body == second.body
        assert second.is_complete
        assert state(await world.ask()) == b"miss"  # the whole answer is another one

    play(story())


def test_the_row_is_durable_before_the_first_byte_of_a_replay() -> None:
    async def story() -> None:
        world = World([STREAM], ledger=MemoryLedger(takes_s=5))
        await world.ask(stream=True)
        world.ledger.log.clear()
        await world.ask(stream=True, reply=MemoryReply(log=world.ledger.log))
        assert [entry[0] for entry in world.ledger.log] == ["record", "start", "end"]
        world.ledger.close_fails = GatewayFault("no database")
        reply = MemoryReply()
        with pytest.raises(GatewayFault):
            await world.ask(stream=True, reply=reply)
        assert not reply.is_started

    play(story())


def test_a_limit_of_requests_refuses_a_cached_answer_too() -> None:
    async def story() -> None:
        world = World([WHOLE], walls=Walls(most=1))
        await world.ask()
        await world.ask()
        with pytest.raises(RateLimited):
            await world.ask()
        assert len(world.ledger.recorded) == 1

    play(story())


def test_an_answer_ends_with_its_time() -> None:
    async def story() -> None:
        world = World([WHOLE, WHOLE])
        await world.ask()
        await asyncio.sleep(59)
        assert dict((await world.ask()).headers)[b"age"] == b"59"
        assert state(await world.ask(headers={b"cache-control": b"max-age=58"})) == b"miss"
        assert len(world.client.requests) == 2

    play(story())


def test_another_organization_misses() -> None:
    async def story() -> None:
        world = World([WHOLE, WHOLE])
        await world.ask()
        assert state(await world.ask(principal=replace(PRINCIPAL, organization_id="abroad"))) == b"miss"
        assert len(world.client.requests) == 2

    play(story())


def test_a_call_that_does_not_ask_is_neither_answered_nor_kept() -> None:
    async def story() -> None:
        world = World([WHOLE, WHOLE, WHOLE])
        assert state(await world.ask(cache=None)) is None
        assert state(await world.ask()) == b"miss"
        assert state(await world.ask(cache=None)) is None
        assert b"cache" not in world.client.requests[1].body

    play(story())


def test_a_kept_answer_of_a_key_that_asks() -> None:
    async def story() -> None:
        from_key = replace(PRINCIPAL, cache=replace(PRINCIPAL.cache, is_wanted=True))
        world = World([WHOLE])
        assert state(await world.ask(principal=from_key, cache=None)) == b"miss"
        assert state(await world.ask(principal=from_key, cache=None)) == b"hit"

    play(story())


CUT = Script(WHOLE_STREAM[:2])
LIMITED = Script((b'{"error": {"message": "busy"}}',), status=429, headers=JSON_ANSWER)
BROKEN = Script((event(chunk("Hel")), ConnectionResetError()))


@pytest.mark.parametrize("script", [CUT, LIMITED, BROKEN], ids=["cut", "error", "broken"])
def test_what_is_no_whole_answer_is_not_kept(script: Script) -> None:
    async def story() -> None:
        world = World([script, STREAM])
        with pytest.raises(Fault):
            await world.ask(stream=True)
        assert state(await world.ask(stream=True)) == b"miss"
        assert state(await world.ask(stream=True)) == b"hit"

    play(story())


def test_a_client_that_leaves_amid_the_stream_leaves_nothing() -> None:
    async def story() -> None:
        world = World([Script((*WHOLE_STREAM[:2], 10.0, *WHOLE_STREAM[2:])), STREAM])
        asking = asyncio.create_task(world.ask(stream=True))
        await asyncio.sleep(5)
        asking.cancel()
        await asyncio.wait([asking])
        assert state(await world.ask(stream=True)) == b"miss"

    play(story())


def test_keep_alive_comments_are_no_part_of_the_answer() -> None:
    async def story() -> None:
        world = World([Script((*WHOLE_STREAM[:2], 40.0, *WHOLE_STREAM[2:]))])
        first, second = await world.ask(stream=True), await world.ask(stream=True)
        assert first.body.count(b": keep-alive\n\n") == 2
        assert second.body == first.body.replace(b": keep-alive\n\n", b"")

    play(story())


def test_an_answer_that_a_budget_shortened_is_not_kept() -> None:
    async def story() -> None:
        world = World([WHOLE, WHOLE], walls=Walls(output_limit=5))
        await world.ask()
        assert state(await world.ask()) == b"miss"

    play(story())


def test_an_answer_above_the_bound_is_not_kept_and_not_held() -> None:
    async def story() -> None:
        long = (event(chunk("x" * 600)), event(chunk("x" * 600)), *WHOLE_STREAM)
        world = World([Script(long), Script(long)], max_entry_bytes=1024)
        first, second = await world.ask(stream=True), await world.ask(stream=True)
        assert (state(first), state(second)) == (b"miss", b"miss")
        assert first.body == second.body

    play(story())


def test_a_replay_to_a_client_that_has_stopped_reading_ends() -> None:
    async def story() -> None:
        world = World([STREAM], stalled_client_s=30.0)
        await world.ask(stream=True)
        with pytest.raises(ClientStalled):
            await world.ask(stream=True, reply=MemoryReply(reads_s=FOREVER))

    play(story())


def test_calls_at_the_same_time_each_ask_and_one_answer_stays() -> None:
    async def story() -> None:
        world = World([replace(WHOLE, wait_s=1.0)] * 5)
        replies = await asyncio.gather(*(world.ask() for _ in range(5)))
        assert [state(reply) for reply in replies] == [b"miss"] * 5
        assert state(await world.ask()) == b"hit"

    play(story())


BUSY = Script((b"{}",), status=503, headers=JSON_ANSWER)


def test_the_answer_of_a_second_deployment_of_the_group_is_kept() -> None:
    async def story() -> None:
        world = World([BUSY, WHOLE], targets=(target("first"), target("second")), settings=DEFAULT_SETTINGS)
        first, second = await world.ask(), await world.ask()
        assert [dict(reply.headers)[b"x-litellm-model-id"] for reply in (first, second)] == [b"second"] * 2
        assert state(second) == b"hit"

    play(story())


def test_the_answer_of_another_group_is_not_kept() -> None:
    """It would stand in for the group long after that is back."""

    async def story() -> None:
        settings = RoutingSettings(fallbacks={"public": ("spare",)})
        world = World([BUSY, WHOLE, BUSY, WHOLE], settings=settings)
        first = await world.ask()
        assert dict(first.headers)[b"x-litellm-model-id"] == b"spare"
        assert state(await world.ask()) == b"miss"

    play(story())


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n"])
@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES - 5, PIECE_BYTES, 3 * PIECE_BYTES])
def test_a_replayed_stream_is_cut_between_events(size: int, end: bytes) -> None:
    events = [b"data: " + b"x" * count + end for count in (1, size, 2, size, 3)]
    for body in (b"".join(events), b"".join(events * 40)):
        cut = list(split_events(body))
        assert b"".join(cut) == body
        if end == b"\n\n":
            assert all(len(piece) <= PIECE_BYTES or piece.count(end) == 1 for piece in cut)
            assert all(piece.endswith(end) for piece in cut[:-1])


@dataclass
class ForgetfulLedger(MemoryLedger):
    """A ledger that keeps no attempt."""

    async def close(self, attempt: Attempt) -> None:
        await super().close(attempt)
        self.opened.clear()
        self.closed.clear()


@pytest.mark.parametrize("is_whole", [True, False])
def test_a_call_is_freed_when_it_has_ended(is_whole: bool) -> None:
    """Without the garbage collector: nothing may wait for it."""

    def living() -> int:
        return sum(issubclass(type(one), Attempt) for one in gc.get_objects())

    async def story() -> None:
        script = STREAM if is_whole else Script(WHOLE_STREAM[:2])
        world = World([script] * 20, ledger=ForgetfulLedger())
        before = living()
        for number in range(20):
            with contextlib.suppress(Fault):
                await world.ask(stream=True, seed=number)
        await asyncio.sleep(1)
        assert living() == before

    gc.collect()
    gc.disable()
    try:
        play(story())
    finally:
        gc.enable()


def test_an_answer_that_several_attempts_gave_parts_of_is_not_kept() -> None:
    async def story() -> None:
        world = World()
        call = DIALECTS["chat"].decode(
            orjson.dumps({"model": "public", "messages": [{"role": "user", "content": "hi"}], "cache": {"ttl": 60}}),
            Hints(),
        )
        for is_begun in (True, False):
            cached = await open_cached_call(call, {}, PRINCIPAL, world.targets, PLAIN, world.services)
            assert cached is not None
            broken = Attempt("1", "r", 0, PRINCIPAL, call, world.targets[0], now(), finish=Finish.UPSTREAM_BROKEN)
            broken.first_token_at = now() if is_begun else None
            for attempt in (broken, Attempt("2", "r", 1, PRINCIPAL, call, world.targets[0], now())):
                cached.note(attempt, UnitOfWork())
            await cached.record(MemoryReply()).send_body(200, [], b"{}")
            assert await cached.replay(MemoryReply(), "r") == (not is_begun)

    play(story())
