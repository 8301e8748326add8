"""The store of responses, in memory; and a create's whole way through the pipeline."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from gateway.pipeline.exchange import Services
from gateway.pipeline.ports import Catalog, Principal, Reply
from gateway.pipeline.responses.create import Sessions, answer, interpret, open_session
from gateway.pipeline.run import Inbound
from gateway.protocol.dialects.responses.stored import Chain, Listing, Owner, Page, StoredResponse


@dataclass(slots=True)
class MemoryResponses:
    """Responses. `lookups` are the ids that were looked up."""

    rows: dict[str, StoredResponse] = field(default_factory=dict)
    lookups: list[str] = field(default_factory=list)

    def keep(self, stored: StoredResponse) -> Awaitable[None]:
        self.rows[stored.id] = stored
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    async def find(self, owner: Owner, response_id: str) -> StoredResponse | None:
        self.lookups.append(response_id)
        row = self.rows.get(response_id)
        return row if row is not None and row.owner == owner else None

    async def chain(self, owner: Owner, response_id: str) -> Chain | None:
        row = await self.find(owner, response_id)
        if row is None or not row.parent_id:
            return row and row.chain_after(())
        above = await self.chain(owner, row.parent_id)
        return above and row.chain_after(above.items)

    async def page(self, owner: Owner, listing: Listing) -> Page[StoredResponse]:
        raise NotImplementedError

    async def delete(self, owner: Owner, response_id: str) -> bool:
        return self.rows.pop(response_id, None) is not None

    async def cancel(self, stored: StoredResponse) -> StoredResponse | None:
        raise NotImplementedError


async def respond(
    inbound: Inbound,
    principal: Principal,
    catalog: Catalog,
    services: Services,
    sessions: Sessions,
    reply: Reply,
    draw: Callable[[], float],
) -> None:
    """Runs a create like the endpoint."""
    session = await open_session(interpret(inbound), principal, services, sessions)
    await answer(session, inbound, principal, catalog, services, sessions.responses.keep, reply, draw)
