"""The guarded web server's WebSocket connections."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from django.conf import settings
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request

from gateway.edge.consumer import CONNECTION

LINGER_S = 2.0

#: What the WebSocket library logs below a warning are addresses and, message by message, what is said.
quiet = logging.getLogger("gateway.websocket")
quiet.setLevel(logging.WARNING)


class GuardedSocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket with a deadline for a client that has stopped reading. The server's shutdown leaves an open
    connection to its consumer, which finishes what runs on it (edge/socket.py)."""

    is_lost = False
    on_lost: Callable[[], object] | None = None  # the consumer learns of a disconnect by its message
    _stall: asyncio.TimerHandle | None = None
    _is_failed = False

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.logger = self.conn.logger = quiet
        self.conn.debug = False

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if hasattr(self, "scope"):  # else the handshake was refused, and no consumer runs
            scope: Any = self.scope
            scope[CONNECTION] = self

    async def send(self, message: Any) -> None:
        if self.close_sent:
            return  # by a failure of this side, which the consumer is about to hear of
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body"):
            self.handshake_complete = True  # by a refusal; uvicorn would report that there was none

    def data_received(self, data: bytes) -> None:
        if not self._is_failed:
            super().data_received(data)

    def handle_parser_exception(self) -> None:
        """Not closed at once: what the client is still sending would then undo the close frame, which says why."""
        assert self.conn.close_sent is not None
        self._is_failed = self.close_sent = True
        self.queue.put_nowait({"type": "websocket.disconnect", "code": self.conn.close_sent.code})
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_timer = self.loop.call_later(LINGER_S, self.transport.close)
        if self.read_paused:
            self.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        self._disarm()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stall = self.loop.call_later(settings.TOLLGATE_STALLED_CLIENT_S, self.abort)

    def resume_writing(self) -> None:
        self._disarm()
        super().resume_writing()

    def shutdown(self) -> None:
        if not self.handshake_complete:
            super().shutdown()

    def abort(self) -> None:
        self.transport.abort()

    def _disarm(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None
