"""Amounts of money as text. The gateway counts in integers of 1e-12 USD (picodollars).

No function here rounds unless its docstring says so.
"""

from decimal import ROUND_HALF_EVEN, Decimal, localcontext

PLACES = 12
PUSD = 10**PLACES


def usd_text(pusd: int) -> str:
    """Exact, with twelve decimals: 1 → "0.000000000001"."""
    sign = "-" if pusd < 0 else ""
    whole, rest = divmod(abs(pusd), PUSD)
    return f"{sign}{whole}.{rest:0{PLACES}d}"


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
