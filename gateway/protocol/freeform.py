"""Custom tools, whose input is free text, for upstreams that know functions only.

The request wraps the text in an object with one member; the answer unwraps it before the client sees the call.
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


def replace_custom_tools(request: ChatRequest) -> ChatRequest:
    return replace(
        request,
        tools=tuple(map(_function, request.tools)),
        messages=tuple(map(_message, request.messages)),
    )


def answer_encoder(call: Call, context: AttemptContext, *, is_wrapped: bool = True) -> AnswerEncoder:
    """The encoder of the call's dialect, inside a CustomToolEncoder where the request has custom tools."""
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
    """The text inside the object; the arguments themselves where the model wrote no such object."""
    try:
        value = orjson.loads(arguments)
    except orjson.JSONDecodeError:
        return arguments
    inner = value.get(MEMBER) if isinstance(value, dict) else None
    return inner if isinstance(inner, str) else arguments


class CustomToolEncoder:
    """An AnswerEncoder around another one. It reads an object when it is whole, so the text comes in one piece."""

    def __init__(self, inner: AnswerEncoder, names: frozenset[str]) -> None:
        self._inner = inner
        self._names = names
        self._arguments: dict[tuple[int, int], list[str]] = {}  # by choice and index

    def chunks(self, events: Iterable[Event]) -> bytes:
        return self._inner.chunks(self._unwrap(events))

    def last_chunks(self) -> bytes:
        return self._inner.last_chunks()

    def body(self, events: Iterable[Event]) -> bytes:
        return self._inner.body(self._unwrap(events))

    def _unwrap(self, events: Iterable[Event]) -> list[Event]:
        result: list[Event] = []
        for event in events:
            if isinstance(event, ToolArgumentsDelta) and (event.choice, event.index) in self._arguments:
                self._arguments[event.choice, event.index].append(event.text)
            elif isinstance(event, ToolCallStarted) and event.kind == "function" and event.name in self._names:
                self._arguments[event.choice, event.index] = []
                result.append(replace(event, kind="custom"))
            else:
                if isinstance(event, Finished):
                    result += self._whole(event.choice)
                result.append(event)
        return result

    def _whole(self, choice: int) -> list[Event]:
        ended = [place for place in self._arguments if place[0] == choice]
        texts = [(place[1], unwrap_text("".join(self._arguments.pop(place)))) for place in ended]
        return [ToolArgumentsDelta(index, text, choice=choice) for index, text in texts if text]
