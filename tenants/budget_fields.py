"""The fields of a budget as requests and files write them. Pure: config.yaml is read without a database too."""

from decimal import Decimal, InvalidOperation

from gateway.protocol.amounts import PUSD
from gateway.protocol.json.types import Json
from tenants.budget_windows import is_duration
from tenants.durations import DURATION_WORDS
from tenants.invalid import KeyInvalid

MAX_BUDGET_USD = 9_000_000  # in picodollars it fits 63 bits


def read_usd(value: Json, param: str) -> int:
    """Picodollars from a number or decimal text. Raises KeyInvalid."""
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        raise KeyInvalid(param, "must be an amount in USD")
    try:
        amount = Decimal(str(value))
    except InvalidOperation:
        raise KeyInvalid(param, "must be an amount in USD") from None
    if not amount.is_finite() or not 0 <= amount <= MAX_BUDGET_USD:
        raise KeyInvalid(param, f"must be from 0 to {MAX_BUDGET_USD:,} USD; null is no limit")
    return int((amount * PUSD).to_integral_value())


def read_budget_duration(value: Json, param: str = "budget_duration") -> str:
    """A duration as it is stored; empty for all time. Raises KeyInvalid."""
    if value is None or value == "":
        return ""
    if not isinstance(value, str):
        raise KeyInvalid(param, "must be text like 1h, 1d, 7d, 30d or 1mo")
    kind, text = "", value.strip().lower()
    if text.startswith("rolling "):
        kind, text = "rolling ", text.removeprefix("rolling ").strip()
    text = DURATION_WORDS.get(text, text)
    for long, short in (("days", "d"), ("day", "d"), ("hours", "h"), ("hour", "h"), ("hrs", "h"), ("hr", "h")):
        if text.endswith(long):
            text = text.removesuffix(long).strip() + short
            break
    if not is_duration(kind + text):
        wanted = "a number and a unit: 30s, 5m, 1h, 1d, 7d, 30d, 1w or 1mo"
        if kind:
            wanted = "'rolling' and a number and a unit from 1m to 366d, without months: rolling 24h, rolling 30d"
        raise KeyInvalid(param, f"must be {wanted}")
    return kind + text
