"""Numbers: the counters and histograms of one process, or of several together. Their count is bounded."""

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from gateway.metrics.definitions import BY_NAME, Kind, Metric
from gateway.protocol.json.types import Json

#: (name of the metric, the values of its labels in their order)
Series: TypeAlias = tuple[str, ...]

#: Of all metrics together. A value that would be the label of one more is counted as OTHER.
MAX_SERIES = 10_000
OTHER = "other"


@dataclass(frozen=True, slots=True)
class Numbers:
    """`histograms`: the count of each bucket alone, that of the infinite one, and the sum of all values."""

    counters: dict[Series, float] = field(default_factory=dict)
    histograms: dict[Series, list[float]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.counters) + len(self.histograms)

    def add(self, series: Series, amount: float = 1) -> None:
        value = self.counters.get(series)
        if value is None:
            series = self._bounded(series)
            value = self.counters.get(series, 0)
        self.counters[series] = value + amount

    def observe(self, metric: Metric, label: str, value: float) -> None:
        """Adds a value to a histogram, which has one label."""
        series: Series = (metric.name, label)
        buckets = self.histograms.get(series)
        if buckets is None:
            series = self._bounded(series)
            buckets = self.histograms.setdefault(series, [0.0] * (len(metric.buckets) + 2))
        buckets[bisect_left(metric.buckets, value)] += 1
        buckets[-1] += value

    def _bounded(self, series: Series) -> Series:
        return series if len(self) < MAX_SERIES else (series[0], *[OTHER] * (len(series) - 1))

    def copy(self) -> "Numbers":
        return Numbers(dict(self.counters), {series: list(buckets) for series, buckets in self.histograms.items()})

    def merge(self, other: "Numbers") -> None:
        for series, value in other.counters.items():
            self.add(series, value)
        for series, buckets in other.histograms.items():
            own = self.histograms.get(series)
            if own is None:
                own = self.histograms.setdefault(self._bounded(series), [0.0] * len(buckets))
            own[:] = map(float.__add__, own, buckets)

    def retain(self, is_known: Callable[[Series], bool]) -> None:
        """Forgets the other series."""
        for numbers in (self.counters, self.histograms):
            for series in [name for name in numbers if not is_known(name)]:
                del numbers[series]


def encode_numbers(numbers: Numbers) -> Json:
    return {
        "counters": [[list(series), value] for series, value in numbers.counters.items()],
        "histograms": [[list(series), list(buckets)] for series, buckets in numbers.histograms.items()],
    }


def decode_numbers(document: Json) -> Numbers:
    """The numbers of a file that this version or another one wrote; what this version does not know is left out."""
    numbers = Numbers()
    parts = document if isinstance(document, Mapping) else {}
    for series, value in _read_rows(parts.get("counters"), Kind.COUNTER):
        if _is_number(value):
            numbers.add(series, value)
    for series, buckets in _read_rows(parts.get("histograms"), Kind.HISTOGRAM):
        size = len(BY_NAME[series[0]].buckets) + 2
        if isinstance(buckets, list) and len(buckets) == size and all(map(_is_number, buckets)):
            numbers.merge(Numbers({}, {series: [float(count) for count in buckets]}))
    return numbers


def _read_rows(rows: Json, kind: Kind) -> Iterator[tuple[Series, Json]]:
    """(series, value) of each row that names a metric of this kind with the labels that it has."""
    for row in rows if isinstance(rows, list) else ():
        if isinstance(row, list) and len(row) == 2 and isinstance(row[0], list) and row[0]:
            name, *labels = row[0]
            metric = BY_NAME.get(name) if isinstance(name, str) else None
            is_whole = all(isinstance(label, str) for label in labels)
            if metric is not None and metric.kind is kind and len(labels) == len(metric.labels) and is_whole:
                yield (name, *labels), row[1]


def _is_number(value: Json) -> bool:
    return type(value) in {int, float} and 0 <= value < math.inf
