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
from gateway.routing.target_group import TargetGroup, deployment_ids
from gateway.routing.view import RoutingView

#: The output of a call whose length is unknown, as a share of its input: it is the same for all, and only ranks.
OUTPUT_SHARE = 0.25


class LowestCost:
    name = "cost-based-routing"
    aliases = ("lowest-cost",)

    def choose(self, targets: TargetGroup, request: RoutingRequest, view: RoutingView, draw: Draw) -> Target:
        return draw_least(targets, _costs(targets, request, view), draw)

    def explain(self, targets: TargetGroup, request: RoutingRequest, view: RoutingView) -> Sequence[str]:
        tokens = max(request.input_tokens, 1)
        return [
            "has no price, and comes last" if math.isinf(cost) else f"ranks by {usd_short(round(tokens * cost))}"
            for cost in _costs(targets, request, view)
        ]


def _costs(targets: TargetGroup, request: RoutingRequest, view: RoutingView) -> Sequence[float]:
    """Picodollars per token of the input, the output's share included."""
    ids = targets.derive(deployment_ids)
    shares = view.cached_shares(ids)
    if request.session:  # it is warm at the deployment that has answered it alone
        shares = [
            share if deployment_id == request.preferred else 0.0
            for share, deployment_id in zip(shares, ids, strict=True)
        ]
    figures = targets.derive(_cold_costs)
    return [cost - share * saving for share, (cost, saving) in zip(shares, figures, strict=True)]


def _cold_costs(targets: TargetGroup) -> Sequence[tuple[float, float]]:
    """(what a token of the input costs where none is cached, what it costs less where it is) of each target."""
    return [
        (math.inf, 0.0)
        if (prices := target.prices) is None
        else (prices.input + OUTPUT_SHARE * prices.output, prices.input - prices.cached_input)
        for target in targets
    ]


STRATEGY = LowestCost()
