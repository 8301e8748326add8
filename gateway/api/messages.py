"""POST /v1/messages and /v1/messages/count_tokens: Anthropic's door.

Source: https://platform.claude.com/docs/en/api/messages.
"""

from gateway.edge.consumer import DialectConsumer, Receive
from gateway.edge.endpoint import Endpoint
from gateway.pipeline.admit import admit
from gateway.pipeline.interpret import read_hints
from gateway.protocol.dialects.anthropic_messages import DIALECT, count_body, count_tokens


class CountTokensConsumer(DialectConsumer):
    """Counts by estimate: no upstream is asked, nothing is spent."""

    async def answer(self, receive: Receive) -> None:
        principal = await self.identify()
        call = DIALECT.decode_count(await self.read_body(receive), read_hints(self.headers))
        admit(call, principal, self.runtime.snapshot.catalog)
        await self.reply.send_body(200, [], count_body(count_tokens(DIALECT.conversation(call))))


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
