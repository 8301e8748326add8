"""Custom tools, whose input is free text, for upstreams that know functions only: an object with one text member.

It goes around the text in the request, and is taken off again before the client sees the call.
"""

from collections.abc import Iterable
from dataclasses import replace

import orjson

from gateway.protocol.answer import AnswerEncoder
from gateway.protocol.attempt_context import AttemptContext
from gateway.protocol.call import Call
from gateway.protocol.events import Event, Finished, ToolArgumentsDelta, ToolCallStarted
from gateway.protocol.items import Assistant, ChatRequest, Message, Tool, ToolCall

MEMBER = "input"
SCHEMA = {"type": "object", "properties": {MEMBER: {"type": "string"}}, "required": [MEMBER]}


def replace_custom_tools(conversation: ChatRequest) -> ChatRequest:
    return replace(
        conversation,
        tools=tuple(map(_function, conversation.tools)),
        messages=tuple(map(_message, conversation.messages)),
    )


def answer_encoder(call: Call, context: AttemptContext, *, is_wrapped: bool = True) -> AnswerEncoder:
    """The encoder of the call's dialect; where its custom tools were told so, around it one that takes the objects
    off."""
    encoder = call.dialect.answer(call, context)
    tools = call.dialect.chat_request(call).tools if is_wrapped else ()
    names = frozenset(tool.name for tool in tools if tool.kind == "custom")
    return CustomToolEncoder(encoder, names) if names else encoder


def _function(tool: Tool) -> Tool:
    return tool if tool.kind != "custom" else replace(tool, kind="function", schema=SCHEMA)


def _message(message: Message) -> Message:
    if not isinstance(message, Assistant) or not any(call.kind == "custom" for call in message.tool_calls):
        return message
    return replace(message, tool_calls=tuple(map(_call, message.tool_calls)))


def _call(call: ToolCall) -> ToolCall:
    if call.kind != "custom":
        return call
    return replace(call, kind="function", arguments=orjson.dumps({MEMBER: call.arguments}).decode())


def unwrap_text(arguments: str) -> str:
    """The text out of its object; what the model wrote where that is no such object."""
    try:
        value = orjson.loads(arguments)
    except orjson.JSONDecodeError:
        return arguments
    inner = value.get(MEMBER) if isinstance(value, dict) else None
    return inner if isinstance(inner, str) else arguments


class CustomToolEncoder:
    """An AnswerEncoder around another one. An object is read when it is whole: its text comes in one piece."""

    def __init__(self, inner: AnswerEncoder, names: frozenset[str]) -> None:
        self._inner = inner
        self._names = names
        self._held: dict[tuple[int, int], list[str]] = {}  # by choice and index

    def chunks(self, events: Iterable[Event]) -> bytes:
        return self._inner.chunks(self._freed(events))

    def last_chunks(self) -> bytes:
        return self._inner.last_chunks()

    def body(self, events: Iterable[Event]) -> bytes:
        return self._inner.body(self._freed(events))

    def _freed(self, events: Iterable[Event]) -> list[Event]:
        told: list[Event] = []
        for event in events:
            if isinstance(event, ToolArgumentsDelta) and (event.choice, event.index) in self._held:
                self._held[event.choice, event.index].append(event.text)
            elif isinstance(event, ToolCallStarted) and event.kind == "function" and event.name in self._names:
                self._held[event.choice, event.index] = []
                told.append(replace(event, kind="custom"))
            else:
                if isinstance(event, Finished):
                    told += self._whole(event.choice)
                told.append(event)
        return told

    def _whole(self, choice: int) -> list[Event]:
        ended = [place for place in self._held if place[0] == choice]
        texts = [(place[1], unwrap_text("".join(self._held.pop(place)))) for place in ended]
        return [ToolArgumentsDelta(index, text, choice=choice) for index, text in texts if text]
