"""A scripted upstream that speaks every wire format, whose answers are computed from the whole request.

The `think` of a `Thinking` decides the answer; `ModelRequest` is the request in one shape, whatever the wire.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from gateway.protocol.json.types import JsonObject
from tests.fakes.self_hosted import SELF_HOSTED
from tests.fakes.upstream import Exchange
from tests.fakes.wire_server import STREAMING_METHODS, FakeWires
from tests.fakes.wires import THOUGHT, WIRES, ScriptedAnswer, Wire, echo_of, strings

CHAT_WIRE = SELF_HOSTED["vllm"]
SCHEMAS = ("input_schema", "inputSchema", "parameters", "parametersJsonSchema")
CALL_ID = re.compile(rb'"(?:call_|toolu_|chatcmpl-tool-)')
CONTENTS = ("messages", "contents")
CALLS = ("tool_use", "functionCall", "toolUse", "function")
RESULTS = ("tool_result", "functionResponse", "toolResult")
OF_TYPE: JsonObject = {"integer": 3, "number": 1.5, "boolean": True, "array": [], "null": None}


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """A request as the model reads it. `turns` are (who, text) in their order, who being user, assistant, call or
    result; the text of a call is the tool's name."""

    model: str
    system: str
    turns: tuple[tuple[str, str], ...]
    tools: dict[str, JsonObject]  # name → JSON schema of its arguments

    @property
    def last(self) -> str:
        return self.turns[-1][0] if self.turns else ""

    @property
    def called(self) -> list[str]:
        """The tools that were called since the user spoke last."""
        names: list[str] = []
        for who, text in self.turns:
            if who == "user":
                names = []
            elif who == "call":
                names.append(text)
        return names


def read_request(request: JsonObject, model: str) -> ModelRequest:
    messages = next((request[name] for name in CONTENTS if name in request), [])
    turns = [turn for message in messages for turn in turns_of(message)]
    system = " ".join([*strings([request.get("system"), request.get("systemInstruction")], "text")])
    if isinstance(request.get("system"), str):
        system = request["system"]
    instructions = " ".join([system, *(text for who, text in turns if who in {"system", "developer"})])
    spoken = tuple((who, text) for who, text in turns if who not in {"system", "developer"})
    return ModelRequest(
        model, instructions.strip(), spoken, dict(tools_of([request.get("tools"), request.get("toolConfig")]))
    )


def turns_of(message: JsonObject) -> Iterator[tuple[str, str]]:
    """A message of any wire, part by part."""
    role = {"model": "assistant", "tool": "result"}.get(message["role"], message["role"])
    content = message.get("content", message.get("parts"))
    for part in [{"text": content}] if isinstance(content, str) else content or []:
        kind = part.get("type", "")
        if kind == "tool_result" or any(name in part for name in RESULTS):
            yield "result", " ".join(strings(part, "text", "content", "output", "result")) or json.dumps(part)
        elif kind == "tool_use" or any(name in part for name in CALLS):
            yield "call", next(strings(part, "name"))
        elif part.get("text"):
            yield role, part["text"]
    for call in message.get("tool_calls") or []:
        yield "call", call["function"]["name"]


def tools_of(node: Any) -> Iterator[tuple[str, JsonObject]]:
    if isinstance(node, list):
        for value in node:
            yield from tools_of(value)
    elif isinstance(node, dict):
        schema = next((node[name] for name in SCHEMAS if name in node), None)
        if isinstance(node.get("name"), str):
            schema = schema or {}
            yield node["name"], schema.get("json", schema)
        else:
            yield from tools_of(list(node.values()))


def filled(schema: JsonObject, text: str) -> Any:
    """The least that a schema takes, every text of it being `text`."""
    if "enum" in schema:
        return schema["enum"][0]
    kind = str(schema.get("type", "object")).lower()
    if kind == "object":
        members = schema.get("properties") or {}
        return {name: filled(members.get(name) or {}, text) for name in schema.get("required") or ()}
    return OF_TYPE.get(kind, text)


def oblige(request: ModelRequest) -> ScriptedAnswer:
    """Calls each offered tool once, as its schema wants it; then repeats the last text. A model whose name ends in
    `~thinks` thinks first."""
    thought = THOUGHT if request.model.endswith("~thinks") else ""
    to_call = [name for name in request.tools if name not in request.called]
    spoken = [text for who, text in request.turns if who in {"user", "result"}] or [""]
    if to_call:
        return ScriptedAnswer(
            request.model, [], [(name, filled(request.tools[name], spoken[-1])) for name in to_call], thought=thought
        )
    return ScriptedAnswer(request.model, [f"{word} " for word in echo_of(spoken[-1]).split()], [], thought=thought)


def with_ids_of(wire: Wire, mark: bytes) -> Wire:
    """The wire with ids of calls that no other answer has, as those of real servers are."""

    def marked(raw: bytes) -> bytes:
        return CALL_ID.sub(rb"\g<0>" + mark, raw)

    def body(what: ScriptedAnswer) -> JsonObject:
        answer: JsonObject = json.loads(marked(json.dumps(wire.body(what)).encode()))
        return answer

    return replace(wire, body=body, frames=lambda what: map(marked, wire.frames(what)))


class Thinking(FakeWires):
    """Closes: itself, as a context manager."""

    def __init__(self, think: Callable[[ModelRequest], ScriptedAnswer] = oblige) -> None:
        super().__init__()
        self._think = think
        self._count = 0

    async def _answer_in(self, exchange: Exchange, name: str, model: str, method: str) -> None:
        wire = CHAT_WIRE if name == "openai" else WIRES.get(name) or SELF_HOSTED[name]
        answer = self._think(read_request(exchange.json, model))
        self._count += 1
        wire = with_ids_of(wire, b"%d-" % self._count) if name in {"openai", "anthropic"} else wire
        stream = exchange.streams or method in STREAMING_METHODS
        await wire.answer(exchange, answer, "", stream=stream)
