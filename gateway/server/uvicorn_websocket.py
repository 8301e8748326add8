"""The guarded web server's WebSocket connections."""

import asyncio
import logging
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, cast

from django.conf import settings
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import CloseCode, Frame
from websockets.http11 import Request

from gateway.edge.asgi_types import Scope
from gateway.edge.consumer import CONNECTION

MAX_FRAGMENTS = 10_000  # of one message: an empty one costs its sender nothing
LINGER_S = 2.0  # between the close frame and the close of the connection

#: Below a warning, the WebSocket library logs addresses and the text of every message.
quiet = logging.getLogger("gateway.websocket")
quiet.setLevel(logging.WARNING)


class GuardedSocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket with a limit on fragments, and a deadline for a client that has stopped reading.

    At shutdown the server leaves an open connection to its consumer, which finishes the turns
    (edge/websocket/consumer.py).
    """

    is_lost = False
    on_lost: Callable[[], object] | None = None  # never called: a message tells the consumer of a disconnect
    _stall: asyncio.TimerHandle | None = None
    _is_failed = False

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.logger = self.conn.logger = quiet
        self.conn.debug = False

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if self.response.status_code == HTTPStatus.SWITCHING_PROTOCOLS:  # else no consumer runs
            cast("Scope", self.scope)[CONNECTION] = self

    async def send(self, message: Any) -> None:
        if self.close_sent:
            return  # this side failed; a message is about to tell the consumer
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body"):
            self.handshake_complete = True  # it was refused; without this uvicorn reports a consumer without an answer

    def data_received(self, data: bytes) -> None:
        if not self._is_failed:
            super().data_received(data)

    def handle_cont(self, event: Frame) -> None:
        if len(self.frames) >= MAX_FRAGMENTS:
            self.frames = []
            self.conn.fail(CloseCode.MESSAGE_TOO_BIG, "too many fragments")
            self.handle_parser_exception()
            return
        super().handle_cont(event)

    def handle_events(self) -> None:
        super().handle_events()
        if not self.writable.is_set():  # the client reads nothing: its pings would pile up pongs
            self.transport.pause_reading()

    def handle_parser_exception(self) -> None:
        """Closes after a pause: bytes still on their way could otherwise undo the close frame and its reason."""
        assert self.conn.close_sent is not None
        self._is_failed = self.close_sent = True
        self.queue.put_nowait({"type": "websocket.disconnect", "code": self.conn.close_sent.code})
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_timer = self.loop.call_later(LINGER_S, self.transport.close)
        if self.read_paused:
            self.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        self._clear_stall()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stall = self.loop.call_later(settings.TOLLGATE_STALLED_CLIENT_S, self.abort)

    def resume_writing(self) -> None:
        self._clear_stall()
        super().resume_writing()
        if not self.read_paused:
            self.transport.resume_reading()

    def shutdown(self) -> None:
        if not self.handshake_complete:
            super().shutdown()

    def abort(self) -> None:
        self.transport.abort()

    def _clear_stall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None
