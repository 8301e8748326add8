"""One HTTP/1.1 connection to an upstream, over httptools and asyncio.

A connection serves one request at a time. It bounds the head of an answer by bytes and fields, and its body by a pause
of the socket while the reader is behind. It drops trailers.

Source: RFC 9112 (§6.3 message body length, §9.3 persistence).
"""

import asyncio
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import cast

import httptools

#: The socket is paused while this many bytes of a body wait for their reader.
HIGH_WATER_BYTES = 256 * 1024
MAX_HEAD_BYTES = 64 * 1024
MAX_HEAD_FIELDS = 200
#: An upstream that closes an idle connection does so before the request reaches it: the end arrives within half a round
#: trip after the request was written. The upstream may have begun with a request whose connection ends later.
IDLE_CLOSE_S = 0.15
TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")


class ConnectionBroken(OSError):
    """The upstream closed the connection, or sent something that is not HTTP.

    `is_idle_close`: the upstream most likely closed an idle connection while the request was on its way: the connection
    had served a request before, no byte of an answer came, and the end came at once.
    """

    def __init__(self, reason: str, *, is_idle_close: bool = False) -> None:
        super().__init__(reason)
        self.is_idle_close = is_idle_close


@lru_cache(maxsize=1024)
def _field_name(name: str) -> str:
    if not TOKEN.fullmatch(name):
        raise ValueError(f"{name!r} is not a name of a header")
    return name.lower()


def encode_head(method: str, path: str, host: str, headers: Mapping[str, str], body_bytes: int) -> bytes:
    """The request line and the header fields. Raises ValueError for a field that would break the framing."""
    fields = {"host": host, "accept": "*/*"}
    for name, value in headers.items():
        fields[_field_name(name)] = value
    fields.pop("transfer-encoding", None)
    fields["content-length"] = str(body_bytes)
    lines = [f"{method} {path} HTTP/1.1", *[f"{name}: {value}" for name, value in fields.items()], "", ""]
    text = "\r\n".join(lines)
    if text.count("\r") != len(lines) - 1 or text.count("\n") != len(lines) - 1 or "\0" in text:
        raise ValueError("a header contains a line break")
    return text.encode()


class Http1Response:
    """An answer as it arrives. Closes: its reader, with `release()` or `close()`."""

    __slots__ = ("_buffer", "_buffered_bytes", "_connection", "_error", "_waiter", "headers", "is_complete", "status")

    def __init__(self, connection: "Http1Connection") -> None:
        self.status = 0
        self.headers: dict[str, str] = {}  # names in lower case
        self.is_complete = False
        self._connection = connection
        self._buffer: list[bytes] = []
        self._buffered_bytes = 0
        self._error: OSError | None = None
        self._waiter: asyncio.Future[None] | None = None

    async def read_available(self) -> bytes:
        """Waits for a part of the body; returns all that has arrived since the last call, or b"" at the end.

        Raises ConnectionBroken where the upstream did not send the whole body.
        """
        while not self._buffer:
            if self.is_complete:
                return b""
            await self.wait()
        data = self._buffer[0] if len(self._buffer) == 1 else b"".join(self._buffer)
        self._buffer.clear()
        if self._buffered_bytes >= HIGH_WATER_BYTES:
            self._connection.resume_reading()
        self._buffered_bytes = 0
        return data

    @property
    def is_read(self) -> bool:
        """The body was read to its end."""
        return self.is_complete and not self._buffer

    async def wait(self) -> None:
        """Waits until something arrives. Raises ConnectionBroken."""
        if self._error is not None:
            raise self._error
        self._waiter = self._connection.loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def add_body(self, data: bytes) -> None:
        self._buffer.append(data)
        self._buffered_bytes += len(data)
        if self._buffered_bytes >= HIGH_WATER_BYTES:
            self._connection.pause_reading()
        self.wake()

    def fail(self, error: OSError) -> None:
        self._error = error
        self.wake()

    def wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def release(self) -> None:
        """Returns the connection to its pool when the body was read to its end, otherwise closes it."""
        self._connection.finish(self)

    def close(self) -> None:
        self._connection.abort()


class Http1Connection(asyncio.Protocol):
    """A connection, given to `on_idle` between requests. Closes: its pool or the answer's reader, with `abort()`."""

    def __init__(self, on_idle: "Callable[[Http1Connection], None]") -> None:
        self._on_idle = on_idle
        self.loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        self._response: Http1Response | None = None
        self._fields = 0
        self._overhead_bytes = 0  # since the last byte of a body: the head, chunk sizes, trailers
        self._has_bytes = False  # of the answer
        self._has_head = False
        self._is_persistent = False
        self._sent_at = 0.0
        self.is_reused = False
        self._idle_since = 0.0

    # Called by the pool and the answer

    async def send(self, head: bytes, body: bytes) -> Http1Response:
        """Returns when the answer's status and headers are there. Raises ConnectionBroken."""
        if self._transport is None or self._parser is None:
            raise ConnectionBroken("the connection is closed", is_idle_close=self.is_reused)
        self._response = response = Http1Response(self)
        self._has_bytes = self._has_head = self._is_persistent = False
        self._fields = self._overhead_bytes = 0
        self._sent_at = self.loop.time()
        self._transport.writelines((head, body) if body else (head,))
        is_taken = False
        try:
            while not self._has_head:
                await response.wait()
            is_taken = True
        finally:
            if not is_taken:  # also where the head came in the same turn of the loop as the cancellation
                self.abort()
        return response

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    @property
    def idle_s(self) -> float:
        return self.loop.time() - self._idle_since

    def finish(self, response: Http1Response) -> None:
        if self._response is not response:
            return
        self._response = None
        transport = self._transport
        is_clean = response.is_read and self._is_persistent
        if transport is None or transport.is_closing() or not is_clean or transport.get_write_buffer_size():
            self.abort()
            return
        self.is_reused = True
        self._idle_since = self.loop.time()
        self._on_idle(self)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def pause_reading(self) -> None:
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    # Called by asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transport is no subclass of it

    def data_received(self, data: bytes) -> None:
        if self._response is None or self._response.is_complete or self._parser is None:
            self.abort()  # bytes that answer no request
            return
        self._has_bytes = True
        self._overhead_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._break("not HTTP/1.1")
            return
        if self._overhead_bytes > MAX_HEAD_BYTES:
            self._break("the head is too large")

    def connection_lost(self, error: Exception | None) -> None:
        response = self._response
        if response is not None and not response.is_complete:
            lengths = {"content-length", "transfer-encoding"}
            if error is None and self._has_head and lengths.isdisjoint(response.headers):
                response.is_complete = True  # a body without a length ends with its connection
                response.wake()
            else:
                response.fail(self._broken("the connection was closed"))
        # The parser and the answer refer to this connection: end the cycle, which would keep what was read
        self._transport = self._parser = self._response = None

    def _break(self, reason: str) -> None:
        if self._response is not None and not self._response.is_complete:
            self._response.fail(self._broken(reason))
        self.abort()

    def _broken(self, reason: str) -> ConnectionBroken:
        is_at_once = self.loop.time() - self._sent_at < IDLE_CLOSE_S
        return ConnectionBroken(reason, is_idle_close=self.is_reused and not self._has_bytes and is_at_once)

    # Called by httptools

    def on_message_begin(self) -> None:
        if self._response is None or self._response.is_complete:
            raise ValueError("an answer that belongs to no request")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields += 1
        if self._fields > MAX_HEAD_FIELDS:
            raise ValueError("too many fields")
        response = self._response
        if response is None or self._has_head:
            return  # a trailer
        key, text = name.decode("latin-1").lower(), value.decode("utf-8", "replace")
        previous = response.headers.get(key)
        response.headers[key] = text if previous is None else f"{previous}, {text}"

    def on_headers_complete(self) -> None:
        response, parser = self._response, self._parser
        if response is None or parser is None:
            return
        status = parser.get_status_code()
        if 100 <= status < 200:
            response.headers.clear()  # informational: the answer follows
            return
        response.status = status
        self._has_head = True
        response.wake()

    def on_body(self, data: bytes) -> None:
        self._overhead_bytes = 0
        if self._response is not None:
            self._response.add_body(data)

    def on_message_complete(self) -> None:
        response, parser = self._response, self._parser
        if response is not None and parser is not None and self._has_head:
            self._is_persistent = parser.should_keep_alive()
            response.is_complete = True
            response.wake()
