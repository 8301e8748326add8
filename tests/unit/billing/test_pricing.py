"""Pricing: exact to the picodollar."""

from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.catalogue.lines import TOKENS
from billing.pricing import (
    COUNTS,
    COVERED_BY,
    PriceContext,
    PriceLines,
    cache_saving,
    component_cost,
    cost,
)
from gateway.protocol.usage import Usage

PRICES = {"input": "0.00000015", "output": "0.0000006", "cache_read": "0.000000075"}


@pytest.mark.parametrize(
    ("usage", "pusd"),
    [
        (Usage(), 0),
        (Usage(input_tokens=1), 150_000),
        (Usage(output_tokens=1), 600_000),
        (Usage(input_tokens=1000, cache_read_tokens=3000, output_tokens=500), 150_000_000 + 225_000_000 + 300_000_000),
        (Usage(reasoning_tokens=10, output_tokens=10), 12_000_000),
        (Usage(cache_write_5m_tokens=1, cache_write_1h_tokens=1, input_audio_tokens=1), 450_000),
        (Usage(output_audio_tokens=2), 1_200_000),
    ],
)
def test_each_part_is_charged_once_by_its_line(usage: Usage, pusd: int) -> None:
    assert cost(usage, PriceLines.read(PRICES)) == pusd


FALLBACKS = [
    ("input_audio_tokens", ["input_audio", "input"]),
    ("cache_read_tokens", ["cache_read", "input"]),
    ("cache_write_5m_tokens", ["cache_write_5m", "input"]),
    ("cache_write_1h_tokens", ["cache_write_1h", "cache_write_5m", "input"]),
    ("output_audio_tokens", ["output_audio", "output"]),
    ("reasoning_tokens", ["reasoning", "output"]),
    ("input_tokens", ["input"]),
    ("output_tokens", ["output"]),
]


@pytest.mark.parametrize(("count", "chain"), FALLBACKS)
def test_a_line_falls_back_to_its_base_and_to_nothing_else(count: str, chain: list[str]) -> None:
    prices = {line: f"0.{number:06d}" for number, line in enumerate(TOKENS, 1)}
    usage = Usage(**{count: 1})
    while chain:
        assert cost(usage, PriceLines.read(prices)) == int(Decimal(prices[chain[0]]) * 10**12)
        del prices[chain.pop(0)]
    assert cost(usage, PriceLines.read(prices)) is None


@pytest.mark.parametrize(("count", "chain"), COVERED_BY.items())
def test_a_line_that_stands_in_for_another_is_named(count: str, chain: tuple[str, ...]) -> None:
    prices = {line: f"0.{number:06d}" for number, line in enumerate(TOKENS, 1)}
    own = chain[0]
    counts = [int(name == count) for name in COVERED_BY]
    assert PriceLines.read(prices).describe_stand_ins(counts) == ""
    for line in chain[:-1]:
        del prices[line]
        note = PriceLines.read(prices).describe_stand_ins(counts)
        stand_in = next(name for name in chain if name in prices)
        is_noted = own != "reasoning"
        assert note == (f"no price of its own: {own} at the price of {stand_in}" if is_noted else "")
    assert PriceLines.read(prices).describe_stand_ins([0] * len(counts)) == ""


def test_a_free_line_stands_in_without_a_note() -> None:
    assert PriceLines.read({"input": "0", "output": "0"}).stand_ins == ()


def test_every_count_has_a_line_and_every_line_a_count() -> None:
    assert set(COVERED_BY) == {name for name in Usage.__dataclass_fields__ if name.endswith("_tokens")}
    assert {line for chain in COVERED_BY.values() for line in chain} == set(TOKENS)


def test_unpriced_is_a_state_and_free_is_a_price() -> None:
    usage = Usage(input_tokens=5, output_tokens=5)
    assert cost(usage, PriceLines.read({"input": "0", "output": "0"})) == 0
    assert cost(usage, PriceLines.read({"input": "0"})) is None
    assert cost(usage, PriceLines.read({})) is None
    assert cost(usage, None) is None
    assert cost(Usage(), None) == 0
    assert cost(Usage(input_tokens=5), PriceLines.read({"input": "0.000001"})) == 5_000_000


@pytest.mark.parametrize(
    ("tokens", "usd", "pusd"),
    [
        (1, "0.0000000000005", 0),
        (3, "0.0000000000005", 2),
        (1, "0.00000000000051", 1),
        (5, "0.0000000000005", 2),
        (7, "0.0000000000005", 4),
        (1_000_000, "0.0000001234567891234", 123_456_789_123),
        (1, "2E-7", 200_000),
        (1, "0.0000001500", 150_000),
    ],
)
def test_a_component_is_rounded_half_even_once(tokens: int, usd: str, pusd: int) -> None:
    assert cost(Usage(input_tokens=tokens), PriceLines.read({"input": usd})) == pusd


@given(st.integers(0, 10**9), st.decimals(0, "0.01", places=18))
def test_a_cost_equals_the_exact_fraction_rounded_half_even(tokens: int, usd: Decimal) -> None:
    exact = Fraction(usd) * tokens * 10**12
    with localcontext(prec=60):
        expected = int((Decimal(exact.numerator) / Decimal(exact.denominator)).to_integral_value(ROUND_HALF_EVEN))
    got = cost(Usage(input_tokens=tokens), PriceLines.read({"input": f"{usd:f}"}))
    assert got == expected
    assert type(got) is int


@given(st.fixed_dictionaries({count: st.integers(0, 10**7) for count in COVERED_BY}), st.data())
def test_a_total_is_the_sum_of_its_components(counts: dict[str, int], data: st.DataObject) -> None:
    picos = {line: data.draw(st.integers(0, 10**9)) for line in TOKENS}
    lines = {line: f"{Decimal(pico).scaleb(-12):f}" for line, pico in picos.items()}
    expected = sum(counts[count] * picos[chain[0]] for count, chain in COVERED_BY.items())
    assert cost(Usage(**counts), PriceLines.read(lines)) == expected


def test_a_component_costs_a_whole_number_of_picodollars() -> None:
    assert type(component_cost(3, Decimal("0.5"))) is int
    assert type(component_cost(3, 5)) is int


@pytest.mark.parametrize(
    ("usage", "lines", "saving"),
    [
        (Usage(cache_read_tokens=10), {"input": "0.000003", "cache_read": "0.000001"}, 20_000_000),
        (Usage(cache_write_5m_tokens=10), {"input": "0.000003", "cache_write_5m": "0.000004"}, -10_000_000),
        (Usage(cache_write_1h_tokens=10), {"input": "0.000003", "cache_write_1h": "0.000006"}, -30_000_000),
        (Usage(cache_read_tokens=10), {"input": "0.000003"}, 0),
        (Usage(input_tokens=10), {"input": "0.000003", "cache_read": "0.000001"}, None),
        (Usage(cache_read_tokens=10), {"cache_read": "0.000001"}, None),
        (Usage(cache_read_tokens=10), None, None),
    ],
)
def test_a_saving_is_told_against_the_full_input_price(
    usage: Usage, lines: dict[str, str] | None, saving: int | None
) -> None:
    counts = [getattr(usage, count) for count in COUNTS]
    assert cache_saving(counts, PriceLines.read(lines) if lines is not None else None) == saving


@given(st.fixed_dictionaries({count: st.integers(0, 10**7) for count in COVERED_BY}), st.data())
def test_cost_and_saving_add_up_to_the_cost_without_a_cache(counts: dict[str, int], data: st.DataObject) -> None:
    lines = [*TOKENS, *data.draw(st.sampled_from([(), ("input>>1000",), ("input>>5", "input>>6000", "cache_read>>7")]))]
    picos = {line: data.draw(st.integers(0, 10**9)) for line in lines}
    price = PriceLines.read({line: f"{Decimal(pico).scaleb(-12):f}" for line, pico in picos.items()})
    uncached = Usage(**counts)
    cached = uncached.cache_read_tokens + uncached.cache_write_5m_tokens + uncached.cache_write_1h_tokens
    plain = Usage(
        **{name: 0 if name.startswith("cache_") else count for name, count in counts.items()}
        | {"input_tokens": counts["input_tokens"] + cached}
    )
    with_cache, without = cost(uncached, price), cost(plain, price)
    assert with_cache is not None
    assert without == with_cache + (cache_saving([counts[name] for name in COUNTS], price) or 0)


def usd(text: str) -> int:
    return int(Decimal(text) * 10**12)


LONG = {"input": "0.00000125", "input>200000": "0.0000025", "output": "0.00001", "output>200000": "0.000015"}
TIERED = {
    "input": "0.000005",
    "input>272000": "0.00001",
    "input@priority": "0.0000125",
    "input@flex": "0.0000025",
    "input@flex>272000": "0.000005",
    "output": "0.00003",
    "output@batch": "0.000015",
}
STEPS = {"input@flex>>20": "1", "input@batch": "1", "input>>10": "2", "input": "3"}
NIGHTLY = {"input": "0.000000135", "input~00:30-16:30": "0.00000027"}


@pytest.mark.parametrize(
    ("lines", "usage", "context", "amount"),
    [
        # The whole request at the higher rate, from the first token above the threshold
        (LONG, Usage(input_tokens=200_000), {}, "0.25"),
        (LONG, Usage(input_tokens=200_001), {}, "0.5000025"),
        (LONG, Usage(input_tokens=200_000, output_tokens=10), {}, "0.2501"),
        (LONG, Usage(input_tokens=200_001, output_tokens=10), {}, "0.5001525"),
        # Cached and audio tokens count as input
        (LONG, Usage(input_tokens=1, cache_read_tokens=199_999), {}, "0.25"),
        (LONG, Usage(input_tokens=1, cache_read_tokens=100_000, input_audio_tokens=100_000), {}, "0.5000025"),
        (LONG, Usage(output_tokens=300_000), {}, "3"),
        # Tiers, as the answer reports them
        (TIERED, Usage(input_tokens=272_000), {}, "1.36"),
        (TIERED, Usage(input_tokens=272_001), {}, "2.72001"),
        (TIERED, Usage(input_tokens=272_000), {"service_tier": "default"}, "1.36"),
        (TIERED, Usage(input_tokens=272_000), {"service_tier": "flex"}, "0.68"),
        (TIERED, Usage(input_tokens=272_001), {"service_tier": "flex"}, "1.360005"),
        (TIERED, Usage(input_tokens=272_001), {"service_tier": "priority"}, "3.4000125"),
        (TIERED, Usage(input_tokens=10, output_tokens=10), {"service_tier": "batch"}, "0.0002"),
        (TIERED, Usage(input_tokens=10), {"service_tier": "unheard of"}, "0.00005"),
        # The time of day at which the request starts, in UTC
        (NIGHTLY, Usage(input_tokens=10**6), {"minute": 29}, "0.135"),
        (NIGHTLY, Usage(input_tokens=10**6), {"minute": 30}, "0.27"),
        (NIGHTLY, Usage(input_tokens=10**6), {"minute": 989}, "0.27"),
        (NIGHTLY, Usage(input_tokens=10**6), {"minute": 990}, "0.135"),
        # Brackets: each token at the rate of its own bracket
        ({"input": "3", "input>>10": "2", "input>>20": "1"}, Usage(input_tokens=10), {}, "30"),
        ({"input": "3", "input>>10": "2", "input>>20": "1"}, Usage(input_tokens=11), {}, "32"),
        ({"input": "3", "input>>10": "2", "input>>20": "1"}, Usage(input_tokens=25), {}, "55"),
        # Those of the tier in place of the standard ones, and neither beside a line of the tier
        (STEPS, Usage(input_tokens=25), {}, "60"),
        (STEPS, Usage(input_tokens=25), {"service_tier": "flex"}, "65"),
        (STEPS, Usage(input_tokens=25), {"service_tier": "batch"}, "25"),
        # Beside tokens
        ({"input": "1", "request": "0.005"}, Usage(input_tokens=2), {}, "2.005"),
        ({"input": "1", "request": "0.005"}, Usage(), {}, "0"),
        ({"input": "1", "web_search": "0.01"}, Usage(input_tokens=1), {"units": {"web_search": 3}}, "1.03"),
        ({"input": "1", "web_search": "0.01"}, Usage(input_tokens=1), {}, "1"),
        ({"second": "0.0004"}, Usage(input_tokens=9, output_tokens=9), {"duration_us": 2_500_000}, "0.001"),
        ({"second": "0.000000000001"}, Usage(input_tokens=9), {"duration_us": 1_500_000}, "0.000000000002"),
        ({"second": "0.000000000001"}, Usage(input_tokens=9), {"duration_us": 2_500_000}, "0.000000000002"),
        ({"request": "0.002"}, Usage(input_tokens=9), {}, "0.002"),
    ],
)
def test_a_line_applies_under_its_conditions(
    lines: dict[str, str], usage: Usage, context: dict[str, Any], amount: str
) -> None:
    assert cost(usage, PriceLines.read(lines), PriceContext(**context)) == usd(amount)


@pytest.mark.parametrize(
    ("lines", "usage"),
    [
        ({"second": "0.0004"}, Usage(input_tokens=1)),
        ({"input@flex": "1"}, Usage(input_tokens=1)),
        ({"input>10": "1"}, Usage(input_tokens=10)),
        ({"output_image": "1"}, Usage(input_tokens=1)),
    ],
    ids=["unknown duration", "another tier", "below the threshold", "only images"],
)
def test_usage_that_no_line_applies_to_has_no_cost(lines: dict[str, str], usage: Usage) -> None:
    assert cost(usage, PriceLines.read(lines)) is None


def test_a_price_has_a_bounded_count_of_combinations() -> None:
    lines = {"input": "1"} | {f"input@tier-{number}": "1" for number in range(39)}
    assert PriceLines.read(lines | {f"input>{1 + number}": "1" for number in range(24)}).variants
    with pytest.raises(ValueError, match="at most 1,000 combinations"):
        PriceLines.read(lines | {f"input>{1 + number}": "1" for number in range(25)})


def test_notes_tell_of_a_tier_without_a_price_and_of_what_is_not_counted() -> None:
    price = PriceLines.read({**TIERED, "image": "0.01", "web_search": "0.01"})
    counts = [1, *[0] * (len(COUNTS) - 1)]
    assert price.describe_stand_ins(counts, PriceContext("flex")) == "not counted: image"
    note = price.describe_stand_ins(counts, PriceContext("scale"))
    assert note == "no price of its own: tier scale at the standard price; not counted: image"


@given(
    tokens=st.integers(0, 600_000),
    minute=st.integers(0, 1439),
    tier=st.sampled_from(["", "flex", "priority", "batch", "other"]),
)
def test_no_variant_is_dearer_than_the_dearest(tokens: int, minute: int, tier: str) -> None:
    price = PriceLines.read(TIERED | {"input~16:30-00:30": "0.00002", "output>>100": "0.0001"})
    usage = Usage(input_tokens=tokens, output_tokens=500)
    actual = cost(usage, price, PriceContext(tier, minute))
    dearest = cost(usage, price.find_dearest(tokens, {tier}))
    assert actual is not None
    assert dearest is not None
    assert actual <= dearest
