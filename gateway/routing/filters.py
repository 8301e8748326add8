"""The filters that stand before every strategy: which deployments of a group may get a call, and why others may not."""

from collections.abc import Callable
from dataclasses import dataclass

from gateway.protocol.provider import Target
from gateway.routing.request import RoutingRequest
from gateway.routing.target_group import TargetGroup, have_context_limits
from gateway.routing.view import RoutingView

#: LiteLLM's tag of the deployments for calls that no other tag fits (https://docs.litellm.ai/docs/proxy/tag_routing).
DEFAULT_TAG = "default"
#: The reason of a target, to continue the sentence "The deployment …"; empty to keep it.
Reason = Callable[[Target], str]
#: Tells if a target has the tags that are asked for; never for none.
Fits = Callable[[Target, frozenset[str]], bool]


@dataclass(frozen=True, slots=True)
class Dropped:
    """A deployment that does not get the call. `is_for_now`: it could serve it at another time."""

    target: Target
    reason: str
    is_for_now: bool = False


def keep_fitting(
    targets: TargetGroup, request: RoutingRequest, *, has_tags: bool, needs_all_tags: bool = False
) -> tuple[TargetGroup, list[Dropped]]:
    """The targets that could serve the call at any time, by tags, region, capabilities and context window."""
    dropped: list[Dropped] = []
    if has_tags:
        targets = _split_by_tags(targets, request, _has_all if needs_all_tags else _has_any, dropped)
    if request.region:
        targets = _split(targets, lambda target: _by_region(target, request.region), dropped)
    if request.needs:
        targets = _split(targets, lambda target: _by_needs(target, request.needs), dropped)
    if targets.derive(have_context_limits):
        targets = _split(targets, lambda target: _by_context(target, request.input_tokens), dropped)
    return targets, dropped


def keep_available(targets: TargetGroup, view: RoutingView) -> tuple[TargetGroup, list[Dropped]]:
    """The targets that may get a call now."""
    out = view.out()
    if not out:
        return targets, []
    kept = [
        target
        for target in targets
        if target.deployment_id not in out and not (target.pattern and target.circuit in out)
    ]
    if len(kept) == len(targets):
        return targets, []
    dropped = [
        Dropped(target, out.get(target.circuit) or out[target.deployment_id], is_for_now=True)
        for target in targets
        if target.deployment_id in out or (target.pattern and target.circuit in out)
    ]
    return TargetGroup(kept), dropped


def _split(targets: TargetGroup, reason_of: Reason, dropped: list[Dropped]) -> TargetGroup:
    kept = []
    for target in targets:
        reason = reason_of(target)
        if reason:
            dropped.append(Dropped(target, reason))
        else:
            kept.append(target)
    return TargetGroup(kept) if len(kept) < len(targets) else targets


def _has_any(target: Target, tags: frozenset[str]) -> bool:
    return not tags.isdisjoint(target.tags)


def _has_all(target: Target, tags: frozenset[str]) -> bool:
    return bool(tags) and tags <= target.tags


def _split_by_tags(targets: TargetGroup, request: RoutingRequest, fits: Fits, dropped: list[Dropped]) -> TargetGroup:
    """The tags of a key bind where a deployment has one of them: those of the request choose among these alone."""
    if not any(_has_any(target, request.key_tags) for target in targets):
        return _split(targets, _by_tags(targets, request.tags, fits), dropped)
    targets = _split(targets, lambda target: _reason(target, request.key_tags, _has_any, "the key's tags"), dropped)
    if any(fits(target, request.tags) for target in targets):
        targets = _split(targets, _by_tags(targets, request.tags, fits), dropped)
    return targets


def _by_tags(targets: TargetGroup, tags: frozenset[str], fits: Fits) -> Reason:
    """A call with tags goes to deployments that fit them; where there is none, and for a call without tags, to the
    default ones; where no deployment is a default one, a call without tags goes anywhere."""
    if any(fits(target, tags) for target in targets):
        return lambda target: _reason(target, tags, fits, "the call's tags")
    if tags or any(DEFAULT_TAG in target.tags for target in targets):
        return lambda target: "" if DEFAULT_TAG in target.tags else "is not one for calls without its tags"
    return lambda target: ""


def _reason(target: Target, tags: frozenset[str], fits: Fits, whose: str) -> str:
    if fits(target, tags):
        return ""
    return f"has none of {whose}" if tags.isdisjoint(target.tags) else f"has not all of {whose}"


def _by_region(target: Target, region: str) -> str:
    return "" if target.region == region else f"is not in the region {region}"


def _by_needs(target: Target, needs: frozenset[str]) -> str:
    lacking = needs - target.abilities
    return f"lacks {', '.join(sorted(lacking))}" if lacking else ""


def _by_context(target: Target, tokens: int) -> str:
    limit = target.max_input_tokens
    if limit is None or tokens <= limit:
        return ""
    return f"takes {limit} input tokens, and the call has about {tokens}"
