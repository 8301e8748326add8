"""The client of /api/ in contract tests, and the shape of its errors."""

import json
from typing import Any

from gateway.protocol.json.types import JsonObject
from tests.contract.management import MASTER, Api

PROBLEM = {"type", "title", "status", "detail", "code", "param", "errors"}


def send(api: Api, method: str, path: str, body: Any = None, *, by: str | None = MASTER, **headers: str) -> Any:
    raw = b"" if body is None else json.dumps(body).encode()
    return api.client.generic(
        method, f"/api/{path}", raw, content_type="application/json", headers={**api.headers(by), **headers}
    )


def ask(api: Api, method: str, path: str, body: Any = None, *, by: str | None = MASTER, status: int = 200) -> Any:
    """The answer of a call that succeeds."""
    response = send(api, method, path, body, by=by)
    assert response.status_code == status, response.content
    return response.json() if response.content else None


def problem(response: Any, status: int, param: str | None = None, code: str | None = None) -> JsonObject:
    """The problem details of a response that was refused."""
    assert response.status_code == status, response.content
    assert response["Content-Type"] == "application/problem+json"
    details: JsonObject = response.json()
    assert set(details) == PROBLEM
    assert details["status"] == status
    assert details["type"] == f"urn:tollgate:problem:{details['code']}"
    assert details["param"] == param, details
    if code is not None:
        assert details["code"] == code
    return details
