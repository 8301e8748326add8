"""The upstream client over real sockets: what happens to a connection that the upstream gave up."""

import asyncio
import socket
import struct

import pytest

from gateway.protocol.errors import ConnectFault, UpstreamFault
from gateway.protocol.provider import UpstreamRequest
from gateway.upstream.client import IDLE_CLOSED, UpstreamClient

OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
RESET = struct.pack("ii", 1, 0)  # SO_LINGER of 0 seconds: closing sends a reset


async def send_request(client: UpstreamClient, port: int, *, needs_new_connection: bool = False) -> bytes:
    url = f"http://127.0.0.1:{port}/"
    answer = await client.send(
        UpstreamRequest(url=url, headers={}, body=b"{}", needs_new_connection=needs_new_connection)
    )
    try:
        return await answer.read()
    finally:
        answer.close()


@pytest.mark.parametrize("served", [1, 0], ids=["pooled", "new"])
def test_a_request_is_never_sent_twice(served: int) -> None:
    """A connection that has served before may have been closed while the request was on its way: then the fault says
    that nothing was worked on. A new connection cannot have been idle."""
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        for _ in range(served if connections == 1 else 1):
            await reader.readuntil(b"{}")
            writer.write(OK)
            await writer.drain()
        if connections == 1:
            await reader.readuntil(b"{}")
            connection: socket.socket = writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        writer.close()

    async def story() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        client = UpstreamClient(connect_timeout_s=5, max_answer_bytes=1024)
        try:
            if served:
                assert await send_request(client, port) == b"{}"
                with pytest.raises(ConnectFault) as cut:
                    await send_request(client, port)
                assert (cut.value.code, cut.value.is_retryable) == (IDLE_CLOSED, True)
                assert connections == 1
                assert await send_request(client, port) == b"{}"
                assert connections == 2
            else:
                with pytest.raises(UpstreamFault):
                    await send_request(client, port)
                assert connections == 1
        finally:
            await client.close()
            server.close()

    asyncio.run(story())


def test_a_request_that_needs_a_new_connection_leaves_the_idle_ones_alone() -> None:
    """An idle connection that another request has returned meanwhile may be closed at the same moment."""
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        try:
            while await reader.read(64 * 1024):
                writer.write(OK)
        finally:
            writer.close()

    async def story() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        client = UpstreamClient(connect_timeout_s=5, max_answer_bytes=1024)
        try:
            await send_request(client, port)
            await send_request(client, port)
            assert connections == 1
            await send_request(client, port, needs_new_connection=True)
            assert connections == 2
        finally:
            await client.close()
            server.close()

    asyncio.run(story())
