"""The questions of the tests, and readers of the answers and the books."""

from collections.abc import Iterable
from decimal import Decimal
from typing import Any

import pytest

from gateway.protocol.json.types import JsonObject
from tests.e2e.gateway import Gateway, decimal_cost
from tests.real.conftest import INPUT_PRICE, OUTPUT_PRICE, WAYS

each_way = pytest.mark.parametrize("way", WAYS)

ASK: list[Any] = [
    {"role": "system", "content": "请用中文回答"},
    {"role": "user", "content": "Wie ist das Wetter? “naïve” 🚀"},
]
GREEDY: JsonObject = {"temperature": 0, "max_tokens": 40}
CITIES, UNITS = ["Paris", "北京"], ["celsius", "kelvin"]
SCHEMA: JsonObject = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": CITIES}, "unit": {"type": "string", "enum": UNITS}},
    "required": ["city", "unit"],
}
TOOL = "get_current_weather"
TOOLBOX: list[Any] = [
    {"type": "function", "function": {"name": TOOL, "parameters": SCHEMA}},
    {"type": "function", "function": {"name": "calculate", "parameters": {"type": "object", "properties": {}}}},
]
FORCED: Any = {"type": "function", "function": {"name": TOOL}}


def joined(chunks: Iterable[Any]) -> str:
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


def reasons(chunks: Iterable[Any]) -> list[str]:
    return [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason]


def books(gateway: Gateway, key: str) -> JsonObject:
    """The one row of this test's key."""
    [row] = gateway.wait_priced(api_key=key)
    return row


def assert_metered(row: JsonObject, usage: Any) -> None:
    """The row holds the server's own counts, and costs what they cost."""
    output = usage.total_tokens - usage.prompt_tokens
    assert (row["status"], row["cost_status"], row["usage_estimated"]) == ("success", "priced", False)
    assert (row["prompt_tokens"], row["completion_tokens"]) == (usage.prompt_tokens, output)
    assert decimal_cost(row) == usage.prompt_tokens * Decimal(INPUT_PRICE) + output * Decimal(OUTPUT_PRICE)
