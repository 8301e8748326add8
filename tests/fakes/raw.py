"""Upstreams below HTTP: faults that no ASGI server would send, on raw TCP. One listener per misbehaviour."""

import asyncio
import json
import socket
import struct
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from tests.fakes.upstream import USAGE, chat_answer, chat_chunks, lf_frame

Wire = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
JSON_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"


def frames(count: int) -> bytes:
    chunks = chat_chunks({"model": "raw"}, "one two three four five six", None, "stop")[:count]
    return b"".join(lf_frame(json.dumps(chunk).encode()) for chunk in chunks)


async def read_request(reader: asyncio.StreamReader) -> None:
    text = await reader.readuntil(b"\r\n\r\n")
    for line in text.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            await reader.readexactly(int(line.split(b":")[1]))


async def close_at_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Closed right after accept, nothing read."""


async def close_after_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(reader)


async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A right answer on a connection that seems to be kept alive, and is closed all the same."""
    await read_request(reader)
    body = json.dumps(chat_answer({"model": "raw"}, "fine", USAGE, "stop")).encode()
    writer.write(JSON_HEAD + b"content-length: %d\r\n\r\n" % len(body) + body)
    await writer.drain()


async def never_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(-1)


async def garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(reader)
    writer.write(b"\x16\x03\x01 this is not HTTP \x00\xff\r\n\r\n")


async def half_head(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(reader)
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: appl")


async def short_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(reader)
    writer.write(JSON_HEAD + b'content-length: 5000\r\n\r\n{"id":"chatcmpl-1","choices":[')


async def bad_chunk_size(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(reader)
    writer.write(JSON_HEAD + b"transfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n")


async def reset_stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A stream that begins well and is then torn down with a TCP reset."""
    await read_request(reader)
    writer.write(STREAM_HEAD + frames(4))
    await writer.drain()
    await asyncio.sleep(0.2)
    connection: socket.socket = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def cut_stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The same, closed in the middle of a frame; without a length the close looks like a regular end."""
    await read_request(reader)
    writer.write(STREAM_HEAD + frames(5)[:-40])
    await writer.drain()
    await asyncio.sleep(0.1)


def answer_status(status: int) -> Wire:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        body = b'{"error": {"message": "no", "type": "x", "param": null, "code": null}}'
        head = b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        writer.write(head % (status, len(body)) + body)
        await writer.drain()

    return refuse


async def flood_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An answer of 64 MB."""
    await read_request(reader)
    writer.write(JSON_HEAD + b'content-length: 64000000\r\n\r\n{"id": "')
    for _ in range(640):
        writer.write(b"x" * 100_000)
        await writer.drain()


async def stall_stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A stream that begins well and never goes on."""
    await read_request(reader)
    writer.write(STREAM_HEAD + frames(4))
    await reader.read(-1)


async def long_header(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(reader)
    writer.write(b"HTTP/1.1 200 OK\r\nx-long: " + b"x" * 2_000_000 + b"\r\n\r\n{}")
    await writer.drain()


#: For calls of many megabytes, whose requests are not recorded.
RAW_LARGE_FAULTS: dict[str, Wire] = {
    **{f"status-{status}": answer_status(status) for status in (400, 404, 429, 500)},
    "flood-answer": flood_answer,
    "stall-stream": stall_stream,
    "long-header": long_header,
}
RAW_FAULTS: dict[str, Wire] = {
    "close-at-once": close_at_once,
    "close-after-request": close_after_request,
    "never-answer": never_answer,
    "garbage": garbage,
    "half-head": half_head,
    "short-body": short_body,
    "bad-chunk-size": bad_chunk_size,
}
RAW_STREAM_FAULTS: dict[str, Wire] = {"reset-stream": reset_stream, "cut-stream": cut_stream}


class RawUpstreams:
    """Closes: itself. `url(name)` is the API base of one misbehaviour.

    No client may contact `trap_url` (`contacts` has the requests); `refused_url` refuses connections.
    """

    def __init__(self) -> None:
        self.contacts: list[bytes] = []
        self.hits: Counter[str] = Counter()  # connections, by name
        self._deaf = socket.socket()
        self._deaf.bind(("127.0.0.1", 0))  # bound and never listening: refused, and no one else gets the port
        self.refused_url = f"http://127.0.0.1:{self._deaf.getsockname()[1]}/v1"
        self._ports: dict[str, int] = {}
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="raw-upstreams", daemon=True)

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self._ports[name]}/v1"

    @property
    def trap_url(self) -> str:
        return self.url("trap")

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._ready.wait(10):
            raise TimeoutError("the raw upstreams did not start")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._loop and self._stop:
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        self._deaf.close()

    async def _trap(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.contacts.append(await reader.read(65536))
        writer.write(JSON_HEAD + b"content-length: 2\r\nconnection: close\r\n\r\n{}")

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        open_now: set[asyncio.Task[None]] = set()

        def listener(name: str, wire: Wire) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]:
            async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                self.hits[name] += 1
                try:
                    await wire(reader, writer)
                except (OSError, asyncio.IncompleteReadError):
                    pass  # the gateway hung up first: its right
                finally:
                    writer.close()

            def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                task = asyncio.create_task(handle(reader, writer))
                open_now.add(task)
                task.add_done_callback(open_now.discard)

            return accept

        servers = []
        others = {"hangs-up": hang_up, "trap": self._trap}
        for name, wire in {**RAW_FAULTS, **RAW_STREAM_FAULTS, **RAW_LARGE_FAULTS, **others}.items():
            server = await asyncio.start_server(listener(name, wire), "127.0.0.1", 0)
            self._ports[name] = server.sockets[0].getsockname()[1]
            servers.append(server)
        self._ready.set()
        await self._stop.wait()
        for server in servers:
            server.close()
        for task in list(open_now):
            task.cancel()
        await asyncio.gather(*open_now, return_exceptions=True)
