"""Breaker: which failures take a deployment out, for how long, and how it comes back."""

from dataclasses import replace

import pytest

from gateway.routing.breaker import (
    DEFAULT_SETTINGS,
    HALF_OPEN_S,
    MAX_MODELS_OUT,
    MAX_RECORDS,
    SOUND,
    Breaker,
    BreakerSettings,
    DeploymentState,
    Ejection,
    State,
)
from gateway.routing.error_class import OF_THE_REQUEST, ErrorClass

GROUP = ("a", "b")
TIME_0 = 1000.0


class Clock:
    def __init__(self) -> None:
        self.now = TIME_0

    def __call__(self) -> float:
        return self.now


class Recorder:
    """A listener that keeps what it hears."""

    def __init__(self) -> None:
        self.ejections: list[tuple[str, Ejection | None]] = []
        self.refusals: list[tuple[str, float | None]] = []
        self.wishes: list[str] = []

    def note_ejection(self, circuit: str, ejection: Ejection | None) -> None:
        self.ejections.append((circuit, ejection))

    def note_refusal(self, deployment_id: str, since_s: float | None) -> None:
        self.refusals.append((deployment_id, since_s))

    def note_wish(self, circuit: str) -> None:
        self.wishes.append(circuit)


def recorded(breaker: Breaker) -> Recorder:
    recorder = Recorder()
    breaker.listen(recorder)
    return recorder


def make() -> tuple[Breaker, Clock, list[tuple[str, Ejection | None]]]:
    clock = Clock()
    breaker = Breaker(clock, lambda: 0.5)
    return breaker, clock, recorded(breaker).ejections


def fail(breaker: Breaker, times: int = 1, kind: ErrorClass = ErrorClass.SERVER, name: str = "a") -> None:
    for _ in range(times):
        breaker.note_failure(name, kind, GROUP)


def test_five_failures_in_a_row_take_it_out_for_five_seconds() -> None:
    breaker, clock, changed = make()
    fail(breaker, 4)
    assert breaker.out_reason("a") == ""
    fail(breaker)
    assert breaker.out_reason("a") == "cooling down after server errors, 5 s left"
    assert breaker.out_reason("b") == ""
    clock.now += 5
    assert breaker.out_reason("a") == ""
    assert [name for name, _ in changed] == ["a"]


def test_a_success_between_begins_the_count_anew() -> None:
    breaker, _, _ = make()
    for _ in range(3):
        fail(breaker, 4)
        breaker.note_success("a")
    assert not breaker.ejections


def test_half_of_twenty_calls_within_30_seconds_take_it_out() -> None:
    breaker, clock, _ = make()
    for turn in range(10):
        breaker.note_success("a")
        clock.now += 1
        assert not breaker.ejections, turn
        fail(breaker)
    assert "a" in breaker.ejections


def test_failures_of_long_ago_do_not_count() -> None:
    breaker, clock, _ = make()
    for _ in range(30):
        breaker.note_success("a")
        fail(breaker)
        clock.now += 4  # 8 of both within 30 seconds
    assert not breaker.ejections


@pytest.mark.parametrize("kind", [ErrorClass.RATE_LIMIT, ErrorClass.QUOTA, ErrorClass.AUTHENTICATION])
def test_one_failure_is_enough_where_the_next_call_would_end_the_same_way(kind: ErrorClass) -> None:
    breaker, _, _ = make()
    fail(breaker, kind=kind)
    assert breaker.ejections["a"].error_class is kind


@pytest.mark.parametrize("kind", sorted(OF_THE_REQUEST))
def test_what_the_request_causes_is_no_failure(kind: ErrorClass) -> None:
    breaker, _, _ = make()
    fail(breaker, 100, kind)
    assert not breaker.ejections


def test_classes_are_counted_apart() -> None:
    breaker, _, _ = make()
    for _ in range(4):
        fail(breaker, kind=ErrorClass.SERVER)
        fail(breaker, kind=ErrorClass.TIMEOUT)
    assert not breaker.ejections


@pytest.mark.parametrize("siblings", [(), ("a",)])
def test_the_only_deployment_of_a_group_stays(siblings: tuple[str, ...]) -> None:
    breaker, _, _ = make()
    for _ in range(100):
        breaker.note_failure("a", ErrorClass.AUTHENTICATION, siblings)
    assert not breaker.ejections


def test_the_last_one_that_is_not_out_stays() -> None:
    breaker, _, _ = make()
    fail(breaker, 5, name="b")
    fail(breaker, 100)
    assert set(breaker.ejections) == {"b"}


def test_a_half_open_one_gets_one_call_at_a_time() -> None:
    breaker, clock, _ = make()
    fail(breaker, 5)
    clock.now += 5
    assert breaker.out_reason("a") == ""
    breaker.begin("a")
    assert breaker.out_reason("a") == "being probed"
    breaker.note_other_end("a")
    assert breaker.out_reason("a") == ""
    breaker.begin("a")
    clock.now += 1000
    assert breaker.out_reason("a") == "", "the end of the probe was never told"


def test_a_probe_that_succeeds_ends_it_and_one_that_fails_doubles_it() -> None:
    breaker, clock, changed = make()
    fail(breaker, 5)
    lengths = []
    for _ in range(8):
        clock.now = breaker.ejections["a"].until_s
        breaker.begin("a")
        fail(breaker)
        lengths.append(breaker.ejections["a"].until_s - clock.now)
    assert lengths == [10, 20, 40, 80, 160, 300, 300, 300]
    clock.now = breaker.ejections["a"].until_s
    breaker.begin("a")
    breaker.note_success("a")
    assert not breaker.ejections
    assert changed[-1] == ("a", None)


def test_after_a_long_good_time_it_begins_with_the_shortest_again() -> None:
    breaker, clock, _ = make()
    fail(breaker, 5)
    clock.now += 5
    breaker.note_success("a")
    clock.now += DEFAULT_SETTINGS.longest_ejection_s
    fail(breaker, 5)
    assert breaker.ejections["a"].until_s == clock.now + 5


def test_the_upstreams_own_wait_is_kept() -> None:
    breaker, clock, _ = make()
    breaker.note_failure("a", ErrorClass.RATE_LIMIT, GROUP, wait_s=42.0)
    assert breaker.ejections["a"].until_s == clock.now + 42


def test_allowed_fails_stand_in_for_the_other_rules() -> None:
    breaker, clock, _ = make()
    settings = BreakerSettings(allowed_fails={ErrorClass.SERVER: 7})
    for _ in range(7):
        breaker.note_failure("a", ErrorClass.SERVER, GROUP, settings=settings)
        clock.now += 3
    assert not breaker.ejections
    breaker.note_failure("a", ErrorClass.SERVER, GROUP, settings=settings)
    assert "a" in breaker.ejections


def test_cooldowns_can_be_switched_off() -> None:
    breaker, _, _ = make()
    for _ in range(100):
        breaker.note_failure("a", ErrorClass.SERVER, GROUP, settings=BreakerSettings(is_disabled=True))
    assert not breaker.ejections


def test_what_another_process_decided_is_taken_over() -> None:
    breaker, clock, changed = make()
    breaker.adopt("a", Ejection(ErrorClass.SERVER, clock.now + 20, 3))
    assert breaker.out_reason("a") == "cooling down after server errors, 20 s left"
    breaker.adopt("a", Ejection(ErrorClass.SERVER, clock.now + 10, 1))
    assert breaker.ejections["a"].number == 3
    breaker.adopt("a", None)
    assert not breaker.ejections
    assert changed == [], "what was heard is not told again"


def test_a_changed_deployment_begins_anew() -> None:
    breaker, _, changed = make()
    fail(breaker, 5)
    breaker.forget(["a", "unknown"])
    assert not breaker.ejections
    assert changed[-1] == ("a", None)
    fail(breaker, 4)
    assert not breaker.ejections


def test_ejections_differ_by_a_fifth_so_that_replicas_do_not_probe_together() -> None:
    for point, length_s in ((0.0, 4.0), (0.5, 5.0), (0.999999, 6.0)):
        clock = Clock()
        breaker = Breaker(clock, lambda point=point: point)  # type: ignore[misc]
        fail(breaker, 5)
        assert breaker.ejections["a"].until_s - clock.now == pytest.approx(length_s, abs=0.001)


def test_the_calls_that_ran_when_a_deployment_was_taken_out_do_not_take_it_out_again() -> None:
    """Else fifty calls that fail together would keep it out for five minutes."""
    breaker, clock, changed = make()
    fail(breaker, 50)
    assert breaker.ejections["a"].number == 1
    clock.now += 5
    for _ in range(10):
        breaker.note_failure("a", ErrorClass.TIMEOUT, GROUP, began_s=clock.now - 6)
        breaker.note_success("a", began_s=clock.now - 6)
    assert len(changed) == 1
    assert breaker.out_reason("a") == ""


def test_a_wait_that_a_late_failure_asks_for_makes_an_ejection_longer() -> None:
    breaker, clock, _ = make()
    fail(breaker, 5)
    breaker.note_failure("a", ErrorClass.RATE_LIMIT, GROUP, wait_s=60.0, began_s=clock.now - 1)
    assert breaker.ejections["a"] == Ejection(ErrorClass.SERVER, clock.now + 60, 1)


def test_a_deployment_that_is_half_open_is_not_the_healthy_one_of_its_group() -> None:
    """It takes one call at a time: the others would have no deployment."""
    breaker, clock, _ = make()
    fail(breaker, 5, name="a")
    clock.now += 6
    fail(breaker, 5, name="b")
    assert set(breaker.ejections) == {"a"}


def test_a_deployment_that_no_call_has_tried_for_long_is_in_again() -> None:
    breaker, clock, _ = make()
    fail(breaker, 5)
    clock.now = breaker.ejections["a"].until_s + HALF_OPEN_S
    assert breaker.out() == {}
    assert set(breaker.ejections) == {"a"}
    clock.now += 1
    assert breaker.out() == {}
    assert not breaker.ejections


def test_an_ejection_that_comes_back_from_the_others_leaves_a_probe_alone() -> None:
    """Each reading of the clocks differs by some milliseconds."""
    breaker, clock, _ = make()
    fail(breaker, 5)
    ejection = breaker.ejections["a"]
    clock.now += 6
    breaker.begin("a")
    breaker.adopt("a", replace(ejection, until_s=ejection.until_s + 0.01))
    assert breaker.out_reason("a") == "being probed"


# Refused credentials


@pytest.mark.parametrize("siblings", [GROUP, ("a",)])
def test_a_refused_credential_marks_the_deployment_until_a_call_succeeds(siblings: tuple[str, ...]) -> None:
    """Also the only one of its group, which is never out."""
    breaker, clock, _ = make()
    heard, began_s = recorded(breaker).refusals, clock.now
    clock.now += 1
    refused_s = clock.now
    for _ in range(3):
        breaker.note_failure("a", ErrorClass.AUTHENTICATION, siblings)
        clock.now += 10
    assert breaker.refused == {"a": refused_s}
    fail(breaker, 3)
    breaker.note_success("a", began_s=began_s)
    assert breaker.refused, "this call was admitted before"
    breaker.note_success("a")
    assert not breaker.refused
    assert heard == [("a", refused_s), ("a", None)]


def test_a_change_of_a_deployment_takes_the_mark_away() -> None:
    breaker, clock, _ = make()
    heard = recorded(breaker).refusals
    fail(breaker, kind=ErrorClass.AUTHENTICATION)
    breaker.forget(["a", "b"])
    assert not breaker.refused
    assert heard == [("a", clock.now), ("a", None)]


def test_a_switched_off_breaker_marks_refused_credentials() -> None:
    breaker, _, _ = make()
    breaker.note_failure("a", ErrorClass.AUTHENTICATION, GROUP, settings=BreakerSettings(is_disabled=True))
    assert set(breaker.refused) == {"a"}
    assert not breaker.ejections


# Probes that processes take turns with


def test_a_process_without_the_lease_sends_no_probe_and_says_that_it_would() -> None:
    breaker, clock, _ = make()
    wishes = recorded(breaker).wishes
    fail(breaker, 5)
    breaker.lease_probes({})
    breaker.wish_probe("a")
    assert wishes == [], "it is out"
    clock.now += 6
    assert breaker.out_reason("a") == "to be probed by one process at a time"
    breaker.wish_probe("a")
    breaker.wish_probe("b")
    assert wishes == ["a"]
    breaker.begin("a")
    assert not breaker.is_probed("a"), "this call is the last resort of its group"
    breaker.lease_probes({"a": clock.now + 5})
    assert breaker.out_reason("a") == ""
    breaker.begin("a")
    assert breaker.is_probed("a")
    breaker.note_other_end("a")
    clock.now += 5
    assert breaker.out_reason("a") == "to be probed by one process at a time"
    breaker.lease_probes(None)
    assert breaker.out_reason("a") == ""


# States


def test_the_states_tell_who_is_out_and_why() -> None:
    breaker, clock, _ = make()
    breaker.note_success("fine")
    fail(breaker, 5)
    fail(breaker, 2, ErrorClass.TIMEOUT, name="b")
    breaker.adopt_refusal("c", 7.0)
    states = breaker.states()
    ejection = breaker.ejections["a"]
    assert states == {
        "fine": SOUND,
        "a": DeploymentState(State.OUT, ejection, None, (ErrorClass.SERVER, clock.now)),
        "b": DeploymentState(State.IN, None, None, (ErrorClass.TIMEOUT, clock.now)),
        "c": DeploymentState(State.IN, None, 7.0),
    }
    clock.now = ejection.until_s
    assert breaker.states()["a"].state is State.HALF_OPEN
    breaker.retain({"fine"})
    assert breaker.states() == {"fine": SOUND}


# Deployments that serve many models


def test_the_models_of_one_deployment_cool_down_by_themselves() -> None:
    breaker, clock, _ = make()
    recorder = recorded(breaker)
    pair = ("d\nslow", "e\nslow")
    for _ in range(5):
        breaker.note_failure("d\nslow", ErrorClass.SERVER, pair)
    breaker.note_failure("d\nfast", ErrorClass.AUTHENTICATION, ("d\nfast",))
    assert set(breaker.out()) == {"d\nslow"}
    assert breaker.refused == {"d": clock.now}, "the credential is that of the deployment"
    state = breaker.state_of("d")
    assert breaker.states() == {"d": state}
    assert (state.state, state.models) == (State.IN, {"slow": breaker.ejections["d\nslow"]})
    breaker.note_success("d\nother")
    assert not breaker.refused
    breaker.forget(["d"])
    assert not breaker.ejections
    assert [circuit for circuit, _ in recorder.ejections] == ["d\nslow"] * 2


def test_the_models_that_callers_name_do_not_fill_the_memory() -> None:
    breaker, _, _ = make()
    fail(breaker, 5)
    for number in range(2 * MAX_RECORDS):
        breaker.note_success(f"d\n{number}")
    assert len(breaker.states()) <= 2
    assert len(breaker._records) <= MAX_RECORDS
    assert "a" in breaker._records, "it is out"
    for number in range(2 * MAX_MODELS_OUT):
        names = (f"d\n{number}", f"e\n{number}")
        for _ in range(5):
            breaker.note_failure(names[0], ErrorClass.SERVER, names)
    assert len(breaker.ejections) == MAX_MODELS_OUT + 1
    fail(breaker, 5, name="c")
    assert "c" in breaker.ejections, "a deployment has its place"
    breaker.retain({"a"})
    assert set(breaker.ejections) == {"a"}
    fail(breaker, 1, ErrorClass.RATE_LIMIT, name="d\n1")
    assert "d\n1" in breaker.ejections


# The list that each request reads


def test_the_list_of_what_is_out_follows_each_change_at_once() -> None:
    breaker, clock, _ = make()
    assert breaker.out() == {}
    fail(breaker, 5)
    assert breaker.out() == {"a": "is cooling down after server errors, 5 s left"}
    assert breaker.out() is breaker.out()
    clock.now += 1
    assert breaker.out() == {"a": "is cooling down after server errors, 4 s left"}
    clock.now += 4
    assert breaker.out() == {}
    breaker.begin("a")
    assert breaker.out() == {"a": "is being probed"}
    breaker.note_other_end("a")
    assert breaker.out() == {}
    breaker.lease_probes({})
    assert breaker.out() == {"a": "is to be probed by one process at a time"}
    breaker.lease_probes({"a": clock.now + 0.1})
    assert breaker.out() == {}
    clock.now += 0.1
    assert breaker.out() == {"a": "is to be probed by one process at a time"}
    breaker.adopt("a", None)
    assert breaker.out() == {}
