"""Anthropic as a provider: every wire case in any chunking, addresses, credentials, and pass-through."""

import json
from collections.abc import Iterable
from dataclasses import replace

import orjson
import pytest

from gateway.protocol.attempt_context import Fetched
from gateway.protocol.dialect import Hints
from gateway.protocol.dialects.anthropic import client as anthropic_client
from gateway.protocol.dialects.anthropic import wire as anthropic_wire
from gateway.protocol.dialects.openai.wire import error_object
from gateway.protocol.errors import UpstreamFault
from gateway.protocol.json.body import ABSENT
from gateway.protocol.provider import Target
from gateway.protocol.secret import Secret
from gateway.protocol.usage import Usage
from gateway.providers.anthropic import PROVIDER
from gateway.providers.bases.anthropic_messages import AnthropicUpstream
from tests.fakes.anthropic import FULL, NOW, USER, WHOLE, call, event, messages_call, relayed, target
from tests.fakes.provider_cases import (
    FOLDER,
    Case,
    call_of,
    cases,
    check_error,
    check_request,
    check_response,
    check_stream,
    cuttings,
    like,
)

CLAUDE_ON_VERTEX = json.loads((FOLDER / "vertex_claude_req.json").read_text(encoding="utf-8"))
STREAMS = cases("anthropic_stream_")


# Wire cases


def where(case: Case) -> Target:
    return target(case.get("context"))


@pytest.mark.parametrize("case", cases("anthropic_", kind="request"))
def test_a_request_equals_its_wire_case(case: Case) -> None:
    check_request(PROVIDER, where(case), case)


def test_claude_on_another_platform_is_configuration() -> None:
    wire, context = CLAUDE_ON_VERTEX["provider_wire"], CLAUDE_ON_VERTEX["context"]
    elsewhere = AnthropicUpstream(
        name="elsewhere",
        title="Claude elsewhere",
        make_url=lambda call, target: f"https://host{wire['path']}",
        issuer="kind",
        version_header="",
        members={"model": ABSENT, "anthropic_version": "vertex-2023-10-16"},
    )
    where = target({"upstream_model": context["upstream_model"]}, credential={})
    assert elsewhere.token(where) == "kind"
    request = elsewhere.request(call(CLAUDE_ON_VERTEX["openai"]), where, replace(NOW, token="ya29.test"))
    assert orjson.loads(request.body) == wire["body"]
    assert request.headers.items() >= wire["headers"].items()
    assert "anthropic-version" not in request.headers
    passed = elsewhere.request(messages_call({"stream": True}), where, NOW)
    assert orjson.loads(passed.body) == {
        "max_tokens": 20,
        "messages": [USER],
        "stream": True,
        "anthropic_version": "vertex-2023-10-16",
    }


@pytest.mark.parametrize("case", cases("anthropic_", kind="response"))
def test_a_whole_answer(case: Case) -> None:
    metadata = check_response(PROVIDER, where(case), case)
    assert metadata.usage is not None
    assert metadata.usage.total_input == case["openai"]["usage"]["prompt_tokens"]


@pytest.mark.parametrize("case", cases("anthropic_", kind="error"))
def test_an_error_has_its_class(case: Case) -> None:
    check_error(PROVIDER, where(case), case)


@pytest.mark.parametrize("case", [one for one in STREAMS if one.values[0]["openai"]["done"]])
def test_a_stream_is_the_same_however_it_is_cut(case: Case) -> None:
    check_stream(PROVIDER, where(case), case)


def broken(case: Case, pieces: Iterable[bytes]) -> tuple[bytes, UpstreamFault]:
    """(the client's part of a stream, the fault that ends it)."""
    relay, relayed = PROVIDER.relay(call_of(case), target(), NOW), b""
    try:
        for piece in pieces:
            relayed += relay.feed(piece)
        relay.finish()
    except UpstreamFault as fault:
        return relayed, fault
    raise AssertionError(f"nothing ended it: {relayed!r}")


@pytest.mark.parametrize("case", [one for one in STREAMS if not one.values[0]["openai"]["done"]])
def test_an_error_in_a_stream_ends_it_however_it_is_cut(case: Case) -> None:
    wire = case["provider_wire"]
    for pieces in cuttings(wire["body_text"].encode(), wire["cuts"]):
        relayed, fault = broken(case, pieces)
        like(error_object(fault), case["openai"]["error_frame"])
        assert b'"content":"' in relayed
        assert b"[DONE]" not in relayed


# The provider


def test_parameters_of_the_deployment_are_defaults() -> None:
    parameters = {"max_tokens": 7, "temperature": 0.5, "anthropic_beta": "a,b", "inference_geo": "us"}
    where = target(parameters=parameters)
    encoded = PROVIDER.request(call({"messages": [USER], "temperature": 0}), where, NOW)
    body = orjson.loads(encoded.body)
    assert (body["max_tokens"], body["temperature"], body["inference_geo"]) == (7, 0, "us")
    assert encoded.headers["anthropic-beta"] == "a,b"
    body = orjson.loads(PROVIDER.request(messages_call({}), where, NOW).body)
    assert (body["max_tokens"], body["temperature"], body["inference_geo"]) == (20, 0.5, "us")
    assert "anthropic_beta" not in body


def test_refused_parameters_are_left_out() -> None:
    where = target(unsupported_parameters=frozenset({"temperature"}))
    for client_call in (call({"messages": [USER], "temperature": 1}), messages_call({"temperature": 1})):
        body = PROVIDER.request(client_call, where, NOW)
        assert "temperature" not in orjson.loads(body.body)
        assert body.dropped == ("temperature",)


def test_long_whole_answers_can_be_streamed_from_the_upstream() -> None:
    streaming = replace(PROVIDER, streams_above_tokens=21_333)
    client_call = call({"messages": [USER], "max_tokens": 30_000})
    assert orjson.loads(streaming.request(client_call, target(), NOW).body)["stream"] is True
    assert "stream" not in orjson.loads(PROVIDER.request(client_call, target(), NOW).body)


def test_the_base_may_end_in_v1() -> None:
    client_call = call({"messages": [USER]})
    for base in ("http://h", "http://h/", "http://h/v1", "http://h/v1/"):
        assert PROVIDER.request(client_call, target(api_base=base), NOW).url == "http://h/v1/messages"


def test_a_bearer_token_goes_into_authorization() -> None:
    headers = PROVIDER.request(call({"messages": [USER]}), target(credential={"auth_token": Secret("t")}), NOW)
    assert headers.headers["authorization"] == "Bearer t"
    assert "x-api-key" not in headers.headers


def test_media_are_inlined_for_upstreams_without_addresses() -> None:
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
    for client_call in (theirs, ours):
        assert PROVIDER.media(client_call, target()) == ()
        assert inlining.media(client_call, target()) == (url,)
        body = inlining.request(client_call, target(), fetched).body
        assert url.encode() not in body
        assert b'"data":"AA=="' in body


# Passed through


def test_a_client_of_the_same_format_gets_the_upstreams_bytes() -> None:
    expected = None
    for pieces in cuttings(FULL + event("strange")):
        out, metadata = relayed(pieces)
        expected = expected or out
        assert out == expected
        assert metadata.usage == Usage(input_tokens=5, cache_read_tokens=7, output_tokens=30, reasoning_tokens=10)
        assert (metadata.upstream_id, metadata.model) == ("msg_1", "claude")
    assert expected is not None
    first, rest = expected.split(b"\n\n", 1)
    assert b'"model":"alias-1"' in first
    assert rest == FULL.split(b"\n\n", 1)[1]


def test_the_terminal_event_waits_for_the_end() -> None:
    relay = PROVIDER.relay(messages_call({"stream": True}), target(), NOW)
    assert b"message_stop" not in relay.feed(FULL)
    assert relay.is_done
    assert relay.finish() == anthropic_wire.MESSAGE_STOP


def test_a_whole_message_passes_with_the_public_model_name() -> None:
    raw = orjson.dumps(WHOLE)
    body, metadata = PROVIDER.relay_body(messages_call({}), target(), NOW, raw, {})
    assert body == raw.replace(b'"claude"', b'"alias-1"')
    assert metadata.usage is not None
    assert metadata.usage.reasoning_tokens == 10


def test_a_request_of_the_same_format_keeps_its_bytes() -> None:
    raw = b'{"model": "alias-1", "max_tokens": 5,  "messages": [{"role": "user", "content": "\\u00e9"}]}'
    client_call = anthropic_client.DIALECT.decode(raw, Hints())
    request = PROVIDER.request(client_call, target(), NOW)
    assert request.body == raw.replace(b'"model": "alias-1"', b'"model":"claude-sonnet-4-5"')
    client_call = messages_call(
        {"tags": ["a"], "metadata": {"user_id": "u", "tags": ["b"]}, "anthropic_beta": ["x"], "top_k": 4}
    )
    request = PROVIDER.request(client_call, target({"sampling": "none"}), NOW)
    body = orjson.loads(request.body)
    assert body.keys() == {"model", "max_tokens", "messages", "metadata"}
    assert body["metadata"] == {"user_id": "u"}
    assert request.headers["anthropic-beta"] == "x"
    assert request.dropped == ("top_k",)


def test_tokens_are_counted_by_the_upstreams_own_count() -> None:
    request = PROVIDER.count_request(messages_call({"system": "s", "stream": True}), target(), NOW)
    assert request.url == "https://api.anthropic.com/v1/messages/count_tokens"
    assert orjson.loads(request.body) == {"model": "claude-sonnet-4-5", "messages": [USER], "system": "s"}


def test_a_key_needs_no_token() -> None:
    fetching = replace(PROVIDER, issuer="kind")
    assert fetching.token(target()) == ""
    assert fetching.token(target(credential={})) == "kind"
