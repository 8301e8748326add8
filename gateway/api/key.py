"""GET /v1/key: the caller's own key, its limits and budgets, and how full they are."""

import orjson

from gateway.edge.asgi_types import Receive
from gateway.edge.consumer import GatewayConsumer
from gateway.edge.endpoint import Endpoint


class KeyConsumer(GatewayConsumer):
    async def answer(self, receive: Receive) -> None:
        principal = await self.identify()
        status = await self.runtime.key_status.read(principal)
        await self.reply.send_body(200, [(b"cache-control", b"no-store")], orjson.dumps(status))


ENDPOINT = Endpoint(name="key", paths=("/v1/key",), consumer=KeyConsumer)
