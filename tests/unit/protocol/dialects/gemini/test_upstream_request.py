"""Requests to Gemini: rules beyond the fixtures, checked against Google's own types."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol.attempt_context import AttemptContext, Fetched
from gateway.protocol.dialect import Hints
from gateway.protocol.dialects.gemini import upstream_request as gemini_request
from gateway.protocol.dialects.gemini.json_schema import declaration, to_openapi_subset, wire_name, wire_names
from gateway.protocol.dialects.openai import completions as openai_completions
from gateway.protocol.errors import BadRequest
from gateway.protocol.items import Tool
from gateway.protocol.provider import Target
from gateway.providers.gemini import PROVIDER
from tests.fakes.gemini import HI, MOMENT, WEATHER, candidate, chat, check_types, encode, target, types

# Requests


def called(*names: str, **extra: Any) -> dict[str, Any]:
    calls = [
        {"id": f"c-{name}", "type": "function", "function": {"name": name, "arguments": f'{{"city":"{name}"}}'}}
        for name in names
    ]
    calls[0] |= extra
    return {"role": "assistant", "content": None, "tool_calls": calls}


def result(name: str, content: Any = "4 °C") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": f"c-{name}", "content": content}


@pytest.mark.parametrize("model", ["gemini-2.0-flash", "gemini-2.5-pro", "gemini-3-pro-preview"])
def test_requests_fit_googles_types(model: str) -> None:
    messages = [
        {"role": "system", "content": "Be terse."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "See"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
                {"type": "image_url", "image_url": {"url": "gs://b/o.jpg"}},
                {"type": "input_audio", "input_audio": {"format": "wav", "data": "AAAA"}},
                {"type": "file", "file": {"file_data": "data:application/pdf;base64,AAAA", "filename": "x.pdf"}},
                {"type": "file", "file": {"file_id": "files/abc"}},
            ],
        },
        called("bern", "rome"),
        result("rome", '{"t": 20}'),
        result("bern"),
        {"role": "user", "content": "And?"},
    ]
    call = chat(
        messages,
        tools=[WEATHER],
        tool_choice={"type": "function", "function": {"name": "weather"}},
        reasoning_effort="high",
        service_tier="flex",
        top_k=5,
        modalities=["text", "image"],
        audio={"voice": "Kore", "format": "wav"},
    )
    check_types(PROVIDER.request(call, target(model, parameters={"allow_file_uris": True}), MOMENT))


def test_results_follow_their_step_in_the_order_of_the_calls() -> None:
    messages = [
        *HI,
        called("bern", "rome"),
        result("rome", '{"t":20}'),
        result("bern"),
        {"role": "user", "content": "?"},
    ]
    contents = encode(chat(messages, tools=[WEATHER]))["contents"]
    assert [content["role"] for content in contents] == ["user", "model", "user"]
    assert contents[1]["parts"] == [
        {"functionCall": {"name": "bern", "args": {"city": "bern"}}},
        {"functionCall": {"name": "rome", "args": {"city": "rome"}}},
    ]
    assert contents[2]["parts"] == [
        {"functionResponse": {"name": "bern", "response": {"result": "4 °C"}}},
        {"functionResponse": {"name": "rome", "response": {"t": 20}}},
        {"text": "?"},
    ]


def test_a_call_without_a_result_gets_an_error() -> None:
    contents = encode(chat([*HI, called("bern", "rome"), result("bern"), *HI]))["contents"]
    assert contents[2]["parts"][1] == {"functionResponse": {"name": "rome", "response": {"error": "no result"}}}


def test_a_result_without_a_call_becomes_text() -> None:
    assert encode(chat([*HI, result("bern")]))["contents"] == [
        {"role": "user", "parts": [{"text": "Hi"}, {"text": "4 °C"}]}
    ]


def test_an_image_in_a_result_follows_the_responses() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    parts = encode(chat([*HI, called("bern"), result("bern", [{"type": "text", "text": "x"}, image])]))["contents"][2][
        "parts"
    ]
    assert list(parts[0]) == ["functionResponse"]
    assert parts[1] == {"inlineData": {"mimeType": "image/png", "data": "AAAA"}}


@pytest.mark.parametrize(
    ("model", "extra", "signatures"),
    [
        ("gemini-2.5-flash", {}, [None, None]),
        ("gemini-3-flash-preview", {}, [gemini_request.NO_SIGNATURE, None]),
        ("gemini-3.1-pro", {"extra_content": {"google": {"thought_signature": "c2ln"}}}, ["c2ln", None]),
        ("gemini-2.5-flash", {"provider_specific_fields": {"thought_signature": "c2ln"}}, ["c2ln", None]),
        (
            "gemini-3-pro",
            {"extra_content": {"google": {"thought_signature": "not base64!"}}},
            [gemini_request.NO_SIGNATURE, None],
        ),
    ],
)
def test_the_first_call_of_a_step_carries_its_signature(model: str, extra: Any, signatures: list[str | None]) -> None:
    contents = encode(chat([*HI, called("bern", "rome", **extra), result("bern")]), target(model))["contents"]
    assert [part.get("thoughtSignature") for part in contents[1]["parts"]] == signatures


def test_the_bypass_signature_is_base64() -> None:
    assert base64.urlsafe_b64decode(gemini_request.NO_SIGNATURE + "==")


def test_each_sequential_step_has_a_signature_of_its_own() -> None:
    messages = [*HI, called("bern"), result("bern"), called("rome"), result("rome")]
    contents = encode(chat(messages), target("gemini-3-flash"))["contents"]
    assert [content["role"] for content in contents] == ["user", "model", "user", "model", "user"]
    assert all(content["parts"][0]["thoughtSignature"] for content in contents if content["role"] == "model")


@pytest.mark.parametrize(("arguments", "args"), [("", {}), ("[1]", {"_raw": "[1]"}), ("{x", {"_raw": "{x"})])
def test_arguments_other_than_an_object_keep_their_text(arguments: str, args: Any) -> None:
    message = called("bern")
    message["tool_calls"][0]["function"]["arguments"] = arguments
    assert encode(chat([*HI, message]))["contents"][1]["parts"][0]["functionCall"]["args"] == args


def test_an_empty_conversation_gets_a_turn() -> None:
    body = encode(chat([{"role": "system", "content": "x"}]))
    assert body["contents"] == [{"role": "user", "parts": [{"text": " "}]}]
    assert encode(chat([{"role": "user", "content": ""}]))["contents"] == [{"role": "user", "parts": [{"text": " "}]}]


@pytest.mark.parametrize(
    ("model", "fields", "thinking"),
    [
        ("gemini-2.5-flash", {"reasoning_effort": "none"}, {"thinkingBudget": 0}),
        ("gemini-2.5-pro", {"reasoning_effort": "none"}, {"thinkingBudget": 128}),
        ("gemini-2.5-pro", {"reasoning_effort": "minimal"}, {"thinkingBudget": 128, "includeThoughts": True}),
        ("gemini-2.5-flash", {"reasoning_effort": "medium"}, {"thinkingBudget": 8192, "includeThoughts": True}),
        (
            "gemini-2.5-flash",
            {"reasoning_effort": "high", "max_tokens": 2000},
            {"thinkingBudget": 1999, "includeThoughts": True},
        ),
        ("gemini-2.5-flash", {"reasoning_effort": "high", "max_tokens": 1000}, {"thinkingBudget": 0}),
        (
            "gemini-2.5-flash",
            {"reasoning_effort": "none", "thinking": {"type": "enabled", "budget_tokens": 2048}},
            {"thinkingBudget": 2048, "includeThoughts": True},
        ),
        ("gemini-2.5-flash", {"thinking": {"type": "disabled"}}, {"thinkingBudget": 0}),
        ("gemini-3-flash", {"reasoning_effort": "none"}, {"thinkingLevel": "MINIMAL"}),
        ("gemini-3.1-pro", {"reasoning_effort": "none"}, {"thinkingLevel": "LOW"}),
        ("gemini-3.1-pro", {"reasoning_effort": "minimal"}, {"thinkingLevel": "LOW", "includeThoughts": True}),
        ("gemini-3-flash", {"reasoning_effort": "max"}, {"thinkingLevel": "HIGH", "includeThoughts": True}),
        ("gemini-3-flash", {"thinking": {"budget_tokens": 1024}}, {"thinkingLevel": "LOW", "includeThoughts": True}),
    ],
)
def test_reasoning_effort_is_a_budget_or_a_level(model: str, fields: Any, thinking: Any) -> None:
    assert encode(chat(**fields), target(model))["generationConfig"]["thinkingConfig"] == thinking


def test_unsupported_parameters_are_dropped_by_name() -> None:
    call = chat(
        user="u", logit_bias={"1": 1}, reasoning_effort="low", parallel_tool_calls=False, tools=[WEATHER], store=True,
        stop=list("abcdef"), prediction={"type": "content", "content": "x"},
    )  # fmt: skip
    body = PROVIDER.request(call, target("gemini-2.0-flash"), MOMENT)
    assert set(body.dropped) == {
        "user", "logit_bias", "reasoning_effort", "parallel_tool_calls", "store", "stop", "prediction",
    }  # fmt: skip
    assert json.loads(body.body)["generationConfig"] == {"stopSequences": list("abcde")}


def test_a_strict_deployment_refuses_what_it_would_drop() -> None:
    with pytest.raises(BadRequest) as caught:
        PROVIDER.request(chat(logit_bias={"1": 1}), target(on_unsupported="error"), MOMENT)
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", "logit_bias")
    assert PROVIDER.request(chat(user="u"), target(on_unsupported="error"), MOMENT).dropped == ("user",)


def test_parameters_of_the_deployment_are_defaults() -> None:
    safety = [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}]
    where = target(parameters={"temperature": 0.1, "seed": 7, "safety_settings": safety, "labels": {"a": "b"}})
    body = encode(chat(temperature=0.9), where)
    assert body["generationConfig"] == {"temperature": 0.9, "seed": 7}
    assert body["safetySettings"] == safety
    assert body["labels"] == {"a": "b"}


def test_refused_parameters_are_left_out() -> None:
    where = target()
    where = Target(
        **{name: getattr(where, name) for name in where.__slots__} | {"unsupported_parameters": frozenset({"seed"})}
    )
    body = PROVIDER.request(chat(seed=1, temperature=1), where, MOMENT)
    assert body.dropped == ("seed",)
    assert json.loads(body.body)["generationConfig"] == {"temperature": 1}


@pytest.mark.parametrize(
    ("choice", "config"),
    [
        ("auto", {"mode": "AUTO"}),
        ("required", {"mode": "ANY"}),
        ({"type": "function", "function": {"name": "weather"}}, {"mode": "ANY", "allowedFunctionNames": ["weather"]}),
    ],
)
def test_tool_choice(choice: Any, config: Any) -> None:
    assert encode(chat(tools=[WEATHER], tool_choice=choice))["toolConfig"] == {"functionCallingConfig": config}


def test_allowed_tools_are_the_only_ones_declared() -> None:
    other = {"type": "function", "function": {"name": "other"}}
    allowed = {"mode": "auto", "tools": [{"type": "function", "function": {"name": "other"}}]}
    body = encode(chat(tools=[WEATHER, other], tool_choice={"type": "allowed_tools", "allowed_tools": allowed}))
    assert body["tools"] == [{"functionDeclarations": [{"name": "other"}]}]
    assert body["toolConfig"] == {"functionCallingConfig": {"mode": "AUTO"}}


def test_a_schema_beside_tools_is_a_prompt_before_gemini_3() -> None:
    output = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
    old = encode(chat(tools=[WEATHER], response_format=output))
    assert "responseMimeType" not in old.get("generationConfig", {})
    assert '{"type":"object"}' in old["systemInstruction"]["parts"][0]["text"]
    new = encode(chat(tools=[WEATHER], response_format=output), target("gemini-3-flash"))
    assert new["generationConfig"]["responseJsonSchema"] == {"type": "object"}


def test_thoughts_of_the_history_are_left_out() -> None:
    history = {"role": "assistant", "content": "Hello.", "reasoning_content": "hm"}
    assert encode(chat([*HI, history, *HI]))["contents"][1] == {"role": "model", "parts": [{"text": "Hello."}]}


def test_fields_of_completions_only_are_named_as_dropped() -> None:
    body = {"model": "alias-1", "prompt": "Once", "suffix": "end", "logprobs": 2, "best_of": 2}
    call = openai_completions.DIALECT.decode(json.dumps(body).encode(), Hints())
    assert encode(call).keys() == {"contents"}
    assert PROVIDER.request(call, target(), MOMENT).dropped == ("suffix", "best_of", "logprobs")
    with pytest.raises(BadRequest) as caught:
        encode(call, target(on_unsupported="error"))
    assert caught.value.param == "suffix"


def test_completions_go_through_chat() -> None:
    body = {"model": "alias-1", "prompt": "Once", "max_tokens": 5}
    call = openai_completions.DIALECT.decode(json.dumps(body).encode(), Hints())
    assert encode(call) == {
        "contents": [{"role": "user", "parts": [{"text": "Once"}]}],
        "generationConfig": {"maxOutputTokens": 5},
    }
    answer = json.dumps({"candidates": [candidate({"text": " upon"}, finish="MAX_TOKENS")]}).encode()
    choice = json.loads(PROVIDER.relay_body(call, target(), MOMENT, answer, {})[0])["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == (" upon", "length")


# Media


def test_addresses_are_fetched_unless_google_reads_them() -> None:
    urls = ["https://a.test/x.png", "gs://b/o.png", "https://youtu.be/abc", "https://a.test/x.png"]
    content = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    call = chat([{"role": "user", "content": content}])
    assert PROVIDER.media(call, target()) == ("https://a.test/x.png",)
    context = AttemptContext("a", 0.0, fetched={"https://a.test/x.png": Fetched("image/png", "QUFB")})
    where = target(parameters={"allow_file_uris": True})
    parts = encode(call, where, context)["contents"][0]["parts"]
    assert parts[0] == parts[3] == {"inlineData": {"mimeType": "image/png", "data": "QUFB"}}
    assert parts[1] == {"fileData": {"mimeType": "image/png", "fileUri": "gs://b/o.png"}}
    assert parts[2] == {"fileData": {"fileUri": "https://youtu.be/abc"}}


@pytest.mark.parametrize("url", ["https://a.test/x.png", "file:///etc/passwd", "ftp://a.test/x"])
def test_an_unfetched_address_is_refused(url: str) -> None:
    with pytest.raises(BadRequest):
        encode(chat([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]))


OURS = [
    {"type": "image_url", "image_url": {"url": "gs://company/o.png"}},
    {"type": "image_url", "image_url": {"url": "https://generativelanguage.googleapis.com/v1beta/files/abc"}},
    {"type": "file", "file": {"file_id": "gs://company/o.pdf"}},
    {"type": "file", "file": {"file_id": "files/abc"}},
    {"type": "file", "file": {"file_data": "https://generativelanguage.googleapis.com/v1beta/files/abc"}},
]


@pytest.mark.parametrize("allowed", [{"allow_file_uris": False}, {"allow_file_uris": "yes"}])
@pytest.mark.parametrize("part", OURS)
def test_a_deployment_may_keep_its_files_from_clients(part: Any, allowed: Any) -> None:
    for role in ("user", "tool"):
        message = {"role": role, "content": [part]} | ({"tool_call_id": "c"} if role == "tool" else {})
        with pytest.raises(BadRequest) as refused:
            encode(chat([*HI, message]), target(parameters=allowed))
        assert (refused.value.param, refused.value.code) == ("messages", "unsupported_parameter")


@pytest.mark.parametrize("part", OURS)
@pytest.mark.parametrize("allowed", [{}, {"allow_file_uris": True}])
def test_clients_may_name_files_at_google(part: Any, allowed: Any) -> None:
    body = encode(chat([{"role": "user", "content": [part]}]), target(parameters=allowed))
    assert "fileUri" in body["contents"][0]["parts"][0]["fileData"]
    assert "allow_file_uris" not in body


def test_public_videos_are_always_allowed() -> None:
    part = {"type": "image_url", "image_url": {"url": "https://www.youtube.com/watch?v=abc"}}
    body = encode(chat([{"role": "user", "content": [part]}]))
    assert body["contents"][0]["parts"] == [{"fileData": {"fileUri": "https://www.youtube.com/watch?v=abc"}}]


# Schemas


def test_recursion_ends_in_an_object() -> None:
    node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/Node"}, "value": {"type": "integer"}}}
    subset = to_openapi_subset({"$ref": "#/$defs/Node", "$defs": {"Node": node}})
    assert subset["properties"] == {"next": {"type": "object"}, "value": {"type": "integer"}}


@pytest.mark.parametrize(
    "definitions",
    [
        {f"d{index}": {"$ref": f"#/$defs/d{index + 1}"} for index in range(60)},
        {"d0": {"enum": [str(index) for index in range(2000)]}},
        {"d0": {"allOf": [{"required": ["a"]}] * 60}},
        {"d0": {f"x-{index}": 1 for index in range(2000)}},
    ],
    ids=["long ways", "large lists", "many parts", "many members"],
)
def test_repeated_references_to_large_definitions_are_refused(definitions: Any) -> None:
    properties = {f"p{index}": {"$ref": "#/$defs/d0"} for index in range(500)}
    with pytest.raises(BadRequest):
        to_openapi_subset({"$defs": definitions, "type": "object", "properties": properties})
    once = {"$defs": definitions, "type": "object", "properties": {"p": properties["p0"]}}
    assert to_openapi_subset(once)["properties"].keys() == {"p"}


def test_a_reference_outside_the_schema_is_an_object() -> None:
    definitions: Any = {f"d{index}": {"$ref": f"#/$defs/d{index + 1}"} for index in range(5000)}
    schema = {"$defs": definitions, "type": "object", "properties": {"p": {"$ref": "#/$defs/d0"}}}
    assert to_openapi_subset(schema)["properties"] == {"p": {"type": "object"}}


def test_all_of_merges_without_duplicates() -> None:
    parts = [
        {"properties": {"a": {"type": "string"}}, "required": ["a"]},
        {"properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}, "required": ["b", "a", {}]},
        {"properties": {"c": {"type": "boolean"}}, "required": ["c"]},
    ]
    schema = {"type": "object", "allOf": parts}
    subset = to_openapi_subset(schema)
    kinds = {name: member["type"] for name, member in subset["properties"].items()}
    assert kinds == {"a": "string", "b": "integer", "c": "boolean"}
    assert subset["required"] == ["a", "b", "c"]
    assert [len(part["properties"]) for part in parts] == [1, 2, 1], "the client's own schema stays as it is"


def test_references_that_multiply_are_refused() -> None:
    definitions: dict[str, Any] = {
        f"L{level}": {"type": "object", "properties": {side: {"$ref": f"#/$defs/L{level + 1}"} for side in "ab"}}
        for level in range(30)
    }
    definitions["L30"] = {"type": "string"}
    with pytest.raises(BadRequest):
        to_openapi_subset({"$ref": "#/$defs/L0", "$defs": definitions})


@pytest.mark.parametrize(
    ("schema", "subset"),
    [
        ({"anyOf": [{"type": "string"}, {"type": "null"}], "default": None}, {"type": "string", "nullable": True}),
        ({"oneOf": [{"type": "string"}, {"type": "integer"}]}, {"anyOf": [{"type": "string"}, {"type": "integer"}]}),
        ({"enum": [1, 2]}, {"type": "string", "enum": ["1", "2"]}),
        ({"type": "string", "format": "uuid"}, {"type": "string"}),
        ({"type": "string", "format": "date-time"}, {"type": "string", "format": "date-time"}),
        ({"type": "object", "additionalProperties": {"type": "string"}}, {"type": "string"}),
        ({"type": "array"}, {"type": "array", "items": {"type": "string"}}),
        ({"type": "STRING"}, {"type": "string"}),
        (
            {"allOf": [{"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}], "title": "T"},
            {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "title": "T"},
        ),
    ],
)
def test_the_subset(schema: Any, subset: Any) -> None:
    assert to_openapi_subset(schema) == subset


SCHEMAS = st.recursive(
    st.fixed_dictionaries(
        {},
        optional={
            "type": st.sampled_from(["string", "integer", "null", ["string", "null"], "object", "array", 3]),
            "enum": st.lists(st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=3)), max_size=3),
            "format": st.sampled_from(["uuid", "int32"]),
            "$ref": st.sampled_from(["#", "#/properties/a", "#/$defs/none", "http://x"]),
            "minimum": st.integers(-5, 5),
            "exclusiveMinimum": st.one_of(st.booleans(), st.integers(-5, 5)),
            "additionalProperties": st.booleans(),
        },
    ),
    lambda inner: st.fixed_dictionaries(
        {},
        optional={
            "properties": st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
            "items": st.one_of(inner, st.lists(inner, max_size=2)),
            "anyOf": st.lists(inner, max_size=3),
            "allOf": st.lists(inner, max_size=3),
            "oneOf": st.lists(inner, max_size=2),
            "required": st.lists(st.sampled_from("abc"), max_size=2),
            "type": st.sampled_from(["object", "array", ["object", "null"]]),
        },
    ),
    max_leaves=8,
)


@given(SCHEMAS)
def test_any_schema_converts_to_googles(schema: dict[str, Any]) -> None:
    subset = to_openapi_subset(schema)
    types.Schema.model_validate(subset)
    types.FunctionDeclaration.model_validate(declaration(Tool("f", schema=schema), "f", is_subset=True))


@given(st.text(min_size=1, max_size=200), st.booleans())
def test_any_name_converts_to_a_function_name(name: str, is_subset: bool) -> None:
    name_on_wire = wire_name(name, is_subset=is_subset)
    assert gemini_name_is_valid(name_on_wire, 64 if is_subset else 128)
    assert wire_name(name_on_wire, is_subset=is_subset) == name_on_wire


@pytest.mark.parametrize(("model", "limit"), [("gemini-2.0-flash", 64), ("gemini-2.5-pro", 128), ("gemini-3-pro", 128)])
def test_a_shortened_name_is_stable_and_is_restored(model: str, limit: int) -> None:
    name = "n" * 130
    tool = {"type": "function", "function": {"name": name}}
    choice = {"type": "function", "function": {"name": name}}
    call = chat([*HI, called(name), result(name)], tools=[tool], tool_choice=choice)
    body = encode(call, target(model))
    short = body["tools"][0]["functionDeclarations"][0]["name"]
    assert len(short) == limit
    assert body["tools"][0]["functionDeclarations"] == [{"name": short}]
    assert body["toolConfig"]["functionCallingConfig"]["allowedFunctionNames"] == [short]
    assert body["contents"][1]["parts"][0]["functionCall"]["name"] == short
    assert body["contents"][2]["parts"][0]["functionResponse"]["name"] == short
    answer = json.dumps({"candidates": [candidate({"functionCall": {"name": short}}, finish="STOP")]}).encode()
    client_answer = json.loads(PROVIDER.relay_body(call, target(model), MOMENT, answer, {})[0])
    assert client_answer["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == name


@pytest.mark.parametrize(
    "names",
    [
        ("n" * 128 + "a", "n" * 128 + "b", "n" * 128),
        ("get weather", "get/weather", "get_weather"),
        ("1", "_1"),
        ("wetter für " + "n" * 128, "wetter fur " + "n" * 128),
    ],
)
@pytest.mark.parametrize("model", ["gemini-2.0-flash", "gemini-3-pro"])
def test_tools_with_similar_names_stay_apart(names: tuple[str, ...], model: str) -> None:
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    call = chat([*HI, called(*names), *map(result, names)], tools=tools)
    body = encode(call, target(model))
    wire_names = [item["name"] for item in body["tools"][0]["functionDeclarations"]]
    assert len(set(wire_names)) == len(names)
    assert all(gemini_name_is_valid(name, 64 if model == "gemini-2.0-flash" else 128) for name in wire_names)
    assert [part["functionCall"]["name"] for part in body["contents"][1]["parts"]] == wire_names
    assert [part["functionResponse"]["name"] for part in body["contents"][2]["parts"]] == wire_names
    parts = [{"functionCall": {"name": name}} for name in wire_names]
    answer = json.dumps({"candidates": [candidate(*parts, finish="STOP")]}).encode()
    client_answer = json.loads(PROVIDER.relay_body(call, target(model), MOMENT, answer, {})[0])
    assert [item["function"]["name"] for item in client_answer["choices"][0]["message"]["tool_calls"]] == list(names)


def test_a_valid_name_stays() -> None:
    tools = [Tool("get weather"), Tool("get_weather"), Tool("now")]
    names = wire_names(tools, is_subset=False)
    assert (names["get_weather"], names["now"]) == ("get_weather", "now")
    assert names["get weather"].startswith("get_weather_")


def gemini_name_is_valid(name: str, limit: int) -> bool:
    head, rest = name[:1], name[1:]
    return (
        (head.isascii() and (head.isalpha() or head == "_"))
        and len(name) <= limit
        and all(character.isascii() and (character.isalnum() or character in "_.:-") for character in rest)
    )
