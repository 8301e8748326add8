"""simple-shuffle: a draw by weight. A deployment gets weight / (sum of the weights) of the calls.

Source: LiteLLM's strategy of the same name (https://docs.litellm.ai/docs/routing).
"""

from collections.abc import Sequence

from gateway.protocol.provider import Target
from gateway.routing.request import RoutingRequest
from gateway.routing.strategy import Draw
from gateway.routing.view import RoutingView


class SimpleShuffle:
    name = "simple-shuffle"
    aliases = ("weighted",)

    def choose(self, targets: Sequence[Target], request: RoutingRequest, view: RoutingView, draw: Draw) -> Target:
        """A target with weight 0 is drawn only where no sibling has a weight."""
        weights = [target.weight for target in targets]
        total = sum(weights)
        if not total:
            return targets[int(draw() * len(targets))]
        mark = draw() * total
        for target, weight in zip(targets, weights, strict=True):
            mark -= weight
            if mark < 0:
                return target
        return next(target for target in reversed(targets) if target.weight)

    def explain(self, targets: Sequence[Target], request: RoutingRequest, view: RoutingView) -> Sequence[str]:
        total = sum(target.weight for target in targets)
        return [
            f"is drawn for {target.weight / total if total else 1 / len(targets):.1%} of the calls"
            for target in targets
        ]


STRATEGY = SimpleShuffle()
