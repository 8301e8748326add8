"""Lanes: what one connection has under way, in order within a lane, the lanes beside each other, all of it bounded."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from gateway.protocol.errors import ClientFault

MAX_LANES = 8
MAX_WAITING = 32

Event = dict[str, Any]


class TurnQueue:
    """`run(lane, event)` takes one turn, and tells its faults itself. Closes: `finish` or `cancel`."""

    def __init__(self, run: Callable[[str, Event], Awaitable[None]], *, max_waiting_bytes: int) -> None:
        self._run = run
        self._max_waiting_bytes = max_waiting_bytes
        self._waiting: dict[str, deque[tuple[Event, int]]] = {}  # of each lane that has something under way
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._count = 0
        self._bytes = 0

    def add(self, lane: str, event: Event, size_bytes: int) -> None:
        """Raises ClientFault where too much is under way."""
        waiting = self._waiting.get(lane)
        if waiting is None:
            if len(self._waiting) >= MAX_LANES:
                raise _too_much(
                    f"{MAX_LANES} streams have responses under way, which is the most that one connection may have.",
                    "websocket_stream_limit_reached",
                )
            self._waiting[lane] = deque()
            self._tasks[lane] = asyncio.create_task(self._work(lane, event), name="socket lane")
            return
        if self._count >= MAX_WAITING or (self._count and self._bytes + size_bytes > self._max_waiting_bytes):
            raise _too_much(
                f"Too many responses wait on this connection: {MAX_WAITING} may, while they are not too large.",
                "websocket_queue_full",
            )
        self._count += 1
        self._bytes += size_bytes
        waiting.append((event, size_bytes))

    async def finish(self) -> None:
        """Ends what runs, and drops what waits."""
        for waiting in self._waiting.values():
            waiting.clear()
        if self._tasks:
            await asyncio.wait(self._tasks.values())

    async def cancel(self) -> None:
        """Returns when everything has ended: rows are closed on that way."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _work(self, lane: str, event: Event) -> None:
        try:
            await self._run(lane, event)
            waiting = self._waiting[lane]
            while waiting:
                following, size_bytes = waiting.popleft()
                self._count -= 1
                self._bytes -= size_bytes
                await self._run(lane, following)
        finally:
            del self._waiting[lane], self._tasks[lane]


def _too_much(message: str, code: str) -> ClientFault:
    return ClientFault(message, status=429, type="rate_limit_error", code=code)
