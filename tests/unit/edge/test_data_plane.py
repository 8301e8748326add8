"""The data plane without its runtime: endpoints answer 503, Django is served."""

from typing import Any

import orjson
import pytest

from gateway import api
from gateway.edge.asgi_types import Receive, Scope, Send
from gateway.edge.data_plane import DataPlane
from gateway.protocol.registry import scan
from tests.fakes.memory import play


async def django(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})


def messages_of(kind: str, path: str, **members: Any) -> list[Any]:
    sent: list[Any] = []

    async def receive() -> dict[str, str]:
        return {"type": f"{kind}.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    data_plane = DataPlane(scan(api, "ENDPOINT"), django)
    play(data_plane({"type": kind, "method": "POST", "path": path, "headers": [], **members}, receive, send))
    return sent


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/v1/responses/resp_1", "/v1/unknown", "/health/readiness", "/v1/messages/"]
)
def test_an_endpoint_answers_503_before_the_runtime_is_there(path: str) -> None:
    start, body = messages_of("http", path)
    assert start["status"] == 503
    assert dict(start["headers"])[b"retry-after"] == b"1"
    assert "starting" in orjson.loads(body["body"])["error"]["message"]


@pytest.mark.parametrize("path", ["/console/", "/model/info", "/v1/model/info"])
def test_django_is_served_before_the_runtime_is_there(path: str) -> None:
    assert messages_of("http", path)[0]["status"] == 204


def test_a_websocket_is_refused_before_the_runtime_is_there() -> None:
    start, _ = messages_of("websocket", "/v1/responses", extensions={"websocket.http.response": {}})
    assert (start["type"], start["status"]) == ("websocket.http.response.start", 503)
    assert [message["type"] for message in messages_of("websocket", "/v1/responses")] == ["websocket.close"]
