"""The one module that speaks to upstreams: pooled connections, time limits, streaming, cancellation.

aiohttp rather than httpx: at 50 connections a call costs a fraction of its CPU (the README's "How fast it is").
Redirects are never followed (a credential would travel with them); bodies come undecoded, and `identity` is asked for.
"""

import ssl
import zlib
from collections.abc import AsyncIterator, Mapping
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

import aiohttp
from yarl import URL

from gateway.protocol.errors import ConnectFault, UpstreamFault
from gateway.protocol.provider import LocalAnswer, UpstreamRequest

READ_BYTES = 64 * 1024
#: A stream says each word in an event of its own, and may be so many times longer than a whole answer.
STREAM_FACTOR = 8


@lru_cache(maxsize=1024)
def parse_url(text: str) -> URL:
    return URL(text, encoded=True)


def unreachable(error: BaseException | None = None) -> ConnectFault:
    code = "upstream_unreachable"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        code = "upstream_dns"
    elif isinstance(error, aiohttp.ClientSSLError | ssl.SSLError):
        code = "upstream_tls"
    return ConnectFault("The upstream could not be reached.", code=code, is_retryable=True)


def broken_off() -> UpstreamFault:
    return UpstreamFault(
        "The upstream broke off its answer.", code="upstream_incomplete_stream", finish="upstream_broken"
    )


#: Whether the connection of the task's last request came from the pool.
was_pooled: ContextVar[bool] = ContextVar("was_pooled", default=False)


class Connector(aiohttp.TCPConnector):
    """Tells a request whether its connection had served another one before."""

    async def connect(self, *args: Any, **options: Any) -> aiohttp.connector.Connection:
        connection = await super().connect(*args, **options)
        protocol: Any = connection.protocol
        was_pooled.set(getattr(protocol, "has_served", False))
        protocol.has_served = True
        return connection


class UpstreamClient:
    """Closes: the owner, with `close()`."""

    def __init__(self, *, connect_timeout_s: float, max_answer_bytes: int) -> None:
        self._connect_timeout_s = connect_timeout_s
        self._max_answer_bytes = max_answer_bytes
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        self._session = aiohttp.ClientSession(
            connector=Connector(limit=0, ttl_dns_cache=60, keepalive_timeout=30),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            # The first limit is of the name's resolution and all its addresses, the second of one address
            timeout=aiohttp.ClientTimeout(
                total=None, connect=self._connect_timeout_s, sock_connect=self._connect_timeout_s
            ),
            skip_auto_headers=("user-agent", "accept-encoding"),
        )

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def send(self, request: UpstreamRequest) -> "UpstreamAnswer":
        """Returns with the answer's status and headers. Raises ConnectFault or UpstreamFault.

        Cancelling closes the connection to the upstream; how long to wait is the caller's to say.
        """
        if request.local is not None:
            return UpstreamAnswer(None, max_bytes=self._max_answer_bytes, local=request.local)
        assert self._session is not None, "open() comes first"
        post = self._session.post
        try:
            url = parse_url(request.url)
            try:
                response = await post(url, data=request.body, headers=request.headers, allow_redirects=False)
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
                if isinstance(error, aiohttp.ClientConnectorError) or not was_pooled.get():
                    raise
                # The upstream closed the idle connection while the request was on its way to it: once more.
                response = await post(url, data=request.body, headers=request.headers, allow_redirects=False)
        except TimeoutError:
            raise unreachable() from None  # the one limit that is aiohttp's: to connect
        except (aiohttp.ClientConnectorError, aiohttp.ClientSSLError) as error:
            raise unreachable(error) from None
        except (aiohttp.ClientError, OSError, ValueError):
            raise UpstreamFault(
                "The upstream broke off before it answered.", finish="upstream_broken", is_retryable=True
            ) from None
        return UpstreamAnswer(response, max_bytes=self._max_answer_bytes)


class UpstreamAnswer:
    """Closes: its reader, with `close()`; a connection whose answer was read to the end goes back to the pool."""

    def __init__(
        self, response: aiohttp.ClientResponse | None, *, max_bytes: int, local: LocalAnswer | None = None
    ) -> None:
        self._response = response
        self._local = local
        self._max_bytes = max_bytes
        self.status = response.status if response is not None else 200
        self.headers: Mapping[str, str] = response.headers if response is not None else {}
        self.content_type = local.content_type if local else self.headers.get("content-type", "")

    async def read(self) -> bytes:
        """The whole body. Raises UpstreamFault beyond the size limit, or when it breaks off."""
        parts: list[bytes] = []
        size = 0
        async for piece in self.pieces():
            parts.append(piece)
            size += len(piece)
            if size > self._max_bytes:
                raise UpstreamFault("The upstream's answer is too large.", finish="upstream_broken")
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body as it arrives. Raises UpstreamFault when it breaks off, is closed from beside, or has no end."""
        if self._response is None:
            for piece in self._local.pieces if self._local else ():
                yield piece
            return
        encoding = self.headers.get("content-encoding", "identity").lower()
        if encoding not in {"identity", "gzip", "deflate"}:
            raise UpstreamFault("The upstream compressed its answer in a way that was not asked for.")
        inflate = None if encoding == "identity" else zlib.decompressobj(zlib.MAX_WBITS | 32)
        content = self._response.content
        left = self._max_bytes * STREAM_FACTOR
        try:
            while piece := await content.readany():
                while piece:  # a bomb is inflated no further than it is read
                    whole = piece if inflate is None else inflate.decompress(piece, READ_BYTES)
                    left -= len(whole)
                    if left < 0:
                        raise UpstreamFault("The upstream's answer is too large.", finish="upstream_broken")
                    yield whole
                    piece = b"" if inflate is None else inflate.unconsumed_tail
        except (aiohttp.ClientError, OSError, zlib.error):
            raise broken_off() from None

    def close(self) -> None:
        """Gives the connection back when the answer was read whole, else closes it."""
        if self._response is None:
            return
        if self._response.content.at_eof():
            self._response.release()
        else:
            self._response.close()
