"""An upstream that costs little CPU, and does to its connections what no ASGI server would."""

import asyncio
import json
import random
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from gateway.protocol.json.types import JsonObject
from tests.fakes.upstream import USAGE, chat_answer, chat_chunks, lf_frame
from tests.soak.client import text_for

UNAVAILABLE = json.dumps({"error": {"message": "no", "type": "server_error", "param": None, "code": None}}).encode()


@dataclass(frozen=True, slots=True)
class Asked:
    path: str
    authorization: str
    body: JsonObject

    @property
    def model(self) -> str:
        return str(self.body["model"])

    @property
    def word(self) -> str:
        return str(self.body["messages"][-1]["content"])


@dataclass(slots=True)
class Script:
    """How the upstream behaves now. `idle_s`: between which times an idle connection is closed; None: it stays open.
    `pause_s`: before each part of a stream."""

    is_broken: Callable[[Asked], bool] = lambda asked: False
    idle_s: tuple[float, float] | None = None
    pause_s: Callable[[Asked], float] = lambda asked: 0.0


@dataclass(slots=True)
class Counts:
    """Requests that arrived whole. `refused`: those that got a 503, by the model; `words`: of those that were
    answered; `idle_closes`: connections that were closed between requests."""

    asked: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    words: Counter[str] = field(default_factory=Counter)
    versions: Counter[tuple[str, str, str]] = field(default_factory=Counter)  # path, credential, model
    idle_closes: int = 0


class SoakUpstream:
    """Serves `listener` in the running event loop. Closes: itself; the listener stays open."""

    def __init__(self, listener: socket.socket, *, seed: int = 0) -> None:
        self.script = Script()
        self.counts = Counts()
        self.draw = random.Random(seed)
        self.connections: set[UpstreamConnection] = set()
        self._listener = listener
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: UpstreamConnection(self), sock=self._listener.dup())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for connection in list(self.connections):
            connection.abort()
        await self._server.wait_closed()


class UpstreamConnection(asyncio.Protocol):
    """One connection. A request is worked on from the moment in which all of it has arrived."""

    def __init__(self, upstream: SoakUpstream) -> None:
        self._upstream = upstream
        self._received = bytearray()
        self._idle: asyncio.TimerHandle | None = None
        self._streaming: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._upstream.connections.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._upstream.connections.discard(self)
        self._stop_timer()
        if self._streaming is not None:
            self._streaming.cancel()

    def abort(self) -> None:
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._stop_timer()
        self._received += data
        head, end, rest = bytes(self._received).partition(b"\r\n\r\n")
        if not end:
            return
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        if len(rest) < int(fields.get(b"content-length", b"0")):
            return
        self._received.clear()
        authorization = next(
            (line[15:] for line in head.split(b"\r\n") if line[:15].lower() == b"authorization: "), b""
        )
        self._answer(Asked(head.split(b" ")[1].decode(), authorization.decode(), json.loads(rest)))

    def _answer(self, asked: Asked) -> None:
        counts, script = self._upstream.counts, self._upstream.script
        counts.asked[asked.model] += 1
        counts.versions[asked.path, asked.authorization, asked.model] += 1
        if script.is_broken(asked):
            counts.refused[asked.model] += 1
            self._write(503, UNAVAILABLE)
            return
        counts.words[asked.word] += 1
        if asked.body.get("stream"):
            parts = [
                json.dumps(chunk).encode() for chunk in chat_chunks(asked.body, text_for(asked.word), USAGE, "stop")
            ]
            self._streaming = asyncio.create_task(self._stream([*parts, b"[DONE]"], script.pause_s(asked)))
        else:
            self._write(200, json.dumps(chat_answer(asked.body, text_for(asked.word), USAGE, "stop")).encode())

    def _write(self, status: int, body: bytes) -> None:
        head = b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        self._transport.write(head % (status, len(body)) + body)
        self._start_timer()

    async def _stream(self, parts: Sequence[bytes], pause_s: float) -> None:
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        self._transport.write(head)
        for part in parts:
            await asyncio.sleep(pause_s)
            frame = lf_frame(part)
            self._transport.write(b"%x\r\n%b\r\n" % (len(frame), frame))
        self._transport.write(b"0\r\n\r\n")
        self._start_timer()

    def _start_timer(self) -> None:
        if self._upstream.script.idle_s is not None:
            delay_s = self._upstream.draw.uniform(*self._upstream.script.idle_s)
            self._idle = asyncio.get_running_loop().call_later(delay_s, self._close_idle)

    def _stop_timer(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    def _close_idle(self) -> None:
        self._upstream.counts.idle_closes += 1
        self._transport.close()
