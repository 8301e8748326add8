"""The budgets of deployments in an exchange: a spent one sends a call elsewhere, and no number of calls passes one."""

import asyncio
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from gateway.pipeline.ports import Attempt, BudgetRule, Principal
from gateway.protocol.call import Call
from gateway.protocol.errors import BudgetExceeded, Fault, Forbidden, GatewayFault, RateLimited
from gateway.protocol.provider import Target, UpstreamRequest
from gateway.upstream.client import UpstreamAnswer
from tenants import budget_leases
from tenants.budget_leases import BudgetLeases
from tenants.deployment_budgets import LeasedDeploymentBudgets
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
    services,
    target,
)
from tests.unit.tenants.test_budget_admission import Estimate
from tests.unit.tenants.test_budget_leases import NOW_S, Heart, Store, rule

COST = 10
FIRST, SECOND = target("first"), target("second")
RULE = rule(owner="deployment", scope="deployment", scope_id="first")
GOOD = Script([WHOLE_ANSWER], headers=JSON_ANSWER, wait_s=0.01)
BROKEN = Script([b"{}"], status=500, headers=JSON_ANSWER)


class PricedLedger(MemoryLedger):
    async def close(self, attempt: Attempt) -> None:
        attempt.cost_pusd = COST if attempt.usage.total_input else 0
        await super().close(attempt)


@dataclass
class Case:
    """`first` has a budget of `limit`; `rules` by the id of the deployment."""

    limit: int = COST
    rules: dict[str, tuple[BudgetRule, ...]] = field(default_factory=lambda: {"first": (RULE,)})
    cost: int | None = COST
    answers: list[Script | BaseException] = field(default_factory=lambda: [GOOD] * 200)
    changes: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.store, self.ledger = Store(limit=self.limit), PricedLedger()
        self.leases = BudgetLeases(self.store, writer_id="w", liveness=Heart(), now=lambda: NOW_S)
        self.client = ScriptedClient(self.answers)
        budgets = LeasedDeploymentBudgets(
            self.leases,
            lambda name: self.rules.get(name, ()),
            estimate=self.estimate,
            now=lambda: NOW_S,
        )
        self.services = services(self.client, self.ledger, **({"deployment_budgets": budgets} | self.changes))

    def estimate(self, call: Call, to: Target) -> Estimate:
        return Estimate(self.cost)

    async def ask(self, *plan: Target, principal: Principal = PRINCIPAL) -> None:
        reply = MemoryReply()
        await exchange_plan(bind(chat()), plan, principal, self.services, reply, request_id="r", timeout_s=None)

    async def refused(self, *plan: Target, principal: Principal = PRINCIPAL) -> Fault:
        with pytest.raises(Fault) as caught:
            await self.ask(*plan, principal=principal)
        return caught.value

    @property
    def answered(self) -> list[str]:
        return [attempt.target.deployment_id for attempt in self.ledger.closed]

    async def held(self) -> int:
        """The amount that stays leased of the window when no call runs; at least what calls have cost."""
        await self.leases.close()
        return self.store.window.leased


async def test_a_spent_budget_sends_calls_to_another_deployment() -> None:
    case = Case(limit=2 * COST)
    for _ in range(4):
        await case.ask(FIRST, SECOND)
    assert case.answered == ["first", "first", "second", "second"]
    assert await case.held() == 2 * COST
    assert [bool(attempt.windows) for attempt in case.ledger.opened] == [True, True, False, False]


async def test_alone_the_client_gets_the_refusal_without_amounts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget_leases, "REFUSED_S", 0.0)
    case = Case(limit=COST)
    await case.ask(FIRST)
    fault = await case.refused(FIRST)
    assert isinstance(fault, BudgetExceeded)
    assert (fault.status, fault.type, fault.code) == (429, "budget_exceeded", "budget_held")  # its cost is not priced
    assert fault.message == (
        "Budget has been exceeded! The deployment has no budget left for this request. "
        "Resets at 2027-01-16T00:00:00Z. Try again when a running call has ended."
    )
    case.store.window.spent, case.store.window.leased = COST, 0  # priced
    fault = await case.refused(FIRST)
    assert (fault.type, fault.code) == ("budget_exceeded", "insufficient_quota")
    assert "$" not in fault.message
    assert dict(fault.headers)[b"x-should-retry"] == b"false"
    assert len(case.client.requests) == len(case.ledger.opened) == 1


async def test_64_calls_at_once_never_pass_it() -> None:
    case = Case(limit=10 * COST)
    await asyncio.gather(*(case.ask(FIRST, SECOND) for _ in range(64)))
    assert case.answered.count("first") == 10
    assert case.answered.count("second") == 54
    assert await case.held() == 10 * COST


async def test_a_failed_attempt_gives_back_and_the_next_deployment_is_not_charged() -> None:
    case = Case(answers=[BROKEN, GOOD, GOOD])
    await case.ask(FIRST, SECOND)
    await case.ask(FIRST)  # what the first attempt reserved is there again
    assert case.answered == ["first", "second", "first"]
    assert await case.held() == COST


async def test_each_attempt_names_the_windows_of_its_own_deployment() -> None:
    other = rule("c", owner="deployment", scope="deployment", scope_id="second")
    case = Case(answers=[BROKEN, GOOD], rules={"first": (RULE,), "second": (other,)})
    await case.ask(FIRST, SECOND)
    assert [attempt.windows for attempt in case.ledger.opened] == [("b@15",), ("c@15",)]


async def test_a_limit_that_refuses_gives_the_budget_back() -> None:
    case = Case(limit=COST)
    full = target("first", tpm=1)  # no call is so small
    fault = await case.refused(full)
    assert isinstance(fault, RateLimited)
    assert await case.held() == 0


async def test_a_refused_admission_gives_the_budget_back() -> None:
    class Refusing:
        async def reserve(self, *_: object, **__: object) -> None:
            raise Forbidden("no")

    case = Case(changes={"admission": Refusing()})
    assert isinstance(await case.refused(FIRST), Forbidden)
    assert await case.held() == 0


async def test_a_client_that_leaves_gives_back_what_was_not_spent() -> None:
    asked = asyncio.Event()

    class Silent(ScriptedClient):
        async def send(self, request: UpstreamRequest, *, connect_timeout_s: float | None = None) -> UpstreamAnswer:
            asked.set()
            await asyncio.Event().wait()
            raise AssertionError

    case = Case()
    case.services = replace(case.services, client=Silent([]))
    running = asyncio.create_task(case.ask(FIRST))
    await asked.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    closed = case.ledger.closed[-1].cost_pusd
    assert await case.held() == closed


async def test_the_refusal_of_limits_goes_before_that_of_budgets() -> None:
    case = Case(limit=0)
    fault = await case.refused(FIRST, target("second", tpm=1))
    assert fault.code == "all_deployments_in_cooldown"


async def test_without_the_database_a_deployment_without_a_budget_answers() -> None:
    case = Case()
    case.store.is_away = True
    await case.ask(FIRST, SECOND)
    assert case.answered == ["second"]
    fault = await case.refused(FIRST)
    assert isinstance(fault, GatewayFault)
    assert fault.status == 503


async def test_a_deployment_without_a_price_is_refused_where_the_organization_says_so() -> None:
    case = Case(cost=None)
    fault = await case.refused(FIRST)
    assert (fault.status, fault.code) == (403, "model_unpriced")
    lax = Principal(organization_id="home", key_digest="d" * 64, refuses_unpriced=False)
    await case.ask(FIRST, principal=lax)
    assert case.answered == ["first"]


async def test_what_costs_nothing_needs_no_budget() -> None:
    case = Case(limit=0, cost=0)
    await case.ask(FIRST)
    assert case.answered == ["first"]
    assert case.store.asked == []
