"""MediaFetcher: downloads media through the egress guard, for providers that accept them inline only."""

import asyncio
import base64
import ipaddress
from collections.abc import Sequence
from urllib.parse import quote, urlsplit, urlunsplit

from gateway.protocol.attempt_context import Fetched
from gateway.protocol.errors import BadRequest, UpstreamFault
from gateway.upstream.addresses import EgressDenied
from gateway.upstream.client import UpstreamAnswer
from gateway.upstream.egress import GuardedResolver, Network, PortDenied
from gateway.upstream.gather_limited import gather_limited
from gateway.upstream.names import NameCache
from gateway.upstream.pool import ConnectionPool

MAX_MEDIA = 20
MAX_URL_CHARS = 8192  # servers take no longer ones, and the pool keeps the parts of the last addresses
MAX_BYTES = 20 * 1024 * 1024
#: For one request. No provider accepts a larger body, which base64 makes a third larger; and memory has the media of a
#: request twice, as base64 and in the body: twenty of the largest would be a gigabyte.
MAX_TOTAL_BYTES = 64 * 1024 * 1024
SAFE = "/:?#[]@!$&'()*+,;=%~"
HEADERS = {"accept-encoding": "gzip, deflate", "user-agent": "tollgate"}
AT_ONCE = 5  # for one request
#: A client names these hosts: slow ones must leave threads for the names of upstreams.
NAMES_AT_ONCE = 3
TIMEOUT_S = 15
TYPES = ("image/", "audio/", "video/", "application/pdf", "text/")
#: The ports of the web. Any other port is allowed inside an allowed network only.
PORTS = frozenset({80, 443, 8000, 8080, 8443})


class MediaFetcher:
    """Closes: the owner, with `close()`."""

    def __init__(self, allowed: Sequence[str] = ()) -> None:
        networks: list[Network] = [ipaddress.ip_network(text, strict=False) for text in allowed]
        self._resolver = GuardedResolver(networks, ports=PORTS)
        self._has_networks = bool(networks)
        names = NameCache(self._resolver.resolve, resolved_for_s=0, at_once=NAMES_AT_ONCE)
        self._pool = ConnectionPool(connect_timeout_s=TIMEOUT_S, names=names, keep_alive_s=0)

    async def close(self) -> None:
        await self._pool.close()

    async def fetch(self, urls: Sequence[str]) -> dict[str, Fetched]:
        """The media by their addresses. Raises BadRequest with the reason, and with nothing of the content."""
        if len(urls) > MAX_MEDIA:
            raise BadRequest(f"A request may hold at most {MAX_MEDIA} media by address.", param="messages")
        budget = _ByteBudget(MAX_TOTAL_BYTES)

        async def fetch_one(url: str) -> Fetched:
            return await self._fetch_one(url, budget)

        distinct = list(dict.fromkeys(urls))
        media = await gather_limited(fetch_one, distinct, limit=AT_ONCE)
        return dict(zip(distinct, media, strict=True))

    async def _fetch_one(self, url: str, budget: "_ByteBudget") -> Fetched:
        if len(url) > MAX_URL_CHARS:
            raise _media_fault(f"its address is longer than {MAX_URL_CHARS} characters")
        try:
            url = ascii_url(url)
            parts = urlsplit(url)
            if parts.scheme not in {"http", "https"} or parts.username or parts.password:
                raise _media_fault("its address must be plain http or https")
            port = parts.port or (443 if parts.scheme == "https" else 80)
            if not self._has_networks and port not in PORTS:  # decided without resolving the name
                raise _media_fault("its port is not allowed")
            self._resolver.check_literal(parts.hostname, port)
            async with asyncio.timeout(TIMEOUT_S):
                return await self._download(url, budget)
        except PortDenied:
            raise _media_fault("its port is not allowed") from None
        except EgressDenied:
            raise _media_fault("its address is not public") from None
        except (UpstreamFault, TimeoutError, OSError, ValueError):
            raise _media_fault("its server cannot be reached") from None

    async def _download(self, url: str, budget: "_ByteBudget") -> Fetched:
        response = await self._pool.request("GET", url, HEADERS, b"")
        answer = UpstreamAnswer(response, max_bytes=MAX_TOTAL_BYTES)  # `_read_limited` is stricter
        try:
            if answer.status != 200:
                raise _media_fault(f"its server answered {answer.status}")
            media_type = answer.content_type.partition(";")[0].strip().lower()
            if not media_type.startswith(TYPES):
                raise _media_fault("it is of a type that is not taken")
            data = await _read_limited(answer, budget)
        finally:
            answer.close()
        return Fetched(media_type, base64.b64encode(data).decode("ascii"))


def ascii_url(url: str) -> str:
    """The URL as HTTP sends it: its host in IDNA, the rest percent-encoded. Raises ValueError."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    host = host if host.isascii() else host.encode("idna").decode()
    host = f"[{host}]" if ":" in host else host
    authority = host if parts.port is None else f"{host}:{parts.port}"
    login, at, _ = parts.netloc.rpartition("@")
    return urlunsplit((parts.scheme, login + at + authority, quote(parts.path, SAFE), quote(parts.query, SAFE), ""))


class _ByteBudget:
    """The bytes that the media of one request may still have."""

    __slots__ = ("_remaining",)

    def __init__(self, size: int) -> None:
        self._remaining = size

    def take(self, size: int) -> None:
        self._remaining -= size
        if self._remaining < 0:
            raise _media_fault(f"the media of the request are together larger than {MAX_TOTAL_BYTES} bytes")


async def _read_limited(answer: UpstreamAnswer, budget: _ByteBudget) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for piece in answer.pieces():
        size += len(piece)
        if size > MAX_BYTES:
            raise _media_fault(f"it is larger than {MAX_BYTES} bytes")
        budget.take(len(piece))
        parts.append(piece)
    return b"".join(parts)


def _media_fault(why: str) -> BadRequest:
    return BadRequest(
        f"A medium of the request could not be fetched: {why}.", param="messages", code="invalid_image_url"
    )
