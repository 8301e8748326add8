"""Rate limits and budgets of keys are walls, for many clients at once."""

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import httpx
import pytest

from gateway.protocol.json.types import JsonObject
from tests.e2e.gateway import Gateway, eventually
from tests.fakes.upstream import Answer, FakeUpstream

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

ASK: list[Any] = [{"role": "user", "content": "How much is left? " * 300}]  # no fewer tokens than the scripted usage
CALL_USD = Decimal("0.00034845")  # of the scripted answer: 1207 tokens in, 256 of them cached, and 311 out
CLIENTS = 64


def generate(gateway: Gateway, **fields: Any) -> JsonObject:
    response = gateway.admin.post("/key/generate", json=fields)
    assert response.status_code == 200, response.text
    answer: JsonObject = response.json()
    return answer


def call(gateway: Gateway, key: str, **fields: Any) -> httpx.Response:
    return gateway.call(key, "/v1/chat/completions", model="priced", messages=ASK, **fields)


def test_of_many_parallel_requests_exactly_the_limit_is_admitted(gateway: Gateway) -> None:
    key = generate(gateway, rpm_limit=10)["key"]
    with ThreadPoolExecutor(CLIENTS) as pool:
        answers = list(pool.map(lambda _: call(gateway, key), range(200)))
    admitted = [answer for answer in answers if answer.status_code == 200]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert (len(admitted), len(refused)) == (10, 190)
    assert {answer.headers["x-ratelimit-limit-requests"] for answer in answers} == {"10"}
    assert sorted(int(answer.headers["x-ratelimit-remaining-requests"]) for answer in admitted) == list(range(10))
    error = refused[0].json()["error"]
    assert (error["type"], error["code"]) == ("throttling_error", "rate_limit_exceeded")
    assert error["message"].startswith("Rate limit exceeded for key. Limit type: requests. Current limit: 10 per")
    assert 0 < int(refused[0].headers["retry-after"]) <= 61


def test_a_spent_budget_is_a_wall_for_many_clients(gateway: Gateway) -> None:
    limit = Decimal("0.01")
    issued = generate(gateway, max_budget=float(limit))
    key = issued["key"]

    def spend(_: int) -> list[httpx.Response]:
        answers = [call(gateway, key, max_tokens=311)]
        while answers[-1].status_code == 200 or answers[-1].json()["error"]["code"] == "budget_held":
            time.sleep(0.1)
            answers.append(call(gateway, key, max_tokens=311))
        return answers

    with ThreadPoolExecutor(CLIENTS) as pool:
        answers = [answer for answers in pool.map(spend, range(CLIENTS)) for answer in answers]
    refusals = [answer.json()["error"] for answer in answers if answer.status_code != 200]
    assert {(error["type"], error["code"]) for error in refusals} <= {
        ("budget_exceeded", "insufficient_quota"),
        ("budget_exceeded", "budget_held"),
    }
    assert all(error["message"].startswith("Budget has been exceeded! Key") for error in refusals)
    admitted = sum(answer.status_code == 200 for answer in answers)
    assert limit / 2 < admitted * CALL_USD <= limit
    gateway.wait_priced(admitted, api_key=issued["token"])


def test_parallel_requests_are_given_back(gateway: Gateway) -> None:
    key = generate(gateway, max_parallel_requests=1)["key"]
    assert [call(gateway, key).status_code for _ in range(5)] == [200] * 5


def test_a_refused_request_burns_nothing(gateway: Gateway) -> None:
    """The token limit refuses; the request limit beside it keeps its room."""
    key = generate(gateway, rpm_limit=3, tpm_limit=10)["key"]
    assert [call(gateway, key, max_tokens=100).status_code for _ in range(5)] == [429] * 5
    gateway.admin.post("/key/update", json={"key": key, "tpm_limit": None}).raise_for_status()
    statuses = eventually(
        lambda: (answer := call(gateway, key)).status_code == 200 and answer.headers["x-ratelimit-remaining-requests"],
        within_s=3,
        what="the change is seen",
    )
    assert statuses == "2"


@pytest.mark.parametrize("stream", [False, True])
def test_every_answer_tells_the_limits(gateway: Gateway, stream: bool) -> None:
    """A whole answer, a stream, a refusal, and an error of the upstream."""
    key = generate(gateway, rpm_limit=3, tpm_limit=1_000_000)["key"]
    answers = [call(gateway, key, stream=stream), call(gateway, key, stream=stream)]
    answers.append(gateway.call(key, model="fault-500", messages=ASK, stream=stream))
    answers.append(call(gateway, key, stream=stream))
    assert [answer.status_code for answer in answers] == [200, 200, 502, 429]
    assert [answer.headers["x-ratelimit-remaining-requests"] for answer in answers] == ["2", "1", "0", "0"]
    assert {answer.headers["x-ratelimit-limit-tokens"] for answer in answers} == {"1000000"}
    resets = [answer.headers["x-ratelimit-reset-requests"] for answer in answers]
    assert all(reset.endswith("s") and 55 < float(reset[:-1]) <= 61 for reset in resets)


def test_a_refusal_by_a_budget_tells_the_limits(gateway: Gateway) -> None:
    key = generate(gateway, rpm_limit=3, max_budget=0.000001)["key"]
    answer = call(gateway, key)
    assert (answer.status_code, answer.json()["error"]["type"]) == (429, "budget_exceeded")
    assert answer.headers["x-ratelimit-remaining-requests"] == "3"


@pytest.mark.parametrize("stream", [False, True])
def test_anthropics_clients_get_their_own_names(gateway: Gateway, stream: bool) -> None:
    key = generate(gateway, rpm_limit=1)["key"]
    body = {"model": "priced", "max_tokens": 20, "messages": ASK, "stream": stream}
    answers = [gateway.http.post("/v1/messages", json=body, headers={"x-api-key": key}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 429]
    for answer in answers:
        assert answer.headers["anthropic-ratelimit-requests-limit"] == "1"
        assert answer.headers["anthropic-ratelimit-requests-remaining"] == "0"
        reset = datetime.fromisoformat(answer.headers["anthropic-ratelimit-requests-reset"])
        assert 0 < (reset - datetime.now(UTC)).total_seconds() <= 62
    assert answers[1].json()["error"]["type"] == "rate_limit_error"
    assert 0 < int(answers[1].headers["retry-after"]) <= 61


def create(gateway: Gateway, key: str, model: str = "priced") -> httpx.Response:
    return gateway.call(key, "/v1/responses", model=model, input="in the background", background=True)


def ended(gateway: Gateway, key: str, created: httpx.Response) -> str:
    def look() -> str:
        path = f"/v1/responses/{created.json()['id']}"
        response = gateway.http.get(path, headers={"authorization": f"Bearer {key}"}).json()
        return "" if response["status"] in {"queued", "in_progress"} else response["status"]

    return eventually(lambda: look() or False, within_s=20, what="the response has ended")


def test_rate_limits_refuse_a_background_response_when_it_is_created(gateway: Gateway) -> None:
    """The worker does not count it once more."""
    key = generate(gateway, rpm_limit=3, tpm_limit=1_000_000)["key"]
    answers = [create(gateway, key) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert [answer.headers["x-ratelimit-remaining-requests"] for answer in answers] == ["2", "1", "0", "0"]
    assert {ended(gateway, key, answer) for answer in answers[:3]} == {"completed"}
    assert call(gateway, key).status_code == 429


def test_background_responses_wait_for_their_slots(gateway: Gateway, upstream: FakeUpstream) -> None:
    key = generate(gateway, max_parallel_requests=1)["key"]
    with upstream.script("up-priced", Answer(gap_s=0.05, text="word " * 10)):
        answers = [create(gateway, key) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200] * 3
        assert {ended(gateway, key, answer) for answer in answers} == {"completed"}


def test_a_key_sees_how_full_its_limits_are(gateway: Gateway) -> None:
    key = generate(gateway, rpm_limit=10, max_parallel_requests=5)["key"]
    for _ in range(3):
        call(gateway, key)
    answer = gateway.http.get("/key/info", headers={"authorization": f"Bearer {key}"})
    assert answer.status_code == 200, answer.text
    rows = {row["dimension"]: row for row in answer.json()["info"]["rate_limits"]}
    requests, parallel = rows["requests"], rows["parallel"]
    assert (requests["scope"], requests["period"], requests["limit"]) == ("key", "minute", 10)
    assert (requests["used"], requests["remaining"]) == (3, 7)
    assert 50 < (datetime.fromisoformat(requests["reset_at"]) - datetime.now(UTC)).total_seconds() <= 62
    assert (parallel["used"], parallel["remaining"]) == (0, 5)
