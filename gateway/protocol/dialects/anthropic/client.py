"""Anthropic's Messages format as clients speak it: request → ChatRequest, events → answer, faults → errors.

Source: https://platform.claude.com/docs/en/api/messages and the types of the `anthropic` package 2.10.0; each field's
decision is in docs/dialects/anthropic.md.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from math import ceil

import orjson

from gateway.protocol import fields, items
from gateway.protocol.answer import AnswerCost
from gateway.protocol.attempt_context import AttemptContext
from gateway.protocol.call import Call, Operation
from gateway.protocol.context_overflow import anthropic_text
from gateway.protocol.continuation import read_stops
from gateway.protocol.dialect import Hints
from gateway.protocol.dialects.anthropic.continuation import MessagesTranscript, may_continue
from gateway.protocol.dialects.anthropic.wire import MESSAGE_STOP, WIRE, read_betas, unsupported, usage_object
from gateway.protocol.dialects.openai import wire as openai_wire
from gateway.protocol.errors import BadRequest, Fault
from gateway.protocol.events import (
    Event,
    Finished,
    ImageMade,
    ReasoningDelta,
    RefusalDelta,
    Started,
    TextDelta,
    ToolArgumentsDelta,
    ToolCallStarted,
    UsageReported,
)
from gateway.protocol.input_estimate import estimate_request
from gateway.protocol.json.body import parse_object
from gateway.protocol.json.large_body import body_of
from gateway.protocol.json.open_text import JsonProgress
from gateway.protocol.json.types import Json, JsonMapping, JsonObject
from gateway.protocol.routing_options import CHECKS as ROUTING_CHECKS
from gateway.protocol.usage import Usage

# Request → ChatRequest


def block_of(value: Json) -> str | None:
    return None if type(value) is dict and type(value.get("type")) is str else "it must be an object with a type"


CONTENT = fields.one_of(fields.text, fields.list_of(block_of), says="it must be a string or an array of content blocks")


def message_of(value: Json) -> str | None:
    if type(value) is not dict or value.get("role") not in ("user", "assistant", "system"):
        return "it must be an object whose role is user, assistant or system"
    problem = CONTENT(value.get("content"))
    return f"its content: {problem}" if problem else None


def tool_of(value: Json) -> str | None:
    if type(value) is not dict or not isinstance(value.get("type"), str | None):
        return "it must be an object, its type a string"
    has_all = type(value.get("name")) is str and type(value.get("input_schema")) is dict
    return None if has_all or value.get("type") not in {None, "custom"} else "it must have a name and an input_schema"


CHECKS: dict[str, fields.Check] = {
    **ROUTING_CHECKS,
    "model": fields.nonempty_text,
    "messages": fields.list_of(message_of, minimum=1),
    "max_tokens": fields.integer(0),
    "stream": fields.boolean,
    "system": CONTENT,
    "stop_sequences": fields.list_of(fields.text),
    "temperature": fields.number(0, 2),
    "top_p": fields.number(0, 1),
    "top_k": fields.integer(0),
    "tools": fields.list_of(tool_of),
    "tool_choice": block_of,
    "thinking": block_of,
    "output_config": fields.mapping,
    "metadata": fields.mapping,
    "cache_control": fields.mapping,
    "service_tier": fields.text,
    "container": fields.one_of(fields.text, fields.mapping, says="it must be a string or an object"),
    "diagnostics": fields.mapping,
    "inference_geo": fields.text,
    "speed": fields.text,
    "user_profile_id": fields.text,
    "workspace_id": fields.text,
    "mcp_servers": fields.list_of(fields.mapping),
    "context_management": fields.mapping,
    "anthropic_beta": fields.one_of(
        fields.text, fields.list_of(fields.text), says="it must be a string or an array of strings"
    ),
}
#: Fields that change the meaning of the answer and that no other format has.
UNTRANSLATABLE = ("container", "mcp_servers", "inference_geo")
#: Fields that no other format has; the answer means the same without them.
UNSUPPORTED_FIELDS = ("diagnostics", "speed", "user_profile_id", "workspace_id", "context_management")
#: Fields that hold the caller's own data, below which any name is allowed, beyond openai_wire.CALLER_DATA.
CALLER_DATA = frozenset({"output_config", "system"})
CHOICES = {"auto": "auto", "any": "required", "none": "none"}
TIERS = {"auto": "auto", "standard_only": "default"}


def read_chat_request(body: JsonMapping) -> items.ChatRequest:
    """The request in a body whose fields have the right types. Raises BadRequest for what no other format has."""
    for name in UNTRANSLATABLE:
        if body.get(name):
            raise unsupported(f"'{name}' is not supported by this model.", name)
    config = body.get("output_config") or {}
    choice = body.get("tool_choice") or {}
    thinking = body.get("thinking")
    messages: list[items.Message] = []
    if body.get("system"):
        messages.append(items.System(_parts(body["system"], "system")))
    for index, message in enumerate(body["messages"]):
        messages += _messages(message, f"messages.{index}")
    return items.ChatRequest(
        messages=tuple(messages),
        tools=tuple(_tool(tool, index) for index, tool in enumerate(body.get("tools") or ())),
        tool_choice=_tool_choice(choice),
        parallel_tools=False if choice.get("disable_parallel_tool_use") is True else None,
        output=_output(config.get("format")),
        max_tokens=body.get("max_tokens") or None,
        temperature=body.get("temperature"),
        top_p=body.get("top_p"),
        top_k=body.get("top_k"),
        stop=tuple(body.get("stop_sequences") or ()),
        reasoning_effort=_effort(thinking or {}, config.get("effort")),
        thinking=thinking,
        service_tier=TIERS.get(body.get("service_tier") or "", ""),
        user=_user_id(body),
        cache=_cache(body),
    )


def _user_id(body: JsonMapping) -> str:
    user_id = (body.get("metadata") or {}).get("user_id")
    return user_id if isinstance(user_id, str) else ""


def _cache(holder: JsonMapping) -> items.Cache | None:
    control = holder.get("cache_control")
    return items.Cache(str(control.get("ttl") or "")) if isinstance(control, dict) else None


def _effort(thinking: JsonMapping, effort: Json) -> str:
    """The reasoning effort for providers without `thinking`; a budget becomes the effort of about its size."""
    if thinking.get("type") == "disabled":
        return "none"
    if isinstance(effort, str):
        return effort
    if thinking.get("type") == "adaptive":
        return "high"  # Anthropic's default
    budget = thinking.get("budget_tokens")
    if thinking.get("type") != "enabled" or type(budget) is not int:
        return ""
    return "low" if budget <= 1024 else "medium" if budget <= 8192 else "high"


def _tool_choice(choice: JsonMapping) -> items.ToolChoice | None:
    if not choice:
        return None
    if choice["type"] == "tool" and isinstance(choice.get("name"), str):
        return items.ToolChoice("named", name=choice["name"])
    if choice["type"] not in CHOICES:
        raise BadRequest("Invalid value for 'tool_choice'.", param="tool_choice", code="invalid_value")
    return items.ToolChoice(CHOICES[choice["type"]])


def _output(output_format: Json) -> items.OutputFormat | None:
    if output_format is None:
        return None
    schema = output_format.get("schema") if isinstance(output_format, dict) else None
    if not isinstance(schema, dict) or output_format.get("type") != "json_schema":
        name = "output_config.format"
        raise BadRequest(f"Invalid value for '{name}': it must be a JSON schema.", param=name, code="invalid_value")
    return items.OutputFormat("json_schema", name="output", schema=schema, strict=True)


def _tool(tool: JsonMapping, index: int) -> items.Tool:
    if tool.get("type") not in {None, "custom"}:
        kind = str(tool["type"])[:40]
        raise unsupported(f"The tool type {kind!r} is not supported by this model.", f"tools.{index}.type")
    return items.Tool(
        name=tool["name"],
        description=str(tool.get("description") or ""),
        schema=tool["input_schema"],
        strict=tool["strict"] if isinstance(tool.get("strict"), bool) else None,
        cache=_cache(tool),
    )


def _messages(message: JsonMapping, param: str) -> list[items.Message]:
    """The items of one message: a user's tool results become messages of their own, before the rest of it."""
    role, content = message["role"], message["content"]
    at = f"{param}.content"
    if role == "system":
        return [items.System(_parts(content, at))]
    if role == "assistant":
        return [_assistant(content, at)]
    if isinstance(content, str):
        return [items.User(_parts(content, at))]
    results: list[items.Message] = []
    parts: list[items.Part] = []
    for index, block in enumerate(content):
        if block["type"] == "tool_result":
            results.append(_tool_result(block, f"{at}.{index}"))
        else:
            parts += _block(block, f"{at}.{index}")
    return [*results, items.User(tuple(parts))] if parts or not results else results


def _tool_result(block: JsonMapping, param: str) -> items.ToolResult:
    content = block.get("content")
    problem = CONTENT(content) if content is not None else None
    if problem:
        raise BadRequest(f"Invalid value for '{param}.content': {problem}.", param=f"{param}.content")
    parts = _parts(content or (), f"{param}.content")
    cache = _cache(block)
    if parts and cache is not None:
        parts = (*parts[:-1], replace(parts[-1], cache=cache))
    return items.ToolResult(_text(block, "tool_use_id", param), parts, is_error=block.get("is_error") is True)


def _assistant(content: Json, param: str) -> items.Assistant:
    """An assistant message without the calls and results of the provider's own tools, which no other can read."""
    if isinstance(content, str):
        return items.Assistant(_parts(content, param))
    parts: list[items.Part] = []
    calls: list[items.ToolCall] = []
    reasoning: list[items.Reasoning] = []
    for index, block in enumerate(content):
        kind, at = block["type"], f"{param}.{index}"
        if kind == "tool_use":
            arguments = orjson.dumps(block.get("input") or {}).decode()
            calls.append(items.ToolCall(_text(block, "id", at), _text(block, "name", at), arguments))
        elif kind == "thinking":
            reasoning.append(items.Reasoning(_text(block, "thinking", at), signature=str(block.get("signature") or "")))
        elif kind == "redacted_thinking":
            reasoning.append(items.Reasoning(redacted=_text(block, "data", at)))
        elif kind not in {"server_tool_use", "mcp_tool_use"} and not kind.endswith("_tool_result"):
            parts += _block(block, at)
    return items.Assistant(tuple(parts), tuple(calls), tuple(reasoning))


def _parts(content: Json, param: str) -> tuple[items.Part, ...]:
    if isinstance(content, str):
        return (items.Text(content),)
    return tuple(part for index, block in enumerate(content) for part in _block(block, f"{param}.{index}"))


def _text(holder: JsonMapping, name: str, param: str) -> str:
    value = holder.get(name)
    if not isinstance(value, str):
        raise BadRequest(f"Invalid value for '{param}.{name}': it must be a string.", param=f"{param}.{name}")
    return value


def _block(block: JsonMapping, param: str) -> list[items.Part]:
    kind, cache = block["type"], _cache(block)
    if kind == "text":
        return [items.Text(_text(block, "text", param), cache)]
    if kind == "search_result":
        head = f"{block.get('title') or ''}\n{block.get('source') or ''}".strip()
        return [items.Text(head), *_inner(block.get("content"), f"{param}.content")]
    if kind not in {"image", "document"}:
        raise unsupported(f"Content of the type {kind[:40]!r} is not supported by this model.", f"{param}.type")
    source = block.get("source")
    if not isinstance(source, dict):
        raise BadRequest(f"'{param}.source' must be an object.", param=f"{param}.source")
    return _medium(kind, source, str(block.get("title") or ""), cache, f"{param}.source")


def _medium(kind: str, source: JsonMapping, title: str, cache: items.Cache | None, param: str) -> list[items.Part]:
    source_type = source.get("type")
    if source_type == "file":
        media_type = "image/*" if kind == "image" else ""
        return [items.File(title, media_type, file_id=_text(source, "file_id", param), cache=cache)]
    if source_type == "url":
        url = _text(source, "url", param)
        if kind == "image":
            return [items.Image(url=url, cache=cache)]
        return [items.File(title or "document.pdf", "application/pdf", url=url, cache=cache)]
    if source_type == "base64":
        data, media_type = _text(source, "data", param), _text(source, "media_type", param)
        if kind == "image":
            return [items.Image(data=data, media_type=media_type, cache=cache)]
        return [items.File(title or "document.pdf", media_type, data, cache=cache)]
    if source_type == "text" and kind == "document":
        return [*[items.Text(title)] * bool(title), items.Text(_text(source, "data", param), cache=cache)]
    if source_type == "content" and kind == "document":
        return [items.Text(title)] * bool(title) + _inner(source.get("content"), f"{param}.content")
    raise BadRequest(f"Invalid value for '{param}.type'.", param=f"{param}.type", code="invalid_value")


def _inner(content: Json, param: str) -> list[items.Part]:
    problem = CONTENT(content)
    if problem:
        raise BadRequest(f"Invalid value for '{param}': {problem}.", param=param, code="invalid_value")
    return list(_parts(content, param))


def count_body(input_tokens: int) -> bytes:
    """The answer of /v1/messages/count_tokens."""
    return orjson.dumps({"input_tokens": input_tokens})


# Events → answer

STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}


@dataclass(slots=True)
class _Block:
    """A content block of the answer."""

    index: int
    kind: str  # text | thinking | tool_use | redacted_thinking
    head: JsonObject
    pieces: list[str] = field(default_factory=list)
    signature: str = ""
    progress: JsonProgress = field(default_factory=JsonProgress)  # of a call's input
    is_checked: bool = False

    def has_whole_input(self) -> bool:
        """True where the input is an object. It is read once: after its end nothing can make it one."""
        if self.is_checked or not self.progress.has_ended or self.progress.is_open:
            return False
        self.is_checked = True
        return _is_object("".join(self.pieces))

    def encode(self) -> JsonObject:
        text = "".join(self.pieces)
        if self.kind == "text":
            return {**self.head, "text": text}
        if self.kind == "thinking":
            return {**self.head, "thinking": text, "signature": self.signature}
        if self.kind == "tool_use" and text.strip():
            # an object keeps the model's own text
            return {**self.head, "input": orjson.Fragment(text) if _is_object(text) else {"_raw": text}}
        return self.head


def _is_object(text: str) -> bool:
    try:
        return type(orjson.loads(text)) is dict
    except orjson.JSONDecodeError:
        return False


def _reported_input(events: Iterable[Event]) -> Usage | None:
    """The input counts that come with the first events, for the message's start."""
    for event in events:
        report = event if isinstance(event, UsageReported) else event.usage if isinstance(event, Started) else None
        if report is not None and report.usage.total_input:
            return replace(report.usage, output_tokens=0, output_audio_tokens=0, reasoning_tokens=0)
    return None


class MessagesAnswer:
    """AnswerEncoder of one answer, as events or as a whole message. Messages have one choice."""

    __slots__ = (
        "_blocks",
        "_call",
        "_current",
        "_input",
        "_is_begun",
        "_is_refused",
        "_open_tools",
        "_reason",
        "_size",
        "_tools",
        "_usage",
        "id",
    )

    def __init__(self, call: Call, answer_id: str) -> None:
        self.id = answer_id
        self._call = call
        self._blocks: list[_Block] = []
        self._current: _Block | None = None  # text or thinking
        self._tools: dict[int, _Block] = {}
        self._open_tools: list[_Block] = []
        self._input: Usage | None = None  # as far as the upstream reports it before its answer
        self._is_begun = False
        self._is_refused = False
        self._reason = ""
        self._size = 0  # characters, for an answer without usage
        self._usage: Usage | None = None

    def chunks(self, events: Iterable[Event]) -> bytes:
        out: list[bytes] = []
        if not self._is_begun:
            events = tuple(events)
            self._input = _reported_input(events) or self._input
        for event in events:
            self._add(event, out)
        return b"".join(out)

    def last_chunks(self) -> bytes:
        out: list[bytes] = []
        self._begin(out)
        self._close(out, is_last=True)
        delta = {"stop_reason": self._stop_reason(), "stop_sequence": None}
        out.append(_event({"type": "message_delta", "delta": delta, "usage": self._usage_object()}))
        return b"".join(out) + MESSAGE_STOP

    def body(self, events: Iterable[Event]) -> bytes:
        self.chunks(events)
        message = self._message([block.encode() for block in self._blocks], self._usage_object())
        return orjson.dumps({**message, "stop_reason": self._stop_reason()})

    def _message(self, content: list[JsonObject], usage: JsonObject) -> JsonObject:
        return {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self._call.model,
            "content": content,
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage,
        }

    def _usage_object(self) -> JsonObject:
        return usage_object(self._usage or replace(self._known_input(), output_tokens=ceil(self._size / 4)))

    def _known_input(self) -> Usage:
        return self._input or Usage(input_tokens=self._call.input_estimate)

    def _stop_reason(self) -> str:
        return "refusal" if self._is_refused else STOP_REASONS.get(self._reason, "end_turn")

    def _begin(self, out: list[bytes]) -> None:
        if not self._is_begun:
            self._is_begun = True
            usage = usage_object(self._known_input())
            out.append(_event({"type": "message_start", "message": self._message([], usage)}))

    def _add(self, event: Event, out: list[bytes]) -> None:
        if isinstance(event, UsageReported):
            self._usage = event.usage
            return
        self._begin(out)
        if isinstance(event, Started) or event.choice:
            return
        if isinstance(event, TextDelta | ImageMade):  # an answer of this dialect holds no images
            self._add_text("text", {"type": "text_delta", "text": event.text}, event.text, out)
        elif isinstance(event, ToolArgumentsDelta):
            tool = self._tools.get(event.index)
            if tool is not None and event.text:
                delta = {"type": "input_json_delta", "partial_json": event.text}
                tool.progress.feed(event.text)
                self._add_piece(tool, delta, event.text, out)
        elif isinstance(event, ToolCallStarted):
            self._close(out)
            head = {"type": "tool_use", "id": event.id, "name": event.name, "input": {}}
            tool = self._tools[event.index] = self._open("tool_use", head, out)
            self._open_tools.append(tool)
        elif isinstance(event, ReasoningDelta):
            self._add_reasoning(event, out)
        elif isinstance(event, RefusalDelta):
            self._is_refused = True
            self._add_text("text", {"type": "text_delta", "text": event.text}, event.text, out)
        elif isinstance(event, Finished):
            self._reason = self._reason or event.reason

    def _add_reasoning(self, event: ReasoningDelta, out: list[bytes]) -> None:
        if event.redacted:
            self._close(out)
            block = self._open("redacted_thinking", {"type": "redacted_thinking", "data": event.redacted}, out)
            self._end(block, out)
            return
        self._add_text("thinking", {"type": "thinking_delta", "thinking": event.text}, event.text, out)
        if event.signature:
            if self._current is None or self._current.kind != "thinking":  # a signature without visible thinking
                self._close(out)
                self._current = self._open("thinking", _head("thinking"), out)
            self._current.signature = event.signature
            delta = {"type": "signature_delta", "signature": event.signature}
            self._add_piece(self._current, delta, "", out)
            self._close(out)

    def _add_text(self, kind: str, delta: JsonObject, text: str, out: list[bytes]) -> None:
        if not text:
            return
        if self._current is None or self._current.kind != kind:
            self._close(out)
            self._current = self._open(kind, _head(kind), out)
        self._add_piece(self._current, delta, text, out)

    def _add_piece(self, block: _Block, delta: JsonObject, text: str, out: list[bytes]) -> None:
        if text:
            block.pieces.append(text)
            self._size += len(text)
        out.append(_event({"type": "content_block_delta", "index": block.index, "delta": delta}))

    def _open(self, kind: str, head: JsonObject, out: list[bytes]) -> _Block:
        block = _Block(len(self._blocks), kind, head)
        self._blocks.append(block)
        out.append(_event({"type": "content_block_start", "index": block.index, "content_block": head}))
        return block

    def _close(self, out: list[bytes], *, is_last: bool = False) -> None:
        """Ends the open text or thinking, and the tool calls whose arguments are complete: an upstream may write
        several calls at the same time."""
        if self._current is not None:
            self._end(self._current, out)
            self._current = None
        ended = [tool for tool in self._open_tools if is_last or tool.has_whole_input()]
        for tool in ended:
            self._end(tool, out)
            self._open_tools.remove(tool)

    def _end(self, block: _Block, out: list[bytes]) -> None:
        out.append(_event({"type": "content_block_stop", "index": block.index}))


def _head(kind: str) -> JsonObject:
    return {"type": "text", "text": ""} if kind == "text" else {"type": kind, "thinking": "", "signature": ""}


def _event(body: JsonObject) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (body["type"].encode(), orjson.dumps(body))


# Faults → errors

ERROR_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
ERROR_CODES = {"overloaded": "overloaded_error"}


def error_object(fault: Fault, request_id: str = "") -> JsonObject:
    kind = ERROR_CODES.get(fault.code or "") or ERROR_TYPES.get(fault.status)
    kind = kind or ("invalid_request_error" if 400 <= fault.status < 500 else "api_error")
    error: JsonObject = {"type": "error", "error": {"type": kind, "message": anthropic_text(fault)}}
    return {**error, "request_id": request_id} if request_id else error


def error_body(fault: Fault, request_id: str = "") -> bytes:
    return orjson.dumps(error_object(fault, request_id))


def error_event(fault: Fault, request_id: str = "") -> bytes:
    return _event(error_object(fault, request_id))


class AnthropicMessages:
    name = WIRE
    wire = WIRE
    operation = Operation.CHAT
    error_body = staticmethod(error_body)
    error_event = staticmethod(error_event)

    def decode(self, raw: bytes, hints: Hints) -> Call:
        return self._decode(raw, hints, ("model", "max_tokens", "messages"))

    def decode_count(self, raw: bytes, hints: Hints) -> Call:
        """Decodes a request to /v1/messages/count_tokens."""
        return self._decode(raw, hints, ("model", "messages"))

    def chat_request(self, call: Call) -> items.ChatRequest:
        return read_chat_request(call.body)

    def answer(self, call: Call, context: AttemptContext) -> MessagesAnswer:
        return MessagesAnswer(call, context.new_id("msg_"))

    def transcripts(self, call: Call) -> Callable[[], MessagesTranscript] | None:
        if not may_continue(call.body):
            return None
        # read now: the body is released before another attempt begins
        return partial(MessagesTranscript, read_stops(call.body.get("stop_sequences")))

    def with_cost(self, call: Call, ending: bytes, cost: AnswerCost) -> bytes:
        return ending  # the usage of this format leaves before the end

    def unsupported_fields(self, call: Call) -> tuple[str, ...]:
        """Fields of the request that no other format has and that its ChatRequest therefore lacks."""
        names = tuple(name for name in UNSUPPORTED_FIELDS if call.body.get(name) is not None)
        return (*names, "anthropic_beta") if call.betas else names

    def _decode(self, raw: bytes, hints: Hints, required: tuple[str, ...]) -> Call:
        body = parse_object(raw)
        fields.check_fields(body, CHECKS, required)
        openai_wire.refuse_redirection({name: value for name, value in body.items() if name not in CALLER_DATA})
        end_user, tags, metadata = openai_wire.read_caller_data(body, hints)
        stream = bool(body.get("stream"))
        return Call(
            operation=self.operation,
            dialect=self,
            model=body["model"],
            stream=stream,
            include_usage=stream,  # a stream of this format always reports usage
            body=body_of(raw, body),
            raw=raw,
            input_estimate=estimate_request(body),
            end_user=end_user,
            tags=tags,
            metadata=metadata,
            application=hints.application,
            betas=_betas(body, hints) if hints.betas or "anthropic_beta" in body else (),
        )


def _betas(body: JsonMapping, hints: Hints) -> tuple[str, ...]:
    """The betas that the header names, and those of the body, for clients that cannot set headers."""
    names = read_betas(hints.betas, "anthropic-beta") + read_betas(body.get("anthropic_beta") or "", "anthropic_beta")
    return tuple(dict.fromkeys(names))


DIALECT = AnthropicMessages()
