"""Anthropic's Messages format of clients: refused and accepted requests, and answers that Anthropic's own package can
read."""

import json
from collections.abc import Iterable
from typing import Any

import orjson
import pytest
from anthropic.types import Message, RawMessageStreamEvent
from anthropic.types.shared import ErrorResponse
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from gateway.protocol.attempt_context import AttemptContext
from gateway.protocol.call import Call, Operation
from gateway.protocol.capabilities import Capabilities
from gateway.protocol.dialect import Hints
from gateway.protocol.dialects.anthropic.client import (
    DIALECT,
    count_body,
    error_body,
    error_event,
)
from gateway.protocol.dialects.anthropic.upstream_request import encode_request
from gateway.protocol.dialects.anthropic.wire import read_usage, usage_object
from gateway.protocol.dialects.openai.wire import REDIRECTING
from gateway.protocol.errors import (
    BadRequest,
    BudgetExceeded,
    Fault,
    GatewayFault,
    NotFound,
    TooLarge,
    Unauthorized,
    UpstreamFault,
)
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
from gateway.protocol.items import (
    Assistant,
    Cache,
    File,
    Image,
    OutputFormat,
    Reasoning,
    System,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    User,
)
from gateway.protocol.usage import Usage

USER = {"role": "user", "content": "Hi"}
MINIMAL = {"model": "m", "max_tokens": 9, "messages": [USER]}
NOW = AttemptContext("attempt-1", 1_800_000_000.0)
EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)


def decode(body: dict[str, Any], hints: Hints | None = None) -> Call:
    return DIALECT.decode(orjson.dumps({**MINIMAL, **body}), hints or Hints())


def read_request(body: dict[str, Any]) -> Any:
    return DIALECT.chat_request(decode(body))


def refused(body: dict[str, Any]) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        read_request(body)
    assert caught.value.status == 400
    return caught.value


# Requests


def test_the_smallest_call_is_read() -> None:
    call = decode({})
    assert (call.operation, call.model, call.stream, call.body) == (Operation.CHAT, "m", False, MINIMAL)
    assert call.input_estimate > 0
    assert decode({"stream": True}).include_usage


@pytest.mark.parametrize("name", MINIMAL)
def test_a_missing_field_is_named(name: str) -> None:
    body = {key: value for key, value in MINIMAL.items() if key != name}
    with pytest.raises(BadRequest) as caught:
        DIALECT.decode(orjson.dumps(body), Hints())
    assert caught.value.param == name


def test_counting_needs_no_limit() -> None:
    body = {"model": "m", "messages": [USER]}
    assert DIALECT.decode_count(orjson.dumps(body), Hints()).model == "m"


WRONG: list[tuple[str, Any]] = [
    ("model", 5),
    ("model", " "),
    ("max_tokens", "9"),
    ("max_tokens", -1),
    ("messages", []),
    ("messages", ["a"]),
    ("messages", [{"role": "tool", "content": "a"}]),
    ("messages", [{"role": [], "content": "a"}]),
    ("messages", [{"role": "user"}]),
    ("messages", [{"role": "user", "content": 5}]),
    ("messages", [{"role": "user", "content": [{"text": "a"}]}]),
    ("system", 5),
    ("system", ["a"]),
    ("stream", "true"),
    ("stop_sequences", "a"),
    ("temperature", "hot"),
    ("top_p", 2),
    ("top_k", -1),
    ("tools", {}),
    ("tools", [{"name": "a"}]),
    ("tools", [{"input_schema": {}}]),
    ("tool_choice", "auto"),
    ("thinking", True),
    ("thinking", {}),
    ("metadata", "a"),
    ("output_config", []),
    ("service_tier", 1),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_wrong_field_is_named(name: str, value: Any) -> None:
    assert refused({name: value}).param == name


@pytest.mark.parametrize("name", sorted(REDIRECTING))
def test_nothing_redirects_a_call(name: str) -> None:
    assert refused({name: "x"}).param == name
    assert refused({"metadata": {name: "x"}}).param == name


def test_names_in_the_callers_own_data_are_free() -> None:
    schema = {"type": "object", "properties": {"headers": {"type": "string"}, "api_key": {"type": "string"}}}
    read_request({"output_config": {"format": {"type": "json_schema", "schema": schema}}})
    read_request({"tools": [{"name": "a", "input_schema": schema}]})


def test_a_headers_end_user_wins_over_the_metadatas() -> None:
    assert decode({"metadata": {"user_id": "u"}}).end_user == "u"
    assert decode({"metadata": {"user_id": "u"}}, Hints(end_user="h")).end_user == "h"
    assert decode({"metadata": {"tags": ["a"]}}).tags == ("a",)


def test_every_plain_field_reaches_the_request() -> None:
    request = read_request(
        {
            "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
            "stop_sequences": ["END"],
            "temperature": 0.5,
            "top_p": 0.9,
            "top_k": 4,
            "metadata": {"user_id": "u"},
            "service_tier": "standard_only",
            "cache_control": {"type": "ephemeral"},
            "tools": [{"name": "t", "description": "d", "input_schema": {"type": "object"}, "strict": True}],
            "tool_choice": {"type": "tool", "name": "t", "disable_parallel_tool_use": True},
            "thinking": {"type": "enabled", "budget_tokens": 2048},
            "output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}},
        }
    )
    assert request.messages == (System((Text("s", Cache("1h")),)), User((Text("Hi"),)))
    assert (request.stop, request.temperature, request.top_p, request.top_k, request.max_tokens) == (
        ("END",),
        0.5,
        0.9,
        4,
        9,
    )
    assert (request.user, request.service_tier, request.cache) == ("u", "default", Cache())
    assert request.tools == (Tool("t", "d", {"type": "object"}, strict=True),)
    assert request.tool_choice == ToolChoice("named", name="t")
    assert request.parallel_tools is False
    assert request.thinking == {"type": "enabled", "budget_tokens": 2048}
    assert request.reasoning_effort == "medium"
    assert request.output == OutputFormat("json_schema", "output", {"type": "object"}, strict=True)


@pytest.mark.parametrize(
    ("body", "effort"),
    [
        ({}, ""),
        ({"thinking": {"type": "disabled"}, "output_config": {"effort": "max"}}, "none"),
        ({"thinking": {"type": "adaptive"}}, "high"),
        ({"output_config": {"effort": "xhigh"}}, "xhigh"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "low"),
        ({"thinking": {"type": "enabled", "budget_tokens": 32000}}, "high"),
        ({"thinking": {"type": "between_tools"}}, ""),
    ],
)
def test_thinking_also_sets_an_effort(body: dict[str, Any], effort: str) -> None:
    assert read_request(body).reasoning_effort == effort


@pytest.mark.parametrize(("kind", "mode"), [("auto", "auto"), ("any", "required"), ("none", "none")])
def test_tool_choices(kind: str, mode: str) -> None:
    assert read_request({"tool_choice": {"type": kind}}).tool_choice == ToolChoice(mode)


def test_a_round_of_tools() -> None:
    messages = [
        USER,
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "t", "signature": "s"},
                {"type": "redacted_thinking", "data": "d"},
                {"type": "text", "text": "Looking."},
                {"type": "server_tool_use", "id": "x", "name": "web_search", "input": {}},
                {"type": "web_search_tool_result", "tool_use_id": "x", "content": []},
                {"type": "tool_use", "id": "a", "name": "now", "input": {"n": 1}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Here."},
                {"type": "tool_result", "tool_use_id": "a", "content": "12:00", "is_error": True},
                {
                    "type": "tool_result",
                    "tool_use_id": "b",
                    "cache_control": {"type": "ephemeral"},
                    "content": [{"type": "text", "text": "x"}],
                },
            ],
        },
        {"role": "system", "content": "later"},
    ]
    assert read_request({"messages": messages}).messages == (
        User((Text("Hi"),)),
        Assistant(
            (Text("Looking."),),
            (ToolCall("a", "now", '{"n":1}'),),
            (Reasoning("t", "s"), Reasoning(redacted="d")),
        ),
        ToolResult("a", (Text("12:00"),), is_error=True),
        ToolResult("b", (Text("x", Cache()),)),
        User((Text("Here."),)),
        System((Text("later"),)),
    )


def test_media() -> None:
    def source(kind: str, **members: Any) -> dict[str, Any]:
        return {"type": kind, "source": members}

    content = [
        source("image", type="base64", media_type="image/png", data="AA=="),
        source("image", type="url", url="https://a.example/a.png"),
        source("image", type="file", file_id="f"),
        {**source("document", type="base64", media_type="application/pdf", data="JVBERi0="), "title": "r.pdf"},
        source("document", type="text", media_type="text/plain", data="Hello"),
        source("document", type="content", content="Inner"),
        {"type": "search_result", "title": "T", "source": "https://s", "content": [{"type": "text", "text": "found"}]},
    ]
    parts = read_request({"messages": [{"role": "user", "content": content}]}).messages[0]
    assert parts.parts == (
        Image(data="AA==", media_type="image/png"),
        Image(url="https://a.example/a.png"),
        File(media_type="image/*", file_id="f"),
        File("r.pdf", "application/pdf", "JVBERi0="),
        Text("Hello"),
        Text("Inner"),
        Text("T\nhttps://s"),
        Text("found"),
    )


UNTRANSLATABLE: list[tuple[str, dict[str, Any]]] = [
    ("mcp_servers", {"mcp_servers": [{"type": "url", "url": "https://m"}]}),
    ("container", {"container": "c"}),
    ("inference_geo", {"inference_geo": "eu"}),
    ("tools.0.type", {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}),
    ("messages.0.content.0.type", {"messages": [{"role": "user", "content": [{"type": "container_upload"}]}]}),
]


@pytest.mark.parametrize(("param", "body"), UNTRANSLATABLE)
def test_untranslatable_fields_are_refused_in_translation_only(param: str, body: dict[str, Any]) -> None:
    decode(body)
    fault = refused(body)
    assert (fault.param, fault.code) == (param, "unsupported_parameter")


BAD_BLOCKS: list[dict[str, Any]] = [
    {"type": "text", "text": 5},
    {"type": "image"},
    {"type": "image", "source": {"type": "base64", "data": "AA=="}},
    {"type": "image", "source": {"type": "carrier_pigeon"}},
    {"type": "tool_result", "tool_use_id": 5},
    {"type": "tool_result", "tool_use_id": "a", "content": [5]},
    {"type": "document", "source": {"type": "content", "content": 5}},
]


@pytest.mark.parametrize("block", BAD_BLOCKS)
def test_a_bad_block_is_named(block: dict[str, Any]) -> None:
    param = refused({"messages": [{"role": "user", "content": [block]}]}).param
    assert param is not None
    assert param.startswith("messages.0.content.0")


def test_unsupported_fields_are_named() -> None:
    assert DIALECT.unsupported_fields(decode({"speed": "fast", "diagnostics": {}})) == ("diagnostics", "speed")


def test_a_chat_request_survives_the_round_trip() -> None:
    body: dict[str, Any] = {
        "max_tokens": 100,
        "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "t", "signature": "s"},
                    {"type": "text", "text": "a"},
                    {"type": "tool_use", "id": "a", "name": "n", "input": {"x": [1, 2.5, "ü"]}},
                ],
            },
            {
                "role": "user",
                "content": [{"type": "tool_result", "tool_use_id": "a", "content": "r", "is_error": True}],
            },
        ],
        "tools": [{"name": "n", "description": "d", "input_schema": {"type": "object"}}],
        "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
        "stop_sequences": ["x"],
        "metadata": {"user_id": "u"},
        "thinking": {"type": "adaptive"},
    }
    encoded = encode_request(read_request(body), Capabilities(thinking="adaptive"))
    assert orjson.loads(orjson.dumps(encoded.body)) == {**body, "output_config": {"effort": "high"}}
    assert encoded.dropped == ()


# Counting


def test_counts_grow_with_the_input() -> None:
    base = decode({}).input_estimate
    assert base > 0
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}}
    pdf = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "A" * 100_000}}
    tool = {"name": "t", "input_schema": {"type": "object", "description": "word " * 100}}
    assert decode({"messages": [{"role": "user", "content": [image]}]}).input_estimate > 1000
    assert decode({"messages": [{"role": "user", "content": [pdf]}]}).input_estimate > 3000
    assert decode({"tools": [tool]}).input_estimate > base + 100
    assert decode({"system": "word " * 100}).input_estimate > base + 100
    assert orjson.loads(count_body(base)) == {"input_tokens": base}


# Answers


def streamed(events: Iterable[Event]) -> tuple[list[Any], bytes]:
    encoder = DIALECT.answer(decode({"stream": True}), NOW)
    out = b"".join(encoder.chunks([event]) for event in events) + encoder.last_chunks()
    answer = []
    for raw in out.strip().split(b"\n\n"):
        name, data = raw.split(b"\n")
        event = orjson.loads(data.removeprefix(b"data: "))
        assert name == b"event: " + event["type"].encode()
        answer.append(EVENT.validate_python(event).model_dump(exclude_unset=True))
    return answer, out


def assembled(events: list[Any]) -> dict[str, Any]:
    """The message that a client adds up; each block begins once, in order, and ends before the message."""
    assert [event["type"] for event in events[-2:]] == ["message_delta", "message_stop"]
    message = dict(events[0]["message"])
    blocks: list[Any] = []
    ended: set[int] = set()
    for event in events[1:-2]:
        index = event["index"]
        if event["type"] == "content_block_start":
            assert index == len(blocks)
            blocks.append({**event["content_block"], "json": ""})
            continue
        assert index not in ended
        if event["type"] == "content_block_stop":
            ended.add(index)
            continue
        delta, block = event["delta"], blocks[index]
        if delta["type"] == "text_delta":
            block["text"] += delta["text"]
        elif delta["type"] == "thinking_delta":
            block["thinking"] += delta["thinking"]
        elif delta["type"] == "signature_delta":
            block["signature"] = delta["signature"]
        else:
            block["json"] += delta["partial_json"]
    assert ended == set(range(len(blocks)))
    for block in blocks:
        text = block.pop("json")
        if text:
            block["input"] = json.loads(text)
    message["content"] = blocks
    message["stop_reason"] = events[-2]["delta"]["stop_reason"]
    message["usage"] = events[-2]["usage"]
    return message


USAGE = Usage(input_tokens=5, cache_read_tokens=7, cache_write_5m_tokens=2, output_tokens=30, reasoning_tokens=10)
EVENTS: list[Event] = [
    Started("up-1", "upstream-model"),
    ReasoningDelta("Let me "),
    ReasoningDelta("see.", signature="sig"),
    ReasoningDelta(redacted="opaque"),
    TextDelta("Look"),
    TextDelta("ing."),
    AnnotationAdded({"type": "url_citation"}),
    ToolCallStarted(0, "call_1", "get_weather"),
    ToolArgumentsDelta(0, '{"city": '),
    ToolArgumentsDelta(0, '"Zürich"}'),
    ToolCallStarted(1, "call_2", "now"),
    ToolArgumentsDelta(1, "{}"),
    Finished("tool_calls"),
    UsageReported(USAGE, {}),
]
ANSWER = {
    "id": NOW.new_id("msg_"),
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": [
        {"type": "thinking", "thinking": "Let me see.", "signature": "sig"},
        {"type": "redacted_thinking", "data": "opaque"},
        {"type": "text", "text": "Looking."},
        {"type": "tool_use", "id": "call_1", "name": "get_weather", "input": {"city": "Zürich"}},
        {"type": "tool_use", "id": "call_2", "name": "now", "input": {}},
    ],
    "stop_reason": "tool_use",
    "stop_sequence": None,
    "usage": {
        "input_tokens": 5,
        "cache_creation_input_tokens": 2,
        "cache_read_input_tokens": 7,
        "output_tokens": 40,
        "output_tokens_details": {"thinking_tokens": 10},
    },
}


def whole(events: Iterable[Event]) -> Any:
    message = orjson.loads(DIALECT.answer(decode({}), NOW).body(events))
    Message.model_validate(message)
    return message


def test_a_stream_and_a_whole_answer_are_equal() -> None:
    assert whole(EVENTS) == ANSWER
    assert assembled(streamed(EVENTS)[0]) == ANSWER


def test_the_stream_ends_with_its_terminal_event() -> None:
    assert streamed(EVENTS)[1].endswith(b'event: message_stop\ndata: {"type":"message_stop"}\n\n')


@pytest.mark.parametrize(
    ("finish", "reason"),
    [("stop", "end_turn"), ("length", "max_tokens"), ("tool_calls", "tool_use"), ("content_filter", "refusal")],
)
def test_stop_reasons(finish: str, reason: str) -> None:
    assert whole([TextDelta("a"), Finished(finish)])["stop_reason"] == reason


def test_a_refusal_is_shown_as_text() -> None:
    message = whole([RefusalDelta("I can"), RefusalDelta("not."), Finished("stop")])
    assert message["content"] == [{"type": "text", "text": "I cannot."}]
    assert message["stop_reason"] == "refusal"


def test_reasoning_without_a_signature_is_shown() -> None:
    events: list[Event] = [ReasoningDelta("t"), TextDelta("a"), Finished("stop")]
    assert whole(events)["content"][0] == {"type": "thinking", "thinking": "t", "signature": ""}
    assert assembled(streamed(events)[0])["content"] == whole(events)["content"]


def test_interleaved_tool_calls_stay_apart() -> None:
    events: list[Event] = [
        ToolCallStarted(0, "a", "x"),
        ToolCallStarted(1, "b", "y"),
        ToolArgumentsDelta(0, '{"n":'),
        ToolArgumentsDelta(1, '{"n":2}'),
        ToolArgumentsDelta(0, "1}"),
        Finished("tool_calls"),
    ]
    content = [
        {"type": "tool_use", "id": "a", "name": "x", "input": {"n": 1}},
        {"type": "tool_use", "id": "b", "name": "y", "input": {"n": 2}},
    ]
    assert whole(events)["content"] == content
    assert assembled(streamed(events)[0])["content"] == content


def test_arguments_other_than_an_object_keep_their_text() -> None:
    events: list[Event] = [ToolCallStarted(0, "a", "x"), ToolArgumentsDelta(0, '{"n":'), Finished("length")]
    assert whole(events)["content"][0]["input"] == {"_raw": '{"n":'}


REPORTED = UsageReported(Usage(input_tokens=3, cache_read_tokens=900, output_tokens=7), {})
FIRST_EVENTS: dict[str, list[Event]] = {
    "before the answer": [Started("1", "m", UsageReported(Usage(input_tokens=3, cache_read_tokens=900), {}))],
    "with the first text": [Started("1", "m"), TextDelta("Hi"), REPORTED],
}


@pytest.mark.parametrize("first", FIRST_EVENTS.values(), ids=FIRST_EVENTS.keys())
def test_the_start_of_a_message_has_the_input_that_the_upstream_has_reported(first: list[Event]) -> None:
    encoder = DIALECT.answer(decode({"stream": True}), NOW)
    start = encoder.chunks(first).split(b"\n\n")[0].split(b"data: ")[1]
    usage = orjson.loads(start)["message"]["usage"]
    assert (usage["input_tokens"], usage["cache_read_input_tokens"], usage["output_tokens"]) == (3, 900, 0)
    encoder.chunks([TextDelta("word " * 40), Finished("stop")])
    last = orjson.loads(encoder.last_chunks().split(b"event: message_delta\ndata: ")[1].split(b"\n")[0])["usage"]
    assert (last["input_tokens"], last["cache_read_input_tokens"]) == (3, 900)


def test_an_answer_without_usage_is_estimated() -> None:
    usage = whole([TextDelta("word " * 40), Finished("stop")])["usage"]
    assert usage["output_tokens"] == 50
    assert usage["input_tokens"] > 0


def test_an_empty_answer_is_a_message() -> None:
    assert whole([Finished("stop")])["content"] == []
    assert assembled(streamed([])[0])["content"] == []


COUNTS = st.integers(0, 10**6)


@given(COUNTS, COUNTS, COUNTS, COUNTS, COUNTS)
def test_usage_survives_the_round_trip(plain: int, cache_read: int, written: int, output: int, thought: int) -> None:
    usage = Usage(
        input_tokens=plain,
        cache_read_tokens=cache_read,
        cache_write_5m_tokens=written,
        output_tokens=output,
        reasoning_tokens=thought,
    )
    assert read_usage(usage_object(usage)) == (usage if usage != Usage() else None)


@given(
    st.lists(
        st.one_of(
            st.builds(TextDelta, st.text(max_size=5)),
            st.builds(ReasoningDelta, st.text(max_size=5), signature=st.sampled_from(["", "s"])),
            st.builds(ReasoningDelta, redacted=st.just("r")),
            st.builds(RefusalDelta, st.text(max_size=5)),
            st.builds(TextDelta, st.text(max_size=5), choice=st.just(1)),
        ),
        max_size=12,
    )
)
def test_any_order_of_events_makes_a_well_formed_stream(events: list[Event]) -> None:
    stream, _ = streamed(events)
    assert assembled(stream)["content"] == whole(events)["content"]


# Errors


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (BadRequest("m"), "invalid_request_error"),
        (Unauthorized("m"), "authentication_error"),
        (NotFound("m"), "not_found_error"),
        (UpstreamFault("m", status=429, code="rate_limit_exceeded"), "rate_limit_error"),
        (UpstreamFault("m", status=503, code="overloaded"), "overloaded_error"),
        (UpstreamFault("m", status=504, code="upstream_timeout"), "timeout_error"),
        (UpstreamFault("m"), "api_error"),
        (GatewayFault("m"), "api_error"),
        (BudgetExceeded("m"), "rate_limit_error"),
    ],
)
def test_errors_have_anthropics_shape(fault: Fault, kind: str) -> None:
    expected = {"type": "error", "error": {"type": kind, "message": "m"}}
    assert orjson.loads(error_body(fault)) == expected
    ErrorResponse.model_validate(orjson.loads(error_body(fault, "req-1")))
    assert orjson.loads(error_body(fault, "req-1")) == {**expected, "request_id": "req-1"}
    assert error_event(fault) == b"event: error\ndata: " + error_body(fault) + b"\n\n"
    assert DIALECT.error_body(fault) == error_body(fault)


def test_a_too_large_body_has_its_own_error_type() -> None:
    assert orjson.loads(error_body(TooLarge("m")))["error"]["type"] == "request_too_large"
