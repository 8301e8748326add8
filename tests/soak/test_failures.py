"""Deployments that fail, asked through three replicas."""

import time
from collections.abc import Callable

import pytest

from gateway.protocol.json.types import JsonObject
from tests.soak.client import Fleet, Tally
from tests.soak.conftest import REPLICAS, REQUESTS, TASKS, Replicas, amount
from tests.soak.upstream import SoakUpstream

pytestmark = pytest.mark.timeout(900)

OUTAGE_S = amount("SOAK_OUTAGE_S", 20)
RECOVERY_S = 10.0


def ask(group: str) -> Callable[[str], JsonObject]:
    return lambda word: {"model": group, "messages": [{"role": "user", "content": word}]}


async def test_no_request_fails_where_one_of_two_deployments_is_broken(
    replicas: Replicas, report: Callable[..., None]
) -> None:
    fleet = replicas.fleet()
    async with SoakUpstream(replicas.listener) as upstream:
        upstream.script.is_broken = lambda asked: asked.model == "half-broken-0"
        began = time.monotonic()
        tally = await fleet.load(ask("half-broken"), lambda number: number < REQUESTS, tasks=TASKS)
        seconds = time.monotonic() - began
        await fleet.close()
    seen = upstream.counts.refused["half-broken-0"]
    report(requests=tally.requests, failures=tally.failures, broken_saw=seen, seconds=f"{seconds:.0f}")
    assert tally.ends == {200: REQUESTS}, tally.examples
    assert 0 < seen < REQUESTS / 100
    assert max(upstream.counts.words.values()) == 1


async def test_an_outage_is_not_multiplied_and_ends_soon_after_the_upstream_is_back(
    replicas: Replicas, report: Callable[..., None]
) -> None:
    fleet, is_out = replicas.fleet(), True
    async with SoakUpstream(replicas.listener) as upstream:
        upstream.script.is_broken = lambda asked: is_out
        outage = await run_for(OUTAGE_S, fleet, "outage")
        attempts = upstream.counts.refused.total()
        is_out = False
        back_at = time.monotonic()
        after = await run_for(RECOVERY_S + 5, fleet, "outage")
        await fleet.close()
    recovery_s = max(after.last_failure_at - back_at, 0.0)
    report(
        requests=outage.requests,
        ends=dict(outage.ends),
        attempts=attempts,
        ratio=f"{attempts / outage.requests:.3f}",
        recovery_s=f"{recovery_s:.2f}",
        after=dict(after.ends),
    )
    assert outage.ends == {503: outage.requests}, outage.examples
    assert attempts <= 1.1 * outage.requests + 3 * REPLICAS
    assert recovery_s <= RECOVERY_S, after.examples
    assert after.ends[200] > 0


async def run_for(seconds: float, fleet: Fleet, group: str) -> Tally:
    end_at = time.monotonic() + seconds
    return await fleet.load(ask(group), lambda number: time.monotonic() < end_at, tasks=TASKS)
