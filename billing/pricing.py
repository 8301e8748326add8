"""Pricing: cost(usage, price) in integer picodollars, pure. The data path and Celery use the same function.

Each component is rounded half-even once, to 1e-12 USD. A line that a price does not name falls back to its base
line (cached reads and writes and audio input to input, reasoning and audio output to output); without a base line
the usage is unpriced, which is a state and never $0. A line that stands in for another is named in the row: the real
price of a cache write or of audio is often higher. Reasoning is output at every provider, so `output` is its own line.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from operator import attrgetter

from gateway.protocol.amounts import PUSD
from gateway.protocol.usage import Usage

#: usage count → the price lines that may cover it, the most specific first
COVERED_BY = {
    "input_tokens": ("input",),
    "input_audio_tokens": ("input_audio", "input"),
    "cache_read_tokens": ("cache_read", "input"),
    "cache_write_5m_tokens": ("cache_write_5m", "input"),
    "cache_write_1h_tokens": ("cache_write_1h", "cache_write_5m", "input"),
    "output_tokens": ("output",),
    "output_audio_tokens": ("output_audio", "output"),
    "reasoning_tokens": ("reasoning", "output"),
}


#: A count that the second line covers at its real price.
IS_OUTPUT = "reasoning_tokens"
COUNTS = tuple(COVERED_BY)
CACHE_COUNTS = tuple(place for place, count in enumerate(COUNTS) if count.startswith("cache_"))
_counts_of = attrgetter(*COUNTS)


@dataclass(frozen=True, slots=True)
class PriceLines:
    """Picodollars per token, in the order of COUNTS; None where a count has no price. Exact: a whole number wherever
    the price has at most twelve decimals."""

    per_token: tuple[int | Decimal | None, ...]
    stand_ins: tuple[tuple[int, str], ...] = ()  # (place among COUNTS, the line it lacks and the line it has)

    @classmethod
    def read(cls, lines: Mapping[str, str]) -> "PriceLines":
        """From {line: "USD per token"}. Raises ValueError."""
        rates = tuple(_rate(lines, candidates) for candidates in COVERED_BY.values())
        return cls(rates, tuple(_stand_ins(lines, rates)))

    def describe_stand_ins(self, counts: Sequence[int]) -> str:
        """The lines that priced some of the counts in place of their own ones; empty where every count has its line."""
        texts = [text for place, text in self.stand_ins if counts[place]]
        return f"no price of its own: {', '.join(texts)}" if texts else ""


def _stand_ins(lines: Mapping[str, str], rates: Sequence[int | Decimal | None]) -> Iterator[tuple[int, str]]:
    """A count that is free has no line in its place that could be wrong."""
    for place, (count, candidates) in enumerate(COVERED_BY.items()):
        if count != IS_OUTPUT and rates[place] and candidates[0] not in lines:
            line = next(line for line in candidates if line in lines)
            yield place, f"{candidates[0]} at the price of {line}"


def _rate(lines: Mapping[str, str], candidates: tuple[str, ...]) -> int | Decimal | None:
    usd = next((lines[line] for line in candidates if line in lines), None)
    if usd is None:
        return None
    if not isinstance(usd, str):
        raise ValueError(f"a price must be decimal text, not {usd!r}")
    try:
        pusd = Decimal(usd) * PUSD
    except InvalidOperation:
        raise ValueError(f"a price must be decimal text, not {usd!r}") from None
    if not pusd.is_finite() or pusd < 0:
        raise ValueError(f"a price must be a finite amount, not {usd!r}")
    return int(pusd) if pusd == pusd.to_integral_value() else pusd


NO_PRICE = PriceLines((None,) * len(COUNTS))


def component_cost(tokens: int, pusd_per_token: int | Decimal) -> int:
    amount = tokens * pusd_per_token
    return amount if isinstance(amount, int) else int(amount.to_integral_value(ROUND_HALF_EVEN))


def cost(usage: Usage, price: PriceLines | None) -> int | None:
    """Picodollars; None where a count has no price."""
    return count_cost(_counts_of(usage), price)


def count_cost(counts: Iterable[int], price: PriceLines | None) -> int | None:
    """`cost` of counts in the order of COUNTS."""
    total = 0
    for tokens, rate in zip(counts, (price or NO_PRICE).per_token, strict=True):
        if tokens:
            if rate is None:
                return None
            total += component_cost(tokens, rate)
    return total


def cache_saving(counts: Sequence[int], price: PriceLines | None) -> int | None:
    """Picodollars that the prompt cache saved of counts in the order of COUNTS, against the full price of the input. It
    is negative where writes cost more than reads saved; None where nothing was cached, or a price is not known."""
    rates = (price or NO_PRICE).per_token
    full = rates[COUNTS.index("input_tokens")]
    cached = [(counts[place], rates[place]) for place in CACHE_COUNTS if counts[place]]
    if not cached or full is None:
        return None
    saving = 0
    for tokens, rate in cached:
        if rate is None:
            return None
        saving += component_cost(tokens, full) - component_cost(tokens, rate)
    return saving


def bound_counts(usage: Usage, maximum: int) -> Usage:
    """The usage with counts that one call can have. A larger one becomes the maximum and marks the usage."""
    counts = _counts_of(usage)
    if max(counts) <= maximum and min(counts) >= 0:
        return usage
    bounded = {name: min(max(count, 0), maximum) for name, count in zip(COUNTS, counts, strict=True)}
    return replace(usage, **bounded, is_inconsistent=True)
