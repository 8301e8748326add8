"""The stores of responses and conversations in memory; `log` has the order of their writes."""

import asyncio
from collections.abc import Awaitable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.pipeline.responses.conversations import (
    ConversationContents,
    LeaseRenewals,
    conversation_locked,
    conversation_not_found,
)
from gateway.protocol.dialects.responses.stored import Chain, Item, Owner, Page, StoredConversation, StoredResponse
from gateway.state.unit_of_work import UnitOfWork


def written() -> "asyncio.Future[None]":
    future = asyncio.get_running_loop().create_future()
    future.set_result(None)
    return future


@dataclass(slots=True)
class MemoryResponses:
    """The Responses port: its stored rows."""

    log: list[Any] = field(default_factory=list)
    rows: dict[str, StoredResponse] = field(default_factory=dict)

    def add(self, unit: UnitOfWork, response: StoredResponse) -> None:
        self.log.append(("keep", response.status))
        self.rows[response.id] = response

    async def find(self, owner: Owner, response_id: str) -> StoredResponse | None:
        stored = self.rows.get(response_id)
        return stored if stored is not None and stored.owner == owner else None

    async def chain(self, owner: Owner, response_id: str) -> Chain | None:
        stored = await self.find(owner, response_id)
        return stored and stored.chain_after(())

    async def page(self, owner: Owner, **_: Any) -> Page[StoredResponse]:
        raise NotImplementedError

    async def delete(self, owner: Owner, response_id: str) -> bool:
        raise NotImplementedError

    async def cancel(self, stored: StoredResponse) -> StoredResponse | None:
        raise NotImplementedError


@dataclass(slots=True)
class MemoryConversations:
    """Conversations: {(owner, id): items}, and which response holds which."""

    log: list[Any] = field(default_factory=list)
    items: dict[tuple[Owner, str], tuple[Item, ...]] = field(default_factory=dict)
    holders: dict[str, str] = field(default_factory=dict)
    leave_fails: Exception | None = None
    renewals: LeaseRenewals[tuple[str, str]] = field(init=False)

    def __post_init__(self) -> None:
        self.renewals = LeaseRenewals(self._renew)

    async def enter(self, owner: Owner, conversation_id: str, response_id: str) -> ConversationContents:
        items = self.items.get((owner, conversation_id))
        if items is None:
            raise conversation_not_found(conversation_id, param="conversation")
        if self.holders.setdefault(conversation_id, response_id) != response_id:
            raise conversation_locked()
        self.log.append("enter")
        return ConversationContents(items)

    def keep(self, owner: Owner, conversation_id: str, response_id: str) -> None:
        self.renewals.add((conversation_id, response_id))

    def _renew(self, leases: Collection[tuple[str, str]]) -> None:
        for conversation_id, response_id in leases:
            self.log.append("renew" if self.holders.get(conversation_id) == response_id else "renew of another's")

    async def read(self, owner: Owner, conversation_id: str) -> tuple[Item, ...]:
        items = self.items.get((owner, conversation_id))
        if items is None:
            raise conversation_not_found(conversation_id, param="conversation")
        return items

    def append(
        self,
        unit: UnitOfWork,
        owner: Owner,
        conversation_id: str,
        response_id: str,
        items: Sequence[Item],
    ) -> None:
        self.log.append("append")
        self.items[owner, conversation_id] += tuple(items)
        self._leave(conversation_id, response_id)

    def release(self, unit: UnitOfWork, owner: Owner, conversation_id: str, response_id: str) -> None:
        self.leave(owner, conversation_id, response_id)

    def leave(self, owner: Owner, conversation_id: str, response_id: str) -> Awaitable[object]:
        if self.leave_fails is not None:
            raise self.leave_fails
        self.log.append("leave")
        return self._leave(conversation_id, response_id)

    def _leave(self, conversation_id: str, response_id: str) -> Awaitable[object]:
        self.renewals.discard((conversation_id, response_id))
        if self.holders.get(conversation_id) == response_id:
            del self.holders[conversation_id]
        return written()

    async def create(self, conversation: StoredConversation, items: Sequence[Item]) -> None:
        self.items[conversation.owner, conversation.id] = tuple(items)

    async def find(self, owner: Owner, conversation_id: str) -> StoredConversation | None:
        raise NotImplementedError

    async def update(
        self, owner: Owner, conversation_id: str, metadata: Mapping[str, str]
    ) -> StoredConversation | None:
        raise NotImplementedError

    async def delete(self, owner: Owner, conversation_id: str) -> bool:
        return self.items.pop((owner, conversation_id), None) is not None

    async def page(self, owner: Owner, conversation_id: str, **_: Any) -> Page[Item] | None:
        raise NotImplementedError

    async def item(self, owner: Owner, conversation_id: str, item_id: str) -> Item | None:
        raise NotImplementedError

    async def add(self, owner: Owner, conversation_id: str, items: Sequence[Item]) -> tuple[Item, ...] | None:
        raise NotImplementedError

    async def remove(self, owner: Owner, conversation_id: str, item_id: str) -> StoredConversation | None:
        raise NotImplementedError


class PlainSeal:
    """Seal: seals nothing."""

    def close(self, value: Mapping[str, Any]) -> str:
        return "sealed"

    def open(self, text: str) -> Mapping[str, Any] | None:
        return None
