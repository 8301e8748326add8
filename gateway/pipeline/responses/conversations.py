"""Conversations: the port of their store, and the hold that a response has on the one in which it is made."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from gateway.protocol.dialects.responses.items import PREFIXES
from gateway.protocol.dialects.responses.stored import Item, Owner, Page, StoredConversation
from gateway.protocol.errors import ClientFault, GatewayFault, NotFound
from gateway.state.unit_of_work import UnitOfWork

#: Longer ones are not sent to a model, so that no request has to read without end.
MAX_ITEMS = 10_000
#: How long a hold outlives its last sign of life. A stream has no longest duration, so no fixed time would do for all
#: calls; and a conversation whose process died must not stay closed for as long as the longest of them.
LEASE_S = 30
RENEW_S = 10.0


@dataclass(frozen=True, slots=True)
class Contents:
    """Of a conversation that is entered: its items, the oldest first and at most one more than MAX_ITEMS, and the
    deployment that answered last in it, where that is known."""

    items: tuple[Item, ...]
    deployment_id: str = ""


class Conversations(Protocol):
    """The store of conversations. None, or False: the owner has no such conversation, or item."""

    async def create(self, conversation: StoredConversation, items: Sequence[Item]) -> None: ...

    async def find(self, owner: Owner, conversation_id: str) -> StoredConversation | None: ...

    async def update(
        self, owner: Owner, conversation_id: str, metadata: Mapping[str, str]
    ) -> StoredConversation | None: ...

    async def delete(self, owner: Owner, conversation_id: str) -> bool:
        """Erases its items too; what responses keep of their own stays."""

    async def page(
        self, owner: Owner, conversation_id: str, *, limit: int, is_descending: bool, after: str
    ) -> Page[Item] | None:
        """Of items, by insertion. Raises BadRequest where `after` names none of them."""

    async def item(self, owner: Owner, conversation_id: str, item_id: str) -> Item | None: ...

    async def add(self, owner: Owner, conversation_id: str, items: Sequence[Item]) -> tuple[Item, ...] | None:
        """The items as they are kept: an id that is taken gives way to a fresh one."""

    async def remove(self, owner: Owner, conversation_id: str, item_id: str) -> StoredConversation | None: ...

    async def enter(self, owner: Owner, conversation_id: str, response_id: str) -> Contents:
        """Holds it for one response, for LEASE_S; entering again renews.

        Raises NotFound, the ClientFault of `locked` while another response holds it, or BadRequest where its items are
        too large; then nothing is held.
        """

    def renew(self, owner: Owner, conversation_id: str, response_id: str) -> None:
        """Queues that the response still holds it."""

    async def read(self, owner: Owner, conversation_id: str) -> tuple[Item, ...]:
        """Its items as `enter` gives them, whoever holds it. Raises NotFound, or BadRequest as `enter` does."""

    def append(
        self,
        unit: UnitOfWork,
        owner: Owner,
        conversation_id: str,
        response_id: str,
        items: Sequence[Item],
        *,
        is_stored: bool,
    ) -> None:
        """Adds the items, and the end of the lease. A conversation that was deleted meanwhile takes nothing; nor does
        it take items of a stored response (`is_stored`) that was cancelled or deleted."""

    def release(self, unit: UnitOfWork, owner: Owner, conversation_id: str, response_id: str) -> None:
        """Adds the end of the lease, where the response has it."""

    def leave(self, owner: Owner, conversation_id: str, response_id: str) -> Awaitable[object]:
        """Queues the end of the lease at once, in no unit."""


@dataclass(slots=True)
class ConversationLease:
    """One response's time in its conversation; no other response is made there meanwhile. Closes: as a context
    manager, within which the hold is renewed, by `append`, or by `give_up`."""

    conversations: Conversations
    owner: Owner
    conversation_id: str
    response_id: str
    _is_ended: bool = False
    _timer: asyncio.TimerHandle | None = field(default=None, repr=False)

    async def enter(self) -> Contents:
        """What the conversation holds. Raises ClientFault: then nothing is held."""
        return await self.conversations.enter(self.owner, self.conversation_id, self.response_id)

    def append(self, unit: UnitOfWork, items: Iterable[Item], *, is_stored: bool) -> None:
        """Ends the lease as well. A reference is no item of its own."""
        self._end()
        own_items = [item for item in items if item["type"] != "item_reference"]
        self.conversations.append(
            unit, self.owner, self.conversation_id, self.response_id, own_items, is_stored=is_stored
        )

    def release(self, unit: UnitOfWork) -> None:
        self._end()
        self.conversations.release(unit, self.owner, self.conversation_id, self.response_id)

    async def __aenter__(self) -> "ConversationLease":
        self._tick_later()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if not self._is_ended or error is not None:
            await self.give_up()

    async def give_up(self) -> None:
        """Leaves whatever happens: what fails here is made good by the end of the lease."""
        with contextlib.suppress(GatewayFault):
            # Shielded: it ends also when this task is being cancelled once more.
            self._end()
            leaving = self.conversations.leave(self.owner, self.conversation_id, self.response_id)
            await asyncio.shield(asyncio.ensure_future(leaving))

    def _end(self) -> None:
        self._is_ended = True
        if self._timer is not None:
            self._timer.cancel()

    def _tick_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(RENEW_S, self._tick)

    def _tick(self) -> None:
        with contextlib.suppress(GatewayFault):  # the next one may pass
            self.conversations.renew(self.owner, self.conversation_id, self.response_id)
        self._tick_later()


@dataclass(frozen=True, slots=True)
class ConversationRead:
    """A look into a conversation that holds nothing, in a Hold's place."""

    conversations: Conversations
    owner: Owner
    conversation_id: str

    async def enter(self) -> Contents:
        return Contents(await self.conversations.read(self.owner, self.conversation_id))

    async def give_up(self) -> None:
        """There is nothing to give up."""


def distinct(items: Iterable[Item], taken: set[str], new_id: Callable[[str], str]) -> tuple[Item, ...]:
    """The items, a fresh id in the place of each that is taken. A reference means the item whose id it has."""
    return tuple(
        {**item, "id": new_id(PREFIXES.get(item["type"], "item_"))}
        if item["type"] != "item_reference" and item["id"] in taken
        else item
        for item in items
    )


def conversation_not_found(conversation_id: str, *, param: str | None = None) -> NotFound:
    return NotFound(
        f"Conversation with id '{conversation_id[:128]}' not found.", param=param, code="conversation_not_found"
    )


def locked() -> ClientFault:
    """A client may try again: its SDK does so by itself after a 409."""
    return ClientFault(
        "Another response is being made in this conversation; try again when it is done.",
        status=409,
        param="conversation",
        code="conversation_locked",
    )
