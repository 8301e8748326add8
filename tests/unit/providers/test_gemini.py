"""Gemini's wire format: each fixture in any chunking, the rules beyond the fixtures, requests by Google's own types."""

import base64
import json
import struct
import warnings
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol.call import Call
from gateway.protocol.capabilities import by_name, known
from gateway.protocol.dialect import Hints
from gateway.protocol.dialects import gemini, gemini_answer, openai_chat, openai_completions, openai_embeddings
from gateway.protocol.dialects.gemini_schema import declaration, to_openapi_subset, wire_name
from gateway.protocol.errors import BadRequest, UpstreamFault
from gateway.protocol.events import Event, Finished, ReasoningDelta, TextDelta, ToolArgumentsDelta, ToolCallStarted
from gateway.protocol.items import Tool
from gateway.protocol.moment import Fetched, Moment
from gateway.protocol.provider import Target, UpstreamRequest
from gateway.protocol.secret import Secret
from gateway.protocol.usage import Usage
from gateway.providers.gemini import PROVIDER

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # an escape in one of its docstrings
    from google.genai import types

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures" / "providers"
CASES = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in FIXTURES.glob("gemini_*.json")}
MOMENT = Moment("attempt-1", 1_800_000_000.0)
HI = [{"role": "user", "content": "Hi"}]


def of_kind(kind: str) -> list[str]:
    return sorted(name for name, case in CASES.items() if case["kind"] == kind and case["provider"] == "gemini")


def target(model: str = "gemini-2.5-flash", *, parameters: dict[str, Any] | None = None, **flags: Any) -> Target:
    return Target(
        deployment_id="d1",
        model_group="alias-1",
        organization_id=None,
        provider=PROVIDER,
        upstream_model=model,
        api_base="https://generativelanguage.googleapis.com/v1beta",
        credential={"api_key": Secret("g-test")},
        parameters=parameters or {},
        capabilities=known(flags, by_name(model)),
    )


def chat(messages: Any = HI, **fields: Any) -> Call:
    body = {"model": "alias-1", "messages": messages, **fields}
    return openai_chat.DIALECT.decode(json.dumps(body).encode(), Hints())


def embeddings(**fields: Any) -> Call:
    return openai_embeddings.DIALECT.decode(json.dumps({"model": "alias-1", **fields}).encode(), Hints())


def sent(call: Call, where: Target | None = None, moment: Moment = MOMENT) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(PROVIDER.request(call, where or target(), moment).body)
    return body


def of_case(case: dict[str, Any]) -> tuple[Call, Target]:
    context = dict(case.get("context", {}))
    is_embedding = context.pop("api", "") == "embeddings"
    where = target(context.pop("upstream_model", "gemini-2.5-flash"), **context)
    body = case["openai"]
    return (embeddings if is_embedding else chat)(**{k: v for k, v in body.items() if k != "model"}), where


# The comparison rules of the fixtures


def assert_like(got: Any, expected: Any, at: str = "") -> None:
    if isinstance(expected, str) and expected.startswith("<"):
        if expected == "<any>":
            assert isinstance(got, str), at
            assert got, at
        elif expected == "<any:int>":
            assert type(got) is int, at
        else:
            assert expected[10:-1].lower() in got.lower(), (at, got)
    elif isinstance(expected, dict):
        extra = {name for name, value in got.items() if name not in expected and value not in (None, [])}
        assert not extra, (at, extra)
        for name, value in expected.items():
            assert_like(got[name], value, f"{at}.{name}")
    elif isinstance(expected, list):
        assert len(got) == len(expected), at
        for index, (one, other) in enumerate(zip(got, expected, strict=True)):
            assert_like(one, other, f"{at}.{index}")
    else:
        assert got == expected, at


def accumulated(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    """What an OpenAI client adds up, the invariants of a stream held on the way."""
    choices: dict[int, dict[str, Any]] = {}
    answer: dict[str, Any] = {"object": "chat.completion"}
    for chunk in chunks:
        assert chunk["id"] == chunks[0]["id"]
        answer |= {name: chunk[name] for name in ("id", "created", "model")}
        if chunk.get("usage"):
            assert chunk is chunks[-1]
            assert not chunk["choices"]
            answer["usage"] = chunk["usage"]
        for given_choice in chunk["choices"]:
            index, delta = given_choice["index"], given_choice["delta"]
            held = choices.setdefault(index, {"index": index, "message": {}, "finish_reason": None})
            assert held["finish_reason"] is None
            message = held["message"]
            assert ("role" in delta) == (not message)
            for name, value in delta.items():
                if name == "tool_calls":
                    for call in value:
                        add_call(message.setdefault("tool_calls", []), call)
                elif isinstance(value, str) and name != "role":
                    message[name] = (message.get(name) or "") + value
                else:
                    message.setdefault(name, value)
            held["finish_reason"] = given_choice["finish_reason"]
    assert all(choice["finish_reason"] for choice in choices.values())
    answer["choices"] = [choice for _, choice in sorted(choices.items())]
    return answer


def add_call(calls: list[dict[str, Any]], delta: dict[str, Any]) -> None:
    if delta["index"] == len(calls):
        assert {"id", "type", "function"} <= delta.keys()
        assert delta["function"]["name"]
        calls.append({name: value for name, value in delta.items() if name != "index"})
    else:
        assert delta.keys() == {"index", "function"}
        calls[delta["index"]]["function"]["arguments"] += delta["function"]["arguments"]


def relayed(pieces: Iterable[bytes], *, include_usage: bool = True) -> tuple[list[dict[str, Any]], bool]:
    """(chunks, whether [DONE] came)"""
    call = chat(stream=True, stream_options={"include_usage": include_usage})
    relay = PROVIDER.relay(call, target(), MOMENT)
    text = b"".join([relay.feed(piece) for piece in pieces]) + relay.finish()
    frames = [frame.removeprefix(b"data: ") for frame in text.split(b"\n\n") if frame]
    return [json.loads(frame) for frame in frames if frame != b"[DONE]"], frames[-1] == b"[DONE]"


def chunkings(body: bytes, cuts: list[int]) -> Iterator[list[bytes]]:
    yield [body]
    yield [body[index : index + 1] for index in range(len(body))]
    edges = [0, *cuts, len(body)]
    yield [body[start:end] for start, end in pairwise(edges)]
    for cut in range(1, len(body)):
        yield [body[:cut], body[cut:]]


# Fixtures


@pytest.mark.parametrize("name", of_kind("request"))
def test_a_request_is_the_fixtures(name: str) -> None:
    case = CASES[name]
    call, where = of_case(case)
    made = PROVIDER.request(call, where, MOMENT)
    wire, url = case["provider_wire"], urlsplit(made.url)
    assert url.path == wire["path"]
    assert dict(parse_qsl(url.query)) == wire.get("query", {})
    assert json.loads(made.body) == wire["body"]
    assert wire["headers"].items() <= made.headers.items()
    assert "g-test" not in made.url


@pytest.mark.parametrize("name", of_kind("response"))
def test_a_whole_answer_is_the_fixtures(name: str) -> None:
    case = CASES[name]
    body, facts = PROVIDER.relay_body(chat(), target(), MOMENT, json.dumps(case["provider_wire"]["body"]).encode(), {})
    assert_like(json.loads(body), case["openai"])
    assert facts.usage is not None
    assert facts.usage.total_input == case["openai"]["usage"]["prompt_tokens"]


@pytest.mark.parametrize("name", of_kind("stream"))
def test_a_stream_is_the_fixtures_in_any_chunking(name: str) -> None:
    case = CASES[name]
    wire = case["provider_wire"]
    for pieces in chunkings(wire["body_text"].encode(), wire["cuts"]):
        chunks, is_done = relayed(pieces, include_usage=case["openai"]["include_usage"])
        assert is_done == case["openai"]["done"]
        assert_like(accumulated(chunks), case["openai"]["accumulated"])


@pytest.mark.parametrize("name", of_kind("error"))
def test_an_error_is_the_fixtures(name: str) -> None:
    case = CASES[name]
    wire, expected = case["provider_wire"], case["openai"]
    fault = PROVIDER.failure(target(), wire["status"], wire["headers"], json.dumps(wire["body"]).encode())
    assert fault.status == expected["status"]
    told = {"message": fault.message, "type": fault.type, "param": fault.param, "code": fault.code}
    assert_like({"error": told}, expected["body"])
    assert {name.decode(): value.decode() for name, value in fault.headers} == expected.get("headers", {})


# Requests


def check_types(made: UpstreamRequest) -> None:
    """Every member is one that Google's own client knows, under its own name."""
    body = json.loads(made.body)
    config = {**body.get("generationConfig", {})}
    types.GenerationConfig.model_validate(config)
    for content in [*body["contents"], *([body["systemInstruction"]] if "systemInstruction" in body else [])]:
        types.Content.model_validate(content)
    for tool in body.get("tools", []):
        types.Tool.model_validate(tool)
    if "toolConfig" in body:
        types.ToolConfig.model_validate(body["toolConfig"])
    known_members = {"contents", "systemInstruction", "generationConfig", "tools", "toolConfig", "serviceTier"}
    assert body.keys() <= known_members | {"cachedContent", "safetySettings", "labels"}


WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


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
def test_requests_hold_only_what_googles_types_know(model: str) -> None:
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
    check_types(PROVIDER.request(call, target(model), MOMENT))


def test_results_follow_their_step_in_the_order_of_the_calls() -> None:
    messages = [
        *HI,
        called("bern", "rome"),
        result("rome", '{"t":20}'),
        result("bern"),
        {"role": "user", "content": "?"},
    ]
    contents = sent(chat(messages, tools=[WEATHER]))["contents"]
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


def test_a_call_without_a_result_gets_one() -> None:
    contents = sent(chat([*HI, called("bern", "rome"), result("bern"), *HI]))["contents"]
    assert contents[2]["parts"][1] == {"functionResponse": {"name": "rome", "response": {"error": "no result"}}}


def test_a_result_without_a_call_is_kept_as_text() -> None:
    assert sent(chat([*HI, result("bern")]))["contents"] == [
        {"role": "user", "parts": [{"text": "Hi"}, {"text": "4 °C"}]}
    ]


def test_an_image_in_a_result_follows_the_responses() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    parts = sent(chat([*HI, called("bern"), result("bern", [{"type": "text", "text": "x"}, image])]))["contents"][2][
        "parts"
    ]
    assert list(parts[0]) == ["functionResponse"]
    assert parts[1] == {"inlineData": {"mimeType": "image/png", "data": "AAAA"}}


@pytest.mark.parametrize(
    ("model", "extra", "signatures"),
    [
        ("gemini-2.5-flash", {}, [None, None]),
        ("gemini-3-flash-preview", {}, [gemini.NO_SIGNATURE, None]),
        ("gemini-3.1-pro", {"extra_content": {"google": {"thought_signature": "c2ln"}}}, ["c2ln", None]),
        ("gemini-2.5-flash", {"provider_specific_fields": {"thought_signature": "c2ln"}}, ["c2ln", None]),
        (
            "gemini-3-pro",
            {"extra_content": {"google": {"thought_signature": "not base64!"}}},
            [gemini.NO_SIGNATURE, None],
        ),
    ],
)
def test_the_first_call_of_a_step_carries_its_signature(model: str, extra: Any, signatures: list[str | None]) -> None:
    contents = sent(chat([*HI, called("bern", "rome", **extra), result("bern")]), target(model))["contents"]
    assert [part.get("thoughtSignature") for part in contents[1]["parts"]] == signatures


def test_the_bypass_is_base64_as_it_stands() -> None:
    assert base64.urlsafe_b64decode(gemini.NO_SIGNATURE + "==")


def test_each_sequential_step_has_a_signature_of_its_own() -> None:
    messages = [*HI, called("bern"), result("bern"), called("rome"), result("rome")]
    contents = sent(chat(messages), target("gemini-3-flash"))["contents"]
    assert [content["role"] for content in contents] == ["user", "model", "user", "model", "user"]
    assert all(content["parts"][0]["thoughtSignature"] for content in contents if content["role"] == "model")


@pytest.mark.parametrize(("arguments", "args"), [("", {}), ("[1]", {"_raw": "[1]"}), ("{x", {"_raw": "{x"})])
def test_arguments_that_are_no_object_are_kept(arguments: str, args: Any) -> None:
    message = called("bern")
    message["tool_calls"][0]["function"]["arguments"] = arguments
    assert sent(chat([*HI, message]))["contents"][1]["parts"][0]["functionCall"]["args"] == args


def test_json_that_is_nested_too_deeply_is_refused() -> None:
    message = called("bern")
    message["tool_calls"][0]["function"]["arguments"] = '{"a":' + "[" * 500 + "]" * 500 + "}"
    with pytest.raises(BadRequest):
        sent(chat([*HI, message]))


def test_an_empty_conversation_says_something() -> None:
    made = sent(chat([{"role": "system", "content": "x"}]))
    assert made["contents"] == [{"role": "user", "parts": [{"text": " "}]}]
    assert sent(chat([{"role": "user", "content": ""}]))["contents"] == [{"role": "user", "parts": [{"text": " "}]}]


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
    assert sent(chat(**fields), target(model))["generationConfig"]["thinkingConfig"] == thinking


def test_what_cannot_be_said_is_dropped_by_name() -> None:
    call = chat(
        user="u", logit_bias={"1": 1}, reasoning_effort="low", parallel_tool_calls=False, tools=[WEATHER], store=True,
        stop=list("abcdef"), prediction={"type": "content", "content": "x"},
    )  # fmt: skip
    made = PROVIDER.request(call, target("gemini-2.0-flash"), MOMENT)
    assert set(made.dropped) == {
        "user", "logit_bias", "reasoning_effort", "parallel_tool_calls", "store", "stop", "prediction",
    }  # fmt: skip
    assert json.loads(made.body)["generationConfig"] == {"stopSequences": list("abcde")}


def test_a_strict_deployment_refuses_what_it_would_drop() -> None:
    with pytest.raises(BadRequest) as caught:
        PROVIDER.request(chat(logit_bias={"1": 1}), target(on_unsupported="error"), MOMENT)
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", "logit_bias")
    assert PROVIDER.request(chat(user="u"), target(on_unsupported="error"), MOMENT).dropped == ("user",)


def test_a_deployments_parameters_stand_in_where_the_client_says_nothing() -> None:
    safety = [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}]
    where = target(parameters={"temperature": 0.1, "seed": 7, "safety_settings": safety, "labels": {"a": "b"}})
    made = sent(chat(temperature=0.9), where)
    assert made["generationConfig"] == {"temperature": 0.9, "seed": 7}
    assert made["safetySettings"] == safety
    assert made["labels"] == {"a": "b"}


def test_learned_parameters_are_left_out() -> None:
    where = target()
    where = Target(**{name: getattr(where, name) for name in where.__slots__} | {"learned": frozenset({"seed"})})
    made = PROVIDER.request(chat(seed=1, temperature=1), where, MOMENT)
    assert made.dropped == ("seed",)
    assert json.loads(made.body)["generationConfig"] == {"temperature": 1}


@pytest.mark.parametrize(
    ("choice", "config"),
    [
        ("auto", {"mode": "AUTO"}),
        ("required", {"mode": "ANY"}),
        ({"type": "function", "function": {"name": "weather"}}, {"mode": "ANY", "allowedFunctionNames": ["weather"]}),
    ],
)
def test_tool_choice(choice: Any, config: Any) -> None:
    assert sent(chat(tools=[WEATHER], tool_choice=choice))["toolConfig"] == {"functionCallingConfig": config}


def test_allowed_tools_are_the_only_ones_declared() -> None:
    other = {"type": "function", "function": {"name": "other"}}
    allowed = {"mode": "auto", "tools": [{"type": "function", "function": {"name": "other"}}]}
    made = sent(chat(tools=[WEATHER, other], tool_choice={"type": "allowed_tools", "allowed_tools": allowed}))
    assert made["tools"] == [{"functionDeclarations": [{"name": "other"}]}]
    assert made["toolConfig"] == {"functionCallingConfig": {"mode": "AUTO"}}


def test_a_schema_beside_tools_is_a_prompt_before_gemini_3() -> None:
    output = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
    old = sent(chat(tools=[WEATHER], response_format=output))
    assert "responseMimeType" not in old.get("generationConfig", {})
    assert '{"type":"object"}' in old["systemInstruction"]["parts"][0]["text"]
    new = sent(chat(tools=[WEATHER], response_format=output), target("gemini-3-flash"))
    assert new["generationConfig"]["responseJsonSchema"] == {"type": "object"}


def test_a_completion_is_asked_as_chat() -> None:
    body = {"model": "alias-1", "prompt": "Once", "max_tokens": 5}
    call = openai_completions.DIALECT.decode(json.dumps(body).encode(), Hints())
    assert sent(call) == {
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
    assert PROVIDER.media(call) == ("https://a.test/x.png",)
    moment = Moment("a", 0.0, fetched={"https://a.test/x.png": Fetched("image/png", "QUFB")})
    parts = sent(call, moment=moment)["contents"][0]["parts"]
    assert parts[0] == parts[3] == {"inlineData": {"mimeType": "image/png", "data": "QUFB"}}
    assert parts[1] == {"fileData": {"mimeType": "image/png", "fileUri": "gs://b/o.png"}}
    assert parts[2] == {"fileData": {"fileUri": "https://youtu.be/abc"}}


@pytest.mark.parametrize("url", ["https://a.test/x.png", "file:///etc/passwd", "ftp://a.test/x"])
def test_an_address_that_was_not_fetched_is_refused(url: str) -> None:
    with pytest.raises(BadRequest):
        sent(chat([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]))


# Schemas


def test_recursion_ends_in_an_object() -> None:
    node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/Node"}, "value": {"type": "integer"}}}
    made = to_openapi_subset({"$ref": "#/$defs/Node", "$defs": {"Node": node}})
    assert made["properties"] == {"next": {"type": "object"}, "value": {"type": "integer"}}


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
def test_any_schema_becomes_one_of_googles(schema: dict[str, Any]) -> None:
    made = to_openapi_subset(schema)
    types.Schema.model_validate(made)
    types.FunctionDeclaration.model_validate(declaration(Tool("f", schema=schema), is_subset=True))


@given(st.text(min_size=1, max_size=100))
def test_any_name_becomes_a_functions(name: str) -> None:
    made = wire_name(name)
    assert gemini_name_is_valid(made)
    assert wire_name(made) == made


def gemini_name_is_valid(name: str) -> bool:
    head, rest = name[:1], name[1:]
    return (
        (head.isascii() and (head.isalpha() or head == "_"))
        and len(name) <= 64
        and all(character.isascii() and (character.isalnum() or character in "_.:-") for character in rest)
    )


# Answers


def candidate(*parts: Any, finish: str | None = None, **fields: Any) -> dict[str, Any]:
    made: dict[str, Any] = {"content": {"role": "model", "parts": list(parts)}, **fields}
    return made | ({"finishReason": finish} if finish else {})


def frames(*chunks: Any) -> bytes:
    return b"".join(b"data: " + json.dumps(chunk).encode() + b"\r\n\r\n" for chunk in chunks)


def decoded(body: bytes, **options: Any) -> list[Event]:
    decoder = gemini_answer.Decoder(MOMENT, **options)
    return decoder.feed(body) + decoder.finish()


CALL: dict[str, Any] = {
    "functionCall": {"name": "weather", "args": {"city": "Zürich", "n": [1, {"x": None}]}},
    "thoughtSignature": "c2ln",
}


def test_a_call_before_the_finish_is_a_tool_call() -> None:
    events = decoded(frames({"candidates": [candidate(CALL)]}, {"candidates": [{"finishReason": "STOP"}]}))
    started = next(event for event in events if isinstance(event, ToolCallStarted))
    assert (started.name, started.signature, started.index) == ("weather", "c2ln", 0)
    assert started.id.startswith("call_")
    arguments = "".join(event.text for event in events if isinstance(event, ToolArgumentsDelta))
    assert json.loads(arguments) == CALL["functionCall"]["args"]
    assert events[-1] == Finished("tool_calls")


def test_arguments_that_are_nested_too_deeply_are_malformed() -> None:
    args = '{"a":' + "[" * 500 + "]" * 500 + "}"
    part = '{"functionCall":{"name":"f","args":' + args + "}}"
    with pytest.raises(UpstreamFault) as caught:
        decoded(b'data: {"candidates":[{"content":{"parts":[' + part.encode() + b"]}}]}\n\n")
    assert caught.value.code == "upstream_malformed_tool_call"


def test_a_call_after_the_finish_reason_is_not_lost() -> None:
    events = decoded(
        frames({"candidates": [candidate({"text": "a"}, finish="STOP")]}, {"candidates": [candidate(CALL)]})
    )
    assert events[-1] == Finished("tool_calls")


def test_the_signature_reaches_the_client_in_googles_own_field() -> None:
    chunks, _ = relayed([frames({"candidates": [candidate(CALL, finish="STOP")]})])
    call = accumulated(chunks)["choices"][0]["message"]["tool_calls"][0]
    assert call["extra_content"] == {"google": {"thought_signature": "c2ln"}}
    assert (
        sent(chat([*HI, {"role": "assistant", "tool_calls": [call]}]))["contents"][1]["parts"][0]["thoughtSignature"]
        == "c2ln"
    )


def test_parallel_calls_are_numbered_and_named_apart() -> None:
    same = {"functionCall": {"name": "f", "id": "one"}}
    events = decoded(frames({"candidates": [candidate(same, same, finish="STOP")]}))
    started = [event for event in events if isinstance(event, ToolCallStarted)]
    assert [event.index for event in started] == [0, 1]
    assert started[0].id == "one" != started[1].id
    assert [event.text for event in events if isinstance(event, ToolArgumentsDelta)] == ["{}", "{}"]


def test_only_the_first_call_is_kept_where_the_deployment_forces_one() -> None:
    body = json.dumps({"candidates": [candidate(CALL, CALL, finish="STOP")]}).encode()
    call = chat(tools=[WEATHER], parallel_tool_calls=False)
    answer = json.loads(PROVIDER.relay_body(call, target(force_single_tool=True), MOMENT, body, {})[0])
    assert len(answer["choices"][0]["message"]["tool_calls"]) == 1
    answer = json.loads(PROVIDER.relay_body(call, target(), MOMENT, body, {})[0])
    assert len(answer["choices"][0]["message"]["tool_calls"]) == 2


def test_custom_and_renamed_tools_come_back_as_they_were() -> None:
    tools = [{"type": "custom", "custom": {"name": "shell"}}, {"type": "function", "function": {"name": "7days"}}]
    call = chat(tools=tools)
    declared = sent(call)["tools"][0]["functionDeclarations"]
    assert [item["name"] for item in declared] == ["shell", "_7days"]
    parts = [{"functionCall": {"name": "shell", "args": {"input": "ls"}}}, {"functionCall": {"name": "_7days"}}]
    body = json.dumps({"candidates": [candidate(*parts, finish="STOP")]}).encode()
    calls = json.loads(PROVIDER.relay_body(call, target(), MOMENT, body, {})[0])["choices"][0]["message"]["tool_calls"]
    assert calls[0]["custom"] == {"name": "shell", "input": "ls"}
    assert calls[1]["function"] == {"name": "7days", "arguments": "{}"}


@pytest.mark.parametrize(
    ("finish", "reason"),
    [
        ("STOP", "stop"), ("MAX_TOKENS", "length"), ("SAFETY", "content_filter"), ("RECITATION", "content_filter"),
        ("MODEL_ARMOR", "content_filter"), ("ESCALATION", "content_filter"), ("OTHER", "stop"), ("NO_IMAGE", "stop"),
        ("SOMETHING_NEW", "stop"), ("FINISH_REASON_UNSPECIFIED", "stop"),
    ],
)  # fmt: skip
def test_finish_reasons(finish: str, reason: str) -> None:
    assert decoded(frames({"candidates": [candidate({"text": "a"}, finish=finish)]}))[-1] == Finished(reason)


def test_every_finish_reason_of_google_has_one_of_openais() -> None:
    for finish in types.FinishReason:
        body = frames({"candidates": [candidate(finish=finish.value)]})
        if finish.value in gemini_answer.MALFORMED:
            with pytest.raises(UpstreamFault) as caught:
                decoded(body)
            assert (caught.value.status, caught.value.code) == (502, "upstream_malformed_tool_call")
        else:
            last = decoded(body)[-1]
            assert isinstance(last, Finished)
            assert last.reason in {"stop", "length", "content_filter"}


def test_a_whole_answer_that_is_malformed_is_a_fault() -> None:
    body = json.dumps({"candidates": [{"finishReason": "MALFORMED_FUNCTION_CALL"}]}).encode()
    with pytest.raises(UpstreamFault) as caught:
        PROVIDER.relay_body(chat(), target(), MOMENT, body, {})
    assert caught.value.code == "upstream_malformed_tool_call"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        frames({"candidates": [candidate({"text": "a"})]}),
        frames({"candidates": [candidate({"text": "a"}, finish="STOP"), candidate({"text": "b"}, index=1)]}),
        frames({"candidates": [candidate({"text": "a"})]}) + b'data: {"candidates": [{"fin',
        frames({"usageMetadata": {"promptTokenCount": 1}}),
        frames("x")[:0] + b": comment\n\n",
    ],
)
def test_a_stream_that_was_cut_is_not_finished(body: bytes) -> None:
    with pytest.raises(UpstreamFault) as caught:
        decoded(body)
    assert caught.value.code == "upstream_incomplete_stream"


def test_a_missing_last_blank_line_is_forgiven() -> None:
    assert decoded(frames({"candidates": [candidate(finish="STOP")]}).rstrip())[-1] == Finished("stop")


@pytest.mark.parametrize("chunk", [[], "x", 1, None])
def test_an_event_that_is_no_object_is_a_fault(chunk: Any) -> None:
    with pytest.raises(UpstreamFault):
        decoded(frames(chunk))


def test_an_error_within_the_stream_is_told_by_its_class() -> None:
    with pytest.raises(UpstreamFault) as caught:
        decoded(frames({"error": {"code": 503, "message": "busy", "status": "UNAVAILABLE"}}))
    assert (caught.value.status, caught.value.code) == (503, "overloaded")


def test_a_blocked_prompt_ends_a_stream_too() -> None:
    assert decoded(frames({"promptFeedback": {"blockReason": "SAFETY"}}))[-1] == Finished("content_filter")


def test_code_and_images_are_not_lost() -> None:
    parts = [
        {"executableCode": {"language": "PYTHON", "code": "print(1)"}},
        {"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "1"}},
        {"inlineData": {"mimeType": "image/png", "data": "AAAA"}},
    ]
    text = "".join(
        event.text
        for event in decoded(frames({"candidates": [candidate(*parts, finish="STOP")]}))
        if isinstance(event, TextDelta)
    )
    assert text == "\n```python\nprint(1)\n```\n\n```\n1\n```\n![image](data:image/png;base64,AAAA)"


def test_an_array_of_fragments_is_read_as_one_answer() -> None:
    body = json.dumps(
        [{"candidates": [candidate({"text": "a"})]}, {"candidates": [candidate({"text": "b"}, finish="STOP")]}]
    )
    assert [
        event.text for event in gemini_answer.decode_body(body.encode(), MOMENT) if isinstance(event, TextDelta)
    ] == [
        "a",
        "b",
    ]


PARTS = st.one_of(
    st.builds(lambda text: {"text": text}, st.text(max_size=8)),
    st.builds(lambda text: {"text": text, "thought": True}, st.text(max_size=8)),
    st.builds(
        lambda args: {"functionCall": {"name": "f", "args": args}},
        st.dictionaries(
            st.text(max_size=4),
            st.recursive(
                st.one_of(st.none(), st.booleans(), st.integers(-(2**53), 2**53), st.text(max_size=5)),
                lambda inner: st.lists(inner, max_size=2),
                max_leaves=4,
            ),
            max_size=3,
        ),
    ),
)


@given(st.lists(st.lists(PARTS, max_size=3), min_size=1, max_size=4), st.data())
def test_streamed_equals_whole_in_any_chunking(turns: list[list[Any]], data: st.DataObject) -> None:
    usage = {"promptTokenCount": 7, "candidatesTokenCount": 3, "thoughtsTokenCount": 2}
    chunks: list[Any] = [{"candidates": [candidate(*parts)]} for parts in turns]
    chunks.append({"candidates": [{"finishReason": "STOP"}], "usageMetadata": usage})
    body = frames(*chunks)
    cut = data.draw(st.integers(0, len(body)))
    streamed, is_done = relayed([body[:cut], body[cut:]])
    assert is_done
    whole = {
        "candidates": [candidate(*[part for parts in turns for part in parts], finish="STOP")],
        "usageMetadata": usage,
    }
    answer = json.loads(PROVIDER.relay_body(chat(), target(), MOMENT, json.dumps(whole).encode(), {})[0])
    added = accumulated(streamed)
    assert added["usage"] == answer["usage"]
    one, other = added["choices"][0], answer["choices"][0]
    assert one["finish_reason"] == other["finish_reason"]
    for name in ("content", "reasoning_content"):
        assert (one["message"].get(name) or "") == (other["message"].get(name) or "")
    assert one["message"].get("tool_calls") == other["message"].get("tool_calls")


JUNK = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=4)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(
                ["candidates", "content", "parts", "text", "thought", "functionCall", "name", "args", "finishReason",
                 "index", "usageMetadata", "promptTokenCount", "promptTokensDetails", "promptFeedback", "blockReason",
                 "inlineData", "error", "details", "status", "retryDelay"]
            ),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=20,
)  # fmt: skip


@given(JUNK)
def test_junk_is_an_answer_or_a_fault(junk: Any) -> None:
    with suppress(UpstreamFault):
        decoded(frames(junk))
    with suppress(UpstreamFault):
        gemini_answer.decode_body(json.dumps(junk).encode(), MOMENT)
    assert isinstance(gemini_answer.failure(400, {}, json.dumps(junk).encode()), UpstreamFault)


def test_thoughts_are_reasoning() -> None:
    events = decoded(frames({"candidates": [candidate({"text": "hm", "thought": True}, {"text": "a"}, finish="STOP")]}))
    assert [type(event) for event in events[1:3]] == [ReasoningDelta, TextDelta]


# Usage


def test_usage_is_disjoint() -> None:
    raw = {
        "promptTokenCount": 100,
        "toolUsePromptTokenCount": 10,
        "cachedContentTokenCount": 40,
        "candidatesTokenCount": 20,
        "thoughtsTokenCount": 5,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 70}, {"modality": "AUDIO", "tokenCount": 30}],
        "cacheTokensDetails": [{"modality": "AUDIO", "tokenCount": 10}],
        "candidatesTokensDetails": [{"modality": "AUDIO", "tokenCount": 8}],
    }
    usage = gemini_answer.usage_of(raw)
    assert usage == Usage(
        input_tokens=50, input_audio_tokens=20, cache_read_tokens=40, output_tokens=12, output_audio_tokens=8,
        reasoning_tokens=5,
    )  # fmt: skip
    assert (usage.total_input, usage.total_output) == (110, 25)


def test_nonsense_counts_are_marked() -> None:
    assert gemini_answer.usage_of({"promptTokenCount": -1}).is_inconsistent
    assert gemini_answer.usage_of({"promptTokenCount": 1, "cachedContentTokenCount": 5}).is_inconsistent


# Failures


def failed(status: int, name: str, message: str = "x", **fields: Any) -> UpstreamFault:
    error = {"code": status, "message": message, "status": name, **fields}
    return PROVIDER.failure(target(), status, {}, json.dumps({"error": error}).encode())


def test_a_bad_key_is_the_gateways_matter_though_the_status_is_400() -> None:
    reason = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}
    fault = failed(400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key.", details=[reason])
    assert (fault.status, fault.code, fault.is_retryable) == (502, "upstream_auth_failed", True)


@pytest.mark.parametrize(
    ("status", "name", "message", "told"),
    [
        (400, "INVALID_ARGUMENT", "Bad schema", (400, None)),
        (400, "INVALID_ARGUMENT", "The input token count (9) exceeds the maximum number of tokens allowed (5).",
         (400, "context_length_exceeded")),
        (400, "FAILED_PRECONDITION", "User location is not supported for the API use.", (502, "upstream_auth_failed")),
        (400, "FAILED_PRECONDITION", "The File abc is not in an ACTIVE state.", (400, None)),
        (401, "UNAUTHENTICATED", "x", (502, "upstream_auth_failed")),
        (403, "PERMISSION_DENIED", "x", (502, "upstream_auth_failed")),
        (404, "NOT_FOUND", "x", (404, "model_not_found")),
        (429, "RESOURCE_EXHAUSTED", "x", (429, "rate_limit_exceeded")),
        (500, "INTERNAL", "x", (502, "upstream_error")),
        (503, "UNAVAILABLE", "x", (503, "overloaded")),
        (504, "DEADLINE_EXCEEDED", "x", (504, "upstream_timeout")),
        (499, "CANCELLED", "x", (502, "upstream_error")),
    ],
)  # fmt: skip
def test_failure_classes(status: int, name: str, message: str, told: tuple[int, str | None]) -> None:
    fault = failed(status, name, message)
    assert (fault.status, fault.code) == told


def test_a_daily_quota_is_no_rate_limit() -> None:
    quota = {"violations": [{"quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier"}]}
    assert failed(429, "RESOURCE_EXHAUSTED", details=[quota]).code == "insufficient_quota"


def test_a_fraction_of_a_second_is_rounded_up() -> None:
    fault = failed(429, "RESOURCE_EXHAUSTED", details=[{"retryDelay": "3.2s"}])
    assert fault.headers == ((b"retry-after", b"4"),)


def test_an_error_in_an_array_is_read() -> None:
    body = json.dumps([{"error": {"code": 404, "message": "models/x is not found", "status": "NOT_FOUND"}}]).encode()
    assert PROVIDER.failure(target(), 404, {}, body).message == "models/x is not found"


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"null", b'{"error":"text"}', b'{"error":{"message":7}}'])
def test_an_unreadable_error_is_a_fault_all_the_same(body: bytes) -> None:
    assert PROVIDER.failure(target(), 500, {}, body).code == "upstream_error"


def test_accounts_and_keys_are_not_told() -> None:
    message = "Quota of projects/acme-prod-1/locations/us and project_number:123456789 for key g-test is out"
    said = failed(429, "RESOURCE_EXHAUSTED", message).message
    for secret in ("acme-prod-1", "123456789", "g-test"):
        assert secret not in said


# Embeddings


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_embeddings_are_openais_list(encoding: str) -> None:
    body = json.dumps({"embeddings": [{"values": [0.5, -1]}, {"values": [0.25, 2]}]}).encode()
    answer, facts = PROVIDER.relay_body(
        embeddings(input=["a", "b"], encoding_format=encoding), target(), MOMENT, body, {}
    )
    told = json.loads(answer)
    first = told["data"][0]["embedding"]
    assert (list(struct.unpack("<2f", base64.b64decode(first))) if encoding == "base64" else first) == [0.5, -1]
    assert [item["index"] for item in told["data"]] == [0, 1]
    assert told["model"] == "alias-1"
    assert told["usage"]["prompt_tokens"] == told["usage"]["total_tokens"]
    assert facts.usage is None  # Close estimates it


def test_token_arrays_are_refused() -> None:
    with pytest.raises(BadRequest) as caught:
        PROVIDER.request(embeddings(input=[1, 2]), target(), MOMENT)
    assert caught.value.param == "input"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"embeddings":[]}',
        b'{"embeddings":[{"values":["x"]}]}',
        b'{"embeddings":[{}]}',
        b'{"error":{}}',
    ],
)
def test_an_answer_without_its_vectors_is_a_fault(body: bytes) -> None:
    with pytest.raises(UpstreamFault):
        PROVIDER.relay_body(embeddings(input="a"), target(), MOMENT, body, {})
