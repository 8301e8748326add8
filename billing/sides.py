"""Two sides that should have the same sums, read beside each other, and what is said where they do not."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any, TypeAlias, TypeVar

from django.db.models import QuerySet

CHUNK_ROWS = 500
Item = TypeVar("Item")
Bucket: TypeAlias = tuple[str, ...]
Sums: TypeAlias = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Disagreement:
    """Two places that should have one number. `where` names the first; picodollars, tokens or rows."""

    where: str
    name: str
    expected: int
    found: int

    def __str__(self) -> str:
        return f"{self.where}: {self.name} is {self.found}, and {self.expected} by the rows"


def stream(rows: QuerySet[Any, Any]) -> Iterator[Mapping[str, Any]]:
    return rows.iterator(chunk_size=CHUNK_ROWS)


def parts(items: Iterable[Item]) -> Iterator[list[Item]]:
    remaining = iter(items)
    while part := list(islice(remaining, CHUNK_ROWS)):
        yield part


def by_number(rows: Iterable[tuple[int, Bucket, Sums]]) -> Iterator[tuple[int, dict[Bucket, Sums]]]:
    for number, group in groupby(rows, key=lambda row: row[0]):
        yield int(number), {bucket: sums for _, bucket, sums in group}


def join_sides(
    some: Iterator[tuple[int, dict[Bucket, Sums]]], others: Iterator[tuple[int, dict[Bucket, Sums]]]
) -> Iterator[tuple[int, dict[Bucket, Sums], dict[Bucket, Sums]]]:
    """Both sides of each hour, in the order of hours; an hour that one side lacks is empty there."""
    one, other = next(some, None), next(others, None)
    while one is not None or other is not None:
        number = min(side[0] for side in (one, other) if side is not None)
        yield (
            number,
            one[1] if one is not None and one[0] == number else {},
            other[1] if other is not None and other[0] == number else {},
        )
        one = next(some, None) if one is not None and one[0] == number else one
        other = next(others, None) if other is not None and other[0] == number else other
