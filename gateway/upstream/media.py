"""Fetches media by address for providers that take them inline only, through the egress guard."""

import base64
import ipaddress
from collections.abc import Sequence

import aiohttp
from yarl import URL

from gateway.protocol.attempt_context import Fetched
from gateway.protocol.errors import BadRequest
from gateway.upstream.egress import EgressDenied, GuardedResolver, Network, PortDenied
from gateway.upstream.gather_limited import gather_limited

MAX_MEDIA = 20
MAX_BYTES = 20 * 1024 * 1024
#: Of one request. No provider takes a larger body, base64 making a third more of it; and a request holds its media
#: twice, as base64 and in the body: twenty of the largest would be a gigabyte.
MAX_TOTAL_BYTES = 64 * 1024 * 1024
AT_ONCE = 5  # of one request
TIMEOUT_S = 15
TYPES = ("image/", "audio/", "video/", "application/pdf", "text/")
#: Of the web. Any other port is dialled in an allowed network only.
PORTS = frozenset({80, 443, 8000, 8080, 8443})


class MediaFetcher:
    """Closes: the owner, with `close()`."""

    def __init__(self, allowed: Sequence[str] = ()) -> None:
        networks: list[Network] = [ipaddress.ip_network(text, strict=False) for text in allowed]
        self._resolver = GuardedResolver(networks, ports=PORTS)
        self._has_networks = bool(networks)
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def fetch(self, urls: Sequence[str]) -> dict[str, Fetched]:
        """Raises BadRequest naming what cannot be fetched, never what stands there."""
        if len(urls) > MAX_MEDIA:
            raise BadRequest(f"A request may hold at most {MAX_MEDIA} media by address.", param="messages")
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(resolver=self._resolver, use_dns_cache=False, limit=20),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
            )
        session, room = self._session, _Room(MAX_TOTAL_BYTES)

        async def one(url: str) -> Fetched:
            return await self._one(session, url, room)

        distinct = list(dict.fromkeys(urls))
        found = await gather_limited(one, distinct, at_once=AT_ONCE)
        return dict(zip(distinct, found, strict=True))

    async def _one(self, session: aiohttp.ClientSession, text: str, room: "_Room") -> Fetched:
        try:
            url = URL(text)
            if url.scheme not in {"http", "https"} or url.user or url.password:
                raise _refused("its address must be plain http or https")
            if not self._has_networks and url.port not in PORTS:  # no need to ask where its name leads
                raise _refused("its port is not allowed")
            self._resolver.check_literal(url.host, url.port or 0)
            async with session.get(url, allow_redirects=False) as response:
                if response.status != 200:
                    raise _refused(f"its server answered {response.status}")
                media_type = response.content_type
                if not media_type.startswith(TYPES):
                    raise _refused("it is of a type that is not taken")
                data = await _bounded(response, room)
        except PortDenied:
            raise _refused("its port is not allowed") from None
        except EgressDenied:
            raise _refused("its address is not public") from None
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            raise _refused("its server cannot be reached") from None
        return Fetched(media_type, base64.b64encode(data).decode("ascii"))


class _Room:
    """What the media of one request may still bring, in bytes."""

    __slots__ = ("_left",)

    def __init__(self, size: int) -> None:
        self._left = size

    def take(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise _refused(f"the media of the request are together larger than {MAX_TOTAL_BYTES} bytes")


async def _bounded(response: aiohttp.ClientResponse, room: _Room) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for piece in response.content.iter_chunked(64 * 1024):
        size += len(piece)
        if size > MAX_BYTES:
            raise _refused(f"it is larger than {MAX_BYTES} bytes")
        room.take(len(piece))
        parts.append(piece)
    return b"".join(parts)


def _refused(why: str) -> BadRequest:
    return BadRequest(
        f"A medium of the request could not be fetched: {why}.", param="messages", code="invalid_image_url"
    )
