"""LiteLLM's names of prices: which line of a price each one is. Pure.

A name is a base and its conditions, in this order: `input_cost_per_token`, `…_above_1hr`, `…_above_200k_tokens`,
`…_flex`. Source: LiteLLM's model_prices_and_context_window.json and its CustomPricingLiteLLMParams. The lines hold for
the whole request, as there.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from billing.catalogue.lines import MAX_DECIMALS, PriceLine, has_too_many_decimals

BASES = {
    "input_cost_per_token": "input",
    "output_cost_per_token": "output",
    "cache_read_input_token_cost": "cache_read",
    "cache_creation_input_token_cost": "cache_write_5m",
    "cache_creation_input_token_cost_above_1hr": "cache_write_1h",
    "output_cost_per_reasoning_token": "reasoning",
    "input_cost_per_audio_token": "input_audio",
    "output_cost_per_audio_token": "output_audio",
    "input_cost_per_query": "request",
    "input_cost_per_request": "request",
    "input_cost_per_second": "second",
    "output_cost_per_second": "output_second",
    "input_cost_per_character": "character",
    "output_cost_per_character": "output_character",
    "input_cost_per_image": "image",
    "output_cost_per_image": "output_image",
    "input_cost_per_video_per_second": "video_second",
    "ocr_cost_per_page": "page",
    "citation_cost_per_token": "citation",
    "code_interpreter_cost_per_session": "code_session",
    "file_search_cost_per_1k_calls": "file_search",
}
#: Line → its first name, of those whose amount is that of the line.
_NAMES = {line: name for name, line in reversed(BASES.items()) if not name.endswith("_calls")}
#: Names that mean the same line as another one, which is the later name.
_SAME = {"input_cost_per_token_cache_hit": "cache_read_input_token_cost"}
_PER_THOUSAND = frozenset({"file_search_cost_per_1k_calls"})
_TIERS = {"batches": "batch", "flex": "flex", "priority": "priority", "ultrafast": "fast"}
_NAME = re.compile(
    r"(?P<base>[a-z0-9_]+?)(?:_above_(?P<thousands>[1-9]\d{0,5})k_tokens)?(?:_(?P<tier>batches|flex|priority|ultrafast))?"
)
#: LiteLLM's price of a web search by the size of its context; the gateway has one line, so they must be equal.
SEARCH = "search_context_cost_per_query"
#: Prices of LiteLLM's own shapes, which have no line.
_SHAPES = frozenset({"tiered_pricing", "off_peak_pricing"})
MAX_USD = 1_000


@dataclass(frozen=True, slots=True)
class Reading:
    """The price of one entry of LiteLLM's map. `ignored`: names of prices that have no line here."""

    lines: Mapping[str, str]
    ignored: tuple[str, ...]


def find_line(name: str) -> str | None:
    """The line that a name of LiteLLM is: `input_cost_per_token_above_200k_tokens_flex` is `input@flex>200000`. None
    for a name that has no line."""
    base = BASES.get(_SAME.get(name, name))
    if base is not None:
        return base
    parts = _NAME.fullmatch(name)
    component = BASES.get(_SAME.get(parts["base"], parts["base"])) if parts is not None else None
    if parts is None or component is None:
        return None
    tier = f"@{_TIERS[parts['tier']]}" if parts["tier"] else ""
    threshold = f">{int(parts['thousands']) * 1000}" if parts["thousands"] else ""
    return f"{component}{tier}{threshold}"


def find_name(line: str) -> str | None:
    """LiteLLM's name of a line; None where it has none."""
    parts = PriceLine.read(line, "0")
    base = _NAMES.get(parts.component)
    tier = {line: name for name, line in _TIERS.items()}.get(parts.tier) if parts.tier else ""
    thousands, rest = divmod(parts.above_tokens, 1000)
    if base is None or tier is None or rest or parts.hours is not None or parts.is_marginal:
        return None
    return f"{base}{f'_above_{thousands}k_tokens' if thousands else ''}{f'_{tier}' if tier else ''}"


def is_price(name: str) -> bool:
    """The name is that of a price, whether or not it has a line."""
    return name in _SHAPES or re.search(r"(?:^|_)cost(?:_|$)", name) is not None


def read_amount(name: str, amount: Decimal) -> str:
    """The amount of a line, from that of LiteLLM's name."""
    if name not in _PER_THOUSAND:
        return f"{amount:f}"
    text = f"{amount / 1000:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def read_entry(entry: Mapping[str, object]) -> Reading:
    """Raises ValueError for an amount that is no price. Numbers of JSON must be Decimal or int."""
    lines: dict[str, str] = {}
    ignored: list[str] = []
    for name, value in entry.items():
        if not is_price(name) or value is None:
            continue
        line = find_line(name)
        if line is not None:
            lines.setdefault(line, _read_price(name, value))
        elif name == SEARCH and isinstance(value, dict) and len(prices := set(_search_prices(value))) == 1:
            lines["web_search"] = prices.pop()
        else:
            ignored.append(name)
    for key, usd in lines.items():
        PriceLine.read(key, usd)
    return Reading(lines, tuple(sorted(ignored)))


def _search_prices(sizes: Mapping[object, object]) -> Iterator[str]:
    for size, value in sizes.items():
        yield _read_price(f"{SEARCH}.{size}", value)


def _read_price(name: str, value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | Decimal | str):
        raise ValueError(f"{name} must be a number")
    try:
        amount = Decimal(value)
    except InvalidOperation:
        raise ValueError(f"{name} must be a number") from None
    if not amount.is_finite() or not 0 <= amount <= MAX_USD:
        raise ValueError(f"{name} must be from 0 to {MAX_USD} USD")
    if has_too_many_decimals(amount):
        raise ValueError(f"{name} has more than {MAX_DECIMALS} decimals")
    return read_amount(name, amount)
