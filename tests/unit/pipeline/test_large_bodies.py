"""Large answers and large events are translated beside the event loop, in order, and no thread outlives its caller."""

import asyncio
import contextlib
import gc
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest

from gateway.pipeline.large_bodies import LARGE_BYTES, LARGE_PART_BYTES, read_aside, read_sized
from gateway.protocol.answer import AnswerMetadata, StreamRelay
from gateway.protocol.attempt_context import AttemptContext, Fetched
from gateway.protocol.call import Call
from gateway.protocol.dialect import Hints
from gateway.protocol.dialects.anthropic import client as anthropic_client
from gateway.protocol.errors import UpstreamFault
from gateway.protocol.provider import Target, UpstreamRequest
from gateway.protocol.reasoning_replay import CallReasoning
from gateway.providers.registry import PROVIDERS
from gateway.state.signatures import SignatureMemory
from tests.fakes.memory import (
    DONE,
    JSON_ANSWER,
    PRINCIPAL,
    MemoryLedger,
    MemoryReply,
    Script,
    ScriptedClient,
    bind,
    chat,
    chunk,
    event,
    exchange_plan,
    services,
    target,
)

PATIENCE_S = 20.0
LARGE_TEXT = "word " * 400_000  # 2 MB
#: A client of Messages, whose answers from a server of OpenAI's dialect are translated.
TRANSLATED = {"model": "public", "max_tokens": 5, "messages": [{"role": "user", "content": "x"}]}


def messages(**fields: Any) -> Call:
    return anthropic_client.DIALECT.decode(orjson.dumps(TRANSLATED | fields), Hints())


def whole_answer(text: str, **message: Any) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": text, **message}, "finish_reason": "stop"}
    return orjson.dumps({"id": "a", "object": "chat.completion", "model": "private", "choices": [choice]})


class SpyProvider:
    """The provider of OpenAI-compatible servers. It notes the thread of each step, and can be made to wait."""

    def __init__(self) -> None:
        self._inner = PROVIDERS["openai_compatible"]
        self.threads: list[tuple[str, bool]] = []  # (the step, whether on the loop's thread)
        self.media_urls: tuple[str, ...] = ()
        self.gate: threading.Event | None = None
        self.begun = threading.Event()
        self.ended = threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def note(self, step: str) -> None:
        self.threads.append((step, threading.current_thread() is threading.main_thread()))

    def media(self, call: Call, target: Target) -> tuple[str, ...]:
        return self.media_urls

    def request(self, call: Call, target: Target, context: AttemptContext) -> UpstreamRequest:
        self.note("request")
        return self._inner.request(call, target, context)

    def relay_body(
        self, call: Call, target: Target, context: AttemptContext, body: bytes, headers: Mapping[str, str]
    ) -> tuple[bytes, AnswerMetadata]:
        self.note("body")
        self.wait()
        return self._inner.relay_body(call, target, context, body, headers)

    def relay(self, call: Call, target: Target, context: AttemptContext) -> StreamRelay:
        return SpyRelay(self, self._inner.relay(call, target, context))

    def wait(self) -> None:
        self.begun.set()
        if self.gate is not None:
            assert self.gate.wait(PATIENCE_S)
        self.ended.set()


class SpyRelay:
    def __init__(self, provider: SpyProvider, inner: StreamRelay) -> None:
        self._provider = provider
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def feed(self, piece: bytes) -> bytes:
        self._provider.note("feed")
        return self._inner.feed(piece)

    def finish(self) -> bytes:
        self._provider.note("finish")
        return self._inner.finish()


class LargeMedia:
    async def fetch(self, urls: Sequence[str]) -> Mapping[str, Fetched]:
        return {url: Fetched("image/png", "A" * LARGE_BYTES) for url in urls}


@dataclass(slots=True)
class Scene:
    """One request to one upstream, on a real loop."""

    call: Call
    script: Script
    provider: SpyProvider = field(default_factory=SpyProvider)
    reply: MemoryReply = field(default_factory=MemoryReply)
    ledger: MemoryLedger = field(default_factory=MemoryLedger)

    async def ask(self) -> None:
        client = ScriptedClient([self.script], max_bytes=64 * 1024 * 1024)
        plan = (target(provider=self.provider),)
        wired = services(client, self.ledger, media=LargeMedia())
        await exchange_plan(bind(self.call), plan, PRINCIPAL, wired, self.reply, request_id="r", timeout_s=None)


def run_scene(call: Call, script: Script) -> Scene:
    scene = Scene(call, script)
    asyncio.run(scene.ask())
    return scene


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


@pytest.mark.parametrize("call", [chat(), messages()], ids=["passed", "translated"])
def test_a_large_whole_answer_is_translated_beside_the_loop(call: Call) -> None:
    scene = run_scene(call, Script([whole_answer(LARGE_TEXT)], headers=JSON_ANSWER))
    assert scene.provider.threads == [("request", True), ("body", False)]
    assert LARGE_TEXT.encode() in scene.reply.body
    assert scene.ledger.closed[0].usage.output_tokens >= len(LARGE_TEXT) // 5


def test_a_small_whole_answer_stays_on_the_loop() -> None:
    scene = run_scene(messages(), Script([whole_answer("hello")], headers=JSON_ANSWER))
    assert scene.provider.threads == [("request", True), ("body", True)]


@pytest.mark.parametrize("make", [chat, messages], ids=["passed", "translated"])
@pytest.mark.parametrize("size", [LARGE_PART_BYTES // 2, 512 * 1024], ids=["in pieces", "at once"])
def test_a_large_event_is_translated_beside_the_loop_and_the_order_stays(make: Callable[..., Call], size: int) -> None:
    events = [event(chunk(text)) for text in ("first ", LARGE_TEXT, *(f"<{number}>" for number in range(200)))]
    stream = b"".join([*events, event(chunk(finish="stop")), DONE])
    expected = run_scene(make(stream=True), Script(cut(stream, 1024)))
    scene = run_scene(make(stream=True), Script([events[0], *cut(stream[len(events[0]) :], size)]))
    assert scene.reply.body == expected.reply.body
    assert scene.provider.threads[:2] == [("request", True), ("feed", True)]
    large = [is_loop for step, is_loop in scene.provider.threads if step == "feed"][1:]
    assert not all(large)
    assert scene.provider.threads[-1] == ("finish", False), "the end of a long stream holds all of its text"
    places = [scene.reply.body.index(text.encode()) for text in ("first", LARGE_TEXT, "<0>", "<199>")]
    assert places == sorted(places)


def test_small_events_stay_on_the_loop() -> None:
    stream = [event(chunk("x" * 100)) for _ in range(100)]
    scene = run_scene(messages(stream=True), Script([*stream, event(chunk(finish="stop")), DONE]))
    assert all(is_loop for _, is_loop in scene.provider.threads)


@pytest.mark.parametrize(
    ("call", "urls"),
    [(chat(messages=[{"role": "user", "content": LARGE_TEXT}]), ()), (chat(), ("https://a.test/x.png",))],
    ids=["text", "media"],
)
def test_a_large_request_is_encoded_beside_the_loop(call: Call, urls: tuple[str, ...]) -> None:
    scene = Scene(call, Script([whole_answer("hello")], headers=JSON_ANSWER))
    scene.provider.media_urls = urls
    asyncio.run(scene.ask())
    assert scene.provider.threads == [("request", False), ("body", True)]


@pytest.mark.parametrize("body", [b"[" + b" " * LARGE_BYTES, whole_answer(LARGE_TEXT)[:-2]], ids=["garbage", "cut"])
def test_a_fault_in_the_thread_reaches_the_client_as_before(body: bytes) -> None:
    scene = Scene(messages(), Script([body], headers=JSON_ANSWER))
    with pytest.raises(UpstreamFault, match="not JSON"):
        asyncio.run(scene.ask())
    assert scene.provider.threads == [("request", True), ("body", False)]
    assert len(scene.ledger.closed) == 1


def test_a_client_that_leaves_waits_for_its_thread_and_closes_the_row_after_it() -> None:
    scene = Scene(messages(), Script([whole_answer(LARGE_TEXT)], headers=JSON_ANSWER))
    scene.provider.gate = threading.Event()

    async def story() -> None:
        task = asyncio.ensure_future(scene.ask())
        assert await asyncio.to_thread(scene.provider.begun.wait, PATIENCE_S)
        task.cancel()
        await asyncio.sleep(0.01)
        task.cancel()  # the second one changes nothing
        await asyncio.sleep(0.01)
        assert not task.done()
        assert scene.ledger.closed == []
        assert scene.provider.gate is not None
        scene.provider.gate.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert scene.provider.ended.is_set()
        assert len(scene.ledger.closed) == 1

    asyncio.run(story())


def test_a_job_that_waits_for_a_thread_is_not_begun_for_a_caller_that_has_gone() -> None:
    gate, begun = threading.Event(), threading.Semaphore(0)
    calls: list[int] = []

    def hold() -> None:
        begun.release()
        assert gate.wait(PATIENCE_S)

    async def story() -> None:
        holders = [asyncio.ensure_future(read_aside(hold)) for _ in range(2)]
        for _ in holders:
            assert await asyncio.to_thread(begun.acquire, timeout=PATIENCE_S)
        waiting = [asyncio.ensure_future(read_aside(calls.append, number)) for number in range(1000)]
        await asyncio.sleep(0.01)
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
        gate.set()
        await asyncio.gather(*holders)
        await read_aside(calls.append, -1)

    asyncio.run(story())
    assert calls == [-1]


class Body:
    """A body that can be watched."""


def test_a_body_is_freed_without_the_collector_when_its_reader_fails() -> None:
    def fail(body: Body) -> None:
        raise UpstreamFault("unreadable")

    async def story() -> bool:
        bodies = [Body()]
        watched = weakref.ref(bodies[0])
        with contextlib.suppress(UpstreamFault):
            await read_sized(LARGE_BYTES, fail, bodies.pop())
        for _ in range(100):  # a thread lets go of a job when it takes the next one, and there may be a second thread
            await read_sized(LARGE_BYTES, str)
            if watched() is None:
                return True
        return False

    gc.disable()
    try:
        assert asyncio.run(story())
    finally:
        gc.enable()


def test_the_memory_of_signatures_bears_threads() -> None:
    """Racing puts of the same keys leave the sum of bytes right."""
    memory = SignatureMemory()
    reasoning = [CallReasoning("s" * size) for size in range(1, 50)]

    def put(start: int) -> None:
        for number in range(4000):
            memory.put("tenant", f"call-{(start + number) % 7}", reasoning[number % len(reasoning)])

    threads = [threading.Thread(target=put, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    remembered = [memory.get("tenant", f"call-{number}") for number in range(7)]
    assert memory.size_bytes == sum(one.size_bytes for one in remembered if one is not None)
