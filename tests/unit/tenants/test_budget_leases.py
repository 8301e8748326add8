"""The budgets of one process, over a scripted store."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from django.db import OperationalError
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.pipeline.ports import BudgetRule
from tenants import budget_leases
from tenants.budget_leases import REFUSED_S, BudgetLeases, BudgetRefused, Hold
from tenants.budget_store import (
    Leased,
    LeaseRefused,
    LeaseRequest,
    WindowState,
    give_back,
    lease,
)

NOW_S = 1_800_000_000.0  # 2027-01-15T08:00:00Z
DAY_S = 86_400


def rule(budget_id: str = "b", **changes: Any) -> BudgetRule:
    fields: dict[str, Any] = {
        "budget_id": budget_id,
        "organization_id": "home",
        "owner": "key",
        "scope": "key",
        "scope_id": "k",
        "duration": "1d",
        "time_zone": "UTC",
        "is_hard": True,
    }
    return BudgetRule(**(fields | changes))


@dataclass
class Window:
    limit: int | None
    spent: int = 0
    leased: int = 0


@dataclass
class Store:
    """Runs what the leases run in a thread. `slice_pusd` is the least that it leases."""

    limit: int | None = 100
    slice_pusd: int = 0
    is_away: bool = False
    gate: asyncio.Event | None = None
    windows: dict[tuple[str, Any], Window] = field(default_factory=dict)
    asked: list[Sequence[LeaseRequest]] = field(default_factory=list)

    async def __call__(self, function: Callable[..., Any], *arguments: Any) -> Any:
        await asyncio.sleep(0)
        if self.is_away:
            raise OperationalError("away")
        if function is give_back:
            return self._give_back(*arguments)
        assert function is lease
        self.asked.append(arguments[0])
        if self.gate is not None:
            await self.gate.wait()
        return self._lease(*arguments)

    def _lease(
        self, requests: Sequence[LeaseRequest], writer_id: str, is_wanted: Callable[[], bool]
    ) -> list[Leased] | LeaseRefused:
        result = []
        for place, request in enumerate(requests):
            window = self.windows.setdefault((request.budget_id, request.starts_at), Window(self.limit))
            name = f"{request.budget_id}@{request.starts_at:%d}"
            if window.limit is None:
                result.append(Leased(name))
                continue
            room = window.limit - window.spent - window.leased
            if room < request.amount_pusd:
                return LeaseRefused(place, WindowState(window.limit, window.spent, window.leased, request.ends_at))
            result.append(Leased(name, name, max(request.amount_pusd, min(self.slice_pusd, room))))
        for request, leased in zip(requests, result, strict=True):
            self.windows[request.budget_id, request.starts_at].leased += leased.amount_pusd or 0
        return result

    def _give_back(self, amounts: Mapping[str, int]) -> None:
        by_name = {f"{budget}@{starts_at:%d}": window for (budget, starts_at), window in self.windows.items()}
        for name, amount in amounts.items():
            by_name[name].leased -= amount

    @property
    def window(self) -> Window:
        (window,) = self.windows.values()
        return window


@dataclass
class Heart:
    """A process that the others know as alive."""

    is_known: bool = True
    lapses: int = 0
    confirms: int = 0

    async def confirm(self) -> None:
        self.confirms += 1
        self.lapses += 1
        self.is_known = True


@dataclass
class Case:
    store: Store = field(default_factory=Store)
    heart: Heart = field(default_factory=Heart)
    now_s: float = NOW_S

    def __post_init__(self) -> None:
        self.leases = BudgetLeases(self.store, writer_id="w", liveness=self.heart, now=lambda: self.now_s)

    async def reserve(self, amount: int, *rules: BudgetRule) -> Hold:
        return await self.leases.reserve(rules or (rule(),), amount)

    async def refused(self, amount: int, *rules: BudgetRule) -> BudgetRefused:
        with pytest.raises(BudgetRefused) as caught:
            await self.reserve(amount, *rules)
        return caught.value

    async def end(self) -> None:
        """Gives all back that no call uses."""
        await self.leases.close()


async def test_a_lease_with_room_answers_from_memory() -> None:
    case = Case(Store(slice_pusd=50))
    holds = [await case.reserve(10) for _ in range(5)]
    assert len(case.store.asked) == 1
    for hold in holds:
        hold.settle(7)
    await case.end()
    assert case.store.window.leased == 35  # costs, until they are priced


async def test_never_more_is_reserved_than_is_leased() -> None:
    case = Case(Store(slice_pusd=30))
    holds = await asyncio.gather(*(case.reserve(10) for _ in range(64)), return_exceptions=True)
    admitted = [hold for hold in holds if isinstance(hold, Hold)]
    assert len(admitted) == 10
    assert all(isinstance(hold, Hold | BudgetRefused) for hold in holds)
    assert case.store.window.leased == 100


async def test_a_call_is_settled_once() -> None:
    case = Case()
    hold = await case.reserve(60)
    hold.settle(10)
    hold.settle(10)
    await case.reserve(50)
    assert len(case.store.asked) == 1


async def test_an_overrun_is_accounted_for() -> None:
    case = Case()
    hold = await case.reserve(10)
    hold.settle(25)
    await case.end()
    assert case.store.window.leased == 25


async def test_the_next_lease_covers_an_overrun_too() -> None:
    case = Case()
    (await case.reserve(10)).settle(25)
    await case.reserve(10)
    assert case.store.window.leased == 35


async def test_a_fallback_reserves_the_difference() -> None:
    case = Case()
    hold = await case.reserve(40)
    assert await case.leases.extend(hold, 70)
    assert case.store.window.leased == 70
    assert not await case.leases.extend(hold, 101)
    assert hold.amount_pusd == 70
    hold.settle(0)
    await case.end()
    assert case.store.window.leased == 0


async def test_a_call_stays_in_the_window_of_its_start() -> None:
    case = Case()
    hold = await case.reserve(60)
    case.now_s += DAY_S
    other = await case.reserve(60)
    assert hold.windows != other.windows
    assert not await case.leases.extend(hold, 70)  # the window is over
    hold.settle(80)
    other.settle(50)
    await case.end()
    assert [window.leased for window in case.store.windows.values()] == [80, 50]


async def test_all_budgets_or_none_are_reserved() -> None:
    case = Case()
    await case.reserve(80, rule("a"))
    error = await case.refused(30, rule("b"), rule("a"))
    assert error.rule.budget_id == "a"
    assert error.state.leased_pusd == 80
    await case.reserve(100, rule("b"))


async def test_a_client_that_goes_away_leaves_no_lease_behind() -> None:
    case = Case(Store(gate=asyncio.Event()))
    call = asyncio.create_task(case.reserve(40))
    await asyncio.sleep(0.01)
    call.cancel()
    with suppress(asyncio.CancelledError):
        await call
    assert case.store.gate is not None
    case.store.gate.set()
    await asyncio.sleep(0.01)
    assert case.store.window.leased == 40
    await case.end()
    assert case.store.window.leased == 0


async def test_different_budgets_are_asked_for_at_the_same_time() -> None:
    case = Case(Store(gate=asyncio.Event()))
    calls = [asyncio.create_task(case.reserve(10, rule(f"b{number}"))) for number in range(5)]
    await asyncio.sleep(0.01)
    assert len(case.store.asked) == 5
    assert case.store.gate is not None
    case.store.gate.set()
    await asyncio.gather(*calls)


async def test_a_flood_is_refused_from_memory_for_half_a_second() -> None:
    case = Case()
    await case.reserve(100)
    for _ in range(20):
        await case.refused(10)
    assert len(case.store.asked) == 2
    await asyncio.sleep(REFUSED_S + 0.05)
    await case.refused(10)
    assert len(case.store.asked) == 3


async def test_a_refusal_ends_with_its_window() -> None:
    case = Case()
    await case.reserve(100)
    await case.refused(10)
    case.now_s += DAY_S
    await case.reserve(10)


async def test_a_smaller_request_is_not_refused_from_memory() -> None:
    case = Case()
    await case.reserve(90)
    await case.refused(20)
    await case.reserve(10)


async def test_a_hard_budget_fails_closed_while_the_database_is_away() -> None:
    case = Case(Store(slice_pusd=50))
    await case.reserve(10)
    case.store.is_away = True
    await case.reserve(40)  # is leased already
    with pytest.raises(OperationalError):
        await case.reserve(10)


async def test_a_soft_budget_stays_open_while_the_database_is_away() -> None:
    case = Case(Store(is_away=True))
    hold = await case.reserve(10, rule(is_hard=False))
    assert hold.windows == ()
    hold.settle(10)


async def test_a_process_that_may_be_taken_for_dead_confirms_and_leases_anew() -> None:
    case = Case(Store(slice_pusd=50))
    first = await case.reserve(10)
    case.heart.is_known = False
    second = await case.reserve(10)
    assert case.heart.confirms == 1
    assert len(case.store.asked) == 2
    assert first.accounts[0] is not second.accounts[0]
    first.settle(5)
    second.settle(5)
    await case.end()
    assert case.store.window.leased == 10


async def test_a_lapse_is_noticed_afterwards_too() -> None:
    """The heartbeat was the first to run after the process had stood still."""
    case = Case(Store(slice_pusd=50))
    await case.reserve(10)
    case.heart.lapses += 1
    await case.reserve(10)
    assert len(case.store.asked) == 2


async def test_a_budget_that_became_soft_is_not_asked_for_again_and_again() -> None:
    """The rules of this process say hard for up to a second more."""
    case = Case(Store(limit=None))
    for _ in range(50):
        (await case.reserve(10)).settle(10)
    assert len(case.store.asked) == 1


async def test_idle_leases_go_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget_leases, "IDLE_S", 0.02)
    monkeypatch.setattr(budget_leases, "AMPLE_IDLE_S", 0.02)
    case = Case(Store(slice_pusd=50))
    await case.leases.start()
    hold = await case.reserve(10)
    await asyncio.sleep(0.1)
    assert case.store.window.leased == 50  # a call runs
    case.store.is_away = True
    hold.settle(4)
    await asyncio.sleep(0.1)
    assert case.store.window.leased == 50
    case.store.is_away = False
    await asyncio.sleep(0.1)
    assert case.store.window.leased == 4
    await case.end()


async def test_memory_is_bounded_with_a_hundred_thousand_end_users() -> None:
    case = Case(Store(limit=10**6))
    for number in range(100_000):
        (await case.reserve(1, rule(scope="end_user", scope_id=f"home:{number}"))).settle(1)
    assert len(case.leases._accounts) <= 100_000
    case.leases._collect(is_end=True)
    assert not case.leases._accounts
    assert not case.leases._ended
    assert not case.leases._asking


async def test_refusals_in_memory_are_bounded() -> None:
    case = Case(Store(limit=0))
    for number in range(budget_leases.MAX_REFUSALS + 100):
        await case.refused(1, rule(scope="end_user", scope_id=f"home:{number}"))
    assert len(case.leases._refusals) <= budget_leases.MAX_REFUSALS


@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["reserve", "settle", "extend", "price", "idle"]), st.integers(0, 40)), max_size=60
    ),
    slice_pusd=st.integers(0, 40),
)
@settings(deadline=None)
def test_what_is_leased_is_what_is_free_reserved_and_unpriced(steps: list[tuple[str, int]], slice_pusd: int) -> None:
    async def story() -> None:
        case = Case(Store(slice_pusd=slice_pusd))
        holds: list[Hold] = []
        unpriced: list[int] = []
        for step, amount in steps:
            match step:
                case "reserve":
                    with suppress(BudgetRefused):
                        holds.append(await case.reserve(amount))
                case "settle" if holds:
                    holds.pop().settle(amount)
                    unpriced.append(amount)
                case "extend" if holds:
                    await case.leases.extend(holds[-1], amount)
                case "price" if unpriced:
                    cost = unpriced.pop()
                    case.store.window.leased -= cost
                    case.store.window.spent += cost
                case "idle":
                    await case.leases._give_back(case.leases._collect(is_end=True))
            if case.store.windows:
                free = sum(account.available_pusd for account in case.leases._accounts.values())
                reserved = sum(hold.amount_pusd for hold in holds)
                assert case.store.window.leased == free + reserved + sum(unpriced)
                assert free >= min(0, *unpriced, -40 * len(steps))

    asyncio.run(story())


async def test_a_reservation_in_memory_is_cheap() -> None:
    """Some 2 µs with four budgets on a quiet machine; the bound is for a busy one."""
    case = Case(Store(limit=10**15, slice_pusd=10**12))
    rules = tuple(rule(f"b{number}") for number in range(4))
    (await case.reserve(10, *rules)).settle(1)
    best = float("inf")
    for _ in range(20):
        began = time.perf_counter()
        for _ in range(200):
            (await case.reserve(10, *rules)).settle(1)
        best = min(best, (time.perf_counter() - began) / 200)
    assert best < 60e-6
