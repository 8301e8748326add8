"""The guarded WebSocket protocol against a client that floods it with frames."""

import asyncio
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from gateway.server.uvicorn_websocket import MAX_FRAGMENTS, GuardedSocketProtocol
from tests.fakes.memory import play
from tests.unit.server.test_uvicorn_server import Connection

HANDSHAKE = (
    b"GET /v1/responses HTTP/1.1\r\nhost: a\r\nupgrade: websocket\r\nconnection: Upgrade\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
MASK = b"\0\0\0\0"
FIRST = b"\x01\x81" + MASK + b"a"  # text, one byte, not final
EMPTY = b"\x00\x80" + MASK  # continuation, no bytes, not final
LAST = b"\x80\x81" + MASK + b"b"  # continuation, one byte, final
PING = b"\x89\x80" + MASK


class ReadConnection(Connection):
    def __init__(self) -> None:
        super().__init__()
        self.is_paused = False

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False


def opened(received: list[Any]) -> tuple[GuardedSocketProtocol, ReadConnection]:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while True:
            received.append(await receive())

    config = uvicorn.Config(app, log_config=None, ws_max_size=1024)
    protocol = GuardedSocketProtocol(config, ServerState(), {})
    connection = ReadConnection()
    protocol.connection_made(connection)
    protocol.data_received(HANDSHAKE)
    return protocol, connection


def test_empty_fragments_without_an_end_close_the_connection() -> None:
    async def story() -> None:
        received: list[Any] = []
        protocol, connection = opened(received)
        await asyncio.sleep(0.01)
        protocol.data_received(FIRST)
        for _ in range(2 * MAX_FRAGMENTS // 1000):
            protocol.data_received(EMPTY * 1000)
        assert len(protocol.frames) <= MAX_FRAGMENTS
        await asyncio.sleep(0.01)
        assert received[-1] == {"type": "websocket.disconnect", "code": 1009}
        assert b"too many fragments" in connection.written

    play(story())


def test_a_message_in_fragments_arrives_whole() -> None:
    async def story() -> None:
        received: list[Any] = []
        protocol, _ = opened(received)
        await asyncio.sleep(0.01)
        protocol.data_received(FIRST + EMPTY * 100 + LAST)
        await asyncio.sleep(0.01)
        assert received == [{"type": "websocket.receive", "text": "ab"}]

    play(story())


def test_a_client_that_reads_no_pongs_is_not_read_either() -> None:
    async def story() -> None:
        protocol, connection = opened([])
        await asyncio.sleep(0.01)
        protocol.data_received(PING)
        assert not connection.is_paused
        protocol.pause_writing()
        protocol.data_received(PING)
        assert connection.is_paused
        protocol.resume_writing()
        assert not connection.is_paused
        protocol.connection_lost(None)

    play(story())
