"""Histograms of latency: fixed slots, so that counts of any rows add up and percentiles can be told of the sum.

Each bound is √2 times the one before. A percentile is told as a point of its slot, so it is wrong by less than a factor
of √2; one beyond the last bound is told as this bound.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence

BOUNDS = 23
#: Metric → the upper bounds of its slots in milliseconds, each included; the last slot has none.
BOUNDS_MS: Mapping[str, tuple[int, ...]] = {
    "duration": tuple(round(100 * 2 ** (place / 2)) for place in range(BOUNDS)),  # 0.1 s to 205 s
    "ttft": tuple(round(25 * 2 ** (place / 2)) for place in range(BOUNDS)),  # 25 ms to 51 s
}
#: Metric → the columns that count its slots.
SLOTS: Mapping[str, tuple[str, ...]] = {
    metric: tuple(f"{metric}_{place:02d}" for place in range(BOUNDS + 1)) for metric in BOUNDS_MS
}
COLUMNS: tuple[str, ...] = (*SLOTS["duration"], *SLOTS["ttft"])
_FIRST = {"duration": 0, "ttft": BOUNDS + 1}


def find_slot(metric: str, milliseconds: int) -> int:
    """The place in COLUMNS of the slot that counts a time."""
    return _FIRST[metric] + bisect_left(BOUNDS_MS[metric], milliseconds)


def find_percentile(metric: str, counts: Sequence[int], percent: int) -> int | None:
    """Milliseconds; None without a count. `counts`: in the order of the metric's slots."""
    total = sum(counts)
    if total <= 0:
        return None
    rank = max(1, -(-total * percent // 100))
    bounds, before = BOUNDS_MS[metric], 0
    for place, count in enumerate(counts):
        if before + count >= rank and place < len(bounds):
            low = bounds[place - 1] if place else 0
            return low + (bounds[place] - low) * (rank - before) // count
        before += count
    return bounds[-1]
