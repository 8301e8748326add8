"""Price lines: one amount of a price, and the conditions under which it applies. Pure.

A version of a price is {key: USD per unit, as decimal text}. A key is a component and its conditions, in this order:

    input                    a token of input
    input@priority           where the answer reports this service tier (`batch` is one)
    input~00:30-16:30        where the request starts at this time of day in UTC; the end is not included
    input>200000             the whole request, where its input has more tokens than this
    input>>200000            only the component's own tokens beyond this
    input@flex>272000        conditions together
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import TypeAlias

from gateway.protocol.amounts import PUSD

#: Picodollars per unit. Exact: a whole number wherever the price has at most twelve decimals.
Rate: TypeAlias = int | Decimal

#: The components that are counted in tokens.
TOKENS = (
    "input",
    "output",
    "cache_read",
    "cache_write_5m",
    "cache_write_1h",
    "reasoning",
    "input_audio",
    "output_audio",
)
#: The units that stand for all the tokens of a call. Seconds are those of the whole answer.
WHOLE_CALL = ("request", "second", "output_second")
#: The units that some providers count in their usage object.
REPORTED = ("web_search", "file_search", "code_session", "citation")
#: The units that no call of this version counts.
UNCOUNTED = ("character", "output_character", "image", "output_image", "video_second", "page")
COMPONENTS = frozenset((*TOKENS, *WHOLE_CALL, *REPORTED, *UNCOUNTED))
MAX_DECIMALS = 30
MAX_LINES = 200
DAY_MINUTES = 24 * 60
_KEY = re.compile(
    r"(?P<component>[a-z0-9_]+)(?:@(?P<tier>[a-z0-9_-]{1,40}))?"
    r"(?:~(?P<begin>\d\d:\d\d)-(?P<end>\d\d:\d\d))?(?:(?P<mode>>>?)(?P<tokens>[1-9]\d{0,11}))?"
)


@dataclass(frozen=True, slots=True)
class PriceLine:
    """One amount of a price. `hours`: the first minute of the day and the one after the last, None for the whole day;
    they pass midnight where the first is the larger."""

    component: str
    rate: Rate
    tier: str = ""
    hours: tuple[int, int] | None = None
    above_tokens: int = 0
    is_marginal: bool = False

    @classmethod
    def read(cls, key: str, usd: str) -> "PriceLine":
        """Raises ValueError."""
        parts = _KEY.fullmatch(key)
        if parts is None or parts["component"] not in COMPONENTS:
            raise ValueError(f"{key!r} is no price line")
        if parts["mode"] == ">>" and parts["component"] not in TOKENS:
            raise ValueError(f"{key!r} is no price line: only tokens have brackets")
        hours = (_minute(parts["begin"]), _minute(parts["end"])) if parts["begin"] else None
        return cls(
            component=parts["component"],
            rate=read_rate(usd),
            tier=parts["tier"] or "",
            hours=hours,
            above_tokens=int(parts["tokens"] or 0),
            is_marginal=parts["mode"] == ">>",
        )


def read_lines(lines: Mapping[str, str]) -> tuple[PriceLine, ...]:
    """Raises ValueError."""
    if len(lines) > MAX_LINES:
        raise ValueError(f"a price has at most {MAX_LINES} lines")
    return tuple(PriceLine.read(key, usd) for key, usd in lines.items())


def read_rate(usd: object) -> Rate:
    """USD per unit as picodollars per unit. Raises ValueError."""
    if not isinstance(usd, str):
        raise ValueError(f"a price must be decimal text, not {usd!r}")
    try:
        pusd = Decimal(usd) * PUSD
    except ArithmeticError:
        raise ValueError(f"a price must be decimal text, not {usd!r}") from None
    if not pusd.is_finite() or pusd < 0:
        raise ValueError(f"a price must be a finite amount, not {usd!r}")
    return int(pusd) if pusd == pusd.to_integral_value() else pusd


def has_too_many_decimals(amount: Decimal) -> bool:
    """Its text would be long: that of 1e-999999 has a million characters."""
    exponent = amount.as_tuple().exponent
    return not isinstance(exponent, int) or exponent < -MAX_DECIMALS


def is_line(key: str) -> bool:
    """The key names a component and conditions that exist."""
    try:
        PriceLine.read(key, "0")
    except ValueError:
        return False
    return True


def is_within(hours: tuple[int, int], minute: int) -> bool:
    """The minute of the day is within the hours of a line."""
    begin, end = hours
    return begin <= minute < end if begin <= end else minute >= begin or minute < end


def choose_lines(
    lines: Iterable[PriceLine], tier: str, hours: tuple[int, int] | None, reached: int
) -> dict[str, PriceLine]:
    """Component → the line that applies to the whole of a request of this tier, within these hours, whose input is
    larger than the threshold `reached` (0: none). Tier and hours together outrank the tier, and this the hours; of a
    kind the highest threshold counts."""
    chosen: dict[str, tuple[tuple[bool, bool, int], PriceLine]] = {}
    for line in lines:
        applies = line.tier in ("", tier) and line.hours in (None, hours) and line.above_tokens <= reached
        if line.is_marginal or not applies:
            continue
        rank = (*_conditions(line), line.above_tokens)
        if line.component not in chosen or rank > chosen[line.component][0]:
            chosen[line.component] = rank, line
    return {component: line for component, (_, line) in chosen.items()}


def choose_brackets(
    lines: Iterable[PriceLine], chosen: Mapping[str, PriceLine], tier: str, hours: tuple[int, int] | None
) -> dict[str, list[tuple[int, Rate]]]:
    """Component → its brackets (tokens, rate of those beyond them), ascending. `chosen`: the lines of the whole request
    under the same conditions. Of brackets of several conditions only the most specific ones apply, and none beside a
    line that is more specific."""
    found: dict[str, list[PriceLine]] = {}
    for line in lines:
        if line.is_marginal and line.tier in ("", tier) and line.hours in (None, hours):
            found.setdefault(line.component, []).append(line)
    brackets: dict[str, list[tuple[int, Rate]]] = {}
    for component, rows in found.items():
        base = [chosen[component]] if component in chosen else []
        highest = max(_conditions(line) for line in (*rows, *base))
        apt = [(line.above_tokens, line.rate) for line in rows if _conditions(line) == highest]
        if apt:
            brackets[component] = sorted(apt)
    return brackets


def _conditions(line: PriceLine) -> tuple[bool, bool]:
    """Larger for a more specific line."""
    return bool(line.tier), line.hours is not None


def _minute(text: str) -> int:
    hours, minutes = int(text[:2]), int(text[3:])
    if minutes > 59 or hours * 60 + minutes >= DAY_MINUTES:
        raise ValueError(f"{text!r} is no time of day")
    return hours * 60 + minutes
