"""TargetGroup: what depends on the deployments alone is made once, and goes with them."""

import gc
import weakref
from dataclasses import replace

from gateway.protocol.provider import Target
from gateway.routing.router import make_plan
from gateway.routing.target_group import TargetGroup, first_tier, keep_able
from tests.fakes.memory import target


class Marker:
    """Something that a weak reference can watch."""


def make_marker(targets: TargetGroup) -> Marker:
    return Marker()


def of_orders(*orders: int) -> TargetGroup:
    return TargetGroup(replace(target(f"up{number}"), order=order) for number, order in enumerate(orders))


def names(targets: tuple[Target, ...]) -> list[str]:
    return [one.deployment_id for one in targets]


def test_figures_are_made_once_for_each_group() -> None:
    one, other = of_orders(0, 0), of_orders(0, 0)
    assert one.derive(make_marker) is one.derive(make_marker)
    assert one.derive(make_marker) is not other.derive(make_marker)
    assert TargetGroup.of(one) is one


def test_the_first_tier_has_the_lowest_order() -> None:
    assert names(first_tier(of_orders(1, 1, 2))) == ["up0", "up1"]
    assert len(first_tier(of_orders(3, 3))) == 2


def test_the_targets_of_an_operation_are_those_whose_provider_knows_it() -> None:
    group = of_orders(0, 0)
    some = next(iter(group[0].provider.operations))
    assert keep_able(group, some) is group
    assert keep_able(group, "no operation") == ()


def test_a_group_is_freed_without_the_garbage_collector() -> None:
    group = of_orders(0, 1)
    marker = weakref.ref(group.derive(make_marker))
    make_plan(group, lambda: 0.5, most=2)
    keep_able(group, next(iter(group[0].provider.operations)))
    gc.disable()
    try:
        del group
        assert marker() is None
    finally:
        gc.enable()
