"""Daphne with what it lacks: back-pressure, a drain at SIGTERM, and the runtime's start and stop (it has no lifespan).

Measured on Daphne 4.2.3: an unread stream of 196 MB was taken into memory, and SIGTERM cut a stream at once. Its
hooks for both are `handle_reply` and Twisted's push producers.
"""

import asyncio
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

from daphne.server import Server, twisted_loop
from django.conf import settings
from twisted.internet import reactor

from gateway.asgi import application, open_sockets, runtime

POLL_S = 0.1
#: Where a WebSocket's scope holds its Inbox.
INBOX = "tollgate.inbox"


class FlowControl:
    """A push producer: Twisted pauses it while the client does not read."""

    def __init__(self) -> None:
        self.is_open = asyncio.Event()
        self.is_open.set()

    def pauseProducing(self) -> None:  # noqa: N802 - Twisted's names
        self.is_open.clear()

    def resumeProducing(self) -> None:  # noqa: N802
        self.is_open.set()

    stopProducing = resumeProducing  # noqa: N815 - the client is gone: whoever waits may go on and find out


class Inbox(asyncio.Queue[dict[str, Any]]):
    """What a WebSocket has received. No more is read from the client while anything waits here."""

    def __init__(self, transport: Any) -> None:
        super().__init__()
        self._transport = transport

    def put_nowait(self, item: dict[str, Any]) -> None:
        super().put_nowait(item)
        if item["type"] == "websocket.receive":
            self._transport.pauseProducing()

    async def get(self) -> dict[str, Any]:
        item = await super().get()
        if self.empty():
            self._transport.resumeProducing()
        return item


async def receiving(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """The application, which receives from the Inbox where there is one."""
    inbox: Inbox | None = scope.pop(INBOX, None)
    await application(scope, receive if inbox is None else inbox.get, send)


class GuardedDaphne(Server):
    """Rule: a reply returns only when the client may be sent more."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._brakes: dict[Any, FlowControl] = {}

    def create_application(self, protocol: Any, scope: dict[str, Any]) -> Any:
        if scope["type"] != "websocket":
            return super().create_application(protocol, scope)
        inbox = scope[INBOX] = Inbox(protocol.transport)
        return inbox if super().create_application(protocol, scope) is not None else None

    async def handle_reply(self, protocol: Any, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start" and protocol in self.connections:
            self._brakes[protocol] = FlowControl()
            protocol.registerProducer(self._brakes[protocol], True)
        elif message["type"] == "websocket.accept" and protocol in self.connections:
            self._brakes[protocol] = FlowControl()
            protocol.unregisterProducer()  # that of the HTTP request, which the upgrade has ended
            protocol.registerProducer(self._brakes[protocol], True)
        elif message["type"] == "websocket.close" and protocol.state == protocol.STATE_OPEN:
            # Autobahn's own call for this takes none of the codes that the RFC has for servers.
            protocol.sendCloseFrame(code=message.get("code", 1000), isReply=False)
            return
        brake = self._brakes.get(protocol)
        if brake is not None and message["type"] == "http.response.body" and not message.get("more_body"):
            self._brakes.pop(protocol)
            if not protocol._disconnected:
                protocol.unregisterProducer()
            brake = None
        if message["type"] == "websocket.send":
            await self._send(protocol, message)
        else:
            await super().handle_reply(protocol, message)
        if brake is not None:
            await brake.is_open.wait()

    async def _send(self, protocol: Any, message: dict[str, Any]) -> None:
        """Autobahn holds what is sent to the limit of what may be received."""
        limit = protocol.maxMessagePayloadSize
        protocol.maxMessagePayloadSize = 0
        try:
            await super().handle_reply(protocol, message)  # does not wait
        finally:
            protocol.maxMessagePayloadSize = limit

    def protocol_disconnected(self, protocol: Any) -> None:
        brake = self._brakes.pop(protocol, None)
        if brake is not None:
            brake.resumeProducing()
        super().protocol_disconnected(protocol)

    async def drain(self, grace_s: float) -> None:
        """Stops accepting, and returns when nothing is being answered any more, or when the grace is over."""
        open_sockets.drain()
        for listener in self.listeners:
            listener.addCallback(lambda port: port.stopListening())
        end = time.monotonic() + grace_s
        while self._is_answering() and time.monotonic() < end:  # noqa: ASYNC110 - Daphne tells nobody
            await asyncio.sleep(POLL_S)

    def _is_answering(self) -> bool:
        tasks = (details.get("application_instance") for details in self.connections.values())
        return any(task is not None and not task.done() for task in tasks)


def serve_daphne(listener: socket.socket, on_ready: Callable[[], None]) -> None:
    """Serves until SIGTERM or SIGINT, then finishes what is under way."""
    server = GuardedDaphne(
        receiving,
        endpoints=[f"fd:fileno={listener.fileno()}"],
        signal_handlers=False,
        http_timeout=None,
        websocket_timeout=-1,  # the consumer ends its connection itself
        websocket_max_message_size=settings.TOLLGATE_MAX_BODY_BYTES,
        websocket_max_frame_size=settings.TOLLGATE_MAX_BODY_BYTES,
        ping_timeout=settings.TOLLGATE_STALLED_CLIENT_S,  # who reads nothing for a while sends no pong either
        server_name="",
        verbosity=0,
    )

    def ready() -> None:
        server.ws_factory.setProtocolOptions(failByDrop=False)  # what is refused is told by a close code
        on_ready()

    server.ready_callable = ready

    engine: Any = reactor  # Twisted puts the running one into this module

    async def end() -> None:
        await asyncio.sleep(settings.TOLLGATE_DRAIN_DELAY_S)
        await server.drain(settings.TOLLGATE_DRAIN_GRACE_S)
        await runtime.stop()
        engine.stop()

    ending: list[asyncio.Task[None]] = []

    def begin_end() -> None:
        if not runtime.is_draining:
            runtime.is_draining = True
            ending.append(twisted_loop.create_task(end()))

    asyncio.set_event_loop(twisted_loop)
    listener.listen()
    twisted_loop.run_until_complete(runtime.start())
    for number in (signal.SIGTERM, signal.SIGINT):
        twisted_loop.add_signal_handler(number, begin_end)
    server.run()
