"""The ports of /v1/responses beside those of every call: the store of responses, and the services of a turn."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from gateway.pipeline.responses.conversations import Conversations
from gateway.protocol.dialects.responses.seal import Seal
from gateway.protocol.dialects.responses.stored import Chain, Listing, Owner, Page, StoredResponse
from gateway.state.unit_of_work import UnitOfWork

Commit = Callable[[UnitOfWork], Awaitable[None]]
CheckRoom = Callable[[str], Awaitable[None]]
MAX_STORED_BYTES = 32 * 1024 * 1024


async def has_room(organization_id: str) -> None:
    """The check of a store without a quota."""


class Responses(Protocol):
    """The store of responses."""

    def add(self, unit: UnitOfWork, response: StoredResponse) -> None: ...

    async def find(self, owner: Owner, response_id: str) -> StoredResponse | None: ...

    async def chain(self, owner: Owner, response_id: str) -> Chain | None:
        """None where the response or one of its ancestors is missing. Raises BadRequest where they are too large."""

    async def page(self, owner: Owner, listing: Listing) -> Page[StoredResponse]:
        """Raises BadRequest where `after` names none of them."""

    async def delete(self, owner: Owner, response_id: str) -> bool:
        """Erases the response at once, with all that was stored for it; one in progress ends. False: there is none."""

    async def cancel(self, stored: StoredResponse) -> StoredResponse | None:
        """Ends the response unless it has ended. Returns it as it is now; None: it is gone."""


@dataclass(frozen=True, slots=True)
class ResponseServices:
    """The services of /v1/responses beside those of an exchange."""

    responses: Responses
    conversations: Conversations
    commit: Commit  # of a unit without a spend row
    seal: Callable[[str], Seal]  # of an organization
    retention_days: int
    check_room: CheckRoom = has_room  # of an organization; raises ClientFault when its quota is used up
    max_stored_bytes: int = MAX_STORED_BYTES  # of one request's own items
