"""The terms of a price that a person sets: its lines, the model that it is for, and when it begins."""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal

from django.utils import timezone

from billing.catalogue.lines import MAX_DECIMALS, has_too_many_decimals
from billing.catalogue.litellm import MAX_USD
from billing.models import Price
from billing.pricing import PriceLines
from gateway.providers.registry import PROVIDERS
from tenants.invalid import ArgumentInvalid

FIRST_YEAR, LAST_YEAR = 2020, 2100
MAX_MODEL_CHARS = 255


class PriceInvalid(ArgumentInvalid):
    """An argument that no price can have."""


def check_lines(provider: str, model: str, lines: Mapping[str, str]) -> None:
    """Raises PriceInvalid unless these lines can be the price of one model of the provider."""
    if not provider:
        raise PriceInvalid("provider", "must be given")
    if provider not in PROVIDERS:
        raise PriceInvalid("provider", f"{provider!r} is unknown; known: {', '.join(sorted(PROVIDERS))}")
    if not model:
        raise PriceInvalid("model", "must be given: lines are the price of one model")
    if "\0" in model or len(model) > MAX_MODEL_CHARS:
        raise PriceInvalid("model", f"must have at most {MAX_MODEL_CHARS} characters, none of them NUL")
    if not lines:
        raise PriceInvalid("lines", "must not be empty")
    try:
        PriceLines.read(lines)
    except ValueError as error:
        raise PriceInvalid("lines", str(error)) from None
    if any(has_too_many_decimals(Decimal(usd)) or Decimal(usd) > MAX_USD for usd in lines.values()):
        raise PriceInvalid("lines", f"must be from 0 to {MAX_USD:,} USD, with at most {MAX_DECIMALS} decimals")


def check_begin(begin: datetime | None) -> None:
    """Raises PriceInvalid for an instant out of these years."""
    if begin is not None and not FIRST_YEAR <= begin.year <= LAST_YEAR:
        raise PriceInvalid("effective_from", f"must be in the years {FIRST_YEAR} to {LAST_YEAR}")


def has_begun(row: Price, now: datetime | None = None) -> bool:
    return row.effective_from is None or row.effective_from <= (now or timezone.now())
