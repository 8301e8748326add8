"""The one module that speaks to upstreams: pooled connections, time limits, streaming, cancellation.

Its own small client over httptools: aiohttp costs twice the CPU of a call, httpx at 50 connections thirty times.
Redirects are never followed (a credential would travel with them). Requests ask for an uncompressed answer.
"""

import socket
import ssl
import zlib
from collections.abc import AsyncIterator, Mapping
from copy import copy
from typing import Protocol

from gateway.protocol.errors import ConnectFault, UpstreamFault
from gateway.protocol.provider import LocalAnswer, UpstreamRequest
from gateway.upstream.http1 import ConnectionBroken
from gateway.upstream.pool import ConnectionPool, NotConnected
from gateway.upstream.proxy import NO_PROXIES, ProxyFailed, ProxyRules

#: A reused connection was closed at once: nothing can have been worked on, and the same deployment is worth a new one.
IDLE_CLOSED = "upstream_idle_closed"
READ_BYTES = 64 * 1024
#: A stream has an event for each word, so it may be this many times as long as a whole answer.
STREAM_FACTOR = 8


class Response(Protocol):
    """An answer on a connection: http1.Http1Response, or a script of the tests."""

    status: int
    headers: dict[str, str]  # names in lower case

    async def read_available(self) -> bytes:
        """Raises ConnectionBroken."""

    def release(self) -> None: ...

    def close(self) -> None: ...

    @property
    def is_read(self) -> bool: ...


def unreachable_fault(error: BaseException | None = None) -> ConnectFault:
    if isinstance(error, ProxyFailed):
        return ConnectFault(str(error), code="upstream_proxy", is_retryable=True)
    code = "upstream_unreachable"
    if isinstance(error, socket.gaierror):
        code = "upstream_dns"
    elif isinstance(error, ssl.SSLError):
        code = "upstream_tls"
    return ConnectFault("The upstream could not be reached.", code=code, is_retryable=True)


def broken_answer_fault() -> UpstreamFault:
    return UpstreamFault(
        "The upstream broke off its answer.", code="upstream_incomplete_stream", finish="upstream_broken"
    )


class UpstreamClient:
    """Closes: the owner, with `close()`."""

    def __init__(self, *, connect_timeout_s: float, max_answer_bytes: int, proxies: ProxyRules = NO_PROXIES) -> None:
        self._pool = ConnectionPool(connect_timeout_s=connect_timeout_s, proxies=proxies)
        self._max_answer_bytes = max_answer_bytes

    async def close(self) -> None:
        await self._pool.close()

    def with_limit(self, max_answer_bytes: int) -> "UpstreamClient":
        """The same connections, for answers of at most so many bytes. Closes: this client's owner."""
        client = copy(self)
        client._max_answer_bytes = min(max_answer_bytes, self._max_answer_bytes)
        return client

    async def send(self, request: UpstreamRequest, *, connect_timeout_s: float | None = None) -> "UpstreamAnswer":
        """Returns when the answer's status and headers are there. Raises ConnectFault or UpstreamFault.
        `connect_timeout_s` replaces the client's.

        The caller limits the wait. Cancellation closes the connection to the upstream.
        """
        if request.local is not None:
            return UpstreamAnswer(None, max_bytes=self._max_answer_bytes, local=request.local)
        try:
            response = await self._pool.request(
                "POST",
                request.url,
                request.headers,
                request.body,
                connect_timeout_s=connect_timeout_s,
                needs_new=request.needs_new_connection,
            )
        except NotConnected as error:
            raise unreachable_fault(error.__cause__) from None
        except (ConnectionBroken, ValueError) as error:
            if isinstance(error, ConnectionBroken) and error.is_idle_close:
                raise ConnectFault(
                    "The upstream closed the connection before the request reached it.",
                    code=IDLE_CLOSED,
                    is_retryable=True,
                ) from None
            raise UpstreamFault(
                "The upstream broke off before it answered.", finish="upstream_broken", is_retryable=True
            ) from None
        return UpstreamAnswer(response, max_bytes=self._max_answer_bytes)


class UpstreamAnswer:
    """The answer of an upstream. Closes: its reader, with `close()`."""

    def __init__(self, response: Response | None, *, max_bytes: int, local: LocalAnswer | None = None) -> None:
        self._response = response
        self._local = local
        self._max_bytes = max_bytes
        self.status = response.status if response is not None else 200
        self.headers: Mapping[str, str] = response.headers if response is not None else {}
        self.content_type = local.content_type if local else self.headers.get("content-type", "")

    async def read(self) -> bytes:
        """Reads the whole body. Raises UpstreamFault when it is too large or breaks off."""
        parts: list[bytes] = []
        size = 0
        async for piece in self.pieces():
            parts.append(piece)
            size += len(piece)
            if size > self._max_bytes:
                raise UpstreamFault("The upstream's answer is too large.", finish="upstream_broken")
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yields the body as it arrives. Raises UpstreamFault when it breaks off, is closed or is too large."""
        if self._response is None:
            for piece in self._local.pieces if self._local else ():
                yield piece
            return
        encoding = self.headers.get("content-encoding", "identity").lower()
        if encoding not in {"identity", "gzip", "deflate"}:
            raise UpstreamFault("The upstream compressed its answer in a way that was not asked for.")
        inflate = None if encoding == "identity" else zlib.decompressobj(zlib.MAX_WBITS | 32)
        remaining = self._max_bytes * STREAM_FACTOR
        try:
            while piece := await self._response.read_available():
                while piece:  # inflated in steps, so that a compressed bomb stays small
                    data = piece if inflate is None else inflate.decompress(piece, READ_BYTES)
                    remaining -= len(data)
                    if remaining < 0:
                        raise UpstreamFault("The upstream's answer is too large.", finish="upstream_broken")
                    yield data
                    piece = b"" if inflate is None else inflate.unconsumed_tail
        except (OSError, zlib.error):
            raise broken_answer_fault() from None

    def close(self) -> None:
        """Returns the connection to the pool when the answer was read to its end, else closes it."""
        if self._response is None:
            return
        if self._response.is_read:
            self._response.release()
        else:
            self._response.close()
