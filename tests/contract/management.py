"""The shared part of the management API's suites: the three people, a client with a key, and the error shape."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.test import Client
from django_scopes import scopes_disabled

from gateway.protocol.json.types import JsonObject
from tenants.access import digest_of
from tenants.keys import issue_key
from tenants.models import KeyType, Organization, Role, Team, User, VirtualKey

MASTER = "sk-master-of-the-contract-suite"
OWN_KEY = "sk-Own-Key-7f3a9c5e1b24d8f60a7c35"
ERROR = {"message", "type", "param", "code"}


@dataclass(frozen=True, slots=True)
class People:
    """Keys of the three, and where they belong."""

    owner: str
    mate: str
    stranger: str
    team: Team
    home: Organization
    abroad: Organization


class Api:
    """The test client with JSON in and out, with the master key unless `by` is another."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def get(self, path: str, query: JsonObject | None = None, *, by: str | None = MASTER) -> Any:
        return self.client.get(path, query, headers=self.headers(by))

    def post(
        self, path: str, body: Any = None, *, by: str | None = MASTER, headers: Mapping[str, str] | None = None
    ) -> Any:
        raw = body if isinstance(body, bytes) else json.dumps({} if body is None else body)
        headers = {**self.headers(by), **(headers or {})}
        return self.client.post(path, raw, content_type="application/json", headers=headers)

    def issue(self, **fields: Any) -> JsonObject:
        response = self.post("/key/generate", fields)
        assert response.status_code == 200, response.content
        answer: JsonObject = response.json()
        return answer

    def info(self, key: str) -> JsonObject:
        response = self.get("/key/info", {"key": key})
        assert response.status_code == 200, response.content
        info: JsonObject = response.json()["info"]
        return info

    @staticmethod
    def headers(key: str | None) -> dict[str, str]:
        return {} if key is None else {"authorization": f"Bearer {key}"}


def refused(response: Any, status: int, param: str | None = None, code: str | None = None) -> JsonObject:
    """The error of a response that has the one error shape."""
    assert response.status_code == status, response.content
    assert response["Content-Type"] == "application/json"
    error: JsonObject = response.json()["error"]
    assert set(error) == ERROR
    assert error["message"]
    assert error["param"] == param
    if code is not None:
        assert error["code"] == code
    return error


def key_row(text: str) -> VirtualKey:
    with scopes_disabled():
        row: VirtualKey = VirtualKey.objects.select_related("user", "organization").get(digest=digest_of(text))
    return row


def key_count() -> int:
    with scopes_disabled():
        count: int = VirtualKey.objects.count()
    return count


def issue_role_key(organization: Organization, role: Role, username: str = "ruler") -> str:
    """A management key of a new user with this role in the organization."""
    user = User.objects.create(username=username, organization=organization, role=role)
    with scopes_disabled():
        issued = issue_key(organization=organization, user=user)
        VirtualKey.objects.filter(pk=issued.key.pk).update(type=KeyType.MANAGEMENT)
    return issued.text
