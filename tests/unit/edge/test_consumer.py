"""Receive: a consumer over plain ASGI messages, with the pipeline behind it and everything else in memory."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
import pytest

from gateway.api.embeddings import ENDPOINT as EMBEDDINGS
from gateway.api.health import ENDPOINT as HEALTH
from gateway.api.models import ENDPOINT as MODELS
from gateway.api.unknown import ENDPOINT as UNKNOWN
from gateway.edge.consumer import CONNECTION, ClientDisconnected, DialectConsumer, GatewayConsumer, read_body
from gateway.pipeline.ports import Catalog, Principal
from gateway.pipeline.services import Services
from gateway.protocol.dialects.openai.chat import DIALECT
from gateway.protocol.errors import GatewayFault, TooLarge
from gateway.stores.catalog import Snapshot
from gateway.version import VERSION
from tests.fakes.memory import (
    DONE,
    FOREVER,
    JSON_ANSWER,
    PRINCIPAL,
    WHOLE_ANSWER,
    WHOLE_STREAM,
    MemoryDirectory,
    MemoryKeySpend,
    MemoryKeyUse,
    MemoryLedger,
    Script,
    ScriptedClient,
    chat,
    data_of,
    event,
    play,
    services,
    target,
)

KEY = b"Bearer sk-good"
NARROW = Principal(organization_id="home", key_digest="n", allowed_models=(frozenset({"public"}),))


@dataclass(slots=True)
class MemoryRuntime:
    """The part of Runtime that the edge uses."""

    services: Services
    directory: MemoryDirectory
    snapshot: Snapshot
    is_draining: bool = False
    unready_reason: str = ""
    key_use: MemoryKeyUse = field(default_factory=MemoryKeyUse)
    key_spend: MemoryKeySpend = field(default_factory=MemoryKeySpend)


@dataclass(slots=True)
class Exchange:
    """The answer to the client, and the rows of the ledger."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    ledger: MemoryLedger = field(default_factory=MemoryLedger)
    client: ScriptedClient | None = None
    took_s: float = 0

    @property
    def status(self) -> int:
        assert self.messages[0]["type"] == "http.response.start"
        return int(self.messages[0]["status"])

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.messages[0]["headers"])

    @property
    def body(self) -> bytes:
        return b"".join(message["body"] for message in self.messages[1:])

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = orjson.loads(self.body)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return error


def call(
    *answers: Script | BaseException,
    body: bytes | Sequence[bytes] = chat().raw,
    method: str = "POST",
    path: str = "/v1/chat/completions",
    headers: Mapping[bytes, bytes] | None = None,
    consumer: type[GatewayConsumer] = DialectConsumer,
    options: Mapping[str, Any] | None = None,
    runtime: Mapping[str, Any] | None = None,
    directory: MemoryDirectory | None = None,
    gone_at_s: float = FOREVER,
    blocked_from: int | None = None,
    is_guarded: bool = False,
    query: bytes = b"",
    **limits: float,
) -> Exchange:
    """One request. `blocked_from`: the number of the message that the client no longer reads; `is_guarded`: the
    server tells of a disconnect by a call rather than by a message."""

    async def story() -> Exchange:
        exchange = Exchange()
        loop = asyncio.get_running_loop()
        parts = [body] if isinstance(body, bytes) else list(body)

        class Connection:
            is_lost = False
            on_lost: Any = None

        connection = Connection()

        def leave() -> None:
            connection.is_lost = True
            if connection.on_lost is not None:
                connection.on_lost()

        async def receive() -> dict[str, Any]:
            if parts:
                part = parts.pop(0)
                return {"type": "http.request", "body": part, "more_body": bool(parts)}
            await asyncio.sleep(max(gone_at_s - loop.time(), 0))
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            if blocked_from is not None and len(exchange.messages) >= blocked_from:
                await asyncio.sleep(FOREVER)
            exchange.messages.append(message)

        exchange.client = ScriptedClient(answers)
        arguments = {
            "services": services(exchange.client, exchange.ledger, **limits),
            "directory": directory or MemoryDirectory({"sk-good": PRINCIPAL, "sk-narrow": NARROW}),
            "snapshot": Snapshot(Catalog({(None, "public"): (target(),), (None, "other"): (target("second"),)})),
        }
        scope: dict[str, Any] = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": query,
            "headers": [*({b"authorization": KEY} if headers is None else headers).items()],
        }
        if is_guarded:
            scope[CONNECTION] = connection
            loop.call_later(gone_at_s, leave)
        chosen = {"dialect": DIALECT} if options is None and consumer is DialectConsumer else options or {}
        app = consumer(runtime=MemoryRuntime(**(arguments | dict(runtime or {}))), **chosen)  # type: ignore[arg-type]
        task = asyncio.create_task(app(scope, receive, send))
        await asyncio.wait([task], timeout=1e6)
        exchange.took_s = loop.time()
        if not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=1)
        elif not task.cancelled():
            task.result()
        return exchange

    return play(story())


# Answers


def test_a_whole_answer_arrives_with_its_headers() -> None:
    exchange = call(
        Script([WHOLE_ANSWER], headers=JSON_ANSWER), headers={b"authorization": KEY, b"x-litellm-call-id": b"t1"}
    )
    assert exchange.status == 200
    assert exchange.headers[b"content-type"] == b"application/json"
    assert exchange.headers[b"content-length"] == b"%d" % len(exchange.body)
    assert exchange.headers[b"x-litellm-call-id"] == b"t1"
    assert exchange.headers[b"x-request-id"].decode() == exchange.ledger.closed[0].request_id
    assert exchange.headers[b"x-litellm-model-id"] == b"first"
    assert b"x-litellm-response-duration-ms" in exchange.headers


def test_a_stream_arrives_event_by_event() -> None:
    exchange = call(Script(WHOLE_STREAM), body=chat(stream=True).raw)
    assert exchange.headers[b"content-type"].startswith(b"text/event-stream")
    assert exchange.headers[b"cache-control"] == b"no-cache"
    assert [message["body"] for message in exchange.messages[1:-1]] == [
        one.replace(b"private", b"public") for one in WHOLE_STREAM[:3]
    ]
    assert exchange.messages[-1] == {"type": "http.response.body", "body": DONE}


def test_a_body_in_pieces_is_one_body() -> None:
    raw = chat().raw
    exchange = call(Script([WHOLE_ANSWER], headers=JSON_ANSWER), body=[raw[:9], b"", raw[9:]])
    assert exchange.status == 200


# Refusals

BAD_JSON = b'{"model": "public",'
REFUSALS: dict[str, tuple[dict[str, Any], int, str | None, str | None]] = {
    "no key": ({"headers": {}}, 401, "invalid_api_key", None),
    "an unknown key": ({"headers": {b"x-api-key": b"sk-bad"}}, 401, "invalid_api_key", None),
    "a forbidden model": (
        {"headers": {b"x-api-key": b"sk-narrow"}, "body": chat(model="other").raw},
        403,
        "model_not_found",
        "model",
    ),
    "an unknown model": ({"body": chat(model="absent").raw}, 404, "model_not_found", "model"),
    "half a JSON": ({"body": BAD_JSON}, 400, None, None),
    "nothing": ({"body": b""}, 400, None, None),
    "a wrong field": ({"body": b'{"model":"public","messages":7}'}, 400, "invalid_value", "messages"),
    "a wrong method": ({"method": "GET"}, 405, "method_not_allowed", None),
    "an outage": ({"directory": MemoryDirectory(fails=GatewayFault("away"))}, 503, "gateway_unavailable", None),
}


@pytest.mark.parametrize(("arguments", "status", "code", "param"), REFUSALS.values(), ids=REFUSALS.keys())
def test_a_refusal_has_openais_shape_and_leaves_no_row(
    arguments: dict[str, Any], status: int, code: str | None, param: str | None
) -> None:
    exchange = call(**arguments)
    assert (exchange.status, exchange.error["code"], exchange.error["param"]) == (status, code, param)
    assert exchange.headers[b"content-type"] == b"application/json"
    assert b"x-request-id" in exchange.headers
    assert exchange.ledger.opened == []
    assert exchange.client is not None
    assert exchange.client.requests == []


def test_a_wrong_method_is_told_the_right_one() -> None:
    assert call(method="DELETE").headers[b"allow"] == b"POST"


def test_without_a_key_the_body_is_not_read() -> None:
    exchange = call(headers={}, body=[b"x"] * 1000)
    assert exchange.status == 401


def test_an_internal_error_is_a_500_that_tells_nothing() -> None:
    exchange = call(Script([ZeroDivisionError("secret detail")], headers=JSON_ANSWER))
    assert (exchange.status, exchange.error["code"]) == (500, "internal_error")
    assert b"secret" not in exchange.body


def test_a_stream_that_fails_ends_in_an_error_event_without_done() -> None:
    exchange = call(
        Script([WHOLE_STREAM[0], event({"error": {"message": "http://10.0.0.1"}})]), body=chat(stream=True).raw
    )
    assert exchange.status == 200
    assert b"[DONE]" not in exchange.body
    assert b"10.0.0.1" not in exchange.body
    assert data_of(exchange.body)[-1]["error"]["code"] == "upstream_error"
    assert "more_body" not in exchange.messages[-1]


def test_an_upstream_that_fails_before_its_first_event_is_told_by_status() -> None:
    exchange = call(Script([b"{}"], status=429, headers={"retry-after": "3"}), body=chat(stream=True).raw)
    assert (exchange.status, exchange.error["type"]) == (429, "rate_limit_error")
    assert exchange.headers[b"retry-after"] == b"3"


# The client's part


@pytest.mark.parametrize("is_guarded", [True, False], ids=["noticed by a call", "noticed by a message"])
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_a_client_that_leaves_ends_the_upstream_call_at_once_and_is_told_nothing(
    stream: bool, is_guarded: bool
) -> None:
    script = Script([WHOLE_STREAM[0], FOREVER]) if stream else Script(wait_s=FOREVER)
    exchange = call(script, body=chat(stream=stream).raw, gone_at_s=5.0, is_guarded=is_guarded)
    assert exchange.took_s == pytest.approx(5)
    assert [attempt.finish for attempt in exchange.ledger.closed] == ["client_gone"]
    assert b"error" not in exchange.body if exchange.messages else True
    assert len(exchange.messages) == (2 if stream else 0)


@pytest.mark.parametrize("is_guarded", [True, False], ids=["noticed by a call", "noticed by a message"])
def test_a_client_that_has_left_already_is_not_served(is_guarded: bool) -> None:
    exchange = call(Script([WHOLE_ANSWER], headers=JSON_ANSWER, wait_s=1), gone_at_s=0.0, is_guarded=is_guarded)
    assert exchange.messages == []
    assert all(attempt.finish == "client_gone" for attempt in exchange.ledger.closed)


def test_a_client_that_stops_reading_is_let_go() -> None:
    """Not only its upstream: the request itself must end, or its connection is held until the client dies."""
    exchange = call(
        Script(WHOLE_STREAM), body=chat(stream=True).raw, blocked_from=2, stalled_client_s=120.0, keepalive_s=15.0
    )
    assert [attempt.finish for attempt in exchange.ledger.closed] == ["client_gone"]
    assert exchange.took_s == pytest.approx(120, abs=20)


def test_a_cancelled_request_is_told_that_the_gateway_shuts_down() -> None:
    async def story() -> list[dict[str, Any]]:
        sent: list[dict[str, Any]] = []

        class Waiting(GatewayConsumer):
            async def answer(self, receive: Any) -> None:
                await asyncio.sleep(FOREVER)

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
        own_services = services(ScriptedClient([]), MemoryLedger())
        runtime: Any = MemoryRuntime(own_services, MemoryDirectory({}), Snapshot())
        task = asyncio.create_task(Waiting(runtime=runtime)(scope, None, send))  # type: ignore[arg-type]
        await asyncio.sleep(1)
        task.cancel()
        await asyncio.wait([task])
        return sent

    start, body = play(story())
    assert start["status"] == 503
    assert orjson.loads(body["body"])["error"]["code"] == "shutting_down"


# The body


def read(*messages: dict[str, Any], headers: Mapping[bytes, bytes] | None = None, limit: int = 10) -> bytes:
    left = list(messages)

    async def receive() -> dict[str, Any]:
        return left.pop(0)

    return asyncio.run(read_body(dict(headers or {}), receive, limit))


def part(data: bytes, more: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": data, "more_body": more}


def test_a_body_up_to_the_limit_is_read() -> None:
    assert read(part(b"12345", True), part(b"67890")) == b"1234567890"
    assert read({"type": "http.request"}) == b""


@pytest.mark.parametrize("length", [b"11", b"999999999999999999999", b"9" * 5000])
def test_a_body_that_is_declared_too_large_is_refused_unread(length: bytes) -> None:
    with pytest.raises(TooLarge) as refused:
        read(headers={b"content-length": length})
    assert refused.value.status == 413


def test_a_body_that_grows_too_large_is_refused_while_it_is_read() -> None:
    with pytest.raises(TooLarge):
        read(part(b"123456", True), part(b"123456", True))


@pytest.mark.parametrize("length", [b"-1", b"x", b"1e3", b"\xb2"])
def test_a_length_that_is_none_is_counted_all_the_same(length: bytes) -> None:
    assert read(part(b"12"), headers={b"content-length": length}) == b"12"


def test_a_client_that_leaves_within_its_body_is_gone() -> None:
    with pytest.raises(ClientDisconnected):
        read(part(b"1", True), {"type": "http.disconnect"})


def test_a_refused_large_body_closes_the_connection() -> None:
    exchange = call(headers={b"authorization": KEY, b"content-length": b"99999999999"})
    assert (exchange.status, exchange.error["code"]) == (413, "request_too_large")
    assert exchange.headers[b"connection"] == b"close"


# The other endpoints


@pytest.mark.parametrize(
    ("runtime", "path", "status"),
    [
        ({}, "/health/liveliness", 200),
        ({}, "/health/liveness", 200),
        ({}, "/health/readiness", 200),
        ({"unready_reason": "The database takes no writes."}, "/health/readiness", 503),
        ({"unready_reason": "The database takes no writes."}, "/health/liveliness", 200),
        ({"is_draining": True}, "/health/readiness", 503),
        ({"is_draining": True}, "/health/liveness", 503),
    ],
)
def test_health_is_honest(runtime: dict[str, Any], path: str, status: int) -> None:
    exchange = call(method="GET", path=path, headers={}, consumer=HEALTH.consumer, runtime=runtime)
    assert exchange.status == status


def models(key: bytes, path: str = "/v1/models", method: str = "GET", **changes: Any) -> Exchange:
    return call(method=method, path=path, headers={b"x-api-key": key}, consumer=MODELS.consumer, **changes)


WILD = Catalog(
    {(None, "public"): (target(),), (None, "openai/*"): (target(model_group="openai/*", upstream_model="*"),)},
    {"fast": "openai/mini", "unlisted": "public"},
    frozenset({"unlisted"}),
)


def wild_models(key: bytes, path: str = "/v1/models", **changes: Any) -> Any:
    names = frozenset({"openai/gpt-4o", "openai/o*", "absent", "unlisted"})
    directory = MemoryDirectory({"sk-all": PRINCIPAL, "sk-narrow": replace(PRINCIPAL, allowed_models=(names,))})
    exchange = models(key, path, directory=directory, runtime={"snapshot": Snapshot(WILD)}, **changes)
    body = orjson.loads(exchange.body)
    return [model["id"] for model in body["data"]] if "data" in body else body.get("id")


def test_patterns_are_listed_only_where_the_client_asks_for_them() -> None:
    assert wild_models(b"sk-all") == ["fast", "public"]
    assert wild_models(b"sk-all", query=b"return_wildcard_routes=true") == ["fast", "openai/*", "public"]
    assert wild_models(b"sk-narrow") == ["openai/gpt-4o"]
    assert wild_models(b"sk-narrow", query=b"return_wildcard_routes=True") == ["openai/gpt-4o"]
    assert models(b"sk-good", query=b"return_wildcard_routes=maybe").error["param"] == "return_wildcard_routes"


def test_a_model_that_a_pattern_serves_is_found_by_its_name() -> None:
    assert wild_models(b"sk-all", "/v1/models/openai/anything") == "openai/anything"
    assert wild_models(b"sk-narrow", "/v1/models/openai/o3") == "openai/o3"
    for name in ("openai/secret", "openai/*", "openai/../x", "fast"):
        assert wild_models(b"sk-narrow", f"/v1/models/{name}") is None


def test_models_are_those_that_the_key_may_call() -> None:
    listed = orjson.loads(models(b"sk-good").body)
    assert [model["id"] for model in listed["data"]] == ["other", "public"]
    assert listed["object"] == "list"
    assert [model["id"] for model in orjson.loads(models(b"sk-narrow", "/models/").body)["data"]] == ["public"]
    assert orjson.loads(models(b"sk-good", "/v1/models/public").body)["object"] == "model"


@pytest.mark.parametrize("path", ["/v1/models/absent", "/models/other", "/v1/models/public/x"])
def test_a_model_that_is_absent_or_forbidden_is_the_same_404(path: str) -> None:
    exchange = models(b"sk-narrow", path)
    assert (exchange.status, exchange.error["code"]) == (404, "model_not_found")


def test_models_need_a_key() -> None:
    assert models(b"sk-bad").status == 401


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("path", ["/v1/files/x/content", "/v1/rerank/", "/v1/vector_stores", "/v1/model/deprecations"])
def test_a_path_of_litellms_is_not_taken_for_a_deleted_object(method: str, path: str) -> None:
    exchange = call(method=method, path=path, headers={}, consumer=UNKNOWN.consumer)
    assert (exchange.status, exchange.error["code"]) == (501, "not_implemented")
    assert VERSION in exchange.error["message"]


def test_a_colon_behind_a_model_is_geminis_method() -> None:
    assert models(b"sk-good", "/v1/models/gemini-2.5-pro:generateContent", "POST").status == 501
    assert models(b"sk-good", "/v1/models/gemini-2.5-pro", "POST").status == 405


def test_an_unknown_path_is_a_404_in_openais_shape() -> None:
    exchange = call(method="PATCH", path="/v1/nothing", headers={}, consumer=UNKNOWN.consumer)
    assert (exchange.status, exchange.error["code"]) == (404, "unknown_url")


def test_each_endpoint_is_served_with_and_without_v1() -> None:
    assert EMBEDDINGS.paths == ("/v1/embeddings", "/embeddings")
    assert all(path.startswith("/v1/") or f"/v1{path}" in EMBEDDINGS.paths for path in EMBEDDINGS.paths)
