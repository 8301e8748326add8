"""Reading LiteLLM's price map as a book. It has no dates and floats for amounts, so its prices come in as drafts."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from decimal import Decimal

from billing.catalogue.litellm import read_entry
from billing.catalogue.seed import Book, BookPrice
from gateway.protocol.json.types import JsonObject
from gateway.providers.registry import PREFIXES

LICENCE = "MIT, Copyright (c) 2023 Berri AI"
MAX_BYTES = 32 * 2**20
MAX_NAME_CHARS = 255


def read_price_map(text: bytes) -> Book:
    """The prices of providers that the gateway has. An entry that has no price, or one that no line expresses, is left
    out. Raises ValueError."""
    if len(text) > MAX_BYTES:
        raise ValueError(f"the file is larger than {MAX_BYTES:,} bytes")
    try:
        entries = json.loads(text, parse_float=Decimal)
    except (ValueError, RecursionError):
        raise ValueError("the file is not JSON") from None
    if not isinstance(entries, dict):
        raise ValueError("the file is not an object of models")
    prices = {(one.provider, one.model): one for one in _read_entries(entries)}
    sha256 = hashlib.sha256(text).hexdigest()
    return Book(f"LiteLLM's price map {sha256[:12]}", LICENCE, sha256, tuple(prices.values()))


def _read_entries(entries: JsonObject) -> Iterator[BookPrice]:
    for key, entry in entries.items():
        label = entry.get("litellm_provider") if isinstance(entry, dict) else None
        provider = _find_provider(label) if isinstance(label, str) else None
        if provider is None or key == "sample_spec":
            continue
        try:
            reading = read_entry(entry)
        except ValueError:
            continue
        model = _strip_prefix(key, provider)
        if reading.lines and not reading.ignored and len(model) <= MAX_NAME_CHARS:
            yield BookPrice(provider, model, None, _sorted(reading.lines))


def _find_provider(label: str) -> str | None:
    """`vertex_ai-language-models` and `bedrock_converse` are kinds of models of a provider."""
    for name in (label, label.partition("-")[0], label.removesuffix("_converse")):
        if name in PREFIXES:
            return PREFIXES[name].name
    return None


def _strip_prefix(key: str, provider: str) -> str:
    prefix, slash, name = key.partition("/")
    is_prefix = slash and name and prefix in PREFIXES and PREFIXES[prefix].name == provider
    return name if is_prefix else key


def _sorted(lines: Mapping[str, str]) -> Mapping[str, str]:
    return dict(sorted(lines.items()))
