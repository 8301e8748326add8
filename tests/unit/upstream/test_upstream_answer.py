"""The upstream client's answer: read as it arrives, bounded, inflated, and let go. Sockets are the e2e tests' part."""

import asyncio
import gzip
import socket
import zlib
from dataclasses import replace

import pytest

from gateway.protocol.call import Finish
from gateway.protocol.errors import ConnectFault, UpstreamFault
from gateway.protocol.provider import LocalAnswer, UpstreamRequest
from gateway.upstream.client import UpstreamAnswer, UpstreamClient
from gateway.upstream.http1 import ConnectionBroken
from tests.fakes.memory import Script, ScriptedResponse

TEXT = b'{"text":"' + b"all work and no play " * 20_000 + b'"}'
REQUEST = UpstreamRequest(url="http://up.test/v1", headers={}, body=b"{}")


def answer(script: Script, max_bytes: int = 1024 * 1024) -> tuple[UpstreamAnswer, ScriptedResponse]:
    response = ScriptedResponse(script)
    return UpstreamAnswer(response, max_bytes=max_bytes), response


def compressed(data: bytes, encoding: str, step: int = 1000) -> Script:
    raw = gzip.compress(data) if encoding == "gzip" else zlib.compress(data)
    pieces = [raw[at : at + step] for at in range(0, len(raw), step)]
    return Script(pieces, headers={"content-encoding": encoding})


@pytest.mark.parametrize("step", [1, 1000, 10**6])
@pytest.mark.parametrize("encoding", ["gzip", "deflate", "GZIP"])
def test_a_compressed_answer_is_inflated_in_whatever_pieces_it_comes(encoding: str, step: int) -> None:
    script = compressed(TEXT, encoding.lower(), step)
    script = replace(script, headers={"content-encoding": encoding})
    assert asyncio.run(answer(script)[0].read()) == TEXT


def test_a_bomb_is_inflated_no_further_than_the_limit() -> None:
    bomb, _ = answer(compressed(b"\0" * 64 * 1024 * 1024, "gzip"), max_bytes=1024 * 1024)
    with pytest.raises(UpstreamFault) as refused:
        asyncio.run(bomb.read())
    assert (refused.value.status, refused.value.finish) == (502, Finish.UPSTREAM_BROKEN)


def test_a_stream_without_an_end_is_ended() -> None:
    endless, _ = answer(Script([b"x" * 100] * 1000), max_bytes=1000)

    async def read() -> int:
        return sum([len(piece) async for piece in endless.pieces()])

    with pytest.raises(UpstreamFault) as ended:
        asyncio.run(read())
    assert ended.value.finish == Finish.UPSTREAM_BROKEN


@pytest.mark.parametrize(
    ("script", "finish"),
    [
        (Script([b"x", ConnectionBroken("cut")]), Finish.UPSTREAM_BROKEN),
        (Script([b"x", ConnectionBroken("closed")]), Finish.UPSTREAM_BROKEN),
        (Script([ConnectionResetError()]), Finish.UPSTREAM_BROKEN),
        (Script([b"not gzip"], headers={"content-encoding": "gzip"}), Finish.UPSTREAM_BROKEN),
        (Script([b"x"], headers={"content-encoding": "br"}), Finish.UPSTREAM_ERROR),
        (Script([b"x"], headers={"content-encoding": "gzip, gzip"}), Finish.UPSTREAM_ERROR),
        (Script([b"x" * 2000]), Finish.UPSTREAM_BROKEN),
    ],
)
def test_an_answer_that_breaks_or_cannot_be_read_is_a_fault(script: Script, finish: Finish) -> None:
    with pytest.raises(UpstreamFault) as broken:
        asyncio.run(answer(script, max_bytes=1000)[0].read())
    assert broken.value.finish == finish


def test_a_connection_goes_back_to_the_pool_only_when_its_answer_was_read_whole() -> None:
    whole, response = answer(Script([b"a", b"b"]))
    assert asyncio.run(whole.read()) == b"ab"
    whole.close()
    assert response.ended_by == "release"
    half, response = answer(Script([b"a", b"b"]))
    half.close()
    assert response.ended_by == "close"


def test_an_answer_made_in_this_process_needs_no_connection() -> None:
    async def story() -> bytes:
        client = UpstreamClient(connect_timeout_s=1, max_answer_bytes=1000)
        local = LocalAnswer(iter([b"a", b"b"]), "application/json")
        answer = await client.send(replace(REQUEST, local=local))
        assert (answer.status, answer.content_type) == (200, "application/json")
        answer.close()
        return await answer.read()

    assert asyncio.run(story()) == b"ab"


@pytest.mark.parametrize(
    "url", ["http://", "http:///v1", "http://host:port/v1", "http://[::1/v1", "http://ho st/v1", "ftp://up.test/v1"]
)
def test_an_address_that_is_none_is_a_fault_of_the_upstream_and_no_internal_error(url: str) -> None:
    async def story() -> None:
        client = UpstreamClient(connect_timeout_s=0.5, max_answer_bytes=1000)
        try:
            await client.send(replace(REQUEST, url=url))
        finally:
            await client.close()

    with pytest.raises(UpstreamFault) as refused:
        asyncio.run(story())
    assert refused.value.status == 502


def test_a_call_may_bound_its_connection_more_closely_than_the_client() -> None:
    async def story() -> None:
        with socket.socket() as full:  # nothing accepts, and its queue is full
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            address = full.getsockname()
            held = [socket.socket() for _ in range(4)]
            for one in held:
                one.setblocking(False)
                one.connect_ex(address)
            client = UpstreamClient(connect_timeout_s=3600, max_answer_bytes=1000)
            try:
                await client.send(replace(REQUEST, url=f"http://127.0.0.1:{address[1]}/v1"), connect_timeout_s=0.2)
            finally:
                await client.close()
                for one in held:
                    one.close()

    with pytest.raises(ConnectFault) as refused:
        asyncio.run(story())
    assert refused.value.code == "upstream_unreachable"


def test_a_refused_connection_was_never_sent_anything() -> None:
    async def story() -> None:
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        server.close()
        await server.wait_closed()
        client = UpstreamClient(connect_timeout_s=1, max_answer_bytes=1000)
        try:
            await client.send(replace(REQUEST, url=f"http://127.0.0.1:{port}/v1"))
        finally:
            await client.close()

    with pytest.raises(ConnectFault) as refused:
        asyncio.run(story())
    assert refused.value.is_retryable
    assert "127.0.0.1" not in refused.value.message
