"""Walk: which attempt follows which failure, and when the client gets the failure instead."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from gateway.protocol.error_classes import classify
from gateway.protocol.errors import BadRequest, ConnectFault, Fault, RateLimited, UpstreamFault
from gateway.protocol.provider import Target
from gateway.routing.breaker import Ejection
from gateway.routing.error_class import ErrorClass
from gateway.routing.request import RoutingRequest
from gateway.routing.settings import RetryPolicy, RoutingSettings
from gateway.routing.walk import LONGEST_WAIT_S, RouteOptions, Routing, Walk
from tests.fakes import memory

DOWN = classify(503, message="down")
SLOW = UpstreamFault("slow", status=504, code="upstream_timeout", is_retryable=True)
UNREACHABLE = ConnectFault("no", is_retryable=True)
BAD = classify(400, message="bad")
TOO_LONG = classify(400, message="prompt is too long")
FILTERED = classify(400, message="no", code="content_filter")


def group(name: str, count: int, **changes: Any) -> tuple[Target, ...]:
    return tuple(memory.target(f"{name}{number}", model_group=name, **changes) for number in range(count))


def make(
    targets: Sequence[Target],
    others: Mapping[str, Sequence[Target]] | None = None,
    *,
    options: RouteOptions | None = None,
    request: RoutingRequest | None = None,
    **settings: Any,
) -> Walk:
    routing = memory.routing(clock=lambda: 1000.0, settings=RoutingSettings(**settings))
    find: Callable[[str], Sequence[Target]] = lambda name: (others or {}).get(name, ())  # noqa: E731
    return Walk(routing, targets, find, request or RoutingRequest(), options or RouteOptions())


def names(walk: Walk, *faults: UpstreamFault) -> list[str]:
    """The deployments that are asked while these failures come, until the client gets one."""
    asked = [walk.first().target.deployment_id]
    for fault in faults:
        step = walk.after(fault)
        if step is None:
            return [*asked, "fault"]
        asked.append(step.target.deployment_id)
    return asked


def test_the_others_of_the_group_come_first_then_the_groups_that_stand_in() -> None:
    walk = make(group("a", 2), {"b": group("b", 2)}, fallbacks={"a": ("b",)}, retry_policy=RetryPolicy(5))
    assert names(walk, DOWN, SLOW, UNREACHABLE) == ["a0", "a1", "b0", "b1"]


def test_three_attempts_are_the_most() -> None:
    assert names(make(group("a", 5)), DOWN, DOWN, DOWN) == ["a0", "a1", "a2", "fault"]


@pytest.mark.parametrize("fault", [DOWN, UNREACHABLE])
def test_a_lone_deployment_is_asked_once_more_after_a_wait_that_grows(fault: UpstreamFault) -> None:
    walk = make(group("a", 1))
    first = walk.first()
    waits = []
    for _ in range(2):
        step = walk.after(fault)
        assert step is not None
        assert step.target is first.target
        waits.append(step.delay_s)
    assert waits == pytest.approx([0.4, 0.8])
    assert walk.after(fault) is None


@pytest.mark.parametrize("status", [401, 404, 504])
def test_a_failure_that_would_come_again_is_not_tried_again(status: int) -> None:
    """Nor is a deployment that was silent waited for twice."""
    assert names(make(group("a", 1)), classify(status, message="")) == ["a0", "fault"]
    assert names(make(group("a", 2)), classify(status, message="")) == ["a0", "a1"]


def test_what_one_may_have_worked_on_is_not_sent_to_it_again() -> None:
    cut = UpstreamFault("cut", finish="upstream_broken", is_retryable=True)
    assert names(make(group("a", 1)), cut) == ["a0", "fault"]
    assert names(make(group("a", 2)), cut) == ["a0", "a1"]


def test_a_long_wait_is_the_clients() -> None:
    patient = replace_wait(LONGEST_WAIT_S + 1)
    assert names(make(group("a", 1)), patient) == ["a0", "fault"]
    assert names(make(group("a", 2)), patient) == ["a0", "a1"]
    step = make_after(replace_wait(3.0))
    assert step.delay_s == 3.0


def replace_wait(wait_s: float) -> UpstreamFault:
    return classify(429, message="", retry_after_s=wait_s)


def make_after(fault: UpstreamFault) -> Any:
    walk = make(group("a", 1))
    walk.first()
    return walk.after(fault)


def test_an_error_of_the_request_is_the_clients() -> None:
    walk = make(group("a", 2), {"b": group("b", 1)}, fallbacks={"*": ("b",)})
    assert names(walk, BAD) == ["a0", "fault"]


@pytest.mark.parametrize(
    ("fault", "table"), [(TOO_LONG, "context_window_fallbacks"), (FILTERED, "content_policy_fallbacks")]
)
def test_errors_of_the_request_have_fallbacks_of_their_own(fault: UpstreamFault, table: str) -> None:
    others = {"b": group("b", 1), "c": group("c", 1)}
    walk = make(group("a", 2), others, fallbacks={"a": ("c",)}, **{table: {"a": ("b",)}})
    assert names(walk, fault) == ["a0", "b0"]
    assert names(make(group("a", 2), others, fallbacks={"a": ("c",)}), fault) == ["a0", "fault"]


def test_default_fallbacks_stand_in_for_every_group_without_its_own() -> None:
    others = {"b": group("b", 1), "c": group("c", 1)}
    assert names(make(group("a", 1), others, fallbacks={"*": ("a", "b")}), DOWN) == ["a0", "b0"]
    assert names(make(group("a", 1), others, fallbacks={"*": ("b",), "a": ("c",)}), DOWN) == ["a0", "c0"]


def test_a_group_that_the_caller_may_not_call_is_passed_over() -> None:
    walk = make(group("a", 1), {"c": group("c", 1)}, fallbacks={"a": ("forbidden", "c")})
    assert names(walk, DOWN) == ["a0", "c0"]


def wild(name: str, **changes: Any) -> tuple[Target, ...]:
    """A model of the deployment of `openai/*`."""
    model = name.removeprefix("openai/")
    return (memory.target("wild", model_group=name, pattern="openai/*", upstream_model=model, **changes),)


def test_another_model_of_the_same_deployment_may_stand_in() -> None:
    others = {"openai/b": wild("openai/b"), "openai/a": wild("openai/a")}
    walk = make(wild("openai/a"), others, fallbacks={"openai/a": ("openai/b",)})
    assert walk.first().target.upstream_model == "a"
    step = walk.after(DOWN)
    assert step is not None
    assert step.target.upstream_model == "b"


def test_the_settings_of_a_name_go_before_those_of_its_pattern() -> None:
    others = {"x": group("x", 1), "y": group("y", 1), "azure/a": group("z", 1)}
    table = {"openai/*": ("x",), "openai/b": ("y",), "*": ("z",)}
    assert names(make(wild("openai/a"), others, fallbacks=table), DOWN) == ["wild", "x0"]
    assert names(make(wild("openai/b"), others, fallbacks=table), DOWN) == ["wild", "y0"]
    filled = make(wild("openai/a"), others, fallbacks={"openai/*": ("openai/*", "azure/*")})
    assert names(filled, DOWN) == ["wild", "z0"]
    policies = {"openai/*": RetryPolicy(0)}
    assert names(make(wild("openai/a"), group_retry_policies=policies), DOWN) == ["wild", "fault"]


def test_what_the_client_says_wins() -> None:
    others = {"b": group("b", 1), "c": group("c", 1)}
    named = make(group("a", 1), others, fallbacks={"a": ("b",)}, options=RouteOptions(fallbacks=("c",)))
    assert names(named, DOWN) == ["a0", "c0"]
    without = make(group("a", 2), others, fallbacks={"a": ("b",)}, options=RouteOptions(is_without_fallbacks=True))
    assert names(without, DOWN, DOWN) == ["a0", "a1", "a1"]
    assert names(make(group("a", 3), options=RouteOptions(retries=1)), DOWN, DOWN) == ["a0", "a1", "fault"]
    assert names(make(group("a", 3), options=RouteOptions(retries=0)), DOWN) == ["a0", "fault"]


def test_each_group_that_the_client_names_is_tried_once_however_few_retries_there_are() -> None:
    others = {name: group(name, 2) for name in "bcd"}
    named = RouteOptions(retries=0, fallbacks=("b", "c", "d"))
    walk = make(group("a", 2), others, options=named)
    assert names(walk, DOWN, SLOW, UNREACHABLE, DOWN) == ["a0", "b0", "c0", "d0", "fault"]
    walk = make(group("a", 1), others, options=RouteOptions(fallbacks=("b", "c")))
    assert names(walk, DOWN, DOWN, DOWN, DOWN) == ["a0", "b0", "b1", "c0", "fault"]
    assert names(make(group("a", 1), others, options=named), BAD) == ["a0", "fault"]
    without = RouteOptions(retries=0, fallbacks=("b",), is_without_fallbacks=True)
    assert names(make(group("a", 1), others, options=without), DOWN) == ["a0", "fault"]


def test_the_fallbacks_of_a_client_follow_every_error_that_has_none_of_its_own() -> None:
    others = {"b": group("b", 1), "c": group("c", 1)}
    for fault in (DOWN, TOO_LONG, FILTERED):
        named = make(group("a", 1), others, context_window_fallbacks={"a": ("c",)}, options=RouteOptions(0, ("b",)))
        assert names(named, fault) == ["a0", "b0"]
    own = RouteOptions(0, ("b",), context_window_fallbacks=("c",), content_policy_fallbacks=())
    assert names(make(group("a", 1), others, options=own), TOO_LONG) == ["a0", "c0"]
    assert names(make(group("a", 1), others, options=own), FILTERED) == ["a0", "fault"]


def test_fallbacks_that_lead_in_a_circle_end() -> None:
    circle = {"a": group("a", 1), "b": group("b", 1), "c": group("c", 1)}
    table = {"a": ("b",), "b": ("c",), "c": ("a",)}
    walk = make(circle["a"], circle, fallbacks=table, retry_policy=RetryPolicy(10))
    asked = names(walk, *[DOWN] * 12)
    assert asked[:2] == ["a0", "b0"]
    assert len(asked) <= 12
    walk = make(circle["a"], circle, options=RouteOptions(10, ("b", "a", "b")))
    assert len(names(walk, *[SLOW] * 12)) <= 4


def test_a_retry_policy_counts_by_the_class_of_the_last_error() -> None:
    policy = RetryPolicy(5, {ErrorClass.TIMEOUT: 0, ErrorClass.OVERLOADED: 2})
    assert names(make(group("a", 3), retry_policy=policy), SLOW) == ["a0", "fault"]
    assert names(make(group("a", 3), retry_policy=policy), DOWN, SLOW) == ["a0", "a1", "fault"]
    own = {"a": RetryPolicy(0)}
    assert names(make(group("a", 3), retry_policy=policy, group_retry_policies=own), DOWN) == ["a0", "fault"]


def fail_all(routing: Routing, pair: Sequence[Target], requests: int) -> int:
    """The retries of these requests, each of whose attempts fails."""
    retried = 0
    for _ in range(requests):
        walk = Walk(routing, pair, lambda name: ())
        step = walk.first()
        while step is not None:
            routing.begin(step.target, 1)
            routing.end_badly(step.target, DOWN, pair)
            step = walk.after(DOWN)
            retried += step is not None
    return retried


def test_retries_of_all_requests_share_one_budget() -> None:
    routing = memory.routing(clock=lambda: 1000.0, settings=RoutingSettings())
    assert fail_all(routing, group("a", 1), 100) in {12, 13}  # 3, and 10 % of 100, with the rounding of floats


def test_few_requests_may_all_be_tried_again() -> None:
    """One every three seconds makes no storm."""
    clock = [1000.0]
    routing = memory.routing(clock=lambda: clock[0], settings=RoutingSettings(retry_policy=RetryPolicy(1)))
    retried = 0
    for _ in range(50):
        retried += fail_all(routing, group("a", 1), 1)
        clock[0] += 3.0
    assert retried == 50


def test_a_deployment_whose_last_call_has_not_failed_is_always_asked_and_paid_for() -> None:
    routing = memory.routing(clock=lambda: 1000.0, settings=RoutingSettings())
    pair = group("a", 2)
    for _ in range(50):
        walk = Walk(routing, pair, lambda name: ())
        walk.first()
        assert walk.after(DOWN) is not None
    assert routing.budget.balance < -40


def test_a_request_that_is_too_long_takes_nothing_of_the_budget() -> None:
    """Else the long requests of one caller would leave no retries to the others."""
    others = {"b": group("b", 1)}
    routing = memory.routing(clock=lambda: 1000.0, settings=RoutingSettings(context_window_fallbacks={"a": ("b",)}))
    before = routing.budget.balance
    for _ in range(50):
        walk = Walk(routing, group("a", 1), lambda name: others.get(name, ()))
        walk.first()
        assert walk.after(TOO_LONG) is not None
    assert routing.budget.balance == before


def eject(routing: Routing, one: Target, siblings: Sequence[Target]) -> None:
    for _ in range(5):
        routing.end_badly(one, DOWN, siblings)


def test_a_deployment_that_is_out_is_not_asked_and_its_group_not_empty() -> None:
    pair = group("a", 2)
    walk = make(pair)
    eject(walk.routing, pair[0], pair)
    eject(walk.routing, pair[1], pair)
    assert names(walk, DOWN) == ["a1", "a1"]


def test_a_group_whose_last_one_another_process_has_taken_out_is_still_served() -> None:
    """Two replicas may each take out another one of two."""
    pair = group("a", 2)
    walk = make(pair)
    breaker = walk.routing.breaker
    breaker.adopt("a0", Ejection(ErrorClass.SERVER, 1020.0, 2))
    breaker.adopt("a1", Ejection(ErrorClass.SERVER, 1010.0, 1))
    assert names(walk, DOWN) == ["a1", "a1"], "the one whose time is over first, and not the other one too"
    others = {"b": group("b", 1)}
    walk = make(pair, others, fallbacks={"a": ("b",)})
    for name in ("a0", "a1"):
        walk.routing.breaker.adopt(name, Ejection(ErrorClass.SERVER, 1010.0, 1))
    assert names(walk, DOWN) == ["a0", "b0"]


def test_a_healthy_deployment_without_room_does_not_bring_back_one_that_is_out() -> None:
    pair = group("a", 2)
    walk = make(pair)
    eject(walk.routing, pair[0], pair)
    walk.routing.load.note_full("a1", 30.0)
    with pytest.raises(RateLimited):
        walk.first()


def test_a_group_that_stands_in_cools_down_too() -> None:
    others = {"b": group("b", 2)}
    clock = [1000.0]
    routing = memory.routing(clock=lambda: clock[0], settings=RoutingSettings(fallbacks={"a": ("b",)}))
    asked = []
    for _ in range(6):
        clock[0] += 3.0  # the budget of retries admits each
        walk = Walk(routing, group("a", 1), lambda name: others.get(name, ()))
        step = walk.first()
        routing.end_badly(step.target, DOWN, step.group)
        following = walk.after(DOWN)
        assert following is not None
        asked.append(following.target.deployment_id)
        routing.end_badly(following.target, DOWN, following.group)
    assert set(routing.breaker.ejections) == {"b0"}
    assert asked.count("b0") == 5


def test_where_all_are_full_the_client_is_told_when_to_come_again() -> None:
    pair = group("a", 2)
    walk = make(pair)
    for one in pair:
        walk.routing.load.note_full(one.deployment_id, 30.0)
    with pytest.raises(RateLimited, match="No deployments available") as raised:
        walk.first()
    assert raised.value.headers == ((b"retry-after", b"5"),)
    others = make(pair, {"b": group("b", 1)}, fallbacks={"a": ("b",)})
    for one in pair:
        others.routing.load.note_full(one.deployment_id, 30.0)
    assert names(others) == ["b0"]


def test_a_call_that_fits_in_no_deployment_goes_to_a_larger_group_or_is_refused_by_the_reason() -> None:
    small = group("a", 2, max_input_tokens=100)
    request = RoutingRequest(input_tokens=101)
    with pytest.raises(BadRequest, match="takes 100 input tokens, and the call has about 101"):
        make(small, request=request).first()
    walk = make(small, {"b": group("b", 1)}, request=request, context_window_fallbacks={"a": ("b",)})
    assert names(walk) == ["b0"]


def test_no_fault_is_kept_by_a_walk() -> None:
    """Its traceback refers to the frames of the request: the cycle would keep the request in memory."""
    walk = make(group("a", 2))
    walk.first()
    walk.after(DOWN)
    assert not [value for name in Walk.__slots__ if isinstance(value := getattr(walk, name), Fault)]


# Streams that broke


def goes_on(walk: Walk, *refusing: str) -> str | None:
    """The deployment that goes on after the first one failed; `refusing` take no prefill."""
    failed = walk.first().target
    step = walk.continue_stream(DOWN, failed, lambda target: target.deployment_id not in refusing)
    assert step is None or step.reason == "continuation"
    return step and step.target.deployment_id


def test_a_stream_goes_on_at_the_next_deployment_that_can() -> None:
    two = {"b": group("b", 2)}
    assert goes_on(make(group("a", 3))) == "a1"
    assert goes_on(make(group("a", 3)), "a1") == "a2"
    assert goes_on(make(group("a", 2), two, fallbacks={"a": ("b",)}), "a1", "b0") == "b1"
    assert goes_on(make(group("a", 2)), "a1") == "a0"  # the same one
    assert goes_on(make(group("a", 2)), "a0", "a1") is None


def test_a_deployment_that_was_silent_does_not_go_on() -> None:
    walk = make(group("a", 1))
    assert walk.continue_stream(SLOW, walk.first().target, lambda target: True) is None


def test_a_deployment_that_is_out_does_not_go_on() -> None:
    walk = make(group("a", 2))
    first = walk.first()
    for _ in range(5):
        walk.routing.end_badly(first.target, DOWN, first.group)
    assert walk.continue_stream(DOWN, first.target, lambda target: target is first.target) is None


def test_what_takes_the_place_of_a_continuation_takes_a_prefill_too() -> None:
    walk = make(group("a", 4))
    failed = walk.first().target
    step = walk.continue_stream(DOWN, failed, lambda target: target.deployment_id != "a2")
    assert step is not None
    assert step.target.deployment_id == "a1"
    following = walk.full()
    assert following is not None
    assert following.target.deployment_id == "a3"
    assert following.reason == "continuation"


def test_a_continuation_is_one_of_the_attempts_and_is_paid() -> None:
    assert goes_on(make(group("a", 2), options=RouteOptions(retries=0))) is None
    walk = make(group("a", 2))
    while walk.routing.budget.take(is_sound=False):
        pass
    walk.routing.end_badly(walk.targets[1], DOWN, walk.targets)
    assert goes_on(walk) is None


# Reasons, for the spend log


def test_each_attempt_says_why_it_is_made_there() -> None:
    walk = make(group("a", 2), {"b": group("b", 1)}, fallbacks={"a": ("b",)}, retry_policy=RetryPolicy(5))
    steps = [walk.first(), walk.after(DOWN), walk.after(DOWN), walk.after(DOWN)]
    assert [step and step.reason.value for step in steps] == [
        "first",
        "other_deployment",
        "fallback",
        "same_deployment",
    ]


def test_an_attempt_names_those_that_could_not_be_chosen_and_why() -> None:
    small = memory.target("small", model_group="a", max_input_tokens=1)
    walk = make((small, *group("a", 2)), request=RoutingRequest(input_tokens=5))
    walk.routing.load.note_full("a0", None)
    step = walk.first()
    assert [(drop.target.deployment_id, drop.is_for_now) for drop in step.dropped] == [("small", False), ("a0", True)]


def test_a_group_that_stands_in_names_those_of_the_groups_before() -> None:
    others = {"b": group("b", 1, max_input_tokens=1), "c": group("c", 1)}
    walk = make(
        group("a", 1, max_input_tokens=1),
        others,
        request=RoutingRequest(input_tokens=5),
        context_window_fallbacks={"a": ("b", "c")},
    )
    step = walk.first()
    assert (step.target.deployment_id, step.reason.value) == ("c0", "fallback")
    assert [drop.target.deployment_id for drop in step.dropped] == ["a0", "b0"]


def test_a_model_of_a_wildcard_that_is_out_leaves_the_others_of_its_deployment_in() -> None:
    def serving(model: str) -> tuple[Target, ...]:
        return tuple(memory.target(name, model_group=model, upstream_model=model, pattern="*") for name in ("a", "b"))

    walk = make(serving("slow"))
    eject(walk.routing, serving("slow")[0], serving("slow"))
    assert names(walk) == ["b"]
    assert names(Walk(walk.routing, serving("fast"), lambda name: ())) == ["a"]
    walk.routing.breaker.adopt("b\nslow", Ejection(ErrorClass.SERVER, 1001.0, 1))
    assert names(Walk(walk.routing, serving("slow"), lambda name: ())) == ["b"], "the last resort"
    assert walk.routing.breaker.states()["a"].models.keys() == {"slow"}
