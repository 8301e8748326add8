"""least-busy: the deployment with the fewest running calls by weight, (running + 1) / weight.

Source: LiteLLM's least-busy (https://docs.litellm.ai/docs/routing); weights as in Envoy's weighted least request
(https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/upstream/load_balancing/load_balancers). Each process
counts its own calls.
"""

import math
from collections.abc import Sequence

from gateway.protocol.provider import Target
from gateway.routing.request import RoutingRequest
from gateway.routing.strategy import Draw, draw_least
from gateway.routing.target_group import TargetGroup, deployment_ids
from gateway.routing.view import RoutingView


class LeastBusy:
    name = "least-busy"
    aliases = ()

    def choose(self, targets: TargetGroup, request: RoutingRequest, view: RoutingView, draw: Draw) -> Target:
        """Among equal ones a draw decides, so that an idle group is used evenly."""
        running = view.running(targets.derive(deployment_ids))
        busy = [(calls + 1) * share for calls, share in zip(running, targets.derive(_shares), strict=True)]
        return draw_least(targets, busy, draw)

    def explain(self, targets: TargetGroup, request: RoutingRequest, view: RoutingView) -> Sequence[str]:
        running = view.running(targets.derive(deployment_ids))
        return [
            f"has {calls} running calls at weight {target.weight:g}"
            for calls, target in zip(running, targets, strict=True)
        ]


def _shares(targets: TargetGroup) -> tuple[float, ...]:
    return tuple([1 / target.weight if target.weight else math.inf for target in targets])


STRATEGY = LeastBusy()
