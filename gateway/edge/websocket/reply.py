"""The Reply port over a WebSocket: one text message for each event, no comments, no [DONE]."""

from collections.abc import Awaitable, Callable

from gateway.pipeline.ports import Headers
from gateway.protocol.sse import event_data

SendText = Callable[[bytes], Awaitable[None]]


class SocketReply:
    """Each event names its `stream_id`, unless that is empty."""

    __slots__ = ("_send_text", "_suffix", "is_started")

    def __init__(self, send_text: SendText, stream_id: str) -> None:
        self._send_text = send_text
        self._suffix = b',"stream_id":"%b"}' % stream_id.encode() if stream_id else b""
        self.is_started = False  # an event was sent

    async def send_body(self, status: int, headers: Headers, body: bytes) -> None:
        raise NotImplementedError  # a turn is always streamed

    async def start_stream(self, headers: Headers) -> None:
        """An open WebSocket has no place for headers."""

    async def send_events(self, events: bytes) -> None:
        for event in events.split(b"\n\n"):
            data = event_data(event)
            if data is not None and not data.startswith(b"[DONE]"):
                self.is_started = True
                await self.send(data)

    async def end_stream(self, events: bytes) -> None:
        await self.send_events(events)

    async def send(self, message: bytes) -> None:
        """Sends a JSON object with at least one member."""
        await self._send_text(message[: message.rindex(b"}")] + self._suffix if self._suffix else message)
