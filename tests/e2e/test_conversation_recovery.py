"""A conversation whose create was killed is free within 10 s; the measured time is logged."""

import logging
import threading
import time

import httpx
import psutil
import pytest

from gateway.protocol.json.types import JsonObject
from tests.e2e.conftest import Backend, Launch
from tests.e2e.gateway import Gateway, eventually
from tests.fakes.upstream import FakeUpstream, Talking

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

logger = logging.getLogger(__name__)

UPSTREAM = "up-priced"
WAIT_S = 0.25
TRIES = int(15 / WAIT_S)  # 10 s, and half of that for a busy machine


def create(gateway: Gateway, key: str, **fields: object) -> httpx.Response:
    head = {"authorization": f"Bearer {key}"}
    return gateway.http.post("/v1/responses", json={"model": "priced", **fields}, headers=head)


def retry_until_free(gateway: Gateway, key: str, conversation_id: str, killed_at: float) -> httpx.Response:
    """Tries as a client does that waits after each refusal."""
    for _ in range(TRIES):
        answer = create(gateway, key, input="again", conversation=conversation_id, max_output_tokens=5)
        if answer.status_code != 409:
            break
        assert answer.json()["error"]["code"] == "conversation_locked"
        time.sleep(WAIT_S)
    logger.warning("the conversation is free %.1f s after the kill", time.monotonic() - killed_at)
    return answer


def wait_until_asked(upstream: FakeUpstream) -> None:
    eventually(
        lambda: any(one.sent_bytes > 500 for one in upstream.of(UPSTREAM)), within_s=20, what="the upstream talks"
    )


@pytest.fixture
def gateway_of_test(launch: Launch, backend: Backend, config: JsonObject, upstream: FakeUpstream) -> Gateway:
    upstream.requests.clear()
    return launch(config, env=backend.environment())


def test_a_conversation_whose_create_was_killed_is_soon_free(gateway_of_test: Gateway, upstream: FakeUpstream) -> None:
    gateway = gateway_of_test
    key = gateway.issue_key()
    conversation_id = gateway.openai(key).conversations.create().id

    def stream() -> None:
        try:
            create(gateway, key, input="killed", conversation=conversation_id, stream=True)
        except httpx.HTTPError:
            return

    with upstream.script(UPSTREAM, Talking(gap_s=0.1)):
        client = threading.Thread(target=stream)
        client.start()
        wait_until_asked(upstream)
        assert create(gateway, key, input="locked", conversation=conversation_id).status_code == 409
        gateway.kill(whole=True)
        killed_at = time.monotonic()
        client.join()
    gateway.start()
    answer = retry_until_free(gateway, key, conversation_id, killed_at)
    assert answer.status_code == 200, answer.text
    items = gateway.openai(key).conversations.items.list(conversation_id, order="asc").data
    assert [item.type for item in items] == ["message", "message"]  # those of the second create


def test_a_conversation_whose_background_create_was_killed_is_soon_free(
    gateway_of_test: Gateway, upstream: FakeUpstream
) -> None:
    gateway = gateway_of_test
    key = gateway.issue_key()
    client = gateway.openai(key)
    conversation_id = client.conversations.create().id
    with upstream.script(UPSTREAM, Talking(gap_s=0.1)):
        assert create(gateway, key, input="killed", conversation=conversation_id, background=True).status_code == 200
        wait_until_asked(upstream)
        assert create(gateway, key, input="locked", conversation=conversation_id).status_code == 409
        for process in worker_processes(gateway):
            process.kill()
        killed_at = time.monotonic()
    answer = retry_until_free(gateway, key, conversation_id, killed_at)
    assert answer.status_code == 200, answer.text


def worker_processes(gateway: Gateway) -> list[psutil.Process]:
    return [process for process in gateway.processes() if "worker" in process.cmdline()]
