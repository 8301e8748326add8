"""ConnectionPool: connections to upstreams, which stay open for the next request.

It tries every address of a name (RFC 8305).
"""

import asyncio
import base64
import socket
import ssl
from collections import defaultdict
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import unquote, urlsplit

import aiohappyeyeballs

from gateway.upstream.addresses import EgressDenied
from gateway.upstream.http1 import ConnectionBroken, Http1Connection, Http1Response, encode_head
from gateway.upstream.names import NameCache
from gateway.upstream.proxy import NO_PROXIES, REFUSED_LOGIN, Proxy, ProxyFailed, ProxyRules, open_tunnel

KEEP_ALIVE_S = 30.0
SWEEP_S = 5.0
EYEBALLS_DELAY_S = 0.25


class NotConnected(OSError):
    """No connection could be made, and nothing was sent. Its cause says why."""


@dataclass(frozen=True, slots=True)
class Origin:
    is_tls: bool
    host: str
    port: int

    @property
    def scheme(self) -> str:
        return "https" if self.is_tls else "http"


@dataclass(frozen=True, slots=True)
class Location:
    """The parts of a URL: the origin to connect to, and those that the request contains."""

    origin: Origin
    path: str
    host_header: str
    authorization: str  # from the user and password in the URL; empty without them


@lru_cache(maxsize=1024)
def locate(url: str) -> Location:
    """Raises ValueError for a URL that cannot be requested."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or not url.isascii() or not url.isprintable():
        raise ValueError("not an address of HTTP")
    if " " in url:
        raise ValueError("a space in an address")
    is_tls = parts.scheme == "https"
    standard = 443 if is_tls else 80
    port = parts.port or standard
    name = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    authorization = ""
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = "Basic " + base64.b64encode(login.encode()).decode()
    host_header = name if port == standard else f"{name}:{port}"
    return Location(Origin(is_tls, parts.hostname, port), path, host_header, authorization)


@lru_cache(maxsize=1)
def trust() -> ssl.SSLContext:
    """The system's certificates."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


class ConnectionPool:
    """Closes: the owner, with `close()`."""

    def __init__(
        self,
        *,
        connect_timeout_s: float,
        names: NameCache | None = None,
        keep_alive_s: float = KEEP_ALIVE_S,
        proxies: ProxyRules = NO_PROXIES,
    ) -> None:
        self._connect_timeout_s = connect_timeout_s
        self._names = names if names is not None else NameCache()
        self._keep_alive_s = keep_alive_s
        self._proxies = proxies
        self._idle: dict[Origin, list[Http1Connection]] = defaultdict(list)
        self._sweeping: asyncio.TimerHandle | None = None
        self._is_closed = False

    async def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes,
        *,
        connect_timeout_s: float | None = None,
        needs_new: bool = False,
    ) -> Http1Response:
        """The answer, when its head is there. `needs_new`: not on a connection that has served before.

        Raises ValueError for a request that cannot be sent, NotConnected, or ConnectionBroken.
        """
        location = locate(url)
        origin = location.origin
        if location.authorization and not any(name.lower() == "authorization" for name in headers):
            headers = {**headers, "authorization": location.authorization}
        proxy, path = self._find_proxy(origin), location.path
        if proxy is not None and not origin.is_tls:
            path = f"http://{location.host_header}{path}"
            headers = {**headers, **proxy.headers}
        head = encode_head(method, path, location.host_header, headers, len(body))
        connection = None if needs_new else self._pop_idle(origin)
        if connection is None:
            connection = await self._connect(origin, proxy, connect_timeout_s or self._connect_timeout_s)
        try:
            response = await connection.send(head, body)
        except ConnectionBroken as error:
            if error.is_idle_close:  # the upstream has most likely closed the others as well
                self._drop_idle(origin)
            raise
        if proxy is not None and response.status == REFUSED_LOGIN and not origin.is_tls:
            response.close()
            raise NotConnected from proxy.refusal(response.status)
        return response

    async def close(self) -> None:
        self._is_closed = True
        if self._sweeping is not None:
            self._sweeping.cancel()
        for connections in self._idle.values():
            for connection in connections:
                connection.abort()
        self._idle.clear()
        self._names.close()

    def _drop_idle(self, origin: Origin) -> None:
        for connection in self._idle.pop(origin, ()):
            connection.abort()

    def _pop_idle(self, origin: Origin) -> Http1Connection | None:
        connections = self._idle.get(origin)
        while connections:
            connection = connections.pop()
            if connection.is_open and connection.idle_s < self._keep_alive_s:
                return connection
            connection.abort()
        return None

    def _push_idle(self, origin: Origin, connection: Http1Connection) -> None:
        if self._is_closed or not self._keep_alive_s:
            connection.abort()
            return
        self._idle[origin].append(connection)
        if self._sweeping is None:
            self._sweeping = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        """Closes connections that were idle for too long, or that the upstream closed."""
        loop = asyncio.get_running_loop()
        for origin, connections in list(self._idle.items()):
            fresh = [one for one in connections if one.is_open and one.idle_s < self._keep_alive_s]
            for connection in connections:
                if connection not in fresh:
                    connection.abort()
            if fresh:
                self._idle[origin] = fresh
            else:
                del self._idle[origin]
        self._sweeping = loop.call_later(SWEEP_S, self._sweep) if self._idle else None

    def _find_proxy(self, origin: Origin) -> Proxy | None:
        try:
            return self._proxies.find(origin.scheme, origin.host, origin.port)
        except EgressDenied as error:
            raise NotConnected from error

    async def _connect(self, origin: Origin, proxy: Proxy | None, timeout_s: float) -> Http1Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout_s):
                connected = await (self._dial(origin.host, origin.port) if proxy is None else self._dial_proxy(proxy))
                connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with ExitStack() as cleanup:
                    cleanup.callback(connected.close)
                    if proxy is not None and origin.is_tls:
                        await open_tunnel(connected, proxy, origin.host, origin.port)
                    _, connection = await loop.create_connection(
                        lambda: Http1Connection(lambda idle: self._push_idle(origin, idle)),
                        sock=connected,
                        ssl=trust() if origin.is_tls else None,
                        server_hostname=origin.host if origin.is_tls else None,
                    )
                    cleanup.pop_all()  # the connection owns the socket now
        except (OSError, TimeoutError) as error:
            raise NotConnected from error
        return connection

    async def _dial(self, host: str, port: int) -> socket.socket:
        addresses = await self._names.find(host, port)
        return await aiohappyeyeballs.start_connection(addresses, happy_eyeballs_delay=EYEBALLS_DELAY_S, interleave=1)

    async def _dial_proxy(self, proxy: Proxy) -> socket.socket:
        try:
            return await self._dial(proxy.host, proxy.port)
        except OSError as error:
            raise ProxyFailed(f"The proxy {proxy} could not be reached.") from error
