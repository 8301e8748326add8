"""Notes of probes in the breaker: a probe that lists models tells it less than one that calls."""

import pytest

from gateway.protocol.provider import Target
from gateway.routing.breaker import Breaker, Ejection
from gateway.routing.error_class import ErrorClass
from gateway.routing.load import DeploymentLoad
from gateway.routing.probe_notes import note_probe
from gateway.routing.retry_budget import RetryBudget
from gateway.routing.walk import Routing
from tests.fakes.memory import target

NOW = 1000.0
GROUP = [target("first"), target("second")]


def routing() -> Routing:
    return Routing(Breaker(lambda: NOW, lambda: 0.5), DeploymentLoad(lambda: NOW), RetryBudget(lambda: NOW), lambda: 0)


def note(own: Routing, error: ErrorClass | None, *, is_call: bool, to: Target = GROUP[0]) -> None:
    note_probe(own, to, GROUP, error, is_call=is_call, began_s=NOW)


@pytest.mark.parametrize("is_call", [True, False])
def test_a_refused_credential_takes_the_deployment_out(is_call: bool) -> None:
    own = routing()
    note(own, ErrorClass.AUTHENTICATION, is_call=is_call)
    assert set(own.breaker.ejections) == {"first"}
    assert set(own.breaker.refused) == {"first"}


@pytest.mark.parametrize(
    ("error_class", "is_call", "is_in"),
    [
        (ErrorClass.CONNECT, False, True),
        (ErrorClass.AUTHENTICATION, False, True),
        (ErrorClass.SERVER, False, False),
        (ErrorClass.TIMEOUT, False, False),
        (ErrorClass.SERVER, True, True),
    ],
)
def test_a_success_ends_what_its_kind_can_judge(error_class: ErrorClass, is_call: bool, is_in: bool) -> None:
    own = routing()
    own.breaker.adopt("first", Ejection(error_class, NOW + 60, 1))
    note(own, None, is_call=is_call)
    assert ("first" not in own.breaker.ejections) is is_in


def test_the_last_deployment_of_a_group_stays_in() -> None:
    own = routing()
    note(own, ErrorClass.AUTHENTICATION, is_call=True)
    note(own, ErrorClass.AUTHENTICATION, is_call=True, to=GROUP[1])
    assert set(own.breaker.ejections) == {"first"}


def test_what_the_request_caused_counts_for_nothing() -> None:
    own = routing()
    for _ in range(20):
        note(own, ErrorClass.BAD_REQUEST, is_call=True)
    assert not own.breaker.ejections


def test_a_deployment_of_many_models_is_not_judged_by_one() -> None:
    own = routing()
    note(own, ErrorClass.AUTHENTICATION, is_call=True, to=target("first", pattern="openai/*"))
    assert not own.breaker.ejections
