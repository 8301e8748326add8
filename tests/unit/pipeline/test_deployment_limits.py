"""The limits of a deployment: a call that one refuses goes elsewhere, and no client waits."""

from typing import Any

import pytest

from gateway.protocol.errors import RateLimited
from gateway.protocol.provider import Target
from tests.fakes.memory import (
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
