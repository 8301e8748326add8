"""WebSockets over plain ASGI messages: time limits, ends and refusals, in virtual time."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest

from gateway.edge.request_guard import RequestGuard
from gateway.edge.websocket.consumer import OpenSockets, SocketConsumer
from gateway.edge.websocket.handshake import find_origin_fault
from gateway.pipeline.ports import Catalog
from gateway.pipeline.responses.ports import ResponseServices
from gateway.pipeline.services import Services
from gateway.protocol.json.types import JsonObject
from gateway.stores.catalog import Snapshot
from tests.fakes.memory import (
    FOREVER,
    PRINCIPAL,
    WHOLE_STREAM,
    MemoryDirectory,
    MemoryKeySpend,
    MemoryKeyUse,
    MemoryLedger,
    Script,
    ScriptedClient,
    chunk,
    commit,
    event,
    play,
    services,
    target,
)
from tests.fakes.responses import MemoryResponses
from tests.fakes.responses_grammar import check

KEY = b"Bearer sk-good"
HTTP = {"websocket.http.response": {}}
SLOW_STREAM = (WHOLE_STREAM[0], 30.0, *WHOLE_STREAM[1:])


class PlainSeal:
    def __init__(self, organization_id: str) -> None:
        pass

    def close(self, value: Any) -> str:
        return orjson.dumps(value).decode()

    def open(self, text: str) -> Any:
        return orjson.loads(text)


@dataclass(slots=True)
class MemoryRuntime:
    """The part of Runtime that a socket uses."""

    services: Services
    directory: MemoryDirectory
    snapshot: Snapshot
    response_services: ResponseServices
    key_use: MemoryKeyUse = field(default_factory=MemoryKeyUse)
    key_spend: MemoryKeySpend = field(default_factory=MemoryKeySpend)


@dataclass(slots=True)
class Line:
    """One connection, and what came out of it."""

    messages: list[JsonObject] = field(default_factory=list)
    at_s: list[float] = field(default_factory=list)
    sockets: OpenSockets = field(default_factory=OpenSockets)
    ledger: MemoryLedger = field(default_factory=MemoryLedger)
    task: asyncio.Task[None] | None = None

    @property
    def kinds(self) -> list[str]:
        return [message["type"] for message in self.messages]

    @property
    def events(self) -> list[JsonObject]:
        return [orjson.loads(message["text"]) for message in self.messages if message["type"] == "websocket.send"]


def create(text: str = "hello", **fields: Any) -> bytes:
    return orjson.dumps({"type": "response.create", "model": "public", "input": text, **fields})


def run(
    *inputs: tuple[float, bytes],
    answers: Sequence[Script] = (),
    leaves_at_s: float = FOREVER,
    at: Sequence[tuple[float, Callable[[Line], object]]] = (),
    key: bytes = KEY,
    extensions: JsonObject | None = None,
    limit_s: float = 3600,
    blocked_from: int | None = None,
    sockets: OpenSockets | None = None,
    **limits: float,
) -> Line:
    """`inputs`: what the client says, and when; `at`: what else happens, and when; `blocked_from`: the number of the
    message which the client no longer reads."""

    async def story() -> Line:
        loop = asyncio.get_running_loop()
        line = Line(sockets=sockets or OpenSockets())
        inbox: asyncio.Queue[JsonObject] = asyncio.Queue()
        inbox.put_nowait({"type": "websocket.connect"})
        for at_s, raw in inputs:
            loop.call_at(at_s, inbox.put_nowait, {"type": "websocket.receive", "text": raw.decode()})
        loop.call_at(leaves_at_s, inbox.put_nowait, {"type": "websocket.disconnect", "code": 1001})
        for at_s, happen in at:
            loop.call_at(at_s, happen, line)

        async def send(message: JsonObject) -> None:
            if blocked_from is not None and len(line.messages) >= blocked_from:
                await asyncio.sleep(FOREVER)
            line.messages.append(message)
            line.at_s.append(loop.time())

        runtime = MemoryRuntime(
            services=services(ScriptedClient(answers), line.ledger, **limits),
            directory=MemoryDirectory({"sk-good": PRINCIPAL}),
            snapshot=Snapshot(Catalog({(None, "public"): (target(),)})),
            response_services=ResponseServices(MemoryResponses(), None, commit, PlainSeal, 30),  # type: ignore[arg-type]
        )
        consumer = SocketConsumer(runtime=runtime, sockets=line.sockets, limit_s=limit_s)  # type: ignore[arg-type]
        scope = {
            "type": "websocket",
            "path": "/v1/responses",
            "headers": [(b"authorization", key)],
            "extensions": extensions,
        }
        line.task = asyncio.create_task(consumer(scope, inbox.get, send))
        await asyncio.wait([line.task], timeout=1e6)
        assert line.task.done(), "the connection never ended"
        line.task.result()
        return line

    return play(story())


# Ends


def test_a_connection_ends_after_its_time_with_an_error_that_says_so() -> None:
    line = run(limit_s=60)
    assert line.kinds == ["websocket.accept", "websocket.send", "websocket.close"]
    [event] = line.events
    assert (event["status"], event["error"]["code"]) == (400, "websocket_connection_limit_reached")
    assert line.messages[-1]["code"] == 1001
    assert line.at_s[-1] == 60


def test_the_turn_that_runs_then_is_finished_first_and_what_waits_is_dropped() -> None:
    line = run(
        (50, create()), (51, create("waits")), (65, create("too late")), answers=[Script(SLOW_STREAM)], limit_s=60
    )
    *events, event = line.events
    assert check(events)["status"] == "completed"
    assert event["error"]["code"] == "websocket_connection_limit_reached"
    assert (line.messages[-1]["code"], line.at_s[-1]) == (1001, 80)
    assert len(line.ledger.closed) == 1


def test_a_drain_closes_an_idle_connection_at_once_and_a_busy_one_after_its_turn() -> None:
    idle = run(at=[(5, lambda line: line.sockets.drain())])
    assert (idle.messages[-1], idle.at_s[-1]) == ({"type": "websocket.close", "code": 1012}, 5)
    busy = run((1, create()), at=[(5, lambda line: line.sockets.drain())], answers=[Script(SLOW_STREAM)])
    assert check(busy.events)["status"] == "completed"
    assert (busy.messages[-1], busy.at_s[-1]) == ({"type": "websocket.close", "code": 1012}, 31)


def test_a_key_opens_no_more_connections_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.edge.websocket.consumer.MAX_PER_KEY", 2)
    sockets = OpenSockets()
    with sockets.counted(PRINCIPAL.key_digest), sockets.counted("another key"):
        assert run(sockets=sockets, leaves_at_s=1).kinds == ["websocket.accept"]
        with sockets.counted(PRINCIPAL.key_digest):
            start, body = run(sockets=sockets, extensions=HTTP).messages
    assert start["status"] == 429
    assert orjson.loads(body["body"])["error"]["code"] == "too_many_connections"
    assert run(sockets=sockets, leaves_at_s=1).kinds == ["websocket.accept"], "a closed one is not counted"


def test_nobody_may_connect_while_it_drains() -> None:
    sockets = OpenSockets()
    sockets.drain()
    line = run(sockets=sockets, extensions=HTTP)
    assert line.messages[0]["type"] == "websocket.http.response.start"
    assert line.messages[0]["status"] == 503


def test_a_server_that_waits_no_longer_ends_the_response_in_words() -> None:
    line = run((1, create()), at=[(5, lambda line: line.task and line.task.cancel())], answers=[Script(SLOW_STREAM)])
    assert check(line.events)["status"] == "cancelled"
    assert line.messages[-1] == {"type": "websocket.close", "code": 1012}
    [attempt] = line.ledger.closed
    assert attempt.finish == "client_gone"


def test_a_client_that_leaves_ends_all_that_runs() -> None:
    line = run(
        (1, create()),
        (1, create(stream_id="other")),
        answers=[Script(SLOW_STREAM), Script(SLOW_STREAM)],
        leaves_at_s=5,
    )
    assert [attempt.finish for attempt in line.ledger.closed] == ["client_gone", "client_gone"]
    assert "websocket.close" not in line.kinds
    assert not any(event["type"] == "response.completed" for event in line.events)


def test_a_client_that_reads_nothing_is_let_go() -> None:
    line = run((1, create()), answers=[Script(WHOLE_STREAM)], blocked_from=2, stalled_client_s=20, leaves_at_s=100)
    [attempt] = line.ledger.closed
    assert attempt.finish == "client_gone"


def test_a_silent_upstream_is_no_event() -> None:
    """A WebSocket has pings of its own, so it needs no comments."""
    line = run((1, create()), answers=[Script(SLOW_STREAM)], keepalive_s=2, leaves_at_s=100)
    assert check(line.events)["status"] == "completed"


def test_an_unforeseen_error_is_told_and_the_connection_stays() -> None:
    line = run(
        (1, create()),
        (2, create()),
        answers=[Script((RuntimeError("a secret"),)), Script(WHOLE_STREAM)],
        leaves_at_s=10,
    )
    event, *events = line.events
    assert (event["type"], event["status"]) == ("error", 500)
    assert "secret" not in str(event)
    assert check(events)["status"] == "completed"


def test_a_row_that_cannot_be_kept_ends_the_stream_as_failed() -> None:
    """The terminal event is made already, and must not leave: the client has to learn of the end nevertheless."""
    line = run(
        (1, create()),
        at=[(0, lambda line: setattr(line.ledger, "close_fails", RuntimeError("the disk is full")))],
        answers=[Script(WHOLE_STREAM)],
        leaves_at_s=10,
    )
    assert line.events[-1]["type"] == "response.failed"
    assert not any(event["type"] == "response.completed" for event in line.events)


def test_waiting_creates_are_bounded_in_size_as_well(settings: Any) -> None:
    settings.TOLLGATE_MAX_BODY_BYTES = 1000
    line = run(
        (1, create()),
        (2, create("x" * 600)),
        (3, create("x" * 600, metadata={"n": "3"})),
        answers=[Script(SLOW_STREAM), Script(WHOLE_STREAM)],
        leaves_at_s=100,
    )
    errors = [event for event in line.events if event["type"] == "error"]
    assert [event["error"]["code"] for event in errors] == ["websocket_queue_full"]
    assert sum(event["type"] == "response.completed" for event in line.events) == 2


# Beginnings


def test_a_refusal_is_an_answer_where_the_server_can_give_one() -> None:
    socket = run(key=b"Bearer sk-bad", extensions=HTTP)
    assert socket.kinds == ["websocket.http.response.start", "websocket.http.response.body"]
    assert socket.messages[0]["status"] == 401
    assert orjson.loads(socket.messages[1]["body"])["error"]["code"] == "invalid_api_key"
    assert run(key=b"Bearer sk-bad").messages == [{"type": "websocket.close"}]


@pytest.mark.parametrize(
    ("origin", "host", "trusted", "is_allowed"),
    [
        (None, "gate.example", [], True),
        ("https://gate.example", "gate.example", [], True),
        ("http://gate.example:80", "gate.example", [], True),
        ("http://GATE.example:8000", "gate.example:8000", [], True),
        ("http://[::1]:8000", "[::1]:8000", [], True),
        ("https://evil.example", "gate.example", [], False),
        ("https://gate.example.evil.example", "gate.example", [], False),
        ("https://gate.example:444", "gate.example", [], False),
        ("https://gate.example@evil.example", "gate.example", [], False),
        ("null", "gate.example", [], False),
        ("", "gate.example", [], False),
        ("file://", "", [], False),
        ("http://gate.example:x", "gate.example", [], False),
        ("https://app.example", "gate.example", ["https://app.example"], True),
        ("http://app.example", "gate.example", ["https://app.example"], False),
        ("https://a.app.example", "gate.example", ["https://*.app.example"], True),
        ("https://app.example", "gate.example", ["https://*.app.example"], False),
        ("https://evilapp.example", "gate.example", ["https://*.app.example"], False),
    ],
)
def test_only_pages_of_the_gateway_and_of_trusted_origins_may_connect(
    origin: str | None, host: str, trusted: list[str], is_allowed: bool
) -> None:
    headers = [(b"host", host.encode())]
    if origin is not None:
        headers.append((b"origin", origin.encode()))
    assert (find_origin_fault({"headers": headers}, trusted) is None) == is_allowed


def test_an_ambiguous_upgrade_goes_no_further() -> None:
    async def story() -> list[JsonObject]:
        sent: list[JsonObject] = []

        async def app(*_: Any) -> None:
            raise AssertionError("it went through")

        async def receive() -> JsonObject:
            return {"type": "websocket.connect"}

        async def send(message: JsonObject) -> None:
            sent.append(message)

        scope = {"type": "websocket", "path": "/v1//responses", "headers": [(b"host", b"a")], "extensions": HTTP}
        await RequestGuard(app)(scope, receive, send)
        return sent

    assert play(story())[0]["status"] == 400


def test_a_stream_that_began_and_broke_ends_with_its_terminal_event() -> None:
    line = run((1, create()), answers=[Script((event(chunk("Hel")),))], leaves_at_s=10)
    assert check(line.events)["status"] == "failed"
