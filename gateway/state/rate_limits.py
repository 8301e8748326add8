"""Rate limits: sums over sliding spans, and slots of parallel calls.

A span is counted in buckets: seconds for a minute, minutes for an hour or a day. A counter sums the current bucket and
the `BUCKETS` before it, one bucket more than the span, so no span of that length admits more than the limit, wherever
it begins. A call takes all of its demands in one step, or none.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

MINUTE_S = 60
DAY_S = 86_400
#: The span of a demand for slots, which are held until they are released or expire.
SLOT_S = 0
#: A slot that is not renewed for so long is free: its process has died.
SLOT_LEASE_S = 60.0


@dataclass(frozen=True, slots=True)
class Demand:
    """The amount that a call takes from one counter. `span_s` is a multiple of a minute, or SLOT_S."""

    counter: str  # unique for the scope, the dimension and the span
    limit: int
    amount: int
    span_s: int = MINUTE_S
    is_shadow: bool = False  # counts, and never refuses


@dataclass(frozen=True, slots=True)
class Level:
    """The state of one demand's counter after a step."""

    used: int
    #: Seconds until the counter is empty if nothing more is taken; of slots, until the last one expires.
    resets_in_s: float


@dataclass(frozen=True, slots=True)
class Grant:
    """The demands that a call has taken; `at_s` is the clock of the counters, which says in which buckets."""

    call_id: str
    demands: tuple[Demand, ...]
    at_s: float
    levels: tuple[Level, ...]
    is_shared: bool = False  # taken for all processes


@dataclass(frozen=True, slots=True)
class Refusal:
    """Nothing was taken. `refused` are the places of the demands that do not fit; `retry_after_s` is when all of them
    would fit, or None where one demand is larger than its limit."""

    demands: tuple[Demand, ...]
    refused: tuple[int, ...]
    levels: tuple[Level, ...]
    retry_after_s: float | None


class RateLimits(Protocol):
    """The counters; in memory for one process (memory_rate_limits.py), in Redis for all (redis_rate_limits.py)."""

    async def take(self, call_id: str, demands: Sequence[Demand]) -> Grant | Refusal:
        """Takes all demands or none. `call_id` names its slots."""

    async def settle(self, grant: Grant, amounts: Sequence[int]) -> None:
        """Replaces the amounts taken by these, each in the bucket it was taken in, and gives the slots back."""

    async def renew(self, grants: Sequence[Grant]) -> None:
        """Keeps the slots of calls that still run."""

    async def read(self, demands: Sequence[Demand]) -> tuple[Level, ...]:
        """The levels, without taking anything."""


def bucket_s(span_s: int) -> int:
    """The width of a bucket."""
    return 1 if span_s <= MINUTE_S else MINUTE_S


def bucket_count(span_s: int) -> int:
    """The buckets before the current one that still count."""
    return span_s // bucket_s(span_s)
