"""Budgets at admission: the three refusals, models without a price, free models, and fallbacks."""

from dataclasses import dataclass, field, replace
from typing import Any

import orjson
import pytest

from gateway.pipeline.ports import Attempt, BudgetRule, Dimension, LimitRule, Principal, Reservation, Rules
from gateway.protocol.call import Call
from gateway.protocol.dialects.anthropic.client import error_body as anthropic_body
from gateway.protocol.dialects.openai.wire import error_body as openai_body
from gateway.protocol.errors import BudgetExceeded, Forbidden, GatewayFault, RateLimited
from gateway.protocol.output_limit import read_output_limit
from gateway.protocol.provider import Target
from gateway.state.memory_rate_limits import MemoryRateLimits
from tenants.admission import LimitAdmission
from tenants.budget_leases import BudgetLeases
from tenants.rate_limiter import RateLimiter
from tests.fakes.memory import chat, target
from tests.unit.tenants.test_budget_leases import NOW_S, Heart, Store, Window, rule

PUSD = 10**12
RULE = rule(owner="team", model="")


@dataclass
class Estimate:
    cost_pusd: int | None
    input_tokens: int = 1
    output_tokens: int = 1


class NoScopes:
    async def find(self, principal: Principal, call: Call) -> Rules:
        return Rules()


@dataclass
class Case:
    """`costs` is the estimate by the deployment."""

    costs: dict[str, int | None]
    store: Store = field(default_factory=lambda: Store(limit=PUSD))
    rules: tuple[BudgetRule, ...] = (RULE,)
    refuses_unpriced: bool = True
    status: int = 429

    def __post_init__(self) -> None:
        leases = BudgetLeases(self.store, writer_id="w", liveness=Heart(), now=lambda: NOW_S)
        self.admission = LimitAdmission(
            RateLimiter(MemoryRateLimits(), now=lambda: NOW_S, new_id=lambda: "id"),
            leases,
            NoScopes(),
            estimate=lambda _, to: Estimate(self.costs[to.deployment_id]),
            now=lambda: NOW_S,
            budget_status=self.status,
        )

    async def reserve(self, deployment: str = "first") -> Reservation | None:
        principal = Principal(
            organization_id="home",
            key_digest="d" * 64,
            rules=Rules(budgets=self.rules),
            refuses_unpriced=self.refuses_unpriced,
        )
        return await self.admission.reserve(principal, chat(), target(deployment))

    async def admitted(self, deployment: str = "first") -> Reservation:
        reservation = await self.reserve(deployment)
        assert reservation is not None
        return reservation

    async def refused(self) -> BudgetExceeded:
        with pytest.raises(BudgetExceeded) as caught:
            await self.reserve()
        return caught.value


def ended(to: Target, cost_pusd: int) -> Attempt:
    return Attempt(
        id="1",
        request_id="1",
        number=0,
        principal=Principal(organization_id="home", key_digest="d" * 64),
        call=chat(),
        target=to,
        started_at=NOW_S,
        cost_pusd=cost_pusd,
    )


async def test_a_spent_budget_is_not_to_be_tried_again() -> None:
    case = Case({"first": PUSD // 100})
    await _spend(case, PUSD)
    fault = await case.refused()
    assert (fault.status, fault.type, fault.code) == (429, "budget_exceeded", "insufficient_quota")
    assert fault.message == (
        "Budget has been exceeded! Team: current cost: $1.0, held by running calls: $0.0, max budget: $1.0. "
        "Resets at 2027-01-16T00:00:00Z."
    )
    headers = dict(fault.headers)
    assert headers[b"x-should-retry"] == b"false"
    assert headers[b"x-ratelimit-reset-budget"] == b"57600"
    assert b"retry-after" not in headers


async def test_a_request_that_never_fits_names_its_estimate() -> None:
    case = Case({"first": 2 * PUSD})
    fault = await case.refused()
    assert (fault.status, fault.type, fault.code) == (429, "budget_exceeded", "insufficient_quota")
    assert fault.message.startswith("Budget has been exceeded! Team: current cost: $0.0, ")
    assert fault.message.endswith(" This request may cost $2.0, more than is left.")
    assert dict(fault.headers)[b"x-should-retry"] == b"false"


async def test_a_request_that_only_waits_for_others_may_be_tried_again() -> None:
    case = Case({"first": PUSD * 6 // 10})
    running = await case.admitted()
    fault = await case.refused()
    assert (fault.status, fault.type, fault.code) == (429, "budget_exceeded", "budget_held")
    assert "held by running calls: $0.6, max budget: $1.0." in fault.message
    assert fault.message.endswith(" This request may cost $0.6; try again when a running call has ended.")
    assert dict(fault.headers) == {b"retry-after": b"1", b"x-should-retry": b"true"}
    await running.settle()
    await case.admitted()


async def test_a_cached_answer_takes_requests_alone_and_no_budget() -> None:
    """The budget is spent, the slots are taken, no token is left: none of that is asked."""
    case = Case({"first": PUSD // 100})
    await _spend(case, PUSD)
    kinds = {Dimension.REQUESTS: 2, Dimension.TOKENS: 0, Dimension.OUTPUT_TOKENS: 0, Dimension.PARALLEL: 0}
    limits = tuple(
        LimitRule(f"{{home}}:{kind}", "key", kind, limit, 0 if kind is Dimension.PARALLEL else 60)
        for kind, limit in kinds.items()
    )
    principal = Principal(organization_id="home", key_digest="d" * 64, rules=Rules(limits, (RULE,)))
    for left in (b"1", b"0"):
        headers = dict(await case.admission.charge_request(principal, chat()))
        assert headers[b"x-ratelimit-remaining-requests"] == left
    with pytest.raises(RateLimited):
        await case.admission.charge_request(principal, chat())
    assert await case.admission.charge_request(replace(principal, rules=Rules()), chat()) == []


async def test_another_status_by_setting() -> None:
    fault = await Case({"first": 2 * PUSD}, status=402).refused()
    assert (fault.status, fault.type) == (402, "budget_exceeded")


async def test_the_refusal_in_the_words_of_each_dialect() -> None:
    fault = await Case({"first": 2 * PUSD}).refused()
    assert orjson.loads(openai_body(fault))["error"] == {
        "message": fault.message,
        "type": "budget_exceeded",
        "param": None,
        "code": "insufficient_quota",
    }
    body = orjson.loads(anthropic_body(fault))
    assert body["type"] == "error"
    assert body["error"]["type"] == "rate_limit_error"  # of the format's own few
    assert "Budget has been exceeded!" in body["error"]["message"]


async def test_a_model_of_a_budget_is_named() -> None:
    fault = await Case({"first": 2 * PUSD}, rules=(replace(RULE, owner="key", model="public"),)).refused()
    assert fault.message.startswith("Budget has been exceeded! Key (model public): ")


async def test_a_budget_of_another_model_is_not_asked() -> None:
    assert await Case({"first": 2 * PUSD}, rules=(replace(RULE, model="other"),)).reserve() is None


async def test_a_model_without_a_price_is_blocked_under_a_hard_budget() -> None:
    with pytest.raises(Forbidden) as caught:
        await Case({"first": None}).reserve()
    assert (caught.value.status, caught.value.code, caught.value.param) == (403, "model_unpriced", "model")
    await Case({"first": None}, refuses_unpriced=False).admitted()
    await Case({"first": None}, Store(limit=None), rules=(replace(RULE, is_hard=False),)).admitted()


async def test_a_free_model_needs_no_budget() -> None:
    case = Case({"first": 0}, Store(limit=0))
    reservation = await case.admitted()
    assert reservation.windows == ()
    assert case.store.asked == []


async def test_an_unknown_budget_is_refused_while_the_database_is_away() -> None:
    with pytest.raises(GatewayFault) as caught:
        await Case({"first": 1}, Store(is_away=True)).reserve()
    assert caught.value.status == 503


async def test_a_fallback_reserves_what_earlier_attempts_have_cost_too() -> None:
    case = Case({"first": PUSD // 10, "second": PUSD // 2})
    reservation = await case.admitted()
    reservation.add(ended(target(), PUSD // 10))
    assert await reservation.extend(chat(), target("second"))
    assert case.store.window.leased == PUSD * 6 // 10


async def test_an_attempt_beside_a_running_one_reserves_both() -> None:
    case = Case({"first": PUSD // 2, "second": PUSD // 2, "third": PUSD // 2 + 1})
    reservation = await case.admitted()
    running = ended(target(), 0)
    assert not await reservation.extend(chat(), target("third"), [running])
    assert case.store.window.leased == PUSD // 2
    assert await reservation.extend(chat(), target("second"), [running])
    assert case.store.window.leased == PUSD
    reservation.add(ended(target(), PUSD // 2))
    reservation.add(ended(target("second"), PUSD // 2))
    await reservation.settle()


async def test_a_fallback_that_does_not_fit_is_not_taken() -> None:
    case = Case({"first": PUSD // 10, "second": 2 * PUSD, "third": None})
    reservation = await case.admitted()
    assert not await reservation.extend(chat(), target("second"))
    assert not await reservation.extend(chat(), target("third"))  # without a price
    case.store.is_away = True
    case.costs["second"] = PUSD // 2
    assert not await reservation.extend(chat(), target("second"))


async def test_a_fallback_from_a_free_model_reserves_as_well() -> None:
    case = Case({"first": 0, "second": PUSD // 2, "third": 2 * PUSD})
    reservation = await case.admitted()
    assert await reservation.extend(chat(), target("second"))
    assert len(reservation.windows) == 1
    other = await case.admitted()
    assert not await other.extend(chat(), target("third"))


@dataclass
class LoweringCase(Case):
    """One picodollar a token of output, ten for the input, and as many tokens as the call asks for."""

    rules: tuple[BudgetRule, ...] = (RULE, replace(RULE, budget_id="other", owner="key"))

    def __post_init__(self) -> None:
        super().__post_init__()
        self.admission._estimate = lambda call, _: Estimate(10 + (read_output_limit(call.body) or 0))
        self.admission._find_output_limit = lambda call, _, pusd: pusd - 10 if pusd >= 10 + 16 else None

    async def ask(self, tokens: int) -> Reservation:
        principal = Principal(organization_id="home", key_digest="d" * 64, rules=Rules(budgets=self.rules))
        reservation = await self.admission.reserve(principal, chat(max_tokens=tokens), target())
        assert reservation is not None
        return reservation


async def test_the_output_is_lowered_to_what_the_tightest_budget_pays() -> None:
    case = LoweringCase({}, Store(limit=1000))
    (await case.ask(100)).add(ended(target(), 0))
    for window, spent in zip(case.store.windows.values(), (600, 800), strict=True):
        window.spent, window.leased = spent, window.leased
    reservation = await case.ask(500)
    assert reservation.output_limit is not None
    leased = [window.spent + window.leased for window in case.store.windows.values()]
    assert max(leased) == 1000
    assert reservation.output_limit == 200 - 110 - 10
    assert reservation.headers == [(b"x-tollgate-max-tokens-lowered", b"80")]


async def test_a_call_that_fits_is_not_lowered() -> None:
    reservation = await LoweringCase({}, Store(limit=1000)).ask(990)
    assert (reservation.output_limit, reservation.headers) == (None, [])


async def test_a_call_that_cannot_be_lowered_is_refused_as_it_came() -> None:
    case = LoweringCase({}, Store(limit=20))
    with pytest.raises(BudgetExceeded) as caught:
        await case.ask(500)
    assert caught.value.message.endswith(" This request may cost $0.00000000051, more than is left.")
    assert {window.leased for window in case.store.windows.values()} == {0}


async def _spend(case: Case, pusd: int) -> None:
    hold: Any = await case.admitted()
    hold.add(ended(target(), 0))
    await hold.settle()
    window: Window = case.store.window
    window.spent, window.leased = pusd, 0
    await case.admission._budgets.close()
    window.leased = 0
