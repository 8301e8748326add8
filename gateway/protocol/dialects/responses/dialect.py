"""One create of /v1/responses in its dialect: what an upstream is sent, and the answer of one attempt.

The gateway owns the state: an upstream gets the whole history each time, so that any deployment can continue any
response. The pipeline makes one dialect for each target; nothing here changes once it is made, and no I/O is done.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

from gateway.protocol.answer import AnswerCost
from gateway.protocol.attempt_context import AttemptContext
from gateway.protocol.call import Call, Operation
from gateway.protocol.dialects.responses.client_answer import ResponsesAnswer
from gateway.protocol.dialects.responses.client_request import (
    ResponsesRequest,
    build_settings,
    refuse_native_only,
    wants_reasoning_summary,
)
from gateway.protocol.dialects.responses.conversation import build_messages, collect_call_ids
from gateway.protocol.dialects.responses.hosted_tools import hosted_names, may_drop_hosted
from gateway.protocol.dialects.responses.items import missing_parameter
from gateway.protocol.dialects.responses.namespaces import Namespaces
from gateway.protocol.dialects.responses.seal import Seal
from gateway.protocol.dialects.responses.stored import Item
from gateway.protocol.dialects.responses.stream import ResponseStream
from gateway.protocol.dialects.responses.stream_cost import add_cost
from gateway.protocol.dialects.responses.upstream import WIRE, NativeAnswer, upstream_body, upstream_items
from gateway.protocol.items import ChatRequest
from gateway.protocol.json.types import JsonObject
from gateway.protocol.provider import Target

#: The members of a response that an upstream cannot know, and the tools, whose secrets it might repeat.
OURS = (
    *("previous_response_id", "conversation", "store", "background", "metadata", "user", "safety_identifier"),
    "tools",
)
#: The error codes of a failed response, by the status of the fault; the list of codes is the API's.
FAILURE_CODES = {429: "rate_limit_exceeded", 400: "invalid_prompt"}


class AnswerInProgress(Protocol):
    """The answer of one attempt, whether the gateway makes its events or an upstream of this dialect does."""

    @property
    def response(self) -> JsonObject: ...

    @property
    def is_open(self) -> bool:
        """The client may have seen a part of it."""

    def failure(self, code: str, message: str) -> bytes: ...

    def cancellation(self) -> bytes: ...


@dataclass(frozen=True)
class ResponsesDialect:
    """CallDialect of one create on its way to one target. Its answer is made once, when it is first needed."""

    request: ResponsesRequest
    items: tuple[Item, ...]  # that the upstream is sent: the history, then the request's input
    history_size: int  # how many of `items` are history
    known_items: tuple[Item, ...]  # with those that are not sent; an answer repeats none of their call ids
    input_estimate: int  # tokens
    seal: Seal
    created_s: float
    now: Callable[[], float]
    target: Target | None = None  # None: not chosen yet

    name = "responses"
    wire = WIRE

    def call(self) -> Call:
        request = self.request
        return Call(
            operation=Operation.CHAT,
            dialect=self,
            model=request.model,
            stream=request.stream,
            include_usage=True,
            body=request.body,
            raw=request.raw,
            input_estimate=self.input_estimate,
            end_user=request.end_user,
            tags=request.tags,
            metadata=request.spend_metadata,
            application=request.application,
        )

    def for_target(self, target: Target) -> "ResponsesDialect":
        return replace(self, target=target)

    # The CallDialect

    def chat_request(self, call: Call) -> ChatRequest:
        limit = call.body.get("max_output_tokens")  # a budget may have lowered it
        return self._chat_request if limit is None else replace(self._chat_request, max_tokens=limit)

    def unsupported_fields(self, call: Call) -> tuple[str, ...]:
        return () if self.is_native else (*self.request.ignored_fields, *self._dropped_tools)

    def answer(self, call: Call, context: AttemptContext) -> ResponsesAnswer:
        return self.translated_answer

    def transcripts(self, call: Call) -> None:
        """A response that broke off is stored as it is; its client continues it by its id."""

    def with_cost(self, call: Call, ending: bytes, cost: AnswerCost) -> bytes:
        return add_cost(ending, cost.usd)

    # The answer

    @property
    def is_native(self) -> bool:
        """The target's upstream speaks this dialect, and gets the request as it is."""
        return self.target is not None and self.target.provider.has_responses(self.target)

    @property
    def attempt_answer(self) -> AnswerInProgress:
        return self.native_answer if self.is_native else self.translated_answer

    @cached_property
    def translated_answer(self) -> ResponsesAnswer:
        stream = ResponseStream(
            {**self._head, **self.request.echo},
            self.request.ids,
            origin=self._origin,
            seal=self.seal,
            input_estimate=self.input_estimate,
            reasoning_as_summary=wants_reasoning_summary(self.request),
            used_call_ids=collect_call_ids(self.known_items),
            namespaces=self._namespaces.tools_by_name,
        )
        return ResponsesAnswer(stream, self.now, include=self.request.include)

    @cached_property
    def native_answer(self) -> NativeAnswer:
        ours = {name: self.request.echo[name] for name in OURS if name in self.request.echo}
        return NativeAnswer(
            {**self._head, **self.request.echo},
            {**self._head, **ours},
            self.request.ids,
            origin=self._native_origin,
            seal=self.seal,
            now=self.now,
            include=self.request.include,
            input_estimate=self.input_estimate,
        )

    def native_body(self, call: Call, target: Target) -> bytes:
        """The request for an upstream of this dialect."""
        return upstream_body(call, target, upstream_items(self.items, origin=self._native_origin, seal=self.seal))

    @cached_property
    def _chat_request(self) -> ChatRequest:
        return self._translate(drops_hosted=self._drops_hosted)

    def check_translation(self, *, drops_hosted: bool) -> None:
        """Raises ClientFault for a request that no upstream of another format takes."""
        self._translate(drops_hosted=drops_hosted)

    def _translate(self, *, drops_hosted: bool) -> ChatRequest:
        refuse_native_only(self.request, drops_hosted=drops_hosted)
        messages = build_messages(
            self.items,
            instructions=self.request.instructions,
            origin=self._origin,
            seal=self.seal,
            history=self.history_size,
            namespaces=self._namespaces,
            shows_images=self.target is None or self.target.capabilities.vision,
        )
        if not messages:
            raise missing_parameter("input")
        return replace(build_settings(self.request, self._namespaces), messages=messages)

    @property
    def _drops_hosted(self) -> bool:
        return self.target is not None and may_drop_hosted(self.target)

    @cached_property
    def _dropped_tools(self) -> tuple[str, ...]:
        return hosted_names(self.request.body.get("tools") or ()) if self._drops_hosted else ()

    @cached_property
    def _namespaces(self) -> Namespaces:
        return Namespaces(self.request.body.get("tools") or ())

    @property
    def _head(self) -> JsonObject:
        return {
            "id": self.request.ids.response_id,
            "object": "response",
            "created_at": int(self.created_s),
            "model": self.request.model,
        }

    @property
    def _native_origin(self) -> str:
        """Only the account of a deployment can read what its upstream encrypts."""
        return self.target.deployment_id if self.target is not None else ""

    @property
    def _origin(self) -> str:
        return self.target.provider.name if self.target is not None else ""


def native_dialect(call: Call, target: Target) -> ResponsesDialect | None:
    """The dialect of a call that the target's upstream speaks too; None where the call has to be translated."""
    dialect = call.dialect
    return dialect if isinstance(dialect, ResponsesDialect) and target.provider.has_responses(target) else None


def failure_code(status: int) -> str:
    return FAILURE_CODES.get(status, "server_error")
