"""Money as text. Amounts are integer picodollars (1e-12 USD); no function here rounds unless its name says so."""

from decimal import ROUND_HALF_EVEN, Decimal, localcontext

from gateway.protocol.amounts import PLACES, usd_text

PER_MILLION = 6  # decimal places between a price per token and a price per million tokens


def usd_exact(pusd: int) -> str:
    """Exact, for people: `$1,234.50`, `$0.00012345`: at least cents, no trailing zeros after them."""
    whole, _, part = usd_text(abs(pusd)).partition(".")
    cents, rest = part[:2], part[2:].rstrip("0")
    return f"{'-' if pusd < 0 else ''}${int(whole):,}.{cents}{rest}"


def usd_short(pusd: int) -> str:
    """Rounded (half even) for a glance: cents from one dollar up, below it two significant digits, at least four
    decimals: `$1,234.57`, `$0.4321`, `$0.000012`."""
    if pusd == 0:
        return "$0.00"
    amount = Decimal(abs(pusd)).scaleb(-PLACES)
    decimals = 2 if amount >= 1 else min(PLACES, max(4, 1 - amount.adjusted()))
    with localcontext(rounding=ROUND_HALF_EVEN):
        return f"{'-' if pusd < 0 else ''}${amount:,.{decimals}f}"


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
