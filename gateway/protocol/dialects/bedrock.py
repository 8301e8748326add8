"""Converse and ConverseStream: Conversation → request, answer → events, errors → classes.

Source: botocore's model bedrock-runtime 2023-09-30 (version 1.44.5) and
https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html; what is stated elsewhere only says
so at its place. Blobs travel as base64. What becomes of each parameter: docs/dialects/bedrock.md.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from gateway.protocol.capabilities import Capabilities
from gateway.protocol.dialects.event_stream import Frame, FrameSplitter, broken
from gateway.protocol.dialects.openai import classify
from gateway.protocol.errors import BadRequest, UpstreamFault, sanitize
from gateway.protocol.events import (
    Event,
    Finished,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolArgumentsDelta,
    ToolCallStarted,
    UsageReported,
)
from gateway.protocol.items import (
    Assistant,
    Audio,
    Cache,
    Conversation,
    File,
    Image,
    Part,
    Reasoning,
    System,
    Text,
    Tool,
    ToolCall,
    ToolResult,
)
from gateway.protocol.moment import Fetched
from gateway.protocol.translate import incomplete
from gateway.protocol.usage import MAX_TOKENS, Usage

Block = dict[str, Any]

#: The tool whose input is the answer, where a model has no other way to follow a schema.
ANSWER_TOOL = "json_output"
JSON_ONLY = "Respond with one JSON object only."
NO_TOOLS = "Do not call tools."
TOOL_ID = re.compile(r"[a-zA-Z0-9_.:-]{1,64}")
IMAGE_FORMATS = {"png": "png", "jpeg": "jpeg", "jpg": "jpeg", "gif": "gif", "webp": "webp"}
DOCUMENT_FORMATS = frozenset({"pdf", "csv", "doc", "docx", "xls", "xlsx", "html", "txt", "md"})
DOCUMENT_TYPES = {
    "application/pdf": "pdf",
    "text/csv": "csv",
    "application/msword": "doc",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "application/vnd.ms-excel": "xls",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
    "text/html": "html",
    "text/markdown": "md",
    "text/x-markdown": "md",
    "application/json": "txt",
}
BUDGETS = {"minimal": 1024, "low": 1024, "medium": 2048, "high": 4096, "xhigh": 8192, "max": 16384}
EFFORTS = {"minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "xhigh", "max": "max"}
MIN_BUDGET = 1024
MIN_THINKING_TOP_P = 0.95
MAX_CACHE_POINTS = 4
TIERS = frozenset({"default", "priority", "flex", "reserved"})
#: A client's extra object may set these members of the request and no others.
EXTRA = "bedrock"
EXTRA_MEMBERS = frozenset({"additionalModelRequestFields", "requestMetadata"})

FINISH_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "guardrail_intervened": "content_filter",
    "content_filtered": "content_filter",
}
MALFORMED = frozenset({"malformed_model_output", "malformed_tool_use"})
#: Nova shows this in place of its reasoning: https://docs.aws.amazon.com/nova/latest/nova2-userguide/reasoning-capabilities.html
REDACTED = "[REDACTED]"


def encode(
    conversation: Conversation, capabilities: Capabilities, *, model: str, fetched: Mapping[str, Fetched]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The request's body, and the names of the parameters that it could not carry.

    `model` tells the family, by which the additional fields differ; `fetched` holds the media of `media_urls`.
    Raises BadRequest for what would mean something else without the part that cannot be said.
    """
    encoding = _Encoding(conversation, capabilities, model, fetched)
    body = encoding.body()
    dropped = tuple(dict.fromkeys(encoding.dropped))
    if dropped and capabilities.on_unsupported == "error":
        raise unsupported(dropped[0], f"'{dropped[0]}' is not supported by this model.")
    return body, dropped


def dump(body: Mapping[str, Any]) -> bytes:
    """Not by orjson, which refuses the integers beyond 64 bits that tool arguments may hold."""
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


def unsupported(param: str, message: str) -> BadRequest:
    return BadRequest(message, param=param, code="unsupported_parameter")


def media_urls(conversation: Conversation) -> tuple[str, ...]:
    """Converse takes bytes and S3 locations: what stands elsewhere has to be fetched."""
    urls = [
        part.url
        for message in conversation.messages
        for part in message.parts
        if isinstance(part, Image | File) and part.url.startswith(("http://", "https://"))
    ]
    return tuple(dict.fromkeys(urls))


def answers_by_tool(conversation: Conversation, capabilities: Capabilities) -> bool:
    return (
        conversation.output is not None
        and conversation.output.kind == "json_schema"
        and capabilities.structured == "tool"
    )


@dataclass(slots=True)
class _Turn:
    """A message to be: its tool results stand before the rest of it."""

    role: str
    results: list[Block] = field(default_factory=list)
    rest: list[Block] = field(default_factory=list)

    def content(self) -> list[Block]:
        if self.role == "user" and any("document" in block for block in self.rest):
            self.rest += [] if any("text" in block for block in self.rest) else [{"text": "."}]
        return [*self.results, *self.rest] or [{"text": "."}]


class _Encoding:
    """One request on its way to JSON."""

    def __init__(
        self, conversation: Conversation, capabilities: Capabilities, model: str, fetched: Mapping[str, Fetched]
    ) -> None:
        self.dropped: list[str] = []
        self._conversation = conversation
        self._capabilities = capabilities
        self._fetched = fetched
        self._files = 0
        name = model.lower()
        self._is_claude = "claude" in name
        self._is_nova = "nova" in name
        # The name of an application's own inference profile does not tell its model: such a one gets the benefit
        self._may_cache = self._is_claude or self._is_nova or bool(re.search(r"arn:.*:application-inference", name))

    def body(self) -> dict[str, Any]:
        conversation = self._conversation
        system: list[Block] = []
        turns = self._turns(system)
        self._check_end(turns)
        inference = self._inference()
        additional: dict[str, Any] = {}
        output: dict[str, Any] = {}
        tools, is_forced = self._tool_config(system, turns, additional)
        self._output(system, output)
        self._top_k(additional)
        self._reason(inference, additional, output, is_forced=is_forced)
        messages = [{"role": turn.role, "content": turn.content()} for turn in turns]
        if conversation.cache is not None:
            messages[-1]["content"] += self._cache_point(conversation.cache)
        _limit_cache_points([message["content"] for message in messages], system, tools.get("tools", []))
        extra = self._extra()
        additional |= extra.get("additionalModelRequestFields") or {}
        body = {
            "messages": messages,
            "system": system,
            "inferenceConfig": inference,
            "toolConfig": tools,
            "additionalModelRequestFields": additional,
            "outputConfig": output,
            "serviceTier": self._tier(),
            "requestMetadata": extra.get("requestMetadata"),
        }
        self._drop_unknown()
        return {name: member for name, member in body.items() if member}

    def _drop(self, name: str, *, when: bool = True) -> None:
        if when:
            self.dropped.append(name)

    # Messages

    def _turns(self, system: list[Block]) -> list[_Turn]:
        turns: list[_Turn] = []
        for message in self._conversation.messages:
            if isinstance(message, System):
                self._add_system(system, turns, message)
            elif isinstance(message, ToolResult):
                turn = _turn(turns, "user")
                turn.results.append(self._tool_result(message))
                for part in message.parts:
                    turn.results += self._cache_point(part.cache)
            elif isinstance(message, Assistant):
                _turn(turns, "assistant").rest += self._assistant(message)
            else:
                _turn(turns, "user").rest += self._blocks(message.parts)
        if not turns or turns[0].role == "assistant":
            turns.insert(0, _Turn("user"))
        _fill_results(turns)
        return turns

    def _add_system(self, system: list[Block], turns: list[_Turn], message: System) -> None:
        """Few models know a system message within the conversation: for the others it becomes the user's words."""
        blocks = self._blocks(message.parts)
        if not turns:
            system += blocks
        elif self._capabilities.system_role and not _calls(turns[-1]):
            _turn(turns, "system").rest += blocks
        else:
            text = "\n".join(block["text"] for block in blocks if "text" in block)
            if text:
                _turn(turns, "user").rest.append({"text": f"<system>{text}</system>"})

    def _assistant(self, message: Assistant) -> list[Block]:
        blocks = [block for item in message.reasoning for block in _reasoning(item)]
        blocks += self._blocks(message.parts)
        if message.refusal.strip():
            blocks.append({"text": message.refusal})
        return blocks + [_tool_use(call) for call in message.tool_calls]

    def _check_end(self, turns: list[_Turn]) -> None:
        """What the assistant has begun to say is for a model that goes on with it."""
        if turns[-1].role != "assistant":
            return
        if not self._capabilities.prefill:
            raise unsupported("messages", "The last message must not be the assistant's for this model.")
        last = turns[-1].rest[-1] if turns[-1].rest else {}
        if "text" in last:
            last["text"] = last["text"].rstrip()

    def _blocks(self, parts: Iterable[Part]) -> list[Block]:
        """Blank text is refused upstream and left out here."""
        blocks: list[Block] = []
        for part in parts:
            if isinstance(part, Text) and not part.text.strip():
                continue
            blocks.append(self._block(part))
            blocks += self._cache_point(part.cache)
        return blocks

    def _block(self, part: Part) -> Block:
        if isinstance(part, Text):
            return {"text": part.text}
        if isinstance(part, Image):
            return self._image(part)
        if isinstance(part, Audio):
            if not self._capabilities.audio:
                raise unsupported("messages", "This model takes no audio.")
            return {"audio": {"format": part.format, "source": {"bytes": part.data}}}
        return self._document(part)

    def _image(self, part: Image) -> Block:
        if not self._capabilities.vision:
            raise unsupported("messages", "This model takes no images.")
        media_type, source = self._source(part.url, part.media_type, part.data)
        ending = media_type.lower().removeprefix("image/") or part.url.rpartition(".")[2].lower()
        if ending not in IMAGE_FORMATS:
            raise unsupported("messages", "This model takes PNG, JPEG, GIF and WebP images only.")
        return {"image": {"format": IMAGE_FORMATS[ending], "source": source}}

    def _document(self, part: File) -> Block:
        """Documents are named by their number: a name is limited in its signs, unique, and read by the model."""
        if part.file_id:
            raise unsupported("messages", "This model takes files by their content only.")
        media_type, source = self._source(part.url, part.media_type, part.data)
        media_type = media_type.partition(";")[0].strip().lower()
        ending = (part.filename or part.url).rpartition(".")[2].lower()
        kind = DOCUMENT_TYPES.get(media_type) or (ending if ending in DOCUMENT_FORMATS else "")
        if not kind and media_type.startswith("text/"):
            kind = "txt"
        if not kind:
            raise unsupported("messages", "This model takes no files of this type.")
        self._files += 1
        return {"document": {"format": kind, "name": f"file-{self._files}", "source": source}}

    def _source(self, url: str, media_type: str, data: str) -> tuple[str, Block]:
        if url.startswith("s3://"):
            return media_type, {"s3Location": {"uri": url}}
        if not url:
            return media_type, {"bytes": data}
        found = self._fetched.get(url)
        if found is None:
            raise BadRequest("A file or an image of the request could not be fetched.", param="messages")
        return found.media_type, {"bytes": found.data}

    def _tool_result(self, message: ToolResult) -> Block:
        """Some models refuse a result without content, and some one that is blank."""
        content = [self._block(part) for part in message.parts if not isinstance(part, Text) or part.text.strip()]
        result = {"toolUseId": tool_id(message.tool_call_id), "content": content or [{"text": "(empty)"}]}
        return {"toolResult": result | ({"status": "error"} if message.is_error else {})}

    def _cache_point(self, cache: Cache | None, *, is_tool: bool = False) -> list[Block]:
        """Nova knows no other time to live than its own, and no mark among the tools."""
        if cache is None:
            return []
        if not self._may_cache or (is_tool and self._is_nova):
            self._drop("cache_control")
            return []
        ttl = {"ttl": cache.ttl} if cache.ttl in {"5m", "1h"} and not self._is_nova else {}
        return [{"cachePoint": {"type": "default", **ttl}}]

    # Parameters

    def _inference(self) -> dict[str, Any]:
        conversation, sampling = self._conversation, self._capabilities.sampling
        inference: dict[str, Any] = {}
        limit = self._capabilities.max_output_tokens
        if conversation.max_tokens is not None:
            inference["maxTokens"] = min(conversation.max_tokens, limit or conversation.max_tokens)
        if conversation.temperature is not None:
            if sampling == "none":
                self._drop("temperature")
            else:
                inference["temperature"] = min(max(conversation.temperature, 0), 1)
        if conversation.top_p is not None:
            if sampling == "none" or (sampling == "one_of" and "temperature" in inference):
                self._drop("top_p")
            else:
                inference["topP"] = conversation.top_p
        stop = [text for text in conversation.stop if text.strip()]
        self._drop("stop", when=len(stop) < len(conversation.stop))
        if stop:
            inference["stopSequences"] = stop
        return inference

    def _top_k(self, additional: dict[str, Any]) -> None:
        top_k = self._conversation.top_k
        if top_k is None:
            return
        if self._capabilities.sampling == "none" or not (self._is_claude or self._is_nova):
            self._drop("top_k")
        elif self._is_claude:
            additional["top_k"] = top_k
        else:
            additional["inferenceConfig"] = {"topK": top_k}

    def _tool_config(
        self, system: list[Block], turns: list[_Turn], additional: dict[str, Any]
    ) -> tuple[dict[str, Any], bool]:
        """(toolConfig, whether a call is forced). The API has no choice `none`, and wants tools wherever the history
        has calls or results."""
        conversation = self._conversation
        choice = conversation.tool_choice
        mode = choice.mode if choice is not None and conversation.tools else "auto"
        allowed = choice.allowed if choice is not None else ()
        tools = [tool for tool in conversation.tools if not allowed or tool.name in allowed]
        used = _used_tools(turns)
        blocks: list[Block] = []
        if mode != "none" or used:
            for tool in tools:
                blocks.append(self._tool(tool))
                blocks += self._cache_point(tool.cache, is_tool=True)
        if used and not blocks:
            blocks = [_tool_spec(name, name, None) for name in used]
        if mode == "none" and used:
            system.insert(0, {"text": NO_TOOLS})
        if answers_by_tool(conversation, self._capabilities):
            assert conversation.output is not None
            blocks.append(_tool_spec(ANSWER_TOOL, "Gives the answer.", conversation.output.schema))
            is_only = mode == "none" or not tools
            choice_block: Block = {"tool": {"name": ANSWER_TOOL}} if is_only else {"any": {}}
            return {"tools": blocks, "toolChoice": choice_block}, True
        if not blocks:
            return {}, False
        config: dict[str, Any] = {"tools": blocks}
        is_single = conversation.parallel_tools is False and bool(tools) and mode != "none"
        if is_single and self._is_claude:
            # In one place only: Converse answers 400 where both this and toolChoice hold a choice
            # (github.com/BerriAI/litellm/issues/36536), and where `type` is missing here (pull 34347)
            kind: dict[str, Any] = {"type": {"required": "any", "named": "tool"}.get(mode, "auto")}
            if mode == "named" and choice is not None:
                kind["name"] = choice.name
            additional["tool_choice"] = kind | {"disable_parallel_tool_use": True}
        else:
            self._drop("parallel_tool_calls", when=is_single)
            if mode == "named" and choice is not None:
                config["toolChoice"] = {"tool": {"name": choice.name}}
            elif mode == "required":
                config["toolChoice"] = {"any": {}}
            elif mode == "auto" and choice is not None and conversation.tools:
                config["toolChoice"] = {"auto": {}}
        return config, mode in {"required", "named"}

    def _tool(self, tool: Tool) -> Block:
        if tool.kind == "custom":
            raise unsupported("tools", "Custom tools are not supported by this model.")
        spec = _tool_spec(tool.name, tool.description, tool.schema)
        if tool.strict and self._capabilities.structured == "native":
            spec["toolSpec"]["strict"] = True
        return spec

    def _output(self, system: list[Block], output: dict[str, Any]) -> None:
        asked, how = self._conversation.output, self._capabilities.structured
        if asked is None or (asked.kind == "json_schema" and how == "tool"):
            return
        if how == "none":
            self._drop("response_format")
        elif asked.kind == "json_object":
            system.append({"text": JSON_ONLY})
        elif how == "prompt":
            system.append({"text": f"{JSON_ONLY} It must follow this JSON schema:\n{_text_of(asked.schema or {})}"})
        else:
            schema = {"schema": _text_of(closed(asked.schema or {})), "name": asked.name or ANSWER_TOOL}
            output["textFormat"] = {"type": "json_schema", "structure": {"jsonSchema": schema}}

    def _reason(
        self, inference: dict[str, Any], additional: dict[str, Any], output: dict[str, Any], *, is_forced: bool
    ) -> None:
        """`reasoning_effort` and `thinking`, and what cannot stand beside them."""
        conversation, mode = self._conversation, self._capabilities.thinking
        effort = conversation.reasoning_effort
        name = "reasoning_effort" if conversation.thinking is None else "thinking"
        if conversation.thinking is None and not effort:
            return
        if mode not in {"budget", "adaptive"}:
            self._drop("thinking", when=conversation.thinking is not None)
            if effort in EFFORTS:
                self._by_level(inference, additional) if mode == "level" else self._drop("reasoning_effort")
            return
        if conversation.thinking is not None:
            thinking = dict(conversation.thinking)
        elif mode == "adaptive":
            thinking = {"type": "adaptive" if effort in EFFORTS else "disabled"}
        elif effort in BUDGETS:
            thinking = {"type": "enabled", "budget_tokens": BUDGETS[effort]}
        else:
            return
        if thinking.get("type") == "disabled":
            if mode == "adaptive":
                additional["thinking"] = thinking
            return
        if is_forced or (mode == "budget" and _lacks_reasoning(conversation)):
            self._drop(name)
            return
        if type(thinking.get("budget_tokens")) is int and not self._fit_budget(thinking, inference):
            self._drop(name)
            return
        additional["thinking"] = thinking
        if mode == "adaptive" and effort in EFFORTS:
            output["effort"] = EFFORTS[effort]
        self._drop("temperature", when=inference.pop("temperature", None) is not None)
        self._drop("top_k", when=additional.pop("top_k", None) is not None)
        if inference.get("topP", 1) < MIN_THINKING_TOP_P:
            self._drop("top_p", when=inference.pop("topP") is not None)

    def _fit_budget(self, thinking: dict[str, Any], inference: dict[str, Any]) -> bool:
        """The budget is part of the caller's limit; False where too little of it is left to think."""
        budget: int = thinking["budget_tokens"]
        capabilities = self._capabilities
        if "maxTokens" not in inference:
            wanted = budget + capabilities.default_max_tokens
            inference["maxTokens"] = capabilities.max_output_tokens or wanted
        thinking["budget_tokens"] = min(budget, inference["maxTokens"] - 1)
        return bool(thinking["budget_tokens"] >= MIN_BUDGET)

    def _by_level(self, inference: dict[str, Any], additional: dict[str, Any]) -> None:
        """Nova's `reasoningConfig` (https://docs.aws.amazon.com/nova/latest/nova2-userguide/extended-thinking.html),
        whose highest effort wants the limits unset; others have OpenAI's own field."""
        level = {"minimal": "low", "xhigh": "high", "max": "high"}.get(
            self._conversation.reasoning_effort, self._conversation.reasoning_effort
        )
        if not self._is_nova:
            additional["reasoning_effort"] = level
            return
        additional["reasoningConfig"] = {"type": "enabled", "maxReasoningEffort": level}
        if level == "high":
            for member, name in (("temperature", "temperature"), ("topP", "top_p"), ("maxTokens", "max_tokens")):
                self._drop(name, when=inference.pop(member, None) is not None)

    def _tier(self) -> dict[str, str]:
        tier = self._conversation.service_tier
        self._drop("service_tier", when=bool(tier) and tier not in TIERS and tier != "auto")
        return {"type": tier} if tier in TIERS else {}

    def _extra(self) -> Mapping[str, Any]:
        extra = self._conversation.others.get(EXTRA)
        if extra is None:
            return {}
        if not isinstance(extra, dict) or not all(
            name in EXTRA_MEMBERS and isinstance(value, dict) for name, value in extra.items()
        ):
            raise BadRequest(f"'{EXTRA}' may hold {' and '.join(sorted(EXTRA_MEMBERS))} only.", param=EXTRA)
        return extra

    def _drop_unknown(self) -> None:
        conversation = self._conversation
        self._drop("n", when=(conversation.n or 1) > 1)
        for name in ("seed", "presence_penalty", "frequency_penalty", "logprobs", "top_logprobs", "logit_bias", "user"):
            self._drop(name, when=bool(getattr(conversation, name)) or (name == "seed" and conversation.seed == 0))
        for name in conversation.others:
            self._drop(name, when=name != EXTRA)


def tool_id(given: str) -> str:
    """An id as the API takes it; one in another form becomes the same other one each time."""
    if TOOL_ID.fullmatch(given):
        return given
    return "call_" + hashlib.sha256(given.encode()).hexdigest()[:24]


def closed(schema: Any) -> Any:
    """A schema whose every object refuses further properties, which structured output demands
    (https://docs.aws.amazon.com/bedrock/latest/userguide/structured-output.html)."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {
        name: ({key: closed(item) for key, item in value.items()} if name in {"properties", "$defs"} else closed(value))
        if isinstance(value, dict | list) and name not in {"enum", "const", "default", "examples", "required"}
        else value
        for name, value in schema.items()
    }
    kind = made.get("type")
    if kind == "object" or (isinstance(kind, list) and "object" in kind) or "properties" in made:
        made["additionalProperties"] = False
    return made


def _text_of(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _turn(turns: list[_Turn], role: str) -> _Turn:
    """The last turn where it has this role, else a new one."""
    if not turns or turns[-1].role != role:
        turns.append(_Turn(role))
    return turns[-1]


def _calls(turn: _Turn) -> list[str]:
    return [block["toolUse"]["toolUseId"] for block in turn.rest if "toolUse" in block]


def _fill_results(turns: list[_Turn]) -> None:
    """Every call must have its result in the very next turn."""
    for index in range(len(turns) - 1, -1, -1):
        calls = _calls(turns[index])
        if not calls:
            continue
        if index + 1 == len(turns) or turns[index + 1].role != "user":
            turns.insert(index + 1, _Turn("user"))
        results = turns[index + 1].results
        known = {block["toolResult"]["toolUseId"] for block in results if "toolResult" in block}
        for call in calls:
            if call not in known:
                missing = {"toolUseId": call, "content": [{"text": "no result"}], "status": "error"}
                results.append({"toolResult": missing})


def _used_tools(turns: list[_Turn]) -> list[str]:
    """The names of the tools that the history calls; `tool` where it has results only."""
    names = [block["toolUse"]["name"] for turn in turns for block in turn.rest if "toolUse" in block]
    if not names and any(turn.results for turn in turns):
        names = ["tool"]
    return list(dict.fromkeys(names))


def _tool_spec(name: str, description: str, schema: Mapping[str, Any] | None) -> Block:
    json_schema = {"type": "object", **({"properties": {}} if not schema else {}), **(schema or {})}
    spec = {"name": name, "description": description.strip() or name, "inputSchema": {"json": json_schema}}
    return {"toolSpec": spec}


def _tool_use(call: ToolCall) -> Block:
    given: Any = {}
    if call.kind == "custom":
        given = {"input": call.arguments}
    elif call.arguments.strip():
        try:
            orjson.loads(call.arguments)  # the strict reading: no NaN, no lone surrogates
            given = json.loads(call.arguments)  # the exact one: integers of any size
        except (ValueError, RecursionError):
            given = None
        if not isinstance(given, dict):
            given = {"_raw": call.arguments}
    return {"toolUse": {"toolUseId": tool_id(call.id), "name": call.name, "input": given}}


def _reasoning(item: Reasoning) -> list[Block]:
    """What no model signed is not theirs to verify, and refused."""
    if item.redacted:
        return [{"reasoningContent": {"redactedContent": item.redacted}}]
    if item.signature:
        return [{"reasoningContent": {"reasoningText": {"text": item.text, "signature": item.signature}}}]
    return []


def _lacks_reasoning(conversation: Conversation) -> bool:
    """Whether a turn of calls still goes on whose reasoning the client did not send back: thinking cannot be on then."""
    for message in reversed(conversation.messages):
        if isinstance(message, Assistant):
            return bool(message.tool_calls) and not any(_reasoning(item) for item in message.reasoning)
        if not isinstance(message, ToolResult):
            return False
    return False


def _limit_cache_points(messages: Sequence[list[Block]], system: list[Block], tools: list[Block]) -> None:
    """The first of the conversation go first: the last ones and those of system and tools save most."""
    holders = [*messages, system, tools]
    excess = sum("cachePoint" in block for blocks in holders for block in blocks) - MAX_CACHE_POINTS
    for blocks in holders:
        for index in [index for index, block in enumerate(blocks) if "cachePoint" in block][::-1][-max(excess, 0) :]:
            if excess > 0:
                del blocks[index]
                excess -= 1


# Answers


def usage_of(raw: Mapping[str, Any]) -> Usage | None:
    """From TokenUsage, whose `inputTokens` are without the cache's. None where it holds no usable count."""
    wrong = False

    def count(holder: Mapping[str, Any], name: str) -> int:
        nonlocal wrong
        value = holder.get(name)
        if type(value) is int and 0 <= value <= MAX_TOKENS:
            return value
        wrong = wrong or value is not None
        return 0

    prompt, output = count(raw, "inputTokens"), count(raw, "outputTokens")
    read, written = count(raw, "cacheReadInputTokens"), count(raw, "cacheWriteInputTokens")
    details = raw.get("cacheDetails")
    hours = [
        count(item, "inputTokens")
        for item in (details if isinstance(details, list) else ())
        if isinstance(item, dict) and item.get("ttl") == "1h"
    ]
    hour = min(sum(hours), written)
    excess = count(raw, "totalTokens") - (prompt + output + read + written)
    if excess > 0:  # price the larger total
        output, wrong = output + excess, True
    if prompt + output + read + written == 0:
        return None
    return Usage(
        input_tokens=prompt,
        cache_read_tokens=read,
        cache_write_5m_tokens=written - hour,
        cache_write_1h_tokens=hour,
        output_tokens=output,
        is_inconsistent=wrong,
    )


def _finished(reason: Any, *, has_calls: bool) -> Finished:
    if reason in MALFORMED:
        raise UpstreamFault(
            "The model's answer could not be read by the upstream.",
            code="upstream_malformed_tool_call",
            is_retryable=True,
        )
    finish = FINISH_REASONS.get(reason, "stop") if isinstance(reason, str) else "stop"
    if finish in {"stop", "tool_calls"}:
        finish = "tool_calls" if has_calls else "stop"
    return Finished(finish)


def decode_body(body: bytes, *, upstream_id: str = "", answer_tool: str = "") -> list[Event]:
    """A whole answer. The input of a call of `answer_tool` is the answer's text. Raises UpstreamFault."""
    try:
        answer = orjson.loads(body)
        if b'"toolUse"' in body:
            answer = json.loads(body)  # integers beyond 64 bits keep their digits
    except (ValueError, RecursionError):
        raise UpstreamFault("The upstream's answer is not JSON.", is_retryable=True) from None
    message = _member(_member(answer, "output"), "message")
    content = message.get("content") if message is not None else None
    if not isinstance(content, list):
        raise UpstreamFault("The upstream's answer holds no message.", is_retryable=True)
    events: list[Event] = [Started(upstream_id, "")]
    calls = 0
    for block in content:
        use = _member(block, "toolUse")
        if use is None:
            events += _block_events(block)
        elif use.get("type") != "server_tool_use":
            arguments = _text_of(use.get("input") or {})
            if answer_tool and use.get("name") == answer_tool:
                events.append(TextDelta(arguments))
                continue
            events += [_call_started(use, calls), ToolArgumentsDelta(calls, arguments)]
            calls += 1
    usage = _member(answer, "usage")
    events += _usage_events(usage)
    events.append(_finished(answer.get("stopReason"), has_calls=calls > 0))
    return events


def _member(holder: Any, name: str) -> Mapping[str, Any] | None:
    """The object under this name, if there is one."""
    value = holder.get(name) if isinstance(holder, dict) else None
    return value if isinstance(value, dict) else None


def _usage_events(raw: Mapping[str, Any] | None) -> list[Event]:
    usage = usage_of(raw) if raw is not None else None
    return [UsageReported(usage, raw)] if usage is not None and raw is not None else []


def _block_events(block: Any) -> list[Event]:
    """Of a block that is no call. Kinds that a chat answer has no place for are left out."""
    if not isinstance(block, dict):
        return []
    text = block.get("text")
    if isinstance(text, str):
        return [TextDelta(text)] if text else []
    cited = _member(block, "citationsContent")
    if cited is not None and isinstance(cited.get("content"), list):
        return [event for part in cited["content"] for event in _block_events(part)]
    reasoning = _member(block, "reasoningContent")
    if reasoning is None:
        return []
    told = _member(reasoning, "reasoningText") or {}
    thought, signature, redacted = told.get("text"), told.get("signature"), reasoning.get("redactedContent")
    thought = thought if isinstance(thought, str) and thought != REDACTED else ""
    signature = signature if isinstance(signature, str) else ""
    redacted = redacted if isinstance(redacted, str) else ""
    events: list[Event] = [ReasoningDelta(text=thought, signature=signature)] if thought or signature else []
    return events + ([ReasoningDelta(redacted=redacted)] if redacted else [])


def _call_started(use: Mapping[str, Any], index: int) -> ToolCallStarted:
    call_id, name = use.get("toolUseId"), use.get("name")
    if not isinstance(call_id, str) or not isinstance(name, str) or not call_id or not name:
        raise UpstreamFault(
            "The upstream sent a tool call without its name.", code="upstream_malformed_tool_call", is_retryable=True
        )
    return ToolCallStarted(index, call_id, name)


@dataclass(slots=True)
class _OpenBlock:
    """A content block of a stream, as far as it has come."""

    call: int = -1  # the number of its tool call
    is_answer: bool = False  # a call whose input is the answer's text
    is_ignored: bool = False
    has_input: bool = False
    held_thought: str | None = ""  # while it may still turn out to be the word for nothing
    signature: list[str] = field(default_factory=list)
    redacted: list[str] = field(default_factory=list)


class ConverseDecoder:
    """translate.Decoder of a ConverseStream. Usage follows the end of the message.

    A fault that follows events within one piece is raised by the next call, so that no text is lost.
    """

    __slots__ = ("_answer_tool", "_blocks", "_calls", "_fault", "_is_finished", "_is_started", "_secrets", "_splitter", "is_done")

    def __init__(self, *, answer_tool: str = "", secrets: Sequence[str] = ()) -> None:
        self.is_done = False
        self._answer_tool = answer_tool
        self._secrets = secrets
        self._splitter = FrameSplitter()
        self._blocks: dict[int, _OpenBlock] = {}
        self._calls = 0
        self._is_started = False
        self._is_finished = False
        self._fault: UpstreamFault | None = None

    def feed(self, piece: bytes) -> list[Event]:
        if self._fault is not None:
            raise self._fault
        events: list[Event] = []
        try:
            for frame in self._splitter.feed(piece):
                events += self._events(frame)
        except UpstreamFault as fault:
            if not events:
                raise
            self._fault = fault
        return events

    def finish(self) -> list[Event]:
        if self._fault is not None:
            raise self._fault
        if not self._is_finished:
            raise incomplete()
        self.is_done = True
        return []

    def _events(self, frame: Frame) -> list[Event]:
        kind = frame.headers.get(":message-type")
        if kind == "exception":
            name = frame.headers.get(":exception-type", "")
            raise failure(name, STATUSES.get(_plain(name), 500), frame.payload, secrets=self._secrets)
        if kind == "error":
            text = orjson.dumps({"message": frame.headers.get(":error-message", "")})
            name = frame.headers.get(":error-code", "")
            raise failure(name, STATUSES.get(_plain(name), 500), text, secrets=self._secrets)
        handle = HANDLERS.get(frame.headers.get(":event-type", "")) if kind == "event" else None
        if handle is None or self.is_done:
            return []
        try:
            payload = orjson.loads(frame.payload)
        except orjson.JSONDecodeError:
            raise broken("that is not JSON") from None
        if not isinstance(payload, dict):
            raise broken("that is not a JSON object")
        return handle(self, payload)

    def _message_start(self, payload: Mapping[str, Any]) -> list[Event]:
        if self._is_started:
            return []
        self._is_started = True
        return [Started("", "")]

    def _block_of(self, payload: Mapping[str, Any]) -> _OpenBlock:
        index = payload.get("contentBlockIndex", 0)
        if type(index) is not int:
            raise broken("whose block has no number")
        return self._blocks.setdefault(index, _OpenBlock())

    def _block_start(self, payload: Mapping[str, Any]) -> list[Event]:
        block = self._block_of(payload)
        start = payload.get("start")
        use = _member(start, "toolUse")
        if use is None:
            block.is_ignored = isinstance(start, dict) and "toolResult" in start
            return []
        if self._is_finished or use.get("type") == "server_tool_use":
            block.is_ignored = True
            return []
        if self._answer_tool and use.get("name") == self._answer_tool:
            block.is_answer = True
            return []
        started = _call_started(use, self._calls)
        block.call = self._calls
        self._calls += 1
        return [started]

    def _block_delta(self, payload: Mapping[str, Any]) -> list[Event]:
        if self._is_finished:
            return []
        delta = payload.get("delta")
        if not isinstance(delta, dict):
            raise broken("without its content")
        text = delta.get("text")
        if type(text) is str:
            return [TextDelta(text)] if text else []
        use = _member(delta, "toolUse")
        if use is not None:
            return self._arguments(self._block_of(payload), use.get("input"))
        reasoning = _member(delta, "reasoningContent")
        if reasoning is not None:
            return self._reasoning(self._block_of(payload), reasoning)
        if text is not None:
            raise broken("whose text is not a string")
        return []

    def _arguments(self, block: _OpenBlock, text: Any) -> list[Event]:
        if block.is_ignored:
            return []
        if type(text) is not str or (block.call < 0 and not block.is_answer):
            raise UpstreamFault(
                "The upstream sent a tool call that cannot be read.", code="upstream_malformed_tool_call"
            )
        if not text:
            return []
        block.has_input = True
        return [TextDelta(text) if block.is_answer else ToolArgumentsDelta(block.call, text)]

    def _reasoning(self, block: _OpenBlock, delta: Mapping[str, Any]) -> list[Event]:
        """Signatures and redacted pieces are told whole, when their block ends."""
        if isinstance(delta.get("signature"), str):
            block.signature.append(delta["signature"])
        if isinstance(delta.get("redactedContent"), str):
            block.redacted.append(delta["redactedContent"])
        text = delta.get("text")
        if type(text) is not str or not text:
            return []
        if block.held_thought is None:
            return [ReasoningDelta(text=text)]
        held = block.held_thought + text
        if REDACTED.startswith(held):
            block.held_thought = held
            return []
        block.held_thought = None
        return [ReasoningDelta(text=held)]

    def _block_stop(self, payload: Mapping[str, Any]) -> list[Event]:
        block = self._block_of(payload)
        self._blocks[payload.get("contentBlockIndex", 0)] = _OpenBlock(is_ignored=True)
        return [] if self._is_finished else _closed(block)

    def _message_stop(self, payload: Mapping[str, Any]) -> list[Event]:
        if self._is_finished:
            return []
        events = [event for block in self._blocks.values() for event in _closed(block)]
        self._blocks.clear()
        finished = _finished(payload.get("stopReason"), has_calls=self._calls > 0)
        self._is_finished = True
        return [*events, finished]

    def _metadata(self, payload: Mapping[str, Any]) -> list[Event]:
        self.is_done = self._is_finished
        return _usage_events(_member(payload, "usage"))


HANDLERS = {
    "messageStart": ConverseDecoder._message_start,
    "contentBlockStart": ConverseDecoder._block_start,
    "contentBlockDelta": ConverseDecoder._block_delta,
    "contentBlockStop": ConverseDecoder._block_stop,
    "messageStop": ConverseDecoder._message_stop,
    "metadata": ConverseDecoder._metadata,
}


def _closed(block: _OpenBlock) -> list[Event]:
    """What a block still has to say at its end."""
    if block.is_ignored:
        return []
    if (block.call >= 0 or block.is_answer) and not block.has_input:
        return [TextDelta("{}") if block.is_answer else ToolArgumentsDelta(block.call, "{}")]
    events: list[Event] = []
    if block.held_thought and block.held_thought != REDACTED:
        events.append(ReasoningDelta(text=block.held_thought))
    if block.signature:
        events.append(ReasoningDelta(signature="".join(block.signature)))
    if block.redacted:
        events.append(ReasoningDelta(redacted=_joined(block.redacted)))
    return events


def _joined(pieces: list[str]) -> str:
    """Pieces of base64 as one."""
    if len(pieces) == 1:
        return pieces[0]
    try:
        return base64.b64encode(b"".join([base64.b64decode(piece) for piece in pieces])).decode()
    except ValueError:
        raise broken("whose hidden reasoning is not base64") from None


# Errors

STATUSES = {
    "accessdenied": 403,
    "unrecognizedclient": 403,
    "expiredtoken": 403,
    "invalidsignature": 403,
    "signaturedoesnotmatch": 403,
    "incompletesignature": 403,
    "missingauthenticationtoken": 403,
    "invalidclienttokenid": 403,
    "notauthorized": 403,
    "optinrequired": 403,
    "resourcenotfound": 404,
    "modeltimeout": 408,
    "throttling": 429,
    "throttled": 429,
    "toomanyrequests": 429,
    "servicequotaexceeded": 429,
    "modelnotready": 503,
    "serviceunavailable": 503,
    "modelerror": 502,
    "modelstreamerror": 502,
    "internalserver": 500,
    "internalfailure": 500,
    "validation": 400,
}
#: A validation that is about the model rather than about what the caller said.
NO_SUCH_MODEL = re.compile(r"model identifier is invalid|end of its life", re.IGNORECASE)
NEEDS_PROFILE = re.compile(r"on-demand throughput isn.t supported", re.IGNORECASE)
ACCOUNT = re.compile(r"\b\d{12}\b")


def _plain(name: str) -> str:
    """`com.amazon.coral#ThrottlingException:http://…` → `throttling`."""
    return name.partition(":")[0].rpartition("#")[2].lower().removesuffix("exception").removesuffix("error")


def failure(
    name: str, status: int, body: bytes, *, secrets: Sequence[str] = (), retry_after: str | None = None
) -> UpstreamFault:
    """The class of an error: its name decides, then its status. `name` is the header x-amzn-errortype or what a stream
    calls the exception; the body may name it too."""
    try:
        told = orjson.loads(body)
    except orjson.JSONDecodeError:
        told = {}
    told = told if isinstance(told, dict) else {}
    plain = _plain(name or str(told.get("__type") or told.get("code") or ""))
    message = told.get("message") or told.get("Message") or ""
    text = ACCOUNT.sub("[account]", sanitize(message if isinstance(message, str) else "", secrets))
    # Any name that is not known leaves the decision to the status; `error` is short for itself in ModelError
    status = STATUSES.get(plain, STATUSES.get(f"{plain}error", status))
    if status == 400 and NEEDS_PROFILE.search(text):
        return classify(404, message="The upstream serves this model through an inference profile only: name that one.")
    if status == 400 and NO_SUCH_MODEL.search(text):
        return classify(404, message=text)
    if plain == "servicequotaexceeded":
        return classify(429, message=text, code="insufficient_quota", retry_after=retry_after)
    return classify(status, message=text, retry_after=retry_after)
