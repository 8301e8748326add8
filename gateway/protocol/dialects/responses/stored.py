"""Stored responses and conversations as plain values, independent of the database."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from gateway.protocol.json.types import JsonObject

Entry = TypeVar("Entry")
#: An item of a response or a conversation, as it is stored.
Item = JsonObject

#: The gateway refuses longer chains, so that one request never reads without end.
MAX_CHAIN = 1000
#: The status of a response that has ended → the event that ends its stream.
TERMINAL_EVENTS = {
    "completed": "response.completed",
    "incomplete": "response.incomplete",
    "failed": "response.failed",
    "cancelled": "response.incomplete",
}

CONTINUED = frozenset({"completed", "incomplete"})  # statuses of responses that a later one may continue


@dataclass(frozen=True, slots=True)
class Owner:
    """The owner of a stored response. `scope` is a team, a user without a team, or a single key of one organization."""

    organization_id: str
    scope: str


@dataclass(frozen=True, slots=True)
class Chain:
    """The response that a later one continues, with the items of it and of all its ancestors, the oldest first."""

    conversation_id: str
    deployment_id: str
    depth: int
    status: str
    items: tuple[Item, ...]

    @property
    def may_be_continued(self) -> bool:
        """One that failed may too, where it broke off amid its text."""
        has_text = bool(self.items) and self.items[-1].get("role") == "assistant"
        return self.status in CONTINUED or (self.status == "failed" and has_text)


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """One response with its own items. `response` is the whole object; its items have their private members.
    Instants are seconds since the epoch."""

    id: str
    owner: Owner
    parent_id: str
    conversation_id: str
    depth: int  # responses in the chain that ends here: 1 without a parent
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
    spend_id: str = ""  # the spend log of the attempt that answered

    @property
    def status(self) -> str:
        return str(self.response["status"])

    @property
    def items(self) -> tuple[Item, ...]:
        return (*self.input, *self.response["output"])

    def chain_after(self, earlier: Iterable[Item]) -> Chain:
        """The chain that ends with this response; `earlier` are the items of its ancestors."""
        return Chain(self.conversation_id, self.deployment_id, self.depth, self.status, (*earlier, *self.items))


@dataclass(frozen=True, slots=True)
class StoredConversation:
    id: str
    owner: Owner
    created_s: float
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Listing:
    """The query for one page of responses: by creation, after the response `after`. An empty filter admits all."""

    limit: int
    is_descending: bool = True
    after: str = ""
    model: str = ""
    status: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Page(Generic[Entry]):
    """One page of a list, in the order of the list. `has_more`: entries follow the last one of `data`."""

    data: tuple[Entry, ...]
    has_more: bool
