"""ResponseTurn: one create of /v1/responses, as it stands before any upstream is asked."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from gateway.pipeline.ports import Principal
from gateway.pipeline.responses.conversations import ConversationLease
from gateway.protocol.dialects.responses.client_request import ResponsesRequest
from gateway.protocol.dialects.responses.dialect import ResponsesDialect
from gateway.protocol.dialects.responses.seal import Seal
from gateway.protocol.dialects.responses.stored import Item, Owner
from gateway.protocol.dialects.responses.truncation import halve_history
from gateway.protocol.input_estimate import estimate_content


def owner_of(principal: Principal) -> Owner:
    """A team shares its responses; a key without a team those of its user; any other key has its own."""
    if principal.team_id:
        scope = f"team:{principal.team_id}"
    elif principal.user_id:
        scope = f"user:{principal.user_id}"
    else:
        scope = f"key:{principal.key_id or 'master'}"
    return Owner(principal.organization_id, scope)


@dataclass(frozen=True, slots=True)
class Continuation:
    """A parent, or a conversation, that a new response continues; by default none."""

    history: tuple[Item, ...] = ()
    depth: int = 1  # of the chain of responses that ends with the new one
    preferred_deployment: str = ""  # that answered last


@dataclass(frozen=True, slots=True)
class ResponseTurn:
    """`left_out`: the places, in the history and the input, of the items that the model is not sent."""

    request: ResponsesRequest
    owner: Owner
    continuation: Continuation
    seal: Seal
    created_s: float
    retention_s: float
    is_background: bool = False
    lease: ConversationLease | None = None  # on the conversation that the response continues
    left_out: frozenset[int] = frozenset()

    @property
    def response_id(self) -> str:
        return self.request.ids.response_id

    @property
    def all_items(self) -> tuple[Item, ...]:
        """The history, then the request's input."""
        return (*self.continuation.history, *self.request.input)

    @property
    def sent_items(self) -> tuple[Item, ...]:
        if not self.left_out:
            return self.all_items
        return tuple(item for place, item in enumerate(self.all_items) if place not in self.left_out)

    @property
    def sent_history_size(self) -> int:
        size = len(self.continuation.history)
        return size - sum(place < size for place in self.left_out)

    def dialect(self, now: Callable[[], float]) -> ResponsesDialect:
        items = self.sent_items
        return ResponsesDialect(
            request=self.request,
            items=items,
            history_size=self.sent_history_size,
            known_items=self.all_items,
            input_estimate=estimate_content(items, self.request.instructions) + self.request.settings_estimate,
            seal=self.seal,
            created_s=self.created_s,
            now=now,
        )

    def shorten(self) -> "ResponseTurn | None":
        """The turn without the older half of what the model is sent; None where nothing can be left out. All of it is
        stored."""
        staying = halve_history(self.sent_items)  # places among the sent items
        if staying is None:
            return None
        sent_places = [place for place in range(len(self.all_items)) if place not in self.left_out]
        left_out = set(range(len(self.all_items))) - {sent_places[place] for place in staying}
        return replace(self, left_out=frozenset(left_out))
