"""The answers of the scripted upstreams, and the wire formats of the clouds and of Ollama.

An answer echoes, calls the first and the last offered tool, or fills the requested schema. Its twist makes it wrong:
see wire_server.py.
"""

import asyncio
import json
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from gateway.protocol.json.types import JsonObject
from tests.fakes.upstream import CREDENTIAL, FREE_TEXT, INTERNAL_URL, SECRET, Exchange, Recorded, Reply, words_of

FILLED = '{"city": "Paris", "naïve": "北京"}'
ARGUMENTS: tuple[JsonObject, JsonObject] = ({"city": "Paris", "unit": "c"}, {"city": "北京"})
#: Arguments of the tools that are called alone.
ARGUMENTS_OF: dict[str, JsonObject] = {
    "get_current_weather": {"city": "北京", "unit": "celsius"},
    "calculate": {"expression": '(12 + 3) * 4 / 2 - [7]; "ok"'},
    "run": {"input": FREE_TEXT},  # free text, where such a tool is sent as a function
}
THOUGHT = "Let me think: 想一想."
SIGNATURE = "RXJVQkNrWUlBeGdDSWtBU2ln"
REDACTED = "RXJVQ1JlZGFjdGVkVGhpbmtpbmc="
CUT_WORDS = 3
#: Twists of the content, not of the form: the model thinks first; the limit of tokens stops it.
MANNERS = frozenset({"thinks", "short"})
ERROR_TEXT = f"Refused {CREDENTIAL} (engine key {SECRET}) at {INTERNAL_URL}"
SCHEMA_ASKED = re.compile(rb'json_schema|"response(?:Json)?Schema"|"textFormat"|"format":\s*\{')
WHOLE_FRAMES = 4  # before a stream goes wrong; one more comes together with the fault
PAUSE_S = 0.05
RETRY = {"retry-after": "7"}
T = TypeVar("T", str, bytes)
RESULT_GIVEN = re.compile(r'"tool_result"|"functionResponse"|"toolResult"|"role": "tool"')


@dataclass(frozen=True, slots=True)
class ScriptedAnswer:
    """The answer, the same on every wire."""

    model: str
    words: list[str]
    calls: list[tuple[str, JsonObject]]
    asks_usage: bool = True  # in a stream
    thought: str = ""
    is_cut: bool = False

    @property
    def text(self) -> str:
        return "".join(self.words)


def strings(node: Any, *names: str) -> Iterator[str]:
    """Every text that stands under one of these names, in order."""
    if isinstance(node, dict):
        for name, value in node.items():
            if isinstance(value, str):
                if name in names:
                    yield value
            else:
                yield from strings(value, *names)
    elif isinstance(node, list):
        for value in node:
            yield from strings(value, *names)


def echo_of(text: str) -> str:
    return "".join(words_of({"prompt": text}, None))


def script_answer(recorded: Recorded, model: str) -> ScriptedAnswer:
    """The answer to this request, with the twists of its content."""
    manners = MANNERS.intersection(model.split("~")[1:])
    what = _script_answer(recorded, model)
    if "short" in manners and not what.calls:
        what = replace(what, words=what.words[:CUT_WORDS], is_cut=True)
    return replace(what, thought=THOUGHT) if "thinks" in manners else what


def _script_answer(recorded: Recorded, model: str) -> ScriptedAnswer:
    request = recorded.json
    last = (request.get("messages") or request.get("contents") or [{"text": request.get("prompt", "")}])[-1]
    offered = request.get("tools") or request.get("toolConfig", {}).get("tools") or []
    names = [name for tool in offered for name in strings(without_schema(tool), "name")]
    asks_usage = bool((request.get("stream_options") or {}).get("include_usage"))
    if names and not RESULT_GIVEN.search(json.dumps(last)):
        calls = list(zip((names[0], names[-1]), ARGUMENTS, strict=True))
        if len(names) == 1:
            calls = [(names[0], ARGUMENTS_OF.get(names[0], ARGUMENTS[0]))]
        return ScriptedAnswer(model, [], calls, asks_usage)
    texts = strings(last, "text", "content", "output", "result")
    text = FILLED if SCHEMA_ASKED.search(recorded.body) else echo_of(" ".join(texts))
    return ScriptedAnswer(model, words_of({}, text), [], asks_usage)


def without_schema(tool: JsonObject) -> JsonObject:
    """The tool without its parameters, whose properties may be called anything."""
    hidden = {"input_schema", "inputSchema", "parameters", "parametersJsonSchema"}
    if "functionDeclarations" in tool:
        return {"declared": [without_schema(one) for one in tool["functionDeclarations"]]}
    return {k: without_schema(v) if isinstance(v, dict) else v for k, v in tool.items() if k not in hidden}


def pieces(text: T, size: int = 7) -> list[T]:
    return [text[start : start + size] for start in range(0, len(text), size)]


def sse(event: JsonObject, *, name: str = "") -> bytes:
    return (f"event: {name}\n" if name else "").encode() + b"data: " + json.dumps(event).encode() + b"\n\n"


# Anthropic Messages

ANTHROPIC_USAGE: JsonObject = {
    "input_tokens": 10,
    "cache_read_input_tokens": 1000,
    "cache_creation_input_tokens": 300,
    "cache_creation": {"ephemeral_5m_input_tokens": 200, "ephemeral_1h_input_tokens": 100},
    "output_tokens": 9,
}
ANTHROPIC_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "api_error",
    503: "overloaded_error",
}


def anthropic_body(what: ScriptedAnswer) -> JsonObject:
    content: list[JsonObject] = []
    if what.thought:
        content.append({"type": "thinking", "thinking": what.thought, "signature": SIGNATURE})
        content.append({"type": "redacted_thinking", "data": REDACTED})
    content += [{"type": "text", "text": what.text}] if what.words else []
    content += [
        {"type": "tool_use", "id": f"toolu_0{i}", "name": name, "input": arguments}
        for i, (name, arguments) in enumerate(what.calls)
    ]
    reason = "tool_use" if what.calls else "max_tokens" if what.is_cut else "end_turn"
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": what.model, "content": content}
    return {**message, "stop_reason": reason, "stop_sequence": None, "usage": ANTHROPIC_USAGE}


def anthropic_deltas(what: ScriptedAnswer, block: JsonObject) -> list[JsonObject]:
    if block["type"] == "text":
        return [{"type": "text_delta", "text": word} for word in what.words]
    if block["type"] == "tool_use":
        text = json.dumps(block["input"], ensure_ascii=False)
        return [{"type": "input_json_delta", "partial_json": piece} for piece in pieces(text)]
    if block["type"] == "thinking":
        deltas: list[JsonObject] = [{"type": "thinking_delta", "thinking": piece} for piece in pieces(what.thought)]
        return [*deltas, {"type": "signature_delta", "signature": block["signature"]}]
    return []  # redacted thinking comes whole


def anthropic_frames(what: ScriptedAnswer) -> Iterator[bytes]:
    def frame(kind: str, **fields: Any) -> bytes:
        return sse({"type": kind, **fields}, name=kind)

    whole = anthropic_body(what)
    begun = {**whole, "content": [], "stop_reason": None, "usage": {**ANTHROPIC_USAGE, "output_tokens": 1}}
    yield frame("message_start", message=begun)
    yield frame("ping")
    for index, block in enumerate(whole["content"]):
        blank: JsonObject = {
            "text": {"text": ""},
            "tool_use": {"input": {}},
            "thinking": {"thinking": "", "signature": ""},
        }
        yield frame("content_block_start", index=index, content_block=block | blank.get(block["type"], {}))
        for delta in anthropic_deltas(what, block):
            yield frame("content_block_delta", index=index, delta=delta)
        yield frame("content_block_stop", index=index)
    ending = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
    yield frame("message_delta", delta=ending, usage={"output_tokens": 9})
    yield frame("message_stop")


def anthropic_error(status: int) -> Reply:
    error = {"type": ANTHROPIC_KINDS[status], "message": ERROR_TEXT}
    return Reply(status, json.dumps({"type": "error", "error": error}).encode(), headers=RETRY)


# Gemini's generateContent

GEMINI_USAGE: JsonObject = {
    "promptTokenCount": 100,
    "cachedContentTokenCount": 64,
    "candidatesTokenCount": 7,
    "thoughtsTokenCount": 18,
    "totalTokenCount": 125,
}
GEMINI_STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
}


def gemini_answer(what: ScriptedAnswer, parts: list[JsonObject], *, is_last: bool) -> JsonObject:
    candidate: JsonObject = {"index": 0, "content": {"role": "model", "parts": parts}}
    ended: JsonObject = {"usageMetadata": GEMINI_USAGE} if is_last else {}
    reason = "MAX_TOKENS" if what.is_cut else "STOP"
    return {
        "candidates": [candidate | ({"finishReason": reason} if is_last else {})],
        "modelVersion": what.model,
        "responseId": "r-1",
        **ended,
    }


def gemini_parts(what: ScriptedAnswer) -> list[JsonObject]:
    calls: list[JsonObject] = [{"functionCall": {"name": name, "args": arguments}} for name, arguments in what.calls]
    if what.thought and calls:
        calls[0]["thoughtSignature"] = SIGNATURE  # of parallel calls the first one has it
    thoughts: list[JsonObject] = [{"text": what.thought, "thought": True}] if what.thought else []
    return [*thoughts, *({"text": word} for word in what.words), *calls]


def gemini_body(what: ScriptedAnswer) -> JsonObject:
    return gemini_answer(what, gemini_parts(what), is_last=True)


def gemini_frames(what: ScriptedAnswer) -> Iterator[bytes]:
    for part in gemini_parts(what):
        yield sse(gemini_answer(what, [part], is_last=False))
    yield sse(gemini_answer(what, [{"text": ""}], is_last=True))


def gemini_error(status: int) -> Reply:
    error = {"code": status, "message": ERROR_TEXT, "status": GEMINI_STATUS[status]}
    retry = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "7s"}
    return Reply(status, json.dumps({"error": {**error, "details": [retry]}}).encode())


# Bedrock's Converse

BEDROCK_USAGE: JsonObject = {
    "inputTokens": 10,
    "outputTokens": 3,
    "totalTokens": 323,
    "cacheReadInputTokens": 300,
    "cacheWriteInputTokens": 10,
}
BEDROCK_EXCEPTIONS = {
    400: "ValidationException",
    401: "UnrecognizedClientException",
    404: "ResourceNotFoundException",
    429: "ThrottlingException",
    500: "InternalServerException",
    503: "ServiceUnavailableException",
}


def bedrock_body(what: ScriptedAnswer) -> JsonObject:
    content: list[JsonObject] = []
    if what.thought:
        content.append({"reasoningContent": {"reasoningText": {"text": what.thought, "signature": SIGNATURE}}})
    content += [{"text": what.text}] if what.words else []
    content += [
        {"toolUse": {"toolUseId": f"tooluse_{i}", "name": name, "input": arguments}}
        for i, (name, arguments) in enumerate(what.calls)
    ]
    message = {"role": "assistant", "content": content}
    reason = "tool_use" if what.calls else "max_tokens" if what.is_cut else "end_turn"
    return {"output": {"message": message}, "stopReason": reason, "usage": BEDROCK_USAGE, "metrics": {"latencyMs": 3}}


def event_frame(payload: JsonObject, *, kind: str, message: str = "event") -> bytes:
    """One message of the binary event stream, with its two checksums."""
    body = json.dumps(payload, ensure_ascii=False).encode()
    lines = {f":{message}-type": kind, ":content-type": "application/json", ":message-type": message}
    headers = b"".join(
        struct.pack("!B", len(name)) + name.encode() + struct.pack("!BH", 7, len(value)) + value.encode()
        for name, value in lines.items()
    )
    prelude = struct.pack("!II", 16 + len(headers) + len(body), len(headers))
    data = prelude + struct.pack("!I", zlib.crc32(prelude)) + headers + body
    return data + struct.pack("!I", zlib.crc32(data))


def bedrock_frames(what: ScriptedAnswer) -> Iterator[bytes]:
    whole = bedrock_body(what)
    yield event_frame({"role": "assistant", "p": "abcd"}, kind="messageStart")
    for index, block in enumerate(whole["output"]["message"]["content"]):
        place: JsonObject = {"contentBlockIndex": index}
        deltas: list[JsonObject] = [{"text": word} for word in what.words]
        if "toolUse" in block:
            use = block["toolUse"]
            start = {"toolUse": {"toolUseId": use["toolUseId"], "name": use["name"]}}
            yield event_frame({**place, "start": start}, kind="contentBlockStart")
            text = json.dumps(use["input"], ensure_ascii=False)
            deltas = [{"toolUse": {"input": piece}} for piece in pieces(text)]
        elif "reasoningContent" in block:
            deltas = [{"reasoningContent": {"text": piece}} for piece in pieces(what.thought)]
            deltas.append({"reasoningContent": {"signature": SIGNATURE}})
        for delta in deltas:
            yield event_frame({**place, "delta": delta, "p": "ab"}, kind="contentBlockDelta")
        yield event_frame(place, kind="contentBlockStop")
    yield event_frame({"stopReason": whole["stopReason"]}, kind="messageStop")
    yield event_frame({"usage": BEDROCK_USAGE, "metrics": {"latencyMs": 3}}, kind="metadata")


def bedrock_error(status: int) -> Reply:
    name = f"{BEDROCK_EXCEPTIONS[status]}:http://internal.amazon.com/coral/com.amazon.bedrock/"
    return Reply(status, json.dumps({"message": ERROR_TEXT}).encode(), headers={"x-amzn-errortype": name, **RETRY})


# Ollama's native API

OLLAMA_USAGE: JsonObject = {"prompt_eval_count": 26, "eval_count": 12}


def ollama_line(what: ScriptedAnswer, message: JsonObject, *, is_last: bool) -> JsonObject:
    reason = "length" if what.is_cut else "stop"
    ended: JsonObject = {"done_reason": reason, "total_duration": 5, **OLLAMA_USAGE} if is_last else {}
    head = {"model": what.model, "created_at": "2026-01-01T00:00:00Z"}
    return {**head, "message": {"role": "assistant", **message}, "done": is_last, **ended}


def ollama_calls(what: ScriptedAnswer) -> list[JsonObject]:
    return [{"function": {"name": name, "arguments": arguments}} for name, arguments in what.calls]


def ollama_body(what: ScriptedAnswer) -> JsonObject:
    calls = {"tool_calls": ollama_calls(what)} if what.calls else {}
    thinking = {"thinking": what.thought} if what.thought else {}
    return ollama_line(what, {"content": what.text, **thinking, **calls}, is_last=True)


def ollama_frames(what: ScriptedAnswer) -> Iterator[bytes]:
    messages: list[JsonObject] = [{"content": "", "thinking": piece} for piece in pieces(what.thought)]
    messages += [{"content": word} for word in what.words]
    messages += [{"content": "", "tool_calls": [call]} for call in ollama_calls(what)]
    for message in messages:
        yield json.dumps(ollama_line(what, message, is_last=False)).encode() + b"\n"
    yield json.dumps(ollama_line(what, {"content": ""}, is_last=True)).encode() + b"\n"


def ollama_completion_line(line: JsonObject) -> JsonObject:
    """The same of /api/generate, whose text stands in the line itself."""
    fields = {name: value for name, value in line.items() if name != "message"}
    return {**fields, "response": line["message"]["content"]}


def ollama_completion_body(what: ScriptedAnswer) -> JsonObject:
    return ollama_completion_line(ollama_body(what))


def ollama_completion_frames(what: ScriptedAnswer) -> Iterator[bytes]:
    for frame in ollama_frames(what):
        yield json.dumps(ollama_completion_line(json.loads(frame))).encode() + b"\n"


def ollama_error(status: int) -> Reply:
    return Reply(status, json.dumps({"error": ERROR_TEXT}).encode(), headers=RETRY)


@dataclass(frozen=True, slots=True)
class Wire:
    """One format: a whole answer, a stream's frames, an error by its status, an error within a stream."""

    body: Callable[[ScriptedAnswer], JsonObject]
    frames: Callable[[ScriptedAnswer], Iterator[bytes]]
    error: Callable[[int], Reply]
    content_type: str
    error_frame: bytes = b""
    #: Why a real server would not take this request; empty if it would.
    refuses: Callable[[JsonObject], str] = lambda request: ""

    async def answer(self, exchange: Exchange, what: ScriptedAnswer, twist: str, *, stream: bool) -> None:
        twist = "" if twist in MANNERS else twist
        if twist.isdigit():
            await self.error(int(twist))(exchange)
            return
        if refused := self.refuses(exchange.json):
            await Reply(400, json.dumps({"error": {"message": f"REFUSED BY THE FAKE: {refused}"}}).encode())(exchange)
            return
        if not stream:
            await exchange.reply(json.dumps(self.body(what), ensure_ascii=False).encode())
            return
        frames = list(self.frames(what))
        await exchange.start(content_type=self.content_type)
        if twist == "bytewise":
            for piece in pieces(b"".join(frames), 1):
                await exchange.write(piece)
        elif not twist:
            for frame in frames:
                await exchange.write(frame)
        else:
            for frame in frames[:WHOLE_FRAMES]:
                await exchange.write(frame)
            await asyncio.sleep(PAUSE_S)
            damaged = frames[WHOLE_FRAMES][:-1] + bytes([frames[WHOLE_FRAMES][-1] ^ 1])
            bad = {"error": self.error_frame, "damaged": damaged}.get(twist, b"")
            await exchange.write(frames[WHOLE_FRAMES] + bad)  # the last good frame and the bad one in one piece
            await asyncio.sleep(PAUSE_S)
        if twist != "cut":
            await exchange.end()


WIRES: dict[str, Wire] = {
    "anthropic": Wire(
        anthropic_body,
        anthropic_frames,
        anthropic_error,
        "text/event-stream",
        sse({"type": "error", "error": {"type": "overloaded_error", "message": ERROR_TEXT}}, name="error"),
    ),
    "gemini": Wire(
        gemini_body,
        gemini_frames,
        gemini_error,
        "text/event-stream",
        sse({"error": {"code": 500, "message": ERROR_TEXT, "status": "INTERNAL"}}),
    ),
    "bedrock": Wire(
        bedrock_body,
        bedrock_frames,
        bedrock_error,
        "application/vnd.amazon.eventstream",
        event_frame({"message": ERROR_TEXT}, kind="modelStreamErrorException", message="exception"),
    ),
    "ollama": Wire(
        ollama_body,
        ollama_frames,
        ollama_error,
        "application/x-ndjson",
        json.dumps({"error": ERROR_TEXT}).encode() + b"\n",
    ),
    "ollama_completion": Wire(
        ollama_completion_body,
        ollama_completion_frames,
        ollama_error,
        "application/x-ndjson",
        json.dumps({"error": ERROR_TEXT}).encode() + b"\n",
    ),
}
