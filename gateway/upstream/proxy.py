"""The HTTP proxy between the gateway and its upstreams, and the hosts that it is not for.

An upstream of HTTPS is reached through a tunnel (CONNECT), one of HTTP by requests with its whole URL. The proxy
resolves the upstream's name. Source: RFC 9110 §9.3.6, RFC 9112 §3.2.2.
"""

import asyncio
import base64
import ipaddress
import re
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from gateway.protocol.secret import Secret
from gateway.upstream.addresses import EgressDenied, is_denied_host

MAX_HEAD_BYTES = 64 * 1024
READ_BYTES = 4096
REFUSED_LOGIN = 407
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})(?: |\r\n)")


class ProxyFailed(OSError):
    """The proxy did not connect the gateway with the upstream. The text names the proxy, without its login."""


@dataclass(frozen=True, slots=True)
class Proxy:
    host: str
    port: int
    authorization: Secret  # the value of Proxy-Authorization; empty where the proxy needs no login

    @classmethod
    def read(cls, url: str) -> "Proxy":
        """From `http://[user:password@]host[:port]`. Raises ValueError."""
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme != "http" or not parts.hostname or not url.isascii() or not url.isprintable() or " " in url:
            raise ValueError("not the address of an HTTP proxy")
        login = ""
        if parts.username is not None:
            text = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            login = "Basic " + base64.b64encode(text.encode()).decode()
        return cls(parts.hostname, parts.port or 80, Secret(login))

    @property
    def headers(self) -> dict[str, str]:
        return {"proxy-authorization": self.authorization.reveal()} if self.authorization else {}

    def refusal(self, status: int) -> ProxyFailed:
        why = "it needs another user or password" if status == REFUSED_LOGIN else f"it answered {status}"
        return ProxyFailed(f"The proxy {self} did not connect to the upstream: {why}.")

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class ProxyRules:
    """The proxy for each upstream. Hosts of this machine (localhost, 127.0.0.1) never have one: a proxy would look for
    them on its own machine."""

    def __init__(self, urls: Mapping[str, str], direct: Iterable[str] = ()) -> None:
        """`urls`: the proxy's URL for the upstreams of a scheme. `direct`: names, which stand for their subdomains too,
        addresses, networks and `*`, each with or without a port. Raises ValueError."""
        self._proxies = {scheme: Proxy.read(url) for scheme, url in urls.items() if url}
        self._urls = {scheme: url if "://" in url else f"http://{url}" for scheme, url in urls.items() if url}
        self._direct = [_read_entry(text) for text in direct]

    def find(self, scheme: str, host: str, port: int) -> Proxy | None:
        """Raises EgressDenied for a link-local or metadata host, whose name only the proxy would resolve."""
        proxy = self._proxies.get(scheme)
        if proxy is None or self._is_direct(host.lower().rstrip("."), port):
            return None
        if is_denied_host(host):
            raise EgressDenied(f"{host} is a link-local or metadata address")
        return proxy

    def find_url(self, url: str) -> str | None:
        """The URL of the proxy for a URL, with its login. Raises EgressDenied, or ValueError."""
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        return self._urls[parts.scheme] if self.find(parts.scheme, parts.hostname or "", port) else None

    def _is_direct(self, host: str, port: int) -> bool:
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            if host == "localhost" or host.endswith(".localhost"):
                return True
            return any(
                entry_port in {None, port} and (name in {"*", host} or (bool(name) and host.endswith(f".{name}")))
                for name, _, entry_port in self._direct
            )
        return address.is_loopback or any(
            entry_port in {None, port} and (name == "*" or (network is not None and address in network))
            for name, network, entry_port in self._direct
        )


NO_PROXIES = ProxyRules({})

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _read_entry(text: str) -> tuple[str, Network | None, int | None]:
    """(name, network, port) of a host that needs no proxy; a name or a network. Raises ValueError."""
    text = text.strip().lower()
    try:
        return "", ipaddress.ip_network(text.strip("[]"), strict=False), None
    except ValueError:
        pass
    name, colon, port = text.rpartition(":")
    if not colon:
        name, port = text, ""
    try:
        return "", ipaddress.ip_network(name.strip("[]"), strict=False), int(port) if port else None
    except ValueError:
        return name.removeprefix("*.").strip("."), None, int(port) if port else None


async def open_tunnel(connection: socket.socket, proxy: Proxy, host: str, port: int) -> None:
    """Makes of a connection to the proxy one to the upstream. Raises ProxyFailed."""
    loop = asyncio.get_running_loop()
    name = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    fields = {"host": name, **proxy.headers}
    lines = [f"CONNECT {name} HTTP/1.1", *[f"{field}: {value}" for field, value in fields.items()], "", ""]
    head = b""
    try:
        await loop.sock_sendall(connection, "\r\n".join(lines).encode())
        while b"\r\n\r\n" not in head:
            piece = await loop.sock_recv(connection, READ_BYTES)
            head += piece
            if not piece or len(head) > MAX_HEAD_BYTES:
                raise ProxyFailed(f"The proxy {proxy} broke off before it connected to the upstream.")
    except OSError as error:
        if isinstance(error, ProxyFailed):
            raise
        raise ProxyFailed(f"The proxy {proxy} broke off before it connected to the upstream.") from error
    status = _STATUS.match(head)
    if status is None or (not head.endswith(b"\r\n\r\n") and status[1][:1] == b"2"):
        raise ProxyFailed(f"The proxy {proxy} does not speak HTTP/1.1.")
    if status[1][:1] != b"2":
        raise proxy.refusal(int(status[1]))
