"""Pricing: cost(usage, price, context) in integer picodollars, pure. The data path and Celery use the same function.

Each component is rounded half-even once, to 1e-12 USD. A line that a price does not name falls back to its base
line (cached reads and writes and audio input to input, reasoning and audio output to output); without a base line
the usage is unpriced, which is a state and never $0. A line that stands in for another is named in the row: the real
price of a cache write or of audio is often higher. Reasoning is output at every provider, so `output` is its own line.

A price whose lines have conditions (billing/catalogue/lines.py) has a variant for each combination of them, and
`PriceLines.select` chooses by the usage and its context. A price without any line per token, but with one per request
or second, charges no tokens.
"""

from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import ROUND_HALF_EVEN, Decimal
from operator import attrgetter

from billing.catalogue.lines import (
    REPORTED,
    TOKENS,
    UNCOUNTED,
    WHOLE_CALL,
    PriceLine,
    Rate,
    choose_brackets,
    choose_lines,
    is_within,
    read_lines,
)
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
INPUT = COUNTS.index("input_tokens")
CACHE_COUNTS = tuple(place for place, count in enumerate(COUNTS) if count.startswith("cache_"))
_counts_of = attrgetter(*COUNTS)


INPUTS = len([count for count in COUNTS if count.startswith(("input_", "cache_"))])
#: The tiers that are a provider's standard one.
STANDARD_TIERS = frozenset({"", "auto", "default", "standard", "on_demand"})
MICROSECONDS = 10**6
MAX_VARIANTS = 1000
MAX_COST_PUSD = 5 * 10**17  # 500,000 USD for one call: the usage or the price is wrong
#: What reports sum beside the cost is bounded closer, so that wrong usage of an upstream does not fill the sums.
MAX_PROVIDER_COST_PUSD = 10**16
MAX_SAVING_PUSD = 10**14
#: Units that are the duration of the whole answer.
SECONDS = ("second", "output_second")


@dataclass(frozen=True, slots=True)
class PriceContext:
    """The facts of a call, beside its tokens, that a price may depend on. `minute`: of the day, in UTC, at which the
    request started. `duration_us`: microseconds of the whole answer, None where they are unknown. `units`: component
    → how many of it the call used."""

    service_tier: str = ""
    minute: int = 0
    duration_us: int | None = None
    units: Mapping[str, int] = field(default_factory=dict)


NO_CONTEXT = PriceContext()


@dataclass(frozen=True, slots=True)
class PriceLines:
    """Picodollars per token, in the order of COUNTS; None where a count has no price. Exact: a whole number wherever
    the price has at most twelve decimals."""

    per_token: tuple[Rate | None, ...]
    stand_ins: tuple[tuple[int, str], ...] = ()  # (place among COUNTS, the line it lacks and the line it has)
    per_unit: tuple[tuple[str, Rate], ...] = ()
    #: (place among COUNTS, (tokens, rate of the tokens beyond them), ascending)
    brackets: tuple[tuple[int, tuple[tuple[int, Rate], ...]], ...] = ()
    tiers: frozenset[str] = frozenset()
    hours: tuple[tuple[int, int], ...] = ()
    thresholds: tuple[int, ...] = ()  # tokens of input, ascending
    #: (tier, place among `hours` or -1, how many thresholds the input exceeds) → the price then; empty: always this one
    variants: Mapping[tuple[str, int, int], "PriceLines"] = field(default_factory=dict)

    @classmethod
    def read(cls, lines: Mapping[str, str]) -> "PriceLines":
        """From {key: "USD per unit"}. Raises ValueError."""
        rows = read_lines(lines)
        standard = _flatten(rows, "", None, 0)
        tiers = frozenset(line.tier for line in rows if line.tier)
        hours = tuple(sorted({line.hours for line in rows if line.hours is not None}))
        thresholds = tuple(sorted({line.above_tokens for line in rows if line.above_tokens and not line.is_marginal}))
        if not (tiers or hours or thresholds):
            return standard
        if (1 + len(tiers)) * (1 + len(hours)) * (1 + len(thresholds)) > MAX_VARIANTS:
            raise ValueError(f"a price has at most {MAX_VARIANTS:,} combinations of tiers, hours and thresholds")
        variants = {
            (tier, place, level): _flatten(rows, tier, None if place < 0 else hours[place], reached)
            for tier in ("", *tiers)
            for place in range(-1, len(hours))
            for level, reached in enumerate((0, *thresholds))
        }
        return replace(standard, tiers=tiers, hours=hours, thresholds=thresholds, variants=variants)

    def select(self, counts: Sequence[int], context: PriceContext) -> "PriceLines":
        """The price of a call with these counts: one without conditions."""
        if not self.variants:
            return self
        tier = context.service_tier if context.service_tier in self.tiers else ""
        place = next((place for place, hours in enumerate(self.hours) if is_within(hours, context.minute)), -1)
        return self.variants[tier, place, bisect_left(self.thresholds, sum(counts[:INPUTS]))]

    def find_dearest(self, input_tokens: int, tiers: Collection[str]) -> "PriceLines":
        """The dearest rates that a call may have with so much input, in the standard tier or in one of these, at any
        time of day."""
        level = bisect_left(self.thresholds, input_tokens)
        apt = [
            variant
            for (tier, _, reached), variant in self.variants.items()
            if reached == level and (not tier or tier in tiers)
        ] or [self]
        rates = [_dearest_rates(variant, input_tokens) for variant in apt]
        units: dict[str, Rate] = {}
        for name, rate in [unit for variant in apt for unit in variant.per_unit]:
            units[name] = max(rate, units.get(name, rate))
        return PriceLines(tuple(map(_dearest, zip(*rates, strict=True))), per_unit=tuple(sorted(units.items())))

    @property
    def is_plain(self) -> bool:
        """Its cost depends on the counts alone."""
        return not self.variants and not self.per_unit

    @property
    def needs_usage(self) -> bool:
        """It has lines whose quantity only the provider's own usage object tells."""
        return "fast" in self.tiers or any(name in REPORTED for name, _ in self.per_unit)

    def describe_stand_ins(self, counts: Sequence[int], context: PriceContext = NO_CONTEXT) -> str:
        """The lines that priced some of the counts in place of their own ones, and what was not counted; empty where
        all of it has its line."""
        price = self.select(counts, context)
        texts = [text for place, text in price.stand_ins if counts[place]]
        if self.tiers and context.service_tier not in self.tiers | STANDARD_TIERS:
            texts.append(f"tier {context.service_tier} at the standard price")
        notes = [f"no price of its own: {', '.join(texts)}"] if texts else []
        unknown = [name for name, rate in price.per_unit if rate and name in UNCOUNTED]
        if unknown:
            notes.append(f"not counted: {', '.join(unknown)}")
        return "; ".join(notes)


def _flatten(rows: Sequence[PriceLine], tier: str, hours: tuple[int, int] | None, reached: int) -> PriceLines:
    """The price under one combination of conditions."""
    chosen = choose_lines(rows, tier, hours, reached)
    units = tuple(sorted((name, line.rate) for name, line in chosen.items() if name not in TOKENS))
    tokens = {name: line.rate for name, line in chosen.items() if name in TOKENS}
    marginal = choose_brackets(rows, chosen, tier, hours)
    if not tokens and any(name in WHOLE_CALL for name, _ in units):
        return PriceLines((0,) * len(COUNTS), per_unit=units)
    lines = [next((line for line in chain if line in tokens), None) for chain in COVERED_BY.values()]
    rates = tuple(None if line is None else tokens[line] for line in lines)
    brackets = tuple(
        (place, tuple(marginal[line])) for place, line in enumerate(lines) if line is not None and line in marginal
    )
    return PriceLines(rates, tuple(_stand_ins(tokens, rates)), units, brackets)


def _stand_ins(lines: Mapping[str, Rate], rates: Sequence[Rate | None]) -> Iterator[tuple[int, str]]:
    """A count that is free has no line in its place that could be wrong."""
    for place, (count, candidates) in enumerate(COVERED_BY.items()):
        if count != IS_OUTPUT and rates[place] and candidates[0] not in lines:
            line = next(line for line in candidates if line in lines)
            yield place, f"{candidates[0]} at the price of {line}"


def _dearest_rates(price: PriceLines, input_tokens: int) -> tuple[Rate | None, ...]:
    """The rates with the dearest bracket of each."""
    rates = list(price.per_token)
    for place, brackets in price.brackets:
        rates[place] = _dearest((rates[place], *(rate for _, rate in brackets)))
    return tuple(rates)


def _dearest(rates: Iterable[Rate | None]) -> Rate | None:
    known = [rate for rate in rates if rate is not None]
    return max(known) if known else None


NO_PRICE = PriceLines((None,) * len(COUNTS))


def component_cost(tokens: int, pusd_per_token: Rate) -> int:
    return _round(tokens * pusd_per_token)


@dataclass(frozen=True, slots=True)
class CostLine:
    """One component of a cost. `quantity`: tokens by the name of their count, or units by the name of their line."""

    name: str
    quantity: int
    pusd: int


def cost(usage: Usage, price: PriceLines | None, context: PriceContext = NO_CONTEXT) -> int | None:
    """Picodollars; None where a count has no price."""
    return count_cost(_counts_of(usage), price, context)


def count_cost(counts: Sequence[int], price: PriceLines | None, context: PriceContext = NO_CONTEXT) -> int | None:
    """`cost` of counts in the order of COUNTS."""
    lines = itemize(counts, price, context)
    return None if lines is None else sum([line.pusd for line in lines])


def itemize(
    counts: Sequence[int], price: PriceLines | None, context: PriceContext = NO_CONTEXT
) -> tuple[CostLine, ...] | None:
    """The components of a cost, each rounded once; None where a count has no price, or a quantity is not known. A call
    without any usage costs nothing."""
    if not any(counts):
        return ()
    price = (price or NO_PRICE).select(counts, context)
    brackets = dict(price.brackets)
    lines: list[CostLine] = []
    for place, (tokens, rate) in enumerate(zip(counts, price.per_token, strict=True)):
        if tokens:
            if rate is None:
                return None
            pusd = _bracket_cost(tokens, rate, brackets[place]) if place in brackets else component_cost(tokens, rate)
            lines.append(CostLine(COUNTS[place], tokens, pusd))
    for name, rate in price.per_unit:
        if name in SECONDS:
            if context.duration_us is None:
                return None
            lines.append(
                CostLine(name, context.duration_us, _round(Decimal(context.duration_us) * rate / MICROSECONDS))
            )
        else:
            quantity = 1 if name == "request" else context.units.get(name, 0)
            lines.append(CostLine(name, quantity, component_cost(quantity, rate)))
    return tuple(lines)


def _bracket_cost(tokens: int, rate: Rate, brackets: Sequence[tuple[int, Rate]]) -> int:
    """The tokens up to the first bracket at the rate, and those beyond each at the bracket's own."""
    ends = [*(begin for begin, _ in brackets), tokens]
    amount: Rate = min(tokens, ends[0]) * rate
    for (begin, above), end in zip(brackets, ends[1:], strict=True):
        amount += max(0, min(tokens, end) - begin) * above
    return _round(amount)


def _round(amount: Rate) -> int:
    return amount if isinstance(amount, int) else int(amount.to_integral_value(ROUND_HALF_EVEN))


def cache_saving(counts: Sequence[int], price: PriceLines | None, context: PriceContext = NO_CONTEXT) -> int | None:
    """Picodollars that the prompt cache saved of counts in the order of COUNTS: what they would cost more if all of the
    input were plain. It is negative where writes cost more than reads saved; None where nothing was cached, or a price
    is not known."""
    chosen = (price or NO_PRICE).select(counts, context)
    plain, cached = counts[INPUT], [place for place in CACHE_COUNTS if counts[place]]
    if not cached or any(chosen.per_token[place] is None for place in (INPUT, *cached)):
        return None
    everything = plain + sum([counts[place] for place in cached])
    own = sum([_tokens_cost(chosen, place, counts[place]) for place in cached])
    return _tokens_cost(chosen, INPUT, everything) - _tokens_cost(chosen, INPUT, plain) - own


def _tokens_cost(price: PriceLines, place: int, tokens: int) -> int:
    """The cost of one count that has a price, without other conditions."""
    rate = price.per_token[place]
    assert rate is not None
    brackets = dict(price.brackets).get(place)
    return component_cost(tokens, rate) if brackets is None else _bracket_cost(tokens, rate, brackets)


def bound_counts(usage: Usage, maximum: int) -> Usage:
    """The usage with counts that one call can have. A larger one becomes the maximum and marks the usage."""
    counts = _counts_of(usage)
    if max(counts) <= maximum and min(counts) >= 0:
        return usage
    bounded = {name: min(max(count, 0), maximum) for name, count in zip(COUNTS, counts, strict=True)}
    return replace(usage, **bounded, is_inconsistent=True)
