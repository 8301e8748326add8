"""ChatRequest → request in Anthropic's Messages format.

Source: https://platform.claude.com/docs/en/api/messages and the types of the `anthropic` package 2.10.0; each field's
decision is in docs/dialects/anthropic.md.
"""

import base64
import binascii
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import orjson

from gateway.protocol import freeform, items
from gateway.protocol.attempt_context import Fetched
from gateway.protocol.capabilities import Capabilities
from gateway.protocol.dialects.anthropic.cache_breakpoints import add_breakpoints
from gateway.protocol.dialects.anthropic.json_schema import strict_schema
from gateway.protocol.dialects.anthropic.wire import unsupported
from gateway.protocol.dialects.shared.call_arguments import read_arguments
from gateway.protocol.dialects.shared.call_ids import CallIds, UnansweredCalls
from gateway.protocol.dialects.shared.system_text import system_texts
from gateway.protocol.errors import BadRequest
from gateway.protocol.json.types import Json, JsonMapping, JsonObject
from gateway.protocol.usage import MAX_TOKENS

#: A model without structured output follows a schema by calling this tool: its input is the answer.
JSON_TOOL = "json_output"
MAX_BREAKPOINTS, MIN_BUDGET = 4, 1024
BUDGETS = {"minimal": 1024, "low": 1024, "medium": 2048, "high": 4096, "xhigh": 8192, "max": 16384}
EFFORTS = {"minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "xhigh", "max": "max"}
IMAGES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})
TIERS = {"auto": "auto", "default": "standard_only", "priority": "auto"}
TOOL_ID = re.compile(r"[a-zA-Z0-9_-]+")
PERSONAL = re.compile(r".*@.*|\+?[\d\s().-]{7,}")  # e-mail addresses and telephone numbers, which Anthropic forbids
FILLER = {"type": "text", "text": "."}
ONLY_JSON = "Respond with one JSON object only."
NO_FETCHED: Mapping[str, Fetched] = {}


@dataclass(frozen=True, slots=True)
class EncodedRequest:
    """A request's body without `model`, with the names of the tools that the answer's decoder treats apart."""

    body: JsonObject
    dropped: tuple[str, ...] = ()
    json_tool: str = ""  # its input is the answer
    custom_tools: frozenset[str] = frozenset()  # their input is free text


def encode_request(
    request: items.ChatRequest,
    capabilities: Capabilities,
    *,
    stream: bool = False,
    fetched: Mapping[str, Fetched] = NO_FETCHED,
) -> EncodedRequest:
    """Raises BadRequest for content that the model cannot take, and, where the deployment wants no parameter dropped,
    for the first one that would be."""
    return _RequestEncoder(request, capabilities, fetched).encode(stream)


def find_answer_tools(request: items.ChatRequest, capabilities: Capabilities) -> tuple[str, frozenset[str]]:
    """(json_tool, custom_tools) of the encoded request, without its messages."""
    _, _, json_tool = _RequestEncoder(request, capabilities, NO_FETCHED).encode_tools()
    return json_tool, frozenset(tool.name for tool in request.tools if tool.kind == "custom")


class _RequestEncoder:
    """Encodes one request."""

    def __init__(self, request: items.ChatRequest, capabilities: Capabilities, fetched: Mapping[str, Fetched]) -> None:
        self._request = request
        self._capabilities = capabilities
        self._fetched = fetched
        self._dropped: list[str] = []

    def encode(self, stream: bool) -> EncodedRequest:
        request = self._request
        if (request.n or 1) > 1:
            raise unsupported("This model gives one choice a call: 'n' must be 1.", "n")
        tools, choice, json_tool = self.encode_tools()
        turns = _Turns(self._blocks, has_system_role=self._capabilities.system_role)
        for message in request.messages:
            turns.add(message)
        messages, is_prefilled = turns.finish(may_prefill=self._capabilities.prefill)
        is_forced = choice is not None and choice["type"] in {"any", "tool"}
        thinking, effort, max_tokens = self._thinking(may_think=not is_forced and not is_prefilled)
        body: JsonObject = {"max_tokens": max_tokens, "messages": messages}
        system = turns.system + self._json_instruction()
        if len(system) == 1 and "cache_control" not in system[0]:
            body["system"] = system[0]["text"]
        elif system:
            body["system"] = system
        if tools:
            body["tools"] = tools
        if choice is not None:
            body["tool_choice"] = choice
        if thinking is not None:
            body["thinking"] = thinking
        self._sample(body, is_thinking=thinking is not None and thinking.get("type") != "disabled")
        config: JsonObject = {"effort": effort} if effort else {}
        schema = self._schema("native")
        if schema is not None:
            config["format"] = {"type": "json_schema", "schema": strict_schema(schema)}
        if config:
            body["output_config"] = config
        self._set_user_and_tier(body)
        if request.cache is not None:
            body["cache_control"] = _cache_control(request.cache)
        if stream:
            body["stream"] = True
        self._drop_unknown()
        _limit_breakpoints(body)
        if self._capabilities.cache_breakpoints:
            add_breakpoints(body, self._capabilities.cache_minimum_tokens)
        custom_tools = frozenset(tool.name for tool in request.tools if tool.kind == "custom")
        return EncodedRequest(body, tuple(dict.fromkeys(self._dropped)), json_tool, custom_tools)

    def _drop(self, name: str) -> None:
        if self._capabilities.on_unsupported == "error":
            raise unsupported(f"'{name}' is not supported by this model.", name)
        self._dropped.append(name)

    def _drop_unknown(self) -> None:
        options = self._request.options()
        if "seed" in options:
            self._drop("seed")
        for name in ("presence_penalty", "frequency_penalty", "logprobs", "top_logprobs", "logit_bias"):
            if options.get(name):
                self._drop(name)
        for name in self._request.others:
            self._drop(name)

    def _schema(self, way: str) -> JsonMapping | None:
        """The JSON schema of the answer, if the model follows one this way: native or tool."""
        output = self._request.output
        is_wanted = output is not None and output.kind == "json_schema" and self._capabilities.structured == way
        return (output.schema or {}) if output is not None and is_wanted else None

    # Tools

    def encode_tools(self) -> tuple[list[JsonObject], JsonObject | None, str]:
        """(tools, tool_choice, the name of the tool that carries structured output)."""
        request = self._request
        tool_choice = request.tool_choice
        allowed = frozenset(tool_choice.allowed) if tool_choice is not None else frozenset()
        tools = [_tool(tool) for tool in request.tools if not allowed or tool.name in allowed]
        choice: JsonObject | None = None
        if tool_choice is not None and tools:
            if tool_choice.mode == "named":
                choice = {"type": "tool", "name": tool_choice.name}
            else:
                choice = {"type": {"auto": "auto", "required": "any", "none": "none"}[tool_choice.mode]}
        json_tool = ""
        schema = self._schema("tool")
        if schema is not None:
            if choice is None or choice["type"] != "tool":
                json_tool = JSON_TOOL
                may_call = bool(tools) and (choice is None or choice["type"] != "none")
                choice = {"type": "any"} if may_call else {"type": "tool", "name": JSON_TOOL}
                tools.append({"name": JSON_TOOL, "input_schema": _object_schema(schema)})
            else:
                self._drop("response_format")
        if request.parallel_tools is False and tools:
            choice = choice or {"type": "auto"}
            if choice["type"] != "none":
                choice["disable_parallel_tool_use"] = True
        return tools, choice, json_tool

    def _json_instruction(self) -> list[JsonObject]:
        output = self._request.output
        if output is None:
            return []
        if output.kind == "json_object":
            return [{"type": "text", "text": ONLY_JSON}]
        if self._capabilities.structured == "prompt":
            schema = json.dumps(output.schema or {}, ensure_ascii=False)
            return [{"type": "text", "text": f"{ONLY_JSON} It must follow this JSON schema:\n{schema}"}]
        if self._capabilities.structured not in {"native", "tool"}:
            self._drop("response_format")
        return []

    # Thinking, limits and sampling

    def _thinking(self, *, may_think: bool) -> tuple[JsonObject | None, str, int]:
        """(thinking, effort, max_tokens)."""
        request, max_limit = self._request, self._capabilities.max_output_tokens or MAX_TOKENS
        limit = min(request.max_tokens, max_limit) if request.max_tokens else None
        default = min(self._capabilities.default_max_tokens, max_limit)
        name = "reasoning_effort" if request.thinking is None else "thinking"
        kind, budget, effort = self._requested_thinking()
        if not kind:
            return None, "", limit or default
        if kind == "disabled":
            return {"type": "disabled"}, "", limit or default
        if not may_think or (kind == "enabled" and self._lacks_reasoning()):
            if not effort:
                self._drop(name)
            return None, effort, limit or default
        if limit is not None:
            max_tokens = limit
        elif self._capabilities.max_output_tokens:
            max_tokens = self._capabilities.max_output_tokens
        else:
            max_tokens = default if budget < default else budget + default
        thinking: JsonObject = {"type": kind}
        if kind == "enabled":
            budget = min(budget, max_tokens - 1)
            if budget < MIN_BUDGET:
                self._drop(name)
                return None, effort, max_tokens
            thinking["budget_tokens"] = budget
        if request.thinking is not None and request.thinking.get("display") is not None:
            thinking["display"] = request.thinking["display"]
        return thinking, effort, max_tokens

    def _requested_thinking(self) -> tuple[str, int, str]:
        """(kind of thinking, budget, effort) that the client asks for, in the terms that this model understands."""
        request, mode = self._request, self._capabilities.thinking
        effort_name = request.reasoning_effort
        adaptive_effort = EFFORTS.get(effort_name, "") if mode == "adaptive" else ""
        if request.thinking is None:
            if not effort_name:
                return "", 0, ""
            if mode not in {"budget", "adaptive"} or effort_name not in {"none", *EFFORTS}:
                self._drop("reasoning_effort")
                return "", 0, ""
            if effort_name == "none":
                return ("disabled" if mode == "adaptive" else ""), 0, ""
            return ("adaptive" if mode == "adaptive" else "enabled"), BUDGETS[effort_name], adaptive_effort
        kind = request.thinking.get("type")
        if mode not in {"budget", "adaptive"}:
            if kind != "disabled":
                self._drop("thinking")
            return "", 0, ""
        if kind == "disabled":
            return "disabled", 0, adaptive_effort
        if kind == "enabled" and mode == "budget":
            budget = request.thinking.get("budget_tokens")
            return "enabled", budget if type(budget) is int else BUDGETS["medium"], ""
        if kind == "adaptive" and mode == "budget":
            return "enabled", BUDGETS.get(effort_name, BUDGETS["high"]), ""
        return ("adaptive" if kind == "enabled" else str(kind)), 0, adaptive_effort

    def _lacks_reasoning(self) -> bool:
        """True where the last assistant turn calls tools without the thinking before them, which a budget demands."""
        last = next((item for item in reversed(self._request.messages) if isinstance(item, items.Assistant)), None)
        if last is None or not last.tool_calls:
            return False
        return not any(block.signature or block.redacted for block in last.reasoning)

    def _sample(self, body: JsonObject, *, is_thinking: bool) -> None:
        request, sampling = self._request, self._capabilities.sampling
        if request.temperature is not None:
            if sampling == "none" or is_thinking:
                self._drop("temperature")
            else:
                body["temperature"] = min(request.temperature, 1.0)
        if request.top_p is not None:
            is_excluded = sampling == "none" or (sampling == "one_of" and "temperature" in body)
            if is_excluded or (is_thinking and request.top_p < 0.95):
                self._drop("top_p")
            else:
                body["top_p"] = request.top_p
        if request.top_k is not None:
            if sampling == "none" or is_thinking:
                self._drop("top_k")
            else:
                body["top_k"] = request.top_k
        stops = [stop for stop in request.stop if stop.strip()]
        if len(stops) < len(request.stop):
            self._drop("stop")
        if stops:
            body["stop_sequences"] = stops

    def _set_user_and_tier(self, body: JsonObject) -> None:
        user, tier = self._request.user, self._request.service_tier
        if user:
            if not isinstance(user, str) or len(user) > 256 or PERSONAL.fullmatch(user):
                self._drop("user")
            else:
                body["metadata"] = {"user_id": user}
        if tier:
            if isinstance(tier, str) and tier in TIERS:
                body["service_tier"] = TIERS[tier]
            else:
                self._drop("service_tier")

    # Parts

    def _blocks(self, parts: Iterable[items.Part]) -> list[JsonObject]:
        """The parts without blank texts, which Anthropic refuses."""
        return [self._block(part) for part in parts if not isinstance(part, items.Text) or part.text.strip()]

    def _block(self, part: items.Part) -> JsonObject:
        if isinstance(part, items.Text):
            block: JsonObject = {"type": "text", "text": part.text}
        elif isinstance(part, items.Image):
            if not self._capabilities.vision:
                raise unsupported("This model takes no images.", "messages")
            block = {"type": "image", "source": self._image_source(part)}
        elif isinstance(part, items.Audio):
            raise unsupported("This model takes no audio.", "messages")
        else:
            block = self._document(part)
        if part.cache is not None:
            block["cache_control"] = _cache_control(part.cache)
        return block

    def _image_source(self, image: items.Image) -> JsonObject:
        fetched = self._fetched.get(image.url) if image.url else None
        if fetched is None and image.url:
            return {"type": "url", "url": image.url}
        media_type = fetched.media_type if fetched else image.media_type
        media_type = media_type.lower().replace("image/jpg", "image/jpeg")
        if media_type not in IMAGES:
            raise unsupported(f"This model takes no images of the type {media_type[:40]!r}.", "messages")
        return {"type": "base64", "media_type": media_type, "data": fetched.data if fetched else image.data}

    def _document(self, file: items.File) -> JsonObject:
        if file.file_id:
            kind = "image" if file.media_type.startswith("image/") else "document"
            return {"type": kind, "source": {"type": "file", "file_id": file.file_id}}
        fetched = self._fetched.get(file.url) if file.url else None
        data = fetched.data if fetched else file.data
        media_type = (fetched.media_type if fetched else file.media_type).lower()
        if not media_type and (file.filename.lower().endswith(".pdf") or data.startswith("JVBERi0")):
            media_type = "application/pdf"
        if media_type.startswith("image/"):
            return {"type": "image", "source": self._image_source(items.Image(file.url, data, media_type))}
        block: JsonObject = {"type": "document"}
        if file.filename:
            block["title"] = file.filename
        if file.url and fetched is None:
            block["source"] = {"type": "url", "url": file.url}
        elif media_type == "application/pdf":
            block["source"] = {"type": "base64", "media_type": media_type, "data": data}
        elif media_type.startswith("text/"):
            try:
                text = base64.b64decode(data).decode()
            except (binascii.Error, UnicodeDecodeError):
                raise BadRequest("A text file must be UTF-8 in base64.", param="messages") from None
            block["source"] = {"type": "text", "media_type": "text/plain", "data": text}
        else:
            raise unsupported(f"This model takes no files of the type {media_type[:40]!r}.", "messages")
        return block


class _Turns:
    """Arranges messages as Claude takes them: user and assistant in turn, the next message answers each tool call."""

    def __init__(self, blocks: Callable[[Iterable[items.Part]], list[JsonObject]], *, has_system_role: bool) -> None:
        self.system: list[JsonObject] = []
        self._blocks = blocks
        self._has_system_role = has_system_role
        self._messages: list[JsonObject] = []
        self._is_leading = True  # only system messages so far
        self._has_user = False  # a user message or tool result follows the last assistant message
        self._user_blocks: list[JsonObject] = []
        self._results: list[JsonObject] = []
        self._later: list[JsonObject] = []  # system messages that wait for the results of tools
        self._pending = UnansweredCalls()
        self._ids = CallIds(TOOL_ID, "toolu_")

    def add(self, message: items.System | items.User | items.Assistant | items.ToolResult) -> None:
        if isinstance(message, items.System):
            self._add_system(message)
            return
        self._is_leading = False
        if isinstance(message, items.Assistant):
            self._end_user()
            self._append("assistant", self._assistant(message))
        elif isinstance(message, items.ToolResult):
            self._has_user = True
            self._add_result(message)
        else:
            self._has_user = True
            self._user_blocks += self._blocks(message.parts)

    def finish(self, *, may_prefill: bool) -> tuple[list[JsonObject], bool]:
        """(messages, True where the last one is the beginning of the answer)."""
        self._end_user()
        messages = self._messages
        if not messages or messages[0]["role"] == "assistant":
            messages.insert(0, {"role": "user", "content": [FILLER]})
        last = messages[-1]
        if last["role"] != "assistant":
            return messages, False
        if not may_prefill:
            raise unsupported("This model cannot continue an assistant message: the last must be a user's.", "messages")
        if last["content"][-1]["type"] == "text":
            last["content"][-1]["text"] = last["content"][-1]["text"].rstrip()
        return messages, True

    def _add_system(self, message: items.System) -> None:
        blocks = self._blocks(system_texts(message))
        if self._is_leading:
            self.system += blocks
        elif not self._has_system_role:
            self._has_user = True
            self._user_blocks += [{**block, "text": f"<system>{block['text']}</system>"} for block in blocks]
        elif blocks:
            later = {"role": "system", "content": blocks}
            if self._pending:
                self._later.append(later)
            else:
                self._end_user()
                self._messages.append(later)

    def _add_result(self, message: items.ToolResult) -> None:
        blocks = self._blocks(message.parts)
        wire_id = self._pending.answer(message.tool_call_id)
        if wire_id is None:  # no call in the message before has this id: Anthropic would refuse the result
            self._user_blocks += blocks
            return
        block: JsonObject = {"type": "tool_result", "tool_use_id": wire_id}
        marks = [mark for inner in blocks if (mark := inner.pop("cache_control", None))]
        if len(blocks) == 1 and blocks[0]["type"] == "text":
            block["content"] = blocks[0]["text"]
        elif blocks:
            block["content"] = blocks
        if message.is_error:
            block["is_error"] = True
        if marks:
            block["cache_control"] = marks[-1]
        self._results.append(block)

    def _assistant(self, message: items.Assistant) -> list[JsonObject]:
        blocks: list[JsonObject] = []
        for reasoning in message.reasoning:
            if reasoning.redacted:
                blocks.append({"type": "redacted_thinking", "data": reasoning.redacted})
            elif reasoning.signature:  # unsigned reasoning is another provider's, which Anthropic refuses
                blocks.append({"type": "thinking", "thinking": reasoning.text, "signature": reasoning.signature})
        blocks += self._blocks(message.parts)
        if message.refusal.strip():
            blocks.append({"type": "text", "text": message.refusal})
        for call in message.tool_calls:
            wire_id = self._ids.assign(call.id)
            self._pending.add(call.id, wire_id)
            blocks.append({"type": "tool_use", "id": wire_id, "name": call.name, "input": _input(call)})
        return blocks

    def _end_user(self) -> None:
        unanswered = self._pending.end()
        for wire_id in unanswered:
            missing = {"type": "tool_result", "tool_use_id": wire_id, "content": "no result", "is_error": True}
            self._results.append(missing)
        if self._has_user or unanswered:
            self._append("user", self._results + self._user_blocks)
        self._messages += self._later
        self._has_user = False
        self._user_blocks, self._results, self._later = [], [], []

    def _append(self, role: str, blocks: list[JsonObject]) -> None:
        if not self._messages or self._messages[-1]["role"] != role:
            self._messages.append({"role": role, "content": blocks or [FILLER]})
            return
        content = self._messages[-1]["content"]
        if blocks and content[0] is FILLER:
            content.clear()
        content += blocks


def _cache_control(cache: items.Cache) -> JsonObject:
    return {"type": "ephemeral", "ttl": cache.ttl} if cache.ttl in {"5m", "1h"} else {"type": "ephemeral"}


def _limit_breakpoints(body: JsonObject) -> None:
    """Removes the earliest marks beyond the limit: a later one covers what stands before it."""
    blocks = [*body.get("tools", ()), *(body["system"] if type(body.get("system")) is list else ())]
    blocks += [block for message in body["messages"] for block in message["content"]]
    marked = [block for block in blocks if "cache_control" in block]
    for block in marked[: max(0, len(marked) + ("cache_control" in body) - MAX_BREAKPOINTS)]:
        del block["cache_control"]


def _input(call: items.ToolCall) -> Json:
    """A tool call's arguments as an object, its numbers with all their digits."""
    if call.kind == "custom":
        return {"input": call.arguments}
    if not call.arguments.strip():
        return {}
    is_object = type(read_arguments(call)) is dict
    return orjson.Fragment(call.arguments) if is_object else {"_raw": call.arguments}


def _object_schema(schema: JsonMapping | None) -> JsonObject:
    return {"type": "object", **(schema or {"properties": {}})}


def _tool(tool: items.Tool) -> JsonObject:
    encoded: JsonObject = {"name": tool.name}
    if tool.description:
        encoded["description"] = tool.description
    encoded["input_schema"] = freeform.SCHEMA if tool.kind == "custom" else _object_schema(tool.schema)
    if tool.strict:
        encoded["strict"] = True
    if tool.cache is not None:
        encoded["cache_control"] = _cache_control(tool.cache)
    return encoded
