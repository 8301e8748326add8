"""U3: an upstream whose certificate is not its own or not valid gets no request, and never one without TLS."""

import asyncio
import ssl
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gateway.protocol.errors import ConnectFault
from gateway.protocol.provider import UpstreamRequest
from gateway.upstream.client import UpstreamClient
from gateway.upstream.pool import trust
from tests.fakes.proxy import listening

SECRET = b"Bearer sk-upstream-secret"
MakeServer = Callable[..., ssl.SSLContext]


def certificate(host: str, key: ec.EllipticCurvePrivateKey, ends_in: timedelta) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=30))
        .not_valid_after(now + ends_in)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM)


@pytest.fixture
def make_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeServer]:
    """Makes the server's side of TLS with a certificate of its own, which the gateway trusts unless it says not."""

    def make(host: str, ends_in: timedelta, *, is_trusted: bool = True) -> ssl.SSLContext:
        key = ec.generate_private_key(ec.SECP256R1())
        chain, secret, other = tmp_path / "chain.pem", tmp_path / "key.pem", tmp_path / "other.pem"
        chain.write_bytes(certificate(host, key, ends_in))
        other.write_bytes(certificate("other.test", ec.generate_private_key(ec.SECP256R1()), ends_in))
        plain = serialization.NoEncryption()
        secret.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(chain, secret)
        monkeypatch.setenv("SSL_CERT_FILE", str(chain if is_trusted else other))
        trust.cache_clear()
        return context

    yield make
    trust.cache_clear()


async def ask(context: ssl.SSLContext | None) -> tuple[ConnectFault | None, int, bytes]:
    """(the fault, connections, the bytes that the server has read)"""
    received = bytearray()
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.extend(await reader.read(65_536))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
        await writer.drain()

    class Counting(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            nonlocal connections
            connections += 1

        def data_received(self, data: bytes) -> None:
            received.extend(data)

    client = UpstreamClient(connect_timeout_s=5, max_answer_bytes=1024)
    fault: ConnectFault | None = None
    loop = asyncio.get_running_loop()
    if context is None:
        server = await loop.create_server(Counting, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
    try:
        async with listening(serve, context) as tls_port:
            url = f"https://localhost:{tls_port if context is not None else port}/v1"
            request = UpstreamRequest(url=url, headers={"authorization": SECRET.decode()}, body=b"{}")
            try:
                answer = await client.send(request, connect_timeout_s=5 if context is not None else 0.3)
                await answer.read()
                answer.close()
            except ConnectFault as error:
                fault = error
    finally:
        await client.close()
        if context is None:
            server.close()
        await asyncio.sleep(0.01)  # until the connections are closed
    return fault, connections, bytes(received)


async def test_u03_a_valid_certificate_gets_the_request(make_server: MakeServer) -> None:
    fault, _, received = await ask(make_server("localhost", timedelta(days=1)))
    assert fault is None
    assert SECRET in received


@pytest.mark.parametrize(
    ("host", "ends_in", "is_trusted"),
    [
        ("localhost", timedelta(days=-1), True),
        ("elsewhere.test", timedelta(days=1), True),
        ("localhost", timedelta(days=1), False),
    ],
    ids=["expired", "of another host", "of an unknown authority"],
)
async def test_u03_a_bad_certificate_gets_neither_the_key_nor_a_byte_of_the_request(
    make_server: MakeServer, host: str, ends_in: timedelta, is_trusted: bool
) -> None:
    fault, _, received = await ask(make_server(host, ends_in, is_trusted=is_trusted))
    assert fault is not None
    assert (fault.status, fault.code, fault.is_retryable) == (502, "upstream_tls", True)
    assert received == b""
    assert "certificate" not in fault.message


async def test_u03_a_server_without_tls_gets_the_beginning_of_a_handshake_once_and_nothing_else() -> None:
    fault, connections, received = await ask(None)
    assert fault is not None
    assert fault.status == 502
    assert connections == 1
    assert received[:1] == b"\x16", "a TLS record"
    assert b"sk-upstream" not in received
