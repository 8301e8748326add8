"""Upstreams behind an HTTP proxy: tunnels, whole URLs, logins, refusals, and the hosts that need none."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gateway.protocol.errors import ConnectFault
from gateway.protocol.provider import UpstreamRequest
from gateway.upstream.addresses import EgressDenied
from gateway.upstream.client import UpstreamClient
from gateway.upstream.pool import trust
from gateway.upstream.proxy import Proxy, ProxyRules
from tests.fakes.ports import free_port
from tests.fakes.proxy import listening, running_proxy

HOST = "upstream.test"
LOGIN = "Basic am9lOnMzY3IzdCE="  # joe:s3cr3t!
OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"


class Upstream:
    def __init__(self) -> None:
        self.heads: list[str] = []
        self.connections = 0
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while True:
            self.heads.append((await reader.readuntil(b"{}")).decode())
            writer.write(OK)
            await writer.drain()


@asynccontextmanager
async def running_upstream(tls: ssl.SSLContext | None = None) -> AsyncIterator[Upstream]:
    upstream = Upstream()
    async with listening(upstream.serve, tls) as upstream.port:
        yield upstream


@asynccontextmanager
async def client_through(proxy_url: str, *direct: str) -> AsyncIterator[UpstreamClient]:
    rules = ProxyRules({"http": proxy_url, "https": proxy_url}, direct)
    client = UpstreamClient(connect_timeout_s=5, max_answer_bytes=1024, proxies=rules)
    try:
        yield client
    finally:
        await client.close()
        await asyncio.sleep(0.01)  # until the connections are closed


async def call(client: UpstreamClient, url: str) -> bytes:
    answer = await client.send(UpstreamRequest(url=url, headers={"authorization": "Bearer k"}, body=b"{}"))
    try:
        return await answer.read()
    finally:
        answer.close()


@pytest.fixture
def tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ssl.SSLContext]:
    """The server's side of TLS for HOST, with a certificate that the gateway trusts as one of the system's."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(HOST)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    chain, secret = tmp_path / "certificate.pem", tmp_path / "key.pem"
    chain.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, secret)
    monkeypatch.setenv("SSL_CERT_FILE", str(chain))
    trust.cache_clear()
    yield context
    trust.cache_clear()


async def test_an_upstream_of_tls_is_reached_through_a_tunnel(tls: ssl.SSLContext) -> None:
    async with (
        running_upstream(tls) as upstream,
        running_proxy(login=LOGIN) as proxy,
        client_through(f"http://joe:s3cr3t%21@127.0.0.1:{proxy.port}") as client,
    ):
        for _ in range(3):
            assert await call(client, f"https://{HOST}:{upstream.port}/v1/chat") == b"{}"
    assert upstream.connections == len(proxy.heads) == 1, "a tunnel stays open for the next request"
    assert proxy.heads[0].startswith(f"CONNECT {HOST}:{upstream.port} HTTP/1.1\r\nhost: {HOST}:{upstream.port}\r\n")
    assert "Bearer" not in proxy.heads[0]
    assert all("proxy-authorization" not in head for head in upstream.heads)


async def test_an_upstream_of_plain_http_gets_requests_with_their_whole_url() -> None:
    async with (
        running_upstream() as upstream,
        running_proxy(login=LOGIN) as proxy,
        client_through(f"http://joe:s3cr3t%21@127.0.0.1:{proxy.port}") as client,
    ):
        assert await call(client, f"http://{HOST}:{upstream.port}/v1/chat") == b"{}"
    assert proxy.heads[0].startswith(f"POST http://{HOST}:{upstream.port}/v1/chat HTTP/1.1\r\nhost: {HOST}:")


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_wrong_login_is_named_without_the_login(scheme: str) -> None:
    async with (
        running_proxy(login=LOGIN) as proxy,
        client_through(f"http://joe:wrong-s3cr3t@127.0.0.1:{proxy.port}") as client,
    ):
        with pytest.raises(ConnectFault) as refused:
            await call(client, f"{scheme}://{HOST}/v1")
    fault = refused.value
    assert (fault.status, fault.code, fault.is_retryable) == (502, "upstream_proxy", True)
    assert f"127.0.0.1:{proxy.port}" in fault.message
    assert "user or password" in fault.message
    assert "s3cr3t" not in fault.message


@pytest.mark.parametrize(
    ("refusal", "why"),
    [
        (b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 3\r\n\r\nno!", "it answered 502"),
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", "it answered 403"),
        (b"", "broke off"),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "does not speak HTTP/1.1"),
        (b"HTTP/1.1 200 OK\r\n\r\nbytes of a stranger", "does not speak HTTP/1.1"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100_000, "broke off"),
    ],
)
async def test_a_proxy_that_gives_no_tunnel_is_named(refusal: bytes, why: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(refusal)

    async with listening(serve) as port, client_through(f"http://127.0.0.1:{port}") as client:
        with pytest.raises(ConnectFault) as refused:
            await call(client, f"https://{HOST}/v1")
    assert refused.value.code == "upstream_proxy"
    assert f"127.0.0.1:{port}" in refused.value.message
    assert why in refused.value.message


async def test_a_proxy_that_is_away_is_named() -> None:
    port = free_port()
    async with client_through(f"http://127.0.0.1:{port}") as client:
        with pytest.raises(ConnectFault) as refused:
            await call(client, f"https://{HOST}/v1")
    assert refused.value.message == f"The proxy 127.0.0.1:{port} could not be reached."


async def test_this_machine_is_reached_without_the_proxy() -> None:
    async with running_upstream() as upstream, client_through("http://127.0.0.1:1") as client:
        assert await call(client, f"http://127.0.0.1:{upstream.port}/v1") == b"{}"


@pytest.mark.parametrize("host", ["169.254.169.254", "metadata.google.internal", "2852039166"])
async def test_no_proxy_is_asked_for_a_metadata_host(host: str) -> None:
    async with running_proxy() as proxy, client_through(f"http://127.0.0.1:{proxy.port}") as client:
        with pytest.raises(ConnectFault):
            await call(client, f"http://{host}/v1")
    assert not proxy.heads
    with pytest.raises(EgressDenied):
        ProxyRules({"http": "http://p:1"}).find_url(f"http://{host}/v1")


@pytest.mark.parametrize(
    ("direct", "url", "is_direct"),
    [
        ("", "https://api.example.org", False),
        ("*", "https://api.example.org", True),
        ("example.org", "https://api.example.org", True),
        ("example.org", "https://EXAMPLE.ORG.", True),
        (".example.org", "https://api.example.org", True),
        ("*.example.org", "https://api.example.org", True),
        ("example.org", "https://badexample.org", False),
        ("example.org:8443", "https://example.org", False),
        ("example.org:8443", "https://example.org:8443", True),
        ("10.0.0.0/8", "http://10.1.2.3:8000", True),
        ("10.0.0.0/8", "http://11.1.2.3:8000", False),
        ("10.1.2.3", "http://10.1.2.3", True),
        ("10.1.2.3:8000", "http://10.1.2.3:8000", True),
        ("10.1.2.3:8000", "http://10.1.2.3:9000", False),
        ("fd00::/8", "http://[fd00::1]:8000", True),
        ("[fd00::1]:8000", "http://[fd00::1]:8000", True),
        ("", "http://localhost:11434", True),
        ("", "http://[::1]:11434", True),
        ("", "http://127.0.0.2:11434", True),
    ],
)
def test_hosts_that_need_no_proxy(direct: str, url: str, is_direct: bool) -> None:
    rules = ProxyRules({"http": "http://proxy:3128", "https": "proxy:3128"}, [direct] if direct else [])
    assert rules.find_url(url) == (None if is_direct else "http://proxy:3128")


def test_a_scheme_without_a_proxy_is_direct() -> None:
    rules = ProxyRules({"http": "", "https": "http://proxy:3128"})
    assert rules.find_url("http://example.org") is None
    assert rules.find_url("https://example.org") == "http://proxy:3128"


def test_a_proxy_does_not_show_its_login() -> None:
    proxy = Proxy.read("http://joe:s3cr3t@proxy.corp:3128")
    assert "s3cr3t" not in repr(proxy)
    assert str(proxy) == "proxy.corp:3128"
    assert proxy.authorization.reveal() not in repr(proxy)


@pytest.mark.parametrize("url", ["socks5://proxy:1080", "https://proxy:3128", "http://", "http://proxy:port"])
def test_an_address_of_no_http_proxy_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"HTTP proxy|[Pp]ort"):
        Proxy.read(url)
