"""The address of a client, and the networks that a key may be used from."""

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TypeAlias

Network: TypeAlias = IPv4Network | IPv6Network


def client_address(forwarded: str, peer: str, *, is_behind_proxy: bool) -> str:
    """The client's address. Behind a proxy that ends TLS it is the last that the proxy has added to X-Forwarded-For;
    else it is the peer's, because any client can send that header."""
    return (forwarded.rpartition(",")[2].strip() if is_behind_proxy else "") or peer


@lru_cache(maxsize=1024)  # many keys share few networks
def parse_network(text: str) -> Network:
    """A network from CIDR notation or a single address. Raises ValueError."""
    return ip_network(text.strip(), strict=False)


def is_within(address: str, networks: Sequence[Network]) -> bool:
    """False for an address that cannot be read, such as that of a Unix socket."""
    try:
        parsed = ip_address(address.strip("[]"))
    except ValueError:
        return False
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    return any(parsed in network for network in networks)
