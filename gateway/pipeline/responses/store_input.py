"""A create that is to generate nothing: its input is kept, so that a later response can continue it."""

import contextlib

from gateway.pipeline.admit import admit
from gateway.pipeline.ports import Catalog, Principal
from gateway.pipeline.responses.create import Keep, written
from gateway.pipeline.responses.turn import Session
from gateway.protocol.attempt_context import AttemptContext
from gateway.protocol.dialects.responses.replay import replay_events
from gateway.protocol.dialects.responses.stream import usage_object
from gateway.protocol.json.types import JsonObject
from gateway.protocol.usage import NO_USAGE


async def prepare(session: Session, principal: Principal, catalog: Catalog, keep: Keep) -> list[JsonObject]:
    """The events of a completed response without output, which cost nothing. Raises ClientFault as a create would."""
    async with session.hold or contextlib.nullcontext():
        call = session.call()
        admit(call, principal, catalog)
        at_s = session.now()
        blank = session.answer(call, AttemptContext(session.response_id, at_s)).stream.response
        done = {"status": "completed", "completed_at": int(at_s), "usage": usage_object(NO_USAGE)}
        stored = session.stored(blank | done)
        for write in written(session, keep, stored):
            await write
        return replay_events(stored.response, session.request.include)
