"""Answers in Anthropic's Messages format → events.

Source: https://platform.claude.com/docs/en/api/messages and the types of the `anthropic` package 2.10.0; each field's
decision is in docs/dialects/anthropic.md.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field

from gateway.protocol.dialects.anthropic.wire import (
    broken,
    classify_error,
    last_events,
    member,
    merge_usage,
    read_event,
    read_message,
    read_usage,
    text_of,
)
from gateway.protocol.dialects.shared.translate import PendingText, StreamReader, incomplete
from gateway.protocol.errors import UpstreamFault
from gateway.protocol.events import (
    AnnotationAdded,
    Event,
    Finished,
    ReasoningDelta,
    RefusalDelta,
    Started,
    TextDelta,
    ToolArgumentsDelta,
    ToolCallStarted,
    UsageReported,
)
from gateway.protocol.freeform import unwrap_text
from gateway.protocol.json.types import Json, JsonObject
from gateway.protocol.sse import EventSplitter, event_data

# Answer → events

MAX_BLOCKS = 16_384
FINISHES = {
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
}


@dataclass(slots=True)
class _Block:
    """A content block of the answer, as far as it has arrived."""

    kind: str  # text | thinking | redacted | tool | custom | json | other
    call: int = 0  # the number of its tool call
    input: Json = None  # as the block's start has it
    pieces: PendingText = field(default_factory=PendingText)  # of the input
    begin: int = 0  # characters of the answer's text before it
    signature: PendingText = field(default_factory=PendingText)  # or the redacted thinking
    citations: list[Json] = field(default_factory=list)
    has_input: bool = False


class StreamDecoder(StreamReader):
    """Decoder of a streamed answer. `decode_body` reads a whole answer through the same blocks."""

    __slots__ = ("_blocks", "_calls", "_custom_tools", "_json_tool", "_reason", "_size", "_splitter", "_usage")

    def __init__(self, *, json_tool: str = "", custom_tools: frozenset[str] = frozenset()) -> None:
        super().__init__()
        self._splitter = EventSplitter()
        self._json_tool = json_tool
        self._custom_tools = custom_tools
        self._blocks: dict[int, _Block] = {}
        self._calls = 0
        self._reason = ""
        self._size = 0  # characters of text
        self._usage: JsonObject = {}

    def feed(self, piece: bytes) -> list[Event]:
        return self._events(self._splitter.feed(piece))

    def finish(self) -> list[Event]:
        events = self._events(last_events(self._splitter))
        self._raise_fault()
        if not self.is_done and not self._reason:
            raise incomplete()
        self.is_done = True
        return events

    def _events(self, received: Iterable[bytes]) -> list[Event]:
        events: list[Event] = []
        try:
            for event in received:
                self._read(event, events)
        except UpstreamFault as fault:
            self._defer_fault(fault, events)
        return events

    def _read(self, raw: bytes, events: list[Event]) -> None:
        data = event_data(raw)
        if not data or self.is_done or data == b"[DONE]":
            return
        event = read_event(data)
        kind = event.get("type")
        if kind == "content_block_delta":
            self._delta(event.get("index"), member(event, "delta"), events)
        elif kind == "content_block_start":
            self._start(event.get("index"), member(event, "content_block"), events)
        elif kind == "content_block_stop":
            self._stop(event.get("index"), events)
        elif kind == "message_start":
            message = member(event, "message")
            self._begin(message, events, _read_early_usage(message))
        elif kind == "message_delta":
            self._end(member(event, "delta"), event.get("usage"), events)
        elif kind == "message_stop":
            if not self._reason:
                raise incomplete()
            self.is_done = True
        elif kind == "error":
            raise classify_error(event, 500)

    def decode_message(self, message: JsonObject) -> list[Event]:
        """The events of a whole message."""
        events: list[Event] = []
        self._begin(message, events)
        content = message.get("content")
        if type(content) is not list:
            raise UpstreamFault("The upstream's answer holds no content.")
        for index, block in enumerate(content):
            if type(block) is not dict:
                raise broken("a content block that is no object")
            self._start(index, block, events)
            self._stop(index, events)
        self._end({"stop_reason": "end_turn", **message}, None, events)
        return events

    def _begin(self, message: JsonObject, events: list[Event], usage: UsageReported | None = None) -> None:
        if type(message.get("usage")) is dict:
            self._usage = message["usage"]
        events.append(Started(text_of(message, "id"), text_of(message, "model"), usage))

    def _start(self, index: Json, content: JsonObject, events: list[Event]) -> None:
        if type(index) is not int or index in self._blocks:
            raise broken("a content block out of order")
        kind = content.get("type")
        if len(self._blocks) >= MAX_BLOCKS:
            raise broken("too many content blocks")
        block = self._blocks[index] = _Block("other", begin=self._size)
        if kind == "text":
            block.kind = "text"
            self._add_text(text_of(content, "text"), events)
            block.citations += content.get("citations") or ()
        elif kind == "thinking":
            block.kind = "thinking"
            block.signature.add(text_of(content, "signature"))
            if text_of(content, "thinking"):
                events.append(ReasoningDelta(content["thinking"]))
        elif kind == "redacted_thinking":
            block.kind = "redacted"
            block.signature.add(text_of(content, "data"))
        elif kind == "tool_use":
            block.input = content.get("input")
            name = text_of(content, "name")
            if name == self._json_tool and name:
                block.kind = "json"
                return
            block.kind = "custom" if name in self._custom_tools else "tool"
            block.call = self._calls
            self._calls += 1
            call_kind = "custom" if block.kind == "custom" else "function"
            events.append(ToolCallStarted(block.call, text_of(content, "id"), name, kind=call_kind))

    def _delta(self, index: Json, delta: JsonObject, events: list[Event]) -> None:
        kind = delta.get("type")
        if kind == "text_delta":
            self._add_text(text_of(delta, "text"), events)
            return
        block = self._blocks.get(index) if type(index) is int else None
        if block is None:
            raise broken("a piece of no content block")
        if kind == "input_json_delta":
            piece = text_of(delta, "partial_json")
            if not piece:
                return
            block.has_input = True
            if block.kind == "tool":
                events.append(ToolArgumentsDelta(block.call, piece))
            elif block.kind == "json":
                self._add_text(piece, events)
            elif block.kind == "custom":
                block.pieces.add(piece)
        elif kind == "thinking_delta":
            if text_of(delta, "thinking"):
                events.append(ReasoningDelta(delta["thinking"]))
        elif kind == "signature_delta":
            block.signature.add(text_of(delta, "signature"))
        elif kind == "citations_delta":
            block.citations.append(delta.get("citation"))

    def _add_text(self, text: str, events: list[Event]) -> None:
        if text:
            self._size += len(text)
            events.append(TextDelta(text))

    def _stop(self, index: Json, events: list[Event]) -> None:
        block = self._blocks.get(index) if type(index) is int else None
        if block is None or block.kind in {"other", "ended"}:
            return
        if block.kind == "text":
            self._annotate(block, events)
        elif block.kind == "thinking":
            if block.signature:
                events.append(ReasoningDelta(signature=str(block.signature)))
        elif block.kind == "redacted":
            events.append(ReasoningDelta(redacted=str(block.signature)))
        elif block.kind == "custom":
            text = str(block.pieces) or block.input or "{}"
            text = text if isinstance(text, str) else json.dumps(text, ensure_ascii=False)
            events.append(ToolArgumentsDelta(block.call, unwrap_text(text)))
        elif not block.has_input:
            tool_input = block.input if isinstance(block.input, dict) else {}
            text = json.dumps(tool_input, ensure_ascii=False, separators=(",", ":"))
            if block.kind == "json":
                self._add_text(text, events)
            else:
                events.append(ToolArgumentsDelta(block.call, text))
        block.kind = "ended"

    def _annotate(self, block: _Block, events: list[Event]) -> None:
        """Adds the block's web citations as annotations of its text."""
        for citation in block.citations:
            if not isinstance(citation, dict) or not isinstance(citation.get("url"), str):
                continue
            place = {"start_index": block.begin, "end_index": self._size}
            source = {"url": citation["url"], "title": citation.get("title") or ""}
            events.append(AnnotationAdded({"type": "url_citation", "url_citation": source | place}))

    def _end(self, delta: JsonObject, usage: Json, events: list[Event]) -> None:
        if type(usage) is dict:
            self._usage = merge_usage(self._usage, usage)
        reason = text_of(delta, "stop_reason")
        if reason and not self._reason:
            for index in self._blocks:
                self._stop(index, events)
            self._reason = reason
            details = delta.get("stop_details")
            if reason == "refusal" and isinstance(details, dict) and isinstance(details.get("explanation"), str):
                events.append(RefusalDelta(details["explanation"]))
            finish = FINISHES.get(reason, "stop")
            if finish in {"stop", "tool_calls"}:
                finish = "tool_calls" if self._calls else "stop"
            events.append(Finished(finish))
        counts = read_usage(self._usage) if self._reason else None
        if counts is not None:
            events.append(UsageReported(counts, self._usage, text_of(self._usage, "service_tier")))


def _read_early_usage(message: JsonObject) -> UsageReported | None:
    """The usage of message_start: the input counts are final, the output is still to come."""
    raw = message.get("usage")
    if type(raw) is not dict:
        return None
    counts = read_usage(raw)
    return UsageReported(counts, raw, text_of(raw, "service_tier")) if counts is not None else None


def decode_body(body: bytes, *, json_tool: str = "", custom_tools: frozenset[str] = frozenset()) -> list[Event]:
    """A whole answer. Raises UpstreamFault for an unusable one."""
    return StreamDecoder(json_tool=json_tool, custom_tools=custom_tools).decode_message(read_message(body))
