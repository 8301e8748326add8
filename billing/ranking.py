"""The prices by which routing compares deployments. Pure."""

from billing.catalogue.lines import WHOLE_CALL
from billing.pricing import COUNTS, PriceLines
from gateway.protocol.provider import RankingPrices


def ranking_prices(lines: PriceLines | None) -> RankingPrices | None:
    """None where the price does not say what a token costs: a price of the whole call is none of 0."""
    if lines is None:
        return None
    rates = dict(zip(COUNTS, lines.per_token, strict=True))
    per_input, per_output = rates["input_tokens"], rates["output_tokens"]
    if per_input is None or per_output is None:
        return None
    if not per_input and not per_output and any(rate for name, rate in lines.per_unit if name in WHOLE_CALL):
        return None
    cached = rates["cache_read_tokens"]
    return RankingPrices(float(per_input), float(per_input if cached is None else cached), float(per_output))
