"""Station 5, Route: targets → Plan, the order in which they are tried."""

from collections.abc import Callable

from gateway.protocol.provider import Target

MAX_ATTEMPTS = 3

Plan = tuple[Target, ...]


def route(targets: tuple[Target, ...], draw: Callable[[], float]) -> Plan:
    """At most MAX_ATTEMPTS targets: lower orders first, a weighted draw among equal ones. `draw` returns [0, 1)."""
    if len(targets) == 1:
        return targets
    plan: list[Target] = []
    remaining = sorted(targets, key=lambda target: target.order)
    while remaining and len(plan) < MAX_ATTEMPTS:
        candidates = [target for target in remaining if target.order == remaining[0].order]
        chosen = _draw_target(candidates, draw())
        plan.append(chosen)
        remaining.remove(chosen)
    return tuple(plan)


def _draw_target(targets: list[Target], point: float) -> Target:
    """A target with weight 0 is drawn only where no sibling has a weight."""
    mark = point * sum(target.weight for target in targets)
    for target in targets:
        mark -= target.weight
        if mark < 0:
            return target
    return next((target for target in reversed(targets) if target.weight), targets[-1])
