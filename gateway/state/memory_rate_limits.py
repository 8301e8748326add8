"""The rate limits of one process, in memory. A step is O(1): buckets expire when their counter is touched."""

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

from gateway.state.rate_limits import SLOT_LEASE_S, SLOT_S, Demand, Grant, Level, Refusal, bucket_count, bucket_s


class _Sum:
    """Amounts in buckets, and their total."""

    __slots__ = ("buckets", "count", "first", "last", "total", "width_s")

    def __init__(self, span_s: int) -> None:
        self.width_s = bucket_s(span_s)
        self.count = bucket_count(span_s)
        self.buckets: dict[int, int] = {}  # {index: amount}, the oldest first
        self.first = self.last = 0
        self.total = 0

    def used(self, now: float) -> int:
        """The sum that counts now."""
        buckets = self.buckets
        if not buckets:
            return 0
        index = int(now // self.width_s)
        if self.last > index:  # the clock went back: what lies ahead of it counts from now
            ahead = [later for later in buckets if later >= index]
            buckets[index] = sum(buckets.pop(later) for later in ahead)
            self.first, self.last = min(self.first, index), index
        oldest = index - self.count
        if self.first < oldest:
            for earlier in list(buckets):
                if earlier >= oldest:
                    self.first = earlier
                    break
                self.total -= buckets.pop(earlier)
        return self.total

    def add(self, now: float, amount: int) -> None:
        """Follows `used` at the same instant."""
        index = int(now // self.width_s)
        if not self.buckets:
            self.first = index
        self.last = index
        self.buckets[index] = self.buckets.get(index, 0) + amount
        self.total += amount

    def change(self, at: float, amount: int) -> None:
        """Adds to the bucket of an earlier instant, if it still counts."""
        index = min(int(at // self.width_s), self.last)
        taken = self.buckets.get(index)
        if taken is not None:
            amount = max(amount, -taken)
            self.buckets[index] = taken + amount
            self.total += amount

    def fits_in_s(self, now: float, amount: int, limit: int) -> float:
        """Seconds until `amount` fits, which is at most the limit."""
        surplus = self.total + amount - limit
        for index, taken in self.buckets.items():
            surplus -= taken
            if surplus <= 0:
                return (index + self.count + 1) * self.width_s - now
        return 0.0

    def resets_in_s(self, now: float) -> float:
        return (self.last + self.count + 1) * self.width_s - now if self.buckets else 0.0


class _Slots:
    """The slots of calls that run: {call: when its slot expires}, the oldest first."""

    __slots__ = ("taken",)

    def __init__(self) -> None:
        self.taken: OrderedDict[str, float] = OrderedDict()

    def used(self, now: float) -> int:
        taken = self.taken
        while taken and next(iter(taken.values())) <= now:
            taken.popitem(last=False)
        if taken and next(reversed(taken.values())) > now + SLOT_LEASE_S:  # the clock went back
            for call_id, expiry in taken.items():
                taken[call_id] = min(expiry, now + SLOT_LEASE_S)
        return len(taken)

    def add(self, now: float, call_id: str) -> None:
        self.taken[call_id] = now + SLOT_LEASE_S
        self.taken.move_to_end(call_id)

    def fits_in_s(self, now: float) -> float:
        """Calls end at any moment, so soon is the best guess; a slot whose process died is free at its expiry."""
        return min(1.0, max(0.0, next(iter(self.taken.values()), now) - now))

    def resets_in_s(self, now: float) -> float:
        return max(0.0, next(reversed(self.taken.values())) - now) if self.taken else 0.0


Counter = _Sum | _Slots


class MemoryRateLimits:
    """RateLimits of one process. The clock need not be that of the day. Counters that are empty again are dropped, so
    their number is bounded by what the last span admitted."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        #: {span: {name: counter}}. The counter that was idle longest comes first, and is empty before those behind it.
        self._counters: dict[int, OrderedDict[str, Counter]] = {}

    def __len__(self) -> int:
        return sum(len(counters) for counters in self._counters.values())

    async def take(self, call_id: str, demands: Sequence[Demand]) -> Grant | Refusal:
        now = self._clock()
        for demand in demands:
            self._sweep(demand.span_s, now)
        counters = [self._find(demand) for demand in demands]
        used = [counter.used(now) for counter in counters]
        refused = tuple(
            place
            for place, demand in enumerate(demands)
            if used[place] + demand.amount > demand.limit and not demand.is_shadow
        )
        if refused:
            waits = [_fits_in_s(counters[place], demands[place], now) for place in refused]
            levels = tuple(Level(used[n], counter.resets_in_s(now)) for n, counter in enumerate(counters))
            return Refusal(
                tuple(demands),
                refused,
                levels,
                None if None in waits else max(wait for wait in waits if wait is not None),
            )
        for demand, counter in zip(demands, counters, strict=True):
            if isinstance(counter, _Slots):
                counter.add(now, call_id)
            else:
                counter.add(now, demand.amount)
        levels = tuple(
            Level(used[n] + demands[n].amount, counter.resets_in_s(now)) for n, counter in enumerate(counters)
        )
        return Grant(call_id, tuple(demands), now, levels)

    async def settle(self, grant: Grant, amounts: Sequence[int]) -> None:
        for demand, amount in zip(grant.demands, amounts, strict=True):
            counter = self._look_up(demand)
            if isinstance(counter, _Slots):
                counter.taken.pop(grant.call_id, None)
            elif counter is not None and amount != demand.amount:
                counter.change(grant.at_s, amount - demand.amount)

    async def renew(self, grants: Sequence[Grant]) -> None:
        now = self._clock()
        for grant in grants:
            for demand in grant.demands:
                counter = self._look_up(demand)
                if isinstance(counter, _Slots) and counter.used(now) and grant.call_id in counter.taken:
                    counter.add(now, grant.call_id)
                    self._counters[demand.span_s].move_to_end(demand.counter)

    async def read(self, demands: Sequence[Demand]) -> tuple[Level, ...]:
        now = self._clock()
        counters = [self._look_up(demand) for demand in demands]
        return tuple(
            Level(counter.used(now), counter.resets_in_s(now)) if counter is not None else Level(0, 0.0)
            for counter in counters
        )

    def _look_up(self, demand: Demand) -> Counter | None:
        counters = self._counters.get(demand.span_s)
        return counters.get(demand.counter) if counters is not None else None

    def _find(self, demand: Demand) -> Counter:
        counters = self._counters.get(demand.span_s)
        if counters is None:
            counters = self._counters[demand.span_s] = OrderedDict()
        counter = counters.get(demand.counter)
        if counter is None:
            counter = counters[demand.counter] = _Slots() if demand.span_s == SLOT_S else _Sum(demand.span_s)
        else:
            counters.move_to_end(demand.counter)
        return counter

    def _sweep(self, span_s: int, now: float) -> None:
        """Drops up to two counters, for one that the step may add."""
        counters = self._counters.get(span_s)
        for _ in range(2):
            if not counters:
                return
            name = next(iter(counters))
            counter = counters[name]
            if counter.used(now) or counter.resets_in_s(now):
                return
            del counters[name]


def _fits_in_s(counter: Counter, demand: Demand, now: float) -> float | None:
    if demand.amount > demand.limit:
        return None
    return (
        counter.fits_in_s(now) if isinstance(counter, _Slots) else counter.fits_in_s(now, demand.amount, demand.limit)
    )
