"""Amounts of money as text. The gateway counts in integers of 1e-12 USD (picodollars)."""

PLACES = 12
PUSD = 10**PLACES


def usd_text(pusd: int) -> str:
    """Exact, with twelve decimals: 1 → "0.000000000001"."""
    sign = "-" if pusd < 0 else ""
    whole, rest = divmod(abs(pusd), PUSD)
    return f"{sign}{whole}.{rest:0{PLACES}d}"
