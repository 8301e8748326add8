"""The egress guard: which addresses the gateway may be sent to by what a client wrote.

Judged is the resolved address, never the text, and the connection goes to the very address that was judged. The
standard library's `is_global` alone is not enough: it lets through cloud metadata behind NAT64 and 6to4, and several
providers' own control addresses.
"""

import ipaddress
from collections.abc import Sequence
from typing import Any

from gateway.upstream.pool import AddressInfo, resolve

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

#: Never reached, whatever is allowed: cloud metadata and control addresses.
ALWAYS_DENIED = tuple(
    ipaddress.ip_network(text)
    for text in (
        "169.254.0.0/16",
        "168.63.129.16/32",
        "100.100.100.200/32",
        "192.0.0.192/32",
        "fd00:ec2::/32",
        "fd20:ce::254/128",
        "64:ff9b:1::/48",  # local NAT64: which IPv4 address it stands for is not ours to know
        "fe80::/10",
    )
)
DENIED = tuple(
    ipaddress.ip_network(text)
    for text in (
        "192.88.99.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
        "::/3",  # IPv6: global unicast is 2000::/3 (an embedded IPv4 address was taken out before)
        "4000::/2",
        "8000::/1",
        "3fff::/20",
        "2001::/32",  # Teredo
    )
)
NAT64 = ipaddress.ip_network("64:ff9b::/96")
SIX_TO_FOUR = ipaddress.ip_network("2002::/16")


class EgressDenied(OSError):
    """The name resolves to an address that may not be reached."""


class PortDenied(EgressDenied):
    """The address is public, and the port is none of those that may be dialled there."""


def embedded(address: Address) -> Address:
    """The IPv4 address that an IPv6 address stands for, where it does."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in NAT64:
        return ipaddress.IPv4Address(address.packed[12:])
    if address in SIX_TO_FOUR:
        return ipaddress.IPv4Address(address.packed[2:6])
    return address


def may_reach(address: Address, allowed: Sequence[Network] = ()) -> bool:
    address = embedded(address)
    if any(address in network for network in ALWAYS_DENIED):
        return False
    if any(address in network for network in allowed):
        return True
    return address.is_global and not any(address in network for network in DENIED)


class GuardedResolver:
    """Resolves to addresses that may be reached, all of them or none."""

    def __init__(self, allowed: Sequence[Network] = (), *, ports: frozenset[int] | None = None) -> None:
        """`ports`: those that may be dialled outside the allowed networks; None for any."""
        self._allowed = tuple(allowed)
        self._ports = ports

    async def resolve(self, host: str, port: int) -> list[AddressInfo]:
        """Raises EgressDenied, or socket.gaierror."""
        results: list[AddressInfo] = []
        for family, kind, protocol, name, place in await resolve(host, port):
            address = ipaddress.ip_address(str(place[0]).partition("%")[0])
            self._judge(address, port, host)
            results.append((family, kind, protocol, name, (str(address), port)))
        return results

    def check_literal(self, host: str | None, port: int = 0) -> None:
        """Judges a host that is an address already. Raises EgressDenied."""
        try:
            address: Any = ipaddress.ip_address((host or "").strip("[]"))
        except ValueError:
            return
        self._judge(address, port, host)

    def _judge(self, address: Address, port: int, host: str | None) -> None:
        if not may_reach(address, self._allowed):
            raise EgressDenied(f"{host} is not a public address")
        if self._ports is None or port in self._ports:
            return
        stands_for = embedded(address)
        if not any(stands_for in network for network in self._allowed):
            raise PortDenied(f"{port} is not a port that may be dialled at {host}")
