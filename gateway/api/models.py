"""GET /v1/models and /v1/models/{id}: the model groups that the key may call, in Anthropic's shape for a client that
sends `anthropic-version`. Patterns (`openai/*`) are listed with LiteLLM's `return_wildcard_routes=true` only, because a
client would take them for models; of the models that they serve, those that the key's own lists name are listed.

Source: https://platform.openai.com/docs/api-reference/models.
"""

from datetime import UTC, datetime

import orjson

from gateway.edge.asgi_types import Receive
from gateway.edge.consumer import GatewayConsumer
from gateway.edge.endpoint import Endpoint
from gateway.edge.query import Query
from gateway.pipeline.admit import MAX_SHOWN, may_call
from gateway.pipeline.ports import Catalog, Principal
from gateway.protocol.errors import NotFound
from gateway.protocol.json.types import JsonObject
from gateway.protocol.provider import Target

PATHS = ("/v1/models", "/models")


class ModelsConsumer(GatewayConsumer):
    async def answer(self, receive: Receive) -> None:
        principal = await self.identify()
        catalog = self.runtime.snapshot.catalog
        path: str = self.scope["path"].rstrip("/")
        is_anthropic = b"anthropic-version" in self.headers
        make = _anthropic_object if is_anthropic else _model_object
        if path not in PATHS:
            name = path.partition("/models/")[2]
            await self.reply.send_body(200, [], orjson.dumps(make(name, _find_model(name, principal, catalog))))
            return
        with_patterns = Query.read(self.scope).flag("return_wildcard_routes")
        names = _names(principal, catalog, with_patterns=with_patterns)
        ids = [name for name in sorted(names) if may_call(principal, name)]
        page: JsonObject = {"data": [make(name, names[name]) for name in ids]}
        if is_anthropic:
            ends = {"first_id": ids[0] if ids else None, "last_id": ids[-1] if ids else None}
            page |= {"has_more": False, **ends}
        else:
            page = {"object": "list", **page}
        await self.reply.send_body(200, [], orjson.dumps(page))


def _find_model(name: str, principal: Principal, catalog: Catalog) -> Target:
    """The first target of a model that the key may call. Raises NotFound."""
    targets = catalog.find(principal.organization_id, principal.resolve_model(name))
    if not targets or not may_call(principal, name):
        raise NotFound(
            f"The model '{name[:MAX_SHOWN]}' does not exist or you do not have access to it.",
            param="model",
            code="model_not_found",
        )
    return targets[0]


def _names(principal: Principal, catalog: Catalog, *, with_patterns: bool) -> dict[str, Target]:
    """{public name: its first target} of what the key's organization can reach."""
    names = catalog.names(principal.organization_id, with_patterns=with_patterns)
    listed = {name: name for models in principal.allowed_models for name in models} | dict(principal.model_aliases)
    for name, group in listed.items():
        targets = catalog.find(principal.organization_id, group)
        if name not in names and targets and (targets[0].pattern or group in names):  # aliases may be hidden
            names[name] = targets[0]
    return names


def _model_object(name: str, target: Target) -> dict[str, str | int]:
    return {"id": name, "object": "model", "created": target.created_s, "owned_by": target.provider.name}


def _anthropic_object(name: str, target: Target) -> dict[str, str | int]:
    created = datetime.fromtimestamp(target.created_s, UTC).isoformat().replace("+00:00", "Z")
    return {"type": "model", "id": name, "display_name": name, "created_at": created}


ENDPOINT = Endpoint(name="models", paths=PATHS, consumer=ModelsConsumer, prefix=True)
