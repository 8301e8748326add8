"""The isolation matrix of the data plane: every endpoint × 6 actors, from one table. An endpoint without a row fails.

The letters of a row stand for the actors: `+` served, `n` 404, `f` 403, `u` 401.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from gateway import api
from gateway.protocol.json.types import JsonObject
from gateway.protocol.registry import scan
from tests.e2e.conftest import Launch
from tests.e2e.gateway import Gateway

#: anonymous; a blocked key; the owner; a key of its team; that with other models; the owner's namesake elsewhere.
ACTORS = ("anonymous", "revoked", "owner", "mate", "restricted", "stranger")
STATUSES = {"n": 404, "f": 403, "u": 401}
ASK: JsonObject = {"model": "chat", "messages": [{"role": "user", "content": "hi"}]}


@dataclass(frozen=True, slots=True)
class Route:
    cells: str
    body: JsonObject = field(default_factory=dict)


#: `{response}` and `{conversation}` are the owner's; the last of a kind deletes it.
ROUTES = {
    "POST /v1/chat/completions": Route("uu++f+", ASK),
    "POST /v1/completions": Route("uu++f+", {"model": "chat", "prompt": "hi"}),
    "POST /v1/embeddings": Route("uu++f+", {"model": "embed", "input": "hi"}),
    "POST /v1/messages": Route("uu++f+", {**ASK, "max_tokens": 9}),
    "POST /v1/messages/count_tokens": Route("uu++f+", ASK),
    "GET /v1/models": Route("uu++++"),
    "GET /v1/models/chat": Route("uu++n+"),
    "GET /v1/key": Route("uu++++"),
    "GET /v1/nothing": Route("nnnnnn"),
    "POST /openai/deployments/chat/chat/completions": Route("uu++f+", ASK),
    "POST /openai/v1/chat/completions": Route("uu++f+", ASK),
    "GET /openai/v1/nothing": Route("nnnnnn"),
    "GET /openai/deployments/nothing": Route("nnnnnn"),
    "GET /metrics": Route("uuffff"),
    "GET /health/liveliness": Route("++++++"),
    "GET /health/liveness": Route("++++++"),
    "GET /health/readiness": Route("++++++"),
    "POST /v1/responses": Route("uu++f+", {"model": "chat", "input": "hi"}),
    "GET /v1/responses/{response}": Route("uu+++n"),
    "GET /v1/responses/{response}/input_items": Route("uu+++n"),
    "GET /v1/conversations/{conversation}": Route("uu+++n"),
    "POST /v1/conversations/{conversation}": Route("uu+++n", {"metadata": {"a": "b"}}),
    "GET /v1/conversations/{conversation}/items": Route("uu+++n"),
    "DELETE /v1/responses/{response}": Route("uu+++n"),
    "DELETE /v1/conversations/{conversation}": Route("uu+++n"),
}


def test_every_endpoint_has_a_row():
    rows = {name.partition(" ")[2] for name in ROUTES}
    for endpoint in scan(api, "ENDPOINT").values():
        for path in endpoint.paths:
            versioned = path if path.startswith(("/v1", "/health", "/metrics", "/openai")) else f"/v1{path}"
            assert any(row == versioned or (endpoint.prefix and row.startswith(versioned)) for row in rows), path


@pytest.fixture
def keys(launch: Launch, config: JsonObject) -> tuple[Gateway, dict[str, str]]:
    gateway = launch(config)
    team = gateway.admin.post("/team/new", json={}).json()["team_id"]
    abroad = gateway.admin.post("/organization/new", json={"organization_alias": "Umbrella"}).json()["organization_id"]
    keys = {
        "anonymous": "",
        "revoked": gateway.issue_key(team_id=team, blocked=True),
        "owner": gateway.issue_key(team_id=team, user_id="ada"),
        "mate": gateway.issue_key(team_id=team, user_id="bob"),
        "restricted": gateway.issue_key(team_id=team, models=["priced"]),
        "stranger": gateway.issue_key(organization_id=abroad),
    }
    return gateway, keys


def ask(gateway: Gateway, key: str, name: str, body: JsonObject) -> httpx.Response:
    method, path = name.split()
    headers = {"authorization": f"Bearer {key}"} if key else {}
    json: Any = None if method in {"GET", "DELETE"} else body
    return gateway.http.request(method, path, json=json, headers=headers)


def test_an_endpoint_serves_what_the_table_says(keys: tuple[Gateway, dict[str, str]]):
    gateway, holders = keys
    makers: dict[str, Callable[[], str]] = {
        "{response}": lambda: make(gateway, holders["owner"], "/v1/responses", {"model": "chat", "input": "hi"}),
        "{conversation}": lambda: make(gateway, holders["owner"], "/v1/conversations", {}),
    }
    failures = []
    for name, route in ROUTES.items():
        for actor, cell in zip(ACTORS, route.cells, strict=True):
            asked, absent = name, ""
            for kind, maker in makers.items():
                if kind in name:
                    object_id = maker()
                    asked, absent = name.replace(kind, object_id), name.replace(kind, object_id[:-4] + "0000")
            answer = ask(gateway, holders[actor], asked, route.body)
            expected = STATUSES.get(cell, 200)
            if answer.status_code != expected:
                failures.append(f"{name} {actor}: {answer.status_code} instead of {expected}: {answer.text[:200]}")
            if absent and cell == "n":
                other = ask(gateway, holders[actor], absent, route.body)
                ids = asked.split("/")[3], absent.split("/")[3]
                if answer.text.replace(ids[0], "{id}") != other.text.replace(ids[1], "{id}"):
                    failures.append(f"{name} {actor}: {answer.text} tells it from an absent one")
    assert failures == []


def make(gateway: Gateway, key: str, path: str, body: JsonObject) -> str:
    answer = gateway.http.post(path, json=body, headers={"authorization": f"Bearer {key}"})
    assert answer.status_code == 200, answer.text
    object_id: str = answer.json()["id"]
    return object_id
