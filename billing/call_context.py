"""The facts of a call that its price may depend on, read in the same way on the data path and from a spend row."""

from collections.abc import Mapping
from datetime import UTC, datetime

import orjson

from billing.pricing import PriceContext, PriceLines
from gateway.protocol.usage import MAX_TOKENS

#: Component → the places in a usage object that count it: Anthropic's, xAI's and Perplexity's own.
_PLACES: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "web_search": (
        ("server_tool_use", "web_search_requests"),
        ("server_side_tool_usage_details", "web_search_calls"),
        ("num_search_queries",),
    ),
    "file_search": (("server_side_tool_usage_details", "document_search_calls"),),
    "code_session": (("server_side_tool_usage_details", "code_interpreter_calls"),),
    "citation": (("citation_tokens",),),
}
FAST = "fast"  # Anthropic's usage object tells it as `speed`


def make_context(
    service_tier: str, started_at: datetime, ended_at: datetime | None, raw_usage: Mapping[str, object] | None
) -> PriceContext:
    """`raw_usage`: the provider's usage object; None where it is unknown or does not matter."""
    start = started_at.astimezone(UTC)
    usage = raw_usage or {}
    return PriceContext(
        service_tier=FAST if usage.get("speed") == FAST else service_tier.lower(),
        minute=start.hour * 60 + start.minute,
        duration_us=None if ended_at is None else _microseconds(started_at, ended_at),
        units={name: count for name, places in _PLACES.items() if (count := _count(usage, places))},
    )


def make_context_at(
    service_tier: str, started_s: float, ended_s: float | None, raw_usage: Mapping[str, object] | None
) -> PriceContext:
    """The same from seconds since the epoch, rounded to the microsecond as a spend row keeps them."""
    ended_at = None if ended_s is None else _instant(ended_s)
    return make_context(service_tier, _instant(started_s), ended_at, raw_usage)


def read_raw_usage(price: PriceLines | None, text: str) -> Mapping[str, object] | None:
    """The usage object of a spend row, where the price needs it."""
    if price is None or not price.needs_usage or not text:
        return None
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


def _instant(seconds: float) -> datetime:
    whole, micros = divmod(round(seconds * 10**6), 10**6)
    return datetime.fromtimestamp(whole, UTC).replace(microsecond=micros)


def _microseconds(started_at: datetime, ended_at: datetime) -> int:
    span = ended_at - started_at
    return max(0, (span.days * 86_400 + span.seconds) * 10**6 + span.microseconds)


def _count(usage: Mapping[str, object], places: tuple[tuple[str, ...], ...]) -> int:
    for place in places:
        value: object = usage
        for name in place:
            value = value.get(name) if isinstance(value, dict) else None
        if type(value) is int and 0 < value <= MAX_TOKENS:
            return value
    return 0
