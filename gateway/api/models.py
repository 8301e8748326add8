"""GET /v1/models and /v1/models/{id}: the model groups that the key may call, in Anthropic's shape for a client that
sends `anthropic-version`.

Source: https://platform.openai.com/docs/api-reference/models.
"""

from datetime import UTC, datetime

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
        names |= {alias: names[group] for alias, group in principal.model_aliases if group in names}
        models = {
            name: _model_object(name, target)
            for name, target in sorted(names.items())
            if principal.is_master or may_call(principal, name)
        }
        path: str = self.scope["path"].rstrip("/")
        is_anthropic = b"anthropic-version" in self.headers
        if is_anthropic:
            models = {name: _anthropic_object(name, names[name]) for name in models}
        if path in PATHS and is_anthropic:
            ids = list(models)
            page = {"data": list(models.values()), "has_more": False}
            ends = {"first_id": ids[0] if ids else None, "last_id": ids[-1] if ids else None}
            await self.reply.send_body(200, [], orjson.dumps(page | ends))
            return
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


def _anthropic_object(name: str, target: Target) -> dict[str, str | int]:
    created = datetime.fromtimestamp(target.created_s, UTC).isoformat().replace("+00:00", "Z")
    return {"type": "model", "id": name, "display_name": name, "created_at": created}


ENDPOINT = Endpoint(name="models", paths=PATHS, consumer=ModelsConsumer, prefix=True)
