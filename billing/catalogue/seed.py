"""The price data that comes with the gateway: seed.json, made by tests/prices/build_seed.py.

Shape: {"title", "made_on", "licence", "sha256", "providers": {provider: [{"names": [exact name of a model, …],
"versions": [[date from which it is in force, or null, {line: "USD per unit"}], …]}, …]}}.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import orjson

from gateway.protocol.json.types import JsonObject

SEED = Path(__file__).with_name("seed.json")


class SeedDamaged(Exception):
    """The file is not the one that was made."""


@dataclass(frozen=True, slots=True)
class BookPrice:
    """One version of the price of one model of a provider."""

    provider: str
    model: str
    effective_from: datetime | None
    lines: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Book:
    title: str
    licence: str
    sha256: str
    prices: tuple[BookPrice, ...]


@cache
def read_seed() -> Book:
    """Raises SeedDamaged."""
    content: JsonObject = orjson.loads(SEED.read_bytes())
    sha256 = content.pop("sha256", "")
    if sha256 != digest(content):
        raise SeedDamaged(f"{SEED.name} does not have the digest that it names: install the gateway anew")
    return Book(content["title"], content["licence"], sha256, tuple(_read_prices(content["providers"])))


def digest(content: JsonObject) -> str:
    """SHA-256 of the content without its own digest, as sorted JSON."""
    return hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _read_prices(providers: JsonObject) -> Iterator[BookPrice]:
    for provider, entries in providers.items():
        for entry in entries:
            for day, lines in entry["versions"]:
                start = None if day is None else datetime.fromisoformat(day).replace(tzinfo=UTC)
                for name in entry["names"]:
                    yield BookPrice(provider, name, start, lines)
