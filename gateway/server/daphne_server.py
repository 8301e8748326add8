"""Daphne with back-pressure, a drain at SIGTERM, and the start and stop of the runtime (it has no lifespan).

Measured on Daphne 4.2.3: it took an unread stream of 196 MB into memory, and SIGTERM cut a stream at once. The hooks
for both are `handle_reply` and Twisted's push producers.
"""

import asyncio
import signal
import socket
import time
from collections.abc import Callable
from typing import Any, TypeAlias

from daphne.http_protocol import WebRequest
from daphne.server import Server, twisted_loop
from daphne.ws_protocol import WebSocketProtocol
from django.conf import settings
from twisted.internet import reactor

from gateway.asgi import application, data_plane
from gateway.edge.asgi_types import Message, Receive, Scope, Send

ClientProtocol: TypeAlias = WebRequest | WebSocketProtocol
FLUSH_S = 0.1  # for Twisted to write the end of an answer
#: The member of a WebSocket's scope that has its Inbox.
INBOX = "tollgate.inbox"


class FlowControl:
    """A push producer: Twisted pauses it while the client does not read."""

    def __init__(self) -> None:
        self.is_open = asyncio.Event()
        self.is_open.set()

    def pauseProducing(self) -> None:
        self.is_open.clear()

    def resumeProducing(self) -> None:
        self.is_open.set()

    stopProducing = resumeProducing  # the client is gone: a waiting reply goes on and finds out


class Inbox(asyncio.Queue[Message]):
    """The messages that a WebSocket has received. Twisted reads no more from the client while one waits here."""

    def __init__(self, transport: Any) -> None:
        super().__init__()
        self._transport = transport

    def put_nowait(self, item: Message) -> None:
        super().put_nowait(item)
        if item["type"] == "websocket.receive":
            self._transport.pauseProducing()

    async def get(self) -> Message:
        item = await super().get()
        if self.empty():
            self._transport.resumeProducing()
        return item


async def application_with_inbox(scope: Scope, receive: Receive, send: Send) -> None:
    """The application. It receives from the scope's Inbox where there is one."""
    inbox: Inbox | None = scope.pop(INBOX, None)
    await application(scope, receive if inbox is None else inbox.get, send)


class GuardedDaphne(Server):
    """Rule: `handle_reply` returns only when the client may be sent more."""

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **options)
        self._flow_controls: dict[ClientProtocol, FlowControl] = {}

    def create_application(self, protocol: ClientProtocol, scope: Scope) -> object:
        if scope["type"] != "websocket":
            return super().create_application(protocol, scope)
        inbox = scope[INBOX] = Inbox(protocol.transport)
        return inbox if super().create_application(protocol, scope) is not None else None

    async def handle_reply(self, protocol: ClientProtocol, message: Message) -> None:
        if message["type"] == "http.response.start" and protocol in self.connections:
            self._flow_controls[protocol] = FlowControl()
            protocol.registerProducer(self._flow_controls[protocol], True)
            if data_plane.drain.has_begun:
                message = {**message, "headers": [*message.get("headers", []), (b"connection", b"close")]}
        elif message["type"] == "websocket.accept" and protocol in self.connections:
            self._flow_controls[protocol] = FlowControl()
            protocol.unregisterProducer()  # of the HTTP request, which the upgrade has ended
            protocol.registerProducer(self._flow_controls[protocol], True)
        elif message["type"] == "websocket.close" and protocol.state == protocol.STATE_OPEN:
            # Autobahn's own call for this takes none of the codes that the RFC has for servers.
            protocol.sendCloseFrame(code=message.get("code", 1000), isReply=False)
            return
        flow_control = self._flow_controls.get(protocol)
        if flow_control is not None and message["type"] == "http.response.body" and not message.get("more_body"):
            self._flow_controls.pop(protocol)
            if not protocol._disconnected:
                protocol.unregisterProducer()
            flow_control = None
        if message["type"] == "websocket.send":
            await self._send(protocol, message)
        else:
            await super().handle_reply(protocol, message)
        if flow_control is not None:
            await flow_control.is_open.wait()

    async def _send(self, protocol: ClientProtocol, message: Message) -> None:
        """Autobahn checks sent messages against the limit of received ones: the limit is lifted meanwhile."""
        limit = protocol.maxMessagePayloadSize
        protocol.maxMessagePayloadSize = 0
        try:
            await super().handle_reply(protocol, message)  # does not wait
        finally:
            protocol.maxMessagePayloadSize = limit

    def protocol_disconnected(self, protocol: ClientProtocol) -> None:
        flow_control = self._flow_controls.pop(protocol, None)
        if flow_control is not None:
            flow_control.resumeProducing()
        super().protocol_disconnected(protocol)

    async def drain(self, grace_s: float) -> None:
        """Stops accepting, and returns when all requests are answered, or when the grace is over."""
        data_plane.sockets.drain()
        for listener in self.listeners:
            listener.addCallback(lambda port: port.stopListening())
        end = time.monotonic() + grace_s
        while (tasks := self._running_tasks()) and time.monotonic() < end:
            await asyncio.wait(tasks, timeout=end - time.monotonic())
            await asyncio.sleep(FLUSH_S)

    def _running_tasks(self) -> list[asyncio.Future[None]]:
        tasks = (details.get("application_instance") for details in self.connections.values())
        return [task for task in tasks if task is not None and not task.done()]


def serve_daphne(listener: socket.socket, before_start: Callable[[], None], on_ready: Callable[[], None]) -> None:
    """Serves until SIGTERM or SIGINT, then finishes the running requests."""
    data_plane.before_start = before_start
    server = GuardedDaphne(
        application_with_inbox,
        endpoints=[f"fd:fileno={listener.fileno()}"],
        signal_handlers=False,
        http_timeout=None,
        websocket_timeout=-1,  # the consumer ends its connection itself
        websocket_max_message_size=settings.TOLLGATE_MAX_BODY_BYTES,
        websocket_max_frame_size=settings.TOLLGATE_MAX_BODY_BYTES,
        ping_timeout=settings.TOLLGATE_STALLED_CLIENT_S,  # a client that reads nothing sends no pong either
        server_name="",
        verbosity=0,
    )

    def ready() -> None:
        server.ws_factory.setProtocolOptions(failByDrop=False)  # a close code names the reason of a failure
        on_ready()

    server.ready_callable = ready

    engine: Any = reactor  # Twisted replaces this module by the running reactor

    async def end() -> None:
        await asyncio.sleep(settings.TOLLGATE_DRAIN_DELAY_S)
        await server.drain(settings.TOLLGATE_DRAIN_GRACE_S)
        await data_plane.stop()
        engine.stop()

    ending: list[asyncio.Task[None]] = []

    def begin_end() -> None:
        if not data_plane.drain.has_begun:
            data_plane.drain.begin()
            ending.append(twisted_loop.create_task(end()))

    asyncio.set_event_loop(twisted_loop)
    listener.listen()
    twisted_loop.run_until_complete(data_plane.start())
    for number in (signal.SIGTERM, signal.SIGINT):
        twisted_loop.add_signal_handler(number, begin_end)
    server.run()
