"""Requests to an OpenAI upstream: the client's bytes with the few changes that a deployment asks for."""

import json
from typing import Any

import orjson
import pytest

from gateway.protocol.attempt_context import AttemptContext
from gateway.protocol.call import Operation
from gateway.protocol.provider import UpstreamRequest
from gateway.protocol.secret import Secret
from gateway.providers.registry import PREFIXES, PROVIDERS
from tests.fakes.memory import CREDENTIAL, chat, decode, target

MOMENT = AttemptContext("01a1f7ee-f382-757a-934c-dda522f02992", 1_800_000_000.0)
STREAM_USAGE = {"include_usage": True}


def sent(call: Any, **changes: Any) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(request(call, **changes).body)
    return body


def request(call: Any, **changes: Any) -> UpstreamRequest:
    where = target(**changes)
    return where.provider.request(call, where, MOMENT)


def test_the_clients_bytes_are_unchanged_but_for_the_model() -> None:
    raw = b'{ "model" : "public",\n "messages":[{"role":"user","content":"\\u4f60 \\"model\\""}], "x":1.50e+1,"big":%d}'
    raw %= 10**30
    assert request(decode(raw)).body == raw.replace(b'"model" : "public"', b'"model":"private"')


def test_the_clients_bytes_are_unchanged_where_the_upstream_has_the_public_name() -> None:
    call = chat()
    assert request(call, upstream_model="public").body is call.raw


@pytest.mark.parametrize(
    ("kind", "body", "path"),
    [
        ("chat", {"model": "public", "messages": [{"role": "user"}]}, "/chat/completions"),
        ("completion", {"model": "public", "prompt": "x"}, "/completions"),
        ("embedding", {"model": "public", "input": "x"}, "/embeddings"),
    ],
)
def test_each_operation_goes_to_its_path_under_the_api_base(kind: str, body: dict[str, Any], path: str) -> None:
    made = request(decode(body, kind))
    assert made.url == f"http://first.test/v1{path}"
    assert json.loads(made.body) == {**body, "model": "private"}


def test_the_credential_is_sent_as_a_bearer_and_shown_nowhere() -> None:
    made = request(chat(), headers={"x-route": "blue"})
    assert made.headers["authorization"] == f"Bearer {CREDENTIAL}"
    assert made.headers["accept-encoding"] == "identity"
    assert made.headers["content-type"] == "application/json"
    assert made.headers["x-route"] == "blue"
    assert CREDENTIAL not in repr(made)
    assert CREDENTIAL not in repr(target())


@pytest.mark.parametrize("credential", [{}, {"api_key": Secret("")}])
def test_without_a_credential_no_authorization_is_sent(credential: dict[str, Secret]) -> None:
    assert "authorization" not in request(chat(), credential=credential).headers


# Usage is always asked of a stream

OPTIONS: list[tuple[dict[str, Any], Any]] = [
    ({}, STREAM_USAGE),
    ({"stream_options": None}, STREAM_USAGE),
    ({"stream_options": {}}, STREAM_USAGE),
    ({"stream_options": {"include_usage": False}}, STREAM_USAGE),
    ({"stream_options": {"include_usage": True}}, STREAM_USAGE),
    (
        {"stream_options": {"include_obfuscation": False}},
        {"include_obfuscation": False, "include_usage": True},
    ),
]


@pytest.mark.parametrize(("fields", "expected"), OPTIONS)
def test_usage_is_asked_of_every_stream(fields: dict[str, Any], expected: Any) -> None:
    call = chat(stream=True, **fields)
    assert sent(call) == {**call.body, "model": "private", "stream_options": expected}


def test_usage_is_not_asked_of_a_whole_answer() -> None:
    assert "stream_options" not in sent(chat())


def test_usage_is_not_asked_of_a_server_that_knows_no_stream_options() -> None:
    assert "stream_options" not in sent(chat(stream=True), provider=PROVIDERS["mindie"])


def test_asking_for_usage_appends_to_the_clients_bytes() -> None:
    raw = b'{"model":"private","stream":true,"messages":[{"role":"user","content":"\\u4f60"}] }'
    expected = raw[:-2] + b',"stream_options":{"include_usage":true}}'
    assert request(decode(raw)).body == expected


def test_an_escaped_body_that_is_encoded_anew_keeps_its_big_numbers() -> None:
    raw = b'{"model":"public","tags":["a"],"messages":[{"role":"user","content":"x"}],"big":%d}' % 10**30
    assert sent(decode(raw))["big"] == 10**30


# Fields of the gateway, and parameters of the deployment


@pytest.mark.parametrize(
    ("given", "left"),
    [
        ({"tags": ["a"], "no-log": True, "litellm_session_id": "s", "litellm_trace_id": "t"}, {}),
        ({"litellm_metadata": {"a": 1}}, {}),
        ({"cache": {"ttl": 5}}, {}),
        ({"cache": None}, {}),
        ({"metadata": {"tags": ["a"], "spend_logs_metadata": {"k": 1}}}, {}),
        ({"metadata": {"tags": ["a"], "mine": "1"}}, {"metadata": {"mine": "1"}}),
        ({"metadata": {"mine": "1"}}, {"metadata": {"mine": "1"}}),
        ({"metadata": {}}, {"metadata": {}}),
        ({"metadata": None}, {"metadata": None}),
        ({"user": "ann", "guided_json": {"tags": 1}}, {"user": "ann", "guided_json": {"tags": 1}}),
    ],
)
def test_fields_addressed_to_the_gateway_stay_here(given: dict[str, Any], left: dict[str, Any]) -> None:
    assert sent(chat(**given), provider=PROVIDERS["openai"]) == {**chat().body, **left, "model": "private"}


def test_a_deployments_parameters_are_added_and_the_caller_wins() -> None:
    parameters = {"temperature": 0.1, "seed": 7}
    assert sent(chat(), parameters=parameters) == {**chat().body, "model": "private", **parameters}
    assert sent(chat(temperature=1), parameters=parameters)["temperature"] == 1
    assert sent(chat(), parameters={"model": "other"})["model"] == "private"


def test_a_call_is_not_changed_by_being_sent() -> None:
    call = chat(stream=True, stream_options={"x": 1}, metadata={"tags": ["a"], "k": "v"}, tags=["b"])
    before = orjson.dumps(call.body)
    sent(call)
    assert orjson.dumps(call.body) == before


# The providers themselves


@pytest.mark.parametrize("name", PROVIDERS)
def test_a_provider_says_what_the_console_and_the_config_need(name: str) -> None:
    provider = PROVIDERS[name]
    assert provider.name == name
    assert provider.title
    assert provider.operations <= frozenset(Operation)
    assert provider.default_api_base == provider.default_api_base.rstrip("/")
    assert not set(provider.aliases) & set(PROVIDERS)
    assert all(PREFIXES[alias] is provider for alias in provider.aliases)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("chat", {"messages": [{"role": "user", "content": "hello you"}]}),
        ("completion", {"prompt": ["hello", "you"]}),
        ("embedding", {"input": ["hello", "you"]}),
    ],
)
def test_the_built_in_provider_answers_in_this_process_and_always_the_same(
    kind: str, body: dict[str, Any], stream: bool
) -> None:
    if kind == "embedding" and stream:
        return
    call = decode({"model": "public", **body, **({"stream": True} if stream else {})}, kind)
    made = [request(call, provider=PROVIDERS["mock"], credential={}) for _ in range(2)]
    first, second = (b"".join(one.local.pieces) for one in made if one.local is not None)
    assert first == second
    if stream:
        relay = PROVIDERS["mock"].relay(call, target(), MOMENT)
        assert b"Echo:" in relay.feed(first)
        assert relay.is_done
        assert relay.metadata.usage is not None
    else:
        answer, metadata = PROVIDERS["mock"].relay_body(call, target(), MOMENT, first, {})
        assert orjson.loads(answer)["model"] == "public"
        assert metadata.usage is not None
