"""The estimate is as high as a call may cost, in every dialect."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.estimate import MIN_LOWERED_TOKENS, CallEstimator
from billing.pricing import PriceLines, cost
from gateway.protocol.call import Call
from gateway.protocol.capabilities import Capabilities
from gateway.protocol.dialect import Hints
from gateway.protocol.dialects.anthropic.client import DIALECT as ANTHROPIC
from gateway.protocol.json.types import JsonObject
from gateway.protocol.output_limit import lower_output
from gateway.protocol.provider import Target
from gateway.protocol.timeouts import Timeouts
from gateway.protocol.usage import Usage
from tests.fakes.memory import chat, decode, target

LINES = {
    "input": "0.000001",
    "output": "0.000002",
    "cache_write_5m": "0.00000125",
    "cache_write_1h": "0.000002",
    "input_audio": "0.00001",
    "output_audio": "0.00002",
    "reasoning": "0.000003",
}
DEFAULT = 4096
M = 10**6  # picodollars of an input token


def estimate(call: Call, lines: dict[str, str] | None = None, to: Target | None = None) -> Any:
    price = PriceLines.read(LINES if lines is None else lines)
    return CallEstimator(lambda _: price, default_output_tokens=DEFAULT)(call, to or target())


@pytest.mark.parametrize(
    ("fields", "outputs"),
    [
        ({}, DEFAULT),
        ({"max_tokens": 10}, 10),
        ({"max_completion_tokens": 10}, 10),
        ({"max_tokens": 10, "max_completion_tokens": 20}, 20),
        ({"max_tokens": None}, DEFAULT),
        ({"max_tokens": 10, "n": 3}, 30),
        ({"max_tokens": 10, "n": None}, 10),
    ],
)
def test_the_output_of_a_chat_is_bounded_by_its_limit(fields: JsonObject, outputs: int) -> None:
    assert estimate(chat(**fields)).output_tokens == outputs


@pytest.mark.parametrize(
    ("prompt", "fields", "outputs"),
    [
        ("one", {}, 10),
        (["one", "two"], {}, 20),
        ([1, 2, 3], {}, 10),
        ([[1, 2], [3]], {}, 20),
        ("one", {"n": 2, "best_of": 4}, 40),
        (["one", "two"], {"n": 3}, 60),
    ],
)
def test_a_completion_has_an_output_for_each_prompt_and_answer(prompt: Any, fields: JsonObject, outputs: int) -> None:
    call = decode({"model": "public", "prompt": prompt, "max_tokens": 10, **fields}, "completion")
    assert estimate(call).output_tokens == outputs


def test_the_limit_of_an_anthropic_request_counts() -> None:
    body = b'{"model":"public","max_tokens":77,"messages":[{"role":"user","content":"hi"}]}'
    assert estimate(ANTHROPIC.decode(body, Hints())).output_tokens == 77


def test_an_embedding_has_no_output() -> None:
    call = decode({"model": "public", "input": "some text"}, "embedding")
    result = estimate(call, {"input": "0.000001"})
    assert (result.output_tokens, result.cost_pusd) == (0, call.input_estimate * M)


def test_no_output_is_longer_than_the_model_can_write() -> None:
    able = target(capabilities=Capabilities(max_output_tokens=1000))
    assert estimate(chat(max_tokens=10**9), to=able).output_tokens == 1000
    assert estimate(chat(), to=able).output_tokens == 1000


def test_the_deployments_own_limit_counts_where_the_call_names_none() -> None:
    own = target(parameters={"max_tokens": 99})
    assert estimate(chat(), to=own).output_tokens == 99
    assert estimate(chat(max_tokens=5), to=own).output_tokens == 5


def test_output_is_reserved_at_the_price_of_reasoning() -> None:
    call = chat(max_tokens=100)
    assert estimate(call).cost_pusd == call.input_estimate * M + 100 * 3 * M


@pytest.mark.parametrize(
    ("part", "rate"),
    [
        ({"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}}, 1_250_000),
        ({"type": "text", "text": "hi", "cache_control": {"type": "ephemeral", "ttl": "1h"}}, 2_000_000),
        ({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}, 10_000_000),
    ],
)
def test_input_is_reserved_at_the_dearest_line_that_may_cover_it(part: JsonObject, rate: int) -> None:
    call = chat(max_tokens=1, messages=[{"role": "user", "content": [part]}])
    assert estimate(call).cost_pusd == max(1, call.input_estimate) * rate + 3 * M


def test_spoken_output_is_reserved_at_its_price() -> None:
    call = chat(max_tokens=100, modalities=["text", "audio"])
    assert estimate(call).cost_pusd == call.input_estimate * M + 100 * 20 * M


@pytest.mark.parametrize("lines", [{}, {"output": "0.000001"}, {"input": "0.000001"}])
def test_a_call_that_no_price_covers_has_no_cost(lines: dict[str, str]) -> None:
    assert estimate(chat(), lines).cost_pusd is None


def test_only_a_price_makes_a_model_free() -> None:
    assert estimate(chat(), {"input": "0", "output": "0"}).cost_pusd == 0
    uncounted = replace(decode({"model": "public", "input": "some text"}, "embedding"), input_estimate=0)
    assert estimate(uncounted).cost_pusd == M


def test_the_cost_of_no_usage_within_the_limits_is_above_the_estimate() -> None:
    call = chat(max_tokens=100)
    most = call.input_estimate
    for usage in (
        Usage(input_tokens=most, output_tokens=100),
        Usage(input_tokens=most - 1, cache_read_tokens=1, output_tokens=60, reasoning_tokens=40),
    ):
        assert (cost(usage, PriceLines.read(LINES)) or 0) <= estimate(call).cost_pusd


@given(
    pusd=st.integers(0, 10**11),
    answers=st.integers(1, 4),
    limit=st.none() | st.integers(1, 100_000),
    rate=st.sampled_from(["0.000002", "0.00000000000037", "0.0000123456789012345"]),
)
def test_the_lowered_limit_is_the_largest_that_is_paid_for(
    pusd: int, answers: int, limit: int | None, rate: str
) -> None:
    estimator = estimator_of({"input": "0.000001", "output": rate})
    call = chat(n=answers, **({} if limit is None else {"max_tokens": limit}))
    found = estimator.find_output_limit(call, target(), pusd)
    whole = estimator(call, target())
    if found is None:
        fewest = estimator(chat(n=answers, max_tokens=MIN_LOWERED_TOKENS), target())
        is_whole_paid = (whole.cost_pusd or 0) <= pusd or (limit or DEFAULT) <= MIN_LOWERED_TOKENS
        assert is_whole_paid or (fewest.cost_pusd or 0) > pusd
        return
    assert MIN_LOWERED_TOKENS <= found < (limit or DEFAULT)
    assert (estimator(lower_output(call, found), target()).cost_pusd or 0) <= pusd
    assert (estimator(lower_output(call, found + 1), target()).cost_pusd or 0) >= pusd


def test_no_limit_is_found_where_it_would_not_bind_or_not_be_taken() -> None:
    estimator, much = estimator_of(LINES), 10**9
    assert estimator.find_output_limit(chat(max_tokens=9000), target(), much) is not None
    thinking = {"thinking": {"type": "enabled", "budget_tokens": 5000}}
    assert estimator.find_output_limit(chat(max_tokens=9000, **thinking), target(), much) is None
    refused = target(unsupported_parameters=frozenset({"max_tokens"}))
    assert estimator.find_output_limit(chat(max_tokens=9000), refused, much) is None
    assert estimator.find_output_limit(decode({"model": "public", "input": "x"}, "embedding"), target(), 0) is None
    assert estimator_of({"input": "1", "output": "0"}).find_output_limit(chat(), target(), 10**15) is None
    completion = {"model": "public", "prompt": "x"}
    assert estimator.find_output_limit(decode(completion, "completion"), target(), 10**9) is None
    assert estimator.find_output_limit(decode(completion | {"max_tokens": 9000}, "completion"), target(), 10**9)
    assert estimator_of({}).find_output_limit(chat(), target(), much) is None


def estimator_of(lines: dict[str, str]) -> CallEstimator:
    price = PriceLines.read(lines)
    return CallEstimator(lambda _: price, default_output_tokens=DEFAULT)


def test_a_deployment_that_marks_what_to_cache_is_reserved_by_the_price_of_a_write() -> None:
    call = chat()
    marking = replace(target(), capabilities=Capabilities(cache_breakpoints=True))
    written = cost(Usage(cache_write_5m_tokens=call.input_estimate), PriceLines.read(LINES))
    assert estimate(call, to=marking).cost_pusd - estimate(call).cost_pusd == written - call.input_estimate * M


CONDITIONAL = {
    "input": "0.000001",
    "input>1000": "0.000002",
    "input@priority": "0.000003",
    "output": "0.000004",
    "output~00:30-16:30": "0.000005",
    "output>>3": "0.000006",
}


@pytest.mark.parametrize(
    ("fields", "rate"), [({}, 1), ({"service_tier": "priority"}, 3), ({"service_tier": "flex"}, 1)]
)
def test_the_tier_that_a_call_asks_for_is_reserved(fields: JsonObject, rate: int) -> None:
    call = chat(max_tokens=10, **fields)
    assert estimate(call, CONDITIONAL).cost_pusd == call.input_estimate * rate * M + 10 * 6 * M


def test_the_speed_that_a_deployment_asks_for_is_reserved() -> None:
    call, lines = chat(max_tokens=10), {"input": "0.000001", "input@fast": "0.000006", "output": "0"}
    assert estimate(call, lines, target(parameters={"speed": "fast"})).cost_pusd == call.input_estimate * 6 * M
    assert estimate(call, lines).cost_pusd == call.input_estimate * M


def test_a_long_context_is_reserved_at_its_own_rate() -> None:
    call = replace(chat(max_tokens=10), input_estimate=1001)
    assert estimate(call, CONDITIONAL).cost_pusd == 1001 * 2 * M + 10 * 6 * M
    assert estimate(replace(call, input_estimate=1000), CONDITIONAL).cost_pusd == 1000 * M + 10 * 6 * M


def test_a_price_per_second_is_reserved_for_the_longest_call() -> None:
    lines = {"second": "0.001", "request": "0.5"}
    assert estimate(chat(), lines, replace(target(), timeouts=Timeouts(timeout_s=1.5))).cost_pusd == 502 * 10**9
    assert estimate(chat(), lines).cost_pusd == 1_100 * 10**9
