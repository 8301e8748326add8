"""cost-based-routing: the lowest expected price of the call by the deployments' own prices.

    input × (fresh × input price + cached × cached price) + output × output price

`cached` is the share of input that the deployment has read from its prompt cache lately, so a deployment that would
begin with a cold cache costs what the lost cache costs. Source: LiteLLM's strategy of the same name
(https://docs.litellm.ai/docs/routing); the effective price by the real cache-hit rate is OpenRouter's. A deployment
without a price comes last.
"""

import math
from collections.abc import Sequence

from gateway.protocol.amounts import usd_short
from gateway.protocol.provider import Target
from gateway.routing.request import RoutingRequest
from gateway.routing.strategy import Draw, draw_least
from gateway.routing.view import RoutingView

#: The output of a call whose length is unknown, as a share of its input: it is the same for all, and only ranks.
OUTPUT_SHARE = 0.25


class LowestCost:
    name = "cost-based-routing"
    aliases = ("lowest-cost",)

    def choose(self, targets: Sequence[Target], request: RoutingRequest, view: RoutingView, draw: Draw) -> Target:
        return draw_least(targets, _costs(targets, request, view), draw)

    def explain(self, targets: Sequence[Target], request: RoutingRequest, view: RoutingView) -> Sequence[str]:
        tokens = max(request.input_tokens, 1)
        return [
            "has no price, and comes last" if math.isinf(cost) else f"ranks by {usd_short(round(tokens * cost))}"
            for cost in _costs(targets, request, view)
        ]


def _costs(targets: Sequence[Target], request: RoutingRequest, view: RoutingView) -> Sequence[float]:
    """Picodollars per token of the input, the output's share included."""
    shares = view.cached_shares([target.deployment_id for target in targets])
    if request.session:  # it is warm at the deployment that has answered it alone
        shares = [
            share if target.deployment_id == request.preferred else 0.0
            for share, target in zip(shares, targets, strict=True)
        ]
    return [
        math.inf
        if (prices := target.prices) is None
        else prices.input - share * (prices.input - prices.cached_input) + OUTPUT_SHARE * prices.output
        for share, target in zip(shares, targets, strict=True)
    ]


STRATEGY = LowestCost()
