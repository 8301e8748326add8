"""ConnectionMemory: the responses of one WebSocket connection that are stored nowhere, and those that continue them.

The memory is gone with the connection.
"""

from dataclasses import dataclass, field

import orjson

from gateway.pipeline.responses.ports import Responses
from gateway.protocol.dialects.responses.stored import CONTINUED, Chain, Item, Listing, Owner, Page, StoredResponse
from gateway.state.unit_of_work import UnitOfWork

MAX_RESPONSES = 16
MAX_BYTES = 16 * 1024 * 1024


@dataclass(slots=True, eq=False)
class _Remembered:
    stored: StoredResponse
    parent: "_Remembered | None"  # so that a chain lives as long as its latest response
    lane: str
    is_stored: bool
    size_bytes: int


@dataclass(slots=True)
class ConnectionMemory:
    """Holds the latest MAX_RESPONSES responses, each with its whole chain, while together they have at most MAX_BYTES
    of JSON. Beyond that the oldest is forgotten first."""

    responses: Responses
    max_responses: int = MAX_RESPONSES
    max_bytes: int = MAX_BYTES
    _latest: dict[str, _Remembered] = field(default_factory=dict)

    def turn(self, lane: str = "") -> "TurnResponses":
        return TurnResponses(self.responses, self, lane)

    def find(self, owner: Owner, response_id: str) -> _Remembered | None:
        response = self._latest.get(response_id)
        return response if response is not None and response.stored.owner == owner else None

    def add(self, remembered: _Remembered) -> None:
        self._latest[remembered.stored.id] = remembered
        while self._latest and (len(self._latest) > self.max_responses or self.size_bytes > self.max_bytes):
            self.forget(next(iter(self._latest)))

    def forget(self, response_id: str) -> None:
        self._latest.pop(response_id, None)

    @property
    def size_bytes(self) -> int:
        """The size of all responses here; a response that several chains share counts once."""
        seen: dict[int, int] = {}
        for one in self._latest.values():
            link: _Remembered | None = one
            while link is not None and id(link) not in seen:
                seen[id(link)] = link.size_bytes
                link = link.parent
        return sum(seen.values())


class TurnResponses:
    """The Responses port for one turn of a connection: its memory first, then the store."""

    def __init__(self, responses: Responses, memory: ConnectionMemory, lane: str) -> None:
        self._responses = responses
        self._memory = memory
        self._lane = lane
        self._parent: _Remembered | None = None

    async def chain(self, owner: Owner, response_id: str) -> Chain | None:
        """Reads from the memory and the store; None where the response or one of its ancestors is missing."""
        self._parent = self._memory.find(owner, response_id)
        if self._parent is None:
            return await self._responses.chain(owner, response_id)
        chain: list[StoredResponse] = []
        link: _Remembered | None = self._parent
        while link is not None:
            # a client may have deleted a response that was stored as well
            if link.is_stored and await self._responses.find(owner, link.stored.id) is None:
                return None
            chain.append(link.stored)
            link = link.parent
        items: tuple[Item, ...] = ()
        if above_id := chain[-1].parent_id:
            above = await self._responses.chain(owner, above_id)
            if above is None:
                return None
            items = above.items
        between = [item for stored in reversed(chain[1:]) for item in stored.items]
        return chain[0].chain_after([*items, *between])

    def remember(self, stored: StoredResponse) -> None:
        """Takes the response of this turn, unless the store alone can continue it."""
        is_stored = stored.response["store"] is not False
        if stored.status not in CONTINUED or (is_stored and self._parent is None):
            return
        size_bytes = len(orjson.dumps([stored.input, stored.response]))
        self._memory.add(_Remembered(stored, self._parent, self._lane, is_stored, size_bytes))

    def fail(self) -> None:
        """Forgets the response that the failed turn continued, if it was made on the same lane."""
        if self._parent is not None and self._parent.lane == self._lane:
            self._memory.forget(self._parent.stored.id)

    async def find(self, owner: Owner, response_id: str) -> StoredResponse | None:
        remembered = self._memory.find(owner, response_id)
        if remembered is not None and not remembered.is_stored:
            return remembered.stored
        return await self._responses.find(owner, response_id)

    # The store's

    def add(self, unit: UnitOfWork, response: StoredResponse) -> None:
        self._responses.add(unit, response)

    async def page(self, owner: Owner, listing: Listing) -> Page[StoredResponse]:
        return await self._responses.page(owner, listing)

    async def delete(self, owner: Owner, response_id: str) -> bool:
        return await self._responses.delete(owner, response_id)

    async def cancel(self, stored: StoredResponse) -> StoredResponse | None:
        return await self._responses.cancel(stored)
