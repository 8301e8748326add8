"""The tokens that a create would send: the gateway's own estimate, which needs no upstream and costs nothing."""

from gateway.pipeline.admit import admit
from gateway.pipeline.interpret import read_hints
from gateway.pipeline.large_bodies import read_sized
from gateway.pipeline.ports import Catalog, Principal
from gateway.pipeline.responses.create import new_token, open_turn
from gateway.pipeline.responses.ports import ResponseServices
from gateway.pipeline.run import Inbound
from gateway.pipeline.services import Services
from gateway.protocol.dialects.responses.client_request import decode
from gateway.protocol.ids import Ids


async def count_input(
    inbound: Inbound,
    principal: Principal,
    catalog: Catalog,
    services: Services,
    response_services: ResponseServices,
) -> int:
    """Raises ClientFault as the create would; a model need not be named."""
    size = len(inbound.body)
    hints = read_hints(inbound.headers)
    request = await read_sized(size, decode, inbound.body, hints, Ids(new_token()), needs_model=False)
    turn = await open_turn(request, principal, services, response_services, is_read_only=True)
    call = turn.dialect(services.now).call()
    if request.model:
        admit(call, principal, catalog)
    return call.input_estimate
