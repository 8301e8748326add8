"""The Reply port over a WebSocket: one text message for each event, no comments, no [DONE]."""

from collections.abc import Awaitable, Callable

from gateway.pipeline.ports import Headers
from gateway.protocol.sse import event_data

Say = Callable[[bytes], Awaitable[None]]


class SocketReply:
    """`lane` is told with each event; the empty one has no name."""

    __slots__ = ("_mark", "_say", "is_started")

    def __init__(self, say: Say, lane: str) -> None:
        self._say = say
        self._mark = b',"stream_id":"%b"}' % lane.encode() if lane else b""
        self.is_started = False  # the client has got an event

    async def send_body(self, status: int, headers: Headers, body: bytes) -> None:
        raise NotImplementedError  # a turn is always streamed

    async def start_stream(self, headers: Headers) -> None:
        """There is no place for headers."""

    async def send_events(self, events: bytes) -> None:
        for event in events.split(b"\n\n"):
            data = event_data(event)
            if data is not None and not data.startswith(b"[DONE]"):
                self.is_started = True
                await self.send(data)

    async def end_stream(self, events: bytes) -> None:
        await self.send_events(events)

    async def send(self, message: bytes) -> None:
        """A JSON object with at least one member."""
        await self._say(message[: message.rindex(b"}")] + self._mark if self._mark else message)
