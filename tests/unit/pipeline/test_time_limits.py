"""The time limits of a request: the client's headers, and the shortest of all that apply."""

from math import inf

import pytest

from gateway.pipeline.time_limits import (
    DEADLINE_HEADERS,
    LONGEST_S,
    UNHURRIED,
    AttemptLimits,
    ClientTime,
    limit_attempt,
    read_client_time,
)
from gateway.protocol.errors import BadRequest
from gateway.protocol.timeouts import Timeouts

NOW = 1_800_000_000.0  # 2027-01-15T08:00:00Z
DEFAULTS = Timeouts(timeout_s=600.0, stream_idle_timeout_s=60.0, max_stream_duration_s=3600.0)


@pytest.mark.parametrize(
    ("headers", "left_s"),
    [
        ({"grpc-timeout": "5S"}, 5),
        ({"grpc-timeout": "1H"}, 3600),
        ({"grpc-timeout": "250m"}, 0.25),
        ({"grpc-timeout": "99999999H"}, LONGEST_S),
        ({"x-envoy-expected-rq-timeout-ms": "1500"}, 1.5),
        ({"x-envoy-expected-rq-timeout-ms": "9" * 20}, LONGEST_S),
        ({"x-request-deadline": "2027-01-15T08:00:09Z"}, 9),
        ({"x-request-deadline": "2027-01-15T09:00:00.5+01:00"}, 0.5),
        ({"x-request-deadline": "2027-01-15T07:59:00Z"}, -60),
        ({"x-request-deadline": "9999-01-01T00:00:00Z"}, LONGEST_S),
        ({"grpc-timeout": "5S", "x-envoy-expected-rq-timeout-ms": "1500"}, 1.5),
        ({}, inf),
    ],
)
def test_a_deadline_is_read(headers: dict[str, str], left_s: float) -> None:
    time = read_client_time({name.encode(): value.encode() for name, value in headers.items()}, None, NOW)
    assert time.left_s(NOW) == pytest.approx(left_s)


@pytest.mark.parametrize("name", sorted(DEADLINE_HEADERS))
@pytest.mark.parametrize(
    "value",
    [
        *(b"", b"0", b"0S", b"-1", b"-1S", b"nan", b"inf", b"1e999", b"1e999S", b"5s", b"5", b"soon", b"\xff"),
        *(b"9" * 10_000, b"123456789S", b"\xd9\xa3S", b"2027-01-15T08:00:09", b"2027-13-01T00:00:00Z", b"5S,6S"),
        b"2027-01-15T08:00:09.%s+05:30" % (b"0" * 18),
    ],
)
def test_a_deadline_that_cannot_be_read_is_refused_by_the_name_of_its_header(name: bytes, value: bytes) -> None:
    if name == b"x-envoy-expected-rq-timeout-ms" and value == b"5":
        return
    with pytest.raises(BadRequest) as refused:
        read_client_time({name: value}, None, NOW)
    assert refused.value.param == name.decode()
    assert len(refused.value.message) < 200


def test_a_time_for_the_answer_is_none_for_the_end_of_its_stream() -> None:
    assert read_client_time({b"grpc-timeout": b"9S"}, 4.0, NOW) == ClientTime(NOW + 4, NOW + 9)
    assert read_client_time({}, 4.0, NOW) == ClientTime(NOW + 4, inf)


def limits(*own: Timeouts, client: ClientTime = UNHURRIED, is_stream: bool = True) -> AttemptLimits:
    return limit_attempt(own, DEFAULTS, client, NOW, is_stream=is_stream)


def test_defaults_stand_in_for_what_a_deployment_does_not_set() -> None:
    assert limits(Timeouts()) == AttemptLimits(600, 60, 3600)
    assert limits(Timeouts(), is_stream=False) == AttemptLimits(600, 60, inf)
    own = Timeouts(900, 30, 2, 5, 7200)
    assert limits(own) == AttemptLimits(30, 5, 7200, 2)
    assert limits(own, is_stream=False) == AttemptLimits(900, 5, inf, 2)


def test_the_shortest_wins_and_the_clients_are_known() -> None:
    assert limits(Timeouts(30), client=ClientTime(NOW + 10)) == AttemptLimits(10, 60, 3600, is_first_clients=True)
    assert limits(Timeouts(30), client=ClientTime(NOW + 40)) == AttemptLimits(30, 60, 3600)
    both = limits(Timeouts(30), client=ClientTime(end_by=NOW + 10))
    assert both == AttemptLimits(10, 60, 10, is_first_clients=True, is_total_clients=True)
    later = limits(Timeouts(30), client=ClientTime(end_by=NOW + 40))
    assert later == AttemptLimits(30, 60, 40, is_total_clients=True)


def test_a_group_and_a_key_shorten_and_never_lengthen() -> None:
    own = Timeouts(timeout_s=9, connect_timeout_s=3, stream_timeout_s=5)
    group = Timeouts(timeout_s=20, connect_timeout_s=1, max_stream_duration_s=90)
    key = Timeouts(timeout_s=4)
    assert limits(own, group) == AttemptLimits(5, 60, 90, 1)
    assert limits(own, group, key) == AttemptLimits(4, 60, 90, 1)
    assert limits(own, group, key, is_stream=False) == AttemptLimits(4, 60, inf, 1)
    assert limits(Timeouts(stream_timeout_s=700), key) == AttemptLimits(4, 60, 3600)
    assert own.shortest(group) == Timeouts(9, 5, 1, None, 90)


def test_defaults_of_the_installation_replace_those_of_the_process() -> None:
    assert Timeouts(timeout_s=20).or_else(DEFAULTS) == Timeouts(20, None, None, 60, 3600)
    assert Timeouts().or_else(DEFAULTS) is DEFAULTS
