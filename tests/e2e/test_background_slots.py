"""Background responses of several keys: a flood of one leaves the others their turn, and its queue has an end."""

import httpx
import pytest
from cryptography.fernet import Fernet

from gateway.protocol.json.types import JsonObject
from tests.e2e.conftest import Backend, Launch
from tests.e2e.gateway import Gateway, eventually
from tests.fakes.upstream import FakeUpstream, Talking

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

UPSTREAM = "up-priced"
FLOOD, QUEUED = 150, 150
SLOTS = 3


def names_asked(upstream: FakeUpstream) -> list[str]:
    return [(one.json.get("messages") or [{}])[-1].get("content", "") for one in upstream.of(UPSTREAM)]


def create(gateway: Gateway, key: str, text: str) -> httpx.Response:
    body = {"model": "priced", "input": text, "background": True}
    return gateway.http.post("/v1/responses", json=body, headers={"authorization": f"Bearer {key}"})


def test_a_flood_of_one_key_delays_no_other_key_and_is_refused_beyond_its_queue(
    launch: Launch, backend: Backend, config: JsonObject, upstream: FakeUpstream
) -> None:
    upstream.requests.clear()
    gateway = launch(config, env={**backend.environment(), "TOLLGATE_QUEUED_PER_KEY": str(QUEUED)})
    flooding, other = gateway.issue_key(), gateway.issue_key()

    with upstream.script(UPSTREAM, Talking(gap_s=0.5)):
        for _ in range(FLOOD):
            assert create(gateway, flooding, "flood").status_code == 200
        eventually(lambda: names_asked(upstream).count("flood") == 10, within_s=15, what="the flood has its slots")
        assert create(gateway, other, "alone").status_code == 200
        eventually(lambda: "alone" in names_asked(upstream), within_s=3, what="the other key's response is being made")
        assert names_asked(upstream).count("flood") == 10

        accepted = FLOOD
        while (answer := create(gateway, flooding, "flood")).status_code == 200:
            accepted += 1
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["type"]) == (429, "rate_limit_exceeded", "rate_limit_error")
        assert int(answer.headers["retry-after"]) > 0
        assert accepted == QUEUED + 10
        page = gateway.http.get("/v1/responses?limit=100", headers={"authorization": f"Bearer {flooding}"}).json()
        last = page["data"][-1]["id"]
        rest = gateway.http.get(
            f"/v1/responses?limit=100&after={last}", headers={"authorization": f"Bearer {flooding}"}
        ).json()
        assert len(page["data"]) + len(rest["data"]) == accepted, "nothing is stored of what was refused"
        assert create(gateway, other, "once more").status_code == 200
        gateway.kill(whole=True)


def test_the_slots_of_a_killed_replica_become_free(
    launch: Launch, production: Backend, config: JsonObject, upstream: FakeUpstream
) -> None:
    """The killed replica's running responses have failed and are not made again; the other replica makes the queued
    ones."""
    upstream.requests.clear()
    keys = Fernet.generate_key().decode()
    env = {**production.environment(), "TOLLGATE_ENCRYPTION_KEYS": keys, "TOLLGATE_BACKGROUND_PER_KEY": str(SLOTS)}
    first, second = launch(config, env=env), launch(config, env=env, start=False)
    key = first.issue_key()

    def status_of(response_id: str) -> str:
        headers = {"authorization": f"Bearer {key}"}
        status: str = second.http.get(f"/v1/responses/{response_id}", headers=headers).json()["status"]
        return status

    with upstream.script(UPSTREAM, Talking(gap_s=0.1)):
        lost = [create(first, key, "lost").json()["id"] for _ in range(SLOTS)]
        eventually(lambda: names_asked(upstream).count("lost") == SLOTS, within_s=15, what="every slot is taken")
        second.start()
        eventually(lambda: second.call(key).status_code == 200, within_s=2, what="the key works on both")
        waiting = [create(second, key, "waiting").json()["id"] for _ in range(SLOTS)]
        assert {status_of(response_id) for response_id in waiting} == {"queued"}
        first.kill(whole=True)
        eventually(lambda: names_asked(upstream).count("waiting") == SLOTS, within_s=60, what="the slots are free")
        eventually(lambda: {status_of(one) for one in lost} == {"failed"}, within_s=5, what="what was lost has failed")
        assert names_asked(upstream).count("lost") == SLOTS
        second.kill(whole=True)
