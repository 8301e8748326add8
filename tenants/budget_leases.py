"""The budgets of one process: what it has leased of their windows, and what its calls have reserved of that.

A reservation is arithmetic in memory while the lease has room. Only where it has none does the database decide
(budget_store.py), so that N calls on M replicas never pass a limit. An estimate that is too low takes the window over
its limit by that one call.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol
from zoneinfo import ZoneInfo

from django.db import Error as DatabaseError

from gateway.pipeline.ports import BudgetRule
from tenants.budget_store import Leased, LeaseRefused, LeaseRequest, WindowState, give_back, lease
from tenants.budget_windows import find_window
from tenants.database import InThread

#: How often what is idle is looked for. A lease that no call has used for so long goes back to its window if little is
#: left there; else it is kept a while.
IDLE_S = 1.0
AMPLE_IDLE_S = 10.0
#: For this long a spent window refuses from memory, so that a flood does not reach the database. As long is a budget
#: taken for soft that the database says is soft and the rule says is hard, and soft budgets are left out of calls
#: while the database is away.
REFUSED_S = 0.5
MAX_REFUSALS = 10_000
GIVE_BACK_BATCH = 500

Key = tuple[str, str, str]


class Liveness(Protocol):
    """This process as the other ones see it. They may lease what a dead one had leased."""

    @property
    def is_known(self) -> bool:
        """False when they may take this process for dead."""

    @property
    def lapses(self) -> int:
        """The number of times that they may have done so."""

    async def confirm(self) -> None:
        """Returns when they know that this process is alive. Raises DatabaseAway where that takes too long."""


class BudgetRefused(Exception):
    """The call does not fit this budget; nothing was reserved. The process lacked `asked_pusd` of its amount."""

    def __init__(self, rule: BudgetRule, amount_pusd: int, asked_pusd: int, state: WindowState) -> None:
        super().__init__(rule.budget_id)
        self.rule = rule
        self.amount_pusd = amount_pusd
        self.state = state
        self._asked_pusd = asked_pusd

    @property
    def payable_pusd(self) -> int:
        """The amount that would fit: the window's room, and what the process has of it already."""
        return self.amount_pusd - self._asked_pusd + (self.state.room_pusd or 0)


@dataclass(slots=True, eq=False)
class Account:
    """The amount that this process may still spend of one window. A soft budget has no limit to lease of."""

    window_id: str = ""
    lease_id: str = ""
    ends_at_s: float = float("inf")
    is_hard: bool = False
    available_pusd: int = 0  # below 0 after a call that cost more than its estimate
    running: int = 0  # reservations
    used_at: float = 0.0  # monotonic
    asked_at: float = 0.0  # monotonic; when the database was asked last
    idle_s: float = AMPLE_IDLE_S


@dataclass(frozen=True, slots=True)
class _Refusal:
    state: WindowState
    amount_pusd: int
    until: float


@dataclass(slots=True)
class Hold:
    """The amounts that one call has reserved of its budgets."""

    rules: Sequence[BudgetRule]
    accounts: Sequence[Account]
    amount_pusd: int
    is_settled: bool = False

    @property
    def windows(self) -> tuple[str, ...]:
        return tuple(account.window_id for account in self.accounts if account.window_id)

    def settle(self, cost_pusd: int) -> None:
        """Replaces the reserved amounts by the cost. Once."""
        if self.is_settled:
            return
        self.is_settled = True
        now = time.monotonic()
        for account in self.accounts:
            account.available_pusd += self.amount_pusd - cost_pusd
            account.running -= 1
            account.used_at = now


class _Asking:
    """A question to the database. What its thread leases after the wait has ended is rolled back."""

    __slots__ = ("is_over",)

    def __init__(self) -> None:
        self.is_over = False

    def is_wanted(self) -> bool:
        return not self.is_over


class BudgetLeases:
    """Closes: the owner, with `close()`."""

    def __init__(
        self,
        in_thread: InThread,
        *,
        writer_id: str,
        liveness: Liveness,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._in_thread = in_thread
        self._writer_id = writer_id
        self._liveness = liveness
        self._now = now
        self._lapses = 0
        self._accounts: dict[Key, Account] = {}
        self._ended: list[Account] = []  # that no new call uses, while calls run or amounts are left
        self._refusals: dict[Key, _Refusal] = {}
        self._asking: dict[Key, asyncio.Task[Exception | None]] = {}
        self._away_until = 0.0  # monotonic
        self._returning: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._returning = asyncio.create_task(self._return_idle(), name="budget leases")

    async def close(self) -> None:
        if self._returning is not None:
            self._returning.cancel()
            await asyncio.gather(self._returning, *self._asking.values(), return_exceptions=True)
        await self._give_back(self._collect(is_end=True))

    async def reserve(self, rules: Sequence[BudgetRule], amount_pusd: int) -> Hold:
        """Reserves the amount of every budget, or of none. Raises BudgetRefused; DatabaseError or DatabaseAway where
        the database must be asked about a hard budget and is away."""
        if not self._liveness.is_known and any(rule.is_hard for rule in rules):
            await self._liveness.confirm()
        if self._liveness.lapses != self._lapses:
            self._distrust()
        while (hold := self._take(rules, amount_pusd)) is None:
            try:
                await self._lease(rules, amount_pusd)
            except DatabaseError:
                self._away_until = time.monotonic() + REFUSED_S
                hold = self._take(rules, amount_pusd)
                if hold is None:
                    raise
                break
        return hold

    async def extend(self, hold: Hold, amount_pusd: int) -> bool:
        """Raises a hold to this amount; False where that does not fit, or the call's window is over or was given up.
        Raises as `reserve`, BudgetRefused aside."""
        more = amount_pusd - hold.amount_pusd
        if more <= 0:
            return True
        while True:
            short = [
                (rule, account)
                for rule, account in zip(hold.rules, hold.accounts, strict=True)
                if account.is_hard and account.available_pusd < more
            ]
            if not short:
                break
            if any(self._accounts.get(_key(rule)) is not account for rule, account in short):
                return False
            try:
                await self._lease([rule for rule, _ in short], more)
            except BudgetRefused:
                return False
        for account in hold.accounts:
            account.available_pusd -= more
        hold.amount_pusd = amount_pusd
        return True

    def _take(self, rules: Sequence[BudgetRule], amount_pusd: int) -> Hold | None:
        """Reserves in memory; None where the database must be asked."""
        now_s, now = self._now(), time.monotonic()
        accounts: list[Account] = []
        for rule in rules:
            account = self._accounts.get((rule.budget_id, rule.scope, rule.scope_id))
            if account is None or not _has_room(account, rule, amount_pusd, now_s, now):
                if rule.is_hard or self._away_until <= now:
                    return None
                account = Account()  # of no window: the sum of a soft budget lacks this call
            accounts.append(account)
        for account in accounts:
            account.available_pusd -= amount_pusd
            account.running += 1
            account.used_at = now
        return Hold(rules, accounts, amount_pusd)

    async def _lease(self, rules: Sequence[BudgetRule], amount_pusd: int) -> None:
        """Asks the database for what the accounts lack, or waits until another call has asked for one of them."""
        now_s, now = self._now(), time.monotonic()
        lacking = [
            rule
            for rule in rules
            if (account := self._accounts.get(_key(rule))) is None
            or not _has_room(account, rule, amount_pusd, now_s, now)
        ]
        tasks = {task for rule in lacking if (task := self._asking.get(_key(rule))) is not None}
        if tasks:
            await asyncio.wait(tasks)
            return
        requests = [self._request(rule, amount_pusd, now_s) for rule in lacking]
        for rule, request in zip(lacking, requests, strict=True):
            refusal = self._refusals.get(_key(rule))
            if refusal is not None and refusal.until > now and request.amount_pusd >= refusal.amount_pusd:
                ends_at = refusal.state.ends_at
                if ends_at is None or ends_at.timestamp() > now_s:
                    raise BudgetRefused(rule, amount_pusd, request.amount_pusd, refusal.state)
        # Its own task: where the client goes away, the accounts get what was leased all the same
        task = asyncio.create_task(self._ask(lacking, requests, amount_pusd), name="budget lease")
        for rule in lacking:
            self._asking[_key(rule)] = task
        error = await asyncio.shield(task)
        if error is not None:
            raise error

    async def _ask(
        self, rules: Sequence[BudgetRule], requests: Sequence[LeaseRequest], amount_pusd: int
    ) -> Exception | None:
        """Returns the refusal or the outage, which the caller may no longer be there to raise."""
        asking = _Asking()
        try:
            result = await self._in_thread(lease, requests, self._writer_id, asking.is_wanted)
        except DatabaseError as error:
            return error
        finally:
            asking.is_over = True
            for rule in rules:
                del self._asking[_key(rule)]
        if isinstance(result, LeaseRefused):
            rule = rules[result.place]
            if len(self._refusals) >= MAX_REFUSALS:
                self._refusals.clear()
            asked_pusd = requests[result.place].amount_pusd
            self._refusals[_key(rule)] = _Refusal(result.state, asked_pusd, time.monotonic() + REFUSED_S)
            return BudgetRefused(rule, amount_pusd, asked_pusd, result.state)
        for rule, request, leased in zip(rules, requests, result, strict=True):
            self._refusals.pop(_key(rule), None)
            self._add(_key(rule), request, leased)
        return None

    def _request(self, rule: BudgetRule, amount_pusd: int, now_s: float) -> LeaseRequest:
        span = find_window(rule.duration, ZoneInfo(rule.time_zone), datetime.fromtimestamp(now_s, UTC))
        account = self._accounts.get(_key(rule))
        if account is not None and account.is_hard and account.ends_at_s > now_s:
            amount_pusd -= account.available_pusd
        return LeaseRequest(
            rule.budget_id,
            rule.organization_id,
            rule.scope,
            rule.scope_id,
            span.starts_at,
            span.ends_at,
            max(amount_pusd, 0),
        )

    def _add(self, key: Key, request: LeaseRequest, leased: Leased) -> None:
        account = self._accounts.get(key)
        if account is None or (account.window_id, account.lease_id) != (leased.window_id, leased.lease_id):
            if account is not None:
                self._ended.append(account)
            ends_at_s = request.ends_at.timestamp() if request.ends_at is not None else float("inf")
            is_hard = leased.amount_pusd is not None
            account = self._accounts[key] = Account(leased.window_id, leased.lease_id, ends_at_s, is_hard)
        if account.is_hard:
            account.available_pusd += leased.amount_pusd or 0
            account.idle_s = IDLE_S if leased.is_scarce else AMPLE_IDLE_S
        account.used_at = account.asked_at = time.monotonic()

    def _distrust(self) -> None:
        """Other processes may have got what this one had leased: it asks the database again for everything."""
        self._lapses = self._liveness.lapses
        self._ended.extend(self._accounts.values())
        self._accounts.clear()

    async def _return_idle(self) -> None:
        while True:
            await asyncio.sleep(IDLE_S)
            await self._give_back(self._collect())

    def _collect(self, *, is_end: bool = False) -> list[Account]:
        """Takes the accounts out of use that no call has used for a while, and those that are over and at rest. Returns
        those with an amount to give back, or an overrun to account for."""
        now = time.monotonic()
        idle = [account for account in self._ended if not account.running]
        self._ended = [account for account in self._ended if account.running]
        for key, account in list(self._accounts.items()):
            if not account.running and (is_end or account.used_at + account.idle_s <= now):
                idle.append(account)
                del self._accounts[key]
        return [account for account in idle if account.is_hard and account.available_pusd]

    async def _give_back(self, idle: Sequence[Account]) -> None:
        for first in range(0, len(idle), GIVE_BACK_BATCH):
            batch = idle[first : first + GIVE_BACK_BATCH]
            amounts: Counter[str] = Counter()  # after a lapse two accounts may have one lease
            for account in batch:
                amounts[account.lease_id] += account.available_pusd
            try:
                await self._in_thread(give_back, amounts)
            except DatabaseError:
                self._ended.extend(batch)  # with the next round


def _has_room(account: Account, rule: BudgetRule, amount_pusd: int, now_s: float, now: float) -> bool:
    if account.ends_at_s <= now_s:
        return False
    if account.is_hard:
        return account.available_pusd >= amount_pusd
    return not rule.is_hard or account.asked_at + REFUSED_S > now


def _key(rule: BudgetRule) -> Key:
    return rule.budget_id, rule.scope, rule.scope_id
