"""Session: one create of /v1/responses. It is the call's Dialect, and it knows what is kept of the answer.

The gateway owns the state: an upstream gets the whole history each time, so that any deployment can continue any
conversation.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from gateway.pipeline.ports import Attempt, Principal
from gateway.pipeline.responses.conversations import ConversationLease
from gateway.protocol import items
from gateway.protocol.attempt_context import AttemptContext
from gateway.protocol.call import Call, Finish, Operation
from gateway.protocol.dialects.openai import wire as openai_wire
from gateway.protocol.dialects.openai.passthrough import DONE
from gateway.protocol.dialects.responses.client_answer import ResponsesAnswer
from gateway.protocol.dialects.responses.client_request import (
    ResponsesRequest,
    build_settings,
    refuse_native_only,
    wants_reasoning_summary,
)
from gateway.protocol.dialects.responses.conversation import build_messages, collect_call_ids, estimate_item_tokens
from gateway.protocol.dialects.responses.event_log import read_events
from gateway.protocol.dialects.responses.items import missing_parameter
from gateway.protocol.dialects.responses.namespaces import Namespaces
from gateway.protocol.dialects.responses.seal import Seal
from gateway.protocol.dialects.responses.stored import Item, Owner, StoredResponse
from gateway.protocol.dialects.responses.stream import ResponseStream, encode_frame
from gateway.protocol.dialects.responses.truncation import halve_history
from gateway.protocol.dialects.responses.upstream import NativeAnswer, upstream_items
from gateway.protocol.errors import Fault
from gateway.protocol.provider import Target

#: What of a response an upstream cannot know, and the tools, whose secrets it might repeat.
OURS = (
    *("previous_response_id", "conversation", "store", "background", "metadata", "user", "safety_identifier"),
    "tools",
)
#: What of a fault a failed response tells; the list of codes is the API's.
FAILURES = {429: "rate_limit_exceeded", 400: "invalid_prompt"}


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
class Place:
    """Where a new response stands: after its parent, or in a conversation."""

    history: tuple[Item, ...] = ()
    depth: int = 1
    preferred_deployment: str = ""


class Answering(Protocol):
    """An answer on its way, whoever makes its events: the gateway, or an upstream of this dialect."""

    @property
    def response(self) -> dict[str, Any]: ...

    @property
    def is_open(self) -> bool: ...

    def failure(self, code: str, message: str) -> bytes: ...

    def cancellation(self) -> bytes: ...


@dataclass(slots=True)
class Session:
    request: ResponsesRequest
    owner: Owner
    place: Place
    response_id: str
    new_id: Callable[[str], str]
    now: Callable[[], float]
    seal: Seal
    created_s: float
    retention_s: float
    is_background: bool = False
    hold: ConversationLease | None = None  # on the conversation in which it is made
    on_made: Callable[[StoredResponse], None] | None = None  # hears of the response before the client, stored or not
    history: tuple[Item, ...] = ()  # what of the place's history is still sent
    given: tuple[Item, ...] = ()  # and of the request's input
    # As a Dialect
    name: str = "responses"
    wire: str = "responses"
    operation: Operation = Operation.CHAT
    _target: Target | None = None
    _is_passed: bool = False  # the request was passed to an upstream of this dialect
    _conversation: items.ChatRequest | None = None
    _namespaces: Namespaces = field(init=False)
    _answer: Answering | None = None
    _ending: bytes = field(default=b"", repr=False)
    _unsent: bytes = field(default=b"", repr=False)  # the end of a complete stream, which waits until it is stored

    def __post_init__(self) -> None:
        self.history, self.given = self.place.history, self.request.input
        self._namespaces = Namespaces(self.request.body.get("tools") or ())

    def call(self) -> Call:
        request = self.request
        return Call(
            operation=self.operation,
            dialect=self,
            model=request.model,
            stream=request.stream,
            include_usage=True,
            body=request.body,
            raw=request.raw,
            input_estimate=estimate_item_tokens([*self.history, *self.given], request.instructions),
            end_user=request.end_user,
            tags=request.tags,
            metadata=request.spend_metadata,
            bind_target=self.bind_target,
        )

    # The Dialect

    def bind_target(self, target: Target) -> None:
        """The next attempt goes to this target."""
        self._target, self._conversation, self._is_passed = target, None, False

    def chat_request(self, call: Call) -> items.ChatRequest:
        if self._conversation is None:
            refuse_native_only(self.request)
            messages = build_messages(
                [*self.history, *self.given],
                instructions=self.request.instructions,
                origin=self._origin,
                seal=self.seal,
                history=len(self.history),
                namespaces=self._namespaces,
                shows_images=self._target is None or self._target.capabilities.vision,
            )
            if not messages:
                raise missing_parameter("input")
            self._conversation = replace(build_settings(self.request, self._namespaces), messages=messages)
        return self._conversation

    def unsupported_fields(self, call: Call) -> tuple[str, ...]:
        return () if self._is_passed else self.request.ignored_fields

    def answer(self, call: Call, context: AttemptContext) -> ResponsesAnswer:
        return self._new_answer(call.input_estimate)

    def _new_answer(self, input_estimate: int = 0) -> ResponsesAnswer:
        stream = ResponseStream(
            {**self._head(), **self.request.echo},
            self.new_id,
            origin=self._origin,
            seal=self.seal,
            input_estimate=input_estimate,
            reasoning_as_summary=wants_reasoning_summary(self.request),
            used_call_ids=collect_call_ids([*self.place.history, *self.request.input]),
            namespaces=self._namespaces.tools_by_name,
        )
        answer = self._answer = ResponsesAnswer(stream, self.now, include=self.request.include)
        return answer

    def _head(self) -> dict[str, Any]:
        created_s = int(self.created_s)
        return {
            "id": self.response_id,
            "object": "response",
            "created_at": created_s,
            "model": self.request.model,
        }

    def native_items(self) -> list[dict[str, Any]]:
        """What an upstream of this dialect is sent as its input."""
        self._is_passed = True
        return upstream_items([*self.history, *self.given], origin=self._native_origin, seal=self.seal)

    def native_answer(self, input_estimate: int) -> NativeAnswer:
        ours = {name: self.request.echo[name] for name in OURS if name in self.request.echo}
        answer = self._answer = NativeAnswer(
            {**self._head(), **self.request.echo},
            {**self._head(), **ours},
            self.new_id,
            origin=self._native_origin,
            seal=self.seal,
            now=self.now,
            include=self.request.include,
            input_estimate=input_estimate,
        )
        return answer

    def error_body(self, fault: Fault) -> bytes:
        return openai_wire.error_body(fault)

    def error_event(self, fault: Fault) -> bytes:
        """The end of a stream that has begun: its terminal event."""
        if not self._ending:
            code = failure_code(fault.status)
            if self._unsent:
                self._ending = failed_instead(self._unsent, code, fault.message)
            else:
                self._ending = (self._answer or self._new_answer()).failure(code, fault.message)
        return self._ending

    def opening(self) -> list[dict[str, Any]]:
        """The first events of a background response: created and queued, before anybody works on it; in_progress."""
        return self._new_answer().stream.open(is_queued=True)

    def ending(self, attempt: Attempt) -> bytes:
        """The frames that end the stream of an attempt that was kept."""
        return attempt.ending or self._ending

    @property
    def _native_origin(self) -> str:
        """What an upstream encrypts, only the account of its deployment can read."""
        return self._target.deployment_id if self._target is not None else ""

    @property
    def _origin(self) -> str:
        return self._target.provider.name if self._target is not None else ""

    # What is kept

    @property
    def is_begun(self) -> bool:
        """Whether the client may have seen a part of the answer."""
        return self._answer is not None and self._answer.is_open

    def kept(self, attempt: Attempt) -> StoredResponse | None:
        """The response that this attempt made; None where nothing of it reached the client. An answer that broke off is
        ended here, as it will be told."""
        answer = self._answer
        is_told = attempt.finish is Finish.COMPLETE or attempt.first_token_at is not None
        if answer is None or not is_told:
            return None
        self._unsent = attempt.ending
        if attempt.finish is Finish.CLIENT_GONE:
            self._ending = answer.cancellation()
        elif attempt.finish is not Finish.COMPLETE:
            self._ending = answer.failure(failure_code(attempt.status_code), "The upstream failed.")
        return self.stored(answer.response, attempt)

    def stored(self, response: dict[str, Any], attempt: Attempt | None = None) -> StoredResponse:
        target = attempt.target if attempt is not None else None
        return StoredResponse(
            id=self.response_id,
            owner=self.owner,
            parent_id=self.request.previous_response_id,
            conversation_id=self.request.conversation_id,
            depth=self.place.depth,
            model_group=self.request.model,
            deployment_id=target.deployment_id if target is not None else "",
            provider=target.provider.name if target is not None else "",
            is_background=self.is_background,
            is_streamed=self.request.stream,
            created_s=self.created_s,
            completed_s=response.get("completed_at"),
            expires_s=self.created_s + self.retention_s,
            input=self.request.input,
            response=response,
            spend_id=attempt.id if attempt is not None else "",
        )

    def shorten(self) -> bool:
        """Leaves the older half out of what is sent; False where nothing is left to leave out. All of it is kept."""
        places = halve_history([*self.history, *self.given])
        if places is None:
            return False
        before = len(self.history)
        self.given = tuple(self.given[place - before] for place in places if place >= before)
        self.history = tuple(self.history[place] for place in places if place < before)
        return True


def failed_instead(frames: bytes, code: str, message: str) -> bytes:
    """The end of a stream whose response could not be kept."""
    *events, last = read_events(frames)
    response = {
        **last["response"],
        "status": "failed",
        "completed_at": None,
        "error": {"code": code, "message": message},
    }
    events.append({**last, "type": "response.failed", "response": response})
    return b"".join(map(encode_frame, events)) + DONE


def failure_code(status: int) -> str:
    return FAILURES.get(status, "server_error")
