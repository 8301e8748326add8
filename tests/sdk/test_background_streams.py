"""Streams of background responses: followed as they are made, resumed at any event, and ended by a cancellation."""

import asyncio
import gc
import threading
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent

from gateway import sdk
from gateway.protocol.dialects.responses.event_log import read_events
from gateway.protocol.json.types import JsonObject
from gateway.sdk.background_runs import BackgroundRun
from gateway.sdk.event_logs import MAX_BATCH, replay_log
from gateway.sdk.process import PROCESS
from gateway.sdk.sessions import MemoryStore
from gateway.state.unit_of_work import UnitOfWork
from tests.fakes.responses_grammar import check
from tests.fakes.upstream import CREDENTIAL, Answer, FakeUpstream
from tests.sdk.waiting import eventually
from tests.sdk.wire import wire_form

SLOW = Answer(gap_s=0.03, text="word " * 30)
ENDLESS = Answer(gap_s=0.05, text="word " * 4000)
MODEL = "openai/up-slow"


@pytest.fixture(autouse=True)
def _upstream(upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", CREDENTIAL)
    monkeypatch.setenv("OPENAI_BASE_URL", upstream.url)
    upstream.requests.clear()


def begin(**options: object) -> sdk.Stream[ResponseStreamEvent]:
    stream = sdk.responses("hello", MODEL, background=True, stream=True, **options)  # type: ignore[arg-type]
    assert isinstance(stream, sdk.Stream)
    return stream


def plain(events: Sequence[ResponseStreamEvent]) -> list[JsonObject]:
    return [wire_form(event) for event in events]


def first_events(stream: sdk.Stream[ResponseStreamEvent], count: int) -> tuple[list[ResponseStreamEvent], str]:
    events = [next(stream) for _ in range(count)]
    first = events[0]
    assert first.type == "response.created"
    return events, first.response.id


def test_a_stream_is_told_as_it_is_made_and_is_one_legal_stream(upstream: FakeUpstream) -> None:
    with upstream.script("up-slow", SLOW):
        stream = begin(input_cost_per_token=0.001, output_cost_per_token=0.002)
        events, response_id = first_events(stream, 6)
        assert [event.type for event in events[:3]] == [
            "response.created",
            "response.queued",
            "response.in_progress",
        ]
        assert sdk.get_responses(response_id).status == "in_progress"
        events += list(stream)
    final = check(plain(events))
    assert (final["status"], final["id"]) == ("completed", response_id)
    stored = sdk.get_responses(response_id)
    assert stored.model_dump() == Response.model_validate(final).model_dump()
    cost = sdk.details(stream).cost
    assert isinstance(cost, Decimal)
    assert cost > 0
    assert sdk.details(stored).cost == cost
    assert sdk.details(stored).deployment.startswith(MODEL)


def test_a_reader_that_comes_back_gets_exactly_what_it_missed(upstream: FakeUpstream) -> None:
    with upstream.script("up-slow", SLOW):
        with begin() as stream:
            events, response_id = first_events(stream, 10)
        with sdk.get_responses(response_id, stream=True, starting_after=9) as stream:
            events += [next(stream) for _ in range(5)]
        assert not upstream.last("up-slow").disconnected
        events += list(sdk.get_responses(response_id, stream=True, starting_after=14))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert check(plain(events))["status"] == "completed"
    whole = plain(list(sdk.get_responses(response_id, stream=True)))
    assert whole == plain(events)
    last = len(whole) - 1
    assert plain(list(sdk.get_responses(response_id, stream=True, starting_after=last - 1))) == whole[-1:]
    assert list(sdk.get_responses(response_id, stream=True, starting_after=last)) == []
    assert list(sdk.get_responses(response_id, stream=True, starting_after=10**9)) == []


async def test_many_readers_follow_one_response(upstream: FakeUpstream) -> None:
    async def read(response_id: str) -> list[JsonObject]:
        return plain([event async for event in await sdk.aget_responses(response_id, stream=True)])

    with upstream.script("up-slow", SLOW):
        response = await sdk.aresponses("hello", MODEL, background=True)
        assert isinstance(response, Response)
        assert response.status == "queued"
        streams = await asyncio.gather(*(read(response.id) for _ in range(20)))
    assert check(streams[0])["status"] == "completed"
    assert all(stream == streams[0] for stream in streams)


def test_a_cancellation_ends_the_stream_and_the_upstreams_call(upstream: FakeUpstream) -> None:
    with upstream.script("up-slow", ENDLESS):
        stream = begin()
        events, response_id = first_events(stream, 8)
        cancelled = sdk.cancel_responses(response_id)
        assert cancelled.status == "cancelled"
        events += list(stream)
        eventually(lambda: upstream.last("up-slow").disconnected)
    final = check(plain(events))
    assert events[-1].type == "response.incomplete"
    assert final["status"] == "cancelled"
    assert sdk.get_responses(response_id).model_dump() == cancelled.model_dump()
    assert sdk.cancel_responses(response_id).model_dump() == cancelled.model_dump()
    assert sdk.details(stream).usage_estimated


def test_a_cancellation_at_once_leaves_nothing_behind() -> None:
    for _ in range(20):
        response = sdk.responses("hello", "mock/echo", background=True)
        assert isinstance(response, Response)
        assert sdk.cancel_responses(response.id).status in {"cancelled", "completed"}
        events = list(sdk.get_responses(response.id, stream=True))
        assert check(plain(events))["status"] in {"cancelled", "completed"}


def test_a_deletion_ends_the_stream_and_erases_its_events(upstream: FakeUpstream) -> None:
    with upstream.script("up-slow", ENDLESS):
        stream = begin()
        _, response_id = first_events(stream, 8)
        sdk.delete_responses(response_id)
        list(stream)
    with pytest.raises(openai.NotFoundError):
        sdk.get_responses(response_id, stream=True)


def test_a_stream_that_is_left_does_not_end_the_response(upstream: FakeUpstream) -> None:
    with upstream.script("up-slow", SLOW):
        stream = begin()
        _, response_id = first_events(stream, 5)
        stream.close()
        assert list(stream) == []
        eventually(lambda: sdk.get_responses(response_id).status == "completed")


def test_what_an_upstream_refuses_is_the_end_of_the_stream() -> None:
    stream = sdk.responses("hello", "openai/up-500", background=True, stream=True, num_retries=0)
    events = plain(list(stream))
    assert check(events)["status"] == "failed"
    assert sdk.details(stream).attempts[0].status_code >= 500


def test_what_no_upstream_takes_is_refused_at_once() -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.responses("hello", MODEL, background=True, stream=True, tools=[{"type": "web_search"}])
    assert caught.value.param == "tools[0].type"


def test_a_response_of_the_foreground_is_streamed_again() -> None:
    response = sdk.responses("hello", "mock/echo")
    assert isinstance(response, Response)
    events = plain(list(sdk.get_responses(response.id, stream=True)))
    assert check(events)["id"] == response.id
    assert plain(list(sdk.get_responses(response.id, stream=True, starting_after=2))) == events[3:]


def test_events_that_are_not_kept_are_made_from_the_response(
    upstream: FakeUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.sdk.event_logs.MAX_KEPT_BYTES", 1)
    sdk.configure(store=f"sqlite:///{tmp_path / 'sessions.db'}")
    stream = begin()
    events, response_id = first_events(stream, 3)
    final = check(plain([*events, *stream]))
    assert check(plain(list(sdk.get_responses(response_id, stream=True)))) == final
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.get_responses(response_id, stream=True, starting_after=3)
    assert caught.value.param == "starting_after"


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"stream": True, "starting_after": -1}, "starting_after"),
        ({"stream": True, "starting_after": "1"}, "starting_after"),
        ({"starting_after": 1}, "starting_after"),
        ({"stream": True, "include": ["everything"]}, "include"),
    ],
)
def test_a_wrong_place_is_a_bad_request(options: dict[str, object], param: str) -> None:
    response = sdk.responses("hello", "mock/echo")
    assert isinstance(response, Response)
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.get_responses(response.id, **options)  # type: ignore[call-overload]
    assert caught.value.param == param


def test_a_store_that_fails_ends_the_stream(upstream: FakeUpstream, tmp_path: Path) -> None:
    sdk.configure(store=f"sqlite:///{tmp_path / 'sessions.db'}")
    with upstream.script("up-slow", SLOW):
        stream = begin()
        events, _ = first_events(stream, 5)
        for file in tmp_path.iterdir():
            file.unlink()
        events += list(stream)
    assert check(plain(events))["status"] == "failed"


class HeldStore(MemoryStore):
    """A store whose writes last until they are let go."""

    def __init__(self) -> None:
        super().__init__()
        self.is_writing = threading.Event()
        self._may_go = asyncio.Event()

    def let_go(self) -> None:
        PROCESS.background.post(self._may_go.set)

    async def commit(self, unit: UnitOfWork) -> None:
        self.is_writing.set()
        await self._may_go.wait()
        await super().commit(unit)


def test_a_cancellation_during_the_last_write_changes_nothing() -> None:
    store = HeldStore()
    PROCESS.store = store
    stream = sdk.responses("hello", "mock/echo", background=True, stream=True)
    events, response_id = first_events(stream, 3)
    assert store.is_writing.wait(20)
    threading.Timer(0.1, store.let_go).start()
    assert sdk.cancel_responses(response_id).status == "completed"
    events += list(stream)
    assert check(plain(events))["status"] == "completed"
    assert sdk.get_responses(response_id).status == "completed"


async def test_a_cancellation_whose_caller_has_gone_ends_the_response(upstream: FakeUpstream) -> None:
    store = HeldStore()
    PROCESS.store = store
    with upstream.script("up-slow", ENDLESS):
        stream = await sdk.aresponses("hello", MODEL, background=True, stream=True)
        assert isinstance(stream, sdk.AsyncStream)
        events = [await anext(stream) for _ in range(6)]
        first = events[0]
        assert first.type == "response.created"
        caller = asyncio.create_task(sdk.acancel_responses(first.response.id))
        assert await asyncio.to_thread(store.is_writing.wait, 20)
        assert (await sdk.aget_responses(first.response.id)).status == "in_progress"
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        store.let_go()
        events += [event async for event in stream]
    assert check(plain(events))["status"] == "cancelled"
    assert (await sdk.aget_responses(first.response.id)).status == "cancelled"


async def test_cancellations_from_many_places_are_one_end(upstream: FakeUpstream) -> None:
    with upstream.script("up-slow", ENDLESS):
        stream = await sdk.aresponses("hello", MODEL, background=True, stream=True)
        assert isinstance(stream, sdk.AsyncStream)
        events = [await anext(stream) for _ in range(6)]
        first = events[0]
        assert first.type == "response.created"
        ended = await asyncio.gather(*(sdk.acancel_responses(first.response.id) for _ in range(10)))
        events += [event async for event in stream]
    assert {response.status for response in ended} == {"cancelled"}
    assert check(plain(events))["status"] == "cancelled"


def test_a_kept_log_does_not_keep_the_request() -> None:
    response = sdk.responses("hello", "mock/echo", background=True)
    assert isinstance(response, Response)
    events = list(sdk.get_responses(response.id, stream=True))
    assert check(plain(events))["status"] == "completed"
    assert sdk.details(sdk.get_responses(response.id)).attempts

    def is_gone() -> bool:
        gc.collect()
        runs = [each for each in gc.get_objects() if type(each) is BackgroundRun]  # isinstance asks proxies
        return all(run.stored.id != response.id for run in runs)

    eventually(is_gone)


async def test_a_long_log_is_taken_in_parts() -> None:
    count = 2 * MAX_BATCH + 1
    reader = replay_log([{"type": "x", "sequence_number": number} for number in range(count)]).read()
    numbers: list[int] = []
    sizes: list[int] = []
    is_last = False
    while not is_last:
        frames, is_last, _ = await reader.take(len(sizes))
        numbers += [event["sequence_number"] for event in read_events(frames)]
        sizes.append(len(read_events(frames)))
    assert numbers == list(range(count))
    assert max(sizes) <= MAX_BATCH
