"""Responses answers on the wire: frames, whole bodies, and the members that a client includes."""

import json
from typing import Any

import pytest
from hypothesis import assume, given, settings

from gateway.protocol.dialects.responses.client_answer import ResponsesAnswer, render_event
from gateway.protocol.dialects.responses.items import INCLUDABLE
from gateway.protocol.errors import UpstreamFault
from gateway.protocol.events import (
    AnnotationAdded,
    Event,
    Finished,
    ReasoningDelta,
    TextDelta,
    ToolArgumentsDelta,
    ToolCallStarted,
)
from tests.fakes.responses_cases import (
    NOW,
    SCORE,
    URL_CITATION,
    USAGE,
    accumulated,
    answers,
    kinds,
    render,
    stream,
)
from tests.fakes.responses_grammar import check, read_frames

STOP = Finished("stop")
ALL_EVENTS: list[Event] = [
    ReasoningDelta("hm"),
    ReasoningDelta(signature="sig"),
    TextDelta("Hi", logprobs=(SCORE,)),
    AnnotationAdded(URL_CITATION),
    ToolCallStarted(0, "call_a", "f", signature="private"),
    ToolArgumentsDelta(0, '{"a":1}'),
    STOP,
    USAGE,
]


def answer(include: frozenset[str] = frozenset()) -> ResponsesAnswer:
    return ResponsesAnswer(stream(is_sealed=True), lambda: NOW, include=include)


def test_a_stream_ends_with_its_terminal_event_and_done() -> None:
    encoder = answer()
    first = encoder.chunks([TextDelta("Hi")])
    assert first.startswith(b"event: response.created\ndata: {")
    raw = first + encoder.chunks([STOP]) + encoder.last_chunks()
    assert raw.endswith(b"data: [DONE]\n\n")
    assert check(read_frames(raw))["completed_at"] == int(NOW)


def test_events_without_news_for_the_client_write_nothing() -> None:
    encoder = answer()
    encoder.chunks([TextDelta("Hi")])
    assert encoder.chunks([USAGE, TextDelta("")]) == b""


@pytest.mark.parametrize("end", ["failure", "cancellation"])
def test_a_stream_that_breaks_has_a_terminal_event(end: str) -> None:
    encoder = answer()
    raw = encoder.chunks([TextDelta("Hi")])
    raw += encoder.failure("server_error", "It broke.") if end == "failure" else encoder.cancellation()
    response = check(read_frames(raw))
    assert response["status"] == ("failed" if end == "failure" else "cancelled")
    assert (encoder.failure("server_error", "x"), encoder.cancellation(), encoder.last_chunks()) == (b"", b"", b"")


def test_a_stream_that_ends_with_its_failure_is_read_by_the_official_client() -> None:
    assert accumulated(answer().failure("server_error", "It broke.")) is None


def test_the_official_client_reads_the_stream() -> None:
    encoder = answer(INCLUDABLE)
    final = accumulated(encoder.chunks(ALL_EVENTS) + encoder.last_chunks())
    assert final.output_text == "Hi"
    assert [item.type for item in final.output] == ["reasoning", "message", "function_call"]
    assert final.output[1].content[0].annotations[0].url == "https://a.test"
    assert (final.output[2].call_id, final.output[2].arguments) == ("call_a", '{"a":1}')
    assert final.usage.input_tokens_details.cache_write_tokens == 3


def test_private_members_never_leave() -> None:
    encoder = answer(INCLUDABLE)
    streamed = encoder.chunks(ALL_EVENTS) + encoder.last_chunks()
    body_bytes = answer(INCLUDABLE).body(ALL_EVENTS)
    for raw in (streamed, body_bytes):
        assert b"private" not in raw
        assert b"tollgate" not in raw
    assert encoder.stream.response["output"][2]["tollgate"]["signature"] == "private"


@pytest.mark.parametrize(
    ("name", "is_shown"),
    [
        ("reasoning.encrypted_content", lambda raw: b'"encrypted_content"' in raw),
        ("message.output_text.logprobs", lambda raw: b'"logprob":' in raw),
    ],
)
def test_members_that_are_not_included_are_hidden_streamed_and_whole(name: str, is_shown: Any) -> None:
    for include in (frozenset[str](), frozenset({name}), INCLUDABLE - {name}):
        encoder = answer(include)
        streamed = encoder.chunks(ALL_EVENTS) + encoder.last_chunks()
        check(read_frames(streamed))
        for raw in (streamed, answer(include).body(ALL_EVENTS)):
            assert is_shown(raw) == (name in include)
    assert is_shown(json.dumps(encoder.stream.response, separators=(",", ":")).encode()), "it is stored all the same"


def test_hiding_changes_no_event() -> None:
    events = render(*ALL_EVENTS, is_sealed=True)
    before = json.dumps(events)
    assert [render_event(event, INCLUDABLE) for event in events] == events
    hidden = [render_event(event, frozenset()) for event in events]
    assert kinds(hidden) == kinds(events)
    assert json.dumps(events) == before != json.dumps(hidden)


def test_an_empty_whole_answer_is_the_upstreams_fault() -> None:
    with pytest.raises(UpstreamFault, match="answer was empty"):
        answer().body([USAGE])


@given(answers())
@settings(deadline=None, max_examples=200)
def test_the_whole_body_is_the_response_that_the_stream_ends_with(events: list[Event]) -> None:
    encoder = answer()
    streamed = check(read_frames(encoder.chunks(events) + encoder.last_chunks()))
    assume(streamed["status"] != "failed")
    assert json.loads(answer().body(events)) == streamed
