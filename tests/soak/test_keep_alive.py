"""Connections to an upstream that closes them at the wrong moment."""

import asyncio
from collections.abc import Callable

import pytest

from gateway.protocol.json.types import JsonObject
from tests.soak.conftest import REQUESTS, TASKS, Replicas
from tests.soak.upstream import SoakUpstream

pytestmark = pytest.mark.timeout(900)


def ask(word: str) -> JsonObject:
    return {"model": "keep-alive", "messages": [{"role": "user", "content": word}]}


async def test_an_idle_connection_that_the_upstream_closes_costs_no_request(
    replicas: Replicas, report: Callable[..., None]
) -> None:
    """The upstream closes idle connections about when they are taken up again."""
    fleet = replicas.fleet()
    async with SoakUpstream(replicas.listener, seed=11) as upstream:
        upstream.script.idle_s = (0.0, 0.03)
        tally = await fleet.load(ask, lambda number: number < REQUESTS, tasks=TASKS)
        await fleet.close()
    await asyncio.to_thread(replicas.wait_settled, "keep-alive")
    query = "SELECT count(*) FROM billing_spendlog WHERE model_group = 'keep-alive' AND error_code = %s"
    [(met,)] = replicas.rows(query, "upstream_idle_closed")
    most = max(upstream.counts.words.values())
    report(
        requests=tally.requests,
        failures=tally.failures,
        idle_closes=upstream.counts.idle_closes,
        met_by_requests=met,
        worked_on_twice=sum(count > 1 for count in upstream.counts.words.values()),
    )
    assert tally.ends == {200: REQUESTS}, tally.examples
    assert most == 1
    assert met > 0, "no request met a connection that was being closed"
