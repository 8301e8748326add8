"""The explanation of a plan agrees with the plan, names every deployment once, and changes nothing."""

import random
from dataclasses import replace

import pytest

from gateway.protocol.provider import RankingPrices, Target
from gateway.routing.explanation import MOST_PLACES, Candidate, explain_plan
from gateway.routing.registry import STRATEGIES
from gateway.routing.request import RoutingRequest
from gateway.routing.router import make_plan
from gateway.routing.settings import RoutingSettings
from tests.fakes.memory import target
from tests.unit.routing.test_strategies import State


class Known(State):
    """A state in which some deployments are out."""

    def __init__(self, reasons: dict[str, str], **figures: dict[str, float]) -> None:
        super().__init__(**figures)  # type: ignore[arg-type]
        self.reasons = reasons

    def out(self) -> dict[str, str]:
        return self.reasons


def random_case(rng: random.Random) -> tuple[list[Target], RoutingRequest, RoutingSettings, Known]:
    """A group, a request, settings and a state in which anything may be the case."""
    abilities = frozenset({"tools", "vision"})
    group = [
        target(
            f"up{number}",
            weight=rng.choice([0, 1, 2.5]),
            order=rng.choice([0, 0, 1, 2]),
            tags=frozenset(rng.sample(["a", "b", "default"], rng.randint(0, 2))),
            region=rng.choice(["", "eu"]),
            abilities=frozenset(rng.sample(sorted(abilities), rng.randint(1, 2))),
            max_input_tokens=rng.choice([None, 100, 1000]),
            prices=rng.choice([None, RankingPrices(1.0, 0.5, 2.0), RankingPrices(3.0, 1.0, 9.0)]),
            tpm=rng.choice([None, 1000]),
        )
        for number in range(rng.choice([1, 2, 5, MOST_PLACES + 10]))
    ]
    group.sort(key=lambda one: one.order)
    names = [one.deployment_id for one in group]
    request = RoutingRequest(
        input_tokens=rng.choice([0, 10, 500]),
        needs=frozenset(rng.sample(sorted(abilities), rng.randint(0, 2))) if rng.random() < 0.3 else frozenset(),
        tags=frozenset(rng.sample(["a", "b", "c"], rng.randint(0, 2))),
        region=rng.choice(["", "", "", "eu"]),
        session=rng.choice(["", "one"]),
        preferred=rng.choice(["", *names]),
        is_stream=rng.random() < 0.5,
    )
    settings = RoutingSettings(strategy=STRATEGIES[rng.choice(sorted(STRATEGIES))], has_tags=rng.random() < 0.5)
    view = Known(
        {name: "is out" for name in names if rng.random() < 0.2},
        calls={name: rng.randint(0, 3) for name in names},  # type: ignore[dict-item]
        latencies={name: rng.random() for name in names if rng.random() < 0.8},
        tokens={name: rng.randint(0, 900) for name in names},  # type: ignore[dict-item]
    )
    return group, request, settings, view


@pytest.mark.parametrize("seed", range(300))
def test_the_explanation_is_the_plan_with_reasons(seed: int) -> None:
    group, request, settings, view = random_case(random.Random(seed))
    plan = make_plan(group, random.Random(seed).random, request, settings=settings, view=view)
    candidates = explain_plan(group, random.Random(seed).random, request, settings=settings, view=view)
    assert sorted(one.target.deployment_id for one in candidates) == sorted(one.deployment_id for one in group)
    placed = [one for one in candidates if one.place is not None]
    assert [one.place for one in placed] == list(range(1, len(placed) + 1))
    assert [one.target for one in placed[: len(plan.targets)]] == list(plan.targets)
    assert candidates[: len(placed)] == tuple(placed)
    assert {(one.target.deployment_id, one.reason, one.is_for_now) for one in candidates if one.is_dropped} == {
        (drop.target.deployment_id, drop.reason, drop.is_for_now) for drop in plan.dropped
    }
    assert all(one.reason for one in candidates if one.is_dropped)
    behind = [one for one in candidates if one.place is None and not one.is_dropped]
    assert len(placed) == MOST_PLACES or not behind


@pytest.mark.parametrize(
    ("name", "figure"),
    [
        ("simple-shuffle", "is drawn for 25.0% of the calls"),
        ("least-busy", "has 2 running calls at weight 1"),
        ("latency-based-routing", "answers in 0.25 s, with 2 running calls"),
        ("cost-based-routing", "ranks by $0.00000015"),
        ("usage-based-routing", "has used 1,200 tokens in the last minute, of 60,000"),
        ("sticky", "is drawn by weight, as the call names no session"),
    ],
)
def test_each_strategy_tells_the_figure_that_it_compares(name: str, figure: str) -> None:
    one = target("one", weight=1, tpm=60_000, prices=RankingPrices(1000.0, 500.0, 2000.0))
    two = target("two", weight=3)
    view = State(calls={"one": 2}, latencies={"one": 0.25}, tokens={"one": 1200})
    candidates = explain_plan(
        [one, two],
        lambda: 0.0,
        RoutingRequest(input_tokens=100),
        settings=RoutingSettings(strategy=STRATEGIES[name]),
        view=view,
    )
    assert figures(candidates)["one"] == figure
    assert figures(candidates)["two"]


def figures(candidates: tuple[Candidate, ...]) -> dict[str, str]:
    return {one.target.deployment_id: one.figure for one in candidates}


def test_a_deployment_that_stands_alone_in_its_order_has_no_figure_but_its_order() -> None:
    first, second = target("first", order=1), target("second", order=3)
    candidates = explain_plan([first, second], lambda: 0.0)
    assert [(one.place, one.reason, one.figure) for one in candidates] == [
        (1, "", ""),
        (2, "has order 3, after those of order 1", ""),
    ]


def test_the_deployment_of_the_conversation_says_why_it_is_first() -> None:
    group = [target(f"up{number}") for number in range(3)]
    candidates = explain_plan(group, lambda: 0.0, RoutingRequest(preferred="up2"))
    assert candidates[0] == Candidate(group[2], 1, reason="answered the conversation before")
    assert candidates[1].figure == "is drawn for 50.0% of the calls"


def test_a_session_has_scores_that_rank_as_the_choice_does() -> None:
    group = [target(f"up{number}") for number in range(5)]
    settings = RoutingSettings(strategy=STRATEGIES["sticky"])
    candidates = explain_plan(group, lambda: 0.0, RoutingRequest(session="s"), settings=settings)
    scores = [float(one.figure.split()[3]) for one in candidates]
    assert scores == sorted(scores, reverse=True)


def test_an_unknown_latency_and_a_missing_price_are_told() -> None:
    group = [target("one"), replace(target("two"), prices=RankingPrices(1.0, 1.0, 1.0))]
    for name, text in (("latency-based-routing", "has no latency yet"), ("cost-based-routing", "has no price")):
        settings = RoutingSettings(strategy=STRATEGIES[name])
        assert figures(explain_plan(group, lambda: 0.0, settings=settings))["one"].startswith(text)
