"""Every other path under /v1: 404 in OpenAI's format."""

from gateway.edge.asgi_types import Receive
from gateway.edge.consumer import GatewayConsumer
from gateway.edge.endpoint import Endpoint
from gateway.protocol.errors import NotFound


class UnknownConsumer(GatewayConsumer):
    methods = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

    async def answer(self, receive: Receive) -> None:
        path = self.scope["path"]
        raise NotFound(f"Unknown request URL: {self.scope['method']} {path}.", code="unknown_url")


ENDPOINT = Endpoint(name="unknown", paths=("/v1",), consumer=UnknownConsumer, prefix=True)
