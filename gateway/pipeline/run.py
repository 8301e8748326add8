"""A request's way through the stations 2 to 8, in order. Receive (1) is edge/consumer.py."""

from dataclasses import dataclass
from functools import partial

from gateway.pipeline.admit import admit, find_fallback, name_group
from gateway.pipeline.cached_call import open_cached_call
from gateway.pipeline.exchange import exchange
from gateway.pipeline.interpret import interpret, read_timeout
from gateway.pipeline.large_bodies import read_sized
from gateway.pipeline.ports import Catalog, Principal, Reply
from gateway.pipeline.routing_request import read_route_options, read_routing_request
from gateway.pipeline.services import Services
from gateway.pipeline.stream_cost import ask_cost
from gateway.pipeline.time_limits import read_client_time
from gateway.pipeline.visit import BoundCall
from gateway.protocol.dialect import Dialect
from gateway.protocol.provider import Target
from gateway.protocol.reasoning_replay import with_replay
from gateway.routing.walk import Walk


@dataclass(frozen=True, slots=True)
class Inbound:
    """A received request. Header names are lower case."""

    request_id: str
    headers: dict[bytes, bytes]
    body: bytes


async def run(
    inbound: Inbound,
    dialect: Dialect,
    principal: Principal,
    catalog: Catalog,
    services: Services,
    reply: Reply,
) -> None:
    """Answers on `reply`, or raises the Fault to answer with."""
    call = await read_sized(len(inbound.body), interpret, inbound.body, inbound.headers, dialect)
    call = ask_cost(call, inbound.headers, by_default=services.tells_stream_cost)
    timeout_s = read_timeout(inbound.headers, call.body, stream=call.stream)
    time = read_client_time(inbound.headers, timeout_s, services.now())
    targets = admit(call, principal, catalog)
    request = read_routing_request(call, inbound.headers, principal, catalog)
    named = name_group(call, principal, catalog)
    cached = await open_cached_call(call, inbound.headers, named, targets, request, services)
    if cached is not None:
        if await cached.replay(reply, inbound.request_id):
            return
        reply = cached.record(reply)
    walk = Walk(
        services.routing,
        targets,
        partial(find_fallback, call, principal, catalog),
        request,
        read_route_options(call, inbound.headers, principal, catalog),
    )
    steps = (cached.note,) if cached is not None else ()

    def bind(target: Target) -> BoundCall:
        return BoundCall(with_replay(call, target, services.memory, principal.organization_id), steps)

    await exchange(bind, walk, named, services, reply, request_id=inbound.request_id, time=time)
