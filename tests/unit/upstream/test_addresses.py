"""The addresses that no upstream may have, in any spelling, and the connections that are never made to them."""

import asyncio
import socket
from typing import Any

import pytest

from gateway.upstream.addresses import is_denied_url
from gateway.upstream.pool import ConnectionPool, NotConnected

DENIED = """
    http://169.254.169.254 http://169.254.169.254:80/latest/v1 https://169.254.0.1 http://[fd00:ec2::254]/v1
    http://[fe80::1]/ http://[fe80::1%25eth0]/ http://[::ffff:169.254.169.254]/ http://[::ffff:a9fe:a9fe]/
    http://2852039166/ http://0xa9fea9fe/ http://0xa9.0xfe.0xa9.0xfe/ http://0251.0376.0251.0376/ http://169.254.43518/
    http://metadata.google.internal/v1 http://METADATA.Google.Internal./v1 http://metadata/ http://100.100.100.200/
    http://168.63.129.16 http://user:secret@169.254.169.254/ http://instance-data/ http://192.0.0.192/
""".split()  # noqa: SIM905 - addresses read better without their quotes
ALLOWED = """
    http://127.0.0.1:11434/v1 http://localhost:8000 http://10.0.0.5/v1 http://192.168.1.7:8000 http://172.17.0.1
    http://[::1]:8000/v1 http://[fd12::1]/ https://api.openai.com/v1 http://gpu-1:8000/v1 http://metadata.example.org
    http://[not-an-address/ nothing
""".split()  # noqa: SIM905


@pytest.mark.parametrize("url", DENIED)
def test_a_metadata_or_link_local_address_is_denied_in_any_spelling(url: str) -> None:
    assert is_denied_url(url)


@pytest.mark.parametrize("url", ALLOWED)
def test_loopback_private_and_public_addresses_are_not_denied(url: str) -> None:
    assert not is_denied_url(url)


@pytest.mark.parametrize("addresses", [["169.254.169.254"], ["127.0.0.1", "169.254.169.254"], ["fd00:ec2::254"]])
async def test_no_connection_goes_to_a_name_that_resolves_to_metadata(
    addresses: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    pool = ConnectionPool(connect_timeout_s=1)
    try:
        with pytest.raises(NotConnected) as caught:
            await pool.request("POST", "http://harmless.example/v1", {}, b"")
    finally:
        await pool.close()
    assert "metadata address" in str(caught.value.__cause__)
