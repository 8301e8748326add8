"""Background responses of several keys: a flood of one leaves the others their turn, and its queue has an end."""

import httpx
import pytest

from gateway.protocol.json.types import JsonObject
from tests.e2e.conftest import Backend, Launch
from tests.e2e.gateway import eventually
from tests.fakes.upstream import FakeUpstream, Talking

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

UPSTREAM = "up-priced"
FLOOD, QUEUED = 150, 150


def names_asked(upstream: FakeUpstream) -> list[str]:
    return [(one.json.get("messages") or [{}])[-1].get("content", "") for one in upstream.of(UPSTREAM)]


def test_a_flood_of_one_key_delays_no_other_key_and_is_refused_beyond_its_queue(
    launch: Launch, backend: Backend, config: JsonObject, upstream: FakeUpstream
) -> None:
    upstream.requests.clear()
    gateway = launch(config, env={**backend.environment(), "TOLLGATE_QUEUED_PER_KEY": str(QUEUED)})
    flooding, other = gateway.issue_key(), gateway.issue_key()

    def create(key: str, text: str) -> httpx.Response:
        body = {"model": "priced", "input": text, "background": True}
        return gateway.http.post("/v1/responses", json=body, headers={"authorization": f"Bearer {key}"})

    with upstream.script(UPSTREAM, Talking(gap_s=0.5)):
        for _ in range(FLOOD):
            assert create(flooding, "flood").status_code == 200
        eventually(lambda: names_asked(upstream).count("flood") == 10, within_s=15, what="the flood has its slots")
        assert create(other, "alone").status_code == 200
        eventually(lambda: "alone" in names_asked(upstream), within_s=3, what="the other key's response is being made")
        assert names_asked(upstream).count("flood") == 10

        accepted = FLOOD
        while (answer := create(flooding, "flood")).status_code == 200:
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
        assert create(other, "once more").status_code == 200
        gateway.kill(whole=True)
