"""ChatRequest → the body of Converse and ConverseStream.

Source: botocore's model bedrock-runtime 2023-09-30 (version 1.44.5) and
https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html; other sources stand beside what they
tell. Blobs travel as base64. What becomes of each parameter: docs/dialects/bedrock.md.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import orjson

from gateway.protocol import freeform, items
from gateway.protocol.attempt_context import Fetched
from gateway.protocol.cache_breakpoints import plan_breakpoints
from gateway.protocol.capabilities import Capabilities
from gateway.protocol.dialects.bedrock.json_schema import close_objects
from gateway.protocol.dialects.bedrock.models import features_of
from gateway.protocol.dialects.bedrock.upstream_answer import text_of
from gateway.protocol.dialects.shared.call_arguments import read_arguments
from gateway.protocol.dialects.shared.call_ids import CallIds, UnansweredCalls
from gateway.protocol.dialects.shared.parameters import refuse_dropped
from gateway.protocol.dialects.shared.system_text import system_texts
from gateway.protocol.errors import BadRequest
from gateway.protocol.json.types import Json, JsonMapping, JsonObject

#: A model without structured output follows a schema by calling this tool: its input is the answer.
ANSWER_TOOL = "json_output"

JSON_ONLY = "Respond with one JSON object only."
NO_TOOLS = "Do not call tools."
TOOL_ID = re.compile(r"[a-zA-Z0-9_.:-]{1,64}")
IMAGE_FORMATS = {"png": "png", "jpeg": "jpeg", "jpg": "jpeg", "gif": "gif", "webp": "webp"}
DOCUMENT_FORMATS = frozenset({"pdf", "csv", "doc", "docx", "xls", "xlsx", "html", "txt", "md"})
#: Media subtypes that the API has another name for.
DOCUMENT_TYPES = {
    "markdown": "md",
    "json": "txt",
    "msword": "doc",
    "vnd.ms-excel": "xls",
    "vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
}
BUDGETS = {"minimal": 1024, "low": 1024, "medium": 2048, "high": 4096, "xhigh": 8192, "max": 16384}
EFFORTS = {name: name for name in BUDGETS} | {"minimal": "low"}
MIN_BUDGET = 1024
MIN_THINKING_TOP_P = 0.95
MAX_CACHE_POINTS = 4
TIERS = frozenset({"default", "priority", "flex", "reserved"})


#: Parameters that do not change the answer: even a strict deployment drops them.
HINTS = frozenset({"cache_control", "user", "service_tier"})


@dataclass(frozen=True, slots=True)
class EncodedRequest:
    body: JsonObject
    dropped: tuple[str, ...] = ()


def encode_request(
    request: items.ChatRequest, capabilities: Capabilities, *, model: str, fetched: Mapping[str, Fetched]
) -> EncodedRequest:
    """The body of Converse.

    `model` names the model's family, which decides the additional fields. `fetched` holds media by their addresses.
    Raises BadRequest for content that the model cannot take.
    """
    encoder = _RequestEncoder(request, capabilities, model, fetched)
    body = encoder.encode()
    dropped = tuple(dict.fromkeys(encoder.dropped))
    refuse_dropped(dropped, capabilities, hints=HINTS)
    return EncodedRequest(body, dropped)


def answer_tool(request: items.ChatRequest, capabilities: Capabilities) -> str:
    """The name of the tool whose input is the answer; empty where the answer is text."""
    output = request.output
    is_used = output is not None and output.kind == "json_schema" and capabilities.structured == "tool"
    return ANSWER_TOOL if is_used else ""


def needs_whole_answer(request: items.ChatRequest, model: str) -> bool:
    """True for a request with tools to a model that does not stream tool calls."""
    if features_of(model).streams_tools:
        return False
    choice = request.tool_choice
    return (bool(request.tools) and (choice is None or choice.mode != "none")) or any(
        isinstance(message, items.ToolResult) or (isinstance(message, items.Assistant) and message.tool_calls)
        for message in request.messages
    )


def unsupported(param: str, message: str) -> BadRequest:
    return BadRequest(message, param=param, code="unsupported_parameter")


@dataclass(slots=True)
class _Turn:
    """A message in the making; its tool results stand first."""

    role: str
    results: list[JsonObject] = field(default_factory=list)
    rest: list[JsonObject] = field(default_factory=list)

    def content(self) -> list[JsonObject]:
        if self.role == "user" and any("document" in block for block in self.rest):
            self.rest += [] if any("text" in block for block in self.rest) else [{"text": "."}]
        return [*self.results, *self.rest] or [{"text": "."}]


class _RequestEncoder:
    """Encodes one request."""

    def __init__(
        self, request: items.ChatRequest, capabilities: Capabilities, model: str, fetched: Mapping[str, Fetched]
    ) -> None:
        self.dropped: list[str] = []
        self._request = request
        self._capabilities = capabilities
        self._fetched = fetched
        self._files = 0
        self._ids = CallIds(TOOL_ID, "call_")
        self._unanswered = UnansweredCalls()
        self._answers_by_tool = bool(answer_tool(request, capabilities))
        name = model.lower()
        self._features = features_of(name)
        self._is_claude = "claude" in name
        self._is_nova = "amazon.nova" in name
        # The name of an application's own inference profile does not name its model, which may well support caching
        self._may_cache = self._is_claude or self._is_nova or bool(re.search(r"arn:.*:application-inference", name))

    def encode(self) -> JsonObject:
        request = self._request
        system: list[JsonObject] = []
        turns = self._turns(system)
        self._check_end(turns)
        inference = self._inference()
        additional: JsonObject = {}
        output_config: JsonObject = {}
        tools, is_forced = self._tool_config(system, turns, additional)
        self._output(system, output_config)
        self._top_k(additional)
        self._reason(inference, additional, output_config, is_forced=is_forced)
        contents = [turn.content() for turn in turns]
        contents[-1] += self._cache_point(request.cache)
        _limit_cache_points(contents, system, tools.get("tools", []))
        messages: list[JsonObject] = [
            {"role": turn.role, "content": content} for turn, content in zip(turns, contents, strict=True)
        ]
        if self._capabilities.cache_breakpoints and self._may_cache:
            self._add_breakpoints(messages, system, tools.get("tools", []))
        body = {
            "messages": messages,
            "system": system,
            "inferenceConfig": inference,
            "toolConfig": tools,
            "additionalModelRequestFields": additional,
            "outputConfig": output_config,
            "serviceTier": self._tier(),
        }
        self._drop_unknown()
        return {name: member for name, member in body.items() if member}

    def _drop(self, name: str, *, when: bool = True) -> None:
        if when:
            self.dropped.append(name)

    # Messages

    def _turns(self, system: list[JsonObject]) -> list[_Turn]:
        turns: list[_Turn] = []
        for message in self._request.messages:
            if isinstance(message, items.System):
                self._add_system(system, turns, message)
            elif isinstance(message, items.ToolResult):
                self._add_result(_turn(turns, "user"), message)
            elif isinstance(message, items.Assistant):
                if turns and turns[-1].role != "assistant":
                    self._fill_results(turns)
                _turn(turns, "assistant").rest += self._assistant(message)
            else:
                _turn(turns, "user").rest += self._blocks(message.parts)
        self._fill_results(turns)
        if not turns or turns[0].role == "assistant":
            turns.insert(0, _Turn("user"))
        return turns

    def _add_result(self, turn: _Turn, message: items.ToolResult) -> None:
        wire_id = self._unanswered.answer(message.tool_call_id)
        if wire_id is None:  # Converse refuses more results than the turn before has calls
            turn.rest += self._blocks(message.parts)
            return
        turn.results.append(self._tool_result(wire_id, message))
        for part in message.parts:
            turn.results += self._cache_point(part.cache)

    def _fill_results(self, turns: list[_Turn]) -> None:
        """Adds an error for each call without a result: Converse wants one in the very next turn."""
        for wire_id in self._unanswered.end():
            missing = {"toolUseId": wire_id, "content": [{"text": "no result"}], "status": "error"}
            _turn(turns, "user").results.append({"toolResult": missing})

    def _add_system(self, system: list[JsonObject], turns: list[_Turn], message: items.System) -> None:
        """A later system message becomes text of the user's turn for models that take it at the beginning only."""
        blocks = self._blocks(system_texts(message))
        if not turns:
            system += blocks
        elif self._capabilities.system_role and not self._unanswered:
            _turn(turns, "system").rest += blocks
        else:
            text = "\n".join(block["text"] for block in blocks if "text" in block)
            if text:
                _turn(turns, "user").rest.append({"text": f"<system>{text}</system>"})

    def _assistant(self, message: items.Assistant) -> list[JsonObject]:
        blocks = [block for item in message.reasoning for block in _reasoning(item)]
        blocks += self._blocks(message.parts)
        if message.refusal.strip():
            blocks.append({"text": message.refusal})
        for call in message.tool_calls:
            wire_id = self._ids.assign(call.id)
            self._unanswered.add(call.id, wire_id)
            blocks.append({"toolUse": {"toolUseId": wire_id, "name": call.name, "input": _input(call)}})
        return blocks

    def _check_end(self, turns: list[_Turn]) -> None:
        """Raises BadRequest for a last message of the assistant's where the model cannot continue one."""
        last = turns[-1]
        if last.role == "assistant" and not self._capabilities.prefill:
            raise unsupported("messages", "The last message must not be the assistant's for this model.")
        if last.role == "assistant" and last.rest and "text" in last.rest[-1]:
            last.rest[-1]["text"] = last.rest[-1]["text"].rstrip()

    def _blocks(self, parts: Iterable[items.Part]) -> list[JsonObject]:
        """The parts without blank texts, which Converse refuses."""
        blocks: list[JsonObject] = []
        for part in parts:
            if isinstance(part, items.Text) and not part.text.strip():
                continue
            blocks.append(self._block(part))
            blocks += self._cache_point(part.cache)
        return blocks

    def _block(self, part: items.Part) -> JsonObject:
        if isinstance(part, items.Text):
            return {"text": part.text}
        if isinstance(part, items.Image):
            return self._image(part)
        if isinstance(part, items.Audio):
            if not self._capabilities.audio:
                raise unsupported("messages", "This model takes no audio.")
            return {"audio": {"format": part.format, "source": {"bytes": part.data}}}
        return self._document(part)

    def _image(self, part: items.Image) -> JsonObject:
        if not self._capabilities.vision:
            raise unsupported("messages", "This model takes no images.")
        media_type, source = self._source(part.url, part.media_type, part.data)
        kind = IMAGE_FORMATS.get(media_type.removeprefix("image/"))
        if kind is None:
            raise unsupported("messages", "This model takes PNG, JPEG, GIF and WebP images only.")
        return {"image": {"format": kind, "source": source}}

    def _document(self, part: items.File) -> JsonObject:
        """A document named by its number: Converse limits the characters of a name, and the model reads it."""
        if not self._features.documents:
            raise unsupported("messages", "This model takes no files.")
        if part.file_id:
            raise unsupported("messages", "This model takes files by their content only.")
        media_type, source = self._source(part.url, part.media_type, part.data)
        subtype = media_type.rpartition("/")[2]
        extension = (part.filename or part.url).rpartition(".")[2].lower()
        formats = [kind for kind in (DOCUMENT_TYPES.get(subtype, subtype), extension) if kind in DOCUMENT_FORMATS]
        if not formats and not media_type.startswith("text/"):
            raise unsupported("messages", "This model takes no files of this type.")
        self._files += 1
        return {
            "document": {"format": formats[0] if formats else "txt", "name": f"file-{self._files}", "source": source}
        }

    def _source(self, url: str, media_type: str, data: str) -> tuple[str, JsonObject]:
        """(media type, source). Never an S3 location: AWS would read it with the deployment's credentials."""
        if url:
            medium = self._fetched.get(url)
            if medium is None:
                raise BadRequest("A file or an image of the request could not be fetched.", param="messages")
            media_type, data = medium.media_type, medium.data
        return media_type.partition(";")[0].strip().lower(), {"bytes": data}

    def _tool_result(self, wire_id: str, message: items.ToolResult) -> JsonObject:
        """The result, never empty or blank: some models refuse that."""
        content = [self._block(part) for part in message.parts if not isinstance(part, items.Text) or part.text.strip()]
        result = {"toolUseId": wire_id, "content": content or [{"text": "(empty)"}]}
        return {"toolResult": result | ({"status": "error"} if message.is_error else {})}

    def _cache_point(self, cache: items.Cache | None, *, is_tool: bool = False) -> list[JsonObject]:
        """A cache point, if the model takes one here. Nova has one time to live, and takes none among the tools."""
        if cache is None:
            return []
        if not self._may_cache or (is_tool and self._is_nova):
            self._drop("cache_control")
            return []
        ttl = {"ttl": cache.ttl} if cache.ttl in {"5m", "1h"} and not self._is_nova else {}
        return [{"cachePoint": {"type": "default", **ttl}}]

    def _add_breakpoints(self, messages: list[JsonObject], system: list[JsonObject], tools: list[JsonObject]) -> None:
        """Adds cache points where the client has set none."""
        contents = [message["content"] for message in messages]
        if any("cachePoint" in block for blocks in (*contents, system, tools) for block in blocks):
            return
        plan = plan_breakpoints(tools, system, messages, self._capabilities.cache_minimum_tokens)
        point = self._cache_point(items.Cache())
        if plan.after_tools and not self._is_nova:
            tools += point
        if plan.after_system:
            system += point
        for place in plan.messages:
            contents[place] += point

    # Parameters

    def _inference(self) -> JsonObject:
        request, sampling = self._request, self._capabilities.sampling
        inference: JsonObject = {}
        if request.temperature is not None and sampling != "none":
            inference["temperature"] = min(max(request.temperature, 0), 1)
        if request.top_p is not None and (sampling == "full" or (sampling == "one_of" and not inference)):
            inference["topP"] = request.top_p
        self._drop("temperature", when=request.temperature is not None and "temperature" not in inference)
        self._drop("top_p", when=request.top_p is not None and "topP" not in inference)
        if request.max_tokens is not None:
            limit = self._capabilities.max_output_tokens or request.max_tokens
            inference["maxTokens"] = min(request.max_tokens, limit)
        stop = [text for text in request.stop if text.strip() and self._features.stop]
        self._drop("stop", when=len(stop) < len(request.stop))
        return inference | ({"stopSequences": stop} if stop else {})

    def _top_k(self, additional: JsonObject) -> None:
        top_k = self._request.top_k
        may_sample = top_k is not None and self._capabilities.sampling != "none"
        if may_sample and self._is_claude:
            additional["top_k"] = top_k
        elif may_sample and self._is_nova:
            additional["inferenceConfig"] = {"topK": top_k}
        else:
            self._drop("top_k", when=top_k is not None)

    def _tool_config(
        self, system: list[JsonObject], turns: list[_Turn], additional: JsonObject
    ) -> tuple[JsonObject, bool]:
        """(toolConfig, whether a call is forced). Converse has no choice `none`, and wants tools wherever the history
        has calls or results."""
        request = self._request
        choice = request.tool_choice
        mode = choice.mode if choice is not None and request.tools else "auto"
        allowed = frozenset(choice.allowed) if choice is not None else frozenset()
        tools = [tool for tool in request.tools if not allowed or tool.name in allowed]
        called = _called_tools(turns)
        if not self._features.tools and (called or (tools and mode != "none")):
            raise unsupported("tools", "This model takes no tools.")
        if mode in {"required", "named"} and not self._features.forces_tools:
            self._drop("tool_choice")
            named = choice.name if choice is not None and mode == "named" else ""
            tools = [tool for tool in tools if not named or tool.name == named]
            mode, choice = "auto", None
        blocks: list[JsonObject] = []
        if mode != "none" or called:
            for tool in tools:
                schema = tool.schema if tool.kind == "function" else freeform.SCHEMA
                is_strict = bool(tool.strict) and self._capabilities.structured == "native"
                blocks.append(_tool_spec(tool.name, tool.description, schema, is_strict=is_strict))
                blocks += self._cache_point(tool.cache, is_tool=True)
        if called and not blocks:
            blocks = [_tool_spec(name, name, None) for name in called]
        if mode == "none" and called:
            system.insert(0, {"text": NO_TOOLS})
        if self._answers_by_tool and request.output is not None:
            blocks.append(_tool_spec(ANSWER_TOOL, "", request.output.schema))
            answer_choice: JsonObject = {"tool": {"name": ANSWER_TOOL}}
            return {"tools": blocks, "toolChoice": answer_choice if mode == "none" or not tools else {"any": {}}}, True
        if not blocks:
            return {}, False
        config: JsonObject = {"tools": blocks}
        is_single = request.parallel_tools is False and bool(tools) and mode != "none"
        if is_single and self._is_claude:
            # Converse answers 400 where both this and toolChoice hold a choice
            # (github.com/BerriAI/litellm/issues/36536), and where `type` is missing here (pull 34347)
            name_member = {"name": choice.name} if mode == "named" and choice is not None else {}
            kind = {"required": "any", "named": "tool"}.get(mode, "auto")
            additional["tool_choice"] = {"type": kind, **name_member, "disable_parallel_tool_use": True}
        else:
            self._drop("parallel_tool_calls", when=is_single)
            if mode == "named" and choice is not None:
                config["toolChoice"] = {"tool": {"name": choice.name}}
            elif mode == "required":
                config["toolChoice"] = {"any": {}}
            elif mode == "auto" and choice is not None and request.tools:
                config["toolChoice"] = {"auto": {}}
        return config, mode in {"required", "named"}

    def _output(self, system: list[JsonObject], output_config: JsonObject) -> None:
        output, mode = self._request.output, self._capabilities.structured
        if output is None or self._answers_by_tool:
            return
        if mode == "none":
            self._drop("response_format")
        elif output.kind == "json_object":
            system.append({"text": JSON_ONLY})
        elif mode == "prompt":
            system.append({"text": f"{JSON_ONLY} It must follow this JSON schema:\n{text_of(output.schema or {})}"})
        else:
            schema = {"schema": text_of(close_objects(output.schema or {})), "name": output.name or ANSWER_TOOL}
            output_config["textFormat"] = {"type": "json_schema", "structure": {"jsonSchema": schema}}

    def _reason(
        self, inference: JsonObject, additional: JsonObject, output_config: JsonObject, *, is_forced: bool
    ) -> None:
        """Sets `reasoning_effort` and `thinking`, and drops the sampling parameters that they exclude."""
        request, mode = self._request, self._capabilities.thinking
        effort = request.reasoning_effort if request.reasoning_effort in {*EFFORTS, "none"} else ""
        self._drop("reasoning_effort", when=effort != request.reasoning_effort)
        name = "reasoning_effort" if request.thinking is None else "thinking"
        if request.thinking is None and not effort:
            return
        if mode not in {"budget", "adaptive"}:
            self._drop("thinking", when=request.thinking is not None)
            if effort in EFFORTS:
                self._by_level(inference, additional) if mode == "level" else self._drop("reasoning_effort")
            return
        if request.thinking is not None:
            thinking = dict(request.thinking)
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
        is_refused = is_forced or (mode == "budget" and _lacks_reasoning(request))
        if is_refused or (type(thinking.get("budget_tokens")) is int and not self._fit_budget(thinking, inference)):
            self._drop(name)
            return
        additional["thinking"] = thinking
        if mode == "adaptive" and effort in EFFORTS:
            output_config["effort"] = EFFORTS[effort]
        self._drop("temperature", when=inference.pop("temperature", None) is not None)
        self._drop("top_k", when=additional.pop("top_k", None) is not None)
        if inference.get("topP", 1) < MIN_THINKING_TOP_P:
            self._drop("top_p", when=inference.pop("topP") is not None)

    def _fit_budget(self, thinking: JsonObject, inference: JsonObject) -> bool:
        """Fits the budget into the client's limit; False where too little remains to think."""
        budget: int = thinking["budget_tokens"]
        if "maxTokens" not in inference:
            limit = self._capabilities.max_output_tokens
            inference["maxTokens"] = limit or budget + self._capabilities.default_max_tokens
        thinking["budget_tokens"] = min(budget, inference["maxTokens"] - 1)
        return bool(thinking["budget_tokens"] >= MIN_BUDGET)

    def _by_level(self, inference: JsonObject, additional: JsonObject) -> None:
        """Sets Nova's `reasoningConfig`, whose highest effort excludes the sampling parameters and the limit; other
        models take OpenAI's field. Source: https://docs.aws.amazon.com/nova/latest/nova2-userguide/extended-thinking.html
        """
        effort = EFFORTS[self._request.reasoning_effort]
        level = effort if effort in {"low", "medium"} else "high"
        if self._is_nova:
            additional["reasoningConfig"] = {"type": "enabled", "maxReasoningEffort": level}
        else:
            additional["reasoning_effort"] = level
        if self._is_nova and level == "high":
            for member, name in (("temperature", "temperature"), ("topP", "top_p"), ("maxTokens", "max_tokens")):
                self._drop(name, when=inference.pop(member, None) is not None)

    def _tier(self) -> dict[str, str]:
        tier = self._request.service_tier
        self._drop("service_tier", when=tier not in TIERS | {"auto", ""})
        return {"type": tier} if tier in TIERS else {}

    def _drop_unknown(self) -> None:
        request = self._request
        self._drop("n", when=request.n not in {None, 1})
        self._drop("seed", when=request.seed is not None)
        options = request.options()
        for name in ("presence_penalty", "frequency_penalty", "logprobs", "top_logprobs", "logit_bias", "user"):
            self._drop(name, when=bool(options.get(name)))
        self.dropped += request.others


def _turn(turns: list[_Turn], role: str) -> _Turn:
    """The last turn if it has this role, else a new one."""
    if not turns or turns[-1].role != role:
        turns.append(_Turn(role))
    return turns[-1]


def _called_tools(turns: list[_Turn]) -> list[str]:
    """The names of the tools that the history calls."""
    return list(dict.fromkeys(block["toolUse"]["name"] for turn in turns for block in turn.rest if "toolUse" in block))


def _tool_spec(name: str, description: str, schema: JsonMapping | None, *, is_strict: bool = False) -> JsonObject:
    json_schema = {"type": "object", **(schema or {"properties": {}})}
    spec = {"name": name, "description": description.strip() or name, "inputSchema": {"json": json_schema}}
    return {"toolSpec": spec | ({"strict": True} if is_strict else {})}


def _input(call: items.ToolCall) -> Json:
    """The arguments as an object, its numbers with all their digits."""
    if call.kind == "custom":
        return {"input": call.arguments}
    if not call.arguments.strip():
        return {}
    is_object = type(read_arguments(call)) is dict
    return orjson.Fragment(call.arguments) if is_object else {"_raw": call.arguments}


def _reasoning(item: items.Reasoning) -> list[JsonObject]:
    """A block of reasoning; nothing for an unsigned one, which the model would refuse."""
    if item.redacted:
        return [{"reasoningContent": {"redactedContent": item.redacted}}]
    if item.signature:
        return [{"reasoningContent": {"reasoningText": {"text": item.text, "signature": item.signature}}}]
    return []


def _lacks_reasoning(request: items.ChatRequest) -> bool:
    """True where the history ends in tool calls without the reasoning before them: thinking must then be off."""
    messages = list(request.messages)
    while messages and isinstance(messages[-1], items.ToolResult):
        messages.pop()
    last = messages[-1] if messages else None
    return isinstance(last, items.Assistant) and bool(last.tool_calls) and not any(map(_reasoning, last.reasoning))


def _limit_cache_points(
    messages: Sequence[list[JsonObject]], system: list[JsonObject], tools: list[JsonObject]
) -> None:
    """Removes the earliest cache points beyond the limit: later ones, and those of system and tools, save most."""
    lists = [*messages, system, tools]
    excess = sum("cachePoint" in block for blocks in lists for block in blocks) - MAX_CACHE_POINTS
    for blocks in lists:
        if excess <= 0:
            return
        remaining = []
        for block in blocks:
            if excess > 0 and "cachePoint" in block:
                excess -= 1
            else:
                remaining.append(block)
        blocks[:] = remaining
