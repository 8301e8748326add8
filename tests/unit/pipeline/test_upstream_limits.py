"""The client learns the upstream's rate limits, and nothing else of its headers."""

from dataclasses import replace

import pytest

from gateway.pipeline.answer_headers import MAX_LIMIT_VALUE, MAX_LIMITS, PLAIN_VALUE, upstream_limits
from gateway.protocol.json.types import JsonObject
from gateway.protocol.secret import Secret
from tests.fakes.memory import EVENT_STREAM, JSON_ANSWER, WHOLE_ANSWER, WHOLE_STREAM, Script, chat, target
from tests.unit.edge.test_consumer import call

LIMITS = {
    "x-ratelimit-limit-requests": "10000",
    "x-ratelimit-remaining-tokens": "149984",
    "x-ratelimit-reset-requests": "6m0s",
    "anthropic-ratelimit-tokens-reset": "2026-11-21T08:00:00Z",
    "ratelimit-policy": '"burst";q=100;w=60',
    "ratelimitbysize-remaining": "1",
}
OTHERS = {
    "openai-organization": "org-secret1234",
    "x-request-id": "req_1",
    "connection": "close",
    "transfer-encoding": "chunked",
    "set-cookie": "session=1",
    "server": "backend-17",
    "content-length": "5",
    "retry-after": "7",  # an error has it under its own name
    "proxy-x-ratelimit-limit": "1",
}


def test_only_limits_leave_under_their_prefix() -> None:
    expected = [(f"llm_provider-{name}".encode(), value.encode()) for name, value in LIMITS.items()]
    assert upstream_limits({**LIMITS, **OTHERS}, target()) == expected
    assert upstream_limits(OTHERS, target()) == []


@pytest.mark.parametrize(
    "value",
    [
        "",
        "1\r\nset-cookie: a=b",
        "1\x00",
        "é",
        "9" * (MAX_LIMIT_VALUE + 1),
        "http://10.0.0.7/quota",
        "10.0.0.7:8080",
        "10.0.0.7",
        "sk-upstream-0123456789",
    ],
)
def test_a_value_that_could_harm_does_not_leave(value: str) -> None:
    assert upstream_limits({"x-ratelimit-limit-requests": value}, target()) == []


def test_no_credential_leaves_in_a_value() -> None:
    of_secret = replace(target(), credential={"api_key": Secret("plainword")})
    assert upstream_limits({"x-ratelimit-limit-requests": "plainword"}, of_secret) == []
    assert upstream_limits({"x-ratelimit-limit-requests": "5"}, of_secret)


def test_they_are_few_however_many_the_upstream_sends() -> None:
    flood = {f"x-ratelimit-{number}": "1" for number in range(1000)}
    assert len(upstream_limits(flood, target())) == MAX_LIMITS
    assert upstream_limits({"x-ratelimit-" + "x" * 100: "1"}, target()) == []


ANSWERS = {
    "whole": (Script([WHOLE_ANSWER], headers={**JSON_ANSWER, **LIMITS}), {}, 200),
    "streamed": (Script(WHOLE_STREAM, headers={**EVENT_STREAM, **LIMITS}), {"stream": True}, 200),
    "refused": (Script([b'{"error": {"message": "slow down"}}'], 429, {**JSON_ANSWER, **LIMITS}), {}, 429),
}


@pytest.mark.parametrize(("script", "fields", "status"), ANSWERS.values(), ids=ANSWERS.keys())
def test_every_answer_tells_them(script: Script, fields: JsonObject, status: int) -> None:
    exchange = call(script, body=chat(**fields).raw)
    assert exchange.status == status
    told = {name.removeprefix(b"llm_provider-").decode() for name in exchange.headers if name.startswith(b"llm_")}
    assert told == LIMITS.keys()


@pytest.mark.parametrize("value", ["5", "0.5", "17.5s", "6m0s", "1h2m3.4s", "120ms", "1d", "2026-11-21T08:00:00+00:00"])
def test_numbers_durations_and_instants_are_known_to_be_harmless(value: str) -> None:
    assert PLAIN_VALUE.fullmatch(value)
    assert upstream_limits({"x-ratelimit-reset-requests": value}, target())


def test_an_address_is_no_plain_value() -> None:
    assert not any(PLAIN_VALUE.fullmatch(value) for value in ("", "10.0.0.7", "10.0.0.7:80", "1-2", "a", "1.2.3"))
