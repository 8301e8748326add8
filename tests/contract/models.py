"""The shared part of the suites of /model/*: a client that records all answers, and the rows behind them."""

import json
from collections.abc import Iterator
from typing import Any

from django.test import Client
from django_scopes import scopes_disabled

from billing.models import Price
from gateway.models import Deployment
from gateway.models.encryption import unseal
from gateway.protocol.json.types import JsonObject
from tenants.access import ensure_master_key

MASTER = "sk-master-of-the-model-suite"
SECRET = "sk-upstream-credential-4711"
ERROR = {"message", "type", "param", "code"}
OPENAI = {"model": "openai/gpt-4o", "api_key": SECRET}
LOCAL = {"model": "xinference/qwen", "api_base": "http://qwen.example:9997/v1"}


class Api:
    def __init__(self, client: Client) -> None:
        self.client = client
        self.bodies: list[str] = []

    def post(self, path: str, body: Any, *, by: str = MASTER) -> Any:
        raw = body if isinstance(body, str) else json.dumps(body)
        response = self.client.post(
            path, raw, content_type="application/json", headers={"authorization": f"Bearer {by}"}
        )
        self.bodies.append(response.content.decode())
        return response

    def patch(self, model_id: str, body: Any) -> Any:
        raw = body if isinstance(body, str) else json.dumps(body)
        path, headers = f"/model/{model_id}/update", {"authorization": f"Bearer {MASTER}"}
        response = self.client.patch(path, raw, content_type="application/json", headers=headers)
        self.bodies.append(response.content.decode())
        return response

    def get(self, path: str, query: JsonObject | None = None, *, by: str = MASTER) -> Any:
        response = self.client.get(path, query, headers={"authorization": f"Bearer {by}"})
        self.bodies.append(response.content.decode())
        return response

    def new(self, params: JsonObject, *, name: str = "chat", **info: Any) -> JsonObject:
        return answer_of(self.post("/model/new", {"model_name": name, "litellm_params": params, "model_info": info}))

    def update(self, model_id: str, *, info: JsonObject | None = None, **fields: Any) -> JsonObject:
        return answer_of(self.post("/model/update", {**fields, "model_info": {**(info or {}), "id": model_id}}))

    def info(self, model_id: str) -> JsonObject:
        (model,) = answer_of(self.get("/model/info", {"litellm_model_id": model_id}))["data"]
        return dict(model)


def watched(client: Client) -> Iterator[Api]:
    """A client; at its end the credential stands in none of its answers."""
    ensure_master_key(MASTER, "environment")
    api = Api(client)
    yield api
    assert not [text for text in api.bodies if SECRET in text], "a credential was shown"


def answer_of(response: Any) -> JsonObject:
    assert response.status_code == 200, response.content
    answer: JsonObject = response.json()
    return answer


def refused(response: Any, status: int, param: str | None, code: str | None = None) -> JsonObject:
    assert response.status_code == status, response.content
    error: JsonObject = response.json()["error"]
    assert set(error) == ERROR
    assert error["param"] == param
    if code is not None:
        assert error["code"] == code
    return error


def row_of(model_id: str) -> Deployment:
    with scopes_disabled():
        row: Deployment = Deployment.objects.get(id=model_id)
        return row


def secrets_of(model_id: str) -> dict[str, str]:
    row = row_of(model_id)
    return {name: secret.reveal() for name, secret in unseal(context=row.id, sealed=row.credential).items()}


def lines_of(model_id: str) -> dict[str, str]:
    lines: dict[str, str] = Price.objects.get(id=row_of(model_id).price_id).lines
    return lines
