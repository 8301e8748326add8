"""A create request of the Responses API: every field's decision, and how the response object repeats it."""

import contextlib
import re
from itertools import count
from pathlib import Path
from typing import Any, get_args, get_type_hints

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import Response
from openai.types.responses.response_create_params import ResponseCreateParamsStreaming
from openai.types.responses.response_includable import ResponseIncludable
from openai.types.responses.response_input_item_param import ResponseInputItemParam
from openai.types.responses.tool_param import ToolParam

from gateway.protocol.dialect import Hints
from gateway.protocol.dialects.openai.wire import REDIRECTING
from gateway.protocol.dialects.responses.client_request import (
    KNOWN_FIELDS,
    ResponsesRequest,
    build_settings,
    decode,
    refuse_native_only,
    wants_reasoning_summary,
)
from gateway.protocol.dialects.responses.items import INCLUDABLE
from gateway.protocol.errors import BadRequest
from gateway.protocol.items import ChatRequest, OutputFormat, Tool, ToolChoice

DOCS = Path(__file__).resolve().parents[5] / "docs" / "dialects" / "responses.md"
SMALLEST = {"model": "m", "input": "Hi"}
FUNCTION = {"type": "function", "name": "f", "parameters": {"type": "object"}}
CUSTOM = {"type": "custom", "name": "c", "description": "d"}


def read_request(body: dict[str, Any], hints: Hints | None = None) -> ResponsesRequest:
    numbers = count(1)
    raw = orjson.dumps({**SMALLEST, **body})
    return decode(raw, hints or Hints(), lambda prefix: f"{prefix}{next(numbers)}")


def settings(body: dict[str, Any]) -> ChatRequest:
    return build_settings(read_request(body))


def refusal_of(body: dict[str, Any]) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        read_request(body)
    assert caught.value.status == 400
    return caught.value


def translation_refusal_of(body: dict[str, Any]) -> tuple[str | None, str | None]:
    request = read_request(body)
    with pytest.raises(BadRequest) as caught:
        refuse_native_only(request)
    return caught.value.code, caught.value.param


# Reading


def test_the_smallest_request_is_read_with_the_defaults() -> None:
    request = read_request({})
    assert (request.model, request.instructions, request.previous_response_id, request.conversation_id) == (
        *("m", "", "", ""),
    )
    assert (request.store, request.background, request.stream, request.truncates_automatically) == (
        True,
        False,
        False,
        False,
    )
    assert (request.include, request.metadata, request.ignored_fields, request.tags) == (frozenset(), {}, (), ())
    assert [item["id"] for item in request.input] == ["msg_1"]
    assert request.body == SMALLEST
    assert orjson.loads(request.raw) == SMALLEST
    assert build_settings(request) == ChatRequest(messages=())
    refuse_native_only(request)


def test_nulls_are_absent_fields() -> None:
    names = sorted(KNOWN_FIELDS - {"model", "input"})
    request = read_request(dict.fromkeys(names))
    assert request.echo == read_request({}).echo
    assert build_settings(request) == ChatRequest(messages=())
    refuse_native_only(request)


def test_fields_for_the_gateway_are_read() -> None:
    request = read_request(
        {
            "previous_response_id": "resp_1",
            "instructions": "Be brief.",
            "store": False,
            "stream": True,
            "stream_options": {"include_obfuscation": False, "include_usage": True},
            "include": ["reasoning.encrypted_content"],
            "metadata": {"a": "b"},
            "truncation": "auto",
        }
    )
    assert (request.previous_response_id, request.instructions) == ("resp_1", "Be brief.")
    assert (request.store, request.stream, request.truncates_automatically) == (False, True, True)
    assert request.include == {"reasoning.encrypted_content"}
    assert request.metadata == {"a": "b"}
    assert read_request({"conversation": "conv_1"}).conversation_id == "conv_1"
    assert read_request({"conversation": {"id": "conv_1"}}).conversation_id == "conv_1"
    assert read_request({"background": True}).background


@pytest.mark.parametrize("context", [{"previous_response_id": "r"}, {"conversation": "c"}, {"prompt": {"id": "p"}}])
def test_input_may_be_absent_only_where_there_is_something_to_go_on_from(context: dict[str, Any]) -> None:
    for nothing in ([], None):
        assert read_request({**context, "input": nothing}).input == ()
        fault = refusal_of({"input": nothing})
        assert (fault.param, fault.code) == ("input", "missing_required_parameter")


def test_a_model_is_required_for_routing() -> None:
    assert (refusal_of({"model": None}).param, refusal_of({"model": " "}).param) == ("model", "model")
    raw = orjson.dumps({"input": "Hi"})
    assert decode(raw, Hints(), lambda prefix: prefix, needs_model=False).model == ""


def test_headers_name_the_caller_first_and_metadata_stays_the_clients() -> None:
    body = {"user": "u", "safety_identifier": "s", "tags": ["t"], "metadata": {"tags": "mine", "session_id": "x"}}
    request = read_request({**body, "litellm_metadata": {"spend_logs_metadata": {"a": 1}}})
    assert (request.end_user, request.tags, request.spend_metadata) == ("u", ("t",), {"a": 1})
    assert request.metadata == {"tags": "mine", "session_id": "x"}
    assert request.ignored_fields == ()
    assert read_request({"safety_identifier": "s"}).end_user == "s"
    assert read_request(body, Hints(end_user="h", tags=("g",))).end_user == "h"


def test_an_ignored_field_is_named() -> None:
    body = {"of_next_year": 1, "nothing": None, "reasoning": {"mode": "pro", "context": "auto", "effort": "low"}}
    assert read_request(body).ignored_fields == ("of_next_year", "reasoning.context", "reasoning.mode")


# Refusals for every upstream


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"input": 1}, "input", "invalid_value"),
        ({"input": [{"role": "user", "content": [{"type": "?"}]}]}, "input[0].content[0].type", "invalid_value"),
        ({"instructions": ["x"]}, "instructions", "invalid_value"),
        ({"previous_response_id": 1}, "previous_response_id", "invalid_value"),
        ({"previous_response_id": ""}, "previous_response_id", "invalid_value"),
        ({"conversation": {}}, "conversation", "invalid_value"),
        ({"conversation": {"id": 1}}, "conversation", "invalid_value"),
        ({"conversation": []}, "conversation", "invalid_value"),
        (
            {"previous_response_id": "r", "conversation": "c"},
            "previous_response_id",
            "mutually_exclusive_parameters",
        ),
        ({"store": "no"}, "store", "invalid_value"),
        ({"background": 1}, "background", "invalid_value"),
        ({"background": True, "store": False}, "background", "invalid_value"),
        ({"stream": "yes"}, "stream", "invalid_value"),
        ({"stream_options": {}}, "stream_options", "invalid_value"),
        ({"stream": False, "stream_options": {}}, "stream_options", "invalid_value"),
        (
            {"stream": True, "stream_options": {"include_obfuscation": 1}},
            "stream_options.include_obfuscation",
            "invalid_value",
        ),
        ({"include": "x"}, "include", "invalid_value"),
        ({"include": ["reasoning.encrypted_content", "x"]}, "include[1]", "invalid_value"),
        ({"include": [[]]}, "include[0]", "invalid_value"),
        ({"max_output_tokens": 0}, "max_output_tokens", "invalid_value"),
        ({"max_output_tokens": 1.5}, "max_output_tokens", "invalid_value"),
        ({"temperature": 2.1}, "temperature", "invalid_value"),
        ({"top_p": True}, "top_p", "invalid_value"),
        ({"top_logprobs": 21}, "top_logprobs", "invalid_value"),
        ({"truncation": "maybe"}, "truncation", "invalid_value"),
        ({"metadata": []}, "metadata", "invalid_value"),
        ({"metadata": {str(number): "" for number in range(17)}}, "metadata", "invalid_value"),
        ({"metadata": {"k" * 65: ""}}, "metadata", "invalid_value"),
        ({"metadata": {"k\0": ""}}, "metadata", "invalid_value"),
        ({"metadata": {"k": "v" * 513}}, "metadata.k", "invalid_value"),
        ({"metadata": {"k": 1}}, "metadata.k", "invalid_value"),
        ({"metadata": {"k": None}}, "metadata.k", "invalid_value"),
        ({"text": "x"}, "text", "invalid_value"),
        ({"text": {"verbosity": 1}}, "text.verbosity", "invalid_value"),
        ({"text": {"format": "json"}}, "text.format", "invalid_value"),
        ({"text": {"format": {}}}, "text.format.type", "missing_required_parameter"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type", "invalid_value"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format.name", "missing_required_parameter"),
        ({"text": {"format": {"type": "json_schema", "name": ""}}}, "text.format.name", "invalid_value"),
        (
            {"text": {"format": {"type": "json_schema", "name": "n"}}},
            "text.format.schema",
            "missing_required_parameter",
        ),
        ({"text": {"format": {"type": "json_schema", "name": "n", "schema": 1}}}, "text.format.schema", None),
        (
            {"text": {"format": {"type": "json_schema", "name": "n", "schema": {}, "strict": 1}}},
            "text.format.strict",
            None,
        ),
        ({"reasoning": "high"}, "reasoning", "invalid_value"),
        ({"reasoning": {"effort": 1}}, "reasoning.effort", "invalid_value"),
        ({"tools": {}}, "tools", "invalid_value"),
        ({"tools": ["x"]}, "tools[0]", "invalid_value"),
        ({"tools": [{}]}, "tools[0].type", "missing_required_parameter"),
        ({"tools": [FUNCTION, CUSTOM, {"type": "function"}]}, "tools[2].name", "missing_required_parameter"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools[0].name", "missing_required_parameter"),
        ({"tools": [{"type": "custom", "name": ""}]}, "tools[0].name", "invalid_value"),
        ({"tools": [{**FUNCTION, "parameters": "x"}]}, "tools[0].parameters", "invalid_value"),
        ({"tools": [{**FUNCTION, "strict": "x"}]}, "tools[0].strict", "invalid_value"),
        ({"tools": [{**FUNCTION, "description": 1}]}, "tools[0].description", "invalid_value"),
        ({"tools": [{**CUSTOM, "format": 1}]}, "tools[0].format", "invalid_value"),
        ({"tools": [{**CUSTOM, "format": {"type": "grammar"}}]}, "tools[0].format.definition", None),
        ({"tool_choice": 1}, "tool_choice", "invalid_value"),
        ({"tool_choice": "any"}, "tool_choice", "invalid_value"),
        ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
        ({"tool_choice": {}}, "tool_choice.type", "missing_required_parameter"),
        ({"tool_choice": {"type": "function"}}, "tool_choice.name", "missing_required_parameter"),
        ({"tool_choice": {"type": "function", "name": "f"}}, "tool_choice.name", "invalid_value"),
        ({"tools": [FUNCTION], "tool_choice": {"type": "custom", "name": "c"}}, "tool_choice.name", "invalid_value"),
        ({"tool_choice": {"type": "allowed_tools", "tools": []}}, "tool_choice.mode", "invalid_value"),
        ({"tool_choice": {"type": "allowed_tools", "mode": "auto"}}, "tool_choice.tools", "invalid_value"),
        ({"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": []}}, "tool_choice.tools", None),
        (
            {"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": ["f"]}},
            "tool_choice.tools[0]",
            "invalid_value",
        ),
        (
            {
                "tools": [FUNCTION],
                "tool_choice": {
                    "type": "allowed_tools",
                    "mode": "auto",
                    "tools": [FUNCTION, {"type": "function", "name": "g"}],
                },
            },
            "tool_choice.tools[1].name",
            "invalid_value",
        ),
        ({"user": 1}, "user", "invalid_value"),
        ({"tags": "x"}, "tags", None),
        ({"litellm_metadata": "x"}, "metadata", None),
        ({"api_base": "https://elsewhere"}, "api_base", None),
    ],
)
def test_a_request_that_no_upstream_could_follow_is_refused_by_its_place(
    body: dict[str, Any], param: str, code: str | None
) -> None:
    fault = refusal_of(body)
    assert fault.param == param
    assert fault.code in ({code} if code else {"invalid_value", "missing_required_parameter", None})


def test_the_largest_metadata_is_taken() -> None:
    metadata = {f"{number:064}": "v" * 512 for number in range(16)}
    assert read_request({"metadata": metadata}).metadata == metadata


@pytest.mark.parametrize("raw", [b"", b"[]", b"{", b'{"model":"m","model":"n","input":"x"}', b'{"model":NaN}'])
def test_a_body_that_is_no_strict_json_object_is_refused(raw: bytes) -> None:
    with pytest.raises(BadRequest):
        decode(raw, Hints(), lambda prefix: prefix)


def test_a_schema_may_have_properties_of_any_name() -> None:
    schema = {"type": "object", "properties": {name: {"type": "string"} for name in REDIRECTING}}
    form = {"type": "json_schema", "name": "n", "schema": schema}
    assert read_request({"text": {"format": form}, "tools": [{**FUNCTION, "parameters": schema}]}).echo["text"][
        "format"
    ]


def test_a_tool_that_is_found_later_can_be_chosen_now() -> None:
    choice = {"type": "function", "name": "later"}
    read_request({"tools": [{"type": "tool_search"}], "tool_choice": choice})


NAMESPACE = {"type": "namespace", "name": "crm", "description": "All about customers.", "tools": [FUNCTION, CUSTOM]}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"tools": [{**NAMESPACE, "name": ""}]}, "tools[0].name"),
        ({"tools": [{**NAMESPACE, "description": 1}]}, "tools[0].description"),
        ({"tools": [{**NAMESPACE, "tools": None}]}, "tools[0].tools"),
        ({"tools": [FUNCTION, {**NAMESPACE, "tools": [CUSTOM, 1]}]}, "tools[1].tools[1]"),
        ({"tools": [{**NAMESPACE, "tools": [{"type": "function"}]}]}, "tools[0].tools[0].name"),
        ({"tools": [{**NAMESPACE, "tools": []}], "tool_choice": "required"}, "tool_choice"),
        ({"tools": [NAMESPACE], "tool_choice": {"type": "function", "name": "g"}}, "tool_choice.name"),
        (
            {"tools": [NAMESPACE, FUNCTION], "tool_choice": {"type": "function", "name": "f", "namespace": "erp"}},
            "tool_choice.name",
        ),
        (
            {"tools": [NAMESPACE], "tool_choice": {"type": "function", "name": "f", "namespace": 1}},
            "tool_choice.namespace",
        ),
        (
            {
                "tools": [{**NAMESPACE, "tools": []}],
                "tool_choice": {
                    "type": "allowed_tools",
                    "mode": "auto",
                    "tools": [{"type": "namespace", "name": "crm"}],
                },
            },
            "tool_choice.tools[0].name",
        ),
    ],
)
def test_a_namespace_that_no_upstream_could_follow_is_refused_by_its_place(body: dict[str, Any], param: str) -> None:
    assert refusal_of(body).param == param


# Refusals for upstreams of another format


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({"prompt": {"id": "p"}}, "unsupported_parameter", "prompt"),
        ({"context_management": [{"type": "compaction"}]}, "unsupported_parameter", "context_management"),
        ({"moderation": {"model": "m"}}, "unsupported_parameter", "moderation"),
        ({"access_programs": {"cyber": "standard"}}, "unsupported_parameter", "access_programs"),
        ({"image": {"context_compression": "auto"}}, "unsupported_parameter", "image"),
        ({"tools": [FUNCTION, {"type": "web_search"}]}, "unsupported_tool", "tools[1].type"),
        ({"tools": [{"type": "of_next_year"}]}, "unsupported_tool", "tools[0].type"),
        (
            {"tools": [FUNCTION, {**NAMESPACE, "tools": [FUNCTION, {"type": "web_search"}]}]},
            "unsupported_tool",
            "tools[1].tools[1].type",
        ),
        ({"tools": [{**NAMESPACE, "tools": [NAMESPACE]}]}, "unsupported_tool", "tools[0].tools[0].type"),
        ({"tool_choice": {"type": "namespace", "name": "crm"}}, "unsupported_tool", "tool_choice.type"),
        ({"tool_choice": {"type": "mcp", "server_label": "l"}}, "unsupported_tool", "tool_choice.type"),
        (
            {"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "mcp"}]}},
            "unsupported_tool",
            "tool_choice.tools[0].type",
        ),
        ({"input": ["x", {"type": "compaction_trigger"}][1:]}, "unsupported_parameter", "input[0].type"),
        ({"input": [{"type": "configuration_update"}]}, "unsupported_parameter", "input[0].type"),
    ],
)
def test_native_features_are_refused_for_translated_upstreams(body: dict[str, Any], code: str, param: str) -> None:
    assert translation_refusal_of(body) == (code, param)


# The request for upstreams of another format


def test_settings_become_those_of_a_chat_request() -> None:
    chat_request = settings(
        {
            "max_output_tokens": 9,
            "temperature": 0.5,
            "top_p": 0.9,
            "presence_penalty": 1,
            "frequency_penalty": -1,
            "parallel_tool_calls": False,
            "reasoning": {"effort": "low", "summary": "auto"},
            "service_tier": "flex",
            "text": {"verbosity": "low", "format": {"type": "json_object"}},
            "prompt_cache_key": "k",
            "prompt_cache_retention": "24h",
            "safety_identifier": "s",
            "metadata": {"a": "b"},
            "top_logprobs": 3,
        }
    )
    assert chat_request == ChatRequest(
        messages=(),
        max_tokens=9,
        temperature=0.5,
        top_p=0.9,
        presence_penalty=1,
        frequency_penalty=-1,
        parallel_tools=False,
        reasoning_effort="low",
        service_tier="flex",
        output=OutputFormat("json_object"),
        logprobs=True,
        top_logprobs=3,
        user="s",
        others={"prompt_cache_key": "k", "prompt_cache_retention": "24h", "verbosity": "low"},
    )


def test_each_tool_of_a_namespace_becomes_a_tool() -> None:
    """The description of a namespace goes with its first tool, once."""
    chat_request = settings({"tools": [CUSTOM, NAMESPACE, {**NAMESPACE, "name": "erp", "description": None}]})
    assert [(tool.name, tool.description, tool.kind) for tool in chat_request.tools] == [
        ("c", "d", "custom"),
        ("crm__f", "All about customers.", "function"),
        ("crm__c", "d", "custom"),
        ("erp__f", "", "function"),
        ("erp__c", "d", "custom"),
    ]
    assert chat_request.tools[1].schema == FUNCTION["parameters"]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"type": "custom", "name": "c"}, ToolChoice("named", name="c")),
        ({"type": "custom", "name": "c", "namespace": "crm"}, ToolChoice("named", name="crm__c")),
        ({"type": "function", "name": "f", "namespace": "erp"}, ToolChoice("named", name="erp__f")),
        ({"type": "function", "name": "f"}, ToolChoice("required", allowed=("crm__f", "erp__f"))),
        (
            {
                "type": "allowed_tools",
                "mode": "auto",
                "tools": [{"type": "namespace", "name": "crm"}, {"type": "function", "name": "f"}, CUSTOM],
            },
            ToolChoice("auto", allowed=("crm__f", "crm__c", "erp__f", "c")),
        ),
    ],
)
def test_a_choice_finds_its_tool_in_a_namespace(choice: dict[str, Any], expected: ToolChoice) -> None:
    tools = [CUSTOM, NAMESPACE, {**NAMESPACE, "name": "erp"}]
    request = read_request({"tools": tools, "tool_choice": choice})
    refuse_native_only(request)
    assert build_settings(request).tool_choice == expected


def test_a_namespace_is_repeated_as_it_was_given() -> None:
    """A parameter may be called like a hosted tool's secret."""
    schema = {"type": "object", "properties": {"headers": {"type": "object"}, "authorization": {"type": "string"}}}
    hosted = {"type": "mcp", "server_label": "l", "authorization": "s3cret"}
    namespace = {**NAMESPACE, "tools": [{**FUNCTION, "parameters": schema}, CUSTOM, hosted], "new": 1}
    (echoed,) = read_request({"tools": [namespace]}).echo["tools"]
    assert echoed == {**namespace, "tools": [*namespace["tools"][:2], {"type": "mcp", "server_label": "l"}]}


@pytest.mark.parametrize(
    ("reasoning", "is_expected"),
    [
        (None, False),
        ({}, False),
        ({"effort": "low"}, False),
        ({"summary": None, "generate_summary": None}, False),
        ({"summary": "none"}, False),
        ({"summary": "auto"}, True),
        ({"summary": "concise"}, True),
        ({"generate_summary": "detailed"}, True),
    ],
)
def test_a_summary_of_the_reasoning_is_asked_for_by_either_name(
    reasoning: dict[str, Any] | None, is_expected: bool
) -> None:
    assert wants_reasoning_summary(read_request({"reasoning": reasoning})) is is_expected


def test_both_names_of_a_caller_are_sent_where_they_differ() -> None:
    chat_request = settings({"user": "u", "safety_identifier": "s"})
    assert (chat_request.user, chat_request.others) == ("u", {"safety_identifier": "s"})
    assert settings({"user": "s", "safety_identifier": "s"}).others == {}


def test_log_probabilities_are_asked_for_by_either_field() -> None:
    chat_request = settings({"include": ["message.output_text.logprobs"], "top_logprobs": 0})
    assert (chat_request.logprobs, chat_request.top_logprobs) == (True, None)
    assert settings({"include": ["reasoning.encrypted_content"], "top_logprobs": 0}).logprobs is None


def test_tools_are_strict_only_where_the_client_sets_it() -> None:
    grammar = {"type": "grammar", "syntax": "lark", "definition": "start: WORD"}
    tools = [FUNCTION, {**FUNCTION, "strict": False, "description": "d"}, CUSTOM, {**CUSTOM, "format": grammar}]
    chat_request = settings({"tools": [*tools, {"type": "custom", "name": "g", "format": {"type": "text"}}]}).tools
    assert chat_request[:3] == (
        Tool("f", schema={"type": "object"}),
        Tool("f", "d", schema={"type": "object"}, strict=False),
        Tool("c", "d", kind="custom"),
    )
    assert chat_request[3].description.startswith("d\n\n")
    assert "lark" in chat_request[3].description
    assert chat_request[3].description.endswith("start: WORD")
    assert chat_request[4] == Tool("g", kind="custom")


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("auto", ToolChoice("auto")),
        ("none", ToolChoice("none")),
        ("required", ToolChoice("required")),
        ({"type": "function", "name": "f"}, ToolChoice("named", name="f")),
        ({"type": "custom", "name": "c"}, ToolChoice("named", name="c")),
        (
            {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "f"}]},
            ToolChoice("required", allowed=("f",)),
        ),
    ],
)
def test_every_tool_choice_is_translated(choice: Any, expected: ToolChoice) -> None:
    request = read_request({"tools": [FUNCTION, CUSTOM], "tool_choice": choice})
    assert build_settings(request).tool_choice == expected
    assert request.echo["tool_choice"] == choice
    refuse_native_only(request)


def test_a_schema_gets_its_description() -> None:
    form = {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True, "description": "d"}
    expected = settings({"text": {"format": form}}).output
    assert expected == OutputFormat("json_schema", "n", {"type": "object", "description": "d"}, strict=True)
    own = {**form, "schema": {"description": "own"}}
    assert settings({"text": {"format": own}}).output == OutputFormat("json_schema", "n", own["schema"], strict=True)
    assert settings({"text": {"format": {"type": "text"}}}).output is None


# The response object

#: What the Open Responses schema requires, and may not be null, of the members that repeat a request.
NEVER_NULL = [
    "background",
    "frequency_penalty",
    "metadata",
    "model",
    "parallel_tool_calls",
    "presence_penalty",
    "service_tier",
    "store",
    "temperature",
    "text",
    "tool_choice",
    "tools",
    "top_logprobs",
    "top_p",
    "truncation",
]
MAY_BE_NULL = [
    "instructions",
    "max_output_tokens",
    "max_tool_calls",
    "previous_response_id",
    "prompt_cache_key",
    "reasoning",
    "safety_identifier",
    "user",
]


def validate_response(request: ResponsesRequest) -> dict[str, Any]:
    """The response as the `openai` package parses it, strictly."""
    state = {"status": "in_progress", "output": [], "usage": None, "error": None, "incomplete_details": None}
    response = {"id": "resp_1", "object": "response", "created_at": 1, **request.echo, **state}
    Response.model_validate_json(orjson.dumps(response), strict=True)
    return response


def test_the_response_object_has_every_member_that_is_required() -> None:
    response = validate_response(read_request({}))
    assert [name for name in NEVER_NULL if response[name] is None] == []
    assert [name for name in MAY_BE_NULL if name not in response] == []
    assert response["reasoning"] == {"effort": None, "summary": None}
    assert response["text"] == {"format": {"type": "text"}}
    assert (response["temperature"], response["top_p"], response["service_tier"]) == (1.0, 1.0, "default")
    assert (response["tool_choice"], response["truncation"], response["store"]) == ("auto", "disabled", True)
    assert "conversation" not in response


def test_the_response_object_repeats_the_request() -> None:
    form = {"type": "json_schema", "name": "n", "schema": {"type": "object"}}
    response = validate_response(
        read_request(
            {
                "conversation": "conv_1",
                "temperature": 0,
                "top_p": 0.5,
                "text": {"format": form, "verbosity": "low"},
                "reasoning": {"effort": "high", "generate_summary": "auto"},
                "service_tier": "fast",
                "tools": [FUNCTION, {**FUNCTION, "strict": True, "defer_loading": True}, CUSTOM],
                "store": False,
                "metadata": {"a": "b"},
                "max_output_tokens": 16,
                "include": ["message.output_text.logprobs"],
                "top_logprobs": 2,
            }
        )
    )
    assert response["conversation"] == {"id": "conv_1"}
    assert (response["temperature"], response["service_tier"], response["store"]) == (0, "priority", False)
    assert response["reasoning"] == {"effort": "high", "summary": "auto"}
    assert response["text"]["format"] == {**form, "description": None, "strict": False}
    assert response["tools"] == [
        {**FUNCTION, "description": None, "strict": None},
        {**FUNCTION, "description": None, "strict": True, "defer_loading": True},
        CUSTOM,
    ]


def test_a_hosted_tool_is_repeated_without_its_secrets() -> None:
    policy = {"type": "allowlist", "allowed_domains": ["a"], "domain_secrets": [{"value": "s3cret"}]}
    tools = [
        {"type": "mcp", "server_label": "l", "authorization": "s3cret", "headers": {"x": "s3cret"}},
        {"type": "code_interpreter", "container": {"type": "auto", "network_policy": policy}},
    ]
    request = read_request({"tools": tools})
    assert b"s3cret" not in orjson.dumps(request.echo)
    assert request.echo["tools"][0] == {"type": "mcp", "server_label": "l"}
    assert request.body["tools"] == tools


def test_the_members_keep_their_order_for_every_request() -> None:
    names = list(read_request({}).echo)
    assert list(read_request({"user": "u", "model": "n", "top_p": 1, "background": True}).echo) == names


# Wrong types

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 30) | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
FULL: dict[str, Any] = {
    "text": {"format": {"type": "json_schema", "name": "n", "schema": {}, "strict": True}, "verbosity": "low"},
    "reasoning": {"effort": "low"},
    "tools": [FUNCTION, CUSTOM, {"type": "namespace", "name": "n", "tools": [FUNCTION]}],
    "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]},
    "metadata": {"a": "b"},
    "stream": True,
    "stream_options": {},
    "include": ["message.output_text.logprobs"],
    "conversation": {"id": "c"},
    "prompt": {"id": "p"},
    "input": [{"role": "user", "content": [{"type": "input_text", "text": "x"}]}],
}


@given(st.data())
def test_no_wrong_type_anywhere_is_worse_than_a_refusal(data: st.DataObject) -> None:
    body = orjson.loads(orjson.dumps(FULL))
    holder: Any = body
    while True:
        places = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        if not places:
            return
        place = data.draw(st.sampled_from(places))
        if not isinstance(holder[place], dict | list) or data.draw(st.booleans()):
            break
        holder = holder[place]
    holder[place] = data.draw(JSON)
    with contextlib.suppress(BadRequest):
        request = read_request(body)
        assert build_settings(request).messages == ()
        orjson.dumps(request.echo)
        refuse_native_only(request)


# The package and the docs


def kinds_of(union: Any) -> set[str]:
    hints = [get_type_hints(member)["type"] for member in get_args(union)]
    return {kind for hint in hints for kind in get_args(hint) if isinstance(kind, str)}


def first_cells(title: str) -> set[str]:
    section = DOCS.read_text(encoding="utf-8").partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`[^|]+`) \|", section, re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`(\w+)`", row)}


def test_every_field_of_the_package_has_its_decision() -> None:
    names = set(get_type_hints(ResponseCreateParamsStreaming))
    assert names <= KNOWN_FIELDS
    assert first_cells("Fields") == names | {"presence_penalty", "frequency_penalty"} == KNOWN_FIELDS
    assert set(get_args(ResponseIncludable)) == INCLUDABLE


def test_every_item_and_tool_of_the_package_has_its_decision() -> None:
    assert kinds_of(ResponseInputItemParam) | {"compaction_trigger"} <= first_cells("Items")
    assert kinds_of(ToolParam) == first_cells("Tools")
