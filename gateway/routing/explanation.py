"""The plan of a request, for people: every deployment of a group with the reason why it is kept or dropped.

Pure, and nothing is taken: it asks `make_plan` for the order, and the strategy for its figures.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gateway.protocol.provider import Target
from gateway.routing.request import PLAIN, RoutingRequest
from gateway.routing.router import CALM, make_plan
from gateway.routing.settings import DEFAULT_SETTINGS, RoutingSettings
from gateway.routing.strategy import Draw
from gateway.routing.target_group import TargetGroup
from gateway.routing.view import RoutingView

#: Places that are told. A request makes fewer attempts.
MOST_PLACES = 20


@dataclass(frozen=True, slots=True)
class Candidate:
    """A deployment of a group. `place` is 1 for the first that is tried; None for one that is dropped, or stands behind
    MOST_PLACES others. `reason` and `figure` continue the sentence "The deployment …"; `figure` is what the strategy
    compares, empty where it has no choice."""

    target: Target
    place: int | None
    is_dropped: bool = False
    is_for_now: bool = False  # dropped, and could serve the call at another time
    reason: str = ""
    figure: str = ""


def explain_plan(
    targets: Sequence[Target],
    draw: Draw,
    request: RoutingRequest = PLAIN,
    *,
    settings: RoutingSettings = DEFAULT_SETTINGS,
    view: RoutingView = CALM,
) -> tuple[Candidate, ...]:
    """All targets of a group: those of the plan in its order, those behind them, and those that are dropped."""
    plan = make_plan(targets, draw, request, settings=settings, view=view, most=min(len(targets), MOST_PLACES))
    places = {target.deployment_id: place for place, target in enumerate(plan.targets, 1)}
    dropped = {drop.target.deployment_id for drop in plan.dropped}
    kept = [target for target in targets if target.deployment_id not in dropped]
    behind = [target for target in kept if target.deployment_id not in places]
    figures = _figures(kept, request, settings, view)
    first_order = min((target.order for target in kept), default=0)
    candidates = [
        Candidate(
            target,
            places.get(target.deployment_id),
            reason=_reason(target, request, first_order),
            figure=figures.get(target.deployment_id, ""),
        )
        for target in (*plan.targets, *behind)
    ]
    candidates += [
        Candidate(drop.target, None, is_dropped=True, is_for_now=drop.is_for_now, reason=drop.reason)
        for drop in plan.dropped
    ]
    return tuple(candidates)


def _reason(target: Target, request: RoutingRequest, first_order: int) -> str:
    if request.preferred and target.deployment_id == request.preferred:
        return "answered the conversation before"
    return f"has order {target.order}, after those of order {first_order}" if target.order != first_order else ""


def _figures(
    kept: Sequence[Target], request: RoutingRequest, settings: RoutingSettings, view: RoutingView
) -> Mapping[str, str]:
    """{id of the deployment: the strategy's figure} of those among which the strategy chooses."""
    figures: dict[str, str] = {}
    for order in sorted({target.order for target in kept}):
        tier = TargetGroup(
            target for target in kept if target.order == order and target.deployment_id != (request.preferred or None)
        )
        if len(tier) > 1:
            texts = settings.strategy_of(tier[0].group_names).explain(tier, request, view)
            figures |= {target.deployment_id: text for target, text in zip(tier, texts, strict=True)}
    return figures
