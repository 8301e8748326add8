"""The routing of one request: each deployment with its place or the reason why it is dropped, and the groups that
follow after a failure."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from billing.estimate import CallEstimator
from gateway.explanation.live_routing import LIVE_ROUTING, FrozenView
from gateway.explanation.walls import find_full, find_spent
from gateway.pipeline.admit import find_fallback
from gateway.pipeline.deployment_limits import limit_rules
from gateway.pipeline.ports import Principal
from gateway.pipeline.routing_request import read_route_options, read_routing_request
from gateway.protocol.call import Call
from gateway.protocol.errors import Fault
from gateway.protocol.json.types import JsonObject
from gateway.protocol.provider import Target
from gateway.routing.error_class import ErrorClass
from gateway.routing.explanation import Candidate, explain_plan
from gateway.routing.filters import Dropped
from gateway.routing.load import FULL, SPENT
from gateway.routing.request import RoutingRequest
from gateway.routing.walk import NO_OPTIONS, RouteOptions, make_refusal
from gateway.stores.catalog import Snapshot

#: The classes of errors whose fallbacks differ, by the name of their setting.
FALLBACK_KINDS: Mapping[str, ErrorClass] = {
    "fallbacks": ErrorClass.SERVER,
    "context_window_fallbacks": ErrorClass.CONTEXT_WINDOW,
    "content_policy_fallbacks": ErrorClass.CONTENT_POLICY,
}


@dataclass(frozen=True, slots=True)
class RouteExplanation:
    """`deployments` are those of the model group, `routing` is what surrounds them; `refusal` is the client's error
    where no deployment may be asked now."""

    deployments: list[JsonObject]
    routing: JsonObject
    refusal: Fault | None


@dataclass(frozen=True, slots=True)
class Route:
    """`targets` are those of the call's model group, `able` those among them that may answer it. `has_figures`: the
    reader may see what the calls of all organizations cause at a deployment, and the names of all models."""

    call: Call
    principal: Principal
    snapshot: Snapshot
    targets: Sequence[Target]
    able: Sequence[Target]
    estimator: CallEstimator
    has_figures: bool

    def explain(self) -> RouteExplanation:
        settings, group = self.snapshot.routing, self.targets[0].group_names if self.targets else ()
        options = NO_OPTIONS
        if self.able:
            options = read_route_options(self.call, {}, self.principal, self.snapshot.catalog)
        fallbacks = [
            (kind, name, find_fallback(self.call, self.principal, self.snapshot.catalog, name))
            for kind, error in FALLBACK_KINDS.items()
            for name in (self._name_fallbacks(options, group, error) if self.able else ())
        ]
        if not self.has_figures:  # a key learns nothing of a model that it may not call, not even its name
            fallbacks = [(kind, name, found) for kind, name, found in fallbacks if found]
        view, is_live = self._read_state([*self.able, *(target for _, _, found in fallbacks for target in found)])
        request = read_routing_request(self.call, {}, self.principal, self.snapshot.catalog)
        candidates = self._plan(self.able, request, view)
        plans = [(kind, name, self._plan(found, request, view)) for kind, name, found in fallbacks]
        unserved = f"does not serve {self.call.operation.value} requests, or not to this key"
        unable = [
            Candidate(target, None, is_dropped=True, reason=unserved)
            for target in self.targets
            if target not in self.able
        ]
        routing: JsonObject = {
            "strategy": settings.strategy_of(group).name,
            "retries": settings.retry_policy_of(group).retries if options.retries is None else options.retries,
            "state": "process" if is_live else "none",
            "fallbacks": [
                {"after": kind, "model": name, "reason": self._why_passed_over(plan), "deployments": self._render(plan)}
                for kind, name, plan in plans
            ],
        }
        return RouteExplanation(
            self._render((*candidates, *unable)), routing, _find_refusal(self.able, candidates, plans)
        )

    def _name_fallbacks(self, options: RouteOptions, group: tuple[str, ...], error: ErrorClass) -> Sequence[str]:
        """The groups that stand in after an error of this class, as the call says, or the settings."""
        if options.is_without_fallbacks:
            return ()
        named = options.fallbacks_of(error)
        return self.snapshot.routing.fallbacks_of(group, error) if named is None else named

    def _plan(self, targets: Sequence[Target], request: RoutingRequest, view: FrozenView) -> tuple[Candidate, ...]:
        plan = explain_plan(targets, random.random, request, settings=self.snapshot.routing, view=view)
        if not plan or not all(candidate.is_dropped for candidate in plan):
            return plan
        last = LIVE_ROUTING.find_last_resort([Dropped(one.target, one.reason, one.is_for_now) for one in plan])
        return tuple(_ask_all_the_same(one) if one.target is last else one for one in plan)

    def _read_state(self, targets: Sequence[Target]) -> tuple[FrozenView, bool]:
        """The state of these deployments with their own limits and budgets, and if this process answers calls."""
        by_id = {target.deployment_id: target for target in targets}
        live = LIVE_ROUTING.read(list(by_id))
        estimates = {name: self.estimator(self.call, target) for name, target in by_id.items()}
        budgets = {name: rules for name, rules in self.snapshot.budgets.items() if name in by_id}
        limits = {name: limit_rules(target) for name, target in by_id.items()}
        reasons = dict.fromkeys(find_spent(budgets, estimates), SPENT) | dict.fromkeys(
            find_full(limits, estimates), FULL
        )
        if live is None:
            return FrozenView(reasons, {}), False
        return FrozenView({**reasons, **live.reasons}, live.figures), True

    def _why_passed_over(self, plan: Sequence[Candidate]) -> str:
        """A group that the key may not call shows no deployment."""
        if plan:
            return ""
        return f"The key may not call this model, or it does not serve {self.call.operation.value} requests."

    def _render(self, candidates: Sequence[Candidate]) -> list[JsonObject]:
        return [
            {
                "id": candidate.target.deployment_id,
                "provider": candidate.target.provider.name,
                "order": candidate.target.order,
                "weight": candidate.target.weight,
                "is_candidate": not candidate.is_dropped,
                "place": candidate.place,
                "is_for_now": candidate.is_for_now,
                "reason": candidate.reason,
                "figure": candidate.figure if self.has_figures else "",
            }
            for candidate in candidates
        ]


def _ask_all_the_same(candidate: Candidate) -> Candidate:
    reason = f"{candidate.reason}; it is asked all the same, as no other is left"
    return replace(candidate, place=1, is_dropped=False, is_for_now=False, reason=reason)


def _find_refusal(
    able: Sequence[Target], candidates: Sequence[Candidate], plans: Sequence[tuple[str, str, Sequence[Candidate]]]
) -> Fault | None:
    """The fault of a call that finds no deployment in its group, nor in those that stand in for it; see Walk.first."""
    if not able or any(not candidate.is_dropped for candidate in candidates):
        return None
    is_for_now = any(candidate.is_for_now for candidate in candidates)
    kind = "fallbacks" if is_for_now else "context_window_fallbacks"
    if any(not candidate.is_dropped for after, _, plan in plans if after == kind for candidate in plan):
        return None
    return make_refusal(able, [Dropped(one.target, one.reason, one.is_for_now) for one in candidates])
