"""The turns of one connection: in order within a stream, beside each other across streams, and bounded in number."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from gateway.protocol.errors import ClientFault

MAX_STREAMS = 8
MAX_WAITING = 32


class TurnQueue:
    """`run(stream_id, message)` takes one turn and sends its faults itself. Closes: `finish` or `cancel`."""

    def __init__(self, run: Callable[[str, bytes], Awaitable[None]], *, max_waiting_bytes: int) -> None:
        self._run = run
        self._max_waiting_bytes = max_waiting_bytes
        self._waiting: dict[str, deque[bytes]] = {}  # of each stream with a turn under way
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._count = 0
        self._bytes = 0

    def add(self, stream_id: str, message: bytes) -> None:
        """Raises ClientFault where too many turns are under way. A turn waits as bytes, which its parsed event may
        exceed fifty times."""
        waiting = self._waiting.get(stream_id)
        if waiting is None:
            if len(self._waiting) >= MAX_STREAMS:
                raise _too_much(
                    f"{MAX_STREAMS} streams have responses under way, which is the most that one connection may have.",
                    "websocket_stream_limit_reached",
                )
            self._waiting[stream_id] = deque()
            self._tasks[stream_id] = asyncio.create_task(self._work(stream_id, message), name="socket turns")
            return
        if self._count >= MAX_WAITING or (self._count and self._bytes + len(message) > self._max_waiting_bytes):
            raise _too_much(
                f"Too many responses wait on this connection: {MAX_WAITING} may, while they are not too large.",
                "websocket_queue_full",
            )
        self._count += 1
        self._bytes += len(message)
        waiting.append(message)

    async def finish(self) -> None:
        """Waits for the turns that run, and drops those that wait."""
        for waiting in self._waiting.values():
            waiting.clear()
        if self._tasks:
            await asyncio.wait(self._tasks.values())

    async def cancel(self) -> None:
        """Cancels all turns, and returns when they have closed their rows."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _work(self, stream_id: str, message: bytes) -> None:
        try:
            await self._run(stream_id, message)
            waiting = self._waiting[stream_id]
            while waiting:
                message = waiting.popleft()
                self._count -= 1
                self._bytes -= len(message)
                await self._run(stream_id, message)
        finally:
            del self._waiting[stream_id], self._tasks[stream_id]


def _too_much(message: str, code: str) -> ClientFault:
    return ClientFault(message, status=429, kind="rate_limit_error", code=code)
