"""Idempotency-Key on POST /v1/responses: a request that is sent twice is made once, and paid once."""

import sqlite3
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import psycopg
import pytest

from gateway.protocol.json.types import JsonObject
from tests.e2e.conftest import Backend, Launch
from tests.e2e.gateway import Gateway, eventually
from tests.fakes.responses_grammar import check, read_frames
from tests.fakes.upstream import FAULTS, Answer, FakeUpstream, Recorded

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(90)]

MODEL, UPSTREAM = "chat", "up-chat"


@pytest.fixture
def name() -> str:
    """An input, and a key, that no other test uses."""
    return uuid.uuid4().hex


def send(gateway: Gateway, key: str, name: str, **fields: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}", "idempotency-key": fields.pop("idempotency_key", name)}
    body = {"model": MODEL, "input": name, **fields}
    return gateway.http.post("/v1/responses", json=body, headers=headers)


def input_of(one: Recorded) -> Any:
    """The last text of the request; None for a request of another kind."""
    return (one.json.get("messages") or [{}])[-1].get("content")


def count_calls(upstream: FakeUpstream, name: str) -> int:
    return sum(input_of(one) == name for one in upstream.of(UPSTREAM))


def test_the_second_request_gets_the_first_ones_result(
    gateway: Gateway, key: str, upstream: FakeUpstream, name: str
) -> None:
    first, second = send(gateway, key, name), send(gateway, key, name)
    assert (first.status_code, second.status_code) == (200, 200)
    assert first.content == second.content
    assert "idempotent-replayed" not in first.headers
    assert second.headers["idempotent-replayed"] == "true"
    assert count_calls(upstream, name) == 1
    assert len(gateway.wait_priced(api_key=key)) == 1


def test_the_sdk_sends_it_as_an_extra_header(client: openai.OpenAI, upstream: FakeUpstream, name: str) -> None:
    header = {"Idempotency-Key": name}
    first, second = (client.responses.create(model=MODEL, input=name, extra_headers=header) for _ in range(2))
    assert first.model_dump() == second.model_dump()
    assert count_calls(upstream, name) == 1


def test_a_second_request_waits_for_the_one_that_runs(
    gateway: Gateway, key: str, upstream: FakeUpstream, name: str
) -> None:
    with upstream.script(UPSTREAM, Answer(before_s=1)), ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: send(gateway, key, name), range(8)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert sum("idempotent-replayed" not in answer.headers for answer in answers) == 1
    assert count_calls(upstream, name) == 1


def test_a_stream_is_replayed_as_a_stream(gateway: Gateway, key: str, upstream: FakeUpstream, name: str) -> None:
    first, second = send(gateway, key, name, stream=True), send(gateway, key, name, stream=True)
    assert check(read_frames(first.content)) == check(read_frames(second.content))
    assert count_calls(upstream, name) == 1


def test_another_body_under_the_same_key_is_refused(
    gateway: Gateway, key: str, upstream: FakeUpstream, name: str
) -> None:
    assert send(gateway, key, name).status_code == 200
    refused = send(gateway, key, name, temperature=0.5)
    assert refused.status_code == 422
    assert refused.json()["error"]["code"] == "idempotency_key_mismatch"
    assert refused.json()["error"]["param"] == "Idempotency-Key"
    assert count_calls(upstream, name) == 1


def test_a_key_is_its_owners_alone(gateway: Gateway, key: str, upstream: FakeUpstream, name: str) -> None:
    first, second = send(gateway, key, name), send(gateway, gateway.issue_key(), name)
    assert first.json()["id"] != second.json()["id"]
    assert count_calls(upstream, name) == 2


@pytest.mark.parametrize("bad", ["", "x" * 256, "schlüssel", "tab\tbed"])
def test_a_key_that_is_no_key_is_refused(gateway: Gateway, key: str, name: str, bad: str) -> None:
    headers = [(b"authorization", f"Bearer {key}".encode()), (b"idempotency-key", bad.encode("latin-1"))]
    answer = gateway.http.post("/v1/responses", json={"model": MODEL, "input": name}, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "Idempotency-Key"


def test_a_request_that_failed_frees_its_key(gateway: Gateway, key: str, upstream: FakeUpstream, name: str) -> None:
    with upstream.script(UPSTREAM, FAULTS["400"]):
        assert send(gateway, key, name).status_code == 400
    assert send(gateway, key, name).status_code == 200
    assert send(gateway, key, name, previous_response_id="resp_none", idempotency_key=f"{name}-2").status_code == 400
    assert send(gateway, key, name, idempotency_key=f"{name}-2").status_code == 200  # another body: it was freed


def test_a_request_whose_client_left_runs_anew(gateway: Gateway, key: str, upstream: FakeUpstream, name: str) -> None:
    headers = {"authorization": f"Bearer {key}", "idempotency-key": name}
    body = {"model": MODEL, "input": name, "stream": True}
    with (
        upstream.script(UPSTREAM, Answer(gap_s=0.1, text="word " * 100)),
        gateway.http.stream("POST", "/v1/responses", json=body, headers=headers) as stream,
    ):
        next(line for line in stream.iter_lines() if "delta" in line)
    again = send(gateway, key, name, stream=True)
    assert check(read_frames(again.content))["status"] == "completed"
    assert count_calls(upstream, name) == 2


def test_a_result_that_was_deleted_is_made_anew(gateway: Gateway, key: str, name: str) -> None:
    first = send(gateway, key, name).json()["id"]
    gateway.http.delete(f"/v1/responses/{first}", headers={"authorization": f"Bearer {key}"})
    assert send(gateway, key, name).json()["id"] != first


def claims(gateway: Gateway, env: JsonObject) -> int:
    query = "SELECT count(*) FROM gateway_idempotencykey"
    if "DATABASE_URL" in env:
        with psycopg.connect(env["DATABASE_URL"]) as connection:
            return int(connection.execute(query).fetchone()[0])  # type: ignore[index]
    connection = sqlite3.connect(gateway.home / "db.sqlite3")
    try:
        return int(connection.execute(query).fetchone()[0])
    finally:
        connection.close()


def test_what_is_not_stored_is_protected_while_it_runs_and_leaves_nothing(
    launch: Launch, backend: Backend, config: JsonObject, upstream: FakeUpstream, name: str
) -> None:
    env = backend.environment()
    gateway = launch(config, env=env)
    key = gateway.issue_key()
    answers: list[httpx.Response] = []
    with upstream.script(UPSTREAM, Answer(before_s=2)):
        first = threading.Thread(target=lambda: answers.append(send(gateway, key, name, store=False)))
        first.start()
        eventually(lambda: count_calls(upstream, name) == 1, within_s=5, what="the first one runs")
        second = send(gateway, key, name, store=False)
        first.join()
    assert answers[0].status_code == 200
    assert second.status_code == 409
    assert second.json()["error"]["code"] == "idempotency_conflict"
    assert second.headers["x-should-retry"] == "false"
    assert claims(gateway, env) == 0
    assert send(gateway, key, name, store=False).json()["id"] != answers[0].json()["id"]
    assert count_calls(upstream, name) == 2


def test_a_background_response_is_queued_once(gateway: Gateway, key: str, upstream: FakeUpstream, name: str) -> None:
    first, second = send(gateway, key, name, background=True), send(gateway, key, name, background=True)
    assert first.json()["id"] == second.json()["id"]
    response = f"/v1/responses/{first.json()['id']}"
    headers = {"authorization": f"Bearer {key}"}
    eventually(
        lambda: gateway.http.get(response, headers=headers).json()["status"] == "completed",
        within_s=20,
        what="it is made",
    )
    third = send(gateway, key, name, background=True)
    assert (third.json()["id"], third.json()["status"]) == (first.json()["id"], "completed")
    assert count_calls(upstream, name) == 1


def test_a_claim_of_a_killed_process_is_taken_over(
    launch: Launch, backend: Backend, config: JsonObject, upstream: FakeUpstream, name: str
) -> None:
    gateway = launch(config, env=backend.environment())
    key = gateway.issue_key()
    with upstream.script(UPSTREAM, Answer(before_s=30)), ThreadPoolExecutor(1) as threads:
        first = threads.submit(send, gateway, key, name)
        eventually(lambda: count_calls(upstream, name) == 1, within_s=5, what="the first one runs")
        gateway.kill(whole=True)
        with pytest.raises(httpx.HTTPError):
            first.result()
    gateway.start()
    assert send(gateway, key, name).status_code == 200
    assert count_calls(upstream, name) == 2
