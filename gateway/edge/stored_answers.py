"""Creates of /v1/responses that no upstream answers at once: those that run in the background, and repeated ones."""

from hashlib import sha256

import orjson
from django.conf import settings

from gateway.edge.log_stream import follow
from gateway.pipeline.admit import name_group
from gateway.pipeline.ports import Headers, Principal, Reply
from gateway.pipeline.responses.idempotency import Claim, Settlement, claim_or_result
from gateway.pipeline.responses.runs import check_upstreams, queue
from gateway.pipeline.responses.turn import ResponseTurn, owner_of
from gateway.pipeline.run import Inbound
from gateway.protocol.dialects.openai.passthrough import DONE
from gateway.protocol.dialects.responses.client_request import ResponsesRequest
from gateway.protocol.dialects.responses.items import render_response
from gateway.protocol.dialects.responses.replay import replay_events
from gateway.protocol.dialects.responses.stored import StoredResponse
from gateway.protocol.dialects.responses.stream import encode_frame
from gateway.runtime import Runtime
from gateway.state.unit_of_work import UnitOfWork

REPLAYED: Headers = [(b"idempotent-replayed", b"true")]


async def begin(
    turn: ResponseTurn, inbound: Inbound, principal: Principal, runtime: Runtime, settlement: Settlement | None = None
) -> tuple[StoredResponse, Headers]:
    """Queues the response, after everything that can be refused now, rate limits included. Returns the headers of the
    limits too. Raises Fault: then nothing is stored."""
    is_queued = False
    headers: Headers = []
    now = runtime.services.now
    try:
        targets = check_upstreams(turn, principal, runtime.snapshot.catalog, now)
        unit = UnitOfWork()
        if settlement is not None:
            settlement.stand_for(unit)
        commit, wake = runtime.response_services.commit, runtime.wake_background

        async def charge() -> None:
            call = turn.dialect(now).call()
            named = name_group(call, principal, runtime.snapshot.catalog)
            headers.extend(await runtime.services.admission.charge(named, call, targets[0]))

        stored = await queue(turn, unit, inbound, principal, runtime.runs, now, commit, wake, charge)
        is_queued = True
    finally:
        if not is_queued and turn.lease is not None:
            await turn.lease.give_up()
    return stored, headers


async def claim_key(
    key: str, request: ResponsesRequest, principal: Principal, runtime: Runtime
) -> Claim | StoredResponse:
    """The response that an Idempotency-Key stands for, or the claim under which to answer now."""
    return await claim_or_result(
        runtime.claims,
        runtime.response_services.responses,
        owner_of(principal),
        key=sha256(key.encode()).hexdigest(),
        body=sha256(request.raw).hexdigest(),
        response_id=request.ids.response_id,
        is_stored=request.store,
        patience_s=settings.TOLLGATE_TIMEOUT_S,
    )


async def tell(
    stored: StoredResponse,
    runtime: Runtime,
    reply: Reply,
    *,
    is_stream: bool,
    include: frozenset[str],
    after: int = -1,
    headers: Headers | None = None,
) -> None:
    """A stored response, as an object or as the stream that it was, from the event behind `after`."""
    headers = headers or []
    if not is_stream:
        await reply.send_body(200, headers, orjson.dumps(render_response(stored.response, include)))
    elif stored.is_background:
        await reply.start_stream(headers)
        await follow(
            stored,
            runtime.runs,
            reply,
            after=after,
            include=include,
            keepalive_s=runtime.services.keepalive_s,
            is_draining=lambda: runtime.is_draining,
        )
    else:
        events = [event for event in replay_events(stored.response, include) if event["sequence_number"] > after]
        await reply.start_stream(headers)
        await reply.end_stream(b"".join(map(encode_frame, events)) + DONE)
