"""Admission against a model that knows every call: random rules, calls, fallbacks and times on two processes."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.pipeline.ports import Attempt, BudgetRule, Dimension, LimitRule, Principal, Reservation, Rules
from gateway.protocol.errors import BudgetExceeded, RateLimited
from gateway.protocol.usage import Usage
from gateway.state.memory_rate_limits import MemoryRateLimits
from gateway.state.rate_limits import MINUTE_S, SLOT_S
from tenants.admission import LimitAdmission
from tenants.budget_leases import BudgetLeases
from tenants.budget_store import Leased, LeaseRefused, LeaseRequest, WindowState, give_back
from tenants.budget_windows import find_window
from tenants.rate_limiter import RateLimiter
from tests.fakes.memory import chat, target
from tests.unit.tenants.test_budget_leases import NOW_S, Heart, Window, rule

MODELS = ("", "public", "other")
PROCESSES = 2
#: Every call is one of the model `public`.
COUNTED = ("", "public")


@dataclass
class Wall:
    """The windows of all processes; `slice_pusd` is the least that it leases."""

    limits: Mapping[str, int | None]
    slice_pusd: int
    windows: dict[str, Window] = field(default_factory=dict)

    async def __call__(self, function: Callable[..., Any], *arguments: Any) -> Any:
        await asyncio.sleep(0)
        if function is give_back:
            for name, amount in arguments[0].items():
                self.windows[name.partition(" of ")[2]].leased -= amount
            return None
        requests, writer_id, _ = arguments
        return self._lease(requests, writer_id)

    def _lease(self, requests: Sequence[LeaseRequest], writer_id: str) -> list[Leased] | LeaseRefused:
        result = []
        for place, request in enumerate(requests):
            name = window_name(request.budget_id, request.starts_at)
            window = self.windows.setdefault(name, Window(self.limits[request.budget_id]))
            if window.limit is None:
                result.append(Leased(name))
                continue
            room = window.limit - window.spent - window.leased
            if room < request.amount_pusd:
                return LeaseRefused(place, WindowState(window.limit, window.spent, window.leased, request.ends_at))
            result.append(Leased(name, f"{writer_id} of {name}", max(request.amount_pusd, min(self.slice_pusd, room))))
        for leased in result:
            self.windows[leased.window_id].leased += leased.amount_pusd or 0
        return result


def window_name(budget_id: str, starts_at: datetime) -> str:
    return f"{budget_id}@{starts_at.isoformat()}"


@dataclass
class KnownCall:
    """An admitted call in the model: the amounts reserved while the call runs, and the amounts used afterwards."""

    reservation: Reservation
    at_s: float
    requests: int
    input_tokens: int
    output_tokens: int
    pusd: int
    spent: int = 0  # by attempts that ended
    windows: set[str] = field(default_factory=set)
    is_running: bool = True
    is_priced: bool = False

    def amount(self, dimension: Dimension) -> int:
        return {
            Dimension.REQUESTS: self.requests,
            Dimension.TOKENS: self.input_tokens + self.output_tokens,
            Dimension.INPUT_TOKENS: self.input_tokens,
            Dimension.OUTPUT_TOKENS: self.output_tokens,
            Dimension.PARALLEL: int(self.is_running),
        }[dimension]


@dataclass(frozen=True)
class Estimate:
    input_tokens: int
    output_tokens: int
    cost_pusd: int


class World:
    def __init__(self, budgets: Sequence[BudgetRule], wall: Wall, limits: Sequence[LimitRule]) -> None:
        self.now_s = NOW_S
        self.budgets = [bound for bound in budgets if bound.model in COUNTED]
        self.limits = [bound for bound in limits if bound.model in COUNTED]
        self.wall = wall
        self.calls: list[KnownCall] = []
        self.estimate = Estimate(0, 0, 0)
        self.principal = Principal("home", "d" * 64, rules=Rules(tuple(limits), tuple(budgets)))
        self.counters = MemoryRateLimits(lambda: self.now_s)
        self.leases = [
            BudgetLeases(wall, writer_id=f"w{number}", liveness=Heart(), now=lambda: self.now_s)
            for number in range(PROCESSES)
        ]
        ids = iter(range(10**9))
        self.limiters = [
            RateLimiter(self.counters, now=lambda: self.now_s, new_id=lambda: str(next(ids))) for _ in self.leases
        ]
        self.admissions = [
            LimitAdmission(limiter, leases, self, estimate=lambda *_: self.estimate, now=lambda: self.now_s)
            for limiter, leases in zip(self.limiters, self.leases, strict=True)
        ]

    async def find(self, *_: object) -> Rules:
        return Rules()

    @property
    def running(self) -> list[KnownCall]:
        return [call for call in self.calls if call.is_running]

    def hard_windows(self) -> set[str]:
        """The windows of hard budgets that a call of now is in."""
        now = datetime.fromtimestamp(self.now_s, UTC)
        return {
            window_name(bound.budget_id, find_window(bound.duration, ZoneInfo("UTC"), now).starts_at)
            for bound in self.budgets
            if bound.is_hard
        }

    async def call(self, process: int, estimate: Estimate, *, is_repeat: bool) -> None:
        self.estimate, windows = estimate, self.hard_windows() if estimate.cost_pusd else set()
        self.leases[process]._refusals.clear()  # what it remembers may be outdated for half a second
        before = await self.levels()
        try:
            reservation = await self.admissions[process].reserve(self.principal, chat(), target(), is_repeat=is_repeat)
        except BudgetExceeded:
            assert any(self.room(name, process) < estimate.cost_pusd for name in windows)
            assert await self.levels() == before
        except RateLimited:
            call = KnownCall(Any, self.now_s, int(not is_repeat), estimate.input_tokens, estimate.output_tokens, 0)
            walls = [limit for limit in self.limits if not limit.is_shadow]
            assert any(self.used(limit) + call.amount(limit.dimension) > limit.limit for limit in walls)
            assert await self.levels() == before
        else:
            if reservation is None:
                assert not self.budgets
                assert not self.limits
                return
            counts = (int(not is_repeat), estimate.input_tokens, estimate.output_tokens, estimate.cost_pusd)
            self.calls.append(KnownCall(reservation, self.now_s, *counts, windows=windows))

    async def fall_back(self, call: KnownCall, cost_pusd: int, estimate: Estimate) -> None:
        """An attempt fails after it has cost something; another one reserves."""
        cost_pusd = min(cost_pusd, call.pusd - call.spent)
        call.reservation.add(ended(cost_pusd, 0, 0))
        call.spent += cost_pusd
        self.estimate, windows = estimate, self.hard_windows()
        had_hold = bool(call.pusd)
        if await call.reservation.extend(chat(), target()):
            call.pusd = max(call.pusd, call.spent + estimate.cost_pusd)
            if not had_hold and estimate.cost_pusd:
                call.windows = windows

    async def end(self, call: KnownCall, part: float) -> None:
        """The call costs and uses this part of what it reserved."""
        cost = int((call.pusd - call.spent) * part)
        tokens = int(call.input_tokens * part), int(call.output_tokens * part)
        call.reservation.add(ended(cost, *tokens))
        await call.reservation.settle()
        await call.reservation.settle()
        call.is_running = False
        call.pusd, (call.input_tokens, call.output_tokens) = call.spent + cost, tokens

    def price(self, call: KnownCall) -> None:
        call.is_priced = True
        for name in call.windows:
            self.wall.windows[name].leased -= call.pusd
            self.wall.windows[name].spent += call.pusd

    async def wait(self, seconds: int) -> None:
        """Slots are renewed meanwhile, as the limiters do it while they run."""
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            self.now_s = min(end_s, self.now_s + 600 if not self.running else self.now_s + 30)
            for limiter in self.limiters:
                await self.counters.renew(list(limiter._running.values()))

    async def levels(self) -> list[int]:
        return [level.used for level in await self.limiters[0].read_levels(self.limits)]

    def used(self, bound: LimitRule) -> int:
        """The amount that counts now: of the running second, and of the sixty before it."""
        counted = [
            call for call in self.calls if bound.span_s == SLOT_S or int(call.at_s) >= int(self.now_s) - MINUTE_S
        ]
        return sum(call.amount(bound.dimension) for call in counted)

    def free(self, name: str, processes: Sequence[int] = range(PROCESSES)) -> int:
        """The amount that these processes have leased of a window and not reserved."""
        accounts = [a for n in processes for a in (*self.leases[n]._accounts.values(), *self.leases[n]._ended)]
        return sum(account.available_pusd for account in accounts if account.window_id == name)

    def room(self, name: str, process: int) -> int:
        window = self.wall.windows.get(name) or Window(self.wall.limits[name.partition("@")[0]])
        return (window.limit or 0) - window.spent - window.leased + self.free(name, [process])

    async def check(self) -> None:
        assert await self.levels() == [self.used(bound) for bound in self.limits]
        for bound in self.limits:
            if bound.is_shadow:
                continue
            assert self.used(bound) <= bound.limit
            for last in self.calls if bound.span_s else ():
                span = [call for call in self.calls if last.at_s - MINUTE_S < call.at_s <= last.at_s]
                assert sum(call.amount(bound.dimension) for call in span) <= bound.limit
        for name, window in self.wall.windows.items():
            if window.limit is None:
                continue
            mine = [call for call in self.calls if name in call.windows]
            assert sum(call.pusd for call in mine) <= window.limit
            assert window.spent + window.leased <= window.limit
            assert window.spent == sum(call.pusd for call in mine if call.is_priced)
            assert window.leased == self.free(name) + sum(call.pusd for call in mine if not call.is_priced)

    async def finish(self) -> None:
        """Everything goes back, and only what was used is gone."""
        for call in self.running:
            await self.end(call, 1.0)
        for call in self.calls:
            if not call.is_priced:
                self.price(call)
        for leases in self.leases:
            await leases.close()
            await leases._give_back(leases._collect(is_end=True))
        await self.check()
        assert all(window.leased == 0 for window in self.wall.windows.values())
        assert not any(limiter._running for limiter in self.limiters)
        await self.wait(MINUTE_S + 1)
        assert await self.levels() == [0] * len(self.limits)


def ended(cost_pusd: int, input_tokens: int, output_tokens: int) -> Attempt:
    return Attempt(
        id="1",
        request_id="1",
        number=0,
        principal=Principal("home", "d" * 64),
        call=chat(),
        target=target(),
        started_at=NOW_S,
        usage=Usage(input_tokens=input_tokens, output_tokens=output_tokens),
        cost_pusd=cost_pusd,
    )


AMOUNTS = st.integers(0, 60)
BUDGETS = st.lists(
    st.tuples(st.none() | AMOUNTS, st.sampled_from(["", "1d", "1h", "rolling 1d"]), st.sampled_from(MODELS)), max_size=4
)
LIMITS = st.lists(st.tuples(st.sampled_from(Dimension), AMOUNTS, st.sampled_from(MODELS), st.booleans()), max_size=4)
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["call", "call", "call", "end", "end", "fall back", "price", "wait", "idle"]),
        st.integers(0, 3),
        AMOUNTS,
        AMOUNTS,
        AMOUNTS,
    ),
    max_size=50,
)
WAITS = (1, 29, 60, 7200)


@given(budgets=BUDGETS, limits=LIMITS, steps=STEPS, slice_pusd=st.integers(0, 40))
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # to draw many steps on a busy machine
def test_admission_agrees_with_a_model_that_knows_every_call(
    budgets: list[Any], limits: list[Any], steps: list[Any], slice_pusd: int
) -> None:
    """No limit is ever passed, no refusal takes anything or is without reason, and at the end all is given back."""

    async def story() -> None:
        rules = [
            rule(f"b{number}", duration=duration, model=model, is_hard=limit is not None)
            for number, (limit, duration, model) in enumerate(budgets)
        ]
        wall = Wall({f"b{number}": limit for number, (limit, *_) in enumerate(budgets)}, slice_pusd)
        limit_rules = [
            LimitRule(f"c{n}", "key", dimension, limit, SLOT_S if dimension is Dimension.PARALLEL else MINUTE_S, *rest)
            for n, (dimension, limit, *rest) in enumerate(limits)
        ]
        world = World(rules, wall, limit_rules)
        for step, which, *amounts in steps:
            ended_calls = [call for call in world.calls if not call.is_running and not call.is_priced]
            match step:
                case "call":
                    await world.call(which % PROCESSES, Estimate(*amounts), is_repeat=which == 3)
                case "end" if world.running:
                    await world.end(world.running[which % len(world.running)], amounts[0] / 60)
                case "fall back" if world.running:
                    call = world.running[which % len(world.running)]
                    await world.fall_back(call, amounts[0], Estimate(1, 1, amounts[1]))
                case "price" if ended_calls:
                    world.price(ended_calls[which % len(ended_calls)])
                case "wait":
                    await world.wait(WAITS[which])
                case "idle":
                    leases = world.leases[which % PROCESSES]
                    await leases._give_back(leases._collect(is_end=True))
            await world.check()
        await world.finish()

    asyncio.run(story())
