"""The guarded web server: deadlines for headers, back-pressure and drain, for every endpoint."""

import asyncio
import signal
import socket
import threading
from collections.abc import Callable
from types import FrameType
from typing import cast

import uvicorn
from django.conf import settings
from django.utils.module_loading import import_string
from uvicorn.protocols.http import httptools_impl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from gateway.asgi import application, data_plane
from gateway.edge.asgi_types import Scope
from gateway.edge.consumer import CONNECTION
from gateway.edge.problems import error_body
from gateway.edge.request_guard import MAX_HEADERS, MAX_HEADERS_BYTES
from gateway.protocol.errors import ClientFault
from gateway.server.uvicorn_cycle import OneWriteCycle

HEADER_TIMEOUT_S = 15
BODY_IDLE_S = 30
KEEP_ALIVE_S = 75
PING_INTERVAL_S = 20.0
LINGER_S = 1  # for a request that is on its way when the server would close its connection
HALF_CLOSED_S = 0.5  # after a request: an end of input that comes later, within the answer, is a disconnect
RESET_CHECK_S = 0.25
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
BACKLOG = 4096
MAX_PIPELINED = 64
TCP_INFO: int | None = getattr(socket, "TCP_INFO", None)  # Linux has it
TCP_CLOSE = 7  # the state, in Linux's tcp_states.h
_REFUSAL = error_body(ClientFault("The headers are too large.", status=431, code="malformed_request"))
HEADERS_REFUSED = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/json\r\nconnection: close\r\n"
    b"content-length: %d\r\n\r\n%b" % (len(_REFUSAL), _REFUSAL)
)
#: By its name: the first WebSocket loads it, so that a process without any saves 6 MB.
SOCKET_PROTOCOL = "gateway.server.uvicorn_websocket.GuardedSocketProtocol"


#: uvicorn has no setting for the class of its cycles: its protocol finds it under this name.
httptools_impl.RequestResponseCycle = OneWriteCycle  # type: ignore[misc]


class GuardedProtocol(HttpToolsProtocol):
    """uvicorn's parser with limits and deadlines.

    The limits bound what is read beside bodies: request lines, headers, chunk sizes and trailers; trailers are dropped.
    The deadlines are for a request's whole header, for each silence within its body, and for a client that has stopped
    reading. It calls `on_lost` at the client's disconnect, so that no request needs a task that waits for it
    (edge/consumer.py).

    A client that closes its sending side behind a request gets its answer. A client that is gone looks the same until
    it is sent something: its kernel then resets the connection. So where no answer begins, the client is sent an
    interim response, which every client must accept, and the connection is watched for the reset.
    """

    on_lost: Callable[[], object] | None = None
    is_lost = False
    _timer: asyncio.TimerHandle | None = None
    _stall: asyncio.TimerHandle | None = None
    _is_in_header = False
    _fields = 0  # of the request, trailers included
    _overhead_bytes = 0  # received since the last byte of a body
    _is_flooded = False  # by requests that do not wait for their answers
    _request_at = 0.0  # the end of the last request, by the loop's clock
    _reset_check: asyncio.TimerHandle | None = None  # after the end of the client's input

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast("asyncio.Transport", transport))
        self._start_timer(HEADER_TIMEOUT_S)

    def connection_lost(self, exc: Exception | None) -> None:
        self._clear_timer()
        self._clear_stall()
        if self._reset_check is not None:
            self._reset_check.cancel()
        self.is_lost = True
        if self.on_lost is not None:
            self.on_lost()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        cast("Scope", self.scope)[CONNECTION] = self
        self._is_in_header = True
        self._fields = 0
        self._is_flooded = len(self.pipeline) >= MAX_PIPELINED

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields += 1
        if self._is_in_header and self._fields <= MAX_HEADERS:  # a trailer is no header
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._is_in_header = False
        self._clear_timer()
        super().on_headers_complete()
        if data_plane.drain.has_begun:
            self.begin_drain()

    def on_body(self, body: bytes) -> None:
        self._overhead_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._overhead_bytes = 0
        self._request_at = self.loop.time()
        super().on_message_complete()

    def data_received(self, data: bytes) -> None:
        self._overhead_bytes += len(data)
        super().data_received(data)
        if self._is_flooded:
            self.abort()
        elif self._fields > MAX_HEADERS or self._overhead_bytes > MAX_HEADERS_BYTES:
            self._refuse_headers()
        elif self._is_in_header:
            if self._timer is None:  # the deadline is not extended: it cuts off a header that drips in as well
                self._start_timer(HEADER_TIMEOUT_S)
        elif self.cycle is not None and self.cycle.more_body:
            self._clear_timer()
            self._start_timer(BODY_IDLE_S)
        else:
            self._clear_timer()

    def eof_received(self) -> bool:  # type: ignore[override]  # as asyncio has it
        """Returns True to keep the connection open for the answer that is under way."""
        cycle = self.cycle
        if TCP_INFO is None or self._is_in_header:
            return False
        if cycle is None or cycle.more_body or cycle.response_complete:
            return False
        if cycle.response_started and self.loop.time() - self._request_at > HALF_CLOSED_S:
            return False
        cycle.keep_alive = False
        self._reset_check = self.loop.call_later(HALF_CLOSED_S, self._probe)
        return True

    def begin_drain(self) -> None:
        """Announces the end of the connection in its next answer."""
        if self.cycle is not None and not self.cycle.response_started:
            self.cycle.keep_alive = False

    def shutdown(self) -> None:
        """Closes an idle connection; any other one closes behind its answer. An answer that has not announced that is
        followed by a pause, so that a request which the client has sent meanwhile is answered too."""
        self.timeout_keep_alive = LINGER_S
        if self._is_in_header:
            return
        cycle = cast("RequestResponseCycle | None", self.cycle)
        if cycle is None:  # the first request may be on its way
            self._clear_timer()
            self._start_timer(LINGER_S)
        elif cycle.response_complete:
            self.transport.close()
        else:
            self.begin_drain()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stall = self.loop.call_later(settings.TOLLGATE_STALLED_CLIENT_S, self.abort)

    def resume_writing(self) -> None:
        self._clear_stall()
        super().resume_writing()

    def abort(self) -> None:
        self.transport.abort()

    def _probe(self) -> None:
        if not self.cycle.response_started and self.cycle.scope["http_version"] == "1.1":
            self.transport.write(CONTINUE)
        self._check_reset()

    def _check_reset(self) -> None:
        if is_reset(self.transport):
            self.abort()
        else:
            self._reset_check = self.loop.call_later(RESET_CHECK_S, self._check_reset)

    def _refuse_headers(self) -> None:
        """Ends the connection: at once where an answer may be under way already."""
        if self._is_in_header:
            self.transport.write(HEADERS_REFUSED)
            self.transport.close()
        else:
            self.transport.abort()

    def _start_timer(self, delay_s: float) -> None:
        self._timer = self.loop.call_later(delay_s, self.transport.close)

    def _clear_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _clear_stall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None


def is_reset(transport: asyncio.BaseTransport) -> bool:
    """The client's kernel has reset the connection."""
    end: socket.socket = transport.get_extra_info("socket")
    assert TCP_INFO is not None
    return end.getsockopt(socket.IPPROTO_TCP, TCP_INFO, 1)[0] == TCP_CLOSE


class WebServer(uvicorn.Server):
    """Calls `on_ready` when it listens. At SIGTERM it answers 503 to health checks and announces in every answer that
    the connection ends; after the delay it stops to listen and closes what is idle."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready
        self._is_draining = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_ready()

    async def on_tick(self, counter: int) -> bool:
        if data_plane.drain.has_begun and not self._is_draining:
            self._is_draining = True
            for connection in self.server_state.connections:
                if isinstance(connection, GuardedProtocol):
                    connection.begin_drain()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        data_plane.sockets.drain()
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        is_repeated = data_plane.drain.has_begun
        data_plane.drain.begin()
        if is_repeated or settings.TOLLGATE_DRAIN_DELAY_S == 0:
            super().handle_exit(sig, frame)
            return
        exit_now = super().handle_exit
        threading.Timer(settings.TOLLGATE_DRAIN_DELAY_S, exit_now, (sig, frame)).start()


def make_socket_protocol(**options: object) -> asyncio.Protocol:
    protocol: asyncio.Protocol = import_string(SOCKET_PROTOCOL)(**options)
    return protocol


def serve_web(listener: socket.socket, before_start: Callable[[], None], on_ready: Callable[[], None]) -> None:
    """Serves until SIGTERM or SIGINT, then finishes the running requests."""
    data_plane.before_start = before_start
    config = uvicorn.Config(
        application,
        http=GuardedProtocol,
        ws=cast("type[asyncio.Protocol]", make_socket_protocol),  # uvicorn only calls it
        ws_max_size=settings.TOLLGATE_MAX_BODY_BYTES,
        ws_ping_interval=PING_INTERVAL_S,
        ws_ping_timeout=settings.TOLLGATE_STALLED_CLIENT_S,  # a client that reads nothing sends no pong either
        ws_per_message_deflate=False,  # events are small: it would cost memory and time for each connection
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=int(settings.TOLLGATE_DRAIN_GRACE_S),
    )
    # uvicorn raises the signal once more when it is done; this process still has work to do then.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _ignore)
    WebServer(config, on_ready).run(sockets=[listener])


def _ignore(sig: int, frame: object) -> None:
    """Nothing is to be interrupted between the end of the server and the end of the process."""
