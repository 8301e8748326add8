"""How many tokens a create would send: the gateway's own estimate, which needs no upstream and costs nothing.

Text only: what a picture costs differs too much between models to be guessed.
"""

import orjson

from gateway.pipeline.admit import admit
from gateway.pipeline.exchange import Services
from gateway.pipeline.interpret import read_hints
from gateway.pipeline.ports import Catalog, Principal
from gateway.pipeline.responses.create import Sessions, new_token, open_session
from gateway.pipeline.run import Inbound
from gateway.protocol.dialects.responses.client_request import decode
from gateway.protocol.dialects.responses.conversation import estimate_item_tokens
from gateway.protocol.ids import Ids
from gateway.protocol.usage import estimate_tokens


async def count_input(
    inbound: Inbound, principal: Principal, catalog: Catalog, services: Services, sessions: Sessions
) -> int:
    """Raises ClientFault as the create would; a model need not be named."""
    request = decode(inbound.body, read_hints(inbound.headers), Ids(new_token()), needs_model=False)
    session = await open_session(request, principal, services, sessions, is_look=True)
    if request.model:
        admit(session.call(), principal, catalog)
    tools = request.body.get("tools")
    form = (request.body.get("text") or {}).get("format")
    extra = [orjson.dumps(part).decode() for part in (tools, form) if part]
    items = [*session.history, *session.request.input]
    return estimate_item_tokens(items, request.instructions) + sum(map(estimate_tokens, extra))
