"""Reads of the data path: a few fixed queries without the ORM, over connections apart from the writer's."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

Found = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Query:
    """One query in both databases' words, with the same parameters in the same order."""

    sqlite: str  # with ?
    postgres: str  # with %s


class Reader(Protocol):
    async def open(self) -> None: ...

    async def fetch(self, query: Query, parameters: Sequence[object]) -> list[Found]:
        """Raises DatabaseAway."""

    async def close(self) -> None: ...
