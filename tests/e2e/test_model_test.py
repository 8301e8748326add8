"""POST /model/test on a running gateway: one real call to one deployment, with its row, its cost, or its error."""

from decimal import Decimal
from typing import Any

import pytest

from gateway.protocol.json.types import JsonObject
from tests.e2e.conftest import PRICES, Launch
from tests.e2e.gateway import Gateway, decimal_cost, eventually
from tests.fakes.raw import RawUpstreams
from tests.fakes.upstream import CREDENTIAL, FakeUpstream

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]


def run_test(gateway: Gateway, **body: Any) -> JsonObject:
    response = gateway.admin.post("/model/test", json=body, timeout=60)
    assert response.status_code == 200, response.text
    answer: JsonObject = response.json()
    return answer


def deploy(gateway: Gateway, base: str, model: str = "up-tested", **params: Any) -> str:
    params = {"model": f"openai/{model}", "api_base": base, "api_key": CREDENTIAL, **params}
    response = gateway.admin.post("/model/new", json={"model_name": "tested", "litellm_params": params})
    assert response.status_code == 200, response.text
    model_id: str = response.json()["model_id"]
    return model_id


def test_a_saved_model_answers_with_its_cost_and_a_row(gateway: Gateway, upstream: FakeUpstream) -> None:
    model_id = deploy(gateway, upstream.url, **PRICES)
    answer = run_test(gateway, model_id=model_id, prompt="hi there")
    assert (answer["status"], answer["error"], answer["mode"]) == ("success", None, "chat")
    assert answer["answer"]
    assert answer["usage"]["total_tokens"] > 0
    [row] = gateway.wait_priced(request_id=answer["request_id"])
    assert (row["source"], row["model_id"], row["organization_id"]) == ("probe", model_id, "default")
    assert decimal_cost(row) == Decimal(answer["cost"]) > 0
    assert answer["cost_status"] == "priced"


def test_a_blocked_model_can_be_tested_before_it_is_served(gateway: Gateway, upstream: FakeUpstream) -> None:
    model_id = deploy(gateway, upstream.url, "up-blocked", **PRICES)
    gateway.admin.post("/model/block", json={"model_id": model_id}).raise_for_status()
    answer = run_test(gateway, model_id=model_id)
    assert answer["status"] == "success"
    [row] = gateway.wait_priced(request_id=answer["request_id"])
    assert decimal_cost(row) == Decimal(answer["cost"])


def test_an_unsaved_model_is_called_and_stays_unsaved(gateway: Gateway, upstream: FakeUpstream) -> None:
    params = {"model": "openai/up-unsaved", "api_base": upstream.url, "api_key": CREDENTIAL, **PRICES}
    answer = run_test(gateway, litellm_params=params)
    assert answer["status"] == "success"
    assert gateway.admin.get("/model/info", params={"litellm_model_id": answer["model_id"]}).status_code == 404
    [row] = gateway.wait_priced(request_id=answer["request_id"])
    assert decimal_cost(row) == Decimal(answer["cost"])
    request = upstream.requests[-1]
    assert request.headers["authorization"] == f"Bearer {CREDENTIAL}"
    unpriced = run_test(gateway, litellm_params={**params, "input_cost_per_token": 0, "output_cost_per_token": None})
    assert (unpriced["cost"], unpriced["cost_status"]) == (None, "unpriced")


def test_an_embedding_model_is_asked_for_an_embedding(gateway: Gateway, upstream: FakeUpstream) -> None:
    params = {"model": "openai/up-embed", "api_base": upstream.url, "api_key": CREDENTIAL}
    answer = run_test(gateway, litellm_params=params, model_info={"mode": "embedding"})
    assert answer["mode"] == "embedding"
    assert answer["answer"].startswith("a vector of")
    assert upstream.requests[-1].path.endswith("/embeddings")


def test_the_upstreams_own_error_is_told_without_its_credential(gateway: Gateway, upstream: FakeUpstream) -> None:
    answer = run_test(gateway, model_id=deploy(gateway, upstream.url, "up-401"))
    assert answer["status"] == "error"
    error = answer["error"]
    assert (error["code"], error["upstream_status"]) == ("upstream_auth_failed", 401)
    assert error["upstream_message"]
    assert CREDENTIAL not in str(answer)
    [row] = gateway.wait_rows(1, request_id=answer["request_id"])
    assert (row["source"], row["status"], row["total_tokens"]) == ("probe", "failure", 0)


@pytest.mark.parametrize("name", ["flood", "bomb", "html", "half-json", "trace"])
def test_absurd_answers_are_errors_and_never_a_500(gateway: Gateway, upstream: FakeUpstream, name: str) -> None:
    answer = run_test(gateway, model_id=deploy(gateway, upstream.url, f"up-{name}"))
    assert answer["status"] == "error"
    assert answer["error"]["message"]
    assert len(str(answer)) < 10_000


def test_a_silent_upstream_ends_at_the_models_own_time_out(gateway: Gateway, raw: RawUpstreams) -> None:
    answer = run_test(gateway, model_id=deploy(gateway, raw.url("never-answer"), timeout=1))
    assert answer["error"]["code"] == "upstream_timeout"
    assert answer["latency_s"] >= 1


def test_a_test_leaves_the_model_in_rotation_and_goes_nowhere_else(gateway: Gateway, upstream: FakeUpstream) -> None:
    deploy(gateway, upstream.url, "up-503")
    bad = run_test(gateway, model_id=deploy(gateway, upstream.url, "up-401"))
    assert bad["status"] == "error"
    assert len(gateway.wait_rows(1, request_id=bad["request_id"])) == 1


def test_a_tenants_key_may_not_test(gateway: Gateway, upstream: FakeUpstream, key: str) -> None:
    before = len(upstream.requests)
    params = {"model": "openai/up-x", "api_base": upstream.url}
    for body in ({"model_id": "any"}, {"litellm_params": params}):
        response = gateway.http.post("/model/test", json=body, headers={"authorization": f"Bearer {key}"})
        assert response.status_code == 403, response.text
    assert gateway.http.post("/model/test", json={"litellm_params": params}).status_code == 401
    assert len(upstream.requests) == before


def test_an_inner_address_is_refused_before_any_call(gateway: Gateway) -> None:
    params = {"model": "openai/x", "api_base": "http://169.254.169.254/v1", "api_key": "k"}
    response = gateway.admin.post("/model/test", json={"litellm_params": params})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "litellm_params.api_base"


# Probes by a schedule


def health_of(gateway: Gateway, model: str) -> JsonObject:
    answer = gateway.admin.get("/health", params={"model": model}).json()
    [endpoint] = answer["healthy_endpoints"] + answer["unhealthy_endpoints"]
    probe: JsonObject = endpoint["last_probe"] or {}
    return probe


def test_the_worker_probes_by_the_clock_and_tells(launch: Launch, upstream: FakeUpstream, raw: RawUpstreams) -> None:
    def at(name: str, base: str, **info: Any) -> JsonObject:
        params = {"model": f"openai/up-{name}", "api_base": base, "api_key": CREDENTIAL, **PRICES}
        return {"model_name": name, "litellm_params": params, "model_info": info}

    config = {
        "model_list": [
            at("paid-probe", upstream.url, health_check="call"),
            at("away", raw.refused_url),
            at("left-alone", raw.refused_url, disable_background_health_check=True),
        ]
    }
    gateway = launch(config, env={"TOLLGATE_HEALTH_CHECK_INTERVAL_S": "1"})
    paid = eventually(lambda: health_of(gateway, "paid-probe") or False, within_s=30, what="a paid probe")
    assert (paid["kind"], paid["result"]) == ("call", "ok")
    away = eventually(lambda: health_of(gateway, "away") or False, within_s=30, what="a probe of the list")
    assert (away["kind"], away["result"]) == ("models", "connect")
    assert not health_of(gateway, "left-alone")
    row = gateway.spend_rows()[0]
    assert (row["source"], row["model_group"]) == ("probe", "paid-probe")
    gateway.stop()
