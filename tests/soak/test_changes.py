"""Replicas and deployments that change under load."""

import asyncio
import time
from collections.abc import Callable

import pytest

from gateway.protocol.json.types import JsonObject
from tests.e2e.gateway import Gateway, eventually
from tests.soak.client import Tally
from tests.soak.conftest import TASKS, Replicas, amount
from tests.soak.upstream import Asked, SoakUpstream

pytestmark = pytest.mark.timeout(900)

STREAMS = amount("SOAK_STREAMS", 2_000)
CHANGES = amount("SOAK_CHANGES", 20)
CHANGE_EVERY_S = 1.0
GROUP = "changing"
#: A price in USD a token. That of version b is three times that of version a, in all lines.
PRICE = {"a": "0.000002", "b": "0.000006"}


def pause_of(asked: Asked) -> float:
    """One stream in ten lasts for several seconds, longer than the drain's delay."""
    return 0.2 if asked.word.endswith("7") else 0.02


async def test_a_rolling_restart_fails_no_stream(replicas: Replicas, report: Callable[..., None]) -> None:
    fleet = replicas.fleet()
    restarted: list[int] = []

    async def roll() -> None:
        for gateway, client in zip(replicas.gateways, fleet.clients, strict=True):
            await asyncio.to_thread(gateway.restart)
            await fleet.wait_ready(client)  # as an orchestrator that replaces one replica after the other
            restarted.append(client.port)

    def ask(word: str) -> JsonObject:
        return {"model": "restart", "stream": True, "messages": [{"role": "user", "content": word}]}

    async with SoakUpstream(replicas.listener) as upstream, fleet.watched():
        upstream.script.pause_s = pause_of
        rolling = asyncio.create_task(roll())
        tally = await fleet.load(ask, lambda number: number < STREAMS or not rolling.done(), tasks=TASKS)
        await rolling
        await fleet.close()
    query = "SELECT count(DISTINCT request_id) FROM billing_spendlog WHERE model_group = %s AND status_code = 200"
    await asyncio.to_thread(replicas.wait_settled, "restart")
    [(rows,)] = replicas.rows(query, "restart")
    report(streams=tally.requests, failures=tally.failures, restarts=len(restarted), spend_rows=rows)
    assert tally.ends == {200: tally.requests}, tally.examples
    assert max(upstream.counts.words.values()) == 1
    assert rows == tally.requests


async def test_each_request_sees_one_version_of_a_deployment_that_changes(
    replicas: Replicas, report: Callable[..., None]
) -> None:
    """Address, credential, model and price change together, on another replica each time."""
    fleet, versions = replicas.fleet(), [version_of(replicas, name) for name in "ab"]
    model_id = deploy(replicas, versions[0])
    tally = Tally()

    def change(number: int) -> None:
        gateway = replicas.gateways[number % len(replicas.gateways)]
        body = {"litellm_params": versions[number % 2]}
        gateway.admin.patch(f"/model/{model_id}/update", json=body).raise_for_status()

    async def change_often() -> None:
        for number in range(1, CHANGES + 1):
            await asyncio.sleep(CHANGE_EVERY_S)
            await asyncio.to_thread(change, number)
        await asyncio.sleep(2 * CHANGE_EVERY_S)

    async with SoakUpstream(replicas.listener) as upstream:
        changing = asyncio.create_task(change_often())
        await fleet.load(ask, lambda number: not changing.done(), tasks=TASKS, tally=tally)
        await changing
        before = upstream.counts.versions.copy()
        end_at = time.monotonic() + 1
        await fleet.load(ask, lambda number: time.monotonic() < end_at, tasks=TASKS, tally=tally)
        await fleet.close()
    seen = upstream.counts.versions
    await asyncio.to_thread(replicas.wait_settled, GROUP)
    query = "SELECT DISTINCT upstream_model, cost_pusd FROM billing_spendlog WHERE model_group = %s"
    pairs = replicas.rows(query, GROUP)
    costs = dict(pairs)
    report(requests=tally.requests, failures=tally.failures, changes=CHANGES, versions=list(seen.values()), costs=costs)
    assert tally.ends == {200: tally.requests}, tally.examples
    assert set(seen) == {(f"/{name}/v1/chat/completions", f"Bearer sk-{name}", f"model-{name}") for name in "ab"}
    assert min(seen.values()) > tally.requests / 10
    assert len(pairs) == len(costs) == 2, f"a request has one model, and the price of that model: {pairs}"
    assert costs["model-b"] == 3 * costs["model-a"] > 0
    [last] = seen - before  # two seconds after the last change no replica uses the former version
    assert last[2] == f"model-{'ab'[CHANGES % 2]}"


def ask(word: str) -> JsonObject:
    return {"model": GROUP, "messages": [{"role": "user", "content": word}]}


def version_of(replicas: Replicas, name: str) -> JsonObject:
    return {
        "model": f"openai/model-{name}",
        "api_base": f"{replicas.upstream_url}/{name}/v1",
        "api_key": f"sk-{name}",
        "input_cost_per_token": float(PRICE[name]),
        "cache_read_input_token_cost": float(PRICE[name]),
        "output_cost_per_token": float(PRICE[name]),
    }


def knows(gateway: Gateway) -> bool:
    return gateway.admin.get(f"/v1/models/{GROUP}").status_code == 200


def deploy(replicas: Replicas, version: JsonObject) -> str:
    """A deployment that all replicas know."""
    answer = replicas.gateways[0].admin.post("/model/new", json={"model_name": GROUP, "litellm_params": version})
    assert answer.status_code == 200, answer.text
    for gateway in replicas.gateways:
        eventually(lambda gateway=gateway: knows(gateway), within_s=5, what="the replica knows the deployment")
    model_id: str = answer.json()["model_id"]
    return model_id
