"""GET /v1/models and /v1/models/{id}: the model groups that the key may call.

Source: https://platform.openai.com/docs/api-reference/models.
"""

import orjson

from gateway.edge.asgi_types import Receive
from gateway.edge.consumer import GatewayConsumer
from gateway.edge.endpoint import Endpoint
from gateway.pipeline.admit import may_call
from gateway.protocol.errors import NotFound
from gateway.protocol.provider import Target

PATHS = ("/v1/models", "/models")


class ModelsConsumer(GatewayConsumer):
    async def answer(self, receive: Receive) -> None:
        principal = await self.identify()
        names = self.runtime.snapshot.catalog.names(principal.organization_id)
        models = {
            name: _model_object(name, target)
            for name, target in sorted(names.items())
            if principal.is_master or may_call(principal, name)
        }
        path: str = self.scope["path"].rstrip("/")
        if path in PATHS:
            await self.reply.send_body(200, [], orjson.dumps({"object": "list", "data": list(models.values())}))
            return
        model = path.partition("/models/")[2]
        if model not in models:
            raise NotFound(
                f"The model '{model}' does not exist or you do not have access to it.",
                param="model",
                code="model_not_found",
            )
        await self.reply.send_body(200, [], orjson.dumps(models[model]))


def _model_object(name: str, target: Target) -> dict[str, str | int]:
    return {"id": name, "object": "model", "created": target.created_s, "owned_by": target.provider.name}


ENDPOINT = Endpoint(name="models", paths=PATHS, consumer=ModelsConsumer, prefix=True)
