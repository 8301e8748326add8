"""Answers to render as responses: a head, ids, a seal that can be read, random events, and the official client."""

import functools
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import httpx
from hypothesis import strategies as st
from openai import OpenAI
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from gateway.protocol.dialects.responses.stream import ResponseStream
from gateway.protocol.events import (
    AnnotationAdded,
    Event,
    Finished,
    ImageMade,
    ReasoningDelta,
    RefusalDelta,
    Started,
    TextDelta,
    ToolArgumentsDelta,
    ToolCallStarted,
    UsageReported,
)
from gateway.protocol.json.types import JsonObject
from gateway.protocol.usage import Usage

NOW = 1_700_000_007.9
USAGE = UsageReported(
    Usage(
        input_tokens=5,
        cache_read_tokens=3,
        cache_write_5m_tokens=2,
        cache_write_1h_tokens=1,
        output_tokens=4,
        reasoning_tokens=6,
    ),
    {},
)
#: The namespace of the tool that the upstream knows by another name.
NAMESPACES = {"crm__find": ("crm", "find")}
URL_CITATION = {"type": "url_citation", "url": "https://a.test", "title": "A", "start_index": 0, "end_index": 2}
SCORE = {
    "token": "Hi",
    "logprob": -0.25,
    "bytes": [72, 105],
    "top_logprobs": [{"token": "Hi", "logprob": -0.25, "bytes": [72, 105]}],
}


def head(**members: Any) -> JsonObject:
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1_700_000_000,
        "background": False,
        "conversation": None,
        "frequency_penalty": 0,
        "instructions": None,
        "max_output_tokens": None,
        "max_tool_calls": None,
        "metadata": {},
        "model": "m",
        "parallel_tool_calls": True,
        "presence_penalty": 0,
        "previous_response_id": None,
        "prompt_cache_key": None,
        "reasoning": {"effort": None, "summary": None},
        "safety_identifier": None,
        "service_tier": "default",
        "store": True,
        "temperature": 1,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_logprobs": 0,
        "top_p": 1,
        "truncation": "disabled",
        "user": None,
    } | members


class Ids:
    """msg_1, msg_2, fc_1…"""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def __call__(self, prefix: str) -> str:
        self._counts[prefix] += 1
        return f"{prefix}{self._counts[prefix]}"


class OpenSeal:
    """A Seal whose texts can be read."""

    def close(self, value: Mapping[str, Any]) -> str:
        return "sealed " + json.dumps(dict(value), sort_keys=True)

    def open(self, text: str) -> Mapping[str, Any] | None:
        value: Mapping[str, Any] = json.loads(text.removeprefix("sealed "))
        return value


def stream(
    *, is_sealed: bool = False, reasoning_as_summary: bool = False, used_call_ids: Iterable[str] = (), **members: Any
) -> ResponseStream:
    return ResponseStream(
        head(**members),
        Ids(),
        origin="here",
        seal=OpenSeal() if is_sealed else None,
        reasoning_as_summary=reasoning_as_summary,
        used_call_ids=used_call_ids,
        namespaces=NAMESPACES,
    )


def render(*events: Event, **how: Any) -> list[JsonObject]:
    """All events of a complete answer. `how`: as for `stream`."""
    one = stream(**how)
    return one.feed(events) + one.complete(int(NOW))


def kinds(events: list[JsonObject]) -> list[str]:
    """The types, without what all of them begin with."""
    return [event["type"].removeprefix("response.") for event in events]


# The official client


@functools.cache
def _adapter() -> TypeAdapter[Any]:
    return TypeAdapter(ResponseStreamEvent)


def assert_official(events: list[JsonObject]) -> None:
    """Every event is one of the official client's types, all members that it requires included."""
    for event in events:
        _adapter().validate_python(event)


_streamed: list[bytes] = [b""]


@functools.cache
def _client() -> OpenAI:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=_streamed[0], headers={"content-type": "text/event-stream"})

    http = httpx.Client(transport=httpx.MockTransport(answer))
    return OpenAI(api_key="k", base_url="http://gateway.test/v1", http_client=http, max_retries=0)


def accumulated(raw: bytes) -> Any:
    """The official client's sum of a stream: the final response, or None where it did not complete."""
    _streamed[0] = raw
    with _client().responses.stream(model="m", input="Hi") as events:
        last = [event.type for event in events][-1]
        return events.get_final_response() if last == "response.completed" else None


# Random answers

TEXTS = st.sampled_from(["", "a", "Hello ", "你好", "\n\n", 'x"y\\', "🌦"])
PIECES = st.sampled_from(["", "{", '"a":1', "}", '{"a": [1]}', "{}", " ", "free text"])
STEPS = st.sampled_from(
    [
        *("text", "text", "scored", "refusal", "annotation", "image", "picture"),
        *("thought", "signature", "redacted"),
        *("call", "custom", "piece", "piece"),
        *("usage", "other"),
    ]
)
REASONS = st.sampled_from(["stop", "tool_calls", "length", "content_filter", "who knows", None])


@st.composite
def answers(draw: st.DrawFn) -> list[Event]:
    """Legal sequences of events, each call's arguments anywhere after its beginning."""
    events: list[Event] = [Started("up_1", "model")] if draw(st.booleans()) else []
    calls = 0
    for step in draw(st.lists(STEPS, max_size=14)):
        if step in {"call", "custom"}:
            call_id = draw(st.sampled_from(["", "call_0x", f"call_{calls}x"]))
            name = draw(st.sampled_from(["tool", *NAMESPACES]))
            signature = draw(st.sampled_from(["", "sig"]))
            kind = "custom" if step == "custom" else "function"
            events.append(ToolCallStarted(calls, call_id, name, kind, signature))
            calls += 1
        elif step == "piece":
            if calls:
                events.append(ToolArgumentsDelta(draw(st.integers(0, calls - 1)), draw(PIECES)))
        else:
            events.append(_event(step, draw(TEXTS)))
    reason = draw(REASONS)
    if reason is not None:
        events.append(Finished(reason))
    return [*events, USAGE] if draw(st.booleans()) else events


def _event(step: str, text: str) -> Event:
    events: dict[str, Event] = {
        "text": TextDelta(text),
        "scored": TextDelta(text, logprobs=(SCORE,)),
        "refusal": RefusalDelta(text),
        "thought": ReasoningDelta(text),
        "signature": ReasoningDelta(text, signature="sig"),
        "redacted": ReasoningDelta(redacted="data"),
        "annotation": AnnotationAdded({"type": "url_citation", "url_citation": {"url": "https://a.test"}}),
        "usage": USAGE,
        "image": ImageMade("data:image/png;base64,aGk="),
        "picture": ImageMade("https://a.test/a.png"),
        "other": TextDelta(text, choice=1),
    }
    return events[step]
