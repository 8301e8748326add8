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

from gateway.protocol import items
from gateway.protocol.attempt_context import Fetched
from gateway.protocol.capabilities import Capabilities
from gateway.protocol.dialects.anthropic.json_schema import strict_schema
from gateway.protocol.dialects.anthropic.wire import unsupported
from gateway.protocol.dialects.shared.call_arguments import read_arguments
from gateway.protocol.dialects.shared.call_ids import CallIds, Unanswered
from gateway.protocol.dialects.shared.system_text import system_texts
from gateway.protocol.errors import BadRequest
from gateway.protocol.json.types import Json, JsonMapping, JsonObject
from gateway.protocol.usage import MAX_TOKENS

JSON_TOOL = "json_output"  # a JSON schema is expressed by this tool where the model has no structured output
MAX_BREAKPOINTS, MIN_BUDGET = 4, 1024
BUDGETS = {"minimal": 1024, "low": 1024, "medium": 2048, "high": 4096, "xhigh": 8192, "max": 16384}
EFFORTS = {"minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "xhigh", "max": "max"}
IMAGES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})
TIERS = {"auto": "auto", "default": "standard_only", "priority": "auto"}
TOOL_ID = re.compile(r"[a-zA-Z0-9_-]+")
PERSONAL = re.compile(r".*@.*|\+?[\d\s().-]{7,}")  # an e-mail address or a telephone number, which may not be sent
FILLER = {"type": "text", "text": "."}
ONLY_JSON = "Respond with one JSON object only."
NO_FETCHED: Mapping[str, Fetched] = {}


@dataclass(frozen=True, slots=True)
class EncodedRequest:
    """A request's body without `model`, and what the answer's decoder must know of it."""

    body: JsonObject
    dropped: tuple[str, ...] = ()
    json_tool: str = ""
    custom_tools: frozenset[str] = frozenset()


def encode_request(
    conversation: items.ChatRequest,
    capabilities: Capabilities,
    *,
    stream: bool = False,
    fetched: Mapping[str, Fetched] = NO_FETCHED,
) -> EncodedRequest:
    """Raises BadRequest for what Claude cannot take, and for any dropped field where the deployment says so."""
    return _RequestEncoder(conversation, capabilities, fetched).encode(stream)


class _RequestEncoder:
    def __init__(self, asked: items.ChatRequest, can: Capabilities, fetched: Mapping[str, Fetched]) -> None:
        self._asked = asked
        self._can = can
        self._fetched = fetched
        self._dropped: list[str] = []

    def encode(self, stream: bool) -> EncodedRequest:
        asked = self._asked
        if (asked.n or 1) > 1:
            raise unsupported("This model gives one choice a call: 'n' must be 1.", "n")
        tools, choice, json_tool = self._tools()
        turns = _Turns(self._blocks, has_system_role=self._can.system_role)
        for message in asked.messages:
            turns.add(message)
        messages, is_prefilled = turns.finish(may_prefill=self._can.prefill)
        forced = choice is not None and choice["type"] in {"any", "tool"}
        thinking, effort, max_tokens = self._thinking(may_think=not forced and not is_prefilled)
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
        if asked.output is not None and asked.output.kind == "json_schema" and self._can.structured == "native":
            config["format"] = {
                "type": "json_schema",
                "schema": strict_schema(asked.output.schema or {}),
            }
        if config:
            body["output_config"] = config
        self._name_caller(body)
        if asked.cache is not None:
            body["cache_control"] = _cache_control(asked.cache)
        if stream:
            body["stream"] = True
        self._drop_the_rest()
        _bound_breakpoints(body)
        customs = frozenset(tool.name for tool in asked.tools if tool.kind == "custom")
        return EncodedRequest(body, tuple(dict.fromkeys(self._dropped)), json_tool, customs)

    def _drop(self, name: str) -> None:
        if self._can.on_unsupported == "error":
            raise unsupported(f"'{name}' is not supported by this model.", name)
        self._dropped.append(name)

    def _drop_the_rest(self) -> None:
        asked = self._asked
        if asked.seed is not None:
            self._drop("seed")
        for name in ("presence_penalty", "frequency_penalty", "logprobs", "top_logprobs", "logit_bias"):
            if getattr(asked, name):
                self._drop(name)
        for name in asked.others:
            self._drop(name)

    # Tools

    def _tools(self) -> tuple[list[JsonObject], JsonObject | None, str]:
        """(tools, tool_choice, the name of the tool that carries structured output)."""
        asked = self._asked
        wish = asked.tool_choice
        allowed = frozenset(wish.allowed) if wish is not None else frozenset()
        chosen = [tool for tool in asked.tools if not allowed or tool.name in allowed]
        tools = [_tool(tool) for tool in chosen]
        choice: JsonObject | None = None
        if wish is not None and tools:
            if wish.mode == "named":
                choice = {"type": "tool", "name": wish.name}
            else:
                choice = {"type": {"auto": "auto", "required": "any", "none": "none"}[wish.mode]}
        json_tool = ""
        if asked.output is not None and asked.output.kind == "json_schema" and self._can.structured == "tool":
            if choice is None or choice["type"] != "tool":
                json_tool = JSON_TOOL
                may_call = bool(tools) and (choice is None or choice["type"] != "none")
                choice = {"type": "any"} if may_call else {"type": "tool", "name": JSON_TOOL}
                tools.append({"name": JSON_TOOL, "input_schema": _object_schema(asked.output.schema)})
            else:
                self._drop("response_format")
        if asked.parallel_tools is False and tools:
            choice = choice or {"type": "auto"}
            if choice["type"] != "none":
                choice["disable_parallel_tool_use"] = True
        return tools, choice, json_tool

    def _json_instruction(self) -> list[JsonObject]:
        output = self._asked.output
        if output is None:
            return []
        if output.kind == "json_object":
            return [{"type": "text", "text": ONLY_JSON}]
        if self._can.structured == "prompt":
            schema = json.dumps(output.schema or {}, ensure_ascii=False)
            return [{"type": "text", "text": f"{ONLY_JSON} It must follow this JSON schema:\n{schema}"}]
        if self._can.structured not in {"native", "tool"}:
            self._drop("response_format")
        return []

    # Thinking, limits and sampling

    def _thinking(self, *, may_think: bool) -> tuple[JsonObject | None, str, int]:
        """(thinking, effort, max_tokens)."""
        asked, cap = self._asked, self._can.max_output_tokens or MAX_TOKENS
        given = min(asked.max_tokens, cap) if asked.max_tokens else None
        default = min(self._can.default_max_tokens, cap)
        name = "reasoning_effort" if asked.thinking is None else "thinking"
        kind, budget, effort = self._wish()
        if not kind:
            return None, "", given or default
        if kind == "disabled":
            return {"type": "disabled"}, "", given or default
        if not may_think or (kind == "enabled" and self._lacks_reasoning()):
            if not effort:
                self._drop(name)
            return None, effort, given or default
        if given is not None:
            max_tokens = given
        elif self._can.max_output_tokens:
            max_tokens = self._can.max_output_tokens
        else:
            max_tokens = default if budget < default else budget + default
        made: JsonObject = {"type": kind}
        if kind == "enabled":
            budget = min(budget, max_tokens - 1)
            if budget < MIN_BUDGET:
                self._drop(name)
                return None, effort, max_tokens
            made["budget_tokens"] = budget
        if asked.thinking is not None and asked.thinking.get("display") is not None:
            made["display"] = asked.thinking["display"]
        return made, effort, max_tokens

    def _wish(self) -> tuple[str, int, str]:
        """(kind of thinking, budget, effort) that were asked for, in this model's own way of thinking."""
        asked, way = self._asked, self._can.thinking
        name = asked.reasoning_effort
        adaptive_effort = EFFORTS.get(name, "") if way == "adaptive" else ""
        if asked.thinking is None:
            if not name:
                return "", 0, ""
            if way not in {"budget", "adaptive"} or name not in {"none", *EFFORTS}:
                self._drop("reasoning_effort")
                return "", 0, ""
            if name == "none":
                return ("disabled" if way == "adaptive" else ""), 0, ""
            return ("adaptive" if way == "adaptive" else "enabled"), BUDGETS[name], adaptive_effort
        kind = asked.thinking.get("type")
        if way not in {"budget", "adaptive"}:
            if kind != "disabled":
                self._drop("thinking")
            return "", 0, ""
        if kind == "disabled":
            return "disabled", 0, adaptive_effort
        if kind == "enabled" and way == "budget":
            budget = asked.thinking.get("budget_tokens")
            return "enabled", budget if type(budget) is int else BUDGETS["medium"], ""
        if kind == "adaptive" and way == "budget":
            return "enabled", BUDGETS.get(name, BUDGETS["high"]), ""
        return ("adaptive" if kind == "enabled" else str(kind)), 0, adaptive_effort

    def _lacks_reasoning(self) -> bool:
        """With a budget, a last assistant turn that calls tools must begin with its thinking."""
        last = next((item for item in reversed(self._asked.messages) if isinstance(item, items.Assistant)), None)
        if last is None or not last.tool_calls:
            return False
        return not any(block.signature or block.redacted for block in last.reasoning)

    def _sample(self, body: JsonObject, *, is_thinking: bool) -> None:
        asked, way = self._asked, self._can.sampling
        if asked.temperature is not None:
            if way == "none" or is_thinking:
                self._drop("temperature")
            else:
                body["temperature"] = min(asked.temperature, 1.0)
        if asked.top_p is not None:
            if way == "none" or (is_thinking and asked.top_p < 0.95) or (way == "one_of" and "temperature" in body):
                self._drop("top_p")
            else:
                body["top_p"] = asked.top_p
        if asked.top_k is not None:
            if way == "none" or is_thinking:
                self._drop("top_k")
            else:
                body["top_k"] = asked.top_k
        stops = [stop for stop in asked.stop if stop.strip()]
        if len(stops) < len(asked.stop):
            self._drop("stop")
        if stops:
            body["stop_sequences"] = stops

    def _name_caller(self, body: JsonObject) -> None:
        user, tier = self._asked.user, self._asked.service_tier
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
        """Blank texts are left out: they are refused."""
        return [self._block(part) for part in parts if not isinstance(part, items.Text) or part.text.strip()]

    def _block(self, part: items.Part) -> JsonObject:
        if isinstance(part, items.Text):
            block: JsonObject = {"type": "text", "text": part.text}
        elif isinstance(part, items.Image):
            if not self._can.vision:
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
    """Messages as Claude takes them: user and assistant in turn, each tool call answered in the very next message."""

    def __init__(self, blocks: Callable[[Iterable[items.Part]], list[JsonObject]], *, has_system_role: bool) -> None:
        self.system: list[JsonObject] = []
        self._blocks = blocks
        self._has_system_role = has_system_role
        self._messages: list[JsonObject] = []
        self._is_leading = True
        self._is_open = False  # something was said since the last assistant message
        self._said: list[JsonObject] = []
        self._results: list[JsonObject] = []
        self._later: list[JsonObject] = []  # system messages that wait for the results of tools
        self._pending = Unanswered()
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
            self._is_open = True
            self._add_result(message)
        else:
            self._is_open = True
            self._said += self._blocks(message.parts)

    def finish(self, *, may_prefill: bool) -> tuple[list[JsonObject], bool]:
        """(messages, whether the last one is the beginning of the answer)."""
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
            self._is_open = True
            self._said += [{**block, "text": f"<system>{block['text']}</system>"} for block in blocks]
        elif blocks:
            later = {"role": "system", "content": blocks}
            if self._pending:
                self._later.append(later)
            else:
                self._end_user()
                self._messages.append(later)

    def _add_result(self, message: items.ToolResult) -> None:
        blocks = self._blocks(message.parts)
        sent_id = self._pending.answer(message.tool_call_id)
        if sent_id is None:  # of no call in the message before: refused as a result
            self._said += blocks
            return
        block: JsonObject = {"type": "tool_result", "tool_use_id": sent_id}
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
            elif reasoning.signature:  # without one it is another provider's, or was never meant to come back
                blocks.append({"type": "thinking", "thinking": reasoning.text, "signature": reasoning.signature})
        blocks += self._blocks(message.parts)
        if message.refusal.strip():
            blocks.append({"type": "text", "text": message.refusal})
        for call in message.tool_calls:
            sent_id = self._ids.sent(call.id)
            self._pending.add(call.id, sent_id)
            blocks.append({"type": "tool_use", "id": sent_id, "name": call.name, "input": _input(call)})
        return blocks

    def _end_user(self) -> None:
        unanswered = self._pending.end()
        for sent_id in unanswered:
            missing = {"type": "tool_result", "tool_use_id": sent_id, "content": "no result", "is_error": True}
            self._results.append(missing)
        if self._is_open or unanswered:
            self._append("user", self._results + self._said)
        self._messages += self._later
        self._is_open = False
        self._said, self._results, self._later = [], [], []

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


def _bound_breakpoints(body: JsonObject) -> None:
    """More marks than are allowed lose the first: a later one covers what stands before it."""
    blocks = [*body.get("tools", ()), *(body["system"] if type(body.get("system")) is list else ())]
    blocks += [block for message in body["messages"] for block in message["content"]]
    marked = [block for block in blocks if "cache_control" in block]
    for block in marked[: max(0, len(marked) + ("cache_control" in body) - MAX_BREAKPOINTS)]:
        del block["cache_control"]


def _input(call: items.ToolCall) -> Json:
    """A tool call's arguments as an object; numbers keep their digits."""
    if call.kind == "custom":
        return {"input": call.arguments}
    if not call.arguments.strip():
        return {}
    is_object = type(read_arguments(call)) is dict
    return orjson.Fragment(call.arguments) if is_object else {"_raw": call.arguments}


def _object_schema(schema: JsonMapping | None) -> JsonObject:
    return {"type": "object", **(schema or {"properties": {}})}


def _tool(tool: items.Tool) -> JsonObject:
    made: JsonObject = {"name": tool.name}
    if tool.description:
        made["description"] = tool.description
    if tool.kind == "custom":  # free text, as the one property of an object
        schema: JsonObject = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}
        made["input_schema"] = schema
    else:
        made["input_schema"] = _object_schema(tool.schema)
    if tool.strict:
        made["strict"] = True
    if tool.cache is not None:
        made["cache_control"] = _cache_control(tool.cache)
    return made
