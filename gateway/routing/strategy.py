"""The contract of a routing strategy. One strategy is one file in strategies/, and one row in its registry."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

from gateway.protocol.provider import Target
from gateway.routing.request import RoutingRequest
from gateway.routing.target_group import TargetGroup
from gateway.routing.view import RoutingView

#: Returns [0, 1).
Draw = Callable[[], float]


class Strategy(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def aliases(self) -> tuple[str, ...]:
        """LiteLLM's names, and older ones."""

    def choose(self, targets: TargetGroup, request: RoutingRequest, view: RoutingView, draw: Draw) -> Target:
        """One of the targets, which all may serve the call and have the same order; at least two. It is asked again,
        without that one, for the deployment that follows where the first fails. Figures that depend on the targets
        alone are read by `targets.derive`."""

    def explain(self, targets: TargetGroup, request: RoutingRequest, view: RoutingView) -> Sequence[str]:
        """The figure of each target that `choose` compares, in the order of the targets, to continue the sentence "The
        deployment …". For people, not on the data path."""


def draw_least(targets: TargetGroup, figures: Sequence[float], draw: Draw, *, buffer: float = 0.0) -> Target:
    """One of the targets whose figure is the least, or above it by at most the share `buffer`."""
    least = min(figures)
    if not buffer and figures.count(least) == 1:
        return targets[figures.index(least)]
    bound = least * (1 + buffer)
    near = [place for place, figure in enumerate(figures) if figure <= bound]
    return targets[near[int(draw() * len(near))]]


@runtime_checkable
class StrategyWithArguments(Strategy, Protocol):
    """A strategy that `routing_strategy_args` change."""

    @property
    def arguments(self) -> Mapping[str, float]:
        """{LiteLLM's name of an argument: its largest value}; the smallest is 0."""

    def with_arguments(self, arguments: Mapping[str, float]) -> Strategy:
        """The same strategy with these; it leaves out those of other strategies."""
