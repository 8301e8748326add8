"""Recorder: requests, attempts and decisions become numbers, under labels that no client can choose."""

import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gateway.metrics.definitions import (
    ATTEMPTS,
    CACHE_HITS,
    COST,
    EJECTIONS,
    EXTRA_ATTEMPTS,
    FIRST_TOKEN,
    METRICS,
    REFUSALS,
    REQUEST_DURATION,
    REQUESTS,
    TOKENS,
    UPSTREAM_DURATION,
    Kind,
)
from gateway.metrics.numbers import MAX_SERIES, OTHER, Numbers, decode_numbers, encode_numbers
from gateway.metrics.recorder import STATUSES, Recorder, is_known
from gateway.pipeline.ports import Attempt, Principal
from gateway.protocol.call import Finish
from gateway.protocol.errors import BudgetExceeded, DeadlineExceeded, RateLimited, UpstreamFault
from gateway.protocol.usage import Usage
from gateway.routing.breaker import Ejection
from gateway.routing.error_class import ErrorClass
from gateway.routing.walk import Step, StepReason
from tests.fakes.memory import PRINCIPAL, chat, target


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def recorder() -> Recorder:
    return Recorder(Clock())


def attempt(**changes: Any) -> Attempt:
    fields: dict[str, Any] = {
        "id": "a",
        "request_id": "r",
        "number": 0,
        "principal": PRINCIPAL,
        "call": chat(),
        "target": target("first"),
        "started_at": 1000.0,
        "ended_at": 1002.0,
    }
    return Attempt(**(fields | changes))


def test_a_request_counts_once_by_endpoint_group_and_status() -> None:
    numbers = recorder()
    numbers.begin("r", "chat")
    assert numbers.open_requests == 1
    numbers.note_group("r", target())
    numbers.end("r", 200)
    numbers.end("r", 499)
    assert numbers.open_requests == 0
    assert numbers.numbers.counters == {(REQUESTS.name, "chat", "public", "200"): 1}
    assert sum(numbers.numbers.histograms[REQUEST_DURATION.name, "public"][:-1]) == 1


def test_a_request_that_reaches_no_group_counts_as_other_and_has_no_duration() -> None:
    numbers = recorder()
    numbers.begin("r", "chat")
    numbers.end("r", 404)
    assert numbers.numbers.counters == {(REQUESTS.name, "chat", OTHER, "404"): 1}
    assert not numbers.numbers.histograms


def test_a_wildcard_counts_under_its_pattern() -> None:
    numbers = recorder()
    numbers.begin("r", "chat")
    numbers.note_group("r", target(model_group="openai/anything", pattern="openai/*"))
    numbers.end("r", 200)
    numbers.note_attempt(attempt(target=target(model_group="openai/anything", pattern="openai/*")))
    assert (REQUESTS.name, "chat", "openai/*", "200") in numbers.numbers.counters
    assert (ATTEMPTS.name, "first", "openai/*", "ok") in numbers.numbers.counters


def test_a_stream_that_broke_off_counts_by_the_status_of_its_error() -> None:
    numbers = recorder()
    numbers.begin("r", "chat")
    numbers.note_fault("r", UpstreamFault("cut"))
    numbers.end("r", 200)
    assert numbers.numbers.counters == {(REQUESTS.name, "chat", OTHER, "502"): 1}


def test_refusals_count_by_what_refused() -> None:
    limited = RateLimited("too many")
    limited.dimension = "tokens"
    faults = [
        limited,
        RateLimited("none left", code="all_deployments_in_cooldown"),
        BudgetExceeded("spent"),
        BudgetExceeded("held", code="budget_held"),
        UpstreamFault("the provider's own limit", status=429, code="rate_limit_exceeded"),
    ]
    numbers = recorder()
    for fault in faults:
        numbers.begin("r", "chat")
        numbers.note_fault("r", fault)
        numbers.end("r", fault.status)
    refusals = {series[2]: value for series, value in numbers.numbers.counters.items() if series[0] == REFUSALS.name}
    assert refusals == {"tokens": 1, "no_deployment": 1, "budget": 1, "budget_held": 1}


def test_an_attempt_counts_its_tokens_by_kind_and_its_cost() -> None:
    numbers = recorder()
    usage = Usage(input_tokens=5, cache_read_tokens=7, output_tokens=3, reasoning_tokens=2)
    numbers.note_attempt(attempt(usage=usage, cost_pusd=1_500_000_000_000))
    counters = numbers.numbers.counters
    tokens = {series[3]: value for series, value in counters.items() if series[0] == TOKENS.name}
    assert tokens == {"input": 5, "cache_read": 7, "output": 3, "reasoning": 2}
    assert counters[COST.name, "first", "public"] == 1.5
    assert numbers.numbers.histograms[UPSTREAM_DURATION.name, "public"][-1] == 2.0


def test_outcomes_tell_the_upstreams_faults_from_the_clients_and_our_own() -> None:
    cases = {
        "ok": attempt(),
        "timeout": attempt(finish=Finish.TIMEOUT, error_class="timeout", error_code="upstream_timeout"),
        "client_left": attempt(finish=Finish.CLIENT_GONE),
        "hedge_lost": attempt(finish=Finish.CLIENT_GONE, has_lost=True),
        "client_deadline": attempt(finish=Finish.TIMEOUT, error_class="server", error_code=DeadlineExceeded.code),
        "gateway_error": attempt(finish=Finish.UPSTREAM_BROKEN, error_code="internal_error"),
    }
    for outcome, case in cases.items():
        numbers = recorder()
        numbers.note_attempt(case)
        assert numbers.numbers.counters == {(ATTEMPTS.name, "first", "public", outcome): 1}
        assert ((UPSTREAM_DURATION.name, "public") in numbers.numbers.histograms) is (outcome == "ok")


def test_the_first_token_is_timed_from_the_request_and_not_from_its_last_attempt() -> None:
    numbers = recorder()
    numbers.begin("r", "chat")
    numbers.note_attempt(attempt(started_at=1003.0, first_token_at=1004.0, ended_at=1005.0))
    assert numbers.numbers.histograms[FIRST_TOKEN.name, "public"][-1] == 4.0


def test_a_stream_that_goes_on_has_one_first_token() -> None:
    numbers = recorder()
    numbers.begin("r", "chat")
    broken = attempt(first_token_at=1001.0, finish=Finish.UPSTREAM_BROKEN)
    numbers.note_attempt(broken)
    numbers.note_attempt(attempt(first_token_at=1009.0, continues=broken))
    *counts, total_s = numbers.numbers.histograms[FIRST_TOKEN.name, "public"]
    assert (sum(counts), total_s) == (1, 1.0)


def test_a_clock_that_steps_back_gives_no_negative_time() -> None:
    numbers = recorder()
    numbers.note_attempt(attempt(started_at=1003.0, first_token_at=900.0, ended_at=900.0))
    assert all(buckets[-1] == 0 for buckets in numbers.numbers.histograms.values())


def test_a_probe_costs_and_is_no_clients_time() -> None:
    numbers = recorder()
    probe = Principal(organization_id="home", key_digest="", source="probe")
    numbers.note_attempt(attempt(principal=probe, cost_pusd=10**12, first_token_at=1001.0))
    assert numbers.numbers.counters[COST.name, "first", "public"] == 1
    assert not numbers.numbers.histograms


def test_a_cached_answer_is_a_hit_and_no_attempt() -> None:
    numbers = recorder()
    numbers.begin("r", "chat")
    numbers.note_attempt(attempt(is_cached=True, usage=Usage(input_tokens=5), cost_pusd=0))
    numbers.end("r", 200)
    assert numbers.numbers.counters == {
        (CACHE_HITS.name, "public"): 1,
        (REQUESTS.name, "chat", "public", "200"): 1,
    }


def test_retries_fallbacks_and_hedges_count_by_their_reason() -> None:
    numbers = recorder()
    for reason in StepReason:
        numbers.note_attempt(attempt(step=Step(target(), [target()], reason)))
    extra = {series[2] for series in numbers.numbers.counters if series[0] == EXTRA_ATTEMPTS.name}
    assert extra == {str(reason) for reason in StepReason} - {"first"}


def test_an_ejection_counts_once_however_often_it_is_made_longer() -> None:
    numbers = recorder()
    for until_s in (1005.0, 1030.0, 1060.0):
        numbers.note_ejection("first\nmodel", Ejection(ErrorClass.SERVER, until_s, 1))
    numbers.note_ejection("first\nmodel", Ejection(ErrorClass.SERVER, 1100.0, 2))
    assert numbers.numbers.counters == {(EJECTIONS.name, "first", "server"): 2}
    numbers.note_ejection("first\nmodel", None)
    numbers.note_ejection("first\nmodel", Ejection(ErrorClass.SERVER, 2000.0, 1))
    assert numbers.numbers.counters == {(EJECTIONS.name, "first", "server"): 3}


def test_an_ejection_after_one_that_another_process_ended_counts() -> None:
    clock = Clock()
    numbers = Recorder(clock)
    numbers.note_ejection("first", Ejection(ErrorClass.SERVER, 1005.0, 1))
    clock.now = 2000.0
    numbers.note_ejection("first", Ejection(ErrorClass.SERVER, 2005.0, 1))
    assert numbers.numbers.counters == {(EJECTIONS.name, "first", "server"): 2}


def test_statuses_of_an_upstream_count_by_their_class() -> None:
    numbers = recorder()
    for status in range(-1, 700):
        numbers.begin("r", "chat")
        numbers.end("r", status)
    labels = {series[3] for series in numbers.numbers.counters}
    assert labels <= {*STATUSES.values(), "1xx", "2xx", "3xx", "4xx", "5xx"}


def test_deployments_without_end_take_bounded_memory() -> None:
    numbers = recorder()
    for index in range(MAX_SERIES + 500):
        numbers.note_attempt(attempt(target=target(f"d{index}", model_group=f"g{index}")))
    assert len(numbers.numbers) <= MAX_SERIES + 2 * len(METRICS)
    attempts = sum(value for series, value in numbers.numbers.counters.items() if series[0] == ATTEMPTS.name)
    assert attempts == MAX_SERIES + 500
    assert numbers.numbers.counters[ATTEMPTS.name, OTHER, OTHER, OTHER] > 0
    numbers.retain(lambda series: is_known(series, {"d1"}, {"g1"}))
    assert (ATTEMPTS.name, "d1", "g1", "ok") in numbers.numbers.counters
    assert len(numbers.numbers) < 10


def test_requests_that_have_ended_leave_nothing_behind() -> None:
    numbers = recorder()
    for index in range(1000):
        numbers.begin(str(index), "chat")
        numbers.end(str(index), 200)
    assert not numbers._open


COUNTERS = st.sampled_from([metric for metric in METRICS if metric.kind is Kind.COUNTER])
TEXT = st.text(max_size=20)


@given(st.lists(st.tuples(COUNTERS, st.lists(TEXT, min_size=3, max_size=3), st.integers(0, 10**15))))
def test_numbers_survive_their_file(rows: list[Any]) -> None:
    numbers = Numbers()
    for metric, labels, amount in rows:
        numbers.add((metric.name, *labels[: len(metric.labels)]), amount)
    numbers.observe(FIRST_TOKEN, "group", 0.3)
    again = decode_numbers(encode_numbers(numbers))
    assert (again.counters, again.histograms) == (numbers.counters, numbers.histograms)


def test_a_file_of_another_version_or_of_nonsense_is_read_as_far_as_it_can_be() -> None:
    known = [[REQUESTS.name, "chat", "public", "200"], 3]
    bad: list[Any] = [
        [["unknown"], 1], [[REQUESTS.name], 1], [[REQUESTS.name, "a", "b", 3], 1], known[:1], 7, None, [[], 1],
        [[REQUESTS.name, "a", "b", "c"], -1], [[REQUESTS.name, "a", "b", "c"], math.inf], [["x"], "many"],
    ]  # fmt: skip
    document = {"counters": [*bad, known], "histograms": [[[FIRST_TOKEN.name, "g"], [1.0]], *bad]}
    numbers = decode_numbers(document)
    assert numbers.counters == {(REQUESTS.name, "chat", "public", "200"): 3}
    assert not numbers.histograms
    assert not len(decode_numbers(["not", "an", "object"]))
