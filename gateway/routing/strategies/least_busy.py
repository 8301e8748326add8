"""least-busy: the deployment with the fewest running calls by weight, (running + 1) / weight.

Source: LiteLLM's least-busy (https://docs.litellm.ai/docs/routing); weights as in Envoy's weighted least request
(https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/upstream/load_balancing/load_balancers). Each process
counts its own calls.
"""

from collections.abc import Sequence

from gateway.protocol.provider import Target
from gateway.routing.request import RoutingRequest
from gateway.routing.strategy import Draw
from gateway.routing.view import RoutingView


class LeastBusy:
    name = "least-busy"
    aliases = ()

    def choose(self, targets: Sequence[Target], request: RoutingRequest, view: RoutingView, draw: Draw) -> Target:
        """Equal ones are taken in turn of a draw, so that an idle group is used evenly."""
        start = int(draw() * len(targets))
        best, least = targets[start], float("inf")
        for place in range(start - len(targets), start):
            target = targets[place]
            weight = target.weight
            busy = (view.running(target.deployment_id) + 1) / weight if weight else float("inf")
            if busy < least:
                best, least = target, busy
        return best

    def explain(self, targets: Sequence[Target], request: RoutingRequest, view: RoutingView) -> Sequence[str]:
        return [
            f"has {view.running(target.deployment_id)} running calls at weight {target.weight:g}" for target in targets
        ]


STRATEGY = LeastBusy()
