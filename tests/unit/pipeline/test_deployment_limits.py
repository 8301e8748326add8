"""The limits of a deployment: a call that one refuses goes elsewhere, and no client waits."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from math import inf
from typing import Any

import pytest

from gateway.pipeline.deployment_limits import DeploymentFull, DeploymentLimits
from gateway.pipeline.exchange import exchange
from gateway.pipeline.ports import Attempt, Headers, Principal, Reservation, Unlimited
from gateway.pipeline.time_limits import ClientTime
from gateway.protocol.call import Call
from gateway.protocol.errors import RateLimited, UpstreamFault
from gateway.protocol.provider import Target
from gateway.protocol.usage import NO_USAGE
from gateway.routing.walk import RouteOptions, Walk
from gateway.state.memory_rate_limits import MemoryRateLimits
from gateway.state.rate_limits import Grant
from tests.fakes.memory import (
    FOREVER,
    JSON_ANSWER,
    PRINCIPAL,
    WHOLE_ANSWER,
    MemoryLedger,
    MemoryReply,
    Script,
    ScriptedClient,
    bind,
    chat,
    exchange_plan,
    now,
    play,
    services,
    target,
)


def good() -> Script:
    return Script([WHOLE_ANSWER], headers=JSON_ANSWER)


def ask(*plan: Target, calls: int, **changes: Any) -> list[str]:
    """The deployments that answered these calls, one after the other, or the code of the fault."""
    outcomes: list[str] = []

    async def story() -> None:
        client, ledger = ScriptedClient([good() for _ in range(calls)]), MemoryLedger()
        used = services(client, ledger, **changes)
        for _ in range(calls):
            before = len(ledger.closed)
            try:
                await exchange_plan(bind(chat()), plan, PRINCIPAL, used, MemoryReply(), request_id="r", timeout_s=None)
                outcomes.append(ledger.closed[before].target.deployment_id)
            except RateLimited as fault:
                is_told = (b"retry-after", b"5") in fault.headers
                is_free = len(ledger.closed) == before  # no upstream was asked, and there is no row
                outcomes.append(str(fault.code) if is_told and is_free else "")

    play(story())
    return outcomes


@pytest.mark.parametrize("limit", [{"rpm": 2}, {"tpm": 20}])
def test_what_one_refuses_goes_to_another_and_then_to_the_client_at_once(limit: dict[str, int]) -> None:
    first, second = target("first", **limit), target("second", rpm=1)
    outcomes = ask(first, second, calls=5)
    assert outcomes[0] == "first"
    assert outcomes[-1] == "all_deployments_in_cooldown"
    assert "second" in outcomes


def test_without_limits_nothing_is_counted() -> None:
    assert ask(target("first"), calls=3) == ["first"] * 3


def test_a_slot_is_free_when_its_call_has_ended() -> None:
    assert ask(target("first", max_parallel=1), calls=3) == ["first"] * 3


class Refusing(Unlimited):
    """The walls of a key that is over its limit."""

    async def reserve(
        self, principal: Principal, call: Call, target: Target, *, is_repeat: bool = False
    ) -> Reservation | None:
        raise RateLimited("The key is over its limit.")


def test_a_call_that_its_key_may_not_make_takes_nothing_of_the_deployment() -> None:
    """Else a caller over its own limit would use up what all share."""
    outcomes: list[str] = []

    async def story() -> None:
        plan = (target("first", rpm=1, tpm=1000, max_parallel=1),)
        used = services(ScriptedClient([good()]), MemoryLedger())
        for admission in (Refusing(), Refusing(), Unlimited()):
            tried = replace(used, admission=admission)
            try:
                await exchange_plan(bind(chat()), plan, PRINCIPAL, tried, MemoryReply(), request_id="r", timeout_s=None)
                outcomes.append("answered")
            except RateLimited as fault:
                outcomes.append(fault.message)

    play(story())
    assert outcomes == ["The key is over its limit."] * 2 + ["answered"]


class OneAttempt(Unlimited):
    """An Admission, and its Reservation, whose budget pays for one attempt alone."""

    windows: tuple[str, ...] = ()
    output_limit: int | None = None
    is_settled = False

    @property
    def headers(self) -> Headers:
        return []

    async def reserve(
        self, principal: Principal, call: Call, target: Target, *, is_repeat: bool = False
    ) -> Reservation | None:
        return self

    async def extend(self, call: Call, target: Target, running: Sequence[Attempt] = ()) -> bool:
        return False

    def add(self, attempt: Attempt) -> None: ...

    async def settle(self) -> None:
        self.is_settled = True


def test_a_client_that_leaves_while_a_slot_is_given_back_leaves_nothing_reserved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def story() -> bool:
        pair = (target("first"), target("second", max_parallel=1))
        admission = OneAttempt()
        used = services(ScriptedClient([Script(status=500)]), MemoryLedger(), admission=admission)

        async def give_back(grant: Grant) -> None:
            await asyncio.sleep(2)

        monkeypatch.setattr(used.deployment_limits, "give_back", give_back)
        asking = asyncio.create_task(
            exchange_plan(bind(chat()), pair, PRINCIPAL, used, MemoryReply(), request_id="r", timeout_s=None)
        )
        await asyncio.sleep(1)
        assert not admission.is_settled
        asking.cancel()
        await asyncio.wait([asking])
        return admission.is_settled

    assert play(story())


def test_the_slots_of_long_calls_are_renewed() -> None:
    """Without it a slot would be free after a minute, whatever still runs."""

    async def story() -> int:
        counters = MemoryRateLimits(clock=lambda: asyncio.get_running_loop().time())
        numbers = iter(range(100))
        limits = DeploymentLimits(counters, new_id=lambda: str(next(numbers)), estimate=lambda call, one: 1)
        await limits.start()
        one = target("first", max_parallel=1)
        grant = await limits.take(one, chat())
        assert grant is not None
        refused = 0
        for _ in range(10):
            await asyncio.sleep(30)
            with pytest.raises(DeploymentFull):
                await limits.take(one, chat())
            refused += 1
        await limits.settle(grant, NO_USAGE)
        assert await limits.take(one, chat()) is not None
        await limits.close()
        return refused

    assert play(story()) == 10


@pytest.mark.parametrize(("timeout_s", "is_counted"), [(1.0, False), (None, True)])
def test_a_client_without_time_tells_nothing_of_the_deployment(timeout_s: float | None, is_counted: bool) -> None:
    """Else the short time-outs of one caller would take deployments from all others."""

    async def story() -> bool:
        pair = (target("first"), target("second"))
        used = services(ScriptedClient([Script(wait_s=FOREVER)] * 5), MemoryLedger(), timeout_s=5.0)
        for _ in range(5):
            way = Walk(used.routing, pair, lambda name: (), options=RouteOptions(retries=0))
            client_time = ClientTime(inf if timeout_s is None else now() + timeout_s)
            with pytest.raises(UpstreamFault):
                await exchange(bind(chat()), way, PRINCIPAL, used, MemoryReply(), request_id="r", time=client_time)
        return bool(used.routing.breaker.ejections)

    assert play(story()) is is_counted
