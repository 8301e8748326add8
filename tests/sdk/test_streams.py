"""Streams: typed events, errors inside them, and what becomes of the upstream's call when a stream is left."""

import asyncio
import gc

import openai
import pytest
from openai.types.chat import ChatCompletionChunk
from openai.types.responses import ResponseCompletedEvent, ResponseTextDeltaEvent

from gateway import sdk
from tests.fakes.upstream import CREDENTIAL, ERROR_FRAME, Answer, FakeUpstream
from tests.sdk.waiting import eventually

HELLO = [{"role": "user", "content": "hello"}]
LONG = Answer(text="word " * 400, gap_s=0.02)


@pytest.fixture
def openai_at(upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch) -> FakeUpstream:
    monkeypatch.setenv("OPENAI_API_KEY", CREDENTIAL)
    monkeypatch.setenv("OPENAI_BASE_URL", upstream.url)
    upstream.requests.clear()
    return upstream


def open_chat(model: str = "openai/up-chat", **options: object) -> sdk.Stream[ChatCompletionChunk]:
    stream = sdk.completion(model, HELLO, stream=True, **options)  # type: ignore[arg-type]
    assert isinstance(stream, sdk.Stream)
    return stream


def text_of(chunks: list[ChatCompletionChunk]) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


@pytest.mark.parametrize("form", ["chat", "bytewise", "crlf", "folded", "no-done", "after-done"])
def test_a_chat_streams_typed_chunks(openai_at: FakeUpstream, form: str) -> None:
    stream = open_chat(f"openai/up-{form}", stream_options={"include_usage": True})
    chunks = list(stream)
    assert all(type(chunk) is ChatCompletionChunk for chunk in chunks)
    assert "hello" in text_of(chunks)
    assert chunks[-1].usage is not None
    assert list(stream) == []
    assert [attempt.status_code for attempt in sdk.details(stream).attempts] == [200]


def test_text_completions_stream(openai_at: FakeUpstream) -> None:
    stream = sdk.text_completion("hello", "openai/up-text", stream=True)
    assert isinstance(stream, sdk.Stream)
    assert "hello" in "".join(chunk.choices[0].text for chunk in stream if chunk.choices)


def test_responses_stream_their_typed_events(openai_at: FakeUpstream) -> None:
    with sdk.responses("hello", "openai/up-chat", stream=True) as events:  # type: ignore[union-attr]
        seen = list(events)
    text = "".join(event.delta for event in seen if isinstance(event, ResponseTextDeltaEvent))
    last = seen[-1]
    assert isinstance(last, ResponseCompletedEvent)
    assert last.response.output_text == text
    assert "hello" in text
    assert sdk.get_responses(last.response.id).output_text == text


async def test_the_asynchronous_stream_has_the_same_events(openai_at: FakeUpstream) -> None:
    stream = await sdk.acompletion("openai/up-chat", HELLO, stream=True)
    assert isinstance(stream, sdk.AsyncStream)
    async with stream:
        chunks = [chunk async for chunk in stream]
    assert text_of(chunks) == text_of(list(open_chat()))
    assert sdk.details(stream).deployment.startswith("openai/up-chat")


def test_events_come_while_the_upstream_still_writes(openai_at: FakeUpstream) -> None:
    with openai_at.script("up-stalls", Answer(stop_after=4, ending="stall")), open_chat("openai/up-stalls") as stream:
        assert next(stream).id
        assert not openai_at.last("up-stalls").finished


# What ends a stream


def test_an_error_before_the_first_event_is_raised_by_the_call(openai_at: FakeUpstream) -> None:
    with pytest.raises(openai.RateLimitError):
        open_chat("openai/up-429", num_retries=0)


def test_an_error_inside_a_chat_is_raised_after_its_events(openai_at: FakeUpstream) -> None:
    stream = open_chat("openai/up-error-frame")
    chunks: list[ChatCompletionChunk] = []
    with pytest.raises(openai.APIError) as caught:
        chunks.extend(stream)
    assert not isinstance(caught.value, openai.BadRequestError)
    assert sdk.details(caught.value).deployment.startswith("openai/up-error-frame")
    assert list(stream) == []


def test_a_cut_chat_is_no_complete_one(openai_at: FakeUpstream) -> None:
    with pytest.raises(openai.APIError):
        list(open_chat("openai/up-cut"))


def test_an_error_inside_a_response_is_its_last_event(openai_at: FakeUpstream) -> None:
    broken = Answer(stop_after=4, gap_s=0.02, inserted=ERROR_FRAME, ending="end")
    with openai_at.script("up-broken", broken):
        events = list(sdk.responses("hello", "openai/up-broken", stream=True))
    assert events[-1].type == "response.failed"


@pytest.mark.parametrize("way", ["close", "with", "drop", "break"])
def test_a_stream_that_is_left_ends_the_upstreams_call(openai_at: FakeUpstream, way: str) -> None:
    with openai_at.script("up-long", LONG):
        leave(way)
        eventually(lambda: openai_at.last("up-long").disconnected)


def leave(way: str) -> None:
    stream = open_chat("openai/up-long")
    next(stream)
    if way == "close":
        stream.close()
        assert list(stream) == []
    elif way == "with":
        with stream:
            pass
    elif way == "break":
        for _ in stream:
            break
    del stream
    gc.collect()


def test_an_asynchronous_stream_that_is_left_ends_the_upstreams_call(openai_at: FakeUpstream) -> None:
    async def story() -> None:
        stream = await sdk.acompletion("openai/up-long", HELLO, stream=True)
        assert isinstance(stream, sdk.AsyncStream)
        async with stream:
            async for _ in stream:
                break

    with openai_at.script("up-long", LONG):
        asyncio.run(story())
        eventually(lambda: openai_at.last("up-long").disconnected)


def test_a_response_that_is_left_is_stored_as_cancelled(openai_at: FakeUpstream) -> None:
    with openai_at.script("up-long", LONG):
        stream = sdk.responses("hello", "openai/up-long", stream=True)
        assert isinstance(stream, sdk.Stream)
        first = next(stream)
        while first.type != "response.output_text.delta":
            if first.type == "response.created":
                response_id = first.response.id
            first = next(stream)
        stream.close()
        eventually(lambda: openai_at.last("up-long").disconnected)
    eventually(lambda: is_stored(response_id))
    assert sdk.get_responses(response_id).status == "cancelled"


def is_stored(response_id: str) -> bool:
    try:
        sdk.get_responses(response_id)
    except openai.NotFoundError:
        return False
    return True


def test_a_reader_that_rests_holds_the_upstream_back(openai_at: FakeUpstream) -> None:
    big = Answer(text="x" * 30_000_000)
    with openai_at.script("up-big", big):
        stream = open_chat("openai/up-big")
        next(stream)
        sent = -1

        def has_stopped() -> bool:
            nonlocal sent
            before, sent = sent, openai_at.last("up-big").sent_bytes
            return before == sent

        eventually(has_stopped)
        assert not openai_at.last("up-big").finished
        stream.close()


async def test_a_wait_for_an_event_that_is_given_up_loses_none(openai_at: FakeUpstream) -> None:
    with openai_at.script("up-gaps", Answer(gap_s=0.02)):
        stream = await sdk.acompletion("openai/up-gaps", HELLO, stream=True)
        assert isinstance(stream, sdk.AsyncStream)
        chunks: list[ChatCompletionChunk] = []
        waits = 0
        while True:
            try:
                chunks.append(await asyncio.wait_for(anext(stream), 0.005))
            except TimeoutError:
                waits += 1
            except StopAsyncIteration:
                break
        assert waits > 3
        assert text_of(chunks) == text_of(list(open_chat("openai/up-gaps")))
