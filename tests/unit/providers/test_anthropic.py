"""Anthropic as a provider: every wire case however it is cut, addresses, credentials, and what is passed through."""

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
def test_a_request_is_exactly_as_the_wire_wants_it(case: Case) -> None:
    check_request(PROVIDER, where(case), case)


def test_claude_elsewhere_differs_by_data_only() -> None:
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


@pytest.mark.parametrize("case", cases("anthropic_", kind="response"))
def test_a_whole_answer(case: Case) -> None:
    metadata = check_response(PROVIDER, where(case), case)
    assert metadata.usage is not None
    assert metadata.usage.total_input == case["openai"]["usage"]["prompt_tokens"]


@pytest.mark.parametrize("case", cases("anthropic_", kind="error"))
def test_an_error_is_of_its_class(case: Case) -> None:
    check_error(PROVIDER, where(case), case)


@pytest.mark.parametrize("case", [one for one in STREAMS if one.values[0]["openai"]["done"]])
def test_a_stream_is_the_same_however_it_is_cut(case: Case) -> None:
    check_stream(PROVIDER, where(case), case)


def broken(case: Case, pieces: Iterable[bytes]) -> tuple[bytes, UpstreamFault]:
    """What a client is shown of a stream, and what ends it."""
    relay, shown = PROVIDER.relay(call_of(case), target(), NOW), b""
    try:
        for piece in pieces:
            shown += relay.feed(piece)
        relay.finish()
    except UpstreamFault as fault:
        return shown, fault
    raise AssertionError(f"nothing ended it: {shown!r}")


@pytest.mark.parametrize("case", [one for one in STREAMS if not one.values[0]["openai"]["done"]])
def test_an_error_in_a_stream_ends_it_however_it_is_cut(case: Case) -> None:
    wire = case["provider_wire"]
    for pieces in cuttings(wire["body_text"].encode(), wire["cuts"]):
        shown, fault = broken(case, pieces)
        like(error_object(fault), case["openai"]["error_frame"])
        assert b'"content":"' in shown
        assert b"[DONE]" not in shown


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
    where = target(unsupported_parameters=frozenset({"temperature"}))
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


def test_a_whole_message_is_passed_through_renamed() -> None:
    raw = orjson.dumps(WHOLE)
    body, metadata = PROVIDER.relay_body(messages_call({}), target(), NOW, raw, {})
    assert body == raw.replace(b'"claude"', b'"alias-1"')
    assert metadata.usage is not None
    assert metadata.usage.reasoning_tokens == 10


def test_a_request_of_the_same_format_keeps_its_bytes() -> None:
    raw = b'{"model": "alias-1", "max_tokens": 5,  "messages": [{"role": "user", "content": "\\u00e9"}]}'
    asked = anthropic_client.DIALECT.decode(raw, Hints())
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
    fetching = replace(PROVIDER, issuer="kind")
    assert fetching.token(target()) == ""
    assert fetching.token(target(credential={})) == "kind"
