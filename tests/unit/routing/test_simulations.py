"""Whole days of a group of deployments, played with a fake clock and failures from one seed.

Each request walks over the group as the exchange does it; an upstream answers or fails at once, as its script says.
"""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest

from gateway.protocol.error_classes import classify
from gateway.protocol.errors import Fault, UpstreamFault
from gateway.protocol.provider import Target
from gateway.routing.breaker import Breaker
from gateway.routing.load import DeploymentLoad
from gateway.routing.retry_budget import RetryBudget
from gateway.routing.settings import RoutingSettings
from gateway.routing.walk import Routing, Walk
from tests.fakes.memory import target

SEEDS = range(20)


@dataclass
class World:
    """`failing(deployment, now)` is the status of its answer; 200 is none."""

    seed: int
    group: Sequence[Target]
    failing: Callable[[str, float], int]
    settings: RoutingSettings = field(default_factory=RoutingSettings)
    now: float = 1_000_000.0
    asked: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        clock = self.clock
        self.routing = Routing(
            Breaker(clock, self.random.random),
            DeploymentLoad(clock),
            RetryBudget(clock),
            self.random.random,
            lambda: self.settings,
        )

    def clock(self) -> float:
        return self.now

    def ask(self) -> Fault | None:
        """One request; the fault that its client gets. Other requests do not wait for its waits."""
        walk = Walk(self.routing, self.group, lambda name: ())
        try:
            step = walk.first()
        except Fault as fault:
            return fault
        while True:
            fault = self.attempt(step.target)
            if fault is None:
                return None
            following = walk.after(fault)
            if following is None:
                return fault
            step = following

    def attempt(self, one: Target) -> UpstreamFault | None:
        self.asked[one.deployment_id] += 1
        self.routing.begin(one, 10)
        status = self.failing(one.deployment_id, self.now)
        self.routing.load.end(one.deployment_id, 10, 10)
        if status == 200:
            self.routing.end_well(one)
            return None
        fault = classify(status, message="no")
        self.routing.end_badly(one, fault, self.group)
        return fault


def group_of(count: int) -> tuple[Target, ...]:
    return tuple(target(f"up{number}") for number in range(count))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("status", [500, 503, 429, 401, 504])
def test_of_a_half_broken_group_no_request_fails_and_the_broken_one_is_hardly_asked(seed: int, status: int) -> None:
    world = World(seed, group_of(2), lambda name, now: status if name == "up0" else 200)
    for _ in range(10_000):
        assert world.ask() is None
        world.now += 0.01
    assert world.asked["up0"] < 100


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("count", [1, 2, 5])
def test_an_outage_of_all_is_no_storm_and_ends_within_10_seconds(seed: int, count: int) -> None:
    start, length_s = 1_000_100.0, 60.0
    world = World(seed, group_of(count), lambda name, now: 503 if start <= now < start + length_s else 200)
    while world.now < start:
        assert world.ask() is None
        world.now += 0.05
    world.now = start
    world.asked.clear()
    requests = 0
    while world.now < start + length_s:
        requests += 1
        world.ask()
        world.now += 0.05
    assert world.asked.total() <= 1.1 * requests + 3
    world.now = start + length_s + 10
    assert all(world.ask() is None for _ in range(100))
