"""LightLLM, with and without `--tool_call_parser`, old builds and new ones.

Source: https://github.com/ModelTC/LightLLM (lightllm/server/api_openai.py, api_models.py, function_call_parser.py).
Its errors are `{"message": …}`, or OpenAI's in builds of August 2026 and later;
an error that it does not catch is a 500 in plain text.
"""

from collections.abc import Iterable

import orjson

from gateway.parsers.registry import PARSERS
from gateway.parsers.think import ThinkSplitter
from gateway.protocol.answer import AnswerMetadata, StreamRelay
from gateway.protocol.attempt_context import AttemptContext
from gateway.protocol.call import Call, Operation
from gateway.protocol.dialects.openai.passthrough import DONE
from gateway.protocol.dialects.openai.upstream_answer import OpenAITranslated
from gateway.protocol.dialects.openai.upstream_request import Traits
from gateway.protocol.provider import Target
from gateway.protocol.sse import EventSplitter, event_data


class LateUsageRelay:
    """A completion's relay that puts [DONE] last: builds of 2025 send the usage, and nothing else, after it."""

    __slots__ = ("_is_over", "_relay", "_splitter")
    takes_json = False

    def __init__(self, relay: StreamRelay) -> None:
        self._relay = relay
        self._splitter = EventSplitter()
        self._is_over = False

    @property
    def metadata(self) -> AnswerMetadata:
        return self._relay.metadata

    @property
    def is_done(self) -> bool:
        return self._relay.is_done or (self._is_over and self.metadata.usage is not None)

    def feed(self, piece: bytes) -> bytes:
        return self._relayed(self._splitter.feed(piece))

    def finish(self) -> bytes:
        rest = self._relayed(self._splitter.finish())
        if self._is_over:
            self._relay.feed(DONE)
        return rest + self._relay.finish()

    def _relayed(self, events: Iterable[bytes]) -> bytes:
        relayed = bytearray()
        for event in events:
            if event_data(event) == b"[DONE]":
                self._is_over = True
            elif not self._is_over or _is_usage(event):
                relayed += self._relay.feed(event + b"\n\n")
        return bytes(relayed)


def _is_usage(event: bytes) -> bool:
    try:
        chunk = orjson.loads(event_data(event) or b"null")
    except orjson.JSONDecodeError:
        return False
    return isinstance(chunk, dict) and chunk.get("choices") == [] and isinstance(chunk.get("usage"), dict)


class LightLLM(OpenAITranslated):
    __slots__ = ()

    def relay(self, call: Call, target: Target, context: AttemptContext) -> StreamRelay:
        relay = OpenAITranslated.relay(self, call, target, context)
        return LateUsageRelay(relay) if call.operation is Operation.COMPLETION else relay


PROVIDER = LightLLM(
    name="lightllm",
    title="LightLLM",
    default_api_base="http://127.0.0.1:8088/v1",
    operations=frozenset({Operation.CHAT, Operation.COMPLETION}),
    traits=Traits(
        joins_text=True,
        switches_thinking=True,
        forces_tools=False,
        streams_many=False,
        has_positional_ids=True,
    ),
    parsers=PARSERS,
    think=ThinkSplitter,
)
