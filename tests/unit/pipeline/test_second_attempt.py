"""A fault that may not happen twice is tried once more while nothing has reached the client; and the fields that only
the client's dialect has are named where another wire answers."""

import asyncio
from typing import Any

import orjson
import pytest

from gateway.protocol.call import Call, Finish
from gateway.protocol.dialect import Hints
from gateway.protocol.dialects.anthropic.client import DIALECT
from gateway.protocol.errors import ConnectFault, Fault
from gateway.protocol.provider import Target
from gateway.providers.registry import PROVIDERS
from gateway.upstream.client import IDLE_CLOSED
from tests.fakes.memory import (
    EVENT_STREAM,
    JSON_ANSWER,
    PRINCIPAL,
    MemoryLedger,
    MemoryReply,
    Script,
    ScriptedClient,
    bind,
    chat,
    exchange_plan,
    play,
    services,
    target,
)

PLAIN, STREAMED = chat(), chat(stream=True)


def google(*parts: Any, finish: str, stream: bool) -> Script:
    answer = {"candidates": [{"content": {"role": "model", "parts": list(parts)}, "finishReason": finish}]}
    body = orjson.dumps(answer)
    return Script([b"data: " + body + b"\n\n"], headers=EVENT_STREAM) if stream else Script([body], headers=JSON_ANSWER)


def good(*, stream: bool) -> Script:
    return google({"text": "Hello"}, finish="STOP", stream=stream)


def malformed(*, stream: bool) -> Script:
    return google(finish="MALFORMED_FUNCTION_CALL", stream=stream)


def at(deployment_id: str = "first") -> Target:
    return target(
        deployment_id,
        provider=PROVIDERS["gemini"],
        upstream_model="gemini-2.5-flash",
        api_base=f"http://{deployment_id}.test/v1beta",
    )


def ask(
    call: Call, *answers: Script | BaseException, plan: tuple[Target, ...] = (at(),)
) -> tuple[Fault | None, MemoryLedger, MemoryReply]:
    async def story() -> tuple[Fault | None, MemoryLedger, MemoryReply]:
        ledger, reply, client = MemoryLedger(), MemoryReply(), ScriptedClient(answers)
        fault = None
        try:
            ask = services(client, ledger)
            await exchange_plan(bind(call), plan, PRINCIPAL, ask, reply, request_id="request", timeout_s=None)
        except Fault as raised:
            fault = raised
        await asyncio.sleep(0)
        assert len(client.requests) == len(answers)
        for number, request in enumerate(client.requests):
            before = answers[number - 1] if number else None
            assert request.needs_new_connection == (isinstance(before, Fault) and before.code == IDLE_CLOSED)
        return fault, ledger, reply

    return play(story())


@pytest.mark.parametrize("call", [PLAIN, STREAMED], ids=["whole", "stream"])
def test_a_malformed_tool_call_is_asked_for_once_more(call: Call) -> None:
    fault, ledger, reply = ask(call, malformed(stream=call.stream), good(stream=call.stream))
    assert fault is None
    assert b"Hello" in reply.body
    assert [(row.number, row.finish, row.error_code) for row in ledger.closed] == [
        (0, Finish.UPSTREAM_BROKEN, "upstream_malformed_tool_call"),
        (1, Finish.COMPLETE, ""),
    ]


@pytest.mark.parametrize("call", [PLAIN, STREAMED], ids=["whole", "stream"])
def test_the_second_malformed_tool_call_is_told_also_where_another_deployment_is_left(call: Call) -> None:
    bad = malformed(stream=call.stream)
    fault, ledger, reply = ask(call, bad, bad)
    assert fault is not None
    assert (fault.status, fault.code) == (502, "upstream_malformed_tool_call")
    assert reply.body == b""
    fault, ledger, _ = ask(call, bad, bad, plan=(at("one"), at("two"), at("three")))
    assert fault is not None
    assert [row.target.deployment_id for row in ledger.closed] == ["one", "two"]


def test_another_failure_after_it_goes_on_to_the_deployments_that_are_left() -> None:
    down = Script([b"{}"], status=503, headers=JSON_ANSWER)
    plan = (at("one"), at("two"), at("three"))
    fault, ledger, _ = ask(PLAIN, malformed(stream=False), down, good(stream=False), plan=plan)
    assert fault is None
    assert [row.target.deployment_id for row in ledger.closed] == ["one", "two", "three"]


@pytest.mark.parametrize("plan", [(at(),), (at(), at("second"))], ids=["alone", "one of two"])
def test_a_cut_of_an_idle_connection_is_an_attempt_with_a_row_of_its_own(plan: tuple[Target, ...]) -> None:
    cut = ConnectFault("m", code=IDLE_CLOSED, is_retryable=True)
    fault, ledger, reply = ask(PLAIN, cut, good(stream=False), plan=plan)
    assert fault is None
    assert b"Hello" in reply.body
    first, second = ledger.closed
    assert [attempt.target.deployment_id for attempt in (first, second)] == ["first", "first"]
    assert [attempt.is_sent for attempt in (first, second)] == [False, True], "nothing was sent: nothing is billed"
    assert [attempt.number for attempt in (first, second)] == [0, 1]
    assert [attempt.step and attempt.step.reason for attempt in (first, second)] == ["first", "same_deployment"]
    assert [(attempt.error_class, attempt.upstream_status) for attempt in (first, second)] == [
        ("connect", 0),
        ("", 200),
    ]


def test_a_row_keeps_the_class_of_its_failure_and_the_status_of_the_upstream() -> None:
    limited = Script([b'{"error": {"message": "slow down"}}'], status=429, headers=JSON_ANSWER)
    fault, ledger, _ = ask(PLAIN, limited, good(stream=False), plan=(at(), at("second")))
    assert fault is None
    first, second = ledger.closed
    assert (first.error_class, first.upstream_status) == ("rate_limit", 429)
    assert second.step is not None
    assert second.step.reason == "other_deployment"


def test_a_second_cut_of_an_idle_connection_is_the_answer() -> None:
    cut = ConnectFault("m", code=IDLE_CLOSED, is_retryable=True)
    fault, ledger, _ = ask(PLAIN, cut, cut)
    assert fault is cut
    assert len(ledger.closed) == 2


def test_what_has_reached_the_client_is_not_begun_anew() -> None:
    begun = google({"text": "Let me"}, finish="MALFORMED_FUNCTION_CALL", stream=True)
    pieces = [b'data: {"candidates":[{"content":{"parts":[{"text":"Hel"}]}}]}\n\n', *begun.pieces]
    fault, ledger, reply = ask(STREAMED, Script(pieces))
    assert fault is not None
    assert fault.code == "upstream_malformed_tool_call"
    assert b"Hel" in reply.body
    assert len(ledger.closed) == 1


# What no other wire carries

MESSAGES = {
    "model": "public",
    "max_tokens": 9,
    "messages": [{"role": "user", "content": "hi"}],
    "speed": "fast",
    "diagnostics": {},
}
OPENAI_ANSWER = Script(
    [
        orjson.dumps(
            {
                "id": "x",
                "object": "chat.completion",
                "model": "private",
                "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
            }
        )
    ],
    headers=JSON_ANSWER,
)
MESSAGE = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude", "stop_reason": "end_turn"}
MESSAGE |= {"content": [{"type": "text", "text": "Hi"}], "usage": {"input_tokens": 1, "output_tokens": 1}}
OWN_ANSWER = Script([orjson.dumps(MESSAGE)], headers=JSON_ANSWER)


def messages(betas: str = "") -> Call:
    return DIALECT.decode(orjson.dumps(MESSAGES), Hints(betas=betas))


@pytest.mark.parametrize(
    ("where", "answer"),
    [
        (target(), OPENAI_ANSWER),
        (target(provider=PROVIDERS["mistral"]), OPENAI_ANSWER),
        (at(), good(stream=False)),
    ],
    ids=["openai's wire", "openai's wire, mended", "google's wire"],
)
@pytest.mark.parametrize("betas", ["", "context-1m"])
def test_what_another_wire_cannot_carry_is_named(where: Target, answer: Script, betas: str) -> None:
    fault, _, reply = ask(messages(betas), answer, plan=(where,))
    assert fault is None
    named = dict(reply.headers)[b"x-tollgate-dropped-params"].split(b",")
    assert named == [b"diagnostics", b"speed", *([b"anthropic_beta"] if betas else [])]


@pytest.mark.parametrize("name", ["anthropic", "azure_ai"])
def test_its_own_wire_carries_everything(name: str) -> None:
    where = target(provider=PROVIDERS[name], upstream_model="claude-sonnet-4-5", api_base="http://first.test")
    fault, _, reply = ask(messages("context-1m"), OWN_ANSWER, plan=(where,))
    assert fault is None
    assert b"x-tollgate-dropped-params" not in dict(reply.headers)
