"""The strategies: what each prefers, how calls are spread, and what one that is lost moves."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from gateway.protocol.provider import RankingPrices
from gateway.routing.registry import STRATEGIES
from gateway.routing.request import RoutingRequest
from gateway.routing.target_group import TargetGroup
from gateway.routing.view import NoState
from tests.fakes.memory import target

LITELLM = (
    "simple-shuffle",
    "least-busy",
    "latency-based-routing",
    "usage-based-routing",
    "usage-based-routing-v2",
    "cost-based-routing",
)


@dataclass
class State(NoState):
    """A RoutingView with these figures by deployment."""

    calls: dict[str, int] = field(default_factory=dict)
    latencies: dict[str, float] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)
    cached: dict[str, float] = field(default_factory=dict)

    def running(self, deployment_ids: Sequence[str]) -> Sequence[int]:
        return [self.calls.get(name, 0) for name in deployment_ids]

    def latencies_s(self, deployment_ids: Sequence[str], *, is_stream: bool) -> Sequence[float | None]:
        return [self.latencies.get(name) for name in deployment_ids]

    def used_tokens(self, deployment_ids: Sequence[str]) -> Sequence[float]:
        return [self.tokens.get(name, 0) for name in deployment_ids]

    def cached_shares(self, deployment_ids: Sequence[str]) -> Sequence[float]:
        return [self.cached.get(name, 0.0) for name in deployment_ids]


def group(count: int, **changes: object) -> TargetGroup:
    return TargetGroup(target(f"up{number}", **changes) for number in range(count))


def spread(
    name: str, targets: TargetGroup, state: NoState, calls: int = 2000, request: RoutingRequest | None = None
) -> Counter[str]:
    rng = random.Random(5)
    strategy = STRATEGIES[name]
    return Counter(
        strategy.choose(targets, request or RoutingRequest(input_tokens=100), state, rng.random).deployment_id
        for _ in range(calls)
    )


@pytest.mark.parametrize("name", LITELLM)
def test_the_names_of_litellm_are_known(name: str) -> None:
    assert name in STRATEGIES


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_equal_deployments_get_equal_shares(name: str) -> None:
    prices = RankingPrices(1.0, 0.5, 2.0)
    counts = spread(name, group(4, prices=prices), NoState(), calls=4000)
    assert all(counts[f"up{number}"] == pytest.approx(1000, abs=150) for number in range(4))


@pytest.mark.parametrize("name", sorted(STRATEGIES))
@pytest.mark.parametrize("point", [0.0, 0.5, 1 - 2**-53])
def test_any_draw_chooses_one(name: str, point: float) -> None:
    for weights in ([1, 1, 1], [0, 0, 0], [0.1, 0.0, 5.0]):
        targets = TargetGroup(target(f"up{number}", weight=weight) for number, weight in enumerate(weights))
        chosen = STRATEGIES[name].choose(targets, RoutingRequest(), NoState(), lambda: point)
        assert any(chosen is one for one in targets)


def test_least_busy_counts_running_calls_by_weight() -> None:
    assert spread("least-busy", group(3), State(calls={"up0": 2, "up1": 1, "up2": 5})) == {"up1": 2000}
    weighted = TargetGroup([target("up0", weight=1), target("up1", weight=10)])
    assert spread("least-busy", weighted, State(calls={"up0": 1, "up1": 5})) == {"up1": 2000}


def test_the_fastest_is_preferred_and_those_near_it_share_its_calls() -> None:
    state = State(latencies={"up0": 1.0, "up1": 1.05, "up2": 2.0})
    counts = spread("latency-based-routing", group(3), state)
    assert counts["up2"] == 0
    assert counts["up0"] == pytest.approx(1000, abs=150)
    busy = State(latencies={"up0": 1.0, "up1": 3.0}, calls={"up0": 9})
    assert spread("latency-based-routing", group(2), busy) == {"up1": 2000}


def test_a_latency_that_is_unknown_is_learned_by_one_call() -> None:
    assert spread("latency-based-routing", group(2), State(latencies={"up0": 0.1})) == {"up1": 2000}
    asked = State(latencies={"up0": 0.1}, calls={"up1": 1})
    assert spread("latency-based-routing", group(2), asked) == {"up0": 2000}


def test_the_cheapest_is_preferred_and_its_lost_cache_is_a_cost() -> None:
    dear, cheap = RankingPrices(10.0, 1.0, 10.0), RankingPrices(8.0, 8.0, 8.0)
    targets = TargetGroup([target("dear", prices=dear), target("cheap", prices=cheap), target("unpriced")])
    assert spread("cost-based-routing", targets, State()) == {"cheap": 2000}
    warm = State(cached={"dear": 0.9})
    in_session = RoutingRequest(input_tokens=100, session="s", preferred="dear")
    assert spread("cost-based-routing", targets, warm, request=in_session) == {"dear": 2000}
    new_session = RoutingRequest(input_tokens=100, session="t")
    assert spread("cost-based-routing", targets, warm, request=new_session) == {"cheap": 2000}


def test_usage_is_a_share_of_the_limit() -> None:
    targets = TargetGroup([target("up0", tpm=1000), target("up1", tpm=100)])
    assert spread("usage-based-routing", targets, State(tokens={"up0": 400, "up1": 50})) == {"up0": 2000}


def sessions(targets: TargetGroup) -> dict[str, str]:
    strategy = STRATEGIES["sticky"]
    return {
        str(number): strategy.choose(targets, RoutingRequest(session=str(number)), NoState(), lambda: 0.0).deployment_id
        for number in range(3000)
    }


def test_a_session_stays_and_a_lost_deployment_moves_its_own_alone() -> None:
    targets = TargetGroup([target("up0"), target("up1", weight=2), target("up2")])
    before = sessions(targets)
    assert before == sessions(TargetGroup(reversed(targets)))
    counts = Counter(before.values())
    assert counts["up1"] == pytest.approx(1500, abs=150)
    after = sessions(TargetGroup(targets[:2]))
    assert all(after[session] == place for session, place in before.items() if place != "up2")
