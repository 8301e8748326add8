"""Requests to an upstream that speaks the Responses API: the request, the whole history, none of our names."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import orjson
import pytest

from gateway.pipeline.ports import Principal
from gateway.pipeline.responses.turn import Continuation, ResponseTurn, owner_of
from gateway.protocol.attempt_context import AttemptContext
from gateway.protocol.call import Call
from gateway.protocol.capabilities import Capabilities, default_capabilities
from gateway.protocol.dialect import Hints
from gateway.protocol.dialects.responses.client_request import decode
from gateway.protocol.dialects.responses.dialect import ResponsesDialect, native_dialect
from gateway.protocol.dialects.responses.items import ENCRYPTED_REASONING
from gateway.protocol.dialects.responses.upstream import upstream_items
from gateway.protocol.errors import BadRequest, UpstreamFault
from gateway.protocol.ids import Ids
from gateway.protocol.json.types import JsonObject
from gateway.protocol.provider import Target
from gateway.providers.registry import PROVIDERS
from gateway.routing.unsupported_parameters import UnsupportedParameters
from tests.fakes import memory, native
from tests.fakes.memory import chat
from tests.fakes.responses_cases import OpenSeal

MOMENT = AttemptContext("01a1f7ee-f382-757a-934c-dda522f02992", 1_800_000_000.0)
NATIVE = Capabilities(responses=True)
HOSTED: list[JsonObject] = [
    {"type": "web_search", "filters": {"allowed_domains": ["a.test"]}},
    {"type": "mcp", "server_label": "s", "server_url": "https://a.test", "authorization": "secret", "headers": {}},
    {"type": "code_interpreter", "container": {"type": "auto"}},
]


def target(**changes: Any) -> Target:
    return memory.target(**{"capabilities": NATIVE, **changes})


def response_turn(*history: JsonObject, **fields: Any) -> ResponseTurn:
    raw = orjson.dumps({"model": "alias", "input": "Hi", **fields})
    request = decode(raw, Hints(), Ids("a" * 48))
    return ResponseTurn(
        request=request,
        owner=owner_of(Principal(organization_id="home", key_digest="d", key_id="key", key_alias="")),
        continuation=Continuation(history=history),
        seal=OpenSealed(),
        created_s=1_700_000_000.0,
        retention_s=1.0,
    )


class OpenSealed(OpenSeal):
    def open(self, text: str) -> Mapping[str, Any] | None:
        return super().open(text) if text.startswith("sealed ") else None


def sent(*history: JsonObject, to: Target | None = None, **fields: Any) -> JsonObject:
    made = asked(call_of(response_turn(*history, **fields)), to or target())
    body: JsonObject = orjson.loads(made.body)
    return body


def asked(call: Call, to: Target) -> Any:
    return to.provider.request(bound(call, to), to, MOMENT)


def call_of(one: ResponseTurn) -> Call:
    return one.dialect(lambda: 1_700_000_009.0).call()


def bound(call: Call, to: Target) -> Call:
    assert isinstance(call.dialect, ResponsesDialect)
    return call.dialect.for_target(to).call()


# Who is passed to


@pytest.mark.parametrize(
    ("provider", "base", "said", "expected"),
    [
        ("openai", "https://api.openai.com/v1", None, True),
        ("openai", "https://api.openai.com/v1", False, False),
        ("openai", "https://proxy.test/v1", None, False),
        ("openai", "https://proxy.test/v1", True, True),
        ("openai_compatible", "https://a.test/v1", None, False),
        ("openai_compatible", "https://a.test/v1", True, True),
        ("hosted_vllm", "https://a.test/v1", None, False),
        ("hosted_vllm", "https://a.test/v1", True, True),
        ("ollama", "http://127.0.0.1:11434/v1", True, True),
        ("ollama", "http://127.0.0.1:11434", True, False),
        ("azure_ai", "https://a.services.ai.azure.com/openai/v1", True, True),
        ("azure_ai", "https://a.services.ai.azure.com/anthropic", True, False),
        ("azure", "https://a.openai.azure.com", None, False),
        ("azure", "https://a.openai.azure.com", True, True),
    ],
)
def test_the_deployment_says_who_speaks_it_or_the_provider(
    provider: str, base: str, said: bool | None, expected: bool
) -> None:
    one = target(provider=PROVIDERS[provider], api_base=base, capabilities=Capabilities(responses=said))
    assert (native_dialect(call_of(response_turn()), one) is not None) is expected
    assert native_dialect(chat(), one) is None
    assert asked(call_of(response_turn()), one).url.split("?")[0].endswith("/responses") is expected


@pytest.mark.parametrize("provider", ["anthropic", "gemini", "bedrock", "mock"])
def test_a_provider_without_it_is_translated_to_whatever_its_deployment_says(provider: str) -> None:
    call = call_of(response_turn(unheard_of=1))
    one = target(provider=PROVIDERS[provider], parameters={"aws_region_name": "eu-west-1"})
    made = asked(call, one)
    assert "/responses" not in made.url
    assert call.dialect.unsupported_fields(call) == ("unheard_of",)


@pytest.mark.parametrize(
    ("base", "version", "url"),
    [
        ("https://r.openai.azure.com", "v1", "/openai/v1/responses"),
        ("https://r.openai.azure.com/openai/v1/", None, "/openai/v1/responses"),
        ("https://r.openai.azure.com", "preview", "/openai/v1/responses?api-version=preview"),
        ("https://r.openai.azure.com/", "2025-04-01-preview", "/openai/responses?api-version=2025-04-01-preview"),
    ],
)
def test_azure_is_asked_at_the_address_of_its_version(base: str, version: str | None, url: str) -> None:
    parameters = {"api_version": version} if version else {}
    one = target(provider=PROVIDERS["azure"], api_base=base, upstream_model="eu-1", parameters=parameters)
    made = asked(call_of(response_turn()), one)
    assert made.url == "https://r.openai.azure.com" + url
    body = orjson.loads(made.body)
    assert body["model"] == "eu-1"
    assert "api_version" not in body


def test_images_stay_with_a_native_upstream_that_else_takes_them_inline() -> None:
    one = target(provider=PROVIDERS["ollama"], api_base="http://127.0.0.1:11434/v1")
    content = [{"type": "input_image", "image_url": "https://a.test/a.png"}]
    call = call_of(response_turn(input=[{"role": "user", "content": content}], tools=HOSTED))
    call = bound(call, one)
    assert one.provider.media(call, one) == ()
    assert one.provider.request(call, one, MOMENT).url.endswith("/v1/responses")


# The request


def test_the_state_stays_here() -> None:
    body = sent(
        previous_response_id="resp_1",
        store=True,
        metadata={"a": "b"},
        tags=["t"],
        litellm_metadata={"x": 1},
        background=True,
        fallbacks=["b"],
        num_retries=1,
        timeout=5,
        disable_fallbacks=False,
    )
    assert body == {
        "model": "private",
        "store": False,
        "input": [
            {
                "type": "message",
                "role": "user",
                "status": "completed",
                "content": [{"type": "input_text", "text": "Hi"}],
            }
        ],
    }


def test_all_else_passes_untouched_known_or_not() -> None:
    fields: JsonObject = {
        "instructions": "Be brief.",
        "tools": [*HOSTED, {"type": "from_the_future", "x": [1.50]}],
        "tool_choice": {"type": "web_search"},
        "temperature": 0.3,
        "reasoning": {"effort": "low", "summary": "auto", "context": "x"},
        "text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}, "verbosity": "low"},
        "include": ["web_search_call.action.sources"],
        "max_tool_calls": 3,
        "prompt_cache_key": "k",
        "prompt": {"id": "pmpt_1"},
        "context_management": [{"type": "compaction", "compact_threshold": 1000}],
        "service_tier": "flex",
        "truncation": "auto",
        "user": "u",
        "unheard_of": {"a": None},
    }
    body = sent(**fields)
    assert {name: body[name] for name in fields} == fields
    call = call_of(response_turn(**fields))
    call = bound(call, target())
    assert call.dialect.unsupported_fields(call) == ()


def test_numbers_keep_their_digits() -> None:
    raw = b'{"model":"alias","input":"Hi","temperature":0.10,"big":12345678901234567890123}'
    one = response_turn()
    call = call_of(replace(one, request=decode(raw, Hints(), Ids("a" * 48))))
    assert b'"big":12345678901234567890123' in asked(call, target()).body


@pytest.mark.parametrize("stream", [False, True])
def test_it_streams_as_the_client_wants(stream: bool) -> None:
    body = sent(stream=stream, **({"stream_options": {"include_obfuscation": False}} if stream else {}))
    assert body.get("stream") is (True if stream else None)
    assert ("stream_options" in body) is stream


def test_reasoning_models_are_asked_for_what_the_next_turn_needs() -> None:
    thinks = replace(default_capabilities("o4-mini"), responses=True)
    assert sent(to=target(capabilities=thinks))["include"] == [ENCRYPTED_REASONING]
    asked_more = sent(to=target(capabilities=thinks), include=["message.output_text.logprobs"])["include"]
    assert asked_more == ["message.output_text.logprobs", ENCRYPTED_REASONING]
    assert "include" not in sent()
    assert "include" not in sent(
        to=target(capabilities=thinks, unsupported_parameters=frozenset({"include"})), include=[]
    )


def test_what_the_deployment_sets_goes_where_the_client_says_nothing() -> None:
    own = {"temperature": 0.1, "top_p": 0.2, "metadata_of": 1, "user": "u"}
    body = sent(to=target(parameters=own), top_p=0.9)
    assert (body["temperature"], body["top_p"], body["metadata_of"], body["user"]) == (0.1, 0.9, 1, "u")


def test_what_the_deployment_sets_in_the_words_of_chat_completions_is_told_in_these() -> None:
    own = {
        "max_tokens": 9,
        "reasoning_effort": "low",
        "verbosity": "high",
        **dict.fromkeys(("n", "stop", "seed", "stream_options", "response_format"), 1),
        **dict.fromkeys(("api_version", "tool_call_parser"), "x"),
    }
    body = sent(to=target(parameters=own), text={"format": {"type": "text"}})
    assert {name: body[name] for name in body if name not in {"model", "store", "input"}} == {
        "max_output_tokens": 9,
        "reasoning": {"effort": "low"},
        "text": {"format": {"type": "text"}, "verbosity": "high"},
    }
    asks = {"reasoning": {"effort": "high"}, "max_output_tokens": 20}
    body = sent(to=target(parameters=own), **asks)
    assert {name: body[name] for name in asks} == asks


def test_what_the_upstream_has_refused_is_left_out_and_named() -> None:
    one = target(unsupported_parameters=frozenset({"temperature"}))
    made = asked(call_of(response_turn(temperature=1)), one)
    assert "temperature" not in orjson.loads(made.body)
    assert made.dropped == ("temperature",)


@pytest.mark.parametrize(
    ("name", "is_learned"), [("temperature", True), ("reasoning.effort", True), ("text.format", False)]
)
def test_a_refusal_is_learned_unless_the_answer_would_be_another(name: str, is_learned: bool) -> None:
    call = call_of(response_turn(temperature=1, reasoning={"effort": "low"}, text={"verbosity": "low"}))
    refusal = UpstreamFault(f"Unsupported parameter: '{name}' is not supported with this model.", status=400)
    taught = UnsupportedParameters().note(target(), call, refusal)
    assert (taught is not None) is is_learned


# The items


def items(*given: JsonObject, origin: str = "here") -> list[JsonObject]:
    return upstream_items(given, origin=origin, seal=OpenSealed())


def message(text: str, role: str = "user") -> JsonObject:
    kind = "output_text" if role == "assistant" else "input_text"
    return {"id": "msg_1", "type": "message", "role": role, "content": [{"type": kind, "text": text}]}


def thought(origin: str, signature: str = "gA", **members: Any) -> JsonObject:
    sealed = OpenSeal().close({"origin": origin, "signature": signature})
    return {"id": "rs_1", "type": "reasoning", "summary": [], "encrypted_content": sealed, **members}


CALL: JsonObject = {"id": "fc_1", "type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"}
OUTPUT: JsonObject = {"id": "fco_1", "type": "function_call_output", "call_id": "call_1", "output": "ok"}


def test_the_whole_history_is_sent_in_its_order_without_our_names() -> None:
    private = {"tollgate": {"origin": "gemini", "signature": "s"}}
    told = items(message("a"), message("b", "assistant"), {**CALL, **private}, OUTPUT, message("c"))
    assert [item.get("role") or item["type"] for item in told] == [
        *("user", "assistant", "function_call", "function_call_output", "user"),
    ]
    assert not [item for item in told if {"id", "tollgate"} & item.keys()]


def test_items_that_are_told_apart_by_their_ids_keep_them() -> None:
    request = {"id": "mcpr_1", "type": "mcp_approval_request", "server_label": "s", "name": "t", "arguments": "{}"}
    response = {"type": "mcp_approval_response", "approval_request_id": "mcpr_1", "approve": True, "id": "mcpa_1"}
    assert items(request, response) == [request, response]


def test_what_is_not_known_passes() -> None:
    odd = {"id": "x_1", "type": "from_the_future", "a": [None]}
    assert items(odd) == [odd]


def test_reasoning_goes_back_to_who_made_it_and_to_nobody_else() -> None:
    given = [message("a"), thought("here"), CALL, OUTPUT]
    assert items(*given)[1] == {"type": "reasoning", "summary": [], "encrypted_content": "gA"}
    assert [item["type"] for item in items(*given, origin="there")] == [
        *("message", "function_call", "function_call_output"),
    ]


def test_reasoning_in_plain_words_goes_back_as_such() -> None:
    content = [{"type": "reasoning_text", "text": "hm"}]
    told = items(thought("here", "", content=content), message("b", "assistant"))
    assert told[0] == {"type": "reasoning", "summary": [], "content": content}


@pytest.mark.parametrize("encrypted", [None, "", "gA of somebody", "x" * 9])
def test_reasoning_that_nobody_here_sealed_is_left_out(encrypted: str | None) -> None:
    one = {**thought("here"), "encrypted_content": encrypted}
    assert [item["type"] for item in items(one, message("b", "assistant"))] == ["message"]


def test_reasoning_that_led_to_nothing_is_left_out() -> None:
    """An upstream refuses reasoning without what it led to: the answer was cut, or its call was."""
    cut = {**CALL, "arguments": '{"a', "status": "incomplete"}
    told = items(message("a"), thought("here"), cut, message("b"), thought("here"))
    assert [item.get("role") for item in told] == ["user", "user"]


def test_a_compaction_of_ours_is_told_in_words_and_any_other_passes() -> None:
    ours = {"id": "cmp_1", "type": "compaction", "encrypted_content": OpenSeal().close({"summary": "All went well."})}
    theirs = {"id": "cmp_2", "type": "compaction", "encrypted_content": "gA"}
    told = items(ours, theirs)
    assert (told[0]["type"], told[0]["role"]) == ("message", "user")
    assert "All went well." in json.dumps(told[0])
    assert told[1] == {"type": "compaction", "encrypted_content": "gA"}


# Secrets


def test_secrets_of_tools_are_sent_and_never_kept() -> None:
    one = response_turn(tools=HOSTED)
    to = target()
    call = bound(call_of(one), to)
    assert b"secret" in asked(call, to).body
    echo = native.response_of(orjson.loads(asked(call, to).body), native.text({}))
    body, _ = to.provider.relay_body(call, to, MOMENT, orjson.dumps(echo), {})
    assert b"secret" not in body
    assert isinstance(call.dialect, ResponsesDialect)
    assert call.dialect.native_answer.response["output"]
    assert "secret" not in str(call.dialect.native_answer.response)


def test_hosted_tools_are_refused_where_they_would_have_to_be_translated() -> None:
    with pytest.raises(BadRequest) as caught:
        asked(call_of(response_turn(tools=HOSTED)), target(capabilities=Capabilities(responses=False)))
    assert (caught.value.param, caught.value.code) == ("tools[0].type", "unsupported_tool")
