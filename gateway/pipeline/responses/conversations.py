"""Conversations: the port of their store, and the lease of a response on the conversation that it continues."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from gateway.protocol.dialects.responses.items import PREFIXES
from gateway.protocol.dialects.responses.stored import Item, Owner, Page, StoredConversation
from gateway.protocol.errors import ClientFault, GatewayFault, NotFound
from gateway.state.unit_of_work import UnitOfWork

#: Longer ones are not sent to a model, so that no request has to read without end.
MAX_ITEMS = 10_000
#: A lease ends so long after its last renewal. A stream may last for any time, so a lease is renewed while the answer
#: is made, and the conversation of a process that died is soon free. A process may stall for the difference.
LEASE_S = 9
RENEW_S = 3.0

Lease = TypeVar("Lease", bound=Hashable)


@dataclass(frozen=True, slots=True)
class ConversationContents:
    """The items, the oldest first and at most one more than MAX_ITEMS, and the deployment that answered last, where
    that is known."""

    items: tuple[Item, ...]
    deployment_id: str = ""


class Conversations(Protocol):
    """The store of conversations. None or False: the owner has no such conversation, or item."""

    async def create(self, conversation: StoredConversation, items: Sequence[Item]) -> None: ...

    async def find(self, owner: Owner, conversation_id: str) -> StoredConversation | None: ...

    async def update(
        self, owner: Owner, conversation_id: str, metadata: Mapping[str, str]
    ) -> StoredConversation | None: ...

    async def delete(self, owner: Owner, conversation_id: str) -> bool:
        """Erases its items too; the responses made in it stay."""

    async def page(
        self, owner: Owner, conversation_id: str, *, limit: int, is_descending: bool, after: str
    ) -> Page[Item] | None:
        """A page of items, by insertion. Raises BadRequest where `after` names none of them."""

    async def item(self, owner: Owner, conversation_id: str, item_id: str) -> Item | None: ...

    async def add(self, owner: Owner, conversation_id: str, items: Sequence[Item]) -> tuple[Item, ...] | None:
        """The items as they are stored: an item whose id is taken gets a new one."""

    async def remove(self, owner: Owner, conversation_id: str, item_id: str) -> StoredConversation | None: ...

    async def enter(self, owner: Owner, conversation_id: str, response_id: str) -> ConversationContents:
        """Leases it to one response, for LEASE_S; entering again renews the lease.

        Raises NotFound, `conversation_locked` while another response has the lease, or BadRequest where the items are
        too large; then there is no lease.
        """

    def keep(self, owner: Owner, conversation_id: str, response_id: str) -> None:
        """Renews the response's lease, every RENEW_S, until `append`, `release` or `leave` ends it."""

    async def read(self, owner: Owner, conversation_id: str) -> tuple[Item, ...]:
        """The items as `enter` gives them, without a lease. Raises NotFound, or BadRequest as `enter` does."""

    def append(
        self,
        unit: UnitOfWork,
        owner: Owner,
        conversation_id: str,
        response_id: str,
        items: Sequence[Item],
    ) -> None:
        """Adds the items, and the end of the lease. The conversation takes them from the response that has the lease:
        not from one that was cancelled, deleted, or so late that another response has entered."""

    def release(self, unit: UnitOfWork, owner: Owner, conversation_id: str, response_id: str) -> None:
        """Adds the end of the lease, where the response has it."""

    def leave(self, owner: Owner, conversation_id: str, response_id: str) -> Awaitable[object]:
        """Queues the end of the lease at once, in no unit."""


class LeaseRenewals(Generic[Lease]):
    """The leases of one process, which `renew` renews together every `renew_s` while there are any."""

    def __init__(self, renew: Callable[[Collection[Lease]], None], renew_s: float = RENEW_S) -> None:
        self._renew = renew
        self._renew_s = renew_s
        self._leases: set[Lease] = set()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, lease: Lease) -> None:
        self._leases.add(lease)
        if self._timer is None:
            self._tick_later()

    def discard(self, lease: Lease) -> None:
        self._leases.discard(lease)

    def _tick_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._renew_s, self._tick)

    def _tick(self) -> None:
        self._timer = None
        if self._leases:
            self._tick_later()
            with contextlib.suppress(GatewayFault):  # the next renewal may pass
                self._renew(tuple(self._leases))


@dataclass(slots=True)
class ConversationLease:
    """One response's time in its conversation; no other response is made there meanwhile. Closes: as a context
    manager, which keeps the lease renewed, by `append`, by `release`, or by `give_up`."""

    conversations: Conversations
    owner: Owner
    conversation_id: str
    response_id: str
    _is_ended: bool = False

    async def enter(self) -> ConversationContents:
        """The conversation's contents. Raises ClientFault; then there is no lease."""
        return await self.conversations.enter(self.owner, self.conversation_id, self.response_id)

    def append(self, unit: UnitOfWork, items: Iterable[Item]) -> None:
        """Adds the items, without references, and the end of the lease."""
        self._is_ended = True
        own_items = [item for item in items if item["type"] != "item_reference"]
        self.conversations.append(unit, self.owner, self.conversation_id, self.response_id, own_items)

    def release(self, unit: UnitOfWork) -> None:
        self._is_ended = True
        self.conversations.release(unit, self.owner, self.conversation_id, self.response_id)

    async def __aenter__(self) -> "ConversationLease":
        self.conversations.keep(self.owner, self.conversation_id, self.response_id)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if not self._is_ended or error is not None:
            await self.give_up()

    async def give_up(self) -> None:
        """Ends the lease at once. Where the database takes nothing the lease runs out."""
        with contextlib.suppress(GatewayFault):
            # Shielded: the lease ends also when this task is being cancelled once more.
            self._is_ended = True
            leaving = self.conversations.leave(self.owner, self.conversation_id, self.response_id)
            await asyncio.shield(asyncio.ensure_future(leaving))


@dataclass(frozen=True, slots=True)
class ConversationRead:
    """A ConversationLease's reading half, for a request that is not answered."""

    conversations: Conversations
    owner: Owner
    conversation_id: str

    async def enter(self) -> ConversationContents:
        return ConversationContents(await self.conversations.read(self.owner, self.conversation_id))

    async def give_up(self) -> None:
        """There is no lease."""


def assign_free_ids(items: Iterable[Item], taken: set[str], new_id: Callable[[str], str]) -> tuple[Item, ...]:
    """The items; each whose id is taken gets a new one. A reference keeps the id of the item that it names."""
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


def conversation_locked() -> ClientFault:
    """The client may try again; the SDKs do so by themselves after a 409."""
    return ClientFault(
        "Another response is being made in this conversation; try again when it is done.",
        status=409,
        param="conversation",
        code="conversation_locked",
    )
