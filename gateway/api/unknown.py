"""Every other path under /v1 and Azure's roots: 501 where LiteLLM has an endpoint, else 404, in OpenAI's format."""

from gateway.edge.asgi_types import Receive
from gateway.edge.consumer import GatewayConsumer
from gateway.edge.endpoint import Endpoint
from gateway.edge.path_aliases import refuse_azure_path
from gateway.protocol.errors import NotFound
from gateway.protocol.unserved_paths import refuse_unserved


class UnknownConsumer(GatewayConsumer):
    methods = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

    async def answer(self, receive: Receive) -> None:
        path = self.scope["path"]
        refuse_azure_path(path)
        refuse_unserved(path)
        raise NotFound(f"Unknown request URL: {self.scope['method']} {path}.", code="unknown_url")


ENDPOINT = Endpoint(
    name="unknown", paths=("/v1", "/openai/v1", "/openai/deployments"), consumer=UnknownConsumer, prefix=True
)
