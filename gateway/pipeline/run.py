"""A request's way through the stations 2 to 8, in order. Receive (1) is edge/consumer.py."""

from collections.abc import Callable
from dataclasses import dataclass

from gateway.pipeline.admit import admit
from gateway.pipeline.exchange import BoundCall, Services, exchange
from gateway.pipeline.interpret import interpret, read_timeout
from gateway.pipeline.large_bodies import read_sized
from gateway.pipeline.ports import Catalog, Principal, Reply
from gateway.protocol.dialect import Dialect
from gateway.protocol.provider import Target
from gateway.protocol.reasoning_replay import with_replay
from gateway.routing.router import route


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
    draw: Callable[[], float],
) -> None:
    """Answers on `reply`, or raises the Fault to answer with."""
    call = await read_sized(len(inbound.body), interpret, inbound.body, inbound.headers, dialect)
    timeout_s = read_timeout(inbound.headers, stream=call.stream)
    targets = admit(call, principal, catalog)
    plan = route(targets, draw)

    def bind(target: Target) -> BoundCall:
        return BoundCall(with_replay(call, target, services.memory, principal.organization_id))

    await exchange(bind, plan, principal, services, reply, request_id=inbound.request_id, timeout_s=timeout_s)
