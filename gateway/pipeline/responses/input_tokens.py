"""The tokens that a create would send: the gateway's own estimate, which needs no upstream and costs nothing.

It counts text only: the cost of a picture differs too much between models.
"""

import orjson

from gateway.pipeline.admit import admit
from gateway.pipeline.exchange import Services
from gateway.pipeline.interpret import read_hints
from gateway.pipeline.ports import Catalog, Principal
from gateway.pipeline.responses.create import new_token, open_turn
from gateway.pipeline.responses.ports import ResponseServices
from gateway.pipeline.run import Inbound
from gateway.protocol.dialects.responses.client_request import decode
from gateway.protocol.dialects.responses.conversation import estimate_item_tokens
from gateway.protocol.ids import Ids
from gateway.protocol.usage import estimate_tokens


async def count_input(
    inbound: Inbound,
    principal: Principal,
    catalog: Catalog,
    services: Services,
    response_services: ResponseServices,
) -> int:
    """Raises ClientFault as the create would; a model need not be named."""
    request = decode(inbound.body, read_hints(inbound.headers), Ids(new_token()), needs_model=False)
    turn = await open_turn(request, principal, services, response_services, is_read_only=True)
    if request.model:
        admit(turn.dialect(services.now).call(), principal, catalog)
    tools = request.body.get("tools")
    form = (request.body.get("text") or {}).get("format")
    extra = [orjson.dumps(part).decode() for part in (tools, form) if part]
    return estimate_item_tokens(turn.all_items, turn.request.instructions) + sum(map(estimate_tokens, extra))
