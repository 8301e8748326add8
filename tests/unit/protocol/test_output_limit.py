"""A lowered output limit reaches every upstream, and nothing else of the request changes."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol.attempt_context import AttemptContext
from gateway.protocol.dialect import Hints
from gateway.protocol.dialects.anthropic.client import DIALECT as ANTHROPIC
from gateway.protocol.json.large_body import LARGE_BYTES
from gateway.protocol.output_limit import lower_output, read_output_limit
from gateway.protocol.secret import Secret
from gateway.providers.registry import PROVIDERS
from tests.fakes.memory import DIALECTS, decode, target

CONTEXT = AttemptContext("id", 1_800_000_000.0)
HELLO = [{"role": "user", "content": 'the "max_tokens": 9 of "max_completion_tokens": null'}]
CHAT = {"model": "public", "messages": HELLO}


@pytest.mark.parametrize(
    ("raw", "lowered"),
    [
        (b'{"max_tokens": 900, "x":1}', b'{"max_tokens":20, "x":1}'),
        (b'{"max_completion_tokens":900 ,"x":1}', b'{"max_completion_tokens":20 ,"x":1}'),
        (b'{"x":1,"max_tokens":null}', b'{"x":1,"max_tokens":20}'),
        (b'{"x":1 }', b'{"x":1,"max_tokens":20}'),
        (b'{"max_tokens":7,"max_completion_tokens":90}', b'{"max_tokens":7,"max_completion_tokens":20}'),
    ],
)
def test_only_the_limit_changes_in_the_bytes(raw: bytes, lowered: bytes) -> None:
    for name, value in {"model": b'"public"', "messages": orjson.dumps(HELLO)}.items():
        if name.encode() not in raw:
            raw, lowered = (b'{"%s":%s,' % (name.encode(), value) + text[1:] for text in (raw, lowered))
    call = lower_output(decode(raw), 20)
    assert call.raw == lowered
    assert dict(call.body) == orjson.loads(lowered)


def test_a_limit_that_stands_elsewhere_too_is_changed_where_it_counts() -> None:
    call = decode(CHAT | {"max_tokens": 50, "tools": [], "metadata": {"max_tokens": "1"}, "x": {"max_tokens": 70}})
    lowered = orjson.loads(lower_output(call, 20).raw)
    assert (lowered["max_tokens"], lowered["x"]) == (20, {"max_tokens": 70})


def test_a_large_body_is_lowered_like_a_small_one() -> None:
    call = decode({"model": "public", "messages": [{"role": "user", "content": "a" * LARGE_BYTES}], "max_tokens": 900})
    lowered = lower_output(call, 20)
    lowered.release_body()
    assert (lowered.body["max_tokens"], len(lowered.body["messages"][0]["content"])) == (20, LARGE_BYTES)


@given(limit=st.integers(16, 10**9), own=st.none() | st.integers(1, 10**9), answers=st.integers(1, 3))
def test_a_limit_is_never_raised(limit: int, own: int | None, answers: int) -> None:
    call = lower_output(decode(CHAT | {"n": answers} | ({} if own is None else {"max_tokens": own})), limit)
    assert read_output_limit(call.body) == min(limit, own or limit)


@pytest.mark.parametrize("parameters", [{}, {"max_tokens": 4000}, {"max_completion_tokens": 4000}])
@pytest.mark.parametrize("asked", [{}, {"max_tokens": 900}, {"max_completion_tokens": 900}])
@pytest.mark.parametrize("provider", ["openai", "openai_compatible", "anthropic", "gemini", "ollama"])
def test_the_upstream_of_a_chat_gets_the_lowered_limit(provider: str, asked: Any, parameters: Any) -> None:
    to = target(
        provider=PROVIDERS[provider], parameters=parameters, credential={"api_key": Secret("sk")}, upstream_model="m"
    )
    call = lower_output(decode(CHAT | asked), 20)
    sent = orjson.loads(to.provider.request(call, to, CONTEXT).body)
    assert _limits(sent) == [20], sent


@pytest.mark.parametrize("provider", ["openai", "anthropic", "gemini", "ollama"])
def test_the_upstream_of_a_message_gets_the_lowered_limit(provider: str) -> None:
    raw = orjson.dumps({"model": "public", "max_tokens": 900, "messages": [{"role": "user", "content": "hi"}]})
    call = lower_output(ANTHROPIC.decode(raw, Hints()), 20)
    to = target(provider=PROVIDERS[provider], credential={"api_key": Secret("sk")}, upstream_model="m")
    assert _limits(orjson.loads(to.provider.request(call, to, CONTEXT).body)) == [20]


def test_a_completion_gets_the_lowered_limit() -> None:
    call = lower_output(DIALECTS["completion"].decode(b'{"model":"public","prompt":"hi"}', Hints()), 20)
    assert _limits(orjson.loads(target().provider.request(call, target(), CONTEXT).body)) == [20]


def _limits(sent: Any) -> list[int]:
    """All limits of an upstream's request, by the names of its format."""
    names = ("max_tokens", "max_completion_tokens", "max_output_tokens", "maxOutputTokens", "num_predict")
    holders = [sent, sent.get("generationConfig") or {}, sent.get("options") or {}]
    return [holder[name] for holder in holders for name in names if name in holder]
