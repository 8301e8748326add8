"""Rotation, aliases, routes, networks and the self-service of keys, in a running gateway."""

import time
from typing import Any

import httpx
import pytest

from gateway.protocol.json.types import JsonObject
from tests.e2e.gateway import MASTER_KEY, Gateway, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

ASK: list[Any] = [{"role": "user", "content": "hello"}]


def generate(gateway: Gateway, **fields: Any) -> JsonObject:
    response = gateway.admin.post("/key/generate", json=fields)
    assert response.status_code == 200, response.text
    answer: JsonObject = response.json()
    return answer


def read(gateway: Gateway, key: str, path: str) -> httpx.Response:
    return gateway.http.get(path, headers={"authorization": f"Bearer {key}"})


def status_of(gateway: Gateway, key: str, model: str = "priced") -> int:
    return gateway.call(key, "/v1/chat/completions", model=model, messages=ASK).status_code


def test_both_texts_of_a_rotated_key_work_and_count_as_one(gateway: Gateway) -> None:
    issued = generate(gateway, rpm_limit=4)
    assert status_of(gateway, issued["key"]) == 200
    answer = gateway.admin.post(f"/key/{issued['key']}/regenerate", json={"grace_period": "1h"}).json()
    time.sleep(1)
    assert [status_of(gateway, key) for key in (issued["key"], answer["key"], issued["key"])] == [200, 200, 200]
    assert {status_of(gateway, key) for key in (issued["key"], answer["key"])} == {429}  # the window went on
    status = read(gateway, issued["key"], "/v1/key").json()
    assert status["key"] == answer["token"]
    assert status["limits"][0]["used"] == 4


def test_a_rotation_without_grace_stops_the_former_text_within_a_second(gateway: Gateway) -> None:
    issued = generate(gateway)
    assert status_of(gateway, issued["key"]) == 200
    answer = gateway.admin.post("/key/regenerate", json={"key": issued["key"]}).json()
    assert status_of(gateway, answer["key"]) == 200  # at once
    eventually(lambda: status_of(gateway, issued["key"]) == 401, within_s=1.5, what="the former text to stop")


def test_an_alias_answers_under_the_name_that_was_asked_for(gateway: Gateway) -> None:
    issued = generate(gateway, aliases={"gpt-5": "priced"}, models=["priced"])
    answer = gateway.call(issued["key"], "/v1/chat/completions", model="gpt-5", messages=ASK)
    assert (answer.status_code, answer.json()["model"]) == (200, "gpt-5")
    names = [model["id"] for model in read(gateway, issued["key"], "/v1/models").json()["data"]]
    assert names == ["gpt-5", "priced"]
    narrow = generate(gateway, aliases={"gpt-5": "priced"}, models=["gpt-5"])
    assert status_of(gateway, narrow["key"], "gpt-5") == 403


def test_routes_and_networks_are_walls_on_the_data_plane(gateway: Gateway) -> None:
    embeddings = generate(gateway, allowed_routes=["/v1/embeddings"])["key"]
    refused = gateway.call(embeddings, "/v1/chat/completions", model="priced", messages=ASK)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "route_not_allowed")
    assert status_of(gateway, generate(gateway, key_type="read_only")["key"]) == 403
    assert status_of(gateway, generate(gateway, key_type="management")["key"]) == 403
    assert status_of(gateway, generate(gateway, key_type="llm_api")["key"]) == 200
    assert status_of(gateway, generate(gateway, allowed_ips=["203.0.113.0/24"])["key"]) == 403
    assert status_of(gateway, generate(gateway, allowed_ips=["127.0.0.0/8", "::1"])["key"]) == 200


def test_a_key_tells_how_full_its_limits_and_budgets_are(gateway: Gateway) -> None:
    fields = {"rpm_limit": 10, "max_budget": 5, "budget_duration": "1d", "key_alias": "self-service"}
    key = generate(gateway, **fields)["key"]
    assert status_of(gateway, key) == 200
    eventually(lambda: read(gateway, key, "/v1/key").json()["spend"] > 0, within_s=20, what="the priced call")
    status = read(gateway, key, "/v1/key").json()
    assert (status["key_alias"], status["rpm_limit"], status["max_budget"]) == ("self-service", 10, 5)
    (limit,) = status["limits"]
    assert (limit["scope"], limit["dimension"], limit["limit"], limit["used"]) == ("key", "requests", 10, 1)
    assert limit["remaining"] == 9
    (budget,) = status["budgets"]
    assert (budget["scope"], budget["limit"], budget["budget_duration"]) == ("key", 5, "1d")
    assert 0 < budget["used"] < 5
    assert 0 < budget["remaining"] <= 5 - budget["used"]
    assert budget["reset_at"] is not None
    assert read(gateway, key, "/key/info").json()["info"]["spend"] == status["spend"]
    assert read(gateway, MASTER_KEY, "/v1/key").json()["limits"] == []
    assert read(gateway, "sk-unknown", "/v1/key").status_code == 401
