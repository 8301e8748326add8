"""Clients that cost little CPU, so that the replicas get it: HTTP/1.1 on raw connections that stay open."""

import asyncio
import itertools
import json
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from gateway.protocol.json.types import JsonObject

ANSWER_S = 60
READINESS_S = 5
POLL_S = 0.05
MAX_EXAMPLES = 5


class WrongAnswer(Exception):
    """The answer is not the one to this request."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes


class ReplicaClient:
    """All connections to one replica. `ask` may be called by many tasks at once. Closes: its fleet."""

    def __init__(self, port: int, key: str) -> None:
        self.port = port
        self._head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nauthorization: Bearer {key}\r\n"
            "content-type: application/json\r\ncontent-length: "
        ).encode()
        self._idle: deque[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = deque()

    async def ask(self, body: JsonObject) -> Answer:
        """Raises OSError, EOFError or TimeoutError where the connection breaks off or stays silent."""
        data = json.dumps(body).encode()
        reader, writer = self._pop() or await asyncio.open_connection("127.0.0.1", self.port)
        keeps = False
        try:
            async with asyncio.timeout(ANSWER_S):
                writer.write(self._head + b"%d\r\n\r\n" % len(data) + data)
                answer, keeps = await read_answer(reader)
        finally:
            if keeps:
                self._idle.append((reader, writer))
            else:
                writer.transport.abort()
        return answer

    def drop_idle(self) -> Sequence[asyncio.StreamWriter]:
        """The connections that it closes."""
        writers = [writer for _, writer in self._idle]
        self._idle.clear()
        for writer in writers:
            writer.transport.abort()
        return writers

    def _pop(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        while self._idle:
            reader, writer = self._idle.popleft()
            if not reader.at_eof() and not writer.is_closing():
                return reader, writer
            writer.transport.abort()
        return None

    async def is_ready(self) -> bool:
        """Asks over a new connection and within a short limit, as a load balancer does."""
        try:
            async with asyncio.timeout(READINESS_S):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                try:
                    writer.write(b"GET /health/readiness HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n")
                    answer, _ = await read_answer(reader)
                finally:
                    writer.transport.abort()
        except (OSError, EOFError, TimeoutError):
            return False
        return answer.status == 200


async def read_answer(reader: asyncio.StreamReader) -> tuple[Answer, bool]:
    """The answer, and whether the connection takes another request."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    status = int(head[9:12])
    if status == 100:
        return await read_answer(reader)
    if b"transfer-encoding: chunked" in head:
        parts = []
        while size := int(await reader.readline(), 16):
            parts.append((await reader.readexactly(size + 2))[:-2])
        await reader.readline()
        body = b"".join(parts)
    else:
        _, _, rest = head.partition(b"content-length:")
        body = await reader.readexactly(int(rest.partition(b"\r\n")[0]))
    return Answer(status, body), b"connection: close" not in head


@dataclass(slots=True)
class Tally:
    """The ends of requests: a status, or the name of what broke. `last_failure_at`: by `time.monotonic`."""

    ends: Counter[int | str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    last_failure_at: float = 0.0

    @property
    def requests(self) -> int:
        return self.ends.total()

    @property
    def failures(self) -> int:
        return self.requests - self.ends[200]

    def note(self, end: int | str, example: str = "") -> None:
        self.ends[end] += 1
        if end != 200:
            self.last_failure_at = time.monotonic()
            if len(self.examples) < MAX_EXAMPLES:
                self.examples.append(f"{end}: {example}")


class Fleet:
    """The replicas as a load balancer sees them: `pick` takes the ready ones in turn. Closes: the owner."""

    def __init__(self, clients: Sequence[ReplicaClient]) -> None:
        self.clients = clients
        self._ready = dict.fromkeys(clients, True)
        self._asked = asyncio.Condition()  # a health check was made
        self._turns = itertools.cycle(clients)

    def pick(self) -> ReplicaClient | None:
        for _ in self.clients:
            client = next(self._turns)
            if self._ready[client]:
                return client
        return None

    async def wait_ready(self, client: ReplicaClient) -> None:
        """Called within `watched`."""
        async with self._asked:
            await self._asked.wait_for(lambda: self._ready[client])

    async def close(self) -> None:
        """Called when no request runs."""
        writers = [writer for client in self.clients for writer in client.drop_idle()]
        await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Inside the block the health checks decide which replicas are ready."""

        async def watch(client: ReplicaClient) -> None:
            while True:
                self._ready[client] = await client.is_ready()
                if not self._ready[client]:
                    client.drop_idle()
                async with self._asked:
                    self._asked.notify_all()
                await asyncio.sleep(POLL_S)

        tasks = [asyncio.create_task(watch(client)) for client in self.clients]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def load(
        self,
        make_body: Callable[[str], JsonObject],
        goes_on: Callable[[int], bool],
        *,
        tasks: int,
        tally: Tally | None = None,
    ) -> Tally:
        """Asks with so many tasks at once while `goes_on(number of the next request)`. `make_body` takes the request's
        own word, which its answer must repeat."""
        tally = Tally() if tally is None else tally
        numbers = itertools.count()

        async def run() -> None:
            while goes_on(number := next(numbers)):
                await self._ask(f"word-{number}", make_body, tally)

        await asyncio.gather(*(run() for _ in range(tasks)))
        return tally

    async def _ask(self, word: str, make_body: Callable[[str], JsonObject], tally: Tally) -> None:
        client = self.pick()
        if client is None:
            tally.note("no replica is ready")
            await asyncio.sleep(POLL_S)
            return
        body = make_body(word)
        try:
            answer = await client.ask(body)
            if answer.status == 200:
                check_answer(word, answer.body, is_stream=body.get("stream") is True)
        except (OSError, EOFError, TimeoutError, WrongAnswer) as error:
            tally.note(type(error).__name__, f"{word} at {client.port}: {error}")
            return
        tally.note(answer.status, answer.body[:300].decode(errors="replace"))


def check_answer(word: str, body: bytes, *, is_stream: bool) -> None:
    """Raises WrongAnswer for the answer to another request, and for one with a part missing."""
    if is_stream:
        datas = [line[6:] for line in body.splitlines() if line.startswith(b"data: ")]
        if not datas or datas.pop() != b"[DONE]":
            raise WrongAnswer(f"the stream has no end: {body[-200:]!r}")
        choices = [choice for data in datas for choice in json.loads(data).get("choices", ())]
        text = "".join(choice["delta"].get("content") or "" for choice in choices)
    else:
        text = json.loads(body)["choices"][0]["message"]["content"]
    if text != text_for(word):
        raise WrongAnswer(f"{text!r} does not answer {word}")


def text_for(word: str) -> str:
    """The answer that the upstream gives to this word."""
    return f"You said {word}, and that is all there is to say."
