"""Sessions: the stored responses of the process, which every call and every Router shares."""

import asyncio
import base64
from collections import OrderedDict
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import orjson

from gateway.pipeline.responses.conversations import ConversationContents, conversation_not_found
from gateway.pipeline.responses.limits import MAX_HISTORY_BYTES, history_too_large
from gateway.pipeline.responses.ports import Responses
from gateway.protocol.dialects.responses.stored import (
    MAX_CHAIN,
    Chain,
    Item,
    Listing,
    Owner,
    Page,
    StoredConversation,
    StoredResponse,
)
from gateway.protocol.errors import BadRequest
from gateway.protocol.json.types import JsonMapping
from gateway.state.packing import pack_response, unpack_response
from gateway.state.unit_of_work import UnitOfWork

MAX_RESPONSES = 100_000
MAX_BYTES = 256 * 1024 * 1024


class SessionStore(Protocol):
    """A store of responses, and how its units are written."""

    @property
    def responses(self) -> Responses: ...

    async def prepare(self) -> None:
        """Once, before anything else. Raises OSError where the store cannot be used."""

    async def commit(self, unit: UnitOfWork) -> None:
        """Raises GatewayFault."""

    async def close(self) -> None: ...


class MemoryStore:
    """The responses of this process alone, packed. Where there are too many, those go that were not used for the
    longest time."""

    def __init__(self, *, max_responses: int = MAX_RESPONSES, max_bytes: int = MAX_BYTES) -> None:
        self._max_responses = max_responses
        self._max_bytes = max_bytes
        self._rows: OrderedDict[str, tuple[StoredResponse, bytes, bytes]] = OrderedDict()
        self._size = 0

    @property
    def responses(self) -> "MemoryStore":
        return self

    async def prepare(self) -> None:
        """There is nothing to make."""

    async def commit(self, unit: UnitOfWork) -> None:
        for action in unit.follow_ups:
            await action()

    async def close(self) -> None:
        """Nothing is open."""

    def add(self, unit: UnitOfWork, response: StoredResponse) -> None:
        self._drop(response.id)
        body, head = pack_response(response.input, response.response)
        bare = replace(response, input=(), response={"status": response.status})
        self._rows[response.id] = (bare, body, head)
        self._size += len(body) + len(head)
        while len(self._rows) > 1 and (len(self._rows) > self._max_responses or self._size > self._max_bytes):
            self._drop(next(iter(self._rows)))

    async def find(self, owner: Owner, response_id: str) -> StoredResponse | None:
        row = self._rows.get(response_id)
        if row is None or row[0].owner != owner:
            return None
        self._rows.move_to_end(response_id)
        items, response = unpack_response(row[1], row[2])
        return replace(row[0], input=tuple(items), response=response)

    async def chain(self, owner: Owner, response_id: str) -> Chain | None:
        responses: list[StoredResponse] = []
        size, next_id = 0, response_id
        while next_id:
            size += len(self._rows[next_id][1]) if next_id in self._rows else 0
            if size > MAX_HISTORY_BYTES:
                raise history_too_large(MAX_HISTORY_BYTES, param="previous_response_id")
            response = await self.find(owner, next_id)
            if response is None or len(responses) > MAX_CHAIN:
                return None
            responses.append(response)
            next_id = response.parent_id
        earlier = [item for response in reversed(responses[1:]) for item in response.items]
        return responses[0].chain_after(earlier)

    async def page(self, owner: Owner, listing: Listing) -> Page[StoredResponse]:
        raise not_offered("A list of responses")

    async def delete(self, owner: Owner, response_id: str) -> bool:
        if await self.find(owner, response_id) is None:
            return False
        self._drop(response_id)
        return True

    async def cancel(self, stored: StoredResponse) -> StoredResponse | None:
        return await self.find(stored.owner, stored.id)

    def _drop(self, response_id: str) -> None:
        row = self._rows.pop(response_id, None)
        if row is not None:
            self._size -= len(row[1]) + len(row[2])


class NoConversations:
    """The Conversations port where there are none: a session is continued by `previous_response_id`."""

    async def create(self, conversation: StoredConversation, items: Sequence[Item]) -> None:
        raise not_offered("A conversation")

    async def find(self, owner: Owner, conversation_id: str) -> StoredConversation | None:
        return None

    async def update(
        self, owner: Owner, conversation_id: str, metadata: Mapping[str, str]
    ) -> StoredConversation | None:
        return None

    async def delete(self, owner: Owner, conversation_id: str) -> bool:
        return False

    async def page(
        self, owner: Owner, conversation_id: str, *, limit: int, is_descending: bool, after: str
    ) -> Page[Item] | None:
        return None

    async def item(self, owner: Owner, conversation_id: str, item_id: str) -> Item | None:
        return None

    async def add(self, owner: Owner, conversation_id: str, items: Sequence[Item]) -> tuple[Item, ...] | None:
        return None

    async def remove(self, owner: Owner, conversation_id: str, item_id: str) -> StoredConversation | None:
        return None

    async def enter(self, owner: Owner, conversation_id: str, response_id: str) -> ConversationContents:
        raise conversation_not_found(conversation_id, param="conversation")

    def keep(self, owner: Owner, conversation_id: str, response_id: str) -> None:
        """There is no lease."""

    async def read(self, owner: Owner, conversation_id: str) -> tuple[Item, ...]:
        raise conversation_not_found(conversation_id, param="conversation")

    def append(
        self, unit: UnitOfWork, owner: Owner, conversation_id: str, response_id: str, items: Sequence[Item]
    ) -> None:
        """There is no lease."""

    def release(self, unit: UnitOfWork, owner: Owner, conversation_id: str, response_id: str) -> None:
        """There is no lease."""

    def leave(self, owner: Owner, conversation_id: str, response_id: str) -> Awaitable[object]:
        return asyncio.sleep(0)


class OpenSeal:
    """The Seal of a process that has one user, who may read everything: base64, not encrypted."""

    def close(self, value: JsonMapping) -> str:
        return base64.urlsafe_b64encode(orjson.dumps(value)).decode()

    def open(self, text: str) -> JsonMapping | None:
        try:
            value: JsonMapping = orjson.loads(base64.urlsafe_b64decode(text.encode()))
        except ValueError:
            return None
        return value if isinstance(value, dict) else None


def not_offered(what: str) -> BadRequest:
    return BadRequest(f"{what} is not offered by the SDK: continue a response by previous_response_id.")
