"""router_settings become RoutingSettings; what cannot be used is named."""

import pytest

from gateway.protocol.json.types import Json
from gateway.protocol.timeouts import NO_TIMEOUTS, Timeouts
from gateway.routing.read_settings import read_settings


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
