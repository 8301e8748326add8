"""simple-shuffle: a draw by weight. A deployment gets weight / (sum of the weights) of the calls.

Source: LiteLLM's strategy of the same name (https://docs.litellm.ai/docs/routing).
"""

from bisect import bisect
from collections.abc import Sequence
from itertools import accumulate

from gateway.protocol.provider import Target
from gateway.routing.request import RoutingRequest
from gateway.routing.strategy import Draw
from gateway.routing.target_group import TargetGroup
from gateway.routing.view import RoutingView


class SimpleShuffle:
    name = "simple-shuffle"
    aliases = ("weighted",)

    def choose(self, targets: TargetGroup, request: RoutingRequest, view: RoutingView, draw: Draw) -> Target:
        """A target with weight 0 is drawn only where no sibling has a weight."""
        bounds = targets.derive(_bounds)
        total = bounds[-1]
        if not total:
            return targets[int(draw() * len(targets))]
        place = bisect(bounds, draw() * total)
        return targets[place if place < len(bounds) else bounds.index(total)]  # where the product was rounded up

    def explain(self, targets: TargetGroup, request: RoutingRequest, view: RoutingView) -> Sequence[str]:
        total = targets.derive(_bounds)[-1]
        return [
            f"is drawn for {target.weight / total if total else 1 / len(targets):.1%} of the calls"
            for target in targets
        ]


def _bounds(targets: TargetGroup) -> Sequence[float]:
    """The end of the part that each target has of the sum of the weights."""
    return list(accumulate(target.weight for target in targets))


STRATEGY = SimpleShuffle()
