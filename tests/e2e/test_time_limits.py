"""Time limits, deadlines of clients, and hedging, as clients and the ledger see them."""

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from tests.e2e.conftest import ENVIRONMENT, PRICES
from tests.e2e.gateway import MASTER_KEY, Gateway, decimal_cost, events, eventually
from tests.fakes.upstream import CREDENTIAL, Answer, FakeUpstream

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

ASK: list[Any] = [{"role": "user", "content": "Say hello."}]
#: A head and comments, never an event: an upstream that is busy, or lost.
PINGS = Answer(prefix=b": ping\n\n" * 3, stop_after=0, ending="stall")
LATE = Answer(before_s=2.0)


@pytest.fixture(scope="module")
def gateway(upstream: FakeUpstream, backend: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    def at(name: str, model: str, **params: Any) -> dict[str, Any]:
        given = {"model": f"openai/{model}", "api_base": upstream.url, "api_key": CREDENTIAL, **PRICES, **params}
        return {"model_name": name, "litellm_params": given}

    def pair(name: str, first: str) -> list[dict[str, Any]]:
        return [at(name, first, order=1), at(name, "timed-good", order=2)]

    config = {
        "model_list": [
            at("pings", "timed-pings", order=1, stream_timeout=0.5),
            at("pings", "timed-good", order=2),
            at("good", "timed-good"),
            at("grouped", "up-silent"),
            at("stalls", "up-stall", stream_idle_timeout=0.5),
            at("endless", "up-stall"),
            at("silent", "up-silent"),
            *pair("hedged", "up-silent"),
            *pair("hedged-late", "timed-late"),
        ],
        "router_settings": {
            "num_retries": 2,
            "model_group_timeouts": {"grouped": {"timeout": 0.5}},
            "hedging": {"hedged": {"after": 0.3}, "hedged-late": {"after": 0.3}},
            "disable_cooldowns": True,
        },
    }
    home = tmp_path_factory.mktemp(f"times-{backend.name}")
    running = Gateway(home, config=config, env={**ENVIRONMENT, **backend.environment()})
    with upstream.script("timed-pings", PINGS), upstream.script("timed-late", LATE):
        try:
            yield running.start()
            running.stop()
        finally:
            running.close()


def post(gateway: Gateway, key: str, path: str, body: dict[str, Any], **headers: str) -> Any:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return gateway.http.post(path, json=body, headers=named | {"authorization": f"Bearer {key}"})


def chat(gateway: Gateway, key: str, model: str, *, stream: bool = False, **headers: str) -> Any:
    return post(gateway, key, "/v1/chat/completions", {"model": model, "messages": ASK, "stream": stream}, **headers)


def test_a_stream_without_an_event_goes_to_another_deployment(gateway: Gateway) -> None:
    answer = chat(gateway, gateway.issue_key(), "pings", stream=True)
    assert answer.status_code == 200
    assert events(answer.content)[-1] == "[DONE]"


def test_the_limit_of_a_group_binds_its_deployments(gateway: Gateway) -> None:
    answer = chat(gateway, gateway.issue_key(), "grouped")
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "upstream_timeout")


def test_a_silence_within_a_stream_ends_it_with_an_error_event(gateway: Gateway) -> None:
    answer = chat(gateway, gateway.issue_key(), "stalls", stream=True)
    frames = events(answer.content)
    assert "upstream_timeout" in frames[-1]
    assert "[DONE]" not in frames


@pytest.mark.parametrize(
    "headers",
    [{"grpc_timeout": "500m"}, {"x_envoy_expected_rq_timeout_ms": "500"}, {"x_litellm_timeout": "0.5"}],
    ids=lambda headers: next(iter(headers)),
)
def test_the_clients_time_ends_a_call_in_its_own_dialect(gateway: Gateway, headers: dict[str, str]) -> None:
    key = gateway.issue_key()
    answer = chat(gateway, key, "silent", **headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")
    [row] = gateway.wait_rows(1, api_key=key)
    assert row["status"] == "failure"
    body = {"model": "silent", "max_tokens": 9, "messages": ASK}
    answer = post(gateway, key, "/v1/messages", body, **headers)
    assert (answer.status_code, answer.json()["error"]["type"]) == (504, "timeout_error")
    answer = post(gateway, key, "/v1/responses", {"model": "silent", "input": "hello"}, **headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")


def test_a_deadline_ends_a_stream_that_has_begun(gateway: Gateway) -> None:
    answer = chat(gateway, gateway.issue_key(), "endless", stream=True, grpc_timeout="1S")
    frames = events(answer.content)
    assert answer.status_code == 200
    assert "deadline_exceeded" in frames[-1]
    assert "[DONE]" not in frames


def test_a_deadline_that_is_over_costs_nothing(gateway: Gateway, upstream: FakeUpstream) -> None:
    before = len(upstream.of("timed-good"))
    answer = chat(gateway, gateway.issue_key(), "pings", x_request_deadline="2020-01-01T00:00:00Z")
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert len(upstream.of("timed-good")) == before


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses", "/v1/embeddings"])
@pytest.mark.parametrize("name", ["x-litellm-timeout", "grpc-timeout", "x-envoy-expected-rq-timeout-ms"])
def test_a_time_that_cannot_be_read_is_the_clients_error(gateway: Gateway, path: str, name: str) -> None:
    key = gateway.issue_key()
    body = {"model": "silent", "messages": ASK, "input": "hello", "max_tokens": 9}
    for value in ("-1", "1e999", "nan", "9" * 10_000):
        answer = post(gateway, key, path, body, **{name: value})
        assert answer.status_code == 400, value
        assert name in answer.json()["error"]["message"]


# Hedging


@pytest.fixture
def rested(gateway: Gateway) -> None:
    """Each call adds a tenth of an attempt to the retry budget, which the tests before have used up."""
    for _ in range(40):
        assert chat(gateway, MASTER_KEY, "good").status_code == 200


@pytest.mark.usefixtures("rested")
@pytest.mark.parametrize("stream", [False, True])
def test_a_second_deployment_answers_and_both_are_paid(gateway: Gateway, stream: bool) -> None:
    key = gateway.issue_key(max_budget=1)
    answer = chat(gateway, key, "hedged", stream=stream)
    assert (answer.status_code, answer.headers["x-tollgate-hedged"]) == (200, "true")
    rows = gateway.wait_priced(2, api_key=key)
    assert sorted(row["status"] for row in rows) == ["failure", "success"]
    costs = [decimal_cost(row) for row in rows]
    assert min(costs) > 0

    def is_settled() -> bool:
        spent = gateway.admin.get("/key/info", params={"key": key}).json()["info"]["spend"]
        return Decimal(str(spent)) == sum(costs)

    eventually(is_settled, within_s=20, what="the key's spend is the sum of both rows")


@pytest.mark.usefixtures("rested")
def test_a_budget_that_pays_for_one_attempt_has_no_second(gateway: Gateway, upstream: FakeUpstream) -> None:
    body = {"model": "hedged-late", "messages": ASK, "max_tokens": 1000}
    key = gateway.issue_key(max_budget=0.0009)
    before = len(upstream.of("timed-good"))
    answer = post(gateway, key, "/v1/chat/completions", body)
    assert (answer.status_code, "x-tollgate-hedged" in answer.headers) == (200, False)
    assert len(gateway.wait_priced(1, api_key=key)) == 1
    assert len(upstream.of("timed-good")) == before
    answer = post(gateway, gateway.issue_key(max_budget=1), "/v1/chat/completions", body)
    assert (answer.status_code, "x-tollgate-hedged" in answer.headers) == (200, True)


@pytest.mark.usefixtures("rested")
def test_a_response_is_made_once(gateway: Gateway, upstream: FakeUpstream) -> None:
    key = gateway.issue_key()
    before = len(upstream.of("timed-good"))
    answer = post(gateway, key, "/v1/responses", {"model": "hedged-late", "input": "hello"})
    assert answer.status_code == 200
    assert len(upstream.of("timed-good")) == before
