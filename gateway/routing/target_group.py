"""TargetGroup: the deployments among which calls choose, with all that depends on them alone."""

from collections.abc import Callable, Sequence
from typing import TypeVar, cast

from gateway.protocol.provider import Target

Figures = TypeVar("Figures")


class TargetGroup(tuple[Target, ...]):
    """Its targets never change, so a figure of each is read once for all calls and not once a call: a group of a
    snapshot lives as long as the snapshot does."""

    _derived: dict[Callable[["TargetGroup"], object], object]

    @classmethod
    def of(cls, targets: Sequence[Target]) -> "TargetGroup":
        return targets if isinstance(targets, TargetGroup) else cls(targets)

    def derive(self, make: Callable[["TargetGroup"], Figures]) -> Figures:
        """The result of `make` for this group. It is called once: it depends on nothing else, and its result is not
        changed. It does not hold the group: that would be a cycle."""
        try:
            derived = self._derived
        except AttributeError:
            derived = self._derived = {}
        if make not in derived:
            derived[make] = make(self)
        return cast(Figures, derived[make])


NONE = TargetGroup()


def deployment_ids(targets: TargetGroup) -> tuple[str, ...]:
    return tuple([target.deployment_id for target in targets])


def have_context_limits(targets: TargetGroup) -> bool:
    return any(target.max_input_tokens is not None for target in targets)


def first_tier(targets: TargetGroup) -> TargetGroup:
    """Those of the lowest order; `targets` are sorted by it."""
    tier = targets.derive(_first_tier)
    return targets if tier is None else tier


def _first_tier(targets: TargetGroup) -> TargetGroup | None:
    """None for all."""
    if targets[0].order == targets[-1].order:
        return None
    return TargetGroup([target for target in targets if target.order == targets[0].order])


def keep_able(targets: Sequence[Target], operation: str) -> TargetGroup:
    """Those whose provider knows the operation."""
    group = TargetGroup.of(targets)
    able = group.derive(_by_operation).get(operation, NONE)
    return group if able is None else able


def _by_operation(targets: TargetGroup) -> dict[str, TargetGroup | None]:
    """{operation: those that know it, None for all}"""
    operations = {operation for target in targets for operation in target.provider.operations}
    able = {name: [target for target in targets if name in target.provider.operations] for name in operations}
    return {name: None if len(some) == len(targets) else TargetGroup(some) for name, some in able.items()}
