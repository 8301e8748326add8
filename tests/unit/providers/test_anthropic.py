"""Anthropic's Messages format towards an upstream: every wire case however it is cut, the rules of the request, the
types of Anthropic's own package, and the answers that are none."""

import contextlib
import itertools
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from anthropic.types import MessageCreateParams
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from gateway.protocol.capabilities import Capabilities, known
from gateway.protocol.dialect import Hints
from gateway.protocol.dialects import anthropic_messages, anthropic_wire, openai_chat
from gateway.protocol.dialects.anthropic import AnthropicUpstream, Decoder, decode_body
from gateway.protocol.dialects.anthropic_request import encode
from gateway.protocol.dialects.anthropic_wire import strict_schema
from gateway.protocol.dialects.openai import error_object
from gateway.protocol.dialects.openai_conversation import read_conversation
from gateway.protocol.errors import BadRequest, Fault, UpstreamFault
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
from gateway.protocol.json_body import ABSENT
from gateway.protocol.moment import Fetched, Moment
from gateway.protocol.provider import Target
from gateway.protocol.secret import Secret
from gateway.protocol.usage import Usage
from gateway.providers.anthropic import PROVIDER

FOLDER = Path(__file__).resolve().parents[2] / "fixtures" / "providers"
CASES = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("anthropic_*.json"))]
CLAUDE_ON_VERTEX = json.loads((FOLDER / "vertex_claude_req.json").read_text(encoding="utf-8"))
NOW = Moment("attempt-1", 1_800_000_000.0)
USER = {"role": "user", "content": "Hi"}
WEATHER = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
PARAMS: TypeAdapter[Any] = TypeAdapter(MessageCreateParams)


def of_kind(kind: str) -> Any:
    return pytest.mark.parametrize("case", [c for c in CASES if c["kind"] == kind], ids=lambda case: case["name"])


def target(context: dict[str, Any] | None = None, **changes: Any) -> Target:
    given = dict(context or {})
    made: dict[str, Any] = {
        "deployment_id": "d",
        "model_group": "alias-1",
        "organization_id": None,
        "provider": PROVIDER,
        "upstream_model": given.pop("upstream_model", "claude-sonnet-4-5"),
        "api_base": PROVIDER.default_api_base,
        "credential": {"api_key": Secret("sk-ant-test")},
        "capabilities": known(given),
    }
    return Target(**(made | changes))


def call(body: dict[str, Any]) -> Any:
    return openai_chat.DIALECT.decode(orjson.dumps({"model": "alias-1", **body}), Hints())


def messages_call(body: dict[str, Any]) -> Any:
    given = {"model": "alias-1", "max_tokens": 20, "messages": [USER], **body}
    return anthropic_messages.DIALECT.decode(orjson.dumps(given), Hints())


def like(found: Any, expected: Any) -> None:
    """The comparison rules of the fixtures' README."""
    if isinstance(expected, dict):
        assert isinstance(found, dict)
        extra = {name for name in found.keys() - expected.keys() if found[name] not in (None, [])}
        assert extra == set()
        for name, value in expected.items():
            if name == "arguments":
                assert json.loads(found[name]) == json.loads(value)
            else:
                like(found.get(name), value)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            like(one, other)
    elif expected == "<any>":
        assert isinstance(found, str)
        assert found
    elif expected == "<any:int>":
        assert isinstance(found, int)
    elif isinstance(expected, str) and expected.startswith("<contains:"):
        assert expected[10:-1].lower() in found.lower()
    else:
        assert found == expected


# Wire cases


@of_kind("request")
def test_a_request_is_exactly_as_the_wire_wants_it(case: dict[str, Any]) -> None:
    wire = case["provider_wire"]
    made = PROVIDER.request(call(case["openai"]), target(case["context"]), NOW)
    assert made.url == "https://api.anthropic.com" + wire["path"]
    assert orjson.loads(made.body) == wire["body"]
    assert made.headers.items() >= wire["headers"].items()


def test_claude_elsewhere_differs_by_data_only() -> None:
    wire, context = CLAUDE_ON_VERTEX["provider_wire"], CLAUDE_ON_VERTEX["context"]
    elsewhere = AnthropicUpstream(
        name="elsewhere",
        title="Claude elsewhere",
        make_url=lambda call, target: f"https://host{wire['path']}",
        token_kind="kind",
        version_header="",
        members={"model": ABSENT, "anthropic_version": "vertex-2023-10-16"},
    )
    where = target({"upstream_model": context["upstream_model"]}, credential={})
    assert elsewhere.token(where) == "kind"
    made = elsewhere.request(call(CLAUDE_ON_VERTEX["openai"]), where, replace(NOW, token="ya29.test"))
    assert orjson.loads(made.body) == wire["body"]
    assert made.headers.items() >= wire["headers"].items()
    assert "anthropic-version" not in made.headers
    passed = elsewhere.request(messages_call({"stream": True}), where, NOW)
    assert orjson.loads(passed.body) == {
        "max_tokens": 20,
        "messages": [USER],
        "stream": True,
        "anthropic_version": "vertex-2023-10-16",
    }


@of_kind("response")
def test_a_whole_answer(case: dict[str, Any]) -> None:
    body = orjson.dumps(case["provider_wire"]["body"])
    answer, facts = PROVIDER.relay_body(call({"messages": [USER]}), target(), NOW, body, {})
    like(orjson.loads(answer), case["openai"])
    assert facts.usage is not None
    assert facts.usage.total_input == case["openai"]["usage"]["prompt_tokens"]


@of_kind("error")
def test_an_error_is_of_its_class(case: dict[str, Any]) -> None:
    wire = case["provider_wire"]
    fault = PROVIDER.failure(target(), wire["status"], wire["headers"], orjson.dumps(wire["body"]))
    assert fault.status == case["openai"]["status"]
    like(error_object(fault), case["openai"]["body"])


def streamed(pieces: Iterable[bytes], *, include_usage: bool) -> tuple[list[Any], Fault | None, bool, Any]:
    """(chunks, the fault that ended them, whether [DONE] came, facts)"""
    asked = call({"messages": [USER], "stream": True, "stream_options": {"include_usage": include_usage}})
    relay = PROVIDER.relay(asked, target(), NOW)
    out, fault = b"", None
    try:
        for piece in pieces:
            out += relay.feed(piece)
        out += relay.finish()
    except UpstreamFault as error:
        fault = error
    lines = [line[6:] for line in out.split(b"\n\n") if line]
    is_done = bool(lines) and lines[-1] == b"[DONE]"
    return [orjson.loads(line) for line in lines if line != b"[DONE]"], fault, is_done, relay.facts


def accumulated(chunks: list[Any]) -> tuple[str, list[Any], list[Any], Any]:
    text, calls, reasons, usage = "", [], [], None
    for number, chunk in enumerate(chunks):
        assert chunk["model"] == "alias-1"
        usage = chunk.get("usage") or usage
        for choice in chunk["choices"]:
            assert ("role" in choice["delta"]) == (number == 0)
            assert not reasons
            text += choice["delta"].get("content") or ""
            for delta in choice["delta"].get("tool_calls") or ():
                if "id" in delta:
                    assert delta["index"] == len(calls)
                    calls.append([delta["id"], delta["function"]["name"], ""])
                calls[delta["index"]][2] += delta["function"]["arguments"]
            if choice["finish_reason"]:
                reasons.append(choice["finish_reason"])
    return text, calls, reasons, usage


def cuts_of(body: bytes, given: Iterable[int] = ()) -> Iterable[list[bytes]]:
    yield [body]
    yield [body[index : index + 1] for index in range(len(body))]
    edges = [0, *given, len(body)]
    yield [body[left:right] for left, right in itertools.pairwise(edges)]
    for index in range(1, len(body)):
        yield [body[:index], body[index:]]


@of_kind("stream")
def test_a_stream_is_the_same_however_it_is_cut(case: dict[str, Any]) -> None:
    expected, wire = case["openai"], case["provider_wire"]
    for pieces in cuts_of(wire["body_text"].encode(), wire["cuts"]):
        chunks, fault, is_done, facts = streamed(pieces, include_usage=expected["include_usage"])
        text, _, reasons, usage = accumulated(chunks)
        assert is_done is expected["done"]
        if "error_frame" in expected:
            assert fault is not None
            like(error_object(fault), expected["error_frame"])
        if "accumulated" in expected:
            whole = expected["accumulated"]
            assert text == whole["choices"][0]["message"]["content"]
            assert reasons == [whole["choices"][0]["finish_reason"]]
            assert usage == whole["usage"]
            assert facts.usage.total_input == usage["prompt_tokens"]
            assert facts.usage.total_output == usage["completion_tokens"]


# A stream with everything in it


def event(kind: str, **members: Any) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), orjson.dumps({"type": kind, **members}))


def begin(**usage: Any) -> bytes:
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude", "content": []}
    return event("message_start", message={**message, "usage": usage or {"input_tokens": 5, "output_tokens": 1}})


def block(index: int, head: dict[str, Any], *deltas: dict[str, Any]) -> bytes:
    made = event("content_block_start", index=index, content_block=head)
    made += b"".join(event("content_block_delta", index=index, delta=delta) for delta in deltas)
    return made + event("content_block_stop", index=index)


def end(reason: str, **more: Any) -> bytes:
    usage = {"output_tokens": 40, "output_tokens_details": {"thinking_tokens": 10}}
    delta = {"stop_reason": reason, "stop_sequence": None, **more}
    return event("message_delta", delta=delta, usage=usage) + event("message_stop")


THOUGHT = block(
    0,
    {"type": "thinking", "thinking": "", "signature": ""},
    {"type": "thinking_delta", "thinking": "Let me "},
    {"type": "thinking_delta", "thinking": "see."},
    {"type": "signature_delta", "signature": "sig"},
)
TOOLS = (
    block(1, {"type": "redacted_thinking", "data": "opaque"})
    + block(2, {"type": "text", "text": ""}, {"type": "text_delta", "text": "Looking."})
    + block(
        3,
        {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {}},
        {"type": "input_json_delta", "partial_json": ""},
        {"type": "input_json_delta", "partial_json": '{"city": "Zü'},
        {"type": "input_json_delta", "partial_json": 'rich"}'},
    )
    + block(4, {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}})
    + block(
        5,
        {"type": "tool_use", "id": "toolu_2", "name": "now", "input": {}},
        {"type": "input_json_delta", "partial_json": ""},
    )
)
FULL = begin(input_tokens=5, cache_read_input_tokens=7, output_tokens=1) + THOUGHT + TOOLS + end("tool_use")
FULL_EVENTS: list[Event] = [
    Started("msg_1", "claude"),
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


def decoded(pieces: Iterable[bytes], **options: Any) -> list[Event]:
    decoder = Decoder(**options)
    events = [event for piece in pieces for event in decoder.feed(piece)]
    return events + decoder.finish()


def test_thoughts_and_tool_calls_are_the_same_however_they_are_cut() -> None:
    usage = Usage(input_tokens=5, cache_read_tokens=7, output_tokens=30, reasoning_tokens=10)
    for pieces in cuts_of(FULL):
        events = decoded(pieces)
        assert events[:-1] == FULL_EVENTS
        assert isinstance(events[-1], UsageReported)
        assert events[-1].usage == usage


WHOLE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude",
    "content": [
        {"type": "thinking", "thinking": "Let me see.", "signature": "sig"},
        {"type": "redacted_thinking", "data": "opaque"},
        {"type": "text", "text": "Looking."},
        {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"city": "Zürich"}},
        {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "q"}},
        {"type": "tool_use", "id": "toolu_2", "name": "now", "input": {}},
    ],
    "stop_reason": "tool_use",
    "stop_sequence": None,
    "usage": {
        "input_tokens": 5,
        "cache_read_input_tokens": 7,
        "output_tokens": 40,
        "output_tokens_details": {"thinking_tokens": 10},
    },
}


def test_a_whole_answer_says_what_its_stream_would() -> None:
    def told(body: bytes) -> Any:
        answer = orjson.loads(body)
        return answer["choices"], answer["usage"]

    asked = call({"messages": [USER]})
    whole, _ = PROVIDER.relay_body(asked, target(), NOW, orjson.dumps(WHOLE), {})
    gathered, _ = PROVIDER.relay_body(asked, target(), NOW, FULL, {"content-type": "text/event-stream; charset=utf-8"})
    choices, usage = told(whole)
    other_choices, other_usage = told(gathered)
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


def test_whole_numbers_of_any_size_stay_as_they_are() -> None:
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
    said = block(0, {"type": "text", "text": "a"})
    assert Finished(finish) in decoded([begin() + said + end(reason)])


def test_a_stop_after_a_tool_call_is_told_as_tool_calls() -> None:
    assert Finished("tool_calls") in decoded([begin() + TOOLS + end("end_turn")])


def test_a_refusal_tells_its_explanation() -> None:
    ending = end("refusal", stop_details={"type": "refusal", "category": "bio", "explanation": "No."})
    assert RefusalDelta("No.") in decoded([begin() + ending])


def test_citations_of_the_web_become_annotations() -> None:
    cited = {"type": "web_search_result_location", "url": "https://a.example", "title": "A", "cited_text": "x"}
    said = block(0, {"type": "text", "text": "One. "}) + block(
        1,
        {"type": "text", "text": ""},
        {"type": "citations_delta", "citation": cited},
        {"type": "citations_delta", "citation": {"type": "char_location"}},
        {"type": "text_delta", "text": "Two."},
    )
    found = [event for event in decoded([begin() + said + end("end_turn")]) if isinstance(event, AnnotationAdded)]
    place = {"url": "https://a.example", "title": "A", "start_index": 5, "end_index": 9}
    assert [dict(event.annotation) for event in found] == [{"type": "url_citation", "url_citation": place}]


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
def test_a_cut_stream_is_never_ended(stream: bytes) -> None:
    with pytest.raises(UpstreamFault) as caught:
        decoded([stream])
    assert caught.value.code == "upstream_incomplete_stream"
    with pytest.raises(UpstreamFault):
        relayed([stream])


def test_a_stream_that_lost_its_last_event_only_is_complete() -> None:
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
def test_nonsense_in_a_stream_is_the_upstreams_fault(wrong: bytes) -> None:
    with pytest.raises(UpstreamFault):
        decoded([begin() + wrong + end("end_turn")])


def test_unknown_events_blocks_and_deltas_are_passed_over() -> None:
    strange = event("strange", index="x") + block(0, {"type": "hologram"}, {"type": "hologram_delta", "x": 1})
    events = decoded([b": comment\n\n" + begin() + strange + end("end_turn")])
    assert [type(item) for item in events] == [Started, Finished, UsageReported]


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"[]", b"{}", b'{"content": "a"}', b'{"content": [1]}', b'{"content":[{"type":"text","text":1}]}'],
)
def test_a_body_that_is_no_message_is_the_upstreams_fault(body: bytes) -> None:
    with pytest.raises(UpstreamFault):
        decode_body(body)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


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
    for read in (decoded, relayed):
        with contextlib.suppress(UpstreamFault):
            read([stream])


@given(st.dictionaries(st.sampled_from(["id", "model", "content", "usage", "stop_reason", "type"]), JSON_VALUES))
def test_no_body_raises_anything_but_a_fault(message: dict[str, Any]) -> None:
    for read in (decode_body, lambda body: anthropic_wire.message_through("alias-1", body)):
        with contextlib.suppress(UpstreamFault):
            read(json.dumps(message).encode())


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
    """By the answer's status, and by its type alone where it stands in a stream."""
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
def test_an_error_of_another_shape_is_of_its_statuss_class(body: bytes) -> None:
    assert PROVIDER.failure(target(), 503, {}, body).code == "overloaded"


def test_googles_envelope_is_read() -> None:
    body = orjson.dumps([{"error": {"code": 429, "message": "Quota exceeded", "status": "RESOURCE_EXHAUSTED"}}])
    fault = PROVIDER.failure(target(), 429, {}, body)
    assert (fault.code, fault.message) == ("rate_limit_exceeded", "Quota exceeded")


def test_an_error_tells_no_credential() -> None:
    error = {
        "type": "error",
        "error": {"type": "invalid_request_error", "message": "key sk-ant-test at http://10.0.0.1"},
    }
    fault = PROVIDER.failure(target(), 400, {}, orjson.dumps(error))
    assert "sk-ant-test" not in fault.message
    assert "10.0.0.1" not in fault.message


# Requests


def made(body: dict[str, Any], **flags: Any) -> Any:
    """The body, checked against the types of Anthropic's own package."""
    encoded = encode(read_conversation(call({"messages": [USER], **body}).body), Capabilities(**flags))
    sent = orjson.loads(orjson.dumps({"model": "m", **encoded.body}))
    sampling = {"temperature", "top_p", "top_k"}  # no longer in those types, though older models take them
    PARAMS.validate_python({name: value for name, value in sent.items() if name not in sampling})
    return sent


def dropped(body: dict[str, Any], **flags: Any) -> set[str]:
    return set(encode(read_conversation(call({"messages": [USER], **body}).body), Capabilities(**flags)).dropped)


def refusal(body: dict[str, Any], **flags: Any) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        made(body, **flags)
    return caught.value


def tool_call(call_id: str, arguments: str = "{}", name: str = "get_weather") -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def test_the_limit_is_always_sent() -> None:
    assert made({})["max_tokens"] == 4096
    assert made({}, max_output_tokens=1000)["max_tokens"] == 1000
    assert made({"max_tokens": 5000}, max_output_tokens=1000)["max_tokens"] == 1000
    assert made({"reasoning_effort": "low"}, thinking="budget", max_output_tokens=64000)["max_tokens"] == 64000


def test_system_messages() -> None:
    leading = [{"role": "system", "content": "a"}, USER]
    assert made({"messages": leading})["system"] == "a"
    later = [USER, {"role": "assistant", "content": "b"}, {"role": "developer", "content": "c"}, USER]
    assert made({"messages": later})["messages"][2]["content"] == [
        {"type": "text", "text": "<system>c</system>"},
        {"type": "text", "text": "Hi"},
    ]
    roles = [message["role"] for message in made({"messages": later}, system_role=True)["messages"]]
    assert roles == ["user", "assistant", "system", "user"]


def test_turns_alternate_and_begin_with_the_user() -> None:
    assistant = {"role": "assistant", "content": "a"}
    messages = made({"messages": [assistant, assistant, USER, {"role": "user", "content": " "}, USER]})["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    assert messages[0]["content"] == [{"type": "text", "text": "."}]
    assert [part["text"] for part in messages[1]["content"]] == ["a", "a"]
    assert [part["text"] for part in messages[2]["content"]] == ["Hi", "Hi"]
    assert made({"messages": [{"role": "user", "content": " "}]})["messages"][0]["content"][0]["text"] == "."
    assert made({"messages": [{"role": "system", "content": "s"}]})["messages"] == [
        {"role": "user", "content": [{"type": "text", "text": "."}]}
    ]


def test_a_last_assistant_message_is_a_beginning_or_refused() -> None:
    messages = [USER, {"role": "assistant", "content": "It is "}]
    assert refusal({"messages": messages}).param == "messages"
    assert made({"messages": messages}, prefill=True)["messages"][1]["content"] == [{"type": "text", "text": "It is"}]


def test_results_of_tools_come_first_and_none_is_missing() -> None:
    messages = [
        USER,
        {
            "role": "assistant",
            "content": "Let me see.",
            "tool_calls": [tool_call("a"), tool_call("b c"), tool_call("d")],
        },
        {"role": "tool", "tool_call_id": "b c", "content": "2"},
        {"role": "tool", "tool_call_id": "a", "content": [{"type": "text", "text": "1"}]},
        {"role": "tool", "tool_call_id": "unknown", "content": "lost?"},
        {"role": "user", "content": "And?"},
    ]
    sent = made({"messages": messages})["messages"]
    assert [message["role"] for message in sent] == ["user", "assistant", "user"]
    uses = [block for block in sent[1]["content"] if block["type"] == "tool_use"]
    ids = [use["id"] for use in uses]
    assert ids[0] == "a"
    assert ids[1].startswith("toolu_")
    assert sent[2]["content"] == [
        {"type": "tool_result", "tool_use_id": ids[1], "content": "2"},
        {"type": "tool_result", "tool_use_id": "a", "content": "1"},
        {"type": "tool_result", "tool_use_id": "d", "content": "no result", "is_error": True},
        {"type": "text", "text": "lost?"},
        {"type": "text", "text": "And?"},
    ]
    assert made({"messages": messages}) == made({"messages": messages})


def test_an_unanswered_call_at_the_end_is_answered() -> None:
    messages = [USER, {"role": "assistant", "content": None, "tool_calls": [tool_call("a")]}]
    sent = made({"messages": messages})["messages"]
    assert sent[2]["content"][0]["is_error"] is True


def test_tool_ids_are_never_sent_twice() -> None:
    asked = {"role": "assistant", "content": None, "tool_calls": [tool_call("a")]}
    answered = {"role": "tool", "tool_call_id": "a", "content": "1"}
    sent = made({"messages": [USER, asked, answered, asked, answered, USER]})["messages"]
    uses = [block["id"] for message in sent for block in message["content"] if block["type"] == "tool_use"]
    results = [
        block["tool_use_id"] for message in sent for block in message["content"] if block["type"] == "tool_result"
    ]
    assert uses == results
    assert len(set(uses)) == 2
    twins = {"role": "assistant", "content": None, "tool_calls": [tool_call("a"), tool_call("a")]}
    sent = made({"messages": [USER, twins, answered]})["messages"]
    assert {block["id"] for block in sent[1]["content"]} == {block["tool_use_id"] for block in sent[2]["content"]}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [("", {}), ("  ", {}), ('{"a": 1}', {"a": 1}), ("{a", {"_raw": "{a"}), ("[1]", {"_raw": "[1]"})],
)
def test_tool_arguments(arguments: str, expected: Any) -> None:
    messages = [USER, {"role": "assistant", "content": None, "tool_calls": [tool_call("a", arguments)]}]
    assert made({"messages": messages})["messages"][1]["content"][0]["input"] == expected


def test_tool_arguments_keep_their_digits() -> None:
    digits = '{"n": 123456789012345678901234567890}'
    messages = [USER, {"role": "assistant", "content": None, "tool_calls": [tool_call("a", digits)]}]
    sent = PROVIDER.request(call({"messages": messages}), target(), NOW).body
    assert digits.encode() in sent


@given(st.dictionaries(st.text(max_size=8), JSON_VALUES, max_size=4))
def test_tool_arguments_come_back_as_they_went(arguments: dict[str, Any]) -> None:
    text = json.dumps(arguments)
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return
    messages = [USER, {"role": "assistant", "content": None, "tool_calls": [tool_call("a", text)]}]
    sent = encode(read_conversation({"messages": messages}), Capabilities()).body["messages"][1]["content"]
    answer = orjson.dumps({"id": "m", "model": "c", "content": sent, "stop_reason": "tool_use"})
    told = [event.text for event in decode_body(answer) if isinstance(event, ToolArgumentsDelta)]
    assert json.loads(told[0]) == arguments


def test_thinking_goes_back_unchanged_and_first() -> None:
    assistant = {
        "role": "assistant",
        "content": "b",
        "tool_calls": [tool_call("a")],
        "thinking_blocks": [
            {"type": "thinking", "thinking": "t", "signature": "s"},
            {"type": "redacted_thinking", "data": "d"},
            {"type": "thinking", "thinking": "another provider's", "signature": ""},
        ],
    }
    body = {"messages": [USER, assistant, {"role": "tool", "tool_call_id": "a", "content": "1"}]}
    sent = made({**body, "reasoning_effort": "low"}, thinking="budget")
    assert sent["messages"][1]["content"][:3] == [
        {"type": "thinking", "thinking": "t", "signature": "s"},
        {"type": "redacted_thinking", "data": "d"},
        {"type": "text", "text": "b"},
    ]
    assert sent["thinking"] == {"type": "enabled", "budget_tokens": 1024}


def test_thinking_is_off_where_the_last_tool_call_lost_its_own() -> None:
    asked = {"role": "assistant", "content": None, "tool_calls": [tool_call("a")]}
    body = {"messages": [USER, asked, {"role": "tool", "tool_call_id": "a", "content": "1"}], "reasoning_effort": "low"}
    assert "thinking" not in made(body, thinking="budget")
    assert dropped(body, thinking="budget") == {"reasoning_effort"}
    assert made(body, thinking="adaptive")["thinking"] == {"type": "adaptive"}


@pytest.mark.parametrize(
    ("effort", "budget", "adaptive"),
    [
        ("minimal", 1024, "low"),
        ("low", 1024, "low"),
        ("medium", 2048, "medium"),
        ("high", 4096, "high"),
        ("xhigh", 8192, "xhigh"),
        ("max", 16384, "max"),
    ],
)
def test_reasoning_effort(effort: str, budget: int, adaptive: str) -> None:
    sent = made({"reasoning_effort": effort}, thinking="budget")
    assert sent["thinking"] == {"type": "enabled", "budget_tokens": budget}
    assert sent["max_tokens"] > budget
    sent = made({"reasoning_effort": effort}, thinking="adaptive")
    assert (sent["thinking"], sent["output_config"]) == ({"type": "adaptive"}, {"effort": adaptive})
    assert dropped({"reasoning_effort": effort}) == {"reasoning_effort"}


def test_no_reasoning() -> None:
    assert "thinking" not in made({"reasoning_effort": "none"}, thinking="budget")
    assert made({"reasoning_effort": "none"}, thinking="adaptive")["thinking"] == {"type": "disabled"}


def test_an_explicit_thinking_object_wins() -> None:
    body = {"thinking": {"type": "enabled", "budget_tokens": 3000}, "reasoning_effort": "low", "max_tokens": 8000}
    assert made(body, thinking="budget")["thinking"] == {"type": "enabled", "budget_tokens": 3000}
    assert made({**body, "max_tokens": 2000}, thinking="budget")["thinking"]["budget_tokens"] == 1999
    assert made(body, thinking="adaptive")["thinking"] == {"type": "adaptive"}
    assert dropped(body) == {"thinking"}


def test_a_forced_tool_and_thinking_exclude_each_other() -> None:
    body = {"tools": [WEATHER], "tool_choice": "required", "reasoning_effort": "low"}
    assert "thinking" not in made(body, thinking="budget")


def test_sampling() -> None:
    body = {"temperature": 1.5, "top_p": 0.5}
    assert {"temperature", "top_p"} <= made(body).keys()
    assert made(body)["temperature"] == 1.0
    assert dropped(body, sampling="one_of") == {"top_p"}
    assert dropped(body, sampling="none") == {"temperature", "top_p"}
    thinking = {**body, "reasoning_effort": "low"}
    assert dropped(thinking, thinking="budget") == {"temperature", "top_p"}
    assert made({**thinking, "top_p": 0.97}, thinking="budget")["top_p"] == 0.97


def test_what_does_not_exist_is_dropped_and_named_or_refused() -> None:
    body = {
        "seed": 1,
        "presence_penalty": 0.5,
        "logprobs": True,
        "top_logprobs": 2,
        "logit_bias": {"1": 1},
        "store": True,
    }
    assert dropped(body) == set(body)
    assert refusal(body, on_unsupported="error").code == "unsupported_parameter"
    assert refusal({"n": 2}).param == "n"
    audio = {"type": "input_audio", "input_audio": {"format": "wav", "data": "AA=="}}
    assert refusal({"messages": [{"role": "user", "content": [audio]}]}).code == "unsupported_parameter"
    image = {"type": "image_url", "image_url": {"url": "data:image/tiff;base64,AA=="}}
    assert refusal({"messages": [{"role": "user", "content": [image]}]}).code == "unsupported_parameter"
    image = {"type": "image_url", "image_url": {"url": "https://a.example/a.png"}}
    assert refusal({"messages": [{"role": "user", "content": [image]}]}, vision=False).param == "messages"


def test_the_caller_is_named_by_an_id_only() -> None:
    assert made({"user": "u-1"})["metadata"] == {"user_id": "u-1"}
    for user in ("a@example.com", "+41 44 123 45 67"):
        assert dropped({"user": user}) == {"user"}
    assert made({"service_tier": "default"})["service_tier"] == "standard_only"
    assert dropped({"service_tier": "flex"}) == {"service_tier"}


def test_tools_and_choices() -> None:
    tools = [WEATHER, {"type": "function", "function": {"name": "now", "strict": True}}]
    sent = made({"tools": tools, "parallel_tool_calls": False})
    assert sent["tools"] == [
        {"name": "get_weather", "input_schema": {"type": "object"}},
        {"name": "now", "input_schema": {"type": "object"}, "strict": True},
    ]
    assert sent["tool_choice"] == {"type": "auto", "disable_parallel_tool_use": True}
    assert made({"tools": tools, "tool_choice": "none", "parallel_tool_calls": False})["tool_choice"] == {
        "type": "none"
    }
    assert made({"tools": tools, "tool_choice": "required"})["tool_choice"] == {"type": "any"}
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "now"}}]}
    sent = made({"tools": tools, "tool_choice": {"type": "allowed_tools", "allowed_tools": allowed}})
    assert [tool["name"] for tool in sent["tools"]] == ["now"]
    assert sent["tool_choice"] == {"type": "any"}
    assert "tool_choice" not in made({"tool_choice": "auto", "parallel_tool_calls": False})


SCHEMA = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1, "description": "Count"}}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}


def test_structured_output() -> None:
    sent = made({"response_format": FORMAT})
    count = {"type": "integer", "description": "Count\n\n{minimum: 1}"}
    closed = {"type": "object", "properties": {"n": count}, "additionalProperties": False}
    assert sent["output_config"] == {"format": {"type": "json_schema", "schema": closed}}
    sent = made({"response_format": FORMAT}, structured="tool")
    assert sent["tools"] == [{"name": "json_output", "input_schema": SCHEMA}]
    assert sent["tool_choice"] == {"type": "tool", "name": "json_output"}
    assert made({"response_format": FORMAT, "tools": [WEATHER]}, structured="tool")["tool_choice"] == {"type": "any"}
    assert '"minimum": 1' in made({"response_format": FORMAT}, structured="prompt")["system"]
    assert dropped({"response_format": FORMAT}, structured="none") == {"response_format"}
    assert made({"response_format": {"type": "json_object"}})["system"] == "Respond with one JSON object only."


def test_a_schema_keeps_what_is_known_and_tells_the_rest() -> None:
    schema = {
        "$schema": "x",
        "type": "array",
        "minItems": 1,
        "maxItems": 3,
        "items": {"oneOf": [{"$ref": "#/$defs/a"}, {"type": ["object", "null"], "additionalProperties": True}]},
        "$defs": {"a": {"type": "string", "format": "uuid", "minLength": 2}, "b": {"type": "string", "format": "odd"}},
    }
    assert strict_schema(schema) == {
        "type": "array",
        "minItems": 1,
        "items": {"anyOf": [{"$ref": "#/$defs/a"}, {"type": ["object", "null"], "additionalProperties": False}]},
        "$defs": {
            "a": {"type": "string", "format": "uuid", "description": "{minLength: 2}"},
            "b": {"type": "string", "description": "{format: odd}"},
        },
        "description": "{maxItems: 3}",
    }


def test_files() -> None:
    text = {"filename": "a.txt", "file_data": "data:text/markdown;base64,SGVsbG8="}
    parts = [{"type": "file", "file": text}, {"type": "file", "file": {"file_id": "file_1"}}]
    assert made({"messages": [{"role": "user", "content": parts}]})["messages"][0]["content"] == [
        {"type": "document", "title": "a.txt", "source": {"type": "text", "media_type": "text/plain", "data": "Hello"}},
        {"type": "document", "source": {"type": "file", "file_id": "file_1"}},
    ]
    for data in ("data:application/zip;base64,AA==", "data:text/plain;base64,/w==", "data:text/plain;base64,A"):
        refusal({"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_data": data}}]}]})


def test_marks_beyond_four_lose_the_first() -> None:
    marked = {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}
    sent = made({"messages": [{"role": "system", "content": [marked]}, {"role": "user", "content": [marked] * 4}]})
    assert sent["system"] == "a" or "cache_control" not in sent["system"][0]
    assert all("cache_control" in part for part in sent["messages"][0]["content"])


# The provider


def test_parameters_of_the_deployment_stand_for_what_the_client_left_out() -> None:
    parameters = {"max_tokens": 7, "temperature": 0.5, "anthropic_beta": "a,b", "inference_geo": "us"}
    where = target(parameters=parameters)
    sent = PROVIDER.request(call({"messages": [USER], "temperature": 0}), where, NOW)
    body = orjson.loads(sent.body)
    assert (body["max_tokens"], body["temperature"], body["inference_geo"]) == (7, 0, "us")
    assert sent.headers["anthropic-beta"] == "a,b"
    body = orjson.loads(PROVIDER.request(messages_call({}), where, NOW).body)
    assert (body["max_tokens"], body["temperature"], body["inference_geo"]) == (20, 0.5, "us")
    assert "anthropic_beta" not in body


def test_what_the_upstream_has_refused_is_left_out() -> None:
    where = target(learned=frozenset({"temperature"}))
    for asked in (call({"messages": [USER], "temperature": 1}), messages_call({"temperature": 1})):
        sent = PROVIDER.request(asked, where, NOW)
        assert "temperature" not in orjson.loads(sent.body)
        assert sent.dropped == ("temperature",)


def test_long_whole_answers_can_be_streamed_from_the_upstream() -> None:
    streaming = replace(PROVIDER, streams_above_tokens=21_333)
    asked = call({"messages": [USER], "max_tokens": 30_000})
    assert orjson.loads(streaming.request(asked, target(), NOW).body)["stream"] is True
    assert "stream" not in orjson.loads(PROVIDER.request(asked, target(), NOW).body)


def test_the_base_may_end_in_its_version() -> None:
    asked = call({"messages": [USER]})
    for base in ("http://h", "http://h/", "http://h/v1", "http://h/v1/"):
        assert PROVIDER.request(asked, target(api_base=base), NOW).url == "http://h/v1/messages"


def test_a_bearer_token_goes_into_authorization() -> None:
    sent = PROVIDER.request(call({"messages": [USER]}), target(credential={"auth_token": Secret("t")}), NOW)
    assert sent.headers["authorization"] == "Bearer t"
    assert "x-api-key" not in sent.headers


def test_media_are_inlined_where_the_upstream_takes_no_addresses() -> None:
    inlining = replace(PROVIDER, inlines_media=True)
    url = "https://pics.example.com/a.jpg"
    theirs = messages_call(
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "image", "source": {"type": "url", "url": url}},
                        {
                            "type": "tool_result",
                            "tool_use_id": "t",
                            "content": [{"type": "image", "source": {"type": "url", "url": url}}],
                        },
                    ],
                }
            ]
        }
    )
    ours = call({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]})
    fetched = replace(NOW, fetched={url: Fetched("image/jpeg", "AA==")})
    for asked in (theirs, ours):
        assert PROVIDER.media(asked, target()) == ()
        assert inlining.media(asked, target()) == (url,)
        body = inlining.request(asked, target(), fetched).body
        assert url.encode() not in body
        assert b'"data":"AA=="' in body


# Passed through


def relayed(pieces: Iterable[bytes]) -> tuple[bytes, Any]:
    relay = PROVIDER.relay(messages_call({"stream": True}), target(), NOW)
    out = b"".join(relay.feed(piece) for piece in pieces)
    return out + relay.finish(), relay.facts


def test_a_client_of_the_same_format_gets_the_upstreams_bytes() -> None:
    expected = None
    for pieces in cuts_of(FULL + event("strange")):
        out, facts = relayed(pieces)
        expected = expected or out
        assert out == expected
        assert facts.usage == Usage(input_tokens=5, cache_read_tokens=7, output_tokens=30, reasoning_tokens=10)
        assert (facts.upstream_id, facts.model) == ("msg_1", "claude")
    assert expected is not None
    first, rest = expected.split(b"\n\n", 1)
    assert b'"model":"alias-1"' in first
    assert rest == FULL.split(b"\n\n", 1)[1]


def test_the_terminal_event_waits_for_the_end() -> None:
    relay = PROVIDER.relay(messages_call({"stream": True}), target(), NOW)
    assert b"message_stop" not in relay.feed(FULL)
    assert relay.is_done
    assert relay.finish() == anthropic_wire.MESSAGE_STOP


def test_a_whole_message_is_passed_through_renamed() -> None:
    raw = orjson.dumps(WHOLE)
    body, facts = PROVIDER.relay_body(messages_call({}), target(), NOW, raw, {})
    assert body == raw.replace(b'"claude"', b'"alias-1"')
    assert facts.usage is not None
    assert facts.usage.reasoning_tokens == 10


def test_a_request_of_the_same_format_keeps_its_bytes() -> None:
    raw = b'{"model": "alias-1", "max_tokens": 5,  "messages": [{"role": "user", "content": "\\u00e9"}]}'
    asked = anthropic_messages.DIALECT.decode(raw, Hints())
    sent = PROVIDER.request(asked, target(), NOW)
    assert sent.body == raw.replace(b'"model": "alias-1"', b'"model":"claude-sonnet-4-5"')
    asked = messages_call(
        {"tags": ["a"], "metadata": {"user_id": "u", "tags": ["b"]}, "anthropic_beta": ["x"], "top_k": 4}
    )
    sent = PROVIDER.request(asked, target({"sampling": "none"}), NOW)
    body = orjson.loads(sent.body)
    assert body.keys() == {"model", "max_tokens", "messages", "metadata"}
    assert body["metadata"] == {"user_id": "u"}
    assert sent.headers["anthropic-beta"] == "x"
    assert sent.dropped == ("top_k",)


def test_tokens_are_counted_by_the_upstreams_own_count() -> None:
    sent = PROVIDER.count_request(messages_call({"system": "s", "stream": True}), target(), NOW)
    assert sent.url == "https://api.anthropic.com/v1/messages/count_tokens"
    assert orjson.loads(sent.body) == {"model": "claude-sonnet-4-5", "messages": [USER], "system": "s"}


def test_no_token_is_fetched_where_there_is_a_key() -> None:
    fetching = replace(PROVIDER, token_kind="kind")
    assert fetching.token(target()) == ""
    assert fetching.token(target(credential={})) == "kind"
