"""The Reply port over ASGI."""

from gateway.edge.asgi_types import Send
from gateway.pipeline.ports import Headers
from gateway.version import VERSION

JSON = (b"content-type", b"application/json")
SAFE = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-litellm-version", f"tollgate-{VERSION}".encode()),
]
STREAM = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class AsgiReply:
    """`common` are the headers that every answer to this request carries."""

    __slots__ = ("_common", "_send", "is_complete", "is_started", "status")

    def __init__(self, send: Send, common: Headers) -> None:
        self._send = send
        self._common = common
        self.is_started = False
        self.is_complete = False
        self.status = 0  # none was sent

    def add_header(self, name: bytes, value: bytes) -> None:
        """Adds a header to the answer, be it a body, a stream or an error."""
        self._common.append((name, value))

    async def send_body(self, status: int, headers: Headers, body: bytes) -> None:
        await self.send_typed(status, [JSON, *headers], body)

    async def send_typed(self, status: int, headers: Headers, body: bytes) -> None:
        """The `headers` name the type of the content."""
        self.is_started = self.is_complete = True
        self.status = status
        length = (b"content-length", b"%d" % len(body))
        await self._send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [length, *SAFE, *self._common, *headers],
            }
        )
        await self._send({"type": "http.response.body", "body": body})

    async def start_stream(self, headers: Headers) -> None:
        if self.is_started:
            return
        self.is_started = True
        self.status = 200
        await self._send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [*STREAM, *SAFE, *self._common, *headers],
            }
        )

    async def send_events(self, events: bytes) -> None:
        await self._send({"type": "http.response.body", "body": events, "more_body": True})

    async def end_stream(self, events: bytes) -> None:
        self.is_complete = True
        await self._send({"type": "http.response.body", "body": events})
