"""Answers of Anthropic's Messages API: streams in any chunking, whole messages, errors, and unusable answers."""

import contextlib
import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol.dialects.anthropic import passthrough as anthropic_passthrough
from gateway.protocol.dialects.anthropic.upstream_answer import decode_body
from gateway.protocol.errors import UpstreamFault
from gateway.protocol.events import (
    AnnotationAdded,
    Event,
    Finished,
    ReasoningDelta,
    RefusalDelta,
    Started,
    TextDelta,
    ToolArgumentsDelta,
    ToolCallStarted,
    UsageReported,
)
from gateway.protocol.usage import Usage
from gateway.providers.anthropic import PROVIDER
from tests.fakes.anthropic import (
    FULL,
    JSON_VALUES,
    NOW,
    THOUGHT,
    TOOLS,
    USER,
    WHOLE,
    begin,
    block,
    call,
    decoded,
    end,
    event,
    relayed,
    target,
)
from tests.fakes.provider_cases import (
    cuttings,
)

EARLY_USAGE = {"input_tokens": 5, "cache_read_input_tokens": 7, "output_tokens": 1}
FULL_EVENTS: list[Event] = [
    Started(
        "msg_1",
        "claude",
        UsageReported(Usage(input_tokens=5, cache_read_tokens=7, output_tokens=1), EARLY_USAGE),
    ),
    ReasoningDelta("Let me "),
    ReasoningDelta("see."),
    ReasoningDelta(signature="sig"),
    ReasoningDelta(redacted="opaque"),
    TextDelta("Looking."),
    ToolCallStarted(0, "toolu_1", "get_weather"),
    ToolArgumentsDelta(0, '{"city": "Zü'),
    ToolArgumentsDelta(0, 'rich"}'),
    ToolCallStarted(1, "toolu_2", "now"),
    ToolArgumentsDelta(1, "{}"),
    Finished("tool_calls"),
]


# A stream with everything in it


def test_thoughts_and_tool_calls_are_the_same_however_they_are_cut() -> None:
    usage = Usage(input_tokens=5, cache_read_tokens=7, output_tokens=30, reasoning_tokens=10)
    for pieces in cuttings(FULL):
        events = decoded(pieces)
        assert events[:-1] == FULL_EVENTS
        assert isinstance(events[-1], UsageReported)
        assert events[-1].usage == usage


def test_a_whole_answer_equals_its_stream() -> None:
    def streamed(body: bytes) -> Any:
        answer = orjson.loads(body)
        return answer["choices"], answer["usage"]

    options = call({"messages": [USER]})
    whole, _ = PROVIDER.relay_body(options, target(), NOW, orjson.dumps(WHOLE), {})
    gathered, _ = PROVIDER.relay_body(
        options, target(), NOW, FULL, {"content-type": "text/event-stream; charset=utf-8"}
    )
    choices, usage = streamed(whole)
    other_choices, other_usage = streamed(gathered)
    assert usage == other_usage
    calls = choices[0]["message"].pop("tool_calls")
    others = other_choices[0]["message"].pop("tool_calls")
    assert [json.loads(one["function"]["arguments"]) for one in calls] == [{"city": "Zürich"}, {}]
    assert [json.loads(one["function"]["arguments"]) for one in others] == [{"city": "Zürich"}, {}]
    assert choices == other_choices
    assert choices[0]["message"]["reasoning_content"] == "Let me see."
    assert choices[0]["message"]["thinking_blocks"] == [
        {"type": "thinking", "thinking": "Let me see.", "signature": "sig"},
        {"type": "redacted_thinking", "data": "opaque"},
    ]


def test_large_integers_keep_their_digits() -> None:
    body = orjson.dumps(WHOLE).replace(b'"Z\xc3\xbcrich"', b"123456789012345678901234567890")
    arguments = [event.text for event in decode_body(body) if isinstance(event, ToolArgumentsDelta)]
    assert arguments[0] == '{"city":123456789012345678901234567890}'


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("pause_turn", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("refusal", "content_filter"),
        ("a_new_reason", "stop"),
    ],
)
def test_stop_reasons(reason: str, finish: str) -> None:
    body = block(0, {"type": "text", "text": "a"})
    assert Finished(finish) in decoded([begin() + body + end(reason)])


def test_a_stop_after_a_tool_call_finishes_with_tool_calls() -> None:
    assert Finished("tool_calls") in decoded([begin() + TOOLS + end("end_turn")])


def test_a_refusal_carries_its_explanation() -> None:
    ending = end("refusal", stop_details={"type": "refusal", "category": "bio", "explanation": "No."})
    assert RefusalDelta("No.") in decoded([begin() + ending])


def test_citations_of_the_web_become_annotations() -> None:
    cited = {"type": "web_search_result_location", "url": "https://a.example", "title": "A", "cited_text": "x"}
    body = block(0, {"type": "text", "text": "One. "}) + block(
        1,
        {"type": "text", "text": ""},
        {"type": "citations_delta", "citation": cited},
        {"type": "citations_delta", "citation": {"type": "char_location"}},
        {"type": "text_delta", "text": "Two."},
    )
    annotations = [event for event in decoded([begin() + body + end("end_turn")]) if isinstance(event, AnnotationAdded)]
    place = {"url": "https://a.example", "title": "A", "start_index": 5, "end_index": 9}
    assert [dict(event.annotation) for event in annotations] == [{"type": "url_citation", "url_citation": place}]


def test_structured_output_by_a_tool_is_unwrapped() -> None:
    tool = {"type": "tool_use", "id": "t", "name": "json_output", "input": {}}
    delta = {"type": "input_json_delta", "partial_json": '{"a": 1}'}
    events = decoded([begin() + block(0, tool, delta) + end("tool_use")], json_tool="json_output")
    assert events[1:3] == [TextDelta('{"a": 1}'), Finished("stop")]
    whole = {**WHOLE, "content": [{**tool, "input": {"a": 1}}]}
    events = decode_body(orjson.dumps(whole), json_tool="json_output")
    assert events[1:3] == [TextDelta('{"a":1}'), Finished("stop")]


def test_a_custom_tool_gets_its_text_back() -> None:
    tool = {"type": "tool_use", "id": "t", "name": "shell", "input": {}}
    pieces = ({"type": "input_json_delta", "partial_json": part} for part in ('{"input": "ls', '\\n-l"}'))
    events = decoded([begin() + block(0, tool, *pieces) + end("tool_use")], custom_tools=frozenset({"shell"}))
    assert events[1:3] == [ToolCallStarted(0, "t", "shell", kind="custom"), ToolArgumentsDelta(0, "ls\n-l")]


# Answers that are none


@pytest.mark.parametrize(
    "stream",
    [
        b"",
        begin(),
        begin() + THOUGHT,
        FULL[: FULL.index(b"rich")],
        begin() + event("message_stop"),
    ],
)
def test_a_cut_stream_has_no_end(stream: bytes) -> None:
    with pytest.raises(UpstreamFault) as caught:
        decoded([stream])
    assert caught.value.code == "upstream_incomplete_stream"
    with pytest.raises(UpstreamFault):
        relayed([stream])


def test_a_stream_without_its_last_event_only_is_complete() -> None:
    assert decoded([FULL.removesuffix(event("message_stop"))])[:-1] == FULL_EVENTS


BROKEN = [
    b"data: {\n\n",
    b"data: []\n\n",
    event("content_block_start", index=0, content_block="text"),
    event("content_block_start", index="0", content_block={"type": "text"}),
    event("content_block_delta", index=0, delta=None),
    event("content_block_delta", index=9, delta={"type": "input_json_delta", "partial_json": "{"}),
    event("content_block_delta", index=[], delta={"type": "thinking_delta", "thinking": "a"}),
    event("message_delta", delta=7, usage={}),
    event("message_start", message=[]),
    event("content_block_delta", index=0, delta={"type": "text_delta", "text": 5}),
]


@pytest.mark.parametrize("wrong", BROKEN)
def test_nonsense_in_a_stream_is_an_upstream_fault(wrong: bytes) -> None:
    with pytest.raises(UpstreamFault):
        decoded([begin() + wrong + end("end_turn")])


def test_unknown_events_blocks_and_deltas_are_ignored() -> None:
    strange = event("strange", index="x") + block(0, {"type": "hologram"}, {"type": "hologram_delta", "x": 1})
    events = decoded([b": comment\n\n" + begin() + strange + end("end_turn")])
    assert [type(item) for item in events] == [Started, Finished, UsageReported]


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"[]", b"{}", b'{"content": "a"}', b'{"content": [1]}', b'{"content":[{"type":"text","text":1}]}'],
)
def test_a_body_without_a_message_is_an_upstream_fault(body: bytes) -> None:
    with pytest.raises(UpstreamFault):
        decode_body(body)


@given(
    st.lists(
        st.sampled_from(
            [
                "message_start",
                "content_block_start",
                "content_block_delta",
                "content_block_stop",
                "message_delta",
                "message_stop",
                "error",
                "ping",
            ]
        ),
        max_size=5,
    ),
    st.dictionaries(st.sampled_from(["index", "delta", "content_block", "message", "usage", "error"]), JSON_VALUES),
)
def test_no_stream_raises_anything_but_a_fault(kinds: list[str], members: dict[str, Any]) -> None:
    stream = b"".join(b"data: " + json.dumps({"type": kind, **members}).encode() + b"\n\n" for kind in kinds)
    for relay in (decoded, relayed):
        with contextlib.suppress(UpstreamFault):
            relay([stream])


@given(st.dictionaries(st.sampled_from(["id", "model", "content", "usage", "stop_reason", "type"]), JSON_VALUES))
def test_no_body_raises_anything_but_a_fault(message: dict[str, Any]) -> None:
    for events in (decode_body, lambda body: anthropic_passthrough.pass_message("alias-1", body)):
        with contextlib.suppress(UpstreamFault):
            events(json.dumps(message).encode())


@pytest.mark.parametrize(
    ("status", "kind", "message", "expected"),
    [
        (400, "invalid_request_error", "messages.0: bad", (400, None)),
        (
            400,
            "invalid_request_error",
            "prompt is too long: 210000 tokens > 200000 maximum",
            (400, "context_length_exceeded"),
        ),
        (
            400,
            "invalid_request_error",
            "Your credit balance is too low to access the API.",
            (502, "upstream_auth_failed"),
        ),
        (
            400,
            "invalid_request_error",
            "You have reached your specified API usage limits.",
            (429, "insufficient_quota"),
        ),
        (400, "invalid_request_error", "Output blocked by content filtering policy", (400, "content_filter")),
        (401, "authentication_error", "invalid x-api-key", (502, "upstream_auth_failed")),
        (402, "billing_error", "pay", (502, "upstream_auth_failed")),
        (403, "permission_error", "no", (502, "upstream_auth_failed")),
        (404, "not_found_error", "model: claude-9", (404, "model_not_found")),
        (413, "request_too_large", "Request exceeds the maximum size", (413, "request_too_large")),
        (429, "rate_limit_error", "slow down", (429, "rate_limit_exceeded")),
        (500, "api_error", "Internal server error", (502, "upstream_error")),
        (504, "timeout_error", "late", (504, "upstream_timeout")),
        (529, "overloaded_error", "Overloaded", (503, "overloaded")),
    ],
)
def test_error_classes(status: int, kind: str, message: str, expected: tuple[int, str | None]) -> None:
    """The answer's status decides; in a stream, the error's type does."""
    error = {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}
    fault = PROVIDER.failure(target(), status, {"retry-after": "7"}, orjson.dumps(error))
    assert (fault.status, fault.code) == expected
    assert (b"retry-after", b"7") in fault.headers or fault.status not in {429, 503}
    with pytest.raises(UpstreamFault) as caught:
        decoded([begin() + event("error", error=error["error"])])
    assert (caught.value.status, caught.value.code) == expected


@pytest.mark.parametrize(
    "body", [b"", b"<html>503</html>", b"[]", b'"x"', b'{"error": "text"}', b'{"error": {"type": []}}']
)
def test_an_error_of_another_shape_has_the_class_of_its_status(body: bytes) -> None:
    assert PROVIDER.failure(target(), 503, {}, body).code == "overloaded"


def test_googles_envelope_is_read() -> None:
    body = orjson.dumps([{"error": {"code": 429, "message": "Quota exceeded", "status": "RESOURCE_EXHAUSTED"}}])
    fault = PROVIDER.failure(target(), 429, {}, body)
    assert (fault.code, fault.message) == ("rate_limit_exceeded", "Quota exceeded")


def test_an_error_hides_credentials() -> None:
    error = {
        "type": "error",
        "error": {"type": "invalid_request_error", "message": "key sk-ant-test at http://10.0.0.1"},
    }
    fault = PROVIDER.failure(target(), 400, {}, orjson.dumps(error))
    assert "sk-ant-test" not in fault.message
    assert "10.0.0.1" not in fault.message
