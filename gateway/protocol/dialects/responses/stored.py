"""Stored responses and conversations as the data path sees them, in no database's words."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.protocol.json.types import JsonObject

Item = dict[str, Any]

#: Longer chains are refused, so that no request has to read without end.
MAX_CHAIN = 1000
#: The status of a response that has ended → the event that ends its stream.
TERMINAL_EVENTS = {
    "completed": "response.completed",
    "incomplete": "response.incomplete",
    "failed": "response.failed",
    "cancelled": "response.incomplete",
}


@dataclass(frozen=True, slots=True)
class Owner:
    """Who sees a stored response: `scope` is a team, a person without a team, or a lone key of one organization."""

    organization_id: str
    scope: str


@dataclass(frozen=True, slots=True)
class Chain:
    """A response as a later one continues it: what must be known of it, and the items of it and all its ancestors, the
    oldest first."""

    conversation_id: str
    deployment_id: str
    depth: int
    status: str
    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """One response with its own items. `response` is the whole object, its items with their private members.
    Instants are seconds since the epoch."""

    id: str
    owner: Owner
    parent_id: str
    conversation_id: str
    depth: int  # of the chain that ends here: 1 without a parent
    model_group: str
    deployment_id: str
    provider: str
    is_background: bool
    is_streamed: bool
    created_s: float
    completed_s: float | None
    expires_s: float
    input: tuple[Item, ...]
    response: JsonObject
    spend_id: str = ""  # the attempt that answered

    @property
    def status(self) -> str:
        return str(self.response["status"])

    @property
    def items(self) -> tuple[Item, ...]:
        return (*self.input, *self.response["output"])

    def chain_after(self, earlier: Iterable[Item]) -> Chain:
        """The chain that ends here."""
        return Chain(self.conversation_id, self.deployment_id, self.depth, self.status, (*earlier, *self.items))


@dataclass(frozen=True, slots=True)
class StoredConversation:
    id: str
    owner: Owner
    created_s: float
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Listing:
    """Which responses to list: one page, by creation, after the one of the id `after`; empty filters filter nothing."""

    limit: int
    is_descending: bool = True
    after: str = ""
    model: str = ""
    status: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a list, in its order; `has_more` after the last of `data`."""

    data: tuple[Any, ...]
    has_more: bool
