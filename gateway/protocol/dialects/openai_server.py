"""A server of OpenAI's dialect whose answers need no mending: a client's bytes pass through.

Whatever else is asked of it (another dialect's client, tool calls or thoughts that stand in the text) goes by way of
a conversation and events, as for the servers that need it always.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from gateway.protocol.call import Call
from gateway.protocol.dialect import Facts, StreamRelay
from gateway.protocol.dialects.openai import OpenAIUpstream
from gateway.protocol.dialects.openai_normal import CallParser, NormalUpstream, ThinkReader
from gateway.protocol.dialects.openai_normal_request import PLAIN, Traits
from gateway.protocol.moment import Moment
from gateway.protocol.provider import Target, UpstreamRequest


@dataclass(frozen=True, slots=True)
class OpenAIServer(OpenAIUpstream):
    traits: Traits = PLAIN
    parsers: Mapping[str, CallParser] = field(default_factory=dict)
    think: Callable[..., ThinkReader] | None = None

    def request(self, call: Call, target: Target, moment: Moment) -> UpstreamRequest:
        if passes(call, target):
            return OpenAIUpstream.request(self, call, target, moment)
        return self.mended().request(call, target, moment)

    def relay(self, call: Call, target: Target, moment: Moment) -> StreamRelay:
        if passes(call, target):
            return OpenAIUpstream.relay(self, call, target, moment)
        return self.mended().relay(call, target, moment)

    def relay_body(
        self, call: Call, target: Target, moment: Moment, body: bytes, headers: Mapping[str, str]
    ) -> tuple[bytes, Facts]:
        if passes(call, target):
            return OpenAIUpstream.relay_body(self, call, target, moment, body, headers)
        return self.mended().relay_body(call, target, moment, body, headers)

    def has_responses(self, target: Target) -> bool:
        said = target.capabilities.responses
        return self.traits.is_openai and target.api_base == self.default_api_base if said is None else said

    def mended(self) -> NormalUpstream:
        """The same server, its answers read as events."""
        return NormalUpstream(
            name=self.name,
            title=self.title,
            traits=self.traits,
            operations=self.operations,
            parsers=self.parsers,
            think=self.think,
        )


def passes(call: Call, target: Target) -> bool:
    is_text_read = bool(target.capabilities.tool_call_parser or target.capabilities.think_tags)
    return call.dialect.wire == "openai" and not is_text_read
