"""Rows of the catalogue of upstream faults (docs/faults.md) that concern a whole request: who is asked next and when,
what the client gets, and what is recorded. Times are virtual."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
import pytest

from gateway.pipeline.attempt_timer import COMMENT
from gateway.pipeline.ports import Attempt
from gateway.protocol.call import Call, Finish
from gateway.protocol.errors import ConnectFault, Fault
from gateway.protocol.usage import MAX_TOKENS, UsageSource
from gateway.routing.breaker import Ejection
from gateway.routing.error_class import ErrorClass
from gateway.routing.walk import Routing
from gateway.upstream.http1 import ConnectionBroken
from tests.fakes.memory import (
    DONE,
    FOREVER,
    JSON_ANSWER,
    PRINCIPAL,
    WHOLE_ANSWER,
    WHOLE_STREAM,
    MemoryLedger,
    MemoryReply,
    Script,
    ScriptedClient,
    bind,
    chat,
    chunk,
    event,
    exchange_plan,
    now,
    play,
    routing,
    services,
    target,
)

PLAIN, STREAMED = chat(), chat(stream=True)
REFUSED = ConnectFault("The upstream could not be reached.", is_retryable=True)
ANSWER = Script([WHOLE_ANSWER], headers=JSON_ANSWER)
DATE = "Fri, 20 Nov 2026 08:00:00 GMT"


@dataclass(slots=True)
class Outcome:
    reply: MemoryReply
    fault: Fault | None
    rows: list[Attempt]
    asked: int
    took_s: float
    ejections: Mapping[str, Ejection]
    ended_at: float


def ask(call: Call, *answers: Script | BaseException, **limits: float) -> Outcome:
    """One request to as many deployments as there are answers."""

    async def story() -> Outcome:
        state = routing()
        client, ledger, reply = ScriptedClient(answers), MemoryLedger(), MemoryReply()
        own = services(client, ledger, routing=state, **limits)
        targets = [target(f"up{number}") for number in range(len(answers))]
        fault: Fault | None = None
        try:
            await exchange_plan(bind(call), targets, PRINCIPAL, own, reply, request_id="r", timeout_s=None)
        except Fault as error:
            fault = error
        took_s = asyncio.get_running_loop().time()
        ejections = dict(state.breaker.ejections)
        return Outcome(reply, fault, ledger.closed, len(client.requests), took_s, ejections, now())

    return play(story())


def test_u01_a_refused_connection_costs_the_client_no_time() -> None:
    outcome = ask(PLAIN, REFUSED, ANSWER)
    assert (outcome.fault, outcome.asked, outcome.took_s) == (None, 2, 0)
    assert outcome.rows[0].error_class == ErrorClass.CONNECT
    assert not outcome.rows[0].is_sent


def test_u01_a_deployment_that_refuses_five_times_is_out() -> None:
    state: list[Routing] = []

    async def story() -> None:
        state.append(routing())
        targets = [target("up0"), target("up1")]
        for _ in range(5):
            client = ScriptedClient([REFUSED, ANSWER])
            own = services(client, MemoryLedger(), routing=state[0])
            await exchange_plan(bind(PLAIN), targets, PRINCIPAL, own, MemoryReply(), request_id="r", timeout_s=None)
        assert state[0].breaker.ejections.keys() == {"up0"}

    play(story())


@pytest.mark.parametrize("call", [PLAIN, STREAMED], ids=["whole", "streamed"])
def test_u04_a_server_that_accepts_and_says_nothing_is_left_at_its_first_byte_limit(call: Call) -> None:
    good = Script(WHOLE_STREAM) if call.stream else ANSWER
    outcome = ask(call, Script(wait_s=FOREVER), good, timeout_s=60.0)
    assert (outcome.fault, outcome.took_s) == (None, 60.0)
    assert outcome.reply.body.replace(COMMENT, b"") == ask(call, good).reply.body, "one answer"
    assert [row.finish for row in outcome.rows] == [Finish.TIMEOUT, Finish.COMPLETE]


@pytest.mark.parametrize("end", [(), (ConnectionBroken("cut"),)], ids=["closed", "reset"])
def test_u06_a_stream_that_ends_without_its_end_is_never_completed(end: tuple[BaseException, ...]) -> None:
    outcome = ask(STREAMED, Script([*WHOLE_STREAM[:2], *end]), Script(WHOLE_STREAM))
    assert outcome.fault is not None
    assert outcome.fault.status == 502
    assert outcome.asked == 1, "the client has a part of this answer"
    assert b"[DONE]" not in outcome.reply.body
    assert b'"finish_reason":"stop"' not in outcome.reply.body
    row = outcome.rows[0]
    assert row.finish is Finish.UPSTREAM_BROKEN
    assert row.usage.total_output > 0, "what came is billed"


@pytest.mark.parametrize(
    ("headers", "least_s", "most_s"),
    [
        ({"retry-after": "30"}, 30, 30),
        ({"retry-after": "Fri, 20 Nov 2026 08:00:40 GMT", "date": DATE}, 40, 40),
        ({"retry-after-ms": "20500"}, 20, 21),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "50s"}, 50, 50),
        ({"retry-after": "50000"}, 4, 60),
        ({"retry-after": "1e9"}, 4, 6),
        ({"retry-after": "-1"}, 4, 6),
        ({"retry-after": "soon"}, 4, 6),
        ({"retry-after": "\u0663"}, 4, 6),
        ({}, 4, 6),
    ],
    ids=str,
)
def test_u10_a_429_cools_its_deployment_alone_for_as_long_as_it_asks_up_to_a_minute(
    headers: dict[str, str], least_s: float, most_s: float
) -> None:
    busy = Script([b'{"error":{"message":"slow down"}}'], status=429, headers={**JSON_ANSWER, **headers})
    outcome = ask(PLAIN, busy, ANSWER)
    assert (outcome.fault, outcome.asked, outcome.took_s) == (None, 2, 0), "the client does not wait"
    assert outcome.ejections.keys() == {"up0"}
    assert least_s <= outcome.ejections["up0"].until_s - outcome.ended_at <= most_s


@pytest.mark.parametrize("status", [500, 502, 503, 504, 529])
def test_u11_a_failing_server_is_followed_by_others_and_told_in_openais_shape(status: int) -> None:
    failure = Script([b"{}"], status=status, headers=JSON_ANSWER)
    third = ask(PLAIN, failure, failure, ANSWER)
    assert (third.fault, third.asked) == (None, 3)
    alone = ask(PLAIN, failure)
    assert alone.fault is not None
    assert alone.fault.status in {502, 503, 504}
    error = orjson.loads(PLAIN.dialect.error_body(alone.fault))["error"]
    assert set(error) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("status", [400, 413, 422])
def test_u12_an_error_of_the_request_is_asked_once(status: int) -> None:
    refusal = Script([b'{"error":{"message":"no such tool"}}'], status=status, headers=JSON_ANSWER)
    outcome = ask(PLAIN, refusal, ANSWER)
    assert outcome.asked == 1
    assert outcome.fault is not None
    assert 400 <= outcome.fault.status < 500
    assert not outcome.ejections


@pytest.mark.parametrize("status", [401, 403])
def test_u12_a_refused_credential_takes_its_deployment_out_and_is_not_the_clients_fault(status: int) -> None:
    refusal = Script([b'{"error":{"message":"bad key sk-upstream-0123456789"}}'], status=status, headers=JSON_ANSWER)
    assert ask(PLAIN, refusal, ANSWER).ejections.keys() == {"up0"}
    alone = ask(PLAIN, refusal)
    assert alone.fault is not None
    assert (alone.fault.status, alone.fault.code) == (502, "upstream_auth_failed")
    assert "sk-upstream" not in alone.fault.message


NONSENSE: dict[str, Any] = {
    "none": None,
    "zero": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
    "negative": {"prompt_tokens": -7, "completion_tokens": -3, "total_tokens": -10},
    "1e18": {"prompt_tokens": 10**18, "completion_tokens": 10**18, "total_tokens": 10**18},
    "1e308": {"prompt_tokens": 1e308, "completion_tokens": 1e308, "total_tokens": 1e308},
    "text": {"prompt_tokens": "7", "completion_tokens": [3], "total_tokens": {}},
}


@pytest.mark.parametrize("usage", NONSENSE.values(), ids=NONSENSE)
def test_u18_usage_that_is_none_or_nonsense_never_makes_a_count_out_of_range(usage: Any) -> None:
    last = chunk() | {"choices": [], "usage": usage}
    stream = Script([event(chunk("word " * 40)), event(chunk(finish="stop")), event(last), DONE])
    outcome = ask(STREAMED, stream)
    assert outcome.fault is None
    row = outcome.rows[0]
    assert 0 < row.usage.total_input <= MAX_TOKENS
    assert 0 < row.usage.total_output <= MAX_TOKENS
    assert row.usage_source in {UsageSource.ESTIMATED, UsageSource.PARTIAL}


@pytest.mark.parametrize("call", [PLAIN, STREAMED], ids=["whole", "streamed"])
def test_u21_a_drip_ends_at_its_limit_however_often_a_byte_comes(call: Call) -> None:
    data = b"".join(WHOLE_STREAM) if call.stream else WHOLE_ANSWER
    drip = [piece for byte in data for piece in (bytes([byte]), 1.0)]
    script = Script(drip) if call.stream else Script(drip, headers=JSON_ANSWER)
    outcome = ask(call, script, timeout_s=30.0, max_stream_duration_s=60.0)
    assert outcome.fault is not None
    assert outcome.fault.status == 504
    assert outcome.took_s <= 60.0
