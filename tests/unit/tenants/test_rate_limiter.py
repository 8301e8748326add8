"""The rate limits of a call: what is taken and settled, and what headers, refusals and the log tell of them."""

import asyncio
import logging
from dataclasses import dataclass

import pytest

from gateway.pipeline.ports import Dimension, LimitRule
from gateway.protocol.errors import RateLimited
from gateway.state.memory_rate_limits import MemoryRateLimits
from gateway.state.rate_limits import DAY_S, MINUTE_S, SLOT_LEASE_S, SLOT_S
from tenants.rate_limiter import RateLimiter, TakenLimits


@dataclass
class Tokens:
    input_tokens: int = 100
    output_tokens: int = 50


class Clock:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def limiter(clock: Clock, **options: object) -> RateLimiter:
    ids = iter(range(1_000_000))
    return RateLimiter(MemoryRateLimits(clock), now=clock, new_id=lambda: f"call-{next(ids)}", **options)  # type: ignore[arg-type]


def rule(dimension: Dimension, limit: int, **fields: object) -> LimitRule:
    span_s = fields.pop("span_s", SLOT_S if dimension is Dimension.PARALLEL else MINUTE_S)
    owner = fields.pop("owner", "key")
    counter = f"{{o}}:{owner}:{dimension}:{span_s}"
    return LimitRule(counter, owner, dimension, limit, span_s, **fields)  # type: ignore[arg-type]


REQUESTS = rule(Dimension.REQUESTS, 10)
TOKENS = rule(Dimension.TOKENS, 1000)


async def take(limits: RateLimiter, *rules: LimitRule, tokens: Tokens | None = None) -> TakenLimits:
    taken = await limits.take(rules, tokens or Tokens())
    assert taken is not None
    return taken


async def test_tokens_are_taken_by_the_estimate_and_settled_by_the_usage(clock: Clock) -> None:
    limits = limiter(clock)
    rules = (TOKENS, rule(Dimension.INPUT_TOKENS, 500), rule(Dimension.OUTPUT_TOKENS, 200))
    taken = await take(limits, *rules)
    assert dict(taken.headers)[b"x-ratelimit-remaining-tokens"] == b"850"
    await taken.settle(input_tokens=80, output_tokens=5)
    headers = dict(await limits.read_headers(rules, Tokens()))
    assert headers[b"x-ratelimit-remaining-tokens"] == b"915"
    assert headers[b"x-ratelimit-remaining-input-tokens"] == b"420"
    assert headers[b"x-ratelimit-remaining-output-tokens"] == b"195"


async def test_a_repeat_counts_as_no_further_request(clock: Clock) -> None:
    """`truncation: auto` sends a request again without its oldest part."""
    limits, one = limiter(clock), rule(Dimension.REQUESTS, 1)
    await (await take(limits, one, TOKENS)).settle(0, 0)
    repeat = await limits.take((one, TOKENS), Tokens(), is_repeat=True)
    assert repeat is not None
    assert dict(repeat.headers)[b"x-ratelimit-remaining-requests"] == b"0"
    await repeat.settle(80, 10)
    headers = dict(await limits.read_headers((one, TOKENS), Tokens()))
    assert (headers[b"x-ratelimit-remaining-requests"], headers[b"x-ratelimit-remaining-tokens"]) == (b"0", b"910")
    with pytest.raises(RateLimited):
        await take(limits, one)


async def test_headers_tell_the_limit_that_has_the_least_left(clock: Clock) -> None:
    day = rule(Dimension.REQUESTS, 3, span_s=DAY_S, owner="team")
    shadow = rule(Dimension.REQUESTS, 2, owner="user", is_shadow=True)
    taken = await take(limiter(clock), REQUESTS, day, shadow)
    assert dict(taken.headers) == {
        b"x-ratelimit-limit-requests": b"3",
        b"x-ratelimit-remaining-requests": b"2",
        b"x-ratelimit-reset-requests": b"86460.000s",
    }


async def test_a_refusal_names_the_limit_and_when_to_come_again(clock: Clock) -> None:
    limits = limiter(clock)
    for _ in range(10):
        await take(limits, REQUESTS, TOKENS, tokens=Tokens(1, 1))
    clock.now += 20.5
    with pytest.raises(RateLimited) as refused:
        await take(limits, REQUESTS, TOKENS, tokens=Tokens(1, 1))
    assert refused.value.message == (
        "Rate limit exceeded for key. Limit type: requests. Current limit: 10 per minute, used: 10, requested: 1. "
        "Try again in 41 s."
    )
    headers = dict(refused.value.headers)
    assert (headers[b"retry-after"], headers[b"retry-after-ms"]) == (b"41", b"40500")
    assert headers[b"x-ratelimit-remaining-requests"] == b"0"
    assert headers[b"x-ratelimit-remaining-tokens"] == b"980", "the refused call took nothing"


async def test_a_call_larger_than_its_limit_is_not_to_be_repeated(clock: Clock) -> None:
    with pytest.raises(RateLimited) as refused:
        await take(limiter(clock), TOKENS, tokens=Tokens(10**30, 0))
    assert refused.value.code == "request_too_large"
    assert dict(refused.value.headers)[b"x-should-retry"] == b"false"


async def test_draft_headers_tell_every_limit(clock: Clock) -> None:
    limits = limiter(clock, has_draft_headers=True)
    model = rule(Dimension.TOKENS, 200, owner="team member", model='a "b"')
    taken = await take(limits, REQUESTS, model, rule(Dimension.PARALLEL, 5))
    headers = dict(taken.headers)
    assert headers[b"ratelimit-policy"] == (
        b'"key-requests-minute";q=10;w=60, "team-member-tokens-minute-a \\"b\\"";q=200;w=60, '
        b'"key-parallel";q=5;qu="concurrent-requests"'
    )
    assert headers[b"ratelimit"] == (
        b'"key-requests-minute";r=9;t=61, "team-member-tokens-minute-a \\"b\\"";r=50;t=61, "key-parallel";r=4'
    )
    clock.now += 10
    await take(limits, REQUESTS)
    with pytest.raises(RateLimited) as refused:
        await take(limits, REQUESTS, model)
    headers = dict(refused.value.headers)
    assert headers[b"retry-after"] == b"51"
    assert b";t=51" in headers[b"ratelimit"], "no reset comes after retry-after"


async def test_a_limiter_takes_the_dimensions_of_its_process(clock: Clock) -> None:
    """A worker takes the slots of background responses, whose requests and tokens the web process has taken."""
    limits = limiter(clock, dimensions=frozenset({Dimension.PARALLEL}))
    assert await limits.take((REQUESTS, TOKENS), Tokens()) is None
    taken = await take(limits, rule(Dimension.REQUESTS, 0), rule(Dimension.PARALLEL, 1))
    with pytest.raises(RateLimited, match="Limit type: parallel requests"):
        await take(limits, rule(Dimension.PARALLEL, 1))
    await taken.settle(1, 1)
    await take(limits, rule(Dimension.PARALLEL, 1))


async def test_the_log_tells_once_a_window_that_a_limit_is_nearly_reached(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    limits = limiter(clock)
    for count in range(10):
        await take(limits, REQUESTS)
        assert len(caplog.records) == (count >= 7)
    record = vars(caplog.records[0])
    assert record["message"] == "a rate limit is nearly reached"
    assert (record["owner"], record["dimension"], record["limit"], record["used"]) == ("key", "requests", 10, 8)
    for _ in range(5):
        with pytest.raises(RateLimited):
            await take(limits, REQUESTS)
    assert len(caplog.records) == 1
    clock.now += 61
    for _ in range(10):
        await take(limits, REQUESTS)
    assert len(caplog.records) == 2


async def test_the_log_tells_that_a_shadow_limit_would_refuse(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    limits = limiter(clock)
    for _ in range(5):
        await take(limits, rule(Dimension.REQUESTS, 3, is_shadow=True))
    assert [record.getMessage() for record in caplog.records] == [
        "a rate limit is nearly reached",
        "a shadow rate limit would refuse",
    ]
    assert vars(caplog.records[1])["used"] == 4


async def test_the_slots_of_running_calls_are_renewed(clock: Clock) -> None:
    limits = limiter(clock, renew_s=0.01)
    await limits.start()
    slot = rule(Dimension.PARALLEL, 1)
    taken = await take(limits, slot)
    for _ in range(6):
        clock.now += SLOT_LEASE_S / 2
        await asyncio.sleep(0.03)
    with pytest.raises(RateLimited):
        await take(limits, slot)
    await taken.settle(1, 1)
    await take(limits, slot)
    await limits.close()
