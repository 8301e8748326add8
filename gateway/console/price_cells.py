"""Prices as people read them: USD per million tokens, or per unit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from billing.amounts import price_label
from billing.catalogue.lines import TOKENS, PriceLine

FIRST = ("input", "output", "cache_read")
SUMMED_UP = 3  # lines of a summary


@dataclass(frozen=True, slots=True)
class LineText:
    """A line of a price. `unit`: what the amount is for."""

    key: str
    amount: str
    unit: str


@dataclass(frozen=True, slots=True)
class PriceText:
    """A price. `summary`: its first lines in one."""

    summary: str
    lines: Sequence[LineText]


def describe_lines(lines: Mapping[str, str]) -> PriceText:
    """The lines of tokens without conditions first."""
    texts = [describe_line(key, usd) for key, usd in sorted(lines.items(), key=lambda item: _order(item[0]))]
    parts = [f"{one.amount} {one.key.replace('_', ' ')}" for one in texts[:SUMMED_UP]]
    more = len(texts) - SUMMED_UP
    return PriceText(" · ".join(parts) + (f" · +{more}" if more > 0 else ""), texts)


def describe_line(key: str, usd: str) -> LineText:
    component = PriceLine.read(key, "0").component
    if component in TOKENS:
        return LineText(key, price_label(usd), "1M tokens")
    return LineText(key, f"${usd}", component.replace("_", " "))


def _order(key: str) -> tuple[int, str]:
    return (FIRST.index(key) if key in FIRST else len(FIRST), key)
