"""Prices as text: stored as USD per token, read by people as USD per million tokens. Nothing here rounds."""

from decimal import Decimal

PER_MILLION = 6  # decimal places between a price per token and a price per million tokens


def per_million(usd_per_token: str) -> str:
    """A stored price, USD per token as decimal text, as exact USD per million tokens: `2.5`."""
    return plain(Decimal(usd_per_token).scaleb(PER_MILLION))


def per_token(usd_per_million: Decimal) -> str:
    """The inverse of `per_million`: always the same text for the same price."""
    return plain(usd_per_million.scaleb(-PER_MILLION))


def price_label(usd_per_token: str) -> str:
    """A stored price as people read it, USD per million tokens: `$2.50`, `$0.075`."""
    whole, _, part = per_million(usd_per_token).partition(".")
    return f"${int(whole):,}.{part:0<2}"


def plain(amount: Decimal) -> str:
    """Without exponent and without trailing zeros; never rounded."""
    text = f"{amount:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
