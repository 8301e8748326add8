"""Reading LiteLLM's router_settings: what each name becomes, and the refusal of what cannot be honoured."""

from collections.abc import Sequence
from typing import Any

import pytest

from gateway.protocol.json.types import Json
from gateway.protocol.timeouts import NO_TIMEOUTS, Timeouts
from gateway.routing.load import DeploymentLoad
from gateway.routing.read_settings import read_settings
from gateway.routing.request import RoutingRequest
from gateway.routing.settings import DEFAULT_SETTINGS, Hedging
from gateway.routing.strategy import Strategy
from gateway.routing.target_group import TargetGroup
from gateway.routing.view import NoState
from tests.fakes.memory import target


def test_time_limits_are_read_for_the_installation_and_by_group() -> None:
    settings, problems = read_settings(
        {
            "timeout": 30,
            "stream_idle_timeout": 5.5,
            "model_group_timeouts": {"small": {"timeout": 4, "connect_timeout": 1, "max_stream_duration": None}},
        }
    )
    assert problems == []
    assert settings.timeouts == Timeouts(timeout_s=30.0, stream_idle_timeout_s=5.5)
    assert settings.timeouts_of(("small",)) == Timeouts(timeout_s=4.0, connect_timeout_s=1.0)
    assert settings.timeouts_of(("large",)) is NO_TIMEOUTS


@pytest.mark.parametrize("value", [0, -1, True, "5", float("inf"), float("nan"), 1e9, [5]])
def test_a_time_limit_that_is_no_number_of_seconds_is_named(value: Json) -> None:
    assert [name for name, _ in read_settings({"timeout": value})[1]] == ["timeout"]
    group = {"model_group_timeouts": {"small": {"timeout": value}}}
    assert [name for name, _ in read_settings(group)[1]] == ["model_group_timeouts"]


def test_an_unknown_time_limit_of_a_group_is_named() -> None:
    [(name, message)] = read_settings({"model_group_timeouts": {"small": {"request_timeout": 4}}})[1]
    assert name == "model_group_timeouts"
    assert "request_timeout" in message
    assert "stream_idle_timeout" in message


LATENCY = {"routing_strategy": "latency-based-routing"}


class Latencies(NoState):
    def latencies_s(self, deployment_ids: Sequence[str], *, is_stream: bool) -> Sequence[float | None]:
        return [{"fast": 1.0, "slow": 1.5}[name] for name in deployment_ids]


def chosen(strategy: Strategy) -> set[str]:
    targets = TargetGroup([target("fast"), target("slow")])
    draws = (0.0, 0.99)
    return {strategy.choose(targets, RoutingRequest(), Latencies(), lambda d=d: d).deployment_id for d in draws}


def test_nothing_is_the_default() -> None:
    assert read_settings({}) == (DEFAULT_SETTINGS, [])
    assert read_settings({"routing_strategy_args": {}, "fallbacks": None}) == (DEFAULT_SETTINGS, [])


def test_the_buffer_of_the_lowest_latency_says_what_counts_as_equal() -> None:
    plain, _ = read_settings(LATENCY)
    assert chosen(plain.strategy) == {"fast"}
    wide, problems = read_settings({**LATENCY, "routing_strategy_args": {"lowest_latency_buffer": 0.5}})
    assert (chosen(wide.strategy), problems) == ({"fast", "slow"}, [])


def test_arguments_count_for_the_strategy_of_one_group_too() -> None:
    values = {
        "model_group_routing_strategy": {"g": "lowest-latency"},
        "routing_strategy_args": {"lowest_latency_buffer": 1},
    }
    settings, problems = read_settings(values)
    assert (chosen(settings.strategy_of(("g",))), problems) == ({"fast", "slow"}, [])
    assert settings.strategy is DEFAULT_SETTINGS.strategy


def test_a_latency_that_is_older_than_its_ttl_is_unknown() -> None:
    settings, problems = read_settings({**LATENCY, "routing_strategy_args": {"ttl": 10}})
    assert (settings.latency_ttl_s, problems) == (10.0, [])
    clock = [100.0]
    load = DeploymentLoad(lambda: clock[0])
    load.begin("one", 0)
    load.note_latency("one", 2.0, is_stream=True)
    clock[0] = 110.0
    assert load.latencies_s(["one"], is_stream=True, ttl_s=settings.latency_ttl_s) == [2.0]
    clock[0] = 110.1
    assert load.latencies_s(["one"], is_stream=True, ttl_s=settings.latency_ttl_s) == [None]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"routing_strategy_args": {"ttl": 10}}, "has no 'ttl' for simple-shuffle; it takes no arguments"),
        (
            {**LATENCY, "routing_strategy_args": {"max_latency_list_size": 10}},
            "has no 'max_latency_list_size' for latency-based-routing; known: lowest_latency_buffer, ttl",
        ),
        ({**LATENCY, "routing_strategy_args": {"ttl": -1}}, "must have a number from 0 to 86400 as 'ttl'"),
        ({**LATENCY, "routing_strategy_args": {"ttl": True}}, "must have a number from 0 to 86400 as 'ttl'"),
        ({**LATENCY, "routing_strategy_args": {"lowest_latency_buffer": "1"}}, "must have a number from 0 to 10 as"),
        ({**LATENCY, "routing_strategy_args": [1]}, "must be a mapping"),
    ],
)
def test_arguments_that_no_strategy_has_are_refused_by_name(values: Any, message: str) -> None:
    [(name, problem)] = read_settings(values)[1]
    assert name == "routing_strategy_args"
    assert problem.startswith(message)


def test_hedging_is_read_by_group() -> None:
    rules = {"small": {"after": "p90"}, "large": {"after": 2.5}, "*": {}}
    settings, problems = read_settings({"hedging": rules})
    assert problems == []
    assert settings.hedging_of(("small",)) == Hedging(percentile=90)
    assert settings.hedging_of(("large",)) == Hedging(after_s=2.5)
    assert settings.hedging_of(("other",)) == Hedging(percentile=95)
    assert read_settings({})[0].hedging_of(("small",)) is None


def test_recovery_is_read_by_group() -> None:
    settings, problems = read_settings({"recover": {"small": "continue", "large": "error"}})
    assert problems == []
    assert [settings.recovers((name,)) for name in ("small", "large", "other")] == [True, False, False]
    settings, _ = read_settings({"recover": {"*": "continue", "claude/*": "error"}})
    assert settings.recovers(("other",))
    assert not settings.recovers(("claude/new", "claude/*"))  # the group of a pattern
    assert not read_settings({})[0].recovers(("small",))


@pytest.mark.parametrize("way", [True, "on", "", None, ["continue"], {"mode": "continue"}])
def test_a_recovery_that_cannot_be_read_is_named(way: Json) -> None:
    [(name, problem)] = read_settings({"recover": {"small": way}})[1]
    assert (name, problem) == ("recover", "must be one of continue, error")
    assert [name for name, _ in read_settings({"recover": "continue"})[1]] == ["recover"]


@pytest.mark.parametrize(
    "rule",
    ["p95", True, {"after": "p49"}, {"after": "p100"}, {"after": 0}, {"after": True}, {"max": 2}, {"after": "2s"}],
)
def test_a_rule_of_hedging_that_cannot_be_read_is_named(rule: Json) -> None:
    assert [name for name, _ in read_settings({"hedging": {"small": rule}})[1]] == ["hedging"]
