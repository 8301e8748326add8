"""The guarded server's HTTP connections: one that stops reading is dropped, and a lost one leaves no timer."""

import asyncio
from typing import Any

import uvicorn
from django.conf import settings
from uvicorn.server import ServerState

from gateway.server.uvicorn_server import GuardedProtocol
from tests.fakes.memory import play


class Connection(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.aborted = 0

    def abort(self) -> None:
        self.aborted += 1

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        """The connection is lost already."""

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
