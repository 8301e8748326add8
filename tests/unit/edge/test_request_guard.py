"""Hygiene: a request that two parsers could read in two ways is refused before anybody acts on it."""

import asyncio
from typing import Any

import orjson
import pytest

from gateway.edge.request_guard import MAX_HEADERS, RequestGuard, find_fault

HOST = (b"host", b"gate.test")


def scope(*headers: tuple[bytes, bytes], path: str = "/v1/models", raw_path: bytes | None = None, **more: Any) -> Any:
    scope = {"type": "http", "method": "GET", "http_version": "1.1", "path": path, "query_string": b""}
    return scope | {"raw_path": path.encode() if raw_path is None else raw_path, "headers": [*headers]} | more


GOOD = {
    "a plain request": scope(HOST),
    "without a host in HTTP/1.0": scope(http_version="1.0"),
    "a model with a slash": scope(HOST, path="/v1/models/org/name", raw_path=b"/v1/models/org%2Fname"),
    "as many headers as allowed": scope(HOST, *[(b"x-%d" % n, b"") for n in range(MAX_HEADERS - 1)]),
    "a header that may repeat": scope(HOST, (b"accept", b"a"), (b"accept", b"b")),
    "no raw path": scope(HOST, raw_path=b""),
}
BAD = {
    "no host": (scope(), 400),
    "two hosts": (scope(HOST, HOST), 400),
    "two content lengths": (scope(HOST, (b"content-length", b"1"), (b"content-length", b"1")), 400),
    "two authorizations": (scope(HOST, (b"authorization", b"a"), (b"authorization", b"b")), 400),
    "two content types": (scope(HOST, (b"content-type", b"a"), (b"content-type", b"b")), 400),
    "length and chunks": (scope(HOST, (b"content-length", b"1"), (b"transfer-encoding", b"chunked")), 400),
    "an absolute address": (scope(HOST, path="http://evil.test/admin"), 400),
    "a parent folder": (scope(HOST, path="/v1/../console"), 400),
    "an encoded parent folder": (scope(HOST, path="/v1/../x", raw_path=b"/v1/%2e%2e/x"), 400),
    "a double slash": (scope(HOST, path="//evil.test"), 400),
    "a backslash": (scope(HOST, path="/v1\\models"), 400),
    "a NUL": (scope(HOST, path="/v1/\0"), 400),
    "a hidden slash": (scope(HOST, path="/console/x", raw_path=b"/console%2Fx"), 400),
    "no path": (scope(HOST, path=""), 400),
    "a long path": (scope(HOST, raw_path=b"/" + b"x" * 17_000), 414),
    "a long query": (scope(HOST, query_string=b"x" * 17_000), 414),
    "2,000 headers": (scope(HOST, *[(b"x", b"")] * 2000), 431),
    "a header of 20 KB": (scope(HOST, (b"x", b"x" * 20_000)), 431),
    "70 KB of headers": (scope(HOST, *[(b"x-%d" % n, b"x" * 7000) for n in range(10)]), 431),
}


@pytest.mark.parametrize("scope", GOOD.values(), ids=GOOD.keys())
def test_an_honest_request_passes(scope: Any) -> None:
    assert find_fault(scope) is None


@pytest.mark.parametrize(("scope", "status"), BAD.values(), ids=BAD.keys())
def test_an_ambiguous_or_oversized_request_is_refused(scope: Any, status: int) -> None:
    fault = find_fault(scope)
    assert fault is not None
    assert (fault.status, fault.code, fault.type) == (status, "malformed_request", "invalid_request_error")


def test_a_refusal_has_openais_shape_and_closes_the_connection() -> None:
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("it must not be reached")

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(RequestGuard(app)(scope(), None, send))  # type: ignore[arg-type]
    assert sent[0]["status"] == 400
    assert (b"connection", b"close") in sent[0]["headers"]
    assert set(orjson.loads(sent[1]["body"])["error"]) == {"message", "type", "param", "code"}


def test_what_is_not_http_passes() -> None:
    reached: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        reached.append(scope["type"])

    asyncio.run(RequestGuard(app)({"type": "lifespan"}, None, None))  # type: ignore[arg-type]
    asyncio.run(RequestGuard(app)(scope(HOST), None, None))  # type: ignore[arg-type]
    assert reached == ["lifespan", "http"]
