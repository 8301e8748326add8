"""StreamReply: the Reply of a stream, from which its reader takes the frames as they come."""

import asyncio

from gateway.pipeline.ports import Headers

MAX_WAITING_BYTES = 1024 * 1024  # that the reader has not taken; then the upstream waits


class StreamReply:
    """See gateway.pipeline.ports.Reply. `take` returns what there is, so a reader that is slow takes many frames at
    once."""

    def __init__(self) -> None:
        self.is_started = False
        self._frames: list[bytes] = []
        self._handed = b""  # the batch that was taken last
        self._handed_count = 0
        self._size = 0
        self._is_ended = False
        self._has_news = asyncio.Event()
        self._has_room = asyncio.Event()
        self._has_room.set()

    async def send_body(self, status: int, headers: Headers, body: bytes) -> None:
        """The answer is always a stream."""

    async def start_stream(self, headers: Headers) -> None:
        self.is_started = True
        self._has_news.set()

    async def send_events(self, events: bytes) -> None:
        self._add(events)
        await self._has_room.wait()

    async def end_stream(self, events: bytes) -> None:
        self._add(events)
        self.end()

    def end(self) -> None:
        """Nothing more comes."""
        self._is_ended = True
        self._has_news.set()

    async def take(self, received: int) -> tuple[bytes, bool]:
        """(whole frames, True if they are the last). Waits for news; the first may be the head alone. `received`: the
        batches that the reader has: one that was interrupted as it took a batch gets it again."""
        if received < self._handed_count:
            return self._handed, self._is_ended and not self._frames
        await self._has_news.wait()
        self._handed = b"".join(self._frames)
        self._handed_count += 1
        self._frames.clear()
        self._size = 0
        self._has_room.set()
        if not self._is_ended:
            self._has_news.clear()
        return self._handed, self._is_ended

    async def wait_for_head(self) -> None:
        """Returns when the stream has begun, or has ended."""
        await self._has_news.wait()

    def _add(self, frames: bytes) -> None:
        self.is_started = True
        self._frames.append(frames)
        self._size += len(frames)
        if self._size > MAX_WAITING_BYTES:
            self._has_room.clear()
        self._has_news.set()
