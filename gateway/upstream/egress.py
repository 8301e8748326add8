"""The egress guard: it decides which addresses the gateway connects to for a URL that a client wrote.

The guard checks the resolved address, never the text, and the connection goes to that very address. The standard
library's `is_global` is not enough: it allows cloud metadata behind NAT64 and 6to4, and the control addresses of
several providers.
"""

import ipaddress
from collections.abc import Sequence

from gateway.upstream.pool import AddressInfo, resolve

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

#: Cloud metadata and control addresses: denied even inside an allowed network.
ALWAYS_DENIED = tuple(
    ipaddress.ip_network(text)
    for text in (
        "169.254.0.0/16",
        "168.63.129.16/32",
        "100.100.100.200/32",
        "192.0.0.192/32",
        "fd00:ec2::/32",
        "fd20:ce::254/128",
        "64:ff9b:1::/48",  # local NAT64: the gateway cannot know the IPv4 address behind it
        "fe80::/10",
    )
)
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
NAT64 = ipaddress.ip_network("64:ff9b::/96")
SIX_TO_FOUR = ipaddress.ip_network("2002::/16")


class EgressDenied(OSError):
    """The name resolves to a denied address."""


class PortDenied(EgressDenied):
    """The port is not allowed at a public address."""


def unwrap_ipv4(address: Address) -> Address:
    """The IPv4 address inside an IPv6 address that has one, else the address itself."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in NAT64:
        return ipaddress.IPv4Address(address.packed[12:])
    if address in SIX_TO_FOUR:
        return ipaddress.IPv4Address(address.packed[2:6])
    return address


def is_allowed(address: Address, allowed: Sequence[Network] = ()) -> bool:
    address = unwrap_ipv4(address)
    if any(address in network for network in ALWAYS_DENIED):
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
