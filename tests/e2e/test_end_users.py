"""End users that requests name: blocked within a second, limited, and known from their first call on."""

import time
import uuid

import httpx
import pytest

from gateway.protocol.json.types import JsonObject
from tests.e2e.gateway import BUSY, Gateway, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

ASK = [{"role": "user", "content": "How much is left? " * 300}]  # no fewer tokens than the scripted usage
#: Endpoint → its body, with the end user in the words of its format.
BODIES: dict[str, JsonObject] = {
    "/v1/chat/completions": {"messages": ASK, "user": "{}"},
    "/v1/messages": {"messages": ASK, "max_tokens": 400, "metadata": {"user_id": "{}"}},
    "/v1/responses": {"input": "Hi", "store": False, "safety_identifier": "{}"},
}


def name_end_user(body: JsonObject, name: str) -> JsonObject:
    return {
        field: name if value == "{}" else {"user_id": name} if field == "metadata" else value
        for field, value in body.items()
    }


def call(gateway: Gateway, key: str, path: str, name: str) -> httpx.Response:
    return gateway.call(key, path, **{"model": "priced", **name_end_user(BODIES[path], name)})


@pytest.fixture
def key(gateway: Gateway) -> str:
    response = gateway.admin.post("/key/generate", json={})
    text: str = response.json()["key"]
    return text


def new_name() -> str:
    return f"eve-{uuid.uuid4().hex}"


@pytest.mark.parametrize("path", BODIES)
def test_a_blocked_end_user_is_refused_within_a_second(gateway: Gateway, key: str, path: str) -> None:
    name, other = new_name(), new_name()
    assert call(gateway, key, path, name).status_code == 200
    began = time.monotonic()
    gateway.admin.post("/customer/block", json={"user_ids": [name]}).raise_for_status()
    eventually(lambda: call(gateway, key, path, name).status_code == 403, within_s=1, what="the block is seen")
    assert time.monotonic() - began < BUSY * 1.5
    assert f"The end user '{name}' is blocked." in call(gateway, key, path, name).text
    assert call(gateway, key, path, other).status_code == 200
    gateway.admin.post("/customer/unblock", json={"user_ids": [name]}).raise_for_status()
    eventually(lambda: call(gateway, key, path, name).status_code == 200, within_s=1, what="the end of the block")


def test_an_end_user_is_known_after_the_first_call(gateway: Gateway, key: str) -> None:
    name = new_name()
    assert call(gateway, key, "/v1/chat/completions", name).status_code == 200

    def find() -> JsonObject | None:
        response = gateway.admin.get("/customer/info", params={"end_user_id": name})
        row: JsonObject = response.json()
        return row if response.status_code == 200 and row["spend"] else None

    row = eventually(lambda: find() or False, within_s=10, what="the row of the end user")
    assert (row["blocked"], row["budget_id"]) == (False, None)
    assert row["spend"] == pytest.approx(0.00034845)


def test_a_shared_budget_binds_each_end_user_for_itself(gateway: Gateway, key: str) -> None:
    budget = gateway.admin.post("/budget/new", json={"rpm_limit": 2, "max_budget": 1}).json()["budget_id"]
    names = [new_name(), new_name()]
    for name in names:
        gateway.admin.post("/customer/new", json={"user_id": name, "budget_id": budget}).raise_for_status()
    time.sleep(BUSY * 0.6)  # a call before the change is seen would take nothing
    for name in names:
        statuses = [call(gateway, key, path, name).status_code for path in BODIES]
        assert statuses == [200, 200, 429]
