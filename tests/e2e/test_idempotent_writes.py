"""A management write with an Idempotency-Key takes place once, however often it is sent and whatever is killed."""

from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import httpx
import pytest

from tests.e2e.conftest import Backend, Launch
from tests.e2e.gateway import Gateway, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(200)]


def generate(gateway: Gateway, number: int) -> httpx.Response:
    headers = {"idempotency-key": f"order-{number}"}
    return gateway.admin.post("/key/generate", json={"key_alias": f"ci-{number}"}, headers=headers)


def generate_at_last(gateway: Gateway, number: int) -> httpx.Response:
    """The answer, once PostgreSQL has noticed that the killed process is gone."""

    def answer() -> httpx.Response | Literal[False]:
        response = generate(gateway, number)
        return response if response.status_code != 409 else False

    return eventually(answer, within_s=30, what=f"order-{number} is answered")


def test_a_write_survives_parallel_requests_and_a_killed_gateway(launch: Launch, backend: Backend):
    gateway = launch(env=backend.environment())
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: generate(gateway, 0), range(24)))
        assert {answer.status_code for answer in answers} <= {200, 409}
        (text,) = {answer.json()["key"] for answer in answers if answer.status_code == 200}
        begun = [pool.submit(generate, gateway, number) for number in range(1, 13)]
        begun[0].result()
        gateway.kill(whole=True)
        seen = {}
        for number, sent in enumerate(begun, 1):
            if sent.exception() is None and sent.result().status_code == 200:
                seen[number] = sent.result().json()["key"]
    gateway.start()
    assert generate(gateway, 0).json()["key"] == text
    for number in range(1, 13):
        answer = generate_at_last(gateway, number)
        assert answer.status_code == 200, answer.text  # an answer that was lost is there, or the key is free
        assert seen.get(number, answer.json()["key"]) == answer.json()["key"]
    listed = gateway.admin.get("/key/aliases", params={"size": 100}).json()
    assert sorted(listed["aliases"]) == sorted(f"ci-{number}" for number in range(13))
