"""Station 5, Route: the targets of a model group → Plan, the order in which they are tried.

Pure: the same targets, request, state and draws make the same plan.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.protocol.provider import Target
from gateway.routing.filters import Dropped, keep_available, keep_fitting
from gateway.routing.request import PLAIN, RoutingRequest
from gateway.routing.settings import DEFAULT_SETTINGS, MAX_ATTEMPTS, RoutingSettings
from gateway.routing.strategy import Draw, Strategy
from gateway.routing.target_group import TargetGroup, first_tier
from gateway.routing.view import NoState, RoutingView

CALM = NoState()


@dataclass(frozen=True, slots=True)
class Plan:
    """The targets in the order in which they are tried; `dropped` with the reason of each that is not among them."""

    targets: tuple[Target, ...]
    dropped: tuple[Dropped, ...] = ()


def make_plan(
    targets: Sequence[Target],
    draw: Draw,
    request: RoutingRequest = PLAIN,
    *,
    settings: RoutingSettings = DEFAULT_SETTINGS,
    view: RoutingView = CALM,
    most: int = MAX_ATTEMPTS,
) -> Plan:
    """At most `most` targets: the one that answered the conversation before, then those of lower orders first, among
    equal ones as the group's strategy chooses. `targets` are of one model group, lower orders first."""
    fitting, unfit = keep_fitting(
        TargetGroup.of(targets), request, has_tags=settings.has_tags, needs_all_tags=settings.needs_all_tags
    )
    available, waiting = keep_available(fitting, view)
    planned: list[Target] = []
    if request.preferred:
        planned = [target for target in available if target.deployment_id == request.preferred][:1]
        available = TargetGroup([target for target in available if target.deployment_id != request.preferred])
    if available and len(planned) < most:
        strategy = settings.strategy_of(available[0].group_names)
        planned += _order(available, strategy, request, view, draw, most - len(planned))
    return Plan(tuple(planned), (*unfit, *waiting))


def _order(
    targets: TargetGroup, strategy: Strategy, request: RoutingRequest, view: RoutingView, draw: Draw, most: int
) -> list[Target]:
    chosen: list[Target] = []
    left = targets
    while True:
        tier = first_tier(left)
        target = tier[0] if len(tier) == 1 else strategy.choose(tier, request, view, draw)
        chosen.append(target)
        if len(chosen) == most or len(left) == 1:
            return chosen
        left = TargetGroup([other for other in left if other is not target])
