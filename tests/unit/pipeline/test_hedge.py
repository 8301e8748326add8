"""Hedging: a second attempt beside one that is silent. One of them answers, and both are in the ledger."""

import asyncio
import gc
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any

import pytest

from gateway.pipeline.exchange import exchange
from gateway.pipeline.hedge import Lane, Race
from gateway.pipeline.ports import Attempt, Headers, Principal, Reservation, Unlimited
from gateway.pipeline.time_limits import UNHURRIED, ClientTime
from gateway.pipeline.visit import BoundCall
from gateway.protocol.call import Call, Finish
from gateway.protocol.errors import UpstreamFault
from gateway.protocol.provider import Target
from gateway.protocol.timeouts import Timeouts
from gateway.protocol.usage import UsageSource
from gateway.routing.settings import ANY_GROUP, Hedging, RetryPolicy, RoutingSettings
from gateway.routing.walk import RouteOptions, Routing, Walk
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
    VirtualLoop,
    bind,
    chat,
    chunk,
    decode,
    event,
    now,
    play,
    routing,
    services,
    target,
)

PLAIN, STREAMED = chat(), chat(stream=True)
SETTINGS = RoutingSettings(hedging={"public": Hedging(after_s=2.0)})
PAIR = (target("first"), target("second"))
THREE = (*PAIR, target("third"))


def streams(after_s: float = 0.0, text: str = "") -> Script:
    return Script((event(chunk(text)), *WHOLE_STREAM) if text else WHOLE_STREAM, wait_s=after_s)


def answers(after_s: float = 0.0) -> Script:
    return Script([WHOLE_ANSWER], headers=JSON_ANSWER, wait_s=after_s)


@dataclass(slots=True)
class Outcome:
    """The visible facts of one request."""

    ledger: MemoryLedger
    reply: MemoryReply
    client: ScriptedClient
    log: list[Any]
    fault: BaseException | None = None
    took_s: float = 0.0

    @property
    def rows(self) -> list[tuple[str, int, str, str]]:
        """(deployment, number, finish, error code), in the order of their numbers."""
        rows = sorted(self.ledger.closed, key=lambda row: row.number)
        return [(row.target.deployment_id, row.number, row.finish.value, row.error_code) for row in rows]

    def row(self, number: int) -> Attempt:
        return next(row for row in self.ledger.closed if row.number == number)


async def ask(
    call: Call,
    *scripts: Script | BaseException,
    plan: Sequence[Target] = PAIR,
    way: Routing | None = None,
    ledger: MemoryLedger | None = None,
    reply: MemoryReply | None = None,
    gone_after_s: float | None = None,
    time: ClientTime = UNHURRIED,
    options: RouteOptions | None = None,
    bound: BoundCall | None = None,
    **changes: Any,
) -> Outcome:
    log: list[Any] = []
    outcome = Outcome(
        replace(ledger or MemoryLedger(), log=log),
        replace(reply or MemoryReply(), log=log),
        ScriptedClient(scripts, log),
        log,
    )
    way = way or routing(settings=SETTINGS)
    used = services(outcome.client, outcome.ledger, routing=way, **changes)
    walk = Walk(way, plan, lambda group: (), options=options or RouteOptions(retries=2))
    loop, before = asyncio.get_running_loop(), asyncio.all_tasks()
    began_s = loop.time()
    bind_ = (lambda _: bound) if bound is not None else bind(call)
    task = loop.create_task(exchange(bind_, walk, PRINCIPAL, used, outcome.reply, request_id="request", time=time))
    if gone_after_s is not None:
        loop.call_later(gone_after_s, task.cancel)
    await asyncio.wait([task])
    outcome.took_s = loop.time() - began_s
    outcome.fault = asyncio.CancelledError() if task.cancelled() else task.exception()
    assert asyncio.all_tasks() == before, "something was left running"
    assert sorted(row.id for row in outcome.ledger.closed) == sorted(row.id for row in outcome.ledger.opened)
    assert all(response.ended_by for response in outcome.client.responses), "a connection was left open"
    return outcome


def test_a_second_attempt_answers_for_one_that_is_silent() -> None:
    outcome = play(ask(STREAMED, streams(FOREVER), streams(1.0)))
    assert outcome.fault is None
    assert outcome.took_s == pytest.approx(3, abs=0.1)
    assert outcome.rows == [("first", 0, "client_gone", "hedge_lost"), ("second", 1, "complete", "")]
    headers = dict(outcome.reply.headers)
    assert headers[b"x-litellm-model-id"] == b"second"
    assert headers[b"x-tollgate-hedged"] == b"true"
    assert outcome.reply.body.count(DONE) == 1


def test_the_loser_is_billed_like_a_call_whose_client_has_gone() -> None:
    lost = play(ask(STREAMED, streams(FOREVER), streams(1.0))).row(0)
    assert (lost.is_sent, lost.usage_source) == (True, UsageSource.ESTIMATED)
    assert lost.usage.input_tokens == STREAMED.input_estimate
    assert (lost.status_code, lost.is_hedge, lost.has_lost) == (499, False, True)


def test_the_first_attempt_wins_where_it_speaks_before_the_second() -> None:
    outcome = play(ask(STREAMED, streams(3.0), streams(FOREVER)))
    assert outcome.fault is None
    assert outcome.rows == [("first", 0, "complete", ""), ("second", 1, "client_gone", "hedge_lost")]
    assert b"x-tollgate-hedged" not in dict(outcome.reply.headers)
    assert outcome.row(1).is_hedge


def test_no_second_attempt_is_made_where_the_first_speaks_in_time() -> None:
    for call, script in ((STREAMED, streams(1.9)), (PLAIN, answers(1.9))):
        outcome = play(ask(call, script))
        assert outcome.rows == [("first", 0, "complete", "")]


def test_a_stream_that_has_begun_is_never_doubled() -> None:
    slow = Script([WHOLE_STREAM[0], 50.0, *WHOLE_STREAM[1:]], wait_s=1.0)
    assert play(ask(STREAMED, slow)).rows == [("first", 0, "complete", "")]


def test_a_head_without_an_event_is_silence() -> None:
    slow = Script([b": ping\n\n", 1.0] * 100)
    assert play(ask(STREAMED, slow, streams())).rows[1] == ("second", 1, "complete", "")


@pytest.mark.parametrize(("first_s", "second_s", "winner"), [(FOREVER, 1.0, 1), (3.0, FOREVER, 0), (4.0, 2.0, 0)])
def test_of_two_whole_answers_one_is_sent(first_s: float, second_s: float, winner: int) -> None:
    outcome = play(ask(PLAIN, answers(first_s), answers(second_s)))
    assert outcome.fault is None
    assert outcome.reply.body == WHOLE_ANSWER.replace(b"private", b"public")
    assert [row[2:] == ("complete", "") for row in outcome.rows] == [winner == 0, winner == 1]
    assert outcome.rows[1 - winner][2:] == ("client_gone", "hedge_lost")


def test_no_event_of_the_loser_reaches_the_client() -> None:
    first = Script([event(chunk("mine"))[:20], 1.0, event(chunk("mine"))[20:], *WHOLE_STREAM], wait_s=2.5)
    outcome = play(ask(STREAMED, first, streams(1.0, "yours")))
    assert b"mine" not in outcome.reply.body
    assert outcome.reply.body.count(b"yours") == 1


@pytest.mark.parametrize("call", [PLAIN, STREAMED], ids=["whole", "stream"])
def test_both_rows_are_closed_before_the_last_byte(call: Call) -> None:
    pair = (streams(FOREVER), streams()) if call.stream else (answers(FOREVER), answers())
    outcome = play(ask(call, *pair, ledger=MemoryLedger(takes_s=5.0)))
    closes = [index for index, entry in enumerate(outcome.log) if entry[0] == "close"]
    last = next(index for index, entry in enumerate(outcome.log) if entry[0] in {"end", "body"})
    assert len(closes) == 2
    assert max(closes) < last


def test_a_failure_leaves_the_answer_to_the_other_attempt() -> None:
    broken = Script(status=500, wait_s=3.0)
    outcome = play(ask(STREAMED, broken, streams(4.0)))
    assert outcome.fault is None
    assert outcome.rows == [("first", 0, "upstream_error", "upstream_error"), ("second", 1, "complete", "")]
    outcome = play(ask(STREAMED, streams(8.0), broken))
    assert outcome.rows == [("first", 0, "complete", ""), ("second", 1, "upstream_error", "upstream_error")]


def test_what_follows_two_failures_is_one_retry_within_the_limit_of_attempts() -> None:
    broken = Script(status=500, wait_s=3.0)
    outcome = play(ask(STREAMED, broken, broken, streams(), plan=THREE))
    assert [row[0] for row in outcome.rows] == ["first", "second", "third"]
    assert outcome.fault is None
    outcome = play(ask(STREAMED, broken, broken, plan=THREE, options=RouteOptions(retries=1)))
    assert isinstance(outcome.fault, UpstreamFault)
    assert len(outcome.rows) == 2


def test_a_request_is_hedged_once() -> None:
    late = Script(status=500, wait_s=10.0)
    outcome = play(ask(STREAMED, late, late, streams(5.0), plan=THREE))
    assert outcome.rows[2] == ("third", 2, "complete", "")
    assert len(outcome.client.requests) == 3


@pytest.mark.parametrize("gone_after_s", [1.0, 2.0, 2.5, 3.0])
def test_a_client_that_leaves_ends_both(gone_after_s: float) -> None:
    outcome = play(ask(STREAMED, streams(FOREVER), streams(FOREVER), gone_after_s=gone_after_s))
    assert isinstance(outcome.fault, asyncio.CancelledError)
    assert {row[3] for row in outcome.rows} == {"client_gone"}
    assert outcome.took_s == pytest.approx(gone_after_s, abs=0.1)


def test_a_second_cancellation_waits_for_both_rows() -> None:
    async def story() -> Outcome:
        current = asyncio.create_task(
            ask(STREAMED, streams(FOREVER), streams(FOREVER), gone_after_s=3.0, ledger=MemoryLedger(takes_s=4.0))
        )
        await asyncio.sleep(8.5)
        for task in asyncio.all_tasks():
            coroutine = task.get_coro()
            if getattr(coroutine, "__name__", "") == "exchange":
                task.cancel()
        return await current

    assert {row[3] for row in play(story()).rows} == {"client_gone"}


@pytest.mark.parametrize(
    "case",
    [
        {"options": RouteOptions(retries=0)},
        {"plan": PAIR[:1]},
        {"way": RoutingSettings()},
        {"way": RoutingSettings(hedging={"other": Hedging(after_s=2.0)})},
        {"time": 1.5},
        {"plan": (target("first"), target("second", model_group="public", rpm=0))},
        {"bound": BoundCall(STREAMED, (lambda attempt, unit: None,))},
    ],
    ids=["no retries", "one deployment", "off", "another group", "no time", "full", "stored"],
)
def test_there_is_no_second_attempt(case: dict[str, Any]) -> None:
    async def story() -> Outcome:
        changes = dict(case)
        if "way" in changes:
            changes["way"] = routing(settings=changes["way"])
        if "time" in changes:
            changes["time"] = ClientTime(now() + changes["time"], inf)
        return await ask(STREAMED, streams(10.0 if "time" not in case else 1.0), **changes)

    outcome = play(story())
    assert outcome.fault is None
    assert outcome.rows == [("first", 0, "complete", "")]


def test_an_embedding_is_never_doubled() -> None:
    call = decode({"model": "public", "input": "x"}, "embedding")
    body = b'{"object":"list","data":[{"object":"embedding","index":0,"embedding":[1.0]}],"model":"m"}'
    outcome = play(ask(call, Script([body], headers=JSON_ANSWER, wait_s=10.0)))
    assert outcome.rows == [("first", 0, "complete", "")]


def test_any_group_may_have_the_rule() -> None:
    way = RoutingSettings(hedging={ANY_GROUP: Hedging(after_s=2.0)})

    async def story() -> Outcome:
        return await ask(STREAMED, streams(FOREVER), streams(), way=routing(settings=way))

    assert len(play(story()).rows) == 2


# The percentile


def test_the_percentile_of_enough_latencies_decides() -> None:
    settings = RoutingSettings(hedging={"public": Hedging(percentile=95)}, retry_policy=RetryPolicy(2))

    async def story() -> list[int]:
        way = routing(settings=settings)
        attempts = []
        for number in range(22):
            slow = number in {10, 21}
            outcome = await ask(STREAMED, streams(9.0 if slow else 1.0 - number / 100), streams(1.0), way=way)
            attempts.append(len(outcome.rows))
        return attempts

    assert play(story()) == [1] * 21 + [2]


def test_latencies_age() -> None:
    rule = Hedging(percentile=50)

    async def story() -> tuple[float | None, ...]:
        way = routing()
        way.load.begin("first", 0)
        for seconds in range(1, 21):
            way.load.note_sample("first", float(seconds), is_stream=True)
        fresh = way.load.hedge_after_s("first", rule, is_stream=True)
        other = way.load.hedge_after_s("first", rule, is_stream=False)
        await asyncio.sleep(301)
        return fresh, other, way.load.hedge_after_s("first", rule, is_stream=True)

    assert play(story()) == (10.0, None, None)


def test_the_time_of_a_loser_is_among_the_latencies() -> None:
    """Else the slow ones were missing, and the limit fell until every call had a second attempt."""

    async def story() -> float | None:
        way = routing(settings=SETTINGS)
        await ask(STREAMED, streams(FOREVER), streams(1.0), way=way)
        return way.load.latencies_s(["first"], is_stream=True)[0]

    assert play(story()) == pytest.approx(3.0, abs=0.1)


# What it costs


def test_hedges_are_paid_from_the_budget_of_retries() -> None:
    async def story() -> int:
        way = routing(settings=SETTINGS)
        hedges = 0

        async def one(number: int) -> None:
            nonlocal hedges
            await asyncio.sleep(number * 0.05)
            scripts = [streams(4.0), streams(FOREVER)]
            log: list[Any] = []
            ledger, client = MemoryLedger(log), ScriptedClient(scripts, log)
            walk = Walk(way, PAIR, lambda group: (), options=RouteOptions(retries=2))
            used = services(client, ledger, routing=way)
            await exchange(bind(STREAMED), walk, PRINCIPAL, used, MemoryReply(), request_id="r")
            hedges += len(ledger.closed) - 1

        await asyncio.gather(*[one(number) for number in range(400)])
        return hedges

    hedges = play(story())
    assert 0 < hedges <= 0.1 * 400 + 3


@dataclass(slots=True)
class Purse:
    """An Admission, and its Reservation: each attempt costs 10 of what is left."""

    left: int
    held: int = 0
    spent: int = 0
    log: list[str] = field(default_factory=list)
    headers: Headers = field(default_factory=list)
    windows: tuple[str, ...] = ()
    output_limit: int | None = None
    settled_at: list[int] = field(default_factory=list)

    async def reserve(
        self, principal: Principal, call: Call, target: Target, *, is_repeat: bool = False
    ) -> Reservation | None:
        self.held = 10
        return self

    async def charge(self, principal: Principal, call: Call, target: Target) -> Headers:
        return []

    async def extend(self, call: Call, target: Target, running: Sequence[Attempt] = ()) -> bool:
        needed = self.spent + 10 + 10 * len(running)
        if needed > self.left:
            return False
        self.held = max(self.held, needed)
        return True

    def add(self, attempt: Attempt) -> None:
        assert not self.settled_at, "an attempt was added after the end"
        self.spent += 10
        assert self.spent <= self.held

    async def settle(self) -> None:
        if not self.settled_at:
            self.settled_at.append(self.spent)


def test_both_attempts_are_reserved_and_settled_together() -> None:
    purse = Purse(left=20)
    outcome = play(ask(STREAMED, streams(FOREVER), streams(), admission=purse, ledger=MemoryLedger(takes_s=3.0)))
    assert len(outcome.rows) == 2
    assert (purse.held, purse.settled_at) == (20, [20])


def test_a_budget_that_pays_for_one_attempt_has_no_second() -> None:
    purse = Purse(left=19)
    outcome = play(ask(STREAMED, streams(5.0), admission=purse))
    assert outcome.rows == [("first", 0, "complete", "")]
    assert purse.settled_at == [10]


def test_a_call_whose_output_was_lowered_for_its_budget_has_no_second() -> None:
    outcome = play(ask(STREAMED, streams(5.0), admission=Purse(left=100, output_limit=16)))
    assert len(outcome.rows) == 1


def test_the_limits_of_the_second_deployment_count_and_are_given_back() -> None:
    one_slot = (target("first"), target("second", max_parallel=1))

    async def story() -> tuple[Outcome, bool]:
        way = routing(settings=SETTINGS)
        used = services(ScriptedClient([]), MemoryLedger())
        outcome = await ask(
            STREAMED, streams(3.0), streams(FOREVER), plan=one_slot, way=way, deployment_limits=used.deployment_limits
        )
        grant = await used.deployment_limits.take(one_slot[1], STREAMED)
        return outcome, grant is not None

    outcome, is_free = play(story())
    assert len(outcome.rows) == 2
    assert is_free


# Races


def test_the_slower_of_two_answers_in_one_instant_is_not_sent() -> None:
    outcome = play(ask(PLAIN, answers(3.0), answers(1.0)))
    assert outcome.fault is None
    assert sorted(row[2] for row in outcome.rows) == ["client_gone", "complete"]


def test_a_time_limit_of_one_leaves_the_other() -> None:
    plan = (target("first", timeouts=Timeouts(timeout_s=5.0)), target("second"))
    outcome = play(ask(STREAMED, streams(FOREVER), streams(20.0), plan=plan))
    assert outcome.fault is None
    assert outcome.rows == [("first", 0, Finish.TIMEOUT.value, "upstream_timeout"), ("second", 1, "complete", "")]


def test_the_clients_time_ends_both() -> None:
    async def story() -> Outcome:
        return await ask(STREAMED, streams(FOREVER), streams(FOREVER), time=ClientTime(now() + 5.0))

    outcome = play(story())
    assert isinstance(outcome.fault, UpstreamFault)
    assert outcome.fault.code == "deadline_exceeded"
    assert [row[2] for row in outcome.rows] == ["timeout", "timeout"]


def test_no_memory_is_left_behind() -> None:
    """Without the garbage collector: nothing may wait for it."""

    async def story() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        for number in range(1000):
            way = routing(settings=SETTINGS)
            fails = number % 3 == 2
            scripts = [Script(status=500, wait_s=3.0)] * 2 if fails else [streams(FOREVER), streams(1.0)]
            outcome = await ask(STREAMED, *scripts, way=way, options=RouteOptions(retries=1))
            assert (outcome.fault is not None) is fails
            loop.tasks.clear()

    gc.collect()
    gc.disable()
    try:
        play(story())
        left = [one for one in gc.get_objects() if type(one) in {Lane, Race, MemoryReply}]  # isinstance asks proxies
        assert len(left) < 10
    finally:
        gc.enable()


def test_unlimited_reserves_nothing() -> None:
    assert play(Unlimited().reserve(PRINCIPAL, PLAIN, PAIR[0])) is None
