"""A server of OpenAI's dialect whose answers need few fixes: a client's bytes pass through.

Any other call (another dialect's client, tool calls or thoughts that stand in the text, more stop sequences than the
server takes) is translated by way of a ChatRequest and events, as for the servers that always need it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from gateway.protocol.answer import AnswerMetadata, StreamRelay
from gateway.protocol.attempt_context import AttemptContext
from gateway.protocol.call import Call, Operation
from gateway.protocol.dialects.openai.model_list import OpenAIModels
from gateway.protocol.dialects.openai.passthrough import EventRelay, relay_whole_body
from gateway.protocol.dialects.openai.passthrough_edits import Edits, edits_of
from gateway.protocol.dialects.openai.upstream_answer import OpenAITranslated, failure_of
from gateway.protocol.dialects.openai.upstream_choice import CallParser, ThinkReader
from gateway.protocol.dialects.openai.upstream_request import PLAIN, Traits, split_stop
from gateway.protocol.dialects.openai.wire import ANSWERS, PATHS, WIRE
from gateway.protocol.errors import UpstreamFault
from gateway.protocol.json.body import add_members, edit_members, replace_member
from gateway.protocol.provider import PlainProvider, Target, UpstreamRequest


@dataclass(frozen=True, slots=True)
class OpenAIPassthrough(OpenAIModels, PlainProvider):
    name: str
    title: str
    aliases: tuple[str, ...] = ()
    default_api_base: str = ""
    needs_api_base: bool = True
    needs_api_key: bool = False
    operations: frozenset[Operation] = field(default=frozenset(Operation))
    own_parameters: frozenset[str] = frozenset()
    own_secrets: frozenset[str] = frozenset()
    replays_reasoning: bool = False
    traits: Traits = PLAIN
    parsers: Mapping[str, CallParser] = field(default_factory=dict)
    think: Callable[..., ThinkReader] | None = None

    def request(self, call: Call, target: Target, context: AttemptContext) -> UpstreamRequest:
        if not can_pass(call, target, self.traits):
            return self.translated().request(call, target, context)
        headers = {"content-type": "application/json", "accept-encoding": "identity", **target.headers}
        headers |= self.credential_headers(target, context)
        edits = edits_of(call, target, self.traits)
        return UpstreamRequest(
            url=target.api_base + PATHS[call.operation],
            headers=headers,
            body=self._body(call, target, edits),
            dropped=edits.dropped,
        )

    def _body(self, call: Call, target: Target, edits: Edits) -> bytes:
        """The client's bytes with the upstream's model in them. They are encoded anew only where more has to change."""
        body, changes, extra = call.body, edits.changes, edits.extra
        if (
            call.stream
            and self.traits.asks_usage
            and not call.include_usage
            and "stream_options" not in target.unsupported_parameters
        ):
            if "stream_options" in body:
                changes["stream_options"] = {**(body["stream_options"] or {}), "include_usage": True}
            else:
                extra["stream_options"] = {"include_usage": True}
        if changes:
            raw = edit_members(call.raw, {**changes, "model": target.upstream_model})
        elif target.upstream_model != call.model:
            raw = replace_member(call.raw, "model", target.upstream_model, body)
        else:
            raw = call.raw
        return add_members(raw, extra)

    def relay(self, call: Call, target: Target, context: AttemptContext) -> StreamRelay:
        if can_pass(call, target, self.traits):
            return EventRelay(call)
        return self.translated().relay(call, target, context)

    def relay_body(
        self, call: Call, target: Target, context: AttemptContext, body: bytes, headers: Mapping[str, str]
    ) -> tuple[bytes, AnswerMetadata]:
        if can_pass(call, target, self.traits):
            return relay_whole_body(call, body, ANSWERS[call.operation])
        return self.translated().relay_body(call, target, context, body, headers)

    def failure(self, target: Target, status: int, headers: Mapping[str, str], body: bytes) -> UpstreamFault:
        return failure_of(target, status, headers, body)

    def wire(self, target: Target) -> str:
        return WIRE

    def token(self, target: Target) -> str:
        return ""

    def has_responses(self, target: Target) -> bool:
        flag = target.capabilities.responses
        return self.traits.is_openai and target.api_base == self.default_api_base if flag is None else flag

    def translated(self) -> OpenAITranslated:
        """The same server with translation."""
        return OpenAITranslated(
            name=self.name,
            title=self.title,
            traits=self.traits,
            operations=self.operations,
            parsers=self.parsers,
            think=self.think,
        )


def can_pass(call: Call, target: Target, traits: Traits = PLAIN) -> bool:
    is_text_read = bool(target.capabilities.tool_call_parser or target.capabilities.think_tags)
    if call.dialect.wire != WIRE or is_text_read:
        return False
    return call.operation is not Operation.CHAT or not split_stop(call.body, traits, target.unsupported_parameters)[1]
