"""The store of responses, in memory; and a create's whole way through the pipeline."""

from dataclasses import dataclass, field

from gateway.pipeline.ports import Catalog, Principal, Reply
from gateway.pipeline.responses.close import TurnClose
from gateway.pipeline.responses.create import answer, interpret, open_turn
from gateway.pipeline.responses.ports import ResponseServices
from gateway.pipeline.run import Inbound
from gateway.pipeline.services import Services
from gateway.protocol.dialects.responses.stored import Chain, Listing, Owner, Page, StoredResponse
from gateway.state.unit_of_work import UnitOfWork


@dataclass(slots=True)
class MemoryResponses:
    """Responses. `lookups` are the ids that were looked up."""

    rows: dict[str, StoredResponse] = field(default_factory=dict)
    lookups: list[str] = field(default_factory=list)

    def add(self, unit: UnitOfWork, response: StoredResponse) -> None:
        self.rows[response.id] = response

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
    response_services: ResponseServices,
    reply: Reply,
) -> None:
    """Runs a create like the endpoint."""
    turn = await open_turn(interpret(inbound), principal, services, response_services)
    close = TurnClose(turn, services.now, response_services.responses)
    await answer(turn, close, inbound, principal, catalog, services, reply)
