"""POST /v1/messages and /v1/messages/count_tokens, in Anthropic's format.

Source: https://platform.claude.com/docs/en/api/messages.
"""

from gateway.edge.asgi_types import Receive
from gateway.edge.consumer import CancelOnDisconnect, DialectConsumer
from gateway.edge.endpoint import Endpoint
from gateway.pipeline.admit import admit
from gateway.pipeline.interpret import read_hints
from gateway.pipeline.upstream_token_count import count_upstream
from gateway.protocol.dialects.anthropic.client import DIALECT, count_body, count_tokens
from gateway.routing.router import route


class CountTokensConsumer(DialectConsumer):
    """The count of the upstream that would get the call first, if it counts in this format; else an estimate. The
    request costs nothing."""

    async def answer(self, receive: Receive) -> None:
        principal = await self.identify()
        call = DIALECT.decode_count(await self.read_body(receive), read_hints(self.headers))
        runtime = self.runtime
        targets = admit(call, principal, runtime.snapshot.catalog)
        with CancelOnDisconnect(self.scope, receive):
            count = await count_upstream(call, route(targets, runtime.draw)[0], runtime.services)
        if count is None:
            count = count_tokens(DIALECT.chat_request(call))
        await self.reply.send_body(200, [], count_body(count))


ENDPOINT = (
    Endpoint(
        name="messages",
        paths=("/v1/messages", "/messages"),
        consumer=DialectConsumer,
        options={"dialect": DIALECT},
    ),
    Endpoint(
        name="count_tokens",
        paths=("/v1/messages/count_tokens", "/messages/count_tokens"),
        consumer=CountTokensConsumer,
        options={"dialect": DIALECT},
    ),
)
