"""Requests to Anthropic's Messages API: their rules, checked against the types of Anthropic's own package."""

import json
from typing import Any

import orjson
import pytest
from anthropic.types import MessageCreateParams
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from gateway.protocol.capabilities import Capabilities
from gateway.protocol.dialect import Hints
from gateway.protocol.dialects.anthropic.json_schema import strict_schema
from gateway.protocol.dialects.anthropic.upstream_answer import decode_body
from gateway.protocol.dialects.anthropic.upstream_request import encode_request
from gateway.protocol.dialects.openai import completions as openai_completions
from gateway.protocol.dialects.openai.client_request import read_chat_request
from gateway.protocol.errors import BadRequest
from gateway.protocol.events import (
    ToolArgumentsDelta,
)
from gateway.providers.anthropic import PROVIDER
from tests.fakes.anthropic import JSON_VALUES, NOW, USER, WEATHER, call, target

PARAMS: TypeAdapter[Any] = TypeAdapter(MessageCreateParams)


def encoded_body(body: dict[str, Any], **flags: Any) -> Any:
    """The body, checked against the types of Anthropic's own package."""
    encoded = encode_request(read_chat_request(call({"messages": [USER], **body}).body), Capabilities(**flags))
    sent = orjson.loads(orjson.dumps({"model": "m", **encoded.body}))
    sampling = {"temperature", "top_p", "top_k"}  # no longer in those types, though older models take them
    PARAMS.validate_python({name: value for name, value in sent.items() if name not in sampling})
    return sent


def dropped(body: dict[str, Any], **flags: Any) -> set[str]:
    return set(
        encode_request(read_chat_request(call({"messages": [USER], **body}).body), Capabilities(**flags)).dropped
    )


def refusal(body: dict[str, Any], **flags: Any) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        encoded_body(body, **flags)
    return caught.value


def tool_call(call_id: str, arguments: str = "{}", name: str = "get_weather") -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def test_the_limit_is_always_sent() -> None:
    assert encoded_body({})["max_tokens"] == 4096
    assert encoded_body({}, max_output_tokens=1000)["max_tokens"] == 1000
    assert encoded_body({"max_tokens": 5000}, max_output_tokens=1000)["max_tokens"] == 1000
    assert encoded_body({"reasoning_effort": "low"}, thinking="budget", max_output_tokens=64000)["max_tokens"] == 64000


def test_system_messages() -> None:
    leading = [{"role": "system", "content": "a"}, USER]
    assert encoded_body({"messages": leading})["system"] == "a"
    later = [USER, {"role": "assistant", "content": "b"}, {"role": "developer", "content": "c"}, USER]
    assert encoded_body({"messages": later})["messages"][2]["content"] == [
        {"type": "text", "text": "<system>c</system>"},
        {"type": "text", "text": "Hi"},
    ]
    roles = [message["role"] for message in encoded_body({"messages": later}, system_role=True)["messages"]]
    assert roles == ["user", "assistant", "system", "user"]


def test_turns_alternate_and_begin_with_the_user() -> None:
    assistant = {"role": "assistant", "content": "a"}
    messages = encoded_body({"messages": [assistant, assistant, USER, {"role": "user", "content": " "}, USER]})[
        "messages"
    ]
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    assert messages[0]["content"] == [{"type": "text", "text": "."}]
    assert [part["text"] for part in messages[1]["content"]] == ["a", "a"]
    assert [part["text"] for part in messages[2]["content"]] == ["Hi", "Hi"]
    assert encoded_body({"messages": [{"role": "user", "content": " "}]})["messages"][0]["content"][0]["text"] == "."
    assert encoded_body({"messages": [{"role": "system", "content": "s"}]})["messages"] == [
        {"role": "user", "content": [{"type": "text", "text": "."}]}
    ]


def test_a_last_assistant_message_is_continued_or_refused() -> None:
    messages = [USER, {"role": "assistant", "content": "It is "}]
    assert refusal({"messages": messages}).param == "messages"
    assert encoded_body({"messages": messages}, prefill=True)["messages"][1]["content"] == [
        {"type": "text", "text": "It is"}
    ]


def test_tool_results_come_first_and_none_is_missing() -> None:
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
    body = encoded_body({"messages": messages})["messages"]
    assert [message["role"] for message in body] == ["user", "assistant", "user"]
    uses = [block for block in body[1]["content"] if block["type"] == "tool_use"]
    ids = [use["id"] for use in uses]
    assert ids[0] == "a"
    assert ids[1].startswith("toolu_")
    assert body[2]["content"] == [
        {"type": "tool_result", "tool_use_id": ids[1], "content": "2"},
        {"type": "tool_result", "tool_use_id": "a", "content": "1"},
        {"type": "tool_result", "tool_use_id": "d", "content": "no result", "is_error": True},
        {"type": "text", "text": "lost?"},
        {"type": "text", "text": "And?"},
    ]
    assert encoded_body({"messages": messages}) == encoded_body({"messages": messages})


def test_an_unanswered_call_at_the_end_is_answered() -> None:
    messages = [USER, {"role": "assistant", "content": None, "tool_calls": [tool_call("a")]}]
    body = encoded_body({"messages": messages})["messages"]
    assert body[2]["content"][0]["is_error"] is True


def test_tool_ids_are_unique() -> None:
    calls = {"role": "assistant", "content": None, "tool_calls": [tool_call("a")]}
    answers = {"role": "tool", "tool_call_id": "a", "content": "1"}
    body = encoded_body({"messages": [USER, calls, answers, calls, answers, USER]})["messages"]
    uses = [block["id"] for message in body for block in message["content"] if block["type"] == "tool_use"]
    results = [
        block["tool_use_id"] for message in body for block in message["content"] if block["type"] == "tool_result"
    ]
    assert uses == results
    assert len(set(uses)) == 2
    twins = {"role": "assistant", "content": None, "tool_calls": [tool_call("a"), tool_call("a")]}
    body = encoded_body({"messages": [USER, twins, answers]})["messages"]
    assert {block["id"] for block in body[1]["content"]} == {block["tool_use_id"] for block in body[2]["content"]}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [("", {}), ("  ", {}), ('{"a": 1}', {"a": 1}), ("{a", {"_raw": "{a"}), ("[1]", {"_raw": "[1]"})],
)
def test_tool_arguments(arguments: str, expected: Any) -> None:
    messages = [USER, {"role": "assistant", "content": None, "tool_calls": [tool_call("a", arguments)]}]
    assert encoded_body({"messages": messages})["messages"][1]["content"][0]["input"] == expected


def test_tool_arguments_keep_their_digits() -> None:
    digits = '{"n": 123456789012345678901234567890}'
    messages = [USER, {"role": "assistant", "content": None, "tool_calls": [tool_call("a", digits)]}]
    body = PROVIDER.request(call({"messages": messages}), target(), NOW).body
    assert digits.encode() in body


@given(st.dictionaries(st.text(max_size=8), JSON_VALUES, max_size=4))
def test_tool_arguments_survive_the_round_trip(arguments: dict[str, Any]) -> None:
    text = json.dumps(arguments)
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return
    messages = [USER, {"role": "assistant", "content": None, "tool_calls": [tool_call("a", text)]}]
    body = encode_request(read_chat_request({"messages": messages}), Capabilities()).body["messages"][1]["content"]
    answer = orjson.dumps({"id": "m", "model": "c", "content": body, "stop_reason": "tool_use"})
    events = [event.text for event in decode_body(answer) if isinstance(event, ToolArgumentsDelta)]
    assert json.loads(events[0]) == arguments


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
    encoded = encoded_body({**body, "reasoning_effort": "low"}, thinking="budget")
    assert encoded["messages"][1]["content"][:3] == [
        {"type": "thinking", "thinking": "t", "signature": "s"},
        {"type": "redacted_thinking", "data": "d"},
        {"type": "text", "text": "b"},
    ]
    assert encoded["thinking"] == {"type": "enabled", "budget_tokens": 1024}


def test_thinking_is_off_where_the_last_tool_call_lacks_its_thinking() -> None:
    history = {"role": "assistant", "content": None, "tool_calls": [tool_call("a")]}
    body = {
        "messages": [USER, history, {"role": "tool", "tool_call_id": "a", "content": "1"}],
        "reasoning_effort": "low",
    }
    assert "thinking" not in encoded_body(body, thinking="budget")
    assert dropped(body, thinking="budget") == {"reasoning_effort"}
    assert encoded_body(body, thinking="adaptive")["thinking"] == {"type": "adaptive"}


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
    body = encoded_body({"reasoning_effort": effort}, thinking="budget")
    assert body["thinking"] == {"type": "enabled", "budget_tokens": budget}
    assert body["max_tokens"] > budget
    body = encoded_body({"reasoning_effort": effort}, thinking="adaptive")
    assert (body["thinking"], body["output_config"]) == ({"type": "adaptive"}, {"effort": adaptive})
    assert dropped({"reasoning_effort": effort}) == {"reasoning_effort"}


def test_no_reasoning() -> None:
    assert "thinking" not in encoded_body({"reasoning_effort": "none"}, thinking="budget")
    assert encoded_body({"reasoning_effort": "none"}, thinking="adaptive")["thinking"] == {"type": "disabled"}


def test_an_explicit_thinking_object_wins() -> None:
    body = {"thinking": {"type": "enabled", "budget_tokens": 3000}, "reasoning_effort": "low", "max_tokens": 8000}
    assert encoded_body(body, thinking="budget")["thinking"] == {"type": "enabled", "budget_tokens": 3000}
    assert encoded_body({**body, "max_tokens": 2000}, thinking="budget")["thinking"]["budget_tokens"] == 1999
    assert encoded_body(body, thinking="adaptive")["thinking"] == {"type": "adaptive"}
    assert dropped(body) == {"thinking"}


def test_a_forced_tool_and_thinking_exclude_each_other() -> None:
    body = {"tools": [WEATHER], "tool_choice": "required", "reasoning_effort": "low"}
    assert "thinking" not in encoded_body(body, thinking="budget")


def test_sampling() -> None:
    body = {"temperature": 1.5, "top_p": 0.5}
    assert {"temperature", "top_p"} <= encoded_body(body).keys()
    assert encoded_body(body)["temperature"] == 1.0
    assert dropped(body, sampling="one_of") == {"top_p"}
    assert dropped(body, sampling="none") == {"temperature", "top_p"}
    thinking = {**body, "reasoning_effort": "low"}
    assert dropped(thinking, thinking="budget") == {"temperature", "top_p"}
    assert encoded_body({**thinking, "top_p": 0.97}, thinking="budget")["top_p"] == 0.97


def test_unsupported_parameters_are_dropped_and_named_or_refused() -> None:
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


def test_only_an_id_names_the_user() -> None:
    assert encoded_body({"user": "u-1"})["metadata"] == {"user_id": "u-1"}
    for user in ("a@example.com", "+41 44 123 45 67"):
        assert dropped({"user": user}) == {"user"}
    assert encoded_body({"service_tier": "default"})["service_tier"] == "standard_only"
    assert dropped({"service_tier": "flex"}) == {"service_tier"}


def test_tools_and_choices() -> None:
    tools = [WEATHER, {"type": "function", "function": {"name": "now", "strict": True}}]
    body = encoded_body({"tools": tools, "parallel_tool_calls": False})
    assert body["tools"] == [
        {"name": "get_weather", "input_schema": {"type": "object"}},
        {"name": "now", "input_schema": {"type": "object", "properties": {}}, "strict": True},
    ]
    assert body["tool_choice"] == {"type": "auto", "disable_parallel_tool_use": True}
    assert encoded_body({"tools": tools, "tool_choice": "none", "parallel_tool_calls": False})["tool_choice"] == {
        "type": "none"
    }
    assert encoded_body({"tools": tools, "tool_choice": "required"})["tool_choice"] == {"type": "any"}
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "now"}}]}
    body = encoded_body({"tools": tools, "tool_choice": {"type": "allowed_tools", "allowed_tools": allowed}})
    assert [tool["name"] for tool in body["tools"]] == ["now"]
    assert body["tool_choice"] == {"type": "any"}
    assert "tool_choice" not in encoded_body({"tool_choice": "auto", "parallel_tool_calls": False})


@pytest.mark.parametrize(
    "fields",
    [
        {"reasoning_content": "hm"},
        {"reasoning_content": "hm", "thinking_blocks": []},
        {"thinking_blocks": [{"type": "thinking", "thinking": "hm", "signature": ""}]},
    ],
)
def test_unsigned_thoughts_are_dropped_and_thinking_stays_off(fields: dict[str, Any]) -> None:
    messages = [USER, {"role": "assistant", "tool_calls": [tool_call("a")], **fields}]
    messages.append({"role": "tool", "tool_call_id": "a", "content": "4 C"})
    body = encoded_body({"messages": messages, "tools": [WEATHER], "reasoning_effort": "low"}, thinking="budget")
    assert [block["type"] for block in body["messages"][1]["content"]] == ["tool_use"]
    assert "thinking" not in body


SCHEMA = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1, "description": "Count"}}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}


def test_structured_output() -> None:
    body = encoded_body({"response_format": FORMAT})
    count = {"type": "integer", "description": "Count\n\n{minimum: 1}"}
    closed = {"type": "object", "properties": {"n": count}, "additionalProperties": False}
    assert body["output_config"] == {"format": {"type": "json_schema", "schema": closed}}
    body = encoded_body({"response_format": FORMAT}, structured="tool")
    assert body["tools"] == [{"name": "json_output", "input_schema": SCHEMA}]
    assert body["tool_choice"] == {"type": "tool", "name": "json_output"}
    assert encoded_body({"response_format": FORMAT, "tools": [WEATHER]}, structured="tool")["tool_choice"] == {
        "type": "any"
    }
    assert '"minimum": 1' in encoded_body({"response_format": FORMAT}, structured="prompt")["system"]
    assert dropped({"response_format": FORMAT}, structured="none") == {"response_format"}
    assert encoded_body({"response_format": {"type": "json_object"}})["system"] == "Respond with one JSON object only."


def test_a_schema_moves_unsupported_members_to_the_description() -> None:
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
    assert encoded_body({"messages": [{"role": "user", "content": parts}]})["messages"][0]["content"] == [
        {"type": "document", "title": "a.txt", "source": {"type": "text", "media_type": "text/plain", "data": "Hello"}},
        {"type": "document", "source": {"type": "file", "file_id": "file_1"}},
    ]
    for data in ("data:application/zip;base64,AA==", "data:text/plain;base64,/w==", "data:text/plain;base64,A"):
        refusal({"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_data": data}}]}]})


@pytest.mark.parametrize("url", ["data:image/PNG;base64,AAAA", "DATA:Image/png;base64,AAAA"])
def test_media_types_ignore_case(url: str) -> None:
    part = {"type": "image_url", "image_url": {"url": url}}
    body = encoded_body({"messages": [{"role": "user", "content": [part]}]})["messages"][0]["content"][0]
    assert body["source"] == {"type": "base64", "media_type": "image/png", "data": "AAAA"}
    file = {"type": "file", "file": {"file_data": "AAAA", "format": "Application/PDF"}}
    body = encoded_body({"messages": [{"role": "user", "content": [file]}]})["messages"][0]["content"][0]
    assert body["source"]["media_type"] == "application/pdf"


def test_the_first_cache_marks_beyond_four_are_removed() -> None:
    marked = {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}
    body = encoded_body(
        {"messages": [{"role": "system", "content": [marked]}, {"role": "user", "content": [marked] * 4}]}
    )
    assert body["system"] == "a" or "cache_control" not in body["system"][0]
    assert all("cache_control" in part for part in body["messages"][0]["content"])


@pytest.mark.parametrize(
    ("fields", "missed"),
    [
        ({"logprobs": 0}, ("logprobs",)),
        ({"logprobs": 3, "echo": True, "suffix": "s"}, ("suffix", "echo", "logprobs")),
        ({"best_of": 2}, ("best_of",)),
        ({"best_of": 3, "n": 2}, ("best_of",)),
        ({"best_of": 2, "n": 2}, ()),
        ({"best_of": 1, "echo": False, "suffix": "", "logprobs": None}, ()),
    ],
)
def test_only_set_fields_of_a_completion_are_named_as_dropped(fields: dict[str, Any], missed: tuple[str, ...]) -> None:
    encoded = orjson.dumps({"model": "alias-1", "prompt": "Once", **fields})
    dialect = openai_completions.DIALECT
    assert dialect.unsupported_fields(dialect.decode(encoded, Hints())) == missed


def test_fields_of_completions_only_are_named_as_dropped() -> None:
    raw = orjson.dumps({"model": "alias-1", "prompt": "Once", "suffix": "end", "echo": True, "logprobs": 2})
    completion = openai_completions.DIALECT.decode(raw, Hints())
    request = PROVIDER.request(completion, target(), NOW)
    assert request.dropped == ("suffix", "echo", "logprobs")
    assert orjson.loads(request.body).keys() == {"model", "max_tokens", "messages"}
    with pytest.raises(BadRequest) as caught:
        PROVIDER.request(completion, target({"on_unsupported": "error"}), NOW)
    assert (caught.value.param, caught.value.code) == ("suffix", "unsupported_parameter")
