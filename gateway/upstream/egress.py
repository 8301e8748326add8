"""The egress guard: it decides which addresses the gateway connects to for a URL that a client wrote.

The guard checks the resolved address, never the text, and the connection goes to that very address. The standard
library's `is_global` is not enough: it allows cloud metadata behind NAT64 and 6to4, and the control addresses of
several providers.
"""

import ipaddress
from collections.abc import Sequence

from gateway.upstream.addresses import Address, EgressDenied, is_always_denied, unwrap_ipv4
from gateway.upstream.names import AddressInfo, resolve

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

DENIED = tuple(
    ipaddress.ip_network(text)
    for text in (
        "192.88.99.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
        "::/3",  # IPv6: global unicast is 2000::/3 (an embedded IPv4 address is unwrapped before)
        "4000::/2",
        "8000::/1",
        "3fff::/20",
        "2001::/32",  # Teredo
    )
)


class PortDenied(EgressDenied):
    """The port is not allowed at a public address."""


def is_allowed(address: Address, allowed: Sequence[Network] = ()) -> bool:
    address = unwrap_ipv4(address)
    if is_always_denied(address):
        return False
    if any(address in network for network in allowed):
        return True
    return address.is_global and not any(address in network for network in DENIED)


class GuardedResolver:
    """Resolves a name if all of its addresses are allowed."""

    def __init__(self, allowed: Sequence[Network] = (), *, ports: frozenset[int] | None = None) -> None:
        """`ports`: the ports allowed outside the allowed networks; None for any."""
        self._allowed = tuple(allowed)
        self._ports = ports

    async def resolve(self, host: str, port: int) -> list[AddressInfo]:
        """Raises EgressDenied, or socket.gaierror."""
        results: list[AddressInfo] = []
        for family, kind, protocol, name, sockaddr in await resolve(host, port):
            address = ipaddress.ip_address(str(sockaddr[0]).partition("%")[0])
            self._check(address, port, host)
            results.append((family, kind, protocol, name, (str(address), port)))
        return results

    def check_literal(self, host: str | None, port: int = 0) -> None:
        """Checks a host that is an address already. Raises EgressDenied."""
        try:
            address = ipaddress.ip_address((host or "").strip("[]"))
        except ValueError:
            return
        self._check(address, port, host)

    def _check(self, address: Address, port: int, host: str | None) -> None:
        if not is_allowed(address, self._allowed):
            raise EgressDenied(f"{host} is not a public address")
        if self._ports is None or port in self._ports:
            return
        unwrapped = unwrap_ipv4(address)
        if not any(unwrapped in network for network in self._allowed):
            raise PortDenied(f"{port} is not an allowed port at {host}")
