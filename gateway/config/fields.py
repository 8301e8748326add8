"""Fields: a mapping of a config.yaml that is read key by key."""

import math
from collections.abc import Callable
from decimal import Decimal, InvalidOperation

from gateway.config.report import Findings, Refused
from gateway.config.yaml_file import NUMBER, Number, Value
from gateway.protocol.json.types import Json

MAX_COUNT = 2**31 - 1
MAX_PRICE_DECIMALS = 30


class Fields:
    """Each method reads one key, reports it, and returns None if it is absent, empty or refused.

    The caller reports the keys that stay in `unread`.
    """

    def __init__(self, place: str, values: dict[str, Value], findings: Findings) -> None:
        self.place = place
        self.unread = dict(values)
        self._findings = findings

    def at(self, name: str) -> str:
        return f"{self.place}.{name}"

    def refuse(self, name: str, message: str) -> None:
        self._findings.refuse(self.at(name), message)

    def honour(self, name: str, reason: str = "", *, is_warning: bool = False) -> None:
        self._findings.honour(self.at(name), reason, is_warning=is_warning)

    def drop(self, *names: str) -> None:
        for name in names:
            self.unread.pop(name, None)

    def mapping(self, name: str, *, required: bool = False) -> "Fields":
        value = self.unread.pop(name, None)
        if value is None and required:
            self.refuse(name, "is missing")
        elif not isinstance(value, dict | None | Refused):
            self.refuse(name, "must be a mapping")
        return Fields(self.at(name), value if isinstance(value, dict) else {}, self._findings)

    def text(self, name: str, *, longest: int = 65_536, required: bool = False, reason: str | None = "") -> str | None:
        """The stripped text. With a `reason` of None, the caller reports the key."""
        is_present = name in self.unread
        value = self.unread.pop(name, None)
        text = "" if value is None else read_text(value, self.at(name), self._findings)
        if text == "" and required:
            self.refuse(name, "is missing")
        elif text == "" and is_present and reason is not None:
            self._findings.honour_empty(self.at(name))
        elif text and len(text) > longest:
            self.refuse(name, f"is longer than {longest} characters")
        elif text and not text.isprintable():
            self.refuse(name, "holds a line break or a control character")
        elif text:
            if reason is not None:
                self.honour(name, reason)
            return text
        return None

    def flag(self, name: str, *, reason: str) -> bool:
        value = self.unread.pop(name, None)
        if isinstance(value, str):
            value = {"true": True, "false": False}.get(value.lower(), value)
        if isinstance(value, bool):
            self.honour(name, reason if value else "")
        elif not isinstance(value, None | Refused):
            self.refuse(name, "must be true or false")
        return value is True

    def count(self, name: str, *, at_least: int = 0, reason: str = "") -> int | None:
        wrong = f"must be a whole number from {at_least} to {MAX_COUNT}"
        amount = self._decimal(name, lambda n: at_least <= n <= MAX_COUNT and n == int(n), wrong, reason)
        return None if amount is None else int(amount)

    def number(self, name: str, *, zero: bool) -> float | None:
        wrong = f"must be a number {'from' if zero else 'above'} 0 and up to {MAX_COUNT}"
        amount = self._decimal(name, lambda n: 0 <= n <= MAX_COUNT and (zero or n != 0), wrong)
        return None if amount is None else float(amount)

    def usd(self, name: str, *, at_most: int, reason: str) -> Decimal | None:
        wrong = f"must be a number from 0 to {at_most:,}, in USD"
        return self._decimal(name, lambda n: 0 <= n <= at_most, wrong, reason)

    def price(self, name: str, at_most: int, *, outranked: bool = False) -> str | None:
        """USD per unit as exact decimal text: `6e-7` is `0.0000006`."""
        wrong = f"must be a number from 0 to {at_most:,}, in USD per {'token' if at_most == 1 else 'unit'}"
        amount = self._decimal(name, lambda n: 0 <= n <= at_most, wrong, reason=None)
        if amount is None:
            return None
        exponent = amount.as_tuple().exponent
        if not isinstance(exponent, int) or exponent < -MAX_PRICE_DECIMALS:
            self.refuse(name, f"has more than {MAX_PRICE_DECIMALS} decimals")
            return None
        if outranked:
            self._findings.ignore(self.at(name), "litellm_params gives this price too, and wins")
        else:
            self.honour(name)
        return f"{amount.copy_abs():f}"

    def _decimal(
        self, name: str, is_right: Callable[[Decimal], bool], wrong: str, reason: str | None = ""
    ) -> Decimal | None:
        is_present = name in self.unread
        value = self.unread.pop(name, None)
        if value is None or value == "":
            if is_present:
                self._findings.honour_empty(self.at(name))
        elif isinstance(value, Number) or (isinstance(value, str) and NUMBER.fullmatch(value.strip())):
            try:
                amount = Decimal(value.value if isinstance(value, Number) else value.strip())
            except InvalidOperation:  # the exponent is too large
                amount = Decimal("nan")
            if amount.is_finite() and is_right(amount):
                if reason is not None:
                    self.honour(name, reason)
                return amount
            self.refuse(name, wrong)
        elif not isinstance(value, Refused):
            self.refuse(name, "must be a number")
        return None


def read_text(value: Value, place: str, findings: Findings) -> str | None:
    if isinstance(value, Number):
        return value.text
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, bool):
        findings.refuse(place, "must be text; YAML took it for true or false, so put it in quotes")
    elif isinstance(value, list | dict):
        findings.refuse(place, "must be text")
    return None


def read_json(value: Value, place: str, findings: Findings) -> Json:
    """The value as JSON. Numbers become floats, so prices are never read this way."""
    if isinstance(value, dict):
        return {name: read_json(item, f"{place}.{name}", findings) for name, item in value.items()}
    if isinstance(value, list):
        return [read_json(item, f"{place}[{i}]", findings) for i, item in enumerate(value)]
    if isinstance(value, Number):
        number = value.value if isinstance(value.value, int) else float(value.value)
        if not math.isfinite(number) if isinstance(number, float) else not -(2**63) <= number < 2**63:
            findings.refuse(place, "is too large a number")
        return number
    if isinstance(value, str):
        return str(value)
    return None if isinstance(value, Refused) else value
