"""One HTTP/1.1 connection: an answer however it is framed and cut, and an upstream that does not follow the rules."""

import asyncio
from collections.abc import AsyncIterator, Iterable

import pytest
import pytest_asyncio

from gateway.upstream import http1
from gateway.upstream.http1 import ConnectionBroken, Http1Connection, encode_head

CHUNKED = (
    b"HTTP/1.1 200 OK\r\nserver: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\nt: 1\r\n\r\n"
)
SIZED = b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nabcdefg"
UNSIZED = b"HTTP/1.1 200 OK\r\n\r\nabcdefg"
OLD = b"HTTP/1.0 200 OK\r\ncontent-length: 7\r\n\r\nabcdefg"
EARLY = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\nlink: y\r\n\r\n"


class Upstream:
    """A server of one answer, written in the given pieces; then it closes where `closes` says so."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.closes = False
        self.requests: list[bytes] = []
        self.connections: list[Http1Connection] = []
        self.idle: list[Http1Connection] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                self.requests.append(await reader.readuntil(b"{}"))
                for piece in self.pieces:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)
                if self.closes:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def connect(self) -> Http1Connection:
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: Http1Connection(self.idle.append), "127.0.0.1", self.port
        )
        self.connections.append(connection)
        return connection


@pytest_asyncio.fixture
async def upstream() -> AsyncIterator[Upstream]:
    upstream = Upstream()
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
    upstream.port = server.sockets[0].getsockname()[1]
    yield upstream
    for connection in upstream.connections:
        connection.abort()
    server.close()


HEAD = encode_head("POST", "/v1", "up.test", {"Content-Type": "application/json"}, 2)


async def ask(connection: Http1Connection) -> tuple[int, dict[str, str], bytes]:
    response = await connection.send(HEAD, b"{}")
    parts = []
    while part := await response.read_available():
        parts.append(part)
    response.release()
    return response.status, response.headers, b"".join(parts)


async def until_closed(connection: Http1Connection) -> None:
    for _ in range(4000):
        if not connection.is_open:
            return
        await asyncio.sleep(0.005)
    raise AssertionError("the connection stays open")


@pytest.mark.parametrize("step", [1, 2, 7, 10_000])
@pytest.mark.parametrize(
    ("wire", "closes", "is_kept"),
    [
        (CHUNKED, False, True),
        (SIZED, False, True),
        (EARLY + CHUNKED, False, True),
        (UNSIZED, True, False),
        (OLD, True, False),
        (SIZED.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), True, False),
    ],
)
async def test_an_answer_is_read_however_it_is_framed_and_cut(
    upstream: Upstream, wire: bytes, closes: bool, is_kept: bool, step: int
) -> None:
    upstream.pieces = [wire[at : at + step] for at in range(0, len(wire), step)]
    upstream.closes = closes
    status, headers, body = await ask(await upstream.connect())
    assert (status, body) == (200, b"abcdefg")
    assert "link" not in headers
    assert "t" not in headers, "a trailer is no header"
    assert bool(upstream.idle) is is_kept


async def test_a_connection_serves_one_request_after_the_other(upstream: Upstream) -> None:
    upstream.pieces = [CHUNKED]
    connection = await upstream.connect()
    for number in range(3):
        assert connection.is_reused is (number > 0)
        assert (await ask(connection))[2] == b"abcdefg"
    assert len(upstream.requests) == 3
    assert upstream.requests[0].startswith(b"POST /v1 HTTP/1.1\r\nhost: up.test\r\n")


@pytest.mark.parametrize(
    ("wire", "closes"),
    [
        (b"", True),
        (SIZED[:-1], True),
        (CHUNKED[:-5], True),
        (CHUNKED[:20], True),
        (b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n", False),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab", False),
        (b"SSH-2.0-OpenSSH\r\n", False),
        (b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", False),
        (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 300 + b"\r\n", False),
        (b"HTTP/1.1 200 OK\r\na: " + b"b" * 10**6, False),
        (CHUNKED[:-4] + b"t: " + b"x" * 10**6, False),
        (CHUNKED[:-4] + b"t: 1\r\n" * 300, False),
    ],
)
async def test_an_answer_that_is_cut_or_no_http_or_has_no_bounds_breaks_the_connection(
    upstream: Upstream, wire: bytes, closes: bool
) -> None:
    upstream.pieces, upstream.closes = [wire], closes
    connection = await upstream.connect()
    with pytest.raises(ConnectionBroken):
        await ask(connection)
    await until_closed(connection)
    assert not upstream.idle


async def test_bytes_behind_an_answer_are_never_taken_for_the_next_one(upstream: Upstream) -> None:
    upstream.pieces = [SIZED + SIZED.replace(b"abc", b"xyz")]
    connection = await upstream.connect()
    try:
        await ask(connection)
    except ConnectionBroken:
        return
    with pytest.raises(ConnectionBroken):
        await ask(connection)


async def test_an_unread_body_pauses_the_upstream(upstream: Upstream) -> None:
    size = 64 * 1024 * 1024
    upstream.pieces = [b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size, *[bytes(1024 * 1024)] * 64]
    response = await (await upstream.connect()).send(HEAD, b"{}")
    await asyncio.sleep(0.3)
    first = await response.read_available()
    assert len(first) < 4 * http1.HIGH_WATER_BYTES
    received = len(first)
    while part := await response.read_available():
        received += len(part)
    assert received == size


async def test_an_idle_connection_that_the_upstream_closed_tells_it_of_the_next_request(upstream: Upstream) -> None:
    upstream.pieces = [SIZED]
    connection = await upstream.connect()
    await ask(connection)
    upstream.pieces, upstream.closes = [], True
    with pytest.raises(ConnectionBroken) as cut:
        await ask(connection)
    assert cut.value.is_idle_close


async def test_a_cut_that_comes_late_may_have_been_worked_on(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http1, "IDLE_CLOSE_S", 0.0)
    upstream.pieces = [SIZED]
    connection = await upstream.connect()
    await ask(connection)
    upstream.pieces, upstream.closes = [], True
    with pytest.raises(ConnectionBroken) as cut:
        await ask(connection)
    assert not cut.value.is_idle_close


async def test_a_first_request_that_is_cut_is_no_idle_close(upstream: Upstream) -> None:
    upstream.closes = True
    with pytest.raises(ConnectionBroken) as cut:
        await ask(await upstream.connect())
    assert not cut.value.is_idle_close


async def test_a_cancelled_request_closes_its_connection(upstream: Upstream) -> None:
    connection = await upstream.connect()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await ask(connection)
    await until_closed(connection)


class Transport(asyncio.Transport):
    """Takes what is written, and remembers its abort."""

    is_aborted = False

    def writelines(self, pieces: Iterable[bytes | bytearray | memoryview]) -> None:
        """Nothing is sent."""

    def abort(self) -> None:
        self.is_aborted = True


async def test_a_request_that_is_cancelled_as_its_answer_begins_closes_its_connection() -> None:
    connection, transport = Http1Connection(lambda idle: None), Transport()
    connection.connection_made(transport)
    task = asyncio.create_task(connection.send(b"POST / HTTP/1.1\r\n\r\n", b""))
    await asyncio.sleep(0)
    connection.data_received(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert transport.is_aborted


@pytest.mark.parametrize(
    "headers", [{"a": "b\r\nc: d"}, {"a": "b\n"}, {"a": "\0"}, {"a b": "c"}, {"a\r\nb": "c"}, {"": "c"}, {"a:": "c"}]
)
def test_a_header_that_would_break_the_framing_is_not_sent(headers: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="header"):
        encode_head("POST", "/", "up.test", headers, 0)


def test_the_length_of_the_body_is_never_the_callers_to_say() -> None:
    head = encode_head("POST", "/", "up.test", {"Content-Length": "9", "Transfer-Encoding": "chunked", "X": "é"}, 2)
    assert head.count(b"content-length: 2\r\n") == 1
    assert b"transfer-encoding" not in head
    assert "x: é\r\n".encode() in head
