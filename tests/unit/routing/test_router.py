"""Route: lower orders first, a weighted draw among equals, no target twice."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol.provider import Target
from gateway.routing.request import RoutingRequest
from gateway.routing.router import make_plan
from gateway.routing.settings import MAX_ATTEMPTS
from gateway.routing.strategy import Draw
from tests.fakes.memory import target

WEIGHTS = st.one_of(st.sampled_from([0, 0.0, 1]), st.floats(0, 100).map(lambda weight: round(weight, 3)))
POINTS = st.one_of(st.floats(0, 1, exclude_max=True), st.sampled_from([0.0, 1 - 2**-53]))


def targets(weights: list[float], orders: list[int] | None = None) -> tuple[Target, ...]:
    """Lower orders first, as the catalog holds them."""
    given_orders = orders or [0] * len(weights)
    group = [
        target(f"up{number}", weight=weight, order=order)
        for number, (weight, order) in enumerate(zip(weights, given_orders, strict=False))
    ]
    return tuple(sorted(group, key=lambda one: one.order))


def route(group: tuple[Target, ...], draw: Draw, preferred: str = "") -> tuple[Target, ...]:
    return make_plan(group, draw, RoutingRequest(preferred=preferred)).targets


@given(
    st.lists(st.tuples(WEIGHTS, st.integers(0, 3)), min_size=1, max_size=8), st.lists(POINTS, min_size=8, max_size=8)
)
def test_a_plan_holds_no_target_twice_and_follows_the_orders(
    rows: list[tuple[float, int]], points: list[float]
) -> None:
    group = targets([weight for weight, _ in rows], [order for _, order in rows])
    plan = route(group, iter(points).__next__)
    assert len(plan) == min(len(group), MAX_ATTEMPTS)
    assert len({one.deployment_id for one in plan}) == len(plan)
    assert [one.order for one in plan] == sorted(one.order for one in group)[: len(plan)]


@given(st.lists(WEIGHTS, min_size=1, max_size=6), POINTS)
def test_a_target_with_weight_0_is_drawn_only_where_no_sibling_has_a_weight(weights: list[float], point: float) -> None:
    first = route(targets(weights), lambda: point)[0]
    if any(weights):
        assert first.weight > 0


def test_weight_0_is_not_drawn_by_a_rounding_error() -> None:
    group = targets([1.86, 1.21, 8.956, 0])
    assert route(group, lambda: 1 - 2**-53)[0].weight > 0


@pytest.mark.parametrize("weights", [[1, 1], [1, 3], [5, 0, 5], [0.1, 0.2, 0.7], [0, 0]])
def test_first_draws_are_spread_by_weight(weights: list[float]) -> None:
    rng = random.Random(7)
    group = targets(weights)
    draws = 6000
    counts = Counter(route(group, rng.random)[0].deployment_id for _ in range(draws))
    total = sum(weights)
    for one in group:
        if total:
            assert counts[one.deployment_id] == pytest.approx(draws * one.weight / total, abs=draws * 0.03)


def test_a_lone_target_needs_no_draw() -> None:
    def never() -> float:
        raise AssertionError

    lone = targets([0])
    assert route(lone, never) == lone


def test_a_higher_order_is_a_fallback_only() -> None:
    group = targets([1, 1, 1, 1, 100], [2, 0, 1, 0, 3])
    for point in (0.0, 0.5, 0.99):
        plan = route(group, lambda point=point: point)  # type: ignore[misc]
        assert [one.order for one in plan] == [0, 0, 1]


def test_the_deployment_that_answered_before_comes_first_and_any_other_after_it() -> None:
    group = targets([1, 1])
    first, second = group
    assert route(group, lambda: 0.0, "up1") == (second, first)
    assert route(group, lambda: 0.0, "gone") == (first, second)
    assert route((first,), lambda: 0.0, "up0") == (first,)
