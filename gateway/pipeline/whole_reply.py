"""WholeReply: a Reply that keeps an answer which is not streamed, for the gateway itself."""

from gateway.pipeline.ports import Headers


class WholeReply:
    is_started = False

    def __init__(self) -> None:
        self.headers: Headers = []
        self.body = b""

    async def send_body(self, status: int, headers: Headers, body: bytes) -> None:
        self.headers, self.body = headers, body

    async def start_stream(self, headers: Headers) -> None:
        """The answer is never streamed."""

    async def send_events(self, events: bytes) -> None:
        """The answer is never streamed."""

    async def end_stream(self, events: bytes) -> None:
        """The answer is never streamed."""
