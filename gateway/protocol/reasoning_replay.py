"""Reasoning and thought signatures that a client does not send back, remembered by the tool call they belong to.

Some providers refuse a turn whose tool calls come without the reasoning that led to them (Anthropic's signed thinking
blocks, Gemini's thought signatures), and most clients drop fields that they do not know. ReasoningReplay
records both as an answer goes by, and puts them into the next request where they are missing.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Protocol

from gateway.protocol.answer import AnswerCost, AnswerEncoder, Transcript
from gateway.protocol.attempt_context import AttemptContext
from gateway.protocol.call import Call, CallDialect
from gateway.protocol.events import Event, ReasoningDelta, ToolCallStarted
from gateway.protocol.items import Assistant, ChatRequest, Message, Reasoning, ToolCall
from gateway.protocol.json.types import JsonMapping
from gateway.protocol.provider import Target

#: A call whose reasoning is larger is not remembered.
MAX_CALL_BYTES = 320 * 1024
BLOCK_BYTES = 200  # of a block besides its text


@dataclass(frozen=True, slots=True)
class CallReasoning:
    """The signature and the reasoning of one tool call."""

    signature: str = ""
    reasoning: tuple[Reasoning, ...] = ()

    @property
    def size_bytes(self) -> int:
        return len(self.signature) + sum(map(_block_bytes, self.reasoning))


def _block_bytes(block: Reasoning) -> int:
    return BLOCK_BYTES + len(block.text) + len(block.signature) + len(block.redacted)


class Memory(Protocol):
    """{(tenant, tool call): its reasoning}. No tenant gets the reasoning of another one's tool call of the same id."""

    def get(self, tenant: str, tool_call_id: str) -> CallReasoning | None: ...

    def put(self, tenant: str, tool_call_id: str, reasoning: CallReasoning) -> None: ...


class ReasoningReplay:
    """A CallDialect around another one, for one call: it reads the conversation once."""

    def __init__(self, inner: CallDialect, memory: Memory, tenant: str) -> None:
        self.name = inner.name
        self.wire = inner.wire
        self._inner = inner
        self._memory = memory
        self._tenant = tenant
        self._read: tuple[JsonMapping, ChatRequest] | None = None  # (the call's body, its request)

    def unsupported_fields(self, call: Call) -> tuple[str, ...]:
        return self._inner.unsupported_fields(call)

    def chat_request(self, call: Call) -> ChatRequest:
        if self._read is None or self._read[0] is not call.body:
            conversation = self._inner.chat_request(call)
            messages = tuple(self._fill(message) for message in conversation.messages)
            self._read = call.body, replace(conversation, messages=messages)
        return self._read[1]

    def answer(self, call: Call, context: AttemptContext) -> AnswerEncoder:
        return _RecordingEncoder(self._inner.answer(call, context), self._memory, self._tenant)

    def transcripts(self, call: Call) -> Callable[[], Transcript] | None:
        return self._inner.transcripts(call)

    def with_cost(self, call: Call, ending: bytes, cost: AnswerCost) -> bytes:
        return self._inner.with_cost(call, ending, cost)

    def _fill(self, message: Message) -> Message:
        if not isinstance(message, Assistant) or not message.tool_calls:
            return message
        remembered = {call.id: self._memory.get(self._tenant, call.id) for call in message.tool_calls}
        reasoning = message.reasoning
        if not any(block.signature or block.redacted for block in reasoning):  # providers that sign refuse text alone
            reasoning = next((one.reasoning for one in remembered.values() if one and one.reasoning), reasoning)
        tool_calls = tuple(_sign(call, remembered[call.id]) for call in message.tool_calls)
        return replace(message, reasoning=reasoning, tool_calls=tool_calls)


def with_replay(call: Call, target: Target, memory: Memory, tenant: str) -> Call:
    """The call, with the reasoning that the target's provider wants back and its client may not have sent."""
    if not target.provider.replays_reasoning:
        return call
    return replace(call, dialect=ReasoningReplay(call.dialect, memory, tenant))


def _sign(call: ToolCall, remembered: CallReasoning | None) -> ToolCall:
    return call if remembered is None or call.signature else replace(call, signature=remembered.signature)


class _RecordingEncoder:
    """An encoder that records the reasoning and the signatures of its events."""

    def __init__(self, inner: AnswerEncoder, memory: Memory, tenant: str) -> None:
        self._inner = inner
        self._memory = memory
        self._tenant = tenant
        self._text: list[str] = []
        self._blocks: list[Reasoning] = []
        self._size_bytes = 0

    def chunks(self, events: Iterable[Event]) -> bytes:
        return self._inner.chunks(self._record(events))

    def last_chunks(self) -> bytes:
        return self._inner.last_chunks()

    def body(self, events: Iterable[Event]) -> bytes:
        return self._inner.body(self._record(events))

    def _record(self, events: Iterable[Event]) -> list[Event]:
        recorded = list(events)
        for event in recorded:
            if isinstance(event, ReasoningDelta):
                self._note_reasoning(event)
            elif isinstance(event, ToolCallStarted) and (event.signature or self._blocks):
                self._memory.put(self._tenant, event.id, CallReasoning(event.signature, tuple(self._blocks)))
        return recorded

    def _note_reasoning(self, event: ReasoningDelta) -> None:
        closing = event.signature or event.redacted
        self._size_bytes += len(event.text) + (BLOCK_BYTES + len(closing) if closing else 0)
        if self._size_bytes > MAX_CALL_BYTES:
            self._text.clear()
            self._blocks.clear()
            return
        self._text.append(event.text)
        if event.redacted:
            self._blocks.append(Reasoning(redacted=event.redacted))
        elif event.signature:
            self._blocks.append(Reasoning(text="".join(self._text), signature=event.signature))
            self._text.clear()
