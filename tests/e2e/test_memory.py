"""A running gateway keeps nothing of failed calls, however large their requests and however they fail."""

import json
import socket
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from websockets.sync.client import connect as open_websocket

from tests.e2e.conftest import ENVIRONMENT, SHORT
from tests.e2e.gateway import Gateway, eventually
from tests.fakes.raw import RAW_FAULTS, RAW_LARGE_FAULTS, RAW_STREAM_FAULTS, RawUpstreams
from tests.fakes.upstream import CREDENTIAL

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

MB = 1024 * 1024
TEXT = "A word in a résumé. " * (3 * MB // 21)
CALLS = 14  # which hold more than BAR where each keeps its request
BAR = 64 * MB

CHAT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"
FIELDS: dict[str, dict[str, Any]] = {
    CHAT: {"messages": [{"role": "user", "content": TEXT}]},
    MESSAGES: {"messages": [{"role": "user", "content": TEXT}], "max_tokens": 5},
    RESPONSES: {"input": TEXT},
}

Ask = Callable[[Gateway, bytes, dict[str, str]], int]


@pytest.fixture(scope="module")
def gateway(raw: RawUpstreams, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    def row(name: str, url: str) -> dict[str, Any]:
        limits = SHORT if name == "never-answer" else {"timeout": 30, "stream_timeout": 30}
        params = {"model": f"openai/up-{name}", "api_base": url, "api_key": CREDENTIAL, **limits}
        return {"model_name": name, "litellm_params": params}

    rows = [row(name, raw.url(name)) for name in {**RAW_FAULTS, **RAW_STREAM_FAULTS, **RAW_LARGE_FAULTS}]
    limits = {"TOLLGATE_MAX_BODY_BYTES": str(32 * MB), "TOLLGATE_MAX_UPSTREAM_BYTES": str(32 * MB)}
    running = Gateway(
        tmp_path_factory.mktemp("gateway-memory"),
        config={"model_list": [*rows, row("gone", raw.refused_url)]},
        env={**ENVIRONMENT, **limits},
    )
    try:
        yield running.start()
        running.stop()
    finally:
        running.close()


def body_of(path: str, model: str, **fields: Any) -> bytes:
    return json.dumps({"model": model, **FIELDS[path], **fields}, ensure_ascii=False).encode()


def post(path: str) -> Ask:
    def ask(gateway: Gateway, body: bytes, headers: dict[str, str]) -> int:
        with httpx.Client(base_url=gateway.url, timeout=60) as client:
            return client.post(path, content=body, headers=headers).status_code

    return ask


def leave_stream(path: str) -> Ask:
    def ask(gateway: Gateway, body: bytes, headers: dict[str, str]) -> int:
        with (
            httpx.Client(base_url=gateway.url, timeout=60) as client,
            client.stream("POST", path, content=body, headers=headers) as response,
        ):
            next(response.iter_raw())
            return response.status_code

    return ask


def reset_connection(gateway: Gateway, body: bytes, headers: dict[str, str]) -> int:
    """Sends the request and resets the connection: a client that closes its sending side may still read its answer."""
    fields = {**headers, "host": "x", "content-length": str(len(body))}
    lines = [f"POST {CHAT} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    with socket.create_connection(("127.0.0.1", gateway.port)) as connection:
        connection.sendall("\r\n".join(lines).encode() + body)
        time.sleep(0.2)  # the call reaches its upstream, most likely
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return 0


def take_turn(gateway: Gateway, body: bytes, headers: dict[str, str]) -> int:
    address = f"{gateway.url.replace('http', 'ws')}{RESPONSES}"
    with open_websocket(address, additional_headers=headers, max_size=None) as client:
        client.send(body.decode())
        while (event := json.loads(client.recv(timeout=60)))["type"] not in {"error", "response.failed"}:
            assert event["type"] != "response.completed"
    return int(event.get("status", 200))


STREAM = {"stream": True}
CREATE = {"type": "response.create"}
#: {kind: (path, model, further fields, how it is sent, the status that the client sees)}
KINDS: dict[str, tuple[str, str, dict[str, Any], Ask, int]] = {
    "a refusal": (CHAT, "status-400", {}, post(CHAT), 400),
    "not found": (CHAT, "status-404", {}, post(CHAT), 404),
    "too many requests": (CHAT, "status-429", {}, post(CHAT), 429),
    "an error of the upstream": (CHAT, "status-500", {}, post(CHAT), 502),
    "no connection": (CHAT, "gone", {}, post(CHAT), 502),
    "no HTTP": (CHAT, "garbage", {}, post(CHAT), 502),
    "a header that is too long": (CHAT, "long-header", {}, post(CHAT), 502),
    "a cut answer": (CHAT, "short-body", {}, post(CHAT), 502),
    "an answer that is too large": (CHAT, "flood-answer", {}, post(CHAT), 502),
    "no answer in time": (CHAT, "never-answer", {}, post(CHAT), 504),
    "a cut stream": (CHAT, "cut-stream", STREAM, post(CHAT), 200),
    "a reset stream": (CHAT, "reset-stream", STREAM, post(CHAT), 200),
    "a client that leaves": (CHAT, "stall-stream", {}, reset_connection, 0),
    "a client that leaves a stream": (CHAT, "stall-stream", STREAM, leave_stream(CHAT), 200),
    "an unknown model": (CHAT, "absent", {}, post(CHAT), 404),
    "a wrong parameter": (CHAT, "status-400", {"max_tokens": "many"}, post(CHAT), 400),
    "a cut stream of Messages": (MESSAGES, "cut-stream", STREAM, post(MESSAGES), 200),
    "too many requests, Responses": (RESPONSES, "status-429", {}, post(RESPONSES), 429),
    "a cut stream of Responses": (RESPONSES, "cut-stream", STREAM, post(RESPONSES), 200),
    "a client that leaves Responses": (RESPONSES, "stall-stream", STREAM, leave_stream(RESPONSES), 200),
    "a refused WebSocket turn": (RESPONSES, "status-429", CREATE, take_turn, 429),
    "a cut WebSocket turn": (RESPONSES, "cut-stream", CREATE, take_turn, 200),
}


def resident(gateway: Gateway) -> int:
    """The bytes of the largest process."""
    return max(process.memory_info().rss for process in gateway.processes())


def test_failed_calls_leave_nothing_in_memory(gateway: Gateway) -> None:
    headers = {"authorization": f"Bearer {gateway.issue_key()}"}
    assert gateway.call(gateway.issue_key(), model="status-400").status_code == 400
    before = resident(gateway)
    with ThreadPoolExecutor(3) as threads:
        for kind, (path, model, fields, ask, status) in KINDS.items():
            body = body_of(path, model, **fields)
            statuses = list(threads.map(lambda _, ask=ask, body=body: ask(gateway, body, headers), range(CALLS)))
            assert set(statuses) == {status}, kind
            eventually(lambda: resident(gateway) < before + BAR, within_s=8, what=f"the memory of {kind} is free")
