"""The routing that a spend log keeps: nothing for the common success, bounded for the rest, and read back."""

from dataclasses import replace

import pytest

from billing.attempt_routing import MAX_DROPPED, MAX_TEXT, AttemptRouting, LeftOut, read_routing, routing_text
from gateway.pipeline.ports import Attempt
from gateway.routing.filters import Dropped
from gateway.routing.walk import Step, StepReason
from tests.fakes.memory import target
from tests.unit.billing.test_ledger import attempt

CHOSEN = target("chosen")


def tried(step: Step, **fields: object) -> Attempt:
    return attempt(step=step, **fields)


def dropped(count: int, reason: str = "is out", **changes: object) -> tuple[Dropped, ...]:
    return tuple(Dropped(target(f"up{number}", **changes), reason) for number in range(count))


def test_a_first_attempt_that_succeeds_costs_nothing() -> None:
    assert routing_text(tried(Step(CHOSEN, [CHOSEN]))) == ""
    assert routing_text(attempt()) == ""


def test_what_is_written_is_read() -> None:
    step = Step(CHOSEN, [CHOSEN], StepReason.SAME_DEPLOYMENT, 0.45678, dropped(1))
    text = routing_text(tried(step, number=2, error_class="rate_limit", upstream_status=429))
    assert read_routing(text) == AttemptRouting(
        "same_deployment", 0.457, "rate_limit", 429, (LeftOut("up0", f"{CHOSEN.provider.name}/private", "is out"),)
    )


def test_a_choice_among_what_others_left_is_told_of_a_success_too() -> None:
    assert read_routing(routing_text(tried(Step(CHOSEN, [CHOSEN], dropped=dropped(2))))).reason == "first"


@pytest.mark.parametrize("count", [1, MAX_DROPPED, MAX_DROPPED + 1, 5000])
@pytest.mark.parametrize("length", [1, 80, 10_000])
def test_a_group_of_any_size_fits(count: int, length: int) -> None:
    many = dropped(count, "é" * length, upstream_model="模" * length)
    text = routing_text(tried(Step(CHOSEN, [CHOSEN], dropped=many)))
    assert len(text.encode()) <= MAX_TEXT
    routing = read_routing(text)
    assert len(routing.left_out) + routing.more == count
    assert len(routing.left_out) >= 1


def test_a_name_that_is_no_text_does_not_keep_the_row_from_being_closed() -> None:
    odd = Dropped(replace(target("odd"), upstream_model="\ud800"), "is out")
    assert routing_text(tried(Step(CHOSEN, [CHOSEN], dropped=(odd,)))) == ""


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"wait_s": "x"}', '{"dropped": [{"id": 1}]}', '{"dropped": 7}']
)
def test_a_text_that_is_none_is_an_empty_routing(text: str) -> None:
    assert read_routing(text) == AttemptRouting()
