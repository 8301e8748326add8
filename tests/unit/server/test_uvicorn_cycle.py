"""The answers of the guarded server, as they reach the socket."""

import asyncio
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from gateway.edge.asgi_types import App, Message, Receive, Scope, Send
from gateway.server.uvicorn_server import GuardedProtocol
from tests.fakes.memory import play

PLAIN = [(b"content-type", b"text/plain"), (b"content-length", b"2")]
FIELDS = b"content-type: text/plain\r\ncontent-length: 2\r\n"


class Wire(asyncio.Transport):
    """A transport that notes its writes."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.is_closed = False

    def write(self, data: Any) -> None:
        self.writes.append(bytes(data))

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    def pause_reading(self) -> None:
        """Nothing arrives."""

    resume_reading = pause_reading


def start(headers: list[tuple[bytes, bytes]], status: int = 200) -> Message:
    return {"type": "http.response.start", "status": status, "headers": headers}


def part(body: bytes, *, more_body: bool = False) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": more_body}


async def answer(app: App, request: bytes = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n") -> Wire:
    """The client's connection after one request to the app."""
    state = ServerState()
    protocol = GuardedProtocol(uvicorn.Config(app, log_config=None, interface="asgi3"), state, {})
    wire = Wire()
    protocol.connection_made(wire)
    protocol.data_received(request)
    await asyncio.gather(*state.tasks)
    await asyncio.sleep(0)
    protocol._unset_keepalive_if_required()
    return wire


def sending(*messages: Message) -> App:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)

    return app


def test_head_and_body_of_a_whole_answer_leave_in_one_write() -> None:
    wire = play(answer(sending(start(PLAIN), part(b"ok"))))
    assert wire.writes == [b"HTTP/1.1 200 OK\r\n" + FIELDS + b"\r\nok"]
    assert not wire.is_closed


def test_the_length_that_django_names_is_the_length_and_nothing_is_chunked() -> None:
    """Django's names have capitals; an answer with a length and chunks would have two ends."""
    wire = play(answer(sending(start([(b"Content-Type", b"text/plain"), (b"Content-Length", b"2")]), part(b"ok"))))
    assert wire.writes == [b"HTTP/1.1 200 OK\r\n" + FIELDS + b"\r\nok"]


def test_a_head_leaves_at_once_where_the_body_lets_the_client_wait() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start(PLAIN))
        await asyncio.sleep(1)
        await send(part(b"ok"))

    assert play(answer(app)).writes == [b"HTTP/1.1 200 OK\r\n" + FIELDS + b"\r\n", b"ok"]


def test_a_stream_is_chunked_and_its_head_leaves_with_the_first_event() -> None:
    messages = [start([]), part(b"one", more_body=True), part(b"", more_body=True), part(b"two")]
    assert play(answer(sending(*messages))).writes == [
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n",
        b"3\r\ntwo\r\n0\r\n\r\n",
    ]


@pytest.mark.parametrize(
    ("request_line", "status", "body"), [(b"HEAD", 200, b"ok"), (b"GET", 204, b""), (b"GET", 304, b"")]
)
def test_an_answer_without_a_body_is_its_head(request_line: bytes, status: int, body: bytes) -> None:
    headers = PLAIN if body else []
    request = request_line + b" / HTTP/1.1\r\nhost: a\r\n\r\n"
    wire = play(answer(sending(start(headers, status), part(body)), request))
    assert len(wire.writes) == 1
    assert wire.writes[0].endswith(b"\r\n\r\n")
    assert b"chunked" not in wire.writes[0]


def test_an_answer_that_closes_its_connection_says_so_once() -> None:
    asked = play(answer(sending(start(PLAIN), part(b"ok")), b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"))
    told = play(answer(sending(start([*PLAIN, (b"connection", b"close")]), part(b"ok"))))
    for wire in (asked, told):
        assert wire.writes == [b"HTTP/1.1 200 OK\r\n" + FIELDS + b"connection: close\r\n\r\nok"]
        assert wire.is_closed


@pytest.mark.parametrize("value", [b"a\r\nset-cookie: b", b"a\nb", b"a\rb", b"a\0b", b"a\x7fb"])
def test_a_control_character_in_a_header_never_leaves(value: bytes) -> None:
    wire = play(answer(sending(start([*PLAIN, (b"x-a", value)]), part(b"ok"))))
    assert wire.writes[0].startswith(b"HTTP/1.1 500 ")
    assert b"x-a" not in b"".join(wire.writes)


@pytest.mark.parametrize("body", [b"longer", b"s"])
def test_an_answer_of_another_length_than_it_says_ends_the_connection(body: bytes) -> None:
    wire = play(answer(sending(start(PLAIN), part(body))))
    assert wire.is_closed
    assert b"longer" not in b"".join(wire.writes)


def test_a_message_out_of_turn_ends_the_connection() -> None:
    assert play(answer(sending(start(PLAIN), part(b"ok"), part(b"ok")))).is_closed
    assert play(answer(sending(part(b"ok")))).writes[0].startswith(b"HTTP/1.1 500 ")
