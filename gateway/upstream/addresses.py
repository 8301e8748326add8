"""The addresses that the gateway never connects to: cloud metadata, control services and link-local networks.

Loopback and private networks are not among them, since self-hosted upstreams live there.
"""

import ipaddress
import socket
from urllib.parse import urlsplit

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
NAT64 = ipaddress.ip_network("64:ff9b::/96")
SIX_TO_FOUR = ipaddress.ip_network("2002::/16")
#: Names that cloud providers give their metadata services.
METADATA_NAMES = frozenset(
    {"metadata", "metadata.google.internal", "metadata.goog", "metadata.azure.internal", "instance-data"}
)
METADATA_SUFFIXES = (".metadata.google.internal", "instance-data.ec2.internal")


class EgressDenied(OSError):
    """The name resolves to a denied address."""


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


def is_always_denied(address: Address) -> bool:
    address = unwrap_ipv4(address)
    return any(address in network for network in ALWAYS_DENIED)


def is_denied_host(host: str) -> bool:
    """True for the name of a metadata service, and for a denied address in any spelling, such as 2852039166."""
    name = host.strip("[]").rstrip(".").lower().partition("%")[0]
    if name in METADATA_NAMES or name.endswith(METADATA_SUFFIXES):
        return True
    try:
        return is_always_denied(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        return is_always_denied(ipaddress.IPv4Address(socket.inet_aton(name)))
    except (OSError, UnicodeError):
        return False


def is_denied_url(url: str) -> bool:
    """False also for a text that is no URL."""
    try:
        return is_denied_host(urlsplit(url).hostname or "")
    except ValueError:
        return False


def check_resolved(host: str, address: str) -> None:
    """Raises EgressDenied for an address that no connection may go to."""
    if is_always_denied(ipaddress.ip_address(address.partition("%")[0])):
        raise EgressDenied(f"{host} is a link-local or metadata address")
