"""The egress guard: which addresses may be reached, judged by the address and never by the text."""

import asyncio
import ipaddress
import socket
from collections.abc import Callable
from typing import Any

import pytest

from gateway.upstream.addresses import EgressDenied
from gateway.upstream.egress import GuardedResolver, Network, PortDenied, is_allowed

PUBLIC = """
    1.1.1.1 8.8.8.8 93.184.216.34 223.255.255.254 11.0.0.1 9.255.255.255 126.255.255.255 128.0.0.1
    100.63.255.255 100.128.0.1 172.15.255.255 172.32.0.1 192.167.255.255 192.169.0.1 169.253.255.255 169.255.0.1
    168.63.129.15 168.63.129.17 192.88.98.1 198.17.255.255 198.20.0.1
    2606:4700:4700::1111 2001:4860:4860::8888 2a00:1450:4001:81b::200e
    ::ffff:8.8.8.8 64:ff9b::808:808 2002:808:808::1
""".split()  # noqa: SIM905 - addresses read better without their quotes
METADATA = """
    169.254.169.254 169.254.170.2 169.254.170.23 fd00:ec2::254 fd00:ec2::23 100.100.100.200 168.63.129.16 192.0.0.192
    169.254.0.1 169.254.255.255 fe80::1 fe80::a9fe:a9fe febf:ffff::1
    ::ffff:169.254.169.254 ::ffff:100.100.100.200 ::ffff:168.63.129.16 ::ffff:192.0.0.192
    64:ff9b::a9fe:a9fe 64:ff9b::a83f:8110 64:ff9b::6464:64c8 64:ff9b::c000:c0
    2002:a9fe:a9fe:: 2002:a83f:8110::1 2002:6464:64c8:: 2002:c000:c0::
""".split()  # noqa: SIM905
PRIVATE = """
    0.0.0.0 0.1.2.3 127.0.0.1 127.255.255.254 10.0.0.1 10.255.255.255 172.16.0.1 172.31.255.255 192.168.0.1
    192.168.255.255 100.64.0.1 100.127.255.255 192.0.0.1 192.0.2.1 198.51.100.1 203.0.113.1 198.18.0.1 198.19.255.255
    192.88.99.1 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255
    :: ::1 fc00::1 fd12:3456::1 fec0::1 ff02::1 ff0e::1 2001:db8::1 100::1 2001:2::1 2001:10::1
    ::127.0.0.1 ::10.0.0.1 ::8.8.8.8 ::169.254.169.254
    2001::1 2001:0:a9fe:a9fe::1 2001:0:4136:e378:8000:63bf:5601:5601
    ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:192.168.0.1 ::ffff:0.0.0.0 ::ffff:224.0.0.1 ::ffff:100.64.0.1
    64:ff9b::7f00:1 64:ff9b::a00:1 64:ff9b::c0a8:1 64:ff9b::e000:1
    2002:7f00:1:: 2002:a00:1::1 2002:c0a8:1:: 2002:6440:1::
""".split()  # noqa: SIM905
#: Beyond 2000::/3 nothing is public; several of these carry an IPv4 address that a translator would go to.
NOT_UNICAST = """
    64:ff9b:1::1 64:ff9b:1::a9fe:a9fe 64:ff9b:1::7f00:1 ::ffff:0:7f00:1 ::ffff:0:a9fe:a9fe 3fff::1 5f00::1 4000::1
    8000::1 fe00::1
""".split()  # noqa: SIM905


def networks(*texts: str) -> list[Network]:
    return [ipaddress.ip_network(text) for text in texts]


EVERYTHING = networks("0.0.0.0/0", "::/0")


@pytest.mark.parametrize("text", PUBLIC)
def test_a_public_address_may_be_reached(text: str) -> None:
    assert is_allowed(ipaddress.ip_address(text))


@pytest.mark.parametrize("text", METADATA + PRIVATE)
def test_no_other_address_may_be_reached(text: str) -> None:
    assert not is_allowed(ipaddress.ip_address(text))


@pytest.mark.parametrize("text", NOT_UNICAST)
def test_no_address_outside_global_unicast_may_be_reached(text: str) -> None:
    assert not is_allowed(ipaddress.ip_address(text))


def test_the_table_holds_at_least_sixty_addresses() -> None:
    assert len({*PUBLIC, *METADATA, *PRIVATE}) >= 60


@pytest.mark.parametrize("text", METADATA)
def test_metadata_is_denied_whatever_is_allowed(text: str) -> None:
    address = ipaddress.ip_address(text)
    assert not is_allowed(address, EVERYTHING)
    assert not is_allowed(address, networks(f"{text}/{address.max_prefixlen}"))


@pytest.mark.parametrize("text", ["fd20:ce::254", "64:ff9b:1::a9fe:a9fe"])
def test_metadata_in_other_clothes_is_denied_whatever_is_allowed(text: str) -> None:
    assert not is_allowed(ipaddress.ip_address(text), EVERYTHING)


@pytest.mark.parametrize(
    ("allowed", "text"),
    [
        ("127.0.0.0/8", "127.0.0.1"),
        ("127.0.0.0/8", "::ffff:127.0.0.1"),
        ("10.1.0.0/16", "10.1.2.3"),
        ("192.168.7.9/32", "192.168.7.9"),
        ("100.64.0.0/10", "100.64.0.1"),
        ("fd12::/16", "fd12::1"),
        ("::1/128", "::1"),
        ("10.0.0.0/8", "64:ff9b::a00:1"),
    ],
)
def test_an_allowed_network_may_be_reached(allowed: str, text: str) -> None:
    assert not is_allowed(ipaddress.ip_address(text))
    assert is_allowed(ipaddress.ip_address(text), networks(allowed))


@pytest.mark.parametrize("text", ["10.2.0.1", "127.0.0.1", "::1", "::ffff:10.2.0.1", "192.168.0.1"])
def test_an_allowed_network_allows_no_other(text: str) -> None:
    assert not is_allowed(ipaddress.ip_address(text), networks("10.1.0.0/16", "fd12::/16"))


def test_an_allowed_network_leaves_the_public_ones_reachable() -> None:
    assert is_allowed(ipaddress.ip_address("8.8.8.8"), networks("10.1.0.0/16"))


# The resolver

Answers = Callable[..., None]


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Answers:
    """Sets what any name resolves to, in the shape of getaddrinfo."""

    def set_addresses(*addresses: str) -> None:
        async def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
            infos: list[Any] = []
            for text in addresses:
                is_six = ":" in text
                sockaddr = (text, port, 0, 0) if is_six else (text, port)
                infos.append((socket.AF_INET6 if is_six else socket.AF_INET, socket.SOCK_STREAM, 6, "", sockaddr))
            return infos

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)

    return set_addresses


async def test_a_name_resolves_to_the_very_addresses_that_were_judged(answers: Answers) -> None:
    answers("93.184.216.34", "2606:4700:4700::1111")
    infos = await GuardedResolver().resolve("example.com", 443)
    assert [(family, address) for family, _, _, _, address in infos] == [
        (socket.AF_INET, ("93.184.216.34", 443)),
        (socket.AF_INET6, ("2606:4700:4700::1111", 443)),
    ]


@pytest.mark.parametrize(
    "addresses",
    [
        ("8.8.8.8", "10.0.0.1"),
        ("10.0.0.1", "8.8.8.8"),
        ("8.8.8.8", "1.1.1.1", "169.254.169.254"),
        ("8.8.8.8", "::1"),
        ("2606:4700:4700::1111", "::ffff:127.0.0.1"),
        ("fe80::1%eth0",),
        ("8.8.8.8", "fe80::1%2"),
    ],
)
async def test_answers_that_mix_public_and_private_are_refused_as_a_whole(
    answers: Answers, addresses: tuple[str, ...]
) -> None:
    answers(*addresses)
    with pytest.raises(EgressDenied, match=r"example\.com") as caught:
        await GuardedResolver().resolve("example.com", 443)
    assert not any(text in str(caught.value) for text in addresses), "the message hides the addresses"


async def test_a_name_is_judged_each_time_it_is_resolved(answers: Answers) -> None:
    resolver = GuardedResolver()
    answers("8.8.8.8")
    assert await resolver.resolve("example.com", 80)
    answers("127.0.0.1")
    with pytest.raises(EgressDenied):
        await resolver.resolve("example.com", 80)


async def test_an_allowed_network_may_be_resolved_to_but_metadata_may_not(answers: Answers) -> None:
    resolver = GuardedResolver(networks("10.0.0.0/8", "169.254.0.0/16"))
    answers("10.0.0.1", "8.8.8.8")
    assert len(await resolver.resolve("inside.example", 80)) == 2
    answers("10.0.0.1", "169.254.169.254")
    with pytest.raises(EgressDenied):
        await resolver.resolve("inside.example", 80)


PORTS = frozenset({80, 443})


@pytest.mark.parametrize("port", [80, 443])
async def test_the_ports_that_may_be_dialled_are_open_everywhere(answers: Answers, port: int) -> None:
    answers("8.8.8.8", "10.0.0.1")
    resolver = GuardedResolver(networks("10.0.0.0/8"), ports=PORTS)
    assert len(await resolver.resolve("example.com", port)) == 2


@pytest.mark.parametrize("addresses", [("8.8.8.8",), ("10.0.0.1", "8.8.8.8"), ("64:ff9b::808:808",)])
async def test_any_other_port_is_open_in_an_allowed_network_only(answers: Answers, addresses: tuple[str, ...]) -> None:
    resolver = GuardedResolver(networks("10.0.0.0/8"), ports=PORTS)
    answers("10.0.0.1", "::ffff:10.0.0.2", "64:ff9b::a00:3")
    assert len(await resolver.resolve("inside.example", 11434)) == 3
    answers(*addresses)
    with pytest.raises(PortDenied):
        await resolver.resolve("example.com", 11434)


@pytest.mark.parametrize(
    ("host", "port", "is_open"),
    [
        ("8.8.8.8", 80, True),
        ("8.8.8.8", 6379, False),
        ("[2606:4700:4700::1111]", 6379, False),
        ("10.0.0.1", 6379, True),
        ("[::ffff:10.0.0.1]", 6379, True),
        ("example.com", 6379, True),  # judged when it is resolved
    ],
)
def test_the_port_of_an_address_in_the_place_of_a_name_is_judged(host: str, port: int, is_open: bool) -> None:
    resolver = GuardedResolver(networks("10.0.0.0/8"), ports=PORTS)
    if is_open:
        resolver.check_literal(host, port)
    else:
        with pytest.raises(PortDenied):
            resolver.check_literal(host, port)


@pytest.mark.parametrize("text", ["2130706433", "0x7f.1", "127.1", "0177.0.0.1", "0x7f000001", "localhost"])
async def test_other_spellings_of_loopback_are_judged_by_what_they_resolve_to(text: str) -> None:
    with pytest.raises(EgressDenied):
        await GuardedResolver().resolve(text, 80)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "[::1]", "169.254.169.254", "[::ffff:10.0.0.1]", "fe80::1%eth0"])
def test_an_address_in_the_place_of_a_name_is_judged(host: str) -> None:
    with pytest.raises(EgressDenied):
        GuardedResolver().check_literal(host)


@pytest.mark.parametrize("host", ["8.8.8.8", "[2606:4700:4700::1111]", "example.com", "", None])
def test_a_public_address_and_a_name_pass_the_check_of_literals(host: str | None) -> None:
    GuardedResolver().check_literal(host)
