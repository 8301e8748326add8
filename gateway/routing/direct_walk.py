"""DirectWalk: the way of a call to one deployment, whatever its state. No other deployment stands in for it."""

from dataclasses import dataclass

from gateway.protocol.errors import UpstreamFault
from gateway.protocol.provider import Target
from gateway.routing.breaker import Breaker
from gateway.routing.load import DeploymentLoad
from gateway.routing.retry_budget import RetryBudget
from gateway.routing.walk import Routing, Step, Walk


@dataclass(slots=True)
class DirectWalk(Walk):
    """The one attempt at `targets[0]`."""

    def first(self) -> Step:
        return Step(self.targets[0], self.targets)

    def after(self, fault: UpstreamFault, *, is_retryable: bool | None = None) -> Step | None:
        return None

    def full(self) -> Step | None:
        return None

    def hedge(self) -> Step | None:
        return None


def direct_walk(target: Target, routing: Routing) -> DirectWalk:
    return DirectWalk(routing, (target,), lambda name: ())


def isolated_routing(routing: Routing, now_s: float) -> Routing:
    """The state of routing for one call, with the settings of all calls: nothing is learned from it."""
    draw = routing.draw
    return Routing(
        Breaker(lambda: now_s, draw),
        DeploymentLoad(lambda: now_s),
        RetryBudget(lambda: now_s),
        draw,
        lambda: routing.settings,
    )
