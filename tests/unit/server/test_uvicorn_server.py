"""The guarded server's HTTP connections: one that stops reading is dropped, and a lost one leaves no timer."""

import asyncio
from typing import Any

import pytest
import uvicorn
from django.conf import settings
from uvicorn.server import ServerState

from gateway.server.uvicorn_server import GuardedProtocol
from tests.fakes.memory import play


class Connection(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.aborted = 0
        self.is_closed = False
        self.written = b""

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def abort(self) -> None:
        self.aborted += 1

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        self.is_closed = True

    def pause_reading(self) -> None:
        """Nothing arrives."""

    resume_reading = pause_reading


async def ignore(scope: Any, receive: Any, send: Any) -> None:
    """No request is sent."""


def connected() -> tuple[GuardedProtocol, Connection]:
    protocol = GuardedProtocol(uvicorn.Config(ignore, log_config=None), ServerState(), {})
    connection = Connection()
    protocol.connection_made(connection)
    protocol._clear_timer()  # the header has arrived
    return protocol, connection


async def wait() -> None:
    await asyncio.sleep(2 * settings.TOLLGATE_STALLED_CLIENT_S)


def test_a_client_that_reads_nothing_is_let_go_and_one_that_reads_on_is_not() -> None:
    async def story() -> None:
        protocol, connection = connected()
        for _ in range(2):
            protocol.pause_writing()
            protocol.resume_writing()
        await wait()
        assert connection.aborted == 0
        protocol.pause_writing()
        await wait()
        assert connection.aborted == 1

    play(story())


def test_a_connection_that_is_lost_is_held_by_no_timer() -> None:
    async def story() -> None:
        protocol, connection = connected()
        protocol.pause_writing()
        protocol.connection_lost(None)
        await wait()
        assert connection.aborted == 0

    play(story())


HEAD = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n"


def feed(*pieces: bytes) -> tuple[GuardedProtocol, Connection]:
    """A connection after these bytes; a piece is fed only while the connection is open."""
    protocol, connection = connected()
    for piece in pieces:
        for start in range(0, len(piece), 64 * 1024):
            if not (connection.is_closed or connection.aborted):
                protocol.data_received(piece[start : start + 64 * 1024])
    return protocol, connection


@pytest.mark.parametrize(
    "head",
    [
        HEAD + b"a: b\r\n" * 10_000_000,
        HEAD + b"a: " + b"b" * 60_000_000,
        HEAD + b"a" * 60_000_000,
        b"POST /" + b"a" * 60_000_000,
    ],
    ids=["fields", "a value", "a name", "a path"],
)
def test_headers_without_an_end_are_refused_while_they_come(head: bytes) -> None:
    async def story() -> None:
        protocol, connection = feed(head)
        assert connection.is_closed
        assert connection.written.startswith(b"HTTP/1.1 431 ")
        assert len(protocol.headers) <= 100

    play(story())


@pytest.mark.parametrize("trailers", [b"a: b\r\n" * 10_000_000, b"a: " + b"b" * 60_000_000], ids=["fields", "a value"])
def test_trailers_without_an_end_end_the_connection(trailers: bytes) -> None:
    async def story() -> None:
        protocol, connection = feed(HEAD + b"\r\n2\r\n{}\r\n0\r\n", trailers)
        assert connection.aborted
        assert [name for name, _ in protocol.headers] == [b"host", b"transfer-encoding"]

    play(story())


@pytest.mark.parametrize("size", [1, 10_000], ids=["byte by byte", "in one piece"])
def test_a_trailer_is_no_header(size: int) -> None:
    async def story() -> None:
        request = HEAD + b"\r\n2\r\n{}\r\n0\r\nx-litellm-api-key: sk-stolen\r\n\r\n"
        protocol, connection = feed(*[request[at : at + size] for at in range(0, len(request), size)])
        assert not connection.aborted
        assert not connection.is_closed
        assert [name for name, _ in protocol.scope["headers"]] == [b"host", b"transfer-encoding"]

    play(story())


def test_a_large_body_in_small_chunks_is_no_overhead() -> None:
    async def story() -> None:
        _, connection = feed(HEAD + b"\r\n" + b"2\r\n{}\r\n" * 100_000)
        assert not connection.aborted
        assert not connection.is_closed

    play(story())


def test_requests_that_wait_for_no_answer_are_bounded() -> None:
    async def story() -> None:
        protocol, connection = feed(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n" * 10_000)
        assert connection.aborted
        assert len(protocol.pipeline) < 5_000

    play(story())
