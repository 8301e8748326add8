"""Virtual keys and teams: LiteLLM's endpoints, and what a key then may do."""

import hashlib
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import openai
import pytest

from tests.e2e.gateway import MASTER_KEY, Gateway, decimal_cost, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(60)]


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def status_of(gateway: Gateway, key: str, model: str = "chat") -> int:
    return gateway.call(key, model=model).status_code


def refused_soon(gateway: Gateway, key: str, status: int = 401, model: str = "chat") -> None:
    """Revocation acts within 1 s."""
    eventually(lambda: status_of(gateway, key, model) == status, within_s=1, what=f"{model} is refused with {status}")


def test_an_issued_key_is_answered_once_and_in_full(gateway: Gateway) -> None:
    team = gateway.admin.post("/team/new", json={"team_alias": "full"}).json()["team_id"]
    fields: dict[str, Any] = {
        "key_alias": f"full-{gateway.port}",
        "models": ["chat", "embed"],
        "duration": "30d",
        "metadata": {"purpose": "测试", "n": 1},
        "team_id": team,
        "user_id": "user-42",
    }
    response = gateway.admin.post("/key/generate", json=fields)
    assert response.status_code == 200, response.text
    answer = response.json()
    key = answer["key"]
    gateway.issued.append(key)
    assert key.startswith("sk-")
    assert len(key) >= 40  # at least 190 random bits
    assert answer["token"] == digest(key)
    assert answer["key_name"] == f"sk-...{key[-4:]}"
    assert {name: answer[name] for name in fields if name != "duration"} == {
        name: value for name, value in fields.items() if name != "duration"
    }
    expires = datetime.fromisoformat(answer["expires"])
    assert abs(expires - datetime.now(UTC) - timedelta(days=30)) < timedelta(minutes=1)
    assert status_of(gateway, key) == 200
    assert key not in gateway.admin.get("/key/info", params={"key": key}).text
    assert key not in gateway.admin.get("/key/list", params={"return_full_object": "true", "size": 100}).text


def test_an_empty_request_issues_a_key_for_every_model(gateway: Gateway) -> None:
    keys = {gateway.issue_key() for _ in range(3)}
    assert len(keys) == 3
    assert status_of(gateway, keys.pop(), "priced") == 200


def test_a_key_may_be_given_its_own_value(gateway: Gateway) -> None:
    own = "sk-own-value-" + digest(gateway.url)[:40]
    assert gateway.issue_key(key=own) == own
    assert status_of(gateway, own) == 200
    again = gateway.admin.post("/key/generate", json={"key": own})
    assert again.status_code == 400, again.text
    short = gateway.admin.post("/key/generate", json={"key": "sk-short"})
    assert short.status_code == 400, short.text


CARRIERS = {
    "bearer": ("authorization", "Bearer {}"),
    "lower-case bearer": ("authorization", "bearer {}"),
    "bare": ("authorization", "{}"),
    "x-api-key": ("x-api-key", "{}"),
    "api-key": ("api-key", "{}"),
    "x-goog-api-key": ("x-goog-api-key", "{}"),
    "x-litellm-api-key": ("x-litellm-api-key", "{}"),
    "x-litellm-api-key bearer": ("x-litellm-api-key", "Bearer {}"),
}


@pytest.mark.parametrize("carrier", CARRIERS)
def test_a_key_is_read_from_every_carrier(gateway: Gateway, key: str, carrier: str) -> None:
    name, form = CARRIERS[carrier]
    body = {"model": "chat", "messages": [{"role": "user", "content": "hi"}]}
    for text, status in ((key, 200), (key[:-1] + "?", 401)):
        response = gateway.http.post("/v1/chat/completions", json=body, headers={name: form.format(text)})
        assert response.status_code == status, (carrier, response.text)
    assert gateway.http.get("/v1/models", headers={name: form.format(key)}).status_code == 200


def test_the_master_key_calls_models_too(gateway: Gateway) -> None:
    assert status_of(gateway, MASTER_KEY) == 200


def test_a_key_is_never_read_from_the_address(gateway: Gateway, key: str) -> None:
    for name in ("key", "api_key"):
        assert gateway.http.get("/v1/models", params={name: key}).status_code == 401


def test_a_key_is_found_by_its_text_and_by_its_litellm_digest(gateway: Gateway, key: str) -> None:
    for name in (key, digest(key)):
        answer = gateway.admin.get("/key/info", params={"key": name}).json()
        assert answer["info"]["key_name"] == f"sk-...{key[-4:]}"
        assert answer["key"] in {name, digest(key)}
        assert "token" not in answer["info"]
    own = gateway.http.get("/key/info", headers={"authorization": f"Bearer {key}"})
    assert own.status_code == 200, own.text
    assert own.json()["info"]["key_name"] == f"sk-...{key[-4:]}"
    unknown = gateway.admin.get("/key/info", params={"key": "sk-" + "0" * 40})
    assert unknown.status_code == 404
    assert unknown.json()["error"]["message"]


def test_a_digest_is_not_a_key(gateway: Gateway, key: str) -> None:
    assert status_of(gateway, digest(key)) == 401
    assert status_of(gateway, f"sk-{digest(key)}") == 401


def test_an_update_changes_only_the_fields_sent(gateway: Gateway) -> None:
    key = gateway.issue_key(models=["chat", "priced"], metadata={"a": 1})
    assert status_of(gateway, key, "priced") == 200
    response = gateway.admin.post("/key/update", json={"key": key, "models": ["chat"]})
    assert response.status_code == 200, response.text
    refused_soon(gateway, key, 403, "priced")
    assert status_of(gateway, key, "chat") == 200
    info = gateway.admin.get("/key/info", params={"key": key}).json()["info"]
    assert (info["models"], info["metadata"]) == (["chat"], {"a": 1})
    assert gateway.admin.post("/key/update", json={"key": digest(key), "models": []}).status_code == 200
    eventually(lambda: status_of(gateway, key, "priced") == 200, within_s=1, what="widened again")


def test_a_deleted_key_is_refused_within_a_second(gateway: Gateway) -> None:
    by_text, by_digest = gateway.issue_key(), gateway.issue_key()
    assert [status_of(gateway, by_text), status_of(gateway, by_digest)] == [200, 200]
    keys = [by_text, digest(by_digest)]
    response = gateway.admin.post("/key/delete", json={"keys": keys})
    assert response.status_code == 200, response.text
    assert response.json()["deleted_keys"] == keys
    for key in (by_text, by_digest):
        refused_soon(gateway, key)
        assert gateway.admin.get("/key/info", params={"key": key}).status_code == 404
    assert gateway.admin.post("/key/delete", json={"keys": [by_text]}).status_code in {400, 404}


def test_a_key_is_deleted_by_its_alias(gateway: Gateway) -> None:
    alias = f"short-lived-{gateway.port}"
    key = gateway.issue_key(key_alias=alias)
    assert status_of(gateway, key) == 200
    assert gateway.admin.post("/key/delete", json={"key_aliases": [alias]}).status_code == 200
    refused_soon(gateway, key)


@pytest.mark.parametrize("by", [str, digest], ids=["text", "digest"])
def test_a_blocked_key_is_refused_within_a_second_and_unblocked_again(gateway: Gateway, by: Any) -> None:
    key = gateway.issue_key()
    assert status_of(gateway, key) == 200
    blocked = gateway.admin.post("/key/block", json={"key": by(key)})
    assert blocked.status_code == 200, blocked.text
    assert blocked.json()["blocked"] is True
    refused_soon(gateway, key)
    assert gateway.admin.post("/key/unblock", json={"key": by(key)}).status_code == 200
    eventually(lambda: status_of(gateway, key) == 200, within_s=1, what="unblocked")
    assert gateway.admin.post("/key/block", json={"key": "sk-" + "0" * 40}).status_code == 404


def test_an_expired_key_is_refused_within_a_second(gateway: Gateway) -> None:
    key = gateway.issue_key(duration="2s")
    assert status_of(gateway, key) == 200
    eventually(lambda: status_of(gateway, key) == 401, within_s=3.5, what="the key expires after 2 s")


def test_a_restricted_key_sees_and_calls_its_models_only(gateway: Gateway) -> None:
    client = gateway.openai(gateway.issue_key(models=["chat"]))
    assert [model.id for model in client.models.list()] == ["chat"]
    messages: Any = [{"role": "user", "content": "hi"}]
    client.chat.completions.create(model="chat", messages=messages)
    with pytest.raises(openai.PermissionDeniedError) as refused:
        client.chat.completions.create(model="priced", messages=messages)
    assert refused.value.code == "model_not_found"
    assert refused.value.param == "model"
    assert "priced" in refused.value.message
    assert "chat" not in refused.value.message  # an error does not list the allowed models
    with pytest.raises(openai.APIStatusError) as hidden:
        client.models.retrieve("priced")
    assert hidden.value.status_code in {403, 404}


def test_keys_are_listed_in_pages(gateway: Gateway) -> None:
    team = gateway.admin.post("/team/new", json={"team_alias": "pages"}).json()["team_id"]
    keys = [gateway.issue_key(team_id=team) for _ in range(5)]
    pages = [
        gateway.admin.get("/key/list", params={"team_id": team, "page": page, "size": 2}).json() for page in (1, 2, 3)
    ]
    assert [(p["total_count"], p["current_page"], p["total_pages"]) for p in pages] == [
        (5, 1, 3),
        (5, 2, 3),
        (5, 3, 3),
    ]
    assert sorted(key for page in pages for key in page["keys"]) == sorted(map(digest, keys))
    full = gateway.admin.get("/key/list", params={"team_id": team, "return_full_object": "true"}).json()["keys"]
    assert {row["token"] for row in full} == set(map(digest, keys))
    one = gateway.admin.get("/key/list", params={"key_hash": digest(keys[0])}).json()
    assert one["keys"] == [digest(keys[0])]


def test_an_alias_is_unique(gateway: Gateway) -> None:
    alias = f"only-one-{gateway.port}"
    gateway.issue_key(key_alias=alias)
    second = gateway.admin.post("/key/generate", json={"key_alias": alias})
    assert second.status_code == 400, second.text
    assert second.json()["error"]["param"] == "key_alias"


def test_teams_are_made_shown_and_listed(gateway: Gateway) -> None:
    team_id = f"litellm-team-{gateway.port}"
    fields = {"team_id": team_id, "team_alias": "数据组", "models": ["chat"], "metadata": {"cost_center": "7"}}
    response = gateway.admin.post("/team/new", json=fields)
    assert response.status_code == 200, response.text
    assert {name: response.json()[name] for name in fields} == fields
    assert gateway.admin.post("/team/new", json=fields).status_code == 400
    key = gateway.issue_key(team_id=team_id)
    team = gateway.admin.get("/team/info", params={"team_id": team_id}).json()
    assert team["team_id"] == team_id
    assert team["team_info"]["team_alias"] == "数据组"
    assert digest(key) in json.dumps(team["keys"])
    assert key not in json.dumps(team)
    assert team_id in [row["team_id"] for row in gateway.admin.get("/team/list").json()]
    assert gateway.admin.get("/team/info", params={"team_id": "no-such-team"}).status_code == 404
    assert gateway.admin.post("/key/generate", json={"team_id": "no-such-team"}).status_code in {400, 404}


def test_a_key_without_models_may_call_what_its_team_may(gateway: Gateway) -> None:
    team = gateway.admin.post("/team/new", json={"team_alias": "narrow", "models": ["chat"]}).json()["team_id"]
    key = gateway.issue_key(team_id=team)
    assert status_of(gateway, key, "chat") == 200
    assert status_of(gateway, key, "priced") == 403


MANAGEMENT = [
    ("POST", "/key/generate"),
    ("POST", "/key/update"),
    ("POST", "/key/delete"),
    ("POST", "/key/block"),
    ("POST", "/key/unblock"),
    ("GET", "/key/list"),
    ("POST", "/team/new"),
    ("GET", "/team/info"),
    ("GET", "/team/list"),
    ("GET", "/spend/logs"),
]


@pytest.mark.parametrize(("method", "path"), MANAGEMENT)
def test_only_the_master_key_manages(gateway: Gateway, key: str, method: str, path: str) -> None:
    body = {"key": key, "keys": [key], "team_alias": "taken over"} if method == "POST" else None
    for headers, statuses in (
        ({}, {401}),
        ({"authorization": "Bearer sk-wrong-" + "0" * 40}, {401}),
        ({"authorization": f"Bearer {key}"}, {401, 403}),
    ):
        response = gateway.http.request(method, path, json=body, headers=headers)
        assert response.status_code in statuses, (path, response.text)
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    assert status_of(gateway, key) == 200


def test_the_command_line_issues_a_key(gateway: Gateway) -> None:
    process = gateway.manage("create_key")
    assert process.returncode == 0, process.stderr
    [key] = [word.strip("\"'") for word in process.stdout.split() if word.strip("\"'").startswith("sk-")]
    gateway.issued.append(key)
    eventually(lambda: status_of(gateway, key) == 200, within_s=6, what="the key of create_key works")


def test_answers_tell_what_the_key_has_spent(gateway: Gateway, key: str) -> None:
    """Whole answers, streams and refusals, once the priced calls have been read."""
    gateway.call(key, model="priced")
    spent = decimal_cost(*gateway.wait_priced(api_key=digest(key)))

    def read_header(**body: Any) -> Decimal | None:
        text = gateway.call(key, **body).headers.get("x-litellm-key-spend")
        return Decimal(text) if text else None

    eventually(lambda: read_header(model="no such model") == spent, within_s=15, what="the spend is read")
    assert (read_header(model="priced", stream=True) or 0) >= spent
