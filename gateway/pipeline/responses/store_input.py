"""A create that generates nothing: its input is stored, so that a later response can continue it."""

import contextlib

from gateway.pipeline.admit import admit
from gateway.pipeline.ports import Catalog, Principal
from gateway.pipeline.responses.close import TurnClose, stored_response
from gateway.pipeline.responses.ports import ResponseServices
from gateway.pipeline.responses.turn import ResponseTurn
from gateway.pipeline.services import Services
from gateway.protocol.dialects.responses.replay import replay_events
from gateway.protocol.dialects.responses.stream import usage_object
from gateway.protocol.json.types import JsonObject
from gateway.protocol.usage import NO_USAGE
from gateway.state.unit_of_work import UnitOfWork


async def store_input(
    turn: ResponseTurn,
    close: TurnClose,
    principal: Principal,
    catalog: Catalog,
    services: Services,
    response_services: ResponseServices,
) -> list[JsonObject]:
    """The events of a completed response without output, which cost nothing. Raises ClientFault as a create would."""
    async with turn.lease or contextlib.nullcontext():
        dialect = turn.dialect(services.now)
        admit(dialect.call(), principal, catalog)
        blank = dialect.translated_answer.response
        done = {"status": "completed", "completed_at": int(services.now()), "usage": usage_object(NO_USAGE)}
        response = stored_response(turn, blank | done)
        unit = UnitOfWork()
        close.add(response, unit)
        if unit.operations:
            await response_services.commit(unit)
        return replay_events(response.response, turn.request.include)
