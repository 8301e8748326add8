"""A stream that broke goes on at another deployment, once and where the settings say so. Each attempt has its row."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any

import orjson
import pytest

from gateway.pipeline.exchange import exchange
from gateway.pipeline.ports import Attempt, Headers, Principal, Reservation, Unlimited
from gateway.pipeline.time_limits import UNHURRIED, ClientTime
from gateway.protocol.call import Call
from gateway.protocol.errors import ConnectFault, DeadlineExceeded, GatewayFault, UpstreamFault
from gateway.protocol.provider import Target
from gateway.protocol.timeouts import Timeouts
from gateway.protocol.usage import UsageSource
from gateway.routing.settings import ANY_GROUP, Hedging, RetryPolicy, RoutingSettings
from gateway.routing.walk import RouteOptions, Routing, StepReason, Walk
from gateway.upstream.http1 import ConnectionBroken
from tests.fakes import anthropic
from tests.fakes.memory import (
    DONE,
    FOREVER,
    PRINCIPAL,
    MemoryLedger,
    MemoryReply,
    Script,
    ScriptedClient,
    bind,
    chat,
    chunk,
    data_of,
    event,
    now,
    play,
    routing,
    services,
    target,
)

STREAMED = chat(stream=True, usage=True)
MESSAGES = anthropic.messages_call({"stream": True, "model": "public"})
SETTINGS = RoutingSettings(recovering={"public": True}, retry_policy=RetryPolicy(2))
FLAGS = {"prefill": True}


def up(name: str, **changes: Any) -> Target:
    """A deployment that takes a prefill."""
    return target(name, **{"flags": FLAGS, **changes})


def plain(name: str) -> Target:
    return target(name)


def claude(name: str) -> Target:
    return anthropic.target({"prefill": True}, deployment_id=name, model_group="public")


FIRST, SECOND = plain("first"), up("second")
TEXT = "Hello wor"
BEGUN = (event(chunk("Hello")), event(chunk(" wor")))
USED = {"prompt_tokens": 20, "completion_tokens": 4, "total_tokens": 24}
REST = Script((event(chunk("ld")), event(chunk(finish="stop")), event(chunk(choices=[], usage=USED)), DONE))
CUT = Script(BEGUN)
MESSAGE = (
    anthropic.begin(input_tokens=9, output_tokens=1),
    anthropic.event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
    anthropic.event("content_block_delta", index=0, delta={"type": "text_delta", "text": "Hello "}),
)
MESSAGE_REST = Script(
    (
        anthropic.begin(input_tokens=12, output_tokens=1),
        anthropic.block(0, {"type": "text", "text": ""}, {"type": "text_delta", "text": " world"}),
        anthropic.end("end_turn"),
    )
)


@dataclass(slots=True)
class Outcome:
    """The visible facts of one request."""

    ledger: MemoryLedger
    reply: MemoryReply
    client: ScriptedClient
    log: list[Any]
    fault: BaseException | None = None

    @property
    def rows(self) -> list[tuple[str, str, str]]:
        """(deployment, finish, error code), in the order of their ends."""
        return [(row.target.deployment_id, row.finish.value, row.error_code) for row in self.ledger.closed]

    @property
    def text(self) -> str:
        chunks = [one for one in data_of(self.reply.body) if isinstance(one, dict)]
        return "".join(choice["delta"].get("content") or "" for one in chunks for choice in one.get("choices", ()))

    def sent(self, number: int) -> Any:
        return orjson.loads(self.client.requests[number].body)


async def ask(
    call: Call,
    *scripts: Script | BaseException,
    plan: Sequence[Target] = (FIRST, SECOND),
    others: Sequence[Target] = (),
    way: Routing | None = None,
    settings: RoutingSettings = SETTINGS,
    reply: MemoryReply | None = None,
    ledger: MemoryLedger | None = None,
    gone_after_s: float | None = None,
    time: ClientTime = UNHURRIED,
    options: RouteOptions | None = None,
    **changes: Any,
) -> Outcome:
    log: list[Any] = []
    outcome = Outcome(
        replace(ledger or MemoryLedger(), log=log),
        replace(reply or MemoryReply(), log=log),
        ScriptedClient(scripts, log),
        log,
    )
    way = way or routing(settings=settings)
    used = services(outcome.client, outcome.ledger, routing=way, **changes)
    walk = Walk(way, plan, lambda group: others if group == "spare" else (), options=options or RouteOptions())
    loop, before = asyncio.get_running_loop(), asyncio.all_tasks()
    task = loop.create_task(exchange(bind(call), walk, PRINCIPAL, used, outcome.reply, request_id="request", time=time))
    if gone_after_s is not None:
        loop.call_later(gone_after_s, task.cancel)
    await asyncio.wait([task])
    outcome.fault = asyncio.CancelledError() if task.cancelled() else task.exception()
    assert asyncio.all_tasks() == before, "something was left running"
    assert sorted(row.id for row in outcome.ledger.closed) == [row.id for row in outcome.ledger.opened]
    assert all(response.ended_by for response in outcome.client.responses), "a connection was left open"
    if outcome.fault is not None:
        assert DONE not in outcome.reply.body, "a forged end"
    return outcome


def test_another_deployment_goes_on_where_the_first_broke() -> None:
    outcome = play(ask(STREAMED, CUT, REST))
    assert outcome.fault is None
    assert outcome.text == "Hello world"
    assert outcome.rows == [
        ("first", "upstream_broken", "upstream_incomplete_stream"),
        ("second", "complete", ""),
    ]
    assert outcome.sent(1)["messages"] == [*STREAMED.body["messages"], {"role": "assistant", "content": TEXT}]
    assert outcome.reply.body.count(b": tollgate continued on second\n\n") == 1
    assert outcome.reply.body.endswith(DONE)
    assert dict(outcome.reply.headers)[b"x-litellm-model-id"] == b"first"


def test_each_attempt_is_billed_and_the_client_is_told_the_sum() -> None:
    outcome = play(ask(STREAMED, CUT, REST))
    first, second = outcome.ledger.closed
    assert (first.number, second.number) == (0, 1)
    assert (first.usage_source, second.usage_source) == (UsageSource.ESTIMATED, UsageSource.PROVIDER)
    assert first.usage.output_tokens > 0
    total = first.usage + second.usage
    usage = data_of(outcome.reply.body)[-2]["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (total.total_input, total.total_output)
    assert second.step is not None
    assert second.step.reason is StepReason.CONTINUATION
    assert second.call.input_estimate > first.call.input_estimate
    closes = [index for index, entry in enumerate(outcome.log) if entry[0] == "close"]
    assert max(closes) < next(index for index, entry in enumerate(outcome.log) if entry[0] == "end")


@dataclass(slots=True)
class Pricing(MemoryLedger):
    """Each attempt costs as many dollars as stand here; None: it has no price."""

    prices: Sequence[int | None] = ()

    async def close(self, attempt: Attempt) -> None:
        price = self.prices[attempt.number]
        attempt.cost_pusd = None if price is None else price * 10**12
        await MemoryLedger.close(self, attempt)


@pytest.mark.parametrize("second", [REST, Script([*REST.pieces[:2], DONE])], ids=["with usage", "without"])
def test_the_cost_in_the_stream_is_that_of_both(second: Script) -> None:
    call = replace(STREAMED, tells_cost=True)
    outcome = play(ask(call, CUT, second, ledger=Pricing(prices=(2, 3))))
    told = data_of(outcome.reply.body)[-2]["usage"]
    total = outcome.ledger.closed[0].usage + outcome.ledger.closed[1].usage
    assert (told["cost"], told["prompt_tokens"], told["completion_tokens"]) == (
        5,
        total.total_input,
        total.total_output,
    )
    for prices in ((2, None), (None, 3)):
        outcome = play(ask(call, CUT, second, ledger=Pricing(prices=prices)))
        assert b'"cost"' not in outcome.reply.body  # what is not known is not $0


@pytest.mark.parametrize(
    "first",
    [
        CUT,
        Script([*BEGUN, b'data: {"choices": [{"index": 0, "delta": {"content": "ld']),
        Script([*BEGUN, ConnectionBroken("cut")]),
        Script([*BEGUN, b"data: {\n\n"]),
        Script([b"".join(BEGUN) + b"data: {\n\n"]),
        Script([*BEGUN, event({"error": {"message": "x"}})]),
        Script([*BEGUN, event({"error": {"message": "x", "code": "rate_limit_exceeded"}})]),
        Script([*BEGUN, FOREVER]),
    ],
    ids=["cut", "in an event", "connection", "no JSON", "one piece", "error", "rate limit", "silence"],
)
def test_however_the_stream_breaks_it_goes_on(first: Script) -> None:
    outcome = play(ask(STREAMED, first, REST))
    assert (outcome.fault, outcome.text) == (None, "Hello world")
    assert len(outcome.rows) == 2


def test_a_message_goes_on_with_its_block() -> None:
    pair = (claude("first"), claude("second"))
    outcome = play(ask(MESSAGES, Script(MESSAGE), MESSAGE_REST, plan=pair))
    assert outcome.fault is None
    events = data_of(outcome.reply.body)
    assert [one["type"] for one in events] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert "".join(one["delta"]["text"] for one in events[2:4]) == "Hello world"
    assert outcome.sent(1)["messages"][-1] == {"role": "assistant", "content": "Hello"}  # no white space at its end
    assert events[-2]["usage"]["input_tokens"] == 9 + 12


@pytest.mark.parametrize("call", [STREAMED, MESSAGES], ids=["chat", "messages"])
@pytest.mark.parametrize("is_native_first", [True, False])
def test_the_two_upstreams_may_speak_different_formats(call: Call, is_native_first: bool) -> None:
    pair = (claude("first"), up("second")) if is_native_first else (plain("first"), claude("second"))
    scripts = (Script(MESSAGE), REST) if is_native_first else (CUT, MESSAGE_REST)
    outcome = play(ask(call, *scripts, plan=pair))
    assert outcome.fault is None
    assert [row[1] for row in outcome.rows] == ["upstream_broken", "complete"]


def test_the_same_deployment_goes_on_where_there_is_no_other() -> None:
    outcome = play(ask(STREAMED, CUT, REST, plan=(SECOND,)))
    assert (outcome.fault, outcome.text) == (None, "Hello world")
    assert [row[0] for row in outcome.rows] == ["second", "second"]
    assert outcome.ledger.closed[1].retries == 1


def test_a_group_that_stands_in_goes_on() -> None:
    settings = replace(SETTINGS, fallbacks={"public": ("spare",)})
    spare = up("spare", model_group="spare")
    outcome = play(ask(STREAMED, CUT, REST, plan=(FIRST,), others=(spare,), settings=settings))
    assert [row[0] for row in outcome.rows] == ["first", "spare"]
    refused = RouteOptions(is_without_fallbacks=True)
    outcome = play(ask(STREAMED, CUT, plan=(FIRST,), others=(spare,), settings=settings, options=refused))
    assert len(outcome.rows) == 1


def test_before_any_text_any_deployment_begins_anew() -> None:
    role = event(chunk(choices=[{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]))
    whole = Script((role, event(chunk("Hello world")), *REST.pieces[1:]))
    outcome = play(ask(STREAMED, Script([role]), whole, plan=(FIRST, plain("other"))))
    assert (outcome.fault, outcome.text) == (None, "Hello world")
    assert outcome.sent(1)["messages"] == STREAMED.body["messages"]
    assert outcome.reply.body.count(b'"role"') == 1


def test_the_tokens_of_the_first_part_count_against_the_limit_of_the_request() -> None:
    call = chat(stream=True, max_tokens=100)
    outcome = play(ask(call, CUT, REST))
    first = outcome.ledger.closed[0].usage.total_output
    assert first > 0
    assert outcome.sent(1)["max_tokens"] == 100 - first
    assert "max_tokens" not in play(ask(STREAMED, CUT, REST)).sent(1)


def test_a_request_whose_limit_is_reached_does_not_go_on() -> None:
    assert len(play(ask(chat(stream=True, max_tokens=2), CUT)).rows) == 1


# Where it does not


def refused_cases() -> dict[str, dict[str, Any]]:
    tool = {"tool_calls": [{"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}]}
    called = event(chunk(choices=[{"index": 0, "delta": tool, "finish_reason": None}]))
    broken = event({"error": {"message": "no", "code": "content_filter"}})
    return {
        "off": {"settings": replace(SETTINGS, recovering={})},
        "off for this group": {"settings": replace(SETTINGS, recovering={ANY_GROUP: True, "public": False})},
        "on for another group": {"settings": replace(SETTINGS, recovering={"other": True})},
        "nothing takes a prefill": {"plan": (FIRST, plain("other"))},
        "no retries": {"settings": replace(SETTINGS, retry_policy=RetryPolicy(0))},
        "none by the client": {"options": RouteOptions(retries=0)},
        "amid a tool call": {"script": Script([*BEGUN, called])},
        "two answers": {"call": chat(stream=True, n=2)},
        "a schema": {"call": chat(stream=True, response_format={"type": "json_object"})},
        "a refused content": {"script": Script([*BEGUN, broken])},
        "the client's time is over": {"script": Script([*BEGUN, 50.0, ConnectionBroken("cut")]), "end_by_s": 40.0},
        "the stream's time is over": {"script": Script([*BEGUN, *[50.0, event(chunk("."))] * 9]), "total_s": 200.0},
        "one that was silent": {"script": Script([*BEGUN, FOREVER]), "plan": (SECOND,)},
        "a text that is too long": {"script": Script([event(chunk("a" * 20_000))] * 7)},
    }


@pytest.mark.parametrize("case", refused_cases().values(), ids=refused_cases().keys())
def test_the_client_gets_the_failure(case: dict[str, Any]) -> None:
    async def story() -> Outcome:
        changes = dict(case)
        call, script = changes.pop("call", STREAMED), changes.pop("script", CUT)
        if "end_by_s" in changes:
            changes["time"] = ClientTime(inf, now() + changes.pop("end_by_s"))
        if "total_s" in changes:
            changes["timeouts"] = Timeouts(max_stream_duration_s=changes.pop("total_s"))
        return await ask(call, script, **changes)

    outcome = play(story())
    assert isinstance(outcome.fault, UpstreamFault)
    assert len(outcome.client.requests) == 1
    assert outcome.ledger.closed[0].client_status == 200


@pytest.mark.parametrize(
    "second",
    [
        Script(status=400, pieces=[b'{"error":{"message":"This model does not support assistant message prefill."}}']),
        Script(status=500),
        ConnectFault("no", is_retryable=True),
        Script([event(chunk("l"))]),
        Script([FOREVER]),
        Script([event({"error": {"message": "other"}})]),
    ],
    ids=["refused", "failed", "unreachable", "broken too", "silent", "an error"],
)
def test_a_continuation_that_fails_ends_with_the_first_failure(second: Script | BaseException) -> None:
    outcome = play(ask(STREAMED, CUT, second, REST, plan=(FIRST, SECOND, up("third"))))
    assert isinstance(outcome.fault, UpstreamFault)
    assert (outcome.fault.code, outcome.fault.status) == ("upstream_incomplete_stream", 502)
    assert len(outcome.rows) == 2  # once a request
    assert outcome.rows[0] == ("first", "upstream_broken", "upstream_incomplete_stream")
    assert outcome.rows[1][1] != "complete"


def test_a_row_that_cannot_be_opened_ends_with_the_first_failure() -> None:
    @dataclass(slots=True)
    class Failing(MemoryLedger):
        async def open(self, attempt: Attempt) -> None:
            if attempt.number:
                raise GatewayFault("The ledger is away.")
            await MemoryLedger.open(self, attempt)

    outcome = play(ask(STREAMED, CUT, REST, ledger=Failing()))
    assert isinstance(outcome.fault, UpstreamFault)
    assert len(outcome.client.requests) == 1


def test_the_budget_of_retries_pays() -> None:
    async def story() -> list[int]:
        way = routing(settings=SETTINGS)
        second = up("second")
        attempts = []
        for _ in range(6):
            outcome = await ask(STREAMED, CUT, CUT, plan=(FIRST, second), way=way)
            attempts.append(len(outcome.rows))
        return attempts

    assert sum(play(story())) < 12


def test_a_full_deployment_is_passed_over() -> None:
    full = up("full", max_parallel=0)
    outcome = play(ask(STREAMED, CUT, REST, plan=(FIRST, full, SECOND)))
    assert [row[0] for row in outcome.rows] == ["first", "second"]
    outcome = play(ask(STREAMED, CUT, plan=(FIRST, full, plain("other"))))
    assert [row[0] for row in outcome.rows] == ["first"]


def test_a_client_that_leaves_meanwhile_ends_both() -> None:
    outcome = play(ask(STREAMED, CUT, Script([event(chunk("l")), FOREVER]), gone_after_s=5.0))
    assert isinstance(outcome.fault, asyncio.CancelledError)
    assert [row[2] for row in outcome.rows] == ["upstream_incomplete_stream", "client_gone"]


def test_the_clients_deadline_holds_for_the_continuation() -> None:
    async def story() -> Outcome:
        time = ClientTime(now() + 5.0, now() + 40.0)
        first = Script([*BEGUN, 10.0, ConnectionBroken("cut")])  # after the time for the first event
        return await ask(STREAMED, first, Script([event(chunk("l")), FOREVER]), time=time)

    outcome = play(story())
    assert isinstance(outcome.fault, UpstreamFault)
    assert not isinstance(outcome.fault, DeadlineExceeded)  # what had happened first
    assert outcome.rows[1] == ("second", "timeout", "deadline_exceeded")


def test_a_continuation_is_not_hedged() -> None:
    settings = replace(SETTINGS, hedging={ANY_GROUP: Hedging(after_s=1.0)})
    slow = replace(REST, wait_s=5.0)
    outcome = play(ask(STREAMED, CUT, slow, plan=(FIRST, SECOND, up("third")), settings=settings))
    assert (outcome.fault, len(outcome.rows)) == (None, 2)


def test_the_winner_of_two_is_continued() -> None:
    settings = replace(SETTINGS, hedging={ANY_GROUP: Hedging(after_s=1.0)})
    loser = Script([event(chunk("mine"))], wait_s=FOREVER)
    plan = (plain("slow"), plain("fast"), SECOND)
    outcome = play(ask(STREAMED, loser, CUT, REST, plan=plan, settings=settings))
    assert (outcome.fault, outcome.text) == (None, "Hello world")
    assert sorted(row[0] for row in outcome.rows) == ["fast", "second", "slow"]


def test_the_winner_of_two_goes_on_itself_and_not_the_one_that_was_silent() -> None:
    settings = replace(SETTINGS, hedging={ANY_GROUP: Hedging(after_s=1.0)})
    loser = Script([event(chunk("mine"))], wait_s=FOREVER)
    outcome = play(ask(STREAMED, loser, CUT, REST, plan=(up("slow"), up("fast")), settings=settings))
    assert (outcome.fault, outcome.text) == (None, "Hello world")
    assert sorted(row[0] for row in outcome.rows) == ["fast", "fast", "slow"]


# Budgets


@dataclass(slots=True)
class Purse:
    """Reservation. `pays`: whether it extends."""

    pays: bool = True
    output_limit: int | None = None
    headers: Headers = field(default_factory=list)
    windows: tuple[str, ...] = ()
    asked: list[tuple[Call, str]] = field(default_factory=list)
    added: list[str] = field(default_factory=list)
    settled: int = 0

    async def extend(self, call: Call, target: Target, running: Sequence[Attempt] = ()) -> bool:
        self.asked.append((call, target.deployment_id))
        return self.pays

    def add(self, attempt: Attempt) -> None:
        self.added.append(attempt.target.deployment_id)

    async def settle(self) -> None:
        self.settled += 1


@dataclass(slots=True)
class Walls(Unlimited):
    purse: Purse

    async def reserve(
        self, principal: Principal, call: Call, target: Target, *, is_repeat: bool = False
    ) -> Reservation | None:
        return self.purse


def test_the_budgets_pay_for_the_continuation_or_there_is_none() -> None:
    purse = Purse()
    outcome = play(ask(STREAMED, CUT, REST, admission=Walls(purse)))
    assert outcome.fault is None
    [(call, deployment)] = purse.asked
    assert (deployment, call.body["messages"][-1]["content"]) == ("second", TEXT)  # at the cost of the longer prompt
    assert purse.added == ["first", "second"]
    assert purse.settled >= 1
    poor = Purse(pays=False)
    outcome = play(ask(STREAMED, CUT, REST, admission=Walls(poor)))
    assert isinstance(outcome.fault, UpstreamFault)
    assert (len(outcome.client.requests), poor.added) == (1, ["first"])


def test_an_output_that_a_budget_has_shortened_stays_as_short() -> None:
    outcome = play(ask(STREAMED, CUT, REST, admission=Walls(Purse(output_limit=50))))
    used = outcome.ledger.closed[0].usage.total_output
    assert outcome.sent(0)["max_tokens"] == 50
    assert outcome.sent(1)["max_tokens"] == 50 - used
    assert len(play(ask(STREAMED, CUT, REST, admission=Walls(Purse(output_limit=2)))).rows) == 1


# The deployments


def test_the_deployment_that_broke_is_told_to_the_breaker() -> None:
    async def story() -> tuple[list[str], int]:
        way = routing(settings=replace(SETTINGS, retry_policy=RetryPolicy(2)))
        for _ in range(8):
            way.budget.note_success()
        rows = 0
        for _ in range(6):
            outcome = await ask(STREAMED, CUT, REST, way=way)
            rows = len(outcome.rows)
        return list(way.breaker.out()), rows

    out, rows = play(story())
    assert out == ["first"]
    assert rows == 1  # the last one went to the second deployment at once
