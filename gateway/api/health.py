"""GET /health/liveliness (and /liveness): the process answers. /health/readiness: it can serve calls."""

import orjson

from gateway.edge.asgi_types import Receive
from gateway.edge.consumer import GatewayConsumer
from gateway.edge.endpoint import Endpoint


class HealthConsumer(GatewayConsumer):
    async def answer(self, receive: Receive) -> None:
        runtime = self.runtime
        if runtime.is_draining:
            await self.reply.send_body(503, [], b'{"status":"shutting down"}')
        elif not self.scope["path"].endswith("/readiness"):
            await self.reply.send_body(200, [], b'"I\'m alive!"')
        else:
            is_up = runtime.is_database_up
            body = {
                "status": "healthy" if is_up else "unhealthy",
                "db": "connected" if is_up else "Not connected",
            }
            await self.reply.send_body(200 if is_up else 503, [], orjson.dumps(body))


ENDPOINT = Endpoint(
    name="health",
    paths=("/health/liveliness", "/health/liveness", "/health/readiness"),
    consumer=HealthConsumer,
)
