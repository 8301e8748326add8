"""LiteLLM's names of prices and the lines that they are."""

from decimal import Decimal
from typing import Any

import pytest

from billing.catalogue.lines import is_line
from billing.catalogue.litellm import BASES, find_line, find_name, read_entry


@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("condition", ["", "_above_128k_tokens", "_flex", "_above_272k_tokens_priority", "_batches"])
def test_every_name_has_a_line_that_exists(name: str, condition: str) -> None:
    line = find_line(name + condition)
    assert line is not None
    assert is_line(line)
    back = find_name(line)
    assert back is None or find_line(back) == line


@pytest.mark.parametrize(
    "name",
    ["input_cost_per_pixel", "input_cost_per_token_above_0k_tokens", "input_cost_per_token_slow", "mode", "",
     "output_cost_per_image_1K", "input_cost_per_token_flex_above_200k_tokens"],
)  # fmt: skip
def test_any_other_name_has_none(name: str) -> None:
    assert find_line(name) is None


@pytest.mark.parametrize("line", ["input~00:30-16:30", "input>>200000", "input>200500", "input@fastest"])
def test_a_line_that_litellm_does_not_have_has_no_name(line: str) -> None:
    assert find_name(line) is None


def test_an_entry_of_the_price_map_becomes_lines() -> None:
    reading = read_entry(
        {
            "mode": "chat",
            "input_cost_per_token": Decimal("0.0000025"),
            "input_cost_per_token_cache_hit": Decimal("0.1"),
            "cache_read_input_token_cost": Decimal("0.1"),
            "file_search_cost_per_1k_calls": Decimal("2.5"),
            "search_context_cost_per_query": {"search_context_size_low": Decimal("0.01"), "high": Decimal("0.01")},
            "output_cost_per_image_token": Decimal("0.1"),
            "output_cost_per_token": None,
            "tiered_pricing": [],
        }
    )
    assert reading.lines == {
        "input": "0.0000025",
        "cache_read": "0.1",
        "file_search": "0.0025",
        "web_search": "0.01",
    }
    assert reading.ignored == ("output_cost_per_image_token", "tiered_pricing")


def test_searches_at_several_prices_have_no_line() -> None:
    reading = read_entry({"search_context_cost_per_query": {"low": Decimal("0.01"), "high": Decimal("0.02")}})
    assert (reading.lines, reading.ignored) == ({}, ("search_context_cost_per_query",))


@pytest.mark.parametrize("value", [True, -1, 10**9, Decimal("nan"), 0.1, [], "dear"])
def test_an_amount_that_is_no_price_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="input_cost_per_token must be"):
        read_entry({"input_cost_per_token": value})


@pytest.mark.parametrize("value", [Decimal("1e-31"), "1e-999999999"])
def test_an_amount_of_endless_decimals_is_refused_before_it_is_written(value: Any) -> None:
    with pytest.raises(ValueError, match="has more than 30 decimals"):
        read_entry({"input_cost_per_token": value})
