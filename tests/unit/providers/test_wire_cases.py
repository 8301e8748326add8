"""Every wire case of a provider that speaks OpenAI's dialect, run against that provider as it is registered: a new one
needs its cases and no test of its own. The other formats have test modules of theirs.

Beside the shape of the other cases (their `kind`): `dropped` names the parameters that a request loses, and
`refused` is a request that no upstream sees, with the `error` that its client gets.
"""

from collections.abc import Callable
from typing import Any

import orjson
import pytest

from gateway.protocol.capabilities import apply_flags
from gateway.protocol.dialects.openai.upstream_answer import OpenAITranslated
from gateway.protocol.errors import BadRequest, UpstreamFault
from gateway.protocol.provider import Target
from gateway.protocol.secret import Secret
from gateway.protocol.sse import EventSplitter, event_data
from gateway.providers.bases.openai_passthrough import OpenAIPassthrough
from gateway.providers.registry import PREFIXES, PROVIDERS
from tests.fakes import memory
from tests.fakes.memory import DONE, chat, chunk, decode, event
from tests.fakes.provider_cases import (
    MOMENT,
    Case,
    call_of,
    cases,
    check_error,
    check_request,
    check_response,
    check_stream,
    like,
    streamed,
)

KEY = "az-test"  # what the cases call it


def of(kind: str) -> list[Any]:
    found = cases("", kind=kind)
    theirs = [
        one
        for one in found
        if isinstance(PREFIXES.get(one.values[0]["provider"]), OpenAITranslated | OpenAIPassthrough)
    ]
    assert theirs, kind
    return theirs


def target_of(case: Case) -> Target:
    context = case.get("context", {})
    provider = PREFIXES[case["provider"]]
    flags = {**context, "tool_call_parser": context.get("tool_parser", "")}
    return memory.target(
        provider=provider,
        api_base=context.get("endpoint") or provider.default_api_base,
        upstream_model=context.get("upstream_model") or context.get("deployment") or "qwen3",
        parameters={name: context[name] for name in provider.own_parameters & context.keys()},
        credential={"api_key": Secret(KEY)},
        capabilities=apply_flags(flags),
    )


@pytest.mark.parametrize("case", of("request"))
def test_a_registered_provider_asks_as_its_case_says(case: Case) -> None:
    target = target_of(case)
    check_request(target.provider, target, case)
    if "dropped" in case:
        assert list(target.provider.request(call_of(case), target, MOMENT).dropped) == case["dropped"]


@pytest.mark.parametrize("case", of("refused"))
def test_a_registered_provider_refuses_as_its_case_says(case: Case) -> None:
    target = target_of(case)
    call = decode(case["openai"])
    with pytest.raises(BadRequest) as caught:
        target.provider.request(call, target, MOMENT)
    assert caught.value.status == case["error"]["status"]
    like(orjson.loads(call.dialect.error_body(caught.value)), case["error"]["body"])


@pytest.mark.parametrize("case", of("response"))
def test_a_registered_provider_answers_whole_as_its_case_says(case: Case) -> None:
    _run(check_response, case)


@pytest.mark.parametrize("case", of("stream"))
def test_a_registered_provider_streams_as_its_case_says_however_it_is_cut(case: Case) -> None:
    _run(check_stream, case)


@pytest.mark.parametrize("case", of("error"))
def test_a_registered_provider_fails_as_its_case_says(case: Case) -> None:
    target = target_of(case)
    fault = check_error(target.provider, target, case)
    if "headers" in case["openai"]:
        assert {name.decode(): value.decode() for name, value in fault.headers} == case["openai"]["headers"]


@pytest.mark.parametrize("case", of("stream"))
def test_a_registered_provider_never_ends_a_stream_that_was_cut(case: Case) -> None:
    """Behind the first event that says something, which is no whole call yet."""
    target, said = target_of(case), b""
    splitter = EventSplitter()
    for told in splitter.feed(case["provider_wire"]["body_text"].encode()) + splitter.finish():
        said += told + b"\n\n"
        if any(choice.get("delta") for choice in orjson.loads(event_data(told) or b"{}").get("choices", ())):
            break
    relay = target.provider.relay(call_of(case), target, MOMENT)
    shown = relay.feed(said)
    with pytest.raises(UpstreamFault) as caught:
        relay.finish()
    assert caught.value.code == "upstream_incomplete_stream"
    assert b'"finish_reason":"' not in shown
    assert b"[DONE]" not in shown


# Reasoning, which every server of this dialect may tell

SPEAKERS = [name for name, provider in PROVIDERS.items() if isinstance(provider, OpenAITranslated | OpenAIPassthrough)]
OTHER_DOORS = {"azure_ai": "mistral-large", "vertex_ai": "meta/llama-4-scout"}


@pytest.mark.parametrize("name", [*(name for name in SPEAKERS if name != "mock"), *OTHER_DOORS])
def test_reasoning_reaches_the_client(name: str) -> None:
    target = memory.target(provider=PROVIDERS[name], upstream_model=OTHER_DOORS.get(name, "m"))
    said = {"role": "assistant", "reasoning_content": "hm", "content": "Hello"}
    chunks = [chunk(choices=[{"index": 0, "delta": said, "finish_reason": None}]), chunk(finish="stop")]
    answer = streamed(target.provider, target, chat(stream=True), [*map(event, chunks), DONE])
    whole = orjson.dumps({**chunks[0], "choices": [{"index": 0, "message": said, "finish_reason": "stop"}]})
    shown, _ = target.provider.relay_body(chat(), target, MOMENT, whole, {})
    assert answer.whole()["choices"][0]["message"] == said
    assert orjson.loads(shown)["choices"][0]["message"] == said


def _run(check: Callable[..., object], case: Case) -> None:
    target = target_of(case)
    check(target.provider, target, case)
