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

from gateway.asgi import application, runtime

POLL_S = 0.1


class Brake:
    """A push producer: Twisted pauses it while the client does not read."""

    def __init__(self) -> None:
        self.is_open = asyncio.Event()
        self.is_open.set()

    def pauseProducing(self) -> None:  # noqa: N802 - Twisted's names
        self.is_open.clear()

    def resumeProducing(self) -> None:  # noqa: N802
        self.is_open.set()

    stopProducing = resumeProducing  # noqa: N815 - the client is gone: whoever waits may go on and find out


class GuardedDaphne(Server):
    """Rule: a reply returns only when the client may be sent more."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._brakes: dict[Any, Brake] = {}

    async def handle_reply(self, protocol: Any, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start" and protocol in self.connections:
            self._brakes[protocol] = Brake()
            protocol.registerProducer(self._brakes[protocol], True)
        brake = self._brakes.get(protocol)
        if brake is not None and message["type"] == "http.response.body" and not message.get("more_body"):
            self._brakes.pop(protocol)
            if not protocol._disconnected:
                protocol.unregisterProducer()
            brake = None
        await super().handle_reply(protocol, message)
        if brake is not None:
            await brake.is_open.wait()

    def protocol_disconnected(self, protocol: Any) -> None:
        brake = self._brakes.pop(protocol, None)
        if brake is not None:
            brake.resumeProducing()
        super().protocol_disconnected(protocol)

    async def drain(self, grace_s: float) -> None:
        """Stops accepting, and returns when nothing is being answered any more, or when the grace is over."""
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
        application,
        endpoints=[f"fd:fileno={listener.fileno()}"],
        signal_handlers=False,
        http_timeout=None,
        server_name="",
        verbosity=0,
        ready_callable=on_ready,
    )

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
