"""POST /v1/messages and /v1/messages/count_tokens, in Anthropic's format.

Source: https://platform.claude.com/docs/en/api/messages.
"""

import time

from gateway.edge.asgi_types import Receive
from gateway.edge.consumer import CancelOnDisconnect, DialectConsumer
from gateway.edge.endpoint import Endpoint
from gateway.edge.reply import AsgiReply
from gateway.pipeline.admit import admit
from gateway.pipeline.interpret import read_hints
from gateway.pipeline.large_bodies import read_sized
from gateway.pipeline.ports import Headers
from gateway.pipeline.upstream_token_count import count_upstream
from gateway.protocol.dialects.anthropic.client import DIALECT, count_body, error_body, error_event
from gateway.protocol.dialects.anthropic.rate_limits import rate_limit_headers
from gateway.protocol.errors import Fault, MethodNotAllowed, NotFound

PATHS = ("/v1/messages", "/messages")
COUNT_PATHS = ("/v1/messages/count_tokens", "/messages/count_tokens")


class MessagesReply(AsgiReply):
    """Tells the rate limits under Anthropic's names too."""

    __slots__ = ()

    async def send_body(self, status: int, headers: Headers, body: bytes) -> None:
        await super().send_body(status, [*headers, *rate_limit_headers(headers, time.time())], body)

    async def start_stream(self, headers: Headers) -> None:
        await super().start_stream([*headers, *rate_limit_headers(headers, time.time())])


class MessagesConsumer(DialectConsumer):
    """Answers everything below /v1/messages in Anthropic's shape: errors name the request, as a header does."""

    reply_type = MessagesReply
    paths = PATHS
    methods = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

    def error_body(self, fault: Fault) -> bytes:
        return error_body(fault, self.request_id)

    def error_event(self, fault: Fault) -> bytes:
        return error_event(fault, self.request_id)

    async def answer(self, receive: Receive) -> None:
        path, method = self.scope["path"], self.scope["method"]
        if path.rstrip("/") not in self.paths:
            raise NotFound(f"Unknown request URL: {method} {path}.", code="unknown_url")
        if method != "POST":
            raise MethodNotAllowed(f"{method} is not allowed here; allowed: POST.", headers=((b"allow", b"POST"),))
        await self.answer_call(receive)

    async def answer_call(self, receive: Receive) -> None:
        await super().answer(receive)

    def _common_headers(self) -> list[tuple[bytes, bytes]]:
        return [*super()._common_headers(), (b"request-id", self.request_id.encode())]


class CountTokensConsumer(MessagesConsumer):
    """The count of the upstream that would get the call first, if it counts in this format; else an estimate. The
    request costs nothing."""

    paths = COUNT_PATHS

    async def answer_call(self, receive: Receive) -> None:
        principal = await self.identify()
        body = await self.read_body(receive)
        call = await read_sized(len(body), DIALECT.decode_count, body, read_hints(self.headers))
        runtime = self.runtime
        targets = admit(call, principal, runtime.snapshot.catalog)
        with CancelOnDisconnect(self.scope, receive):
            count = await count_upstream(call, runtime.services.routing.pick(targets), runtime.services)
        if count is None:
            count = call.input_estimate
        await self.reply.send_body(200, [], count_body(count))


ENDPOINT = (
    Endpoint(
        name="messages",
        paths=PATHS,
        consumer=MessagesConsumer,
        options={"dialect": DIALECT},
        prefix=True,
    ),
    Endpoint(
        name="count_tokens",
        paths=COUNT_PATHS,
        consumer=CountTokensConsumer,
        options={"dialect": DIALECT},
    ),
)
