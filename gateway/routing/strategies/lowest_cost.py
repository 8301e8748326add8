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
from gateway.routing.strategy import Draw
from gateway.routing.view import RoutingView

#: The output of a call whose length is unknown, as a share of its input: it is the same for all, and only ranks.
OUTPUT_SHARE = 0.25


class LowestCost:
    name = "cost-based-routing"
    aliases = ("lowest-cost",)

    def choose(self, targets: Sequence[Target], request: RoutingRequest, view: RoutingView, draw: Draw) -> Target:
        costs = [_cost(target, request, view) for target in targets]
        least = min(costs)
        cheapest = [target for target, cost in zip(targets, costs, strict=True) if cost == least]
        return cheapest[int(draw() * len(cheapest))]

    def explain(self, targets: Sequence[Target], request: RoutingRequest, view: RoutingView) -> Sequence[str]:
        costs = [_cost(target, request, view) for target in targets]
        return [
            "has no price, and comes last" if math.isinf(cost) else f"ranks by {usd_short(round(cost))}"
            for cost in costs
        ]


def _cost(target: Target, request: RoutingRequest, view: RoutingView) -> float:
    prices = target.prices
    if prices is None:
        return math.inf
    is_warm = not request.session or target.deployment_id == request.preferred
    cached = view.cached_share(target.deployment_id) if is_warm else 0.0
    tokens = max(request.input_tokens, 1)
    each = (1 - cached) * prices.input + cached * prices.cached_input + OUTPUT_SHARE * prices.output
    return tokens * each


STRATEGY = LowestCost()
