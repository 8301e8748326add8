"""Requests to Converse, which botocore validates."""

import json
from dataclasses import replace
from typing import Any

import orjson
import pytest

from gateway.protocol.attempt_context import Fetched
from gateway.protocol.dialects.bedrock import upstream_request as bedrock_request
from gateway.protocol.errors import BadRequest
from gateway.protocol.events import Finished, ToolArgumentsDelta, ToolCallStarted
from gateway.providers.bedrock import PROVIDER
from tests.fakes.bedrock import (
    CALLED,
    END,
    HI,
    NOVA,
    PNG,
    PROFILE,
    RESULT,
    START,
    WEATHER,
    block_stop,
    chat,
    delta,
    dropped,
    embedding,
    encode,
    read,
    stop,
    stream,
    target,
    text_of,
    tool_start,
    whole,
)
from tests.fakes.memory import decode
from tests.fakes.provider_cases import MOMENT

# Messages


def test_results_stand_first_and_missing_ones_are_added() -> None:
    two = {
        "role": "assistant",
        "content": "Let me see. ",
        "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "weather", "arguments": ""}},
            {"id": "b", "type": "function", "function": {"name": "weather", "arguments": "not json"}},
        ],
    }
    messages = [*HI, two, {"role": "tool", "tool_call_id": "b", "content": " "}, {"role": "user", "content": "And?"}]
    body = encode(chat(messages, tools=[WEATHER]))
    assert body["messages"][1:] == [
        {
            "role": "assistant",
            "content": [
                {"text": "Let me see. "},
                {"toolUse": {"toolUseId": "a", "name": "weather", "input": {}}},
                {"toolUse": {"toolUseId": "b", "name": "weather", "input": {"_raw": "not json"}}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"toolResult": {"toolUseId": "b", "content": [{"text": "(empty)"}]}},
                {"toolResult": {"toolUseId": "a", "content": [{"text": "no result"}], "status": "error"}},
                {"text": "And?"},
            ],
        },
    ]


def test_a_conversation_that_ends_with_calls_gets_their_results() -> None:
    body = encode(chat([*HI, CALLED]))
    assert body["messages"][-1]["role"] == "user"
    assert body["messages"][-1]["content"][0]["toolResult"]["toolUseId"] == "call_1"


def test_tools_of_the_history_are_declared() -> None:
    body = encode(chat([*HI, CALLED, RESULT]))
    assert body["toolConfig"] == {
        "tools": [
            {
                "toolSpec": {
                    "name": "weather",
                    "description": "weather",
                    "inputSchema": {"json": {"type": "object", "properties": {}}},
                }
            }
        ]
    }
    orphan = encode(chat([*HI, RESULT]))
    assert orphan["messages"] == [{"role": "user", "content": [{"text": "Hi"}, {"text": "Rain"}]}]
    assert "toolConfig" not in orphan


def test_choice_none_with_tools_in_the_history_is_an_instruction() -> None:
    body = encode(
        chat([{"role": "system", "content": "Be kind."}, *HI, CALLED, RESULT], tools=[WEATHER], tool_choice="none")
    )
    assert body["system"] == [{"text": "Do not call tools."}, {"text": "Be kind."}]
    assert body["toolConfig"].keys() == {"tools"}


def test_invalid_ids_map_to_stable_ones() -> None:
    call_ids = "call/1 " + "x" * 80
    called = {**CALLED, "tool_calls": [{**CALLED["tool_calls"][0], "id": call_ids}]}
    body = encode(chat([*HI, called, {**RESULT, "tool_call_id": call_ids}], tools=[WEATHER]))
    use, result = body["messages"][1]["content"][0]["toolUse"], body["messages"][2]["content"][0]["toolResult"]
    assert use["toolUseId"] == result["toolUseId"]
    assert bedrock_request.TOOL_ID.fullmatch(use["toolUseId"])
    again = encode(chat([*HI, called, {**RESULT, "tool_call_id": call_ids}, *HI], tools=[WEATHER]))
    assert again["messages"][1] == body["messages"][1]
    assert len(body["messages"][2]["content"]) == 1


def test_numbers_in_arguments_keep_their_digits() -> None:
    arguments = '{"n": 123456789012345678901234567890, "f": 1.10}'
    called = {
        "role": "assistant",
        "tool_calls": [{"id": "a", "type": "function", "function": {"name": "w", "arguments": arguments}}],
    }
    request = PROVIDER.request(chat([*HI, called, {**RESULT, "tool_call_id": "a"}]), target(), MOMENT)
    assert arguments.encode() in request.body


def test_system_messages() -> None:
    messages = [
        {"role": "system", "content": "One"},
        {"role": "developer", "content": [{"type": "text", "text": "Two"}]},
    ]
    late = {"role": "system", "content": "Three"}
    body = encode(chat([*messages, *HI, late]))
    assert body["system"] == [{"text": "One"}, {"text": "Two"}]
    assert body["messages"] == [{"role": "user", "content": [{"text": "Hi"}, {"text": "<system>Three</system>"}]}]
    with_role = encode(chat([*HI, late, *HI]), target(flags={"system_role": True}))
    assert [message["role"] for message in with_role["messages"]] == ["user", "system", "user"]
    only = encode(chat([late]))
    assert only["messages"] == [{"role": "user", "content": [{"text": "."}]}]
    with pytest.raises(BadRequest):
        encode(chat([{"role": "system", "content": [image(f"data:image/png;base64,{PNG}")]}, *HI]))


def test_blank_text_is_left_out() -> None:
    body = encode(chat([{"role": "user", "content": " \n"}, {"role": "assistant", "content": ""}, *HI]))
    assert [message["content"] for message in body["messages"]] == [[{"text": "."}], [{"text": "."}], [{"text": "Hi"}]]


def test_a_last_assistant_message_needs_a_model_that_continues_it() -> None:
    messages = [*HI, {"role": "assistant", "content": "Well, \n"}]
    with pytest.raises(BadRequest) as refused:
        encode(chat(messages), target(flags={"prefill": False}))
    assert refused.value.param == "messages"
    body = encode(chat(messages), target(flags={"prefill": True}))
    assert body["messages"][-1]["content"] == [{"text": "Well,"}]
    first = encode(chat([{"role": "assistant", "content": "Hello"}, *HI]))
    assert first["messages"][0] == {"role": "user", "content": [{"text": "."}]}


def test_reasoning_goes_back_unchanged() -> None:
    blocks = [
        {"type": "thinking", "thinking": "Hm", "signature": "sig"},
        {"type": "redacted_thinking", "data": "aGk="},
        {"type": "thinking", "thinking": "nobody signed this"},
    ]
    body = encode(chat([*HI, {**CALLED, "thinking_blocks": blocks}, RESULT], tools=[WEATHER]))
    assert body["messages"][1]["content"][:-1] == [
        {"reasoningContent": {"reasoningText": {"text": "Hm", "signature": "sig"}}},
        {"reasoningContent": {"redactedContent": "aGk="}},
    ]


# Media


def image(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def user(*parts: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(parts)}]


@pytest.mark.parametrize(
    ("kind", "form"), [("png", "png"), ("jpeg", "jpeg"), ("jpg", "jpeg"), ("gif", "gif"), ("webp", "webp")]
)
def test_images(kind: str, form: str) -> None:
    body = encode(chat(user(image(f"data:image/{kind};base64,{PNG}"))))
    assert body["messages"][0]["content"] == [{"image": {"format": form, "source": {"bytes": PNG}}}]


def test_images_at_an_address_are_fetched() -> None:
    call = chat([*user(image("https://a.test/x"), image("https://a.test/x"), image("http://b.test/y")), CALLED, RESULT])
    assert PROVIDER.media(call, target()) == ("https://a.test/x", "http://b.test/y")
    assert PROVIDER.media(embedding("a"), target()) == ()
    with pytest.raises(BadRequest):
        encode(call)
    fetched = {
        "https://a.test/x": Fetched("image/jpeg; charset=binary", "YQ=="),
        "http://b.test/y": Fetched("image/webp", "Yg=="),
    }
    body = encode(call, context=replace(MOMENT, fetched=fetched))
    formats = [block["image"]["format"] for block in body["messages"][0]["content"]]
    assert formats == ["jpeg", "jpeg", "webp"]


@pytest.mark.parametrize(
    ("part", "flags"),
    [
        (image("s3://bucket/secret.png"), {}),
        (image("file:///etc/passwd"), {}),
        (image(f"data:image/tiff;base64,{PNG}"), {}),
        (image(f"data:image/png;base64,{PNG}"), {"vision": False}),
        ({"type": "input_audio", "input_audio": {"data": "YQ==", "format": "mp3"}}, {"audio": False}),
        ({"type": "file", "file": {"file_id": "file-1"}}, {}),
        ({"type": "file", "file": {"filename": "a.bin", "file_data": "data:application/octet-stream;base64,YQ=="}}, {}),
    ],
)
def test_unsupported_media_are_refused(part: dict[str, Any], flags: dict[str, Any]) -> None:
    with pytest.raises(BadRequest) as refused:
        encode(chat(user(part)), target(flags=flags))
    assert refused.value.param == "messages"


def test_documents_and_audio() -> None:
    pdf = {"type": "file", "file": {"filename": "Q3 (final).pdf", "file_data": "data:application/pdf;base64,YQ=="}}
    text = {"type": "file", "file": {"filename": "x", "file_data": "data:text/x-log;base64,Yg=="}}
    sheet = {"type": "file", "file": {"filename": "x.XLSX", "file_data": "Yw=="}}
    audio = {"type": "input_audio", "input_audio": {"data": "ZA==", "format": "mp3"}}
    body = encode(chat(user(pdf, text, sheet, audio)))
    assert body["messages"][0]["content"] == [
        {"document": {"format": "pdf", "name": "file-1", "source": {"bytes": "YQ=="}}},
        {"document": {"format": "txt", "name": "file-2", "source": {"bytes": "Yg=="}}},
        {"document": {"format": "xlsx", "name": "file-3", "source": {"bytes": "Yw=="}}},
        {"audio": {"format": "mp3", "source": {"bytes": "ZA=="}}},
        {"text": "."},
    ]


# Parameters


@pytest.mark.parametrize(
    ("sampling", "fields", "expected", "names"),
    [
        ("full", {"temperature": 1.8, "top_p": 0.5}, {"temperature": 1, "topP": 0.5}, ()),
        ("one_of", {"temperature": 0, "top_p": 0.5}, {"temperature": 0}, ("top_p",)),
        ("one_of", {"top_p": 0.5}, {"topP": 0.5}, ()),
        ("none", {"temperature": 1, "top_p": 0.5, "top_k": 3}, None, ("temperature", "top_p", "top_k")),
    ],
)
def test_sampling(sampling: str, fields: dict[str, Any], expected: Any, names: tuple[str, ...]) -> None:
    where = target(flags={"sampling": sampling})
    assert encode(chat(**fields), where).get("inferenceConfig") == expected
    assert dropped(chat(**fields), where) == names


def test_unsupported_parameters_are_named_or_refused() -> None:
    call = chat(
        n=2, seed=0, logprobs=True, logit_bias={"1": 2}, user="u", verbosity="low", presence_penalty=1, stop=["a", "\n"]
    )
    assert set(dropped(call)) == {
        "n",
        "seed",
        "logprobs",
        "logit_bias",
        "user",
        "verbosity",
        "presence_penalty",
        "stop",
    }
    for name, value in (("seed", 1), ("n", 2)):
        with pytest.raises(BadRequest) as refused:
            encode(chat(**{name: value}), target(flags={"on_unsupported": "error"}))
        assert (refused.value.param, refused.value.code) == (name, "unsupported_parameter")
    assert dropped(chat(n=1, temperature=0.5)) == ()
    assert dropped(chat(user="u", service_tier="scale"), target(flags={"on_unsupported": "error"})) == (
        "service_tier",
        "user",
    )


def test_limits() -> None:
    assert encode(chat(max_tokens=9000), target(flags={"max_output_tokens": 8000}))["inferenceConfig"] == {
        "maxTokens": 8000
    }
    assert "inferenceConfig" not in encode(chat())


def test_top_k_by_family() -> None:
    assert encode(chat(top_k=5), target(flags={"sampling": "full"}))["additionalModelRequestFields"] == {"top_k": 5}
    assert encode(chat(top_k=5), target(NOVA))["additionalModelRequestFields"] == {"inferenceConfig": {"topK": 5}}
    assert dropped(chat(top_k=5), target("meta.llama3-1-8b-instruct-v1:0")) == ("top_k",)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("auto", {"auto": {}}),
        ("required", {"any": {}}),
        ({"type": "function", "function": {"name": "weather"}}, {"tool": {"name": "weather"}}),
    ],
)
def test_tool_choice(choice: Any, expected: Any) -> None:
    assert encode(chat(tools=[WEATHER], tool_choice=choice))["toolConfig"]["toolChoice"] == expected
    assert "toolConfig" not in encode(chat(tool_choice="auto"))


def test_allowed_tools() -> None:
    other = {"type": "function", "function": {"name": "other"}}
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [other]}}
    config = encode(chat(tools=[WEATHER, other], tool_choice=allowed))["toolConfig"]
    assert [tool["toolSpec"]["name"] for tool in config["tools"]] == ["other"]
    assert config["toolChoice"] == {"any": {}}


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, {"type": "auto"}),
        ("auto", {"type": "auto"}),
        ("required", {"type": "any"}),
        ({"type": "function", "function": {"name": "weather"}}, {"type": "tool", "name": "weather"}),
    ],
)
def test_single_calls_use_claudes_field_for_the_whole_choice(choice: Any, expected: Any) -> None:
    body = encode(chat(tools=[WEATHER], tool_choice=choice, parallel_tool_calls=False))
    assert body["additionalModelRequestFields"] == {"tool_choice": {**expected, "disable_parallel_tool_use": True}}
    assert "toolChoice" not in body["toolConfig"]
    assert dropped(chat(tools=[WEATHER], parallel_tool_calls=False), target(NOVA)) == ("parallel_tool_calls",)
    assert "additionalModelRequestFields" not in encode(chat(parallel_tool_calls=False))


def test_strict_tools_need_structured_output() -> None:
    strict = {"type": "function", "function": {**WEATHER["function"], "strict": True}}  # type: ignore[dict-item]
    assert encode(chat(tools=[strict]))["toolConfig"]["tools"][0]["toolSpec"]["strict"] is True
    loose = encode(chat(tools=[strict]), target(flags={"structured": "tool"}))
    assert "strict" not in loose["toolConfig"]["tools"][0]["toolSpec"]


def test_custom_tools_wrap_their_text_in_an_object() -> None:
    custom = {"type": "custom", "custom": {"name": "shell", "description": "Runs"}}
    called = {
        "role": "assistant",
        "tool_calls": [{"id": "a", "type": "custom", "custom": {"name": "shell", "input": "ls"}}],
    }
    call = chat([*HI, called, {**RESULT, "tool_call_id": "a"}], tools=[custom])
    body = encode(call)
    assert body["messages"][1]["content"][0]["toolUse"]["input"] == {"input": "ls"}
    assert body["toolConfig"]["tools"][0]["toolSpec"]["inputSchema"]["json"]["required"] == ["input"]
    events = [
        START,
        tool_start(0, "t", "shell"),
        delta(toolUse={"input": '{"inp'}),
        delta(toolUse={"input": 'ut":"pwd"}'}),
    ]
    decoded = read(stream(*events, block_stop(), stop("tool_use"), END), custom_tools=frozenset({"shell"}))
    assert decoded[1:3] == [ToolCallStarted(0, "t", "shell", kind="custom"), ToolArgumentsDelta(0, "pwd")]


SCHEMA = {
    "type": "object",
    "properties": {
        "a": {"type": "object", "properties": {"properties": {"type": ["object", "null"]}}},
        "type": {"enum": [{"properties": 1}]},
    },
    "$defs": {"x": {"type": "array", "items": {"type": "object"}}},
}


def response_format(schema: Any = SCHEMA) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "thing", "schema": schema, "strict": True}}


def test_a_schema_is_sent_as_text_with_closed_objects() -> None:
    body = encode(chat(response_format=response_format()))
    text = body["outputConfig"]["textFormat"]
    assert (text["type"], text["structure"]["jsonSchema"]["name"]) == ("json_schema", "thing")
    assert json.loads(text["structure"]["jsonSchema"]["schema"]) == {
        "type": "object",
        "properties": {
            "a": {
                "type": "object",
                "properties": {"properties": {"type": ["object", "null"], "additionalProperties": False}},
                "additionalProperties": False,
            },
            "type": {"enum": [{"properties": 1}]},
        },
        "$defs": {"x": {"type": "array", "items": {"type": "object", "additionalProperties": False}}},
        "additionalProperties": False,
    }


def test_the_answer_tools_input_becomes_text() -> None:
    where = target(flags={"structured": "tool"})
    call = chat(response_format=response_format())
    config = encode(call, where)["toolConfig"]
    assert config["toolChoice"] == {"tool": {"name": bedrock_request.ANSWER_TOOL}}
    beside = encode(chat(response_format=response_format(), tools=[WEATHER]), where)["toolConfig"]
    assert beside["toolChoice"] == {"any": {}}
    assert [tool["toolSpec"]["name"] for tool in beside["tools"]] == ["weather", bedrock_request.ANSWER_TOOL]
    use = {"toolUse": {"toolUseId": "t", "name": bedrock_request.ANSWER_TOOL, "input": {"a": 1}}}
    answer = whole([use], "tool_use")
    client_answer = orjson.loads(PROVIDER.relay_body(call, where, MOMENT, answer, {})[0])
    assert client_answer["choices"][0]["message"]["content"] == '{"a":1}'
    assert client_answer["choices"][0]["finish_reason"] == "stop"
    streamed = [
        START,
        tool_start(0, "t", bedrock_request.ANSWER_TOOL),
        delta(toolUse={"input": '{"a":'}),
        delta(toolUse={"input": "1}"}),
    ]
    events = read(stream(*streamed, block_stop(), stop("tool_use"), END), answer_tool=bedrock_request.ANSWER_TOOL)
    assert text_of(events) == '{"a":1}'
    assert Finished("stop") in events
    relay = PROVIDER.relay(replace(call, stream=True), where, MOMENT)
    assert relay.feed(stream(*streamed)).count(b'"content"') == 2


def test_a_schema_as_instruction_and_json_mode() -> None:
    prompt = encode(chat(response_format=response_format()), target(flags={"structured": "prompt"}))
    assert prompt["system"][0]["text"].startswith("Respond with one JSON object only. It must follow")
    assert encode(chat(response_format={"type": "json_object"}))["system"] == [
        {"text": "Respond with one JSON object only."}
    ]
    assert dropped(chat(response_format=response_format()), target(flags={"structured": "none"})) == (
        "response_format",
    )


@pytest.mark.parametrize(
    ("model", "how"),
    [
        ("anthropic.claude-3-5-sonnet-20241022-v2:0", "tool"),
        ("us.anthropic.claude-3-7-sonnet-20250219-v1:0", "tool"),
        ("us.anthropic.claude-opus-4-20250514-v1:0", "tool"),
        ("us.anthropic.claude-sonnet-4-20250514-v1:0", "tool"),
        ("us.anthropic.claude-opus-4-1-20250805-v1:0", "native"),
        ("eu.anthropic.claude-sonnet-4-5-20250929-v1:0", "native"),
        ("global.anthropic.claude-haiku-4-5-20251001-v1:0", "native"),
        ("us.anthropic.claude-opus-4-6-v1", "native"),
        ("eu.anthropic.claude-opus-4-7", "tool"),
        ("us.anthropic.claude-sonnet-5", "tool"),
        (NOVA, "tool"),
        ("amazon.nova-pro-v1:0", "tool"),
        ("us.meta.llama4-scout-17b-instruct-v1:0", "prompt"),
        ("us.meta.llama3-3-70b-instruct-v1:0", "prompt"),
    ],
)
def test_each_model_gets_a_schema_its_way(model: str, how: str) -> None:
    body = encode(chat(response_format=response_format()), target(model))
    names = [tool["toolSpec"]["name"] for tool in body.get("toolConfig", {}).get("tools", ())]
    assert ("outputConfig" in body) == (how == "native")
    assert names == ([bedrock_request.ANSWER_TOOL] if how == "tool" else [])
    assert ("system" in body) == (how == "prompt")


# What each family is offered


LLAMA = "us.meta.llama3-3-70b-instruct-v1:0"
OLD_LLAMA = "meta.llama3-8b-instruct-v1:0"


@pytest.mark.parametrize("model", [OLD_LLAMA, "us.meta.llama3-2-3b-instruct-v1:0"])
def test_a_model_without_tools_refuses_them(model: str) -> None:
    for call in (chat(tools=[WEATHER]), chat([*HI, CALLED, RESULT])):
        with pytest.raises(BadRequest) as refused:
            encode(call, target(model))
        assert (refused.value.param, refused.value.code) == ("tools", "unsupported_parameter")
    assert "toolConfig" not in encode(chat(tools=[WEATHER], tool_choice="none"), target(model))


def test_a_tool_choice_unknown_to_llama_is_dropped() -> None:
    other = {"type": "function", "function": {"name": "clock"}}
    forced = chat(tools=[WEATHER, other], tool_choice="required")
    named = chat(tools=[WEATHER, other], tool_choice={"type": "function", "function": {"name": "clock"}})
    for call, names in ((forced, ["weather", "clock"]), (named, ["clock"])):
        config = encode(call, target(LLAMA))["toolConfig"]
        assert "toolChoice" not in config
        assert [tool["toolSpec"]["name"] for tool in config["tools"]] == names
        assert dropped(call, target(LLAMA)) == ("tool_choice",)
    assert encode(chat(tools=[WEATHER], tool_choice="auto"), target(LLAMA))["toolConfig"]["toolChoice"] == {"auto": {}}
    assert encode(forced, target(NOVA))["toolConfig"]["toolChoice"] == {"any": {}}
    assert encode(named, target(NOVA))["toolConfig"]["toolChoice"] == {"tool": {"name": "clock"}}


@pytest.mark.parametrize(
    ("model", "images", "documents"),
    [
        ("amazon.nova-micro-v1:0", False, False),
        ("amazon.nova-lite-v1:0", True, True),
        (LLAMA, False, True),
        ("us.meta.llama3-2-90b-instruct-v1:0", True, True),
        ("us.meta.llama4-maverick-17b-instruct-v1:0", True, True),
    ],
)
def test_images_and_documents_need_a_model_that_reads_them(model: str, images: bool, documents: bool) -> None:
    picture = image(f"data:image/png;base64,{PNG}")
    paper = {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,YQ=="}}
    for part, is_read in ((picture, images), (paper, documents)):
        call = chat(user({"type": "text", "text": "See"}, part))
        if is_read:
            assert len(encode(call, target(model))["messages"][0]["content"]) == 2
        else:
            with pytest.raises(BadRequest) as refused:
                encode(call, target(model))
            assert (refused.value.param, refused.value.code) == ("messages", "unsupported_parameter")


@pytest.mark.parametrize("model", [NOVA, LLAMA])
def test_nova_and_llama_take_no_audio(model: str) -> None:
    part = {"type": "input_audio", "input_audio": {"format": "wav", "data": "YQ=="}}
    with pytest.raises(BadRequest):
        encode(chat(user(part)), target(model))


def test_a_system_prompt_reaches_nova_and_llama() -> None:
    for model in (NOVA, LLAMA, OLD_LLAMA):
        body = encode(chat([{"role": "system", "content": "Be terse."}, *HI]), target(model))
        assert body["system"] == [{"text": "Be terse."}]


def test_limits_and_stop_sequences_by_family() -> None:
    assert encode(chat(max_tokens=9000), target(OLD_LLAMA))["inferenceConfig"] == {"maxTokens": 2048}
    assert encode(chat(max_tokens=9000), target(LLAMA))["inferenceConfig"] == {"maxTokens": 9000}
    for model in ("openai.gpt-oss-120b-1:0", "qwen.qwen3-32b-v1:0"):
        assert dropped(chat(stop="END"), target(model)) == ("stop",)
        assert "inferenceConfig" not in encode(chat(stop="END"), target(model))


def test_flags_of_a_deployment_win_over_the_models_name() -> None:
    where = target(NOVA, flags={"structured": "native", "thinking": "none"})
    assert "outputConfig" in encode(chat(response_format=response_format()), where)
    assert dropped(chat(reasoning_effort="low"), where) == ("reasoning_effort",)
    assert encode(chat(reasoning_effort="low"), target(NOVA))["additionalModelRequestFields"] == {
        "reasoningConfig": {"type": "enabled", "maxReasoningEffort": "low"}
    }


# Reasoning


@pytest.mark.parametrize(
    ("fields", "thinking", "limit"),
    [
        ({"reasoning_effort": "low", "max_tokens": 5000}, {"type": "enabled", "budget_tokens": 1024}, 5000),
        ({"reasoning_effort": "high", "max_tokens": 2000}, {"type": "enabled", "budget_tokens": 1999}, 2000),
        ({"reasoning_effort": "max"}, {"type": "enabled", "budget_tokens": 16384}, 16384 + 4096),
        ({"reasoning_effort": "none", "max_tokens": 2000}, None, 2000),
        ({"reasoning_effort": "high", "max_tokens": 1024}, None, 1024),
        (
            {"thinking": {"type": "enabled", "budget_tokens": 3000}, "reasoning_effort": "low"},
            {"type": "enabled", "budget_tokens": 3000},
            7096,
        ),
        ({"thinking": {"type": "disabled"}, "reasoning_effort": "low", "max_tokens": 9}, None, 9),
    ],
)
def test_thinking_by_budget(fields: dict[str, Any], thinking: Any, limit: int) -> None:
    body = encode(chat(**fields), target(flags={"thinking": "budget"}))
    assert body.get("additionalModelRequestFields", {}).get("thinking") == thinking
    assert body["inferenceConfig"]["maxTokens"] == limit


def test_sampling_that_thinking_excludes_is_dropped() -> None:
    where = target(flags={"thinking": "budget", "sampling": "full"})
    call = chat(reasoning_effort="low", temperature=0.5, top_p=0.9, top_k=4)
    body = encode(call, where)
    assert body["inferenceConfig"].keys() == {"maxTokens"}
    assert body["additionalModelRequestFields"].keys() == {"thinking"}
    assert dropped(call, where) == ("temperature", "top_k", "top_p")
    assert encode(chat(reasoning_effort="low", top_p=0.97), where)["inferenceConfig"]["topP"] == 0.97


def test_thinking_is_dropped_where_bedrock_refuses_it() -> None:
    where = target(flags={"thinking": "budget"})
    assert dropped(chat(reasoning_effort="low", tools=[WEATHER], tool_choice="required"), where) == (
        "reasoning_effort",
    )
    open_turn = [*HI, CALLED, RESULT]
    assert dropped(chat(open_turn, reasoning_effort="low", tools=[WEATHER]), where) == ("reasoning_effort",)
    signed = {**CALLED, "thinking_blocks": [{"type": "thinking", "thinking": "Hm", "signature": "s"}]}
    for messages in ([*HI, signed, RESULT], [*open_turn, *HI]):
        assert (
            "thinking"
            in encode(chat(messages, reasoning_effort="low", tools=[WEATHER]), where)["additionalModelRequestFields"]
        )
    assert dropped(chat(reasoning_effort="low"), target("meta.llama3-1-8b-instruct-v1:0")) == ("reasoning_effort",)
    assert dropped(chat(reasoning_effort="huge"), target(flags={"thinking": "adaptive"})) == ("reasoning_effort",)
    forced = encode(chat(reasoning_effort="low", tools=[WEATHER], tool_choice="required"), where)
    assert "inferenceConfig" not in forced


def test_adaptive_thinking() -> None:
    where = target(flags={"thinking": "adaptive", "sampling": "none"})
    body = encode(chat(reasoning_effort="minimal"), where)
    assert body["additionalModelRequestFields"] == {"thinking": {"type": "adaptive"}}
    assert body["outputConfig"] == {"effort": "low"}
    off = encode(chat(reasoning_effort="none"), where)
    assert off["additionalModelRequestFields"] == {"thinking": {"type": "disabled"}}
    assert "outputConfig" not in off


def test_levels() -> None:
    where = target(NOVA, flags={"thinking": "level"})
    low = encode(chat(reasoning_effort="minimal", max_tokens=50), where)
    assert low["additionalModelRequestFields"] == {"reasoningConfig": {"type": "enabled", "maxReasoningEffort": "low"}}
    assert low["inferenceConfig"] == {"maxTokens": 50}
    high = chat(reasoning_effort="xhigh", max_tokens=50, temperature=0.5)
    assert "inferenceConfig" not in encode(high, where)
    assert dropped(high, where) == ("temperature", "max_tokens")
    other = encode(chat(reasoning_effort="high"), target("openai.gpt-oss-120b-1:0", flags={"thinking": "level"}))
    assert other["additionalModelRequestFields"] == {"reasoning_effort": "high"}


# Caching


def test_cache_points_follow_their_blocks() -> None:
    mark = {"type": "ephemeral"}
    hour = {"type": "ephemeral", "ttl": "1h"}
    messages = [
        {"role": "system", "content": [{"type": "text", "text": "Long", "cache_control": hour}]},
        {"role": "user", "content": [{"type": "text", "text": "Q", "cache_control": mark}]},
        CALLED,
        {**RESULT, "cache_control": mark},
    ]
    body = encode(chat(messages, tools=[{**WEATHER, "cache_control": mark}]))
    point = {"cachePoint": {"type": "default"}}
    assert body["system"] == [{"text": "Long"}, {"cachePoint": {"type": "default", "ttl": "1h"}}]
    assert body["messages"][0]["content"] == [{"text": "Q"}, point]
    assert body["messages"][2]["content"][1] == point
    assert body["toolConfig"]["tools"][1] == point
    nova = encode(chat(messages, tools=[{**WEATHER, "cache_control": mark}]), target(NOVA))
    assert nova["system"][1] == point
    assert len(nova["toolConfig"]["tools"]) == 1
    assert dropped(chat(messages), target("meta.llama3-1-8b-instruct-v1:0")) == ("cache_control",)
    assert "cachePoint" in json.dumps(encode(chat(messages), target(PROFILE)))


def test_the_first_cache_points_beyond_the_limit_are_removed() -> None:
    mark = {"type": "ephemeral"}
    parts = [{"type": "text", "text": str(number), "cache_control": mark} for number in range(5)]
    messages = [{"role": "system", "content": [{"type": "text", "text": "S", "cache_control": mark}]}, *user(*parts)]
    body = encode(chat(messages, cache_control=mark))
    assert body["system"][1] == {"cachePoint": {"type": "default"}}
    kinds = ["c" if "cachePoint" in block else block["text"] for block in body["messages"][0]["content"]]
    assert kinds == ["0", "1", "2", "3", "c", "4", "c", "c"]


# What a deployment and a client may add


def test_parameters_of_the_deployment() -> None:
    parameters = {
        "temperature": 0.25,
        "max_completion_tokens": 7,
        "stop": ["X"],
        "guardrailConfig": {"guardrailIdentifier": "g1", "guardrailVersion": "1"},
        "performance_config": {"latency": "optimized"},
        "aws_session_name": "r",
        "anthropic_beta": ["b1"],
    }
    body = encode(chat(temperature=0.5), target(parameters=parameters))
    assert body["inferenceConfig"] == {"temperature": 0.5, "maxTokens": 7, "stopSequences": ["X"]}
    assert body["guardrailConfig"]["guardrailIdentifier"] == "g1"
    assert body["performanceConfig"] == {"latency": "optimized"}
    assert body["additionalModelRequestFields"] == {"anthropic_beta": ["b1"]}


def test_a_client_may_set_model_fields_and_metadata_only() -> None:
    extra = {"additionalModelRequestFields": {"x": 1}, "requestMetadata": {"a": "b"}}
    body = encode(chat(bedrock=extra))
    assert (body["additionalModelRequestFields"], body["requestMetadata"]) == ({"x": 1}, {"a": "b"})
    for value in ({"guardrailConfig": {}}, {"requestMetadata": 1}, "x"):
        with pytest.raises(BadRequest) as refused:
            encode(chat(bedrock=value))
        assert refused.value.param == "bedrock"


def test_service_tiers() -> None:
    assert encode(chat(service_tier="priority"))["serviceTier"] == {"type": "priority"}
    assert "serviceTier" not in encode(chat(service_tier="auto"))
    assert dropped(chat(service_tier="scale")) == ("service_tier",)


def test_refused_parameters_are_left_out() -> None:
    where = target(flags={"sampling": "full"}, unsupported_parameters=frozenset({"temperature", "seed"}))
    assert encode(chat(temperature=0.5, top_p=0.5), where)["inferenceConfig"] == {"topP": 0.5}
    assert dropped(chat(temperature=0.5), where) == ("temperature",)


@pytest.mark.parametrize("fields", [{"reasoning_content": "hm"}, {"thinking_blocks": [{"thinking": "hm"}]}])
def test_unsigned_thoughts_are_dropped_and_thinking_stays_off(fields: dict[str, Any]) -> None:
    messages = [*HI, {**CALLED, **fields}, RESULT]
    body = encode(chat(messages, tools=[WEATHER], reasoning_effort="low"), target(flags={"thinking": "budget"}))
    assert [block.keys() for block in body["messages"][1]["content"]] == [{"toolUse"}]
    assert "thinking" not in body.get("additionalModelRequestFields", {})


def test_fields_of_completions_only_are_named_as_dropped() -> None:
    call = decode({"model": "alias-1", "prompt": "Once", "suffix": "end", "echo": True, "best_of": 2}, "completion")
    assert encode(call).keys() == {"messages"}
    assert dropped(call) == ("suffix", "echo", "best_of")
    with pytest.raises(BadRequest) as caught:
        encode(call, target(flags={"on_unsupported": "error"}))
    assert caught.value.param == "suffix"


def test_completions_go_through_chat() -> None:
    call = decode({"model": "alias-1", "prompt": "Once"}, "completion")
    assert encode(call)["messages"] == [{"role": "user", "content": [{"text": "Once"}]}]
    answer = orjson.loads(PROVIDER.relay_body(call, target(), MOMENT, whole([{"text": "upon"}]), {})[0])
    assert (answer["object"], answer["choices"][0]["text"]) == ("text_completion", "upon")
