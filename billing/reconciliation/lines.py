"""InvoiceLine: one charge or one count of an invoice, and the exact numbers of its text. Pure.

Amounts are Decimal until they are added up, and become picodollars once, half-even. Nothing here is a float.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from enum import StrEnum

from gateway.protocol.amounts import PLACES

#: Digits of a sum: amounts have at most 15 before the point and 30 behind it.
PRECISION = 80
MAX_NUMBER_CHARS = 64
MAX_PUSD = 2**62  # 4.6 million USD for one day, model and component
MAX_QUANTITY = 10**13  # sums of 50,000 of them are within 64 bits, which SQLite adds in
MAX_KEYS = 50_000
MAX_NAME = 255
_NUMBER = re.compile(r"[+-]?(?:\d{1,15}(?:\.\d{0,30})?|\.\d{1,30})(?:[eE][+-]?\d{1,2})?", re.ASCII)
_MAX_EXPONENT = 15
FIRST_YEAR, LAST_YEAR = 2020, 2100


class Component(StrEnum):
    """The kinds of charges. Tokens are disjoint: `input` has no cached ones, and `output` has the reasoning."""

    INPUT = "input"
    INPUT_AUDIO = "input_audio"
    CACHE_READ = "cache_read"
    CACHE_WRITE = "cache_write"
    OUTPUT = "output"
    OUTPUT_AUDIO = "output_audio"
    OTHER = "other"  # searches, sessions, images: no tokens of a kind that is known
    CREDIT = "credit"
    TAX = "tax"


TOKENS = tuple(Component)[:6]


class InvoiceUnreadable(Exception):
    """The file is no invoice of its source. The message is for the person who has sent it."""


@dataclass(frozen=True, slots=True)
class InvoiceLine:
    """`model` and `sku`: the invoice's own texts. `quantity`: tokens, of other components their own unit. `amount`:
    USD. None: the line does not say it. `is_usage`: a count that another export charges."""

    day: date
    model: str
    sku: str
    component: Component
    quantity: Decimal | None
    amount: Decimal | None
    tier: str = ""
    region: str = ""
    is_usage: bool = False


@dataclass(frozen=True, slots=True)
class LineKey:
    is_usage: bool
    day: date
    model: str
    sku: str
    component: Component
    tier: str
    region: str


@dataclass(frozen=True, slots=True)
class LineSum:
    """Sums of the lines of one key. `quantity`: whole tokens or units."""

    quantity: int | None
    amount_pusd: int | None


def add_up(lines: Iterable[InvoiceLine]) -> dict[LineKey, LineSum]:
    """The sums by day, text and component, each rounded once. Raises InvoiceUnreadable."""
    sums: dict[LineKey, tuple[Decimal | None, Decimal | None]] = {}
    with localcontext(prec=PRECISION):
        for line in lines:
            key = _key_of(line)
            quantity, amount = sums.get(key, (None, None))
            sums[key] = (_add(quantity, line.quantity), _add(amount, line.amount))
            if len(sums) > MAX_KEYS:
                raise InvoiceUnreadable(f"the file has more than {MAX_KEYS:,} different charges: split it by days")
        return {key: LineSum(_whole(quantity, key), _pusd(amount, key)) for key, (quantity, amount) in sums.items()}


def _key_of(line: InvoiceLine) -> LineKey:
    return LineKey(
        line.is_usage,
        line.day,
        line.model[:MAX_NAME],
        line.sku[:MAX_NAME],
        line.component,
        line.tier[:MAX_NAME],
        line.region[:MAX_NAME],
    )


def _add(one: Decimal | None, other: Decimal | None) -> Decimal | None:
    return other if one is None else one if other is None else one + other


def _whole(quantity: Decimal | None, key: LineKey) -> int | None:
    if quantity is None:
        return None
    number = int(quantity.to_integral_value(ROUND_HALF_EVEN))
    if abs(number) > MAX_QUANTITY:
        raise InvoiceUnreadable(f"the quantity of {key.sku[:60]!r} on {key.day} is out of range")
    return number


def _pusd(amount: Decimal | None, key: LineKey) -> int | None:
    if amount is None:
        return None
    number = int(amount.scaleb(PLACES).to_integral_value(ROUND_HALF_EVEN))
    if abs(number) > MAX_PUSD:
        raise InvoiceUnreadable(f"the amount of {key.sku[:60]!r} on {key.day} is out of range")
    return number


# Texts


def match_name(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    """None for a long text too: what backtracks over it would take seconds."""
    return pattern.fullmatch(text) if len(text) <= MAX_NAME else None


def read_number(text: str, name: str) -> Decimal | None:
    """None for an empty text. Raises InvoiceUnreadable."""
    text = text.strip()
    if not text:
        return None
    if len(text) > MAX_NUMBER_CHARS or not _NUMBER.fullmatch(text):
        raise InvoiceUnreadable(f"{name} is {text[:30]!r}, which is no number that can be read")
    number = Decimal(text)
    exponent = number.as_tuple().exponent
    if number.adjusted() > _MAX_EXPONENT or not isinstance(exponent, int) or exponent < -40:
        raise InvoiceUnreadable(f"{name} is {text[:30]!r}, which is out of range")
    return number


def read_day(text: str, name: str) -> date:
    """The day in UTC of an instant or a day. Raises InvoiceUnreadable."""
    text = text.strip()
    american = re.fullmatch(r"(\d{2})/(\d{2})/(\d{4})", text, re.ASCII)  # Azure's exports: month, day, year
    if american:
        text = f"{american[3]}-{american[1]}-{american[2]}"
    text = text.removesuffix(" UTC")  # BigQuery's text of a timestamp
    try:
        instant = datetime.fromisoformat(text) if len(text) <= MAX_NUMBER_CHARS else None
        if instant is not None and instant.tzinfo is not None:
            instant = instant.astimezone(UTC)
    except (ValueError, OverflowError):  # the first and the last day of the calendar have no other zone
        instant = None
    if instant is None:
        raise InvoiceUnreadable(f"{name} is {text[:30]!r}, which is no day")
    return check_day(instant.date(), name)


def check_day(day: date, name: str) -> date:
    if not FIRST_YEAR <= day.year <= LAST_YEAR:
        raise InvoiceUnreadable(f"{name} is {day}, which is not in the years {FIRST_YEAR} to {LAST_YEAR}")
    return day


def check_currency(text: str) -> None:
    """Raises InvoiceUnreadable for every currency but USD, and for none."""
    if text.strip().upper() != "USD":
        shown = repr(text.strip()[:20]) if text.strip() else "not named"
        raise InvoiceUnreadable(f"the currency is {shown}: only amounts in USD are read")
