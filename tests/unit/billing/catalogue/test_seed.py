"""The prices that come with the gateway: whole, readable, and equal to the second opinion."""

import json
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from billing.catalogue.seed import SEED, BookPrice, digest, read_seed
from billing.pricing import PriceLines, cost
from gateway.protocol.json.types import JsonObject
from gateway.protocol.usage import Usage
from gateway.providers.registry import PROVIDERS

LITELLM = json.loads((Path(__file__).parents[3] / "fixtures" / "prices" / "litellm.json").read_text())["models"]
LINES = {
    "input": "input_cost_per_token",
    "output": "output_cost_per_token",
    "cache_read": "cache_read_input_token_cost",
    "cache_write_5m": "cache_creation_input_token_cost",
    "cache_write_1h": "cache_creation_input_token_cost_above_1hr",
}
#: Where the two sources disagree: the model → the decision, which docs/prices.md explains.
DECISIONS: dict[tuple[str, str], str] = {}
USAGE = Usage(input_tokens=80_000, cache_read_tokens=20_000, output_tokens=10_000)


def find(provider: str, model: str) -> BookPrice:
    return max(
        (price for price in read_seed().prices if (price.provider, price.model) == (provider, model)),
        key=lambda price: price.effective_from.timestamp() if price.effective_from else 0,
    )


def test_the_file_has_the_digest_that_it_names() -> None:
    content = json.loads(SEED.read_text())
    assert content.pop("sha256") == digest(content)
    assert content["licence"].startswith("MIT")


def test_every_price_is_readable_and_of_a_provider_that_exists() -> None:
    prices = read_seed().prices
    assert len(prices) > 2_000
    assert {price.provider for price in prices} <= set(PROVIDERS)
    for lines in {json.dumps(price.lines) for price in prices}:
        PriceLines.read(json.loads(lines))
    keys = [(price.provider, price.model, price.effective_from) for price in prices]
    assert len(set(keys)) == len(keys)
    assert all(price.effective_from is None or price.effective_from.tzinfo for price in prices)


@pytest.mark.parametrize("row", LITELLM, ids=lambda row: row["key"])
def test_twenty_popular_models_cost_the_same_by_both_sources(row: JsonObject) -> None:
    other = {line: row[name] for line, name in LINES.items() if name in row}
    own = find(row["provider"], row["model"]).lines
    writes = [Usage(cache_write_5m_tokens=100_000), Usage(cache_write_1h_tokens=100_000)]
    usages = [USAGE if "output" in own else replace(USAGE, output_tokens=0)]
    for usage in [*usages, *(writes if "cache_write_5m" in own else ())]:
        is_equal = cost(usage, PriceLines.read(own)) == cost(usage, PriceLines.read(other))
        assert is_equal or (row["provider"], row["model"]) in DECISIONS


@pytest.mark.parametrize(
    ("provider", "model", "usage", "usd"),
    [
        ("openai", "gpt-5.5", Usage(input_tokens=272_000), "1.36"),
        ("openai", "gpt-5.5", Usage(input_tokens=272_001), "2.72001"),
        ("gemini", "gemini-2.5-pro", Usage(input_tokens=200_000), "0.25"),
        ("gemini", "gemini-2.5-pro", Usage(input_tokens=200_001), "0.5000025"),
        ("anthropic", "claude-sonnet-4-5", Usage(cache_write_5m_tokens=100_000), "0.375"),
        ("anthropic", "claude-sonnet-4-5", Usage(cache_write_1h_tokens=100_000), "0.60"),
        ("bedrock", "us.anthropic.claude-sonnet-4-5-20250929-v1:0", Usage(cache_write_5m_tokens=100_000), "0.4125"),
        ("bedrock", "us.anthropic.claude-sonnet-4-5-20250929-v1:0", Usage(cache_write_1h_tokens=100_000), "0.660"),
        ("deepseek", "deepseek-chat", USAGE, "0.02716"),
        ("openai", "gpt-4o", USAGE, "0.325"),
        ("gemini", "gemini-2.5-flash", USAGE, "0.0496"),
    ],
)
def test_known_amounts(provider: str, model: str, usage: Usage, usd: str) -> None:
    assert cost(usage, PriceLines.read(find(provider, model).lines)) == int(Decimal(usd) * 10**12)


def test_the_seed_agrees_with_its_source() -> None:
    source = pytest.importorskip("genai_prices")
    theirs = source.Usage(input_tokens=100_000, cache_read_tokens=20_000, output_tokens=10_000)
    for provider, model in [("openai", "gpt-5.1"), ("anthropic", "claude-opus-5"), ("google", "gemini-2.5-pro")]:
        own = find({"google": "gemini"}.get(provider, provider), model)
        expected = source.calc_price(theirs, model, provider_id=provider).total_price
        assert cost(USAGE, PriceLines.read(own.lines)) == int(expected * 10**12)
