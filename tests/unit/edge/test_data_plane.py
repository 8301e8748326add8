"""The data plane without its runtime: everything answers 503, and the health checks say why."""

import asyncio
import logging
from typing import Any

import orjson
import pytest

from gateway import api
from gateway.edge.asgi_types import Receive, Scope, Send
from gateway.edge.data_plane import DataPlane
from gateway.protocol.registry import scan
from gateway.stores.schema import RETRY_S, DatabaseNotReady, SchemaBehind
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
    "path",
    [
        *["/v1/chat/completions", "/v1/responses/resp_1", "/v1/unknown", "/v1/messages/"],
        *["/console/", "/model/info", "/v1/model/info", "/key/generate"],  # Django's, whose views need the database
    ],
)
def test_every_path_answers_503_before_the_runtime_is_there(path: str) -> None:
    start, body = messages_of("http", path)
    assert start["status"] == 503
    assert dict(start["headers"])[b"retry-after"] == b"1"
    assert "starting" in orjson.loads(body["body"])["error"]["message"]


@pytest.mark.parametrize("path", ["/health/liveliness", "/health/liveness", "/health/liveness/"])
def test_a_process_is_alive_before_the_runtime_is_there(path: str) -> None:
    assert messages_of("http", path)[0]["status"] == 200


def test_readiness_says_why_the_start_waits() -> None:
    start, body = messages_of("http", "/health/readiness")
    assert (start["status"], dict(start["headers"])[b"retry-after"]) == (503, b"1")
    assert orjson.loads(body["body"]) == {
        "status": "unhealthy",
        "db": "Not connected",
        "reason": "The gateway is starting.",
    }


def test_a_start_that_waits_is_logged_once_a_reason_and_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    away, behind = DatabaseNotReady("The database cannot be used."), SchemaBehind(["gateway.0009_x"])
    reasons: list[DatabaseNotReady] = [away, away, away, behind, SchemaBehind(["gateway.0010_y"])]
    seen: list[str] = []

    def before_start() -> None:
        if reasons:
            raise reasons.pop(0)
        raise RuntimeError("the story ends before the runtime starts")

    async def story() -> None:
        data_plane = DataPlane(scan(api, "ENDPOINT"), django)
        data_plane.before_start = before_start
        await data_plane.start()
        while reasons:
            seen.append(data_plane._state.reason)
            await asyncio.sleep(RETRY_S / 2)
        await data_plane.stop()

    with caplog.at_level(logging.ERROR):
        play(story())
    assert seen[0] == "The database cannot be used."
    lines = [record.__dict__["why"] for record in caplog.records if "why" in record.__dict__]
    assert lines == [str(away), str(behind)]
    assert "gateway.0009_x" in lines[1]


def test_a_websocket_is_refused_before_the_runtime_is_there() -> None:
    start, _ = messages_of("websocket", "/v1/responses", extensions={"websocket.http.response": {}})
    assert (start["type"], start["status"]) == ("websocket.http.response.start", 503)
    assert [message["type"] for message in messages_of("websocket", "/v1/responses")] == ["websocket.close"]
