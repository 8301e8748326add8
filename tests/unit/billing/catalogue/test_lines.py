"""Price lines: their keys, and which of them applies."""

from decimal import Decimal

import pytest

from billing.catalogue.lines import MAX_LINES, PriceLine, is_line, is_within, read_lines


@pytest.mark.parametrize(
    ("key", "line"),
    [
        ("input", PriceLine("input", 1)),
        ("output@priority", PriceLine("output", 1, tier="priority")),
        ("input~00:30-16:30", PriceLine("input", 1, hours=(30, 990))),
        ("input>200000", PriceLine("input", 1, above_tokens=200_000)),
        ("input>>32000", PriceLine("input", 1, above_tokens=32_000, is_marginal=True)),
        (
            "cache_write_1h@flex~16:30-00:30>272000",
            PriceLine("cache_write_1h", 1, tier="flex", hours=(990, 30), above_tokens=272_000),
        ),
        ("web_search", PriceLine("web_search", 1)),
    ],
)
def test_a_key_names_a_component_and_its_conditions(key: str, line: PriceLine) -> None:
    assert PriceLine.read(key, "0.000000000001") == line
    assert is_line(key)


@pytest.mark.parametrize(
    "key",
    [
        *("", "tokens", "Input", "input@", "input@a b", "input>", "input>0", "input>-1", "input> 5", "input>5@flex"),
        *(
            "input~0:30-16:30",
            "input~00:30",
            "input~24:00-01:00",
            "input~00:61-01:00",
            "request>>5",
            "input>" + "9" * 13,
        ),
    ],
)
def test_any_other_key_is_refused(key: str) -> None:
    assert not is_line(key)
    with pytest.raises(ValueError, match=r"is no price line|is no time of day"):
        PriceLine.read(key, "0")


@pytest.mark.parametrize("usd", ["", "dear", "-1", "nan", "inf", "1e999999999", None, 1.5, True])
def test_an_amount_is_finite_decimal_text(usd: str) -> None:
    with pytest.raises(ValueError, match=r"a price must be"):
        PriceLine.read("input", usd)


def test_an_amount_below_a_picodollar_stays_exact() -> None:
    assert PriceLine.read("input", "0.0000000000005").rate == Decimal("0.5")


def test_a_price_has_a_bounded_number_of_lines() -> None:
    lines = {f"input>{place}": "1" for place in range(1, MAX_LINES + 2)}
    with pytest.raises(ValueError, match="at most"):
        read_lines(lines)


@pytest.mark.parametrize(
    ("hours", "inside", "outside"),
    [((30, 990), (30, 989), (29, 990)), ((990, 30), (990, 1439, 0, 29), (30, 989))],
    ids=["of one day", "past midnight"],
)
def test_hours_begin_with_their_first_minute_and_end_before_their_last(
    hours: tuple[int, int], inside: tuple[int, ...], outside: tuple[int, ...]
) -> None:
    assert all(is_within(hours, minute) for minute in inside)
    assert not any(is_within(hours, minute) for minute in outside)
