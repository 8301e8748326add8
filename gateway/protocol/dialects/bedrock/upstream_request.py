"""ChatRequest → request of Converse and ConverseStream. Its answers: bedrock.py.

Source: botocore's model bedrock-runtime 2023-09-30 (version 1.44.5) and
https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html; what is stated elsewhere only says
so at its place. Blobs travel as base64. What becomes of each parameter: docs/dialects/bedrock.md.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import orjson

from gateway.protocol import items
from gateway.protocol.attempt_context import Fetched
from gateway.protocol.capabilities import Capabilities
from gateway.protocol.dialects.bedrock.json_schema import close_objects
from gateway.protocol.dialects.bedrock.models import features_of
from gateway.protocol.dialects.bedrock.upstream_answer import text_of
from gateway.protocol.dialects.shared.call_arguments import read_arguments
from gateway.protocol.dialects.shared.call_ids import CallIds, Unanswered
from gateway.protocol.dialects.shared.system_text import system_texts
from gateway.protocol.errors import BadRequest
from gateway.protocol.json.types import Json, JsonMapping, JsonObject

#: The tool whose input is the answer, where a model has no other way to follow a schema.
ANSWER_TOOL = "json_output"
#: A custom tool takes free text, as the one property of an object.
FREEFORM = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}
JSON_ONLY = "Respond with one JSON object only."
NO_TOOLS = "Do not call tools."
TOOL_ID = re.compile(r"[a-zA-Z0-9_.:-]{1,64}")
IMAGE_FORMATS = {"png": "png", "jpeg": "jpeg", "jpg": "jpeg", "gif": "gif", "webp": "webp"}
DOCUMENT_FORMATS = frozenset({"pdf", "csv", "doc", "docx", "xls", "xlsx", "html", "txt", "md"})
#: Media subtypes that differ from what the API calls them.
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
HINTS = frozenset({"cache_control", "user", "service_tier"})
TIERS = frozenset({"default", "priority", "flex", "reserved"})


def encode_request(
    conversation: items.ChatRequest, capabilities: Capabilities, *, model: str, fetched: Mapping[str, Fetched]
) -> tuple[JsonObject, tuple[str, ...]]:
    """(the request's body, the names of the parameters that it could not carry). `model` tells the family, by which
    the additional fields differ; `fetched` holds media by their addresses.

    Raises BadRequest for what would mean something else without the part that cannot be said.
    """
    encoding = _RequestEncoder(conversation, capabilities, model, fetched)
    body = encoding.body()
    dropped = tuple(dict.fromkeys(encoding.dropped))
    refuse_where_strict(dropped, capabilities)
    return body, dropped


def refuse_where_strict(dropped: Sequence[str], capabilities: Capabilities) -> None:
    """A hint may always be dropped."""
    name = next((name for name in dropped if name not in HINTS), "")
    if name and capabilities.on_unsupported == "error":
        raise unsupported(name, f"'{name}' is not supported by this model.")


def answer_tool(conversation: items.ChatRequest, capabilities: Capabilities) -> str:
    """For the decoder: the tool whose call is the answer, if there is one."""
    output = conversation.output
    is_used = output is not None and output.kind == "json_schema" and capabilities.structured == "tool"
    return ANSWER_TOOL if is_used else ""


def is_asked_whole(conversation: items.ChatRequest, model: str) -> bool:
    """Whether a stream has to be made of a whole answer: some models do not stream where there are tools."""
    if features_of(model).streams_tools:
        return False
    choice = conversation.tool_choice
    return (bool(conversation.tools) and (choice is None or choice.mode != "none")) or any(
        isinstance(message, items.ToolResult) or (isinstance(message, items.Assistant) and message.tool_calls)
        for message in conversation.messages
    )


def unsupported(param: str, message: str) -> BadRequest:
    return BadRequest(message, param=param, code="unsupported_parameter")


@dataclass(slots=True)
class _Turn:
    """A message to be: its tool results stand before the rest of it."""

    role: str
    results: list[JsonObject] = field(default_factory=list)
    rest: list[JsonObject] = field(default_factory=list)

    def content(self) -> list[JsonObject]:
        if self.role == "user" and any("document" in block for block in self.rest):
            self.rest += [] if any("text" in block for block in self.rest) else [{"text": "."}]
        return [*self.results, *self.rest] or [{"text": "."}]


class _RequestEncoder:
    """One request on its way to JSON."""

    def __init__(
        self, conversation: items.ChatRequest, capabilities: Capabilities, model: str, fetched: Mapping[str, Fetched]
    ) -> None:
        self.dropped: list[str] = []
        self._conversation = conversation
        self._capabilities = capabilities
        self._fetched = fetched
        self._files = 0
        self._ids = CallIds(TOOL_ID, "call_")
        self._unanswered = Unanswered()
        self._answers_by_tool = bool(answer_tool(conversation, capabilities))
        name = model.lower()
        self._features = features_of(name)
        self._is_claude = "claude" in name
        self._is_nova = "amazon.nova" in name
        # The name of an application's own inference profile does not tell its model: such a one gets the benefit
        self._may_cache = self._is_claude or self._is_nova or bool(re.search(r"arn:.*:application-inference", name))

    def body(self) -> JsonObject:
        conversation = self._conversation
        system: list[JsonObject] = []
        turns = self._turns(system)
        self._check_end(turns)
        inference = self._inference()
        additional: JsonObject = {}
        output: JsonObject = {}
        tools, is_forced = self._tool_config(system, turns, additional)
        self._output(system, output)
        self._top_k(additional)
        self._reason(inference, additional, output, is_forced=is_forced)
        contents = [turn.content() for turn in turns]
        contents[-1] += self._cache_point(conversation.cache)
        _limit_cache_points(contents, system, tools.get("tools", []))
        body = {
            "messages": [{"role": turn.role, "content": made} for turn, made in zip(turns, contents, strict=True)],
            "system": system,
            "inferenceConfig": inference,
            "toolConfig": tools,
            "additionalModelRequestFields": additional,
            "outputConfig": output,
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
        for message in self._conversation.messages:
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
        sent_id = self._unanswered.answer(message.tool_call_id)
        if sent_id is None:  # more results than calls in the turn before are refused
            turn.rest += self._blocks(message.parts)
            return
        turn.results.append(self._tool_result(sent_id, message))
        for part in message.parts:
            turn.results += self._cache_point(part.cache)

    def _fill_results(self, turns: list[_Turn]) -> None:
        """Every call must have its result in the very next turn."""
        for sent_id in self._unanswered.end():
            missing = {"toolUseId": sent_id, "content": [{"text": "no result"}], "status": "error"}
            _turn(turns, "user").results.append({"toolResult": missing})

    def _add_system(self, system: list[JsonObject], turns: list[_Turn], message: items.System) -> None:
        """Few models know a system message within the conversation: for the others it becomes the user's words."""
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
            sent_id = self._ids.sent(call.id)
            self._unanswered.add(call.id, sent_id)
            blocks.append({"toolUse": {"toolUseId": sent_id, "name": call.name, "input": _input(call)}})
        return blocks

    def _check_end(self, turns: list[_Turn]) -> None:
        """What the assistant has begun to say is for a model that goes on with it."""
        last = turns[-1]
        if last.role == "assistant" and not self._capabilities.prefill:
            raise unsupported("messages", "The last message must not be the assistant's for this model.")
        if last.role == "assistant" and last.rest and "text" in last.rest[-1]:
            last.rest[-1]["text"] = last.rest[-1]["text"].rstrip()

    def _blocks(self, parts: Iterable[items.Part]) -> list[JsonObject]:
        """Blank text is refused upstream and left out here."""
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
        """Documents are named by their number: a name is limited in its signs, unique, and read by the model."""
        if not self._features.documents:
            raise unsupported("messages", "This model takes no files.")
        if part.file_id:
            raise unsupported("messages", "This model takes files by their content only.")
        media_type, source = self._source(part.url, part.media_type, part.data)
        subtype = media_type.rpartition("/")[2]
        ending = (part.filename or part.url).rpartition(".")[2].lower()
        known = [kind for kind in (DOCUMENT_TYPES.get(subtype, subtype), ending) if kind in DOCUMENT_FORMATS]
        if not known and not media_type.startswith("text/"):
            raise unsupported("messages", "This model takes no files of this type.")
        self._files += 1
        return {"document": {"format": known[0] if known else "txt", "name": f"file-{self._files}", "source": source}}

    def _source(self, url: str, media_type: str, data: str) -> tuple[str, JsonObject]:
        """(media type, source). S3 locations are refused: they would be read with the deployment's credentials."""
        if url:
            found = self._fetched.get(url)
            if found is None:
                raise BadRequest("A file or an image of the request could not be fetched.", param="messages")
            media_type, data = found.media_type, found.data
        return media_type.partition(";")[0].strip().lower(), {"bytes": data}

    def _tool_result(self, sent_id: str, message: items.ToolResult) -> JsonObject:
        """Some models refuse a result without content, and some one that is blank."""
        content = [self._block(part) for part in message.parts if not isinstance(part, items.Text) or part.text.strip()]
        result = {"toolUseId": sent_id, "content": content or [{"text": "(empty)"}]}
        return {"toolResult": result | ({"status": "error"} if message.is_error else {})}

    def _cache_point(self, cache: items.Cache | None, *, is_tool: bool = False) -> list[JsonObject]:
        """Nova knows no other time to live than its own, and no mark among the tools."""
        if cache is None:
            return []
        if not self._may_cache or (is_tool and self._is_nova):
            self._drop("cache_control")
            return []
        ttl = {"ttl": cache.ttl} if cache.ttl in {"5m", "1h"} and not self._is_nova else {}
        return [{"cachePoint": {"type": "default", **ttl}}]

    # Parameters

    def _inference(self) -> JsonObject:
        conversation, sampling = self._conversation, self._capabilities.sampling
        inference: JsonObject = {}
        if conversation.temperature is not None and sampling != "none":
            inference["temperature"] = min(max(conversation.temperature, 0), 1)
        if conversation.top_p is not None and (sampling == "full" or (sampling == "one_of" and not inference)):
            inference["topP"] = conversation.top_p
        self._drop("temperature", when=conversation.temperature is not None and "temperature" not in inference)
        self._drop("top_p", when=conversation.top_p is not None and "topP" not in inference)
        if conversation.max_tokens is not None:
            limit = self._capabilities.max_output_tokens or conversation.max_tokens
            inference["maxTokens"] = min(conversation.max_tokens, limit)
        stop = [text for text in conversation.stop if text.strip() and self._features.stop]
        self._drop("stop", when=len(stop) < len(conversation.stop))
        return inference | ({"stopSequences": stop} if stop else {})

    def _top_k(self, additional: JsonObject) -> None:
        top_k = self._conversation.top_k
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
        """(toolConfig, whether a call is forced). The API has no choice `none`, and wants tools wherever the history
        has calls or results."""
        conversation = self._conversation
        choice = conversation.tool_choice
        mode = choice.mode if choice is not None and conversation.tools else "auto"
        allowed = frozenset(choice.allowed) if choice is not None else frozenset()
        tools = [tool for tool in conversation.tools if not allowed or tool.name in allowed]
        used = _used_tools(turns)
        if not self._features.tools and (used or (tools and mode != "none")):
            raise unsupported("tools", "This model takes no tools.")
        if mode in {"required", "named"} and not self._features.forces_tools:
            self._drop("tool_choice")
            named = choice.name if choice is not None and mode == "named" else ""
            tools = [tool for tool in tools if not named or tool.name == named]
            mode, choice = "auto", None
        blocks: list[JsonObject] = []
        if mode != "none" or used:
            for tool in tools:
                schema = tool.schema if tool.kind == "function" else FREEFORM
                is_strict = bool(tool.strict) and self._capabilities.structured == "native"
                blocks.append(_tool_spec(tool.name, tool.description, schema, is_strict=is_strict))
                blocks += self._cache_point(tool.cache, is_tool=True)
        if used and not blocks:
            blocks = [_tool_spec(name, name, None) for name in used]
        if mode == "none" and used:
            system.insert(0, {"text": NO_TOOLS})
        if self._answers_by_tool and conversation.output is not None:
            blocks.append(_tool_spec(ANSWER_TOOL, "", conversation.output.schema))
            only: JsonObject = {"tool": {"name": ANSWER_TOOL}}
            return {"tools": blocks, "toolChoice": only if mode == "none" or not tools else {"any": {}}}, True
        if not blocks:
            return {}, False
        config: JsonObject = {"tools": blocks}
        is_single = conversation.parallel_tools is False and bool(tools) and mode != "none"
        if is_single and self._is_claude:
            # In one place only: Converse answers 400 where both this and toolChoice hold a choice
            # (github.com/BerriAI/litellm/issues/36536), and where `type` is missing here (pull 34347)
            which = {"name": choice.name} if mode == "named" and choice is not None else {}
            kind = {"required": "any", "named": "tool"}.get(mode, "auto")
            additional["tool_choice"] = {"type": kind, **which, "disable_parallel_tool_use": True}
        else:
            self._drop("parallel_tool_calls", when=is_single)
            if mode == "named" and choice is not None:
                config["toolChoice"] = {"tool": {"name": choice.name}}
            elif mode == "required":
                config["toolChoice"] = {"any": {}}
            elif mode == "auto" and choice is not None and conversation.tools:
                config["toolChoice"] = {"auto": {}}
        return config, mode in {"required", "named"}

    def _output(self, system: list[JsonObject], output: JsonObject) -> None:
        asked, how = self._conversation.output, self._capabilities.structured
        if asked is None or self._answers_by_tool:
            return
        if how == "none":
            self._drop("response_format")
        elif asked.kind == "json_object":
            system.append({"text": JSON_ONLY})
        elif how == "prompt":
            system.append({"text": f"{JSON_ONLY} It must follow this JSON schema:\n{text_of(asked.schema or {})}"})
        else:
            schema = {"schema": text_of(close_objects(asked.schema or {})), "name": asked.name or ANSWER_TOOL}
            output["textFormat"] = {"type": "json_schema", "structure": {"jsonSchema": schema}}

    def _reason(self, inference: JsonObject, additional: JsonObject, output: JsonObject, *, is_forced: bool) -> None:
        """`reasoning_effort` and `thinking`, and what cannot stand beside them."""
        conversation, mode = self._conversation, self._capabilities.thinking
        effort = conversation.reasoning_effort if conversation.reasoning_effort in {*EFFORTS, "none"} else ""
        self._drop("reasoning_effort", when=effort != conversation.reasoning_effort)
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
        is_refused = is_forced or (mode == "budget" and _lacks_reasoning(conversation))
        if is_refused or (type(thinking.get("budget_tokens")) is int and not self._fit_budget(thinking, inference)):
            self._drop(name)
            return
        additional["thinking"] = thinking
        if mode == "adaptive" and effort in EFFORTS:
            output["effort"] = EFFORTS[effort]
        self._drop("temperature", when=inference.pop("temperature", None) is not None)
        self._drop("top_k", when=additional.pop("top_k", None) is not None)
        if inference.get("topP", 1) < MIN_THINKING_TOP_P:
            self._drop("top_p", when=inference.pop("topP") is not None)

    def _fit_budget(self, thinking: JsonObject, inference: JsonObject) -> bool:
        """The budget is part of the caller's limit; False where too little of it is left to think."""
        budget: int = thinking["budget_tokens"]
        if "maxTokens" not in inference:
            limit = self._capabilities.max_output_tokens
            inference["maxTokens"] = limit or budget + self._capabilities.default_max_tokens
        thinking["budget_tokens"] = min(budget, inference["maxTokens"] - 1)
        return bool(thinking["budget_tokens"] >= MIN_BUDGET)

    def _by_level(self, inference: JsonObject, additional: JsonObject) -> None:
        """Nova's `reasoningConfig` (https://docs.aws.amazon.com/nova/latest/nova2-userguide/extended-thinking.html),
        whose highest effort wants the limits unset; others have OpenAI's own field."""
        effort = EFFORTS[self._conversation.reasoning_effort]
        level = effort if effort in {"low", "medium"} else "high"
        if self._is_nova:
            additional["reasoningConfig"] = {"type": "enabled", "maxReasoningEffort": level}
        else:
            additional["reasoning_effort"] = level
        if self._is_nova and level == "high":
            for member, name in (("temperature", "temperature"), ("topP", "top_p"), ("maxTokens", "max_tokens")):
                self._drop(name, when=inference.pop(member, None) is not None)

    def _tier(self) -> dict[str, str]:
        tier = self._conversation.service_tier
        self._drop("service_tier", when=tier not in TIERS | {"auto", ""})
        return {"type": tier} if tier in TIERS else {}

    def _drop_unknown(self) -> None:
        conversation = self._conversation
        self._drop("n", when=conversation.n not in {None, 1})
        self._drop("seed", when=conversation.seed is not None)
        for name in ("presence_penalty", "frequency_penalty", "logprobs", "top_logprobs", "logit_bias", "user"):
            self._drop(name, when=bool(getattr(conversation, name)))
        self.dropped += conversation.others


def _turn(turns: list[_Turn], role: str) -> _Turn:
    """The last turn where it has this role, else a new one."""
    if not turns or turns[-1].role != role:
        turns.append(_Turn(role))
    return turns[-1]


def _used_tools(turns: list[_Turn]) -> list[str]:
    """The names of the tools that the history calls."""
    return list(dict.fromkeys(block["toolUse"]["name"] for turn in turns for block in turn.rest if "toolUse" in block))


def _tool_spec(name: str, description: str, schema: JsonMapping | None, *, is_strict: bool = False) -> JsonObject:
    json_schema = {"type": "object", **(schema or {"properties": {}})}
    spec = {"name": name, "description": description.strip() or name, "inputSchema": {"json": json_schema}}
    return {"toolSpec": spec | ({"strict": True} if is_strict else {})}


def _input(call: items.ToolCall) -> Json:
    """The arguments as an object; numbers keep their digits."""
    if call.kind == "custom":
        return {"input": call.arguments}
    if not call.arguments.strip():
        return {}
    is_object = type(read_arguments(call)) is dict
    return orjson.Fragment(call.arguments) if is_object else {"_raw": call.arguments}


def _reasoning(item: items.Reasoning) -> list[JsonObject]:
    """What no model signed is not theirs to verify, and refused."""
    if item.redacted:
        return [{"reasoningContent": {"redactedContent": item.redacted}}]
    if item.signature:
        return [{"reasoningContent": {"reasoningText": {"text": item.text, "signature": item.signature}}}]
    return []


def _lacks_reasoning(conversation: items.ChatRequest) -> bool:
    """Whether a turn of calls goes on whose reasoning did not come back: thinking cannot be on then."""
    messages = list(conversation.messages)
    while messages and isinstance(messages[-1], items.ToolResult):
        messages.pop()
    last = messages[-1] if messages else None
    return isinstance(last, items.Assistant) and bool(last.tool_calls) and not any(map(_reasoning, last.reasoning))


def _limit_cache_points(
    messages: Sequence[list[JsonObject]], system: list[JsonObject], tools: list[JsonObject]
) -> None:
    """The first of the conversation go first: the last ones and those of system and tools save most."""
    lists = [*messages, system, tools]
    left = sum("cachePoint" in block for blocks in lists for block in blocks) - MAX_CACHE_POINTS
    for blocks in lists:
        if left <= 0:
            return
        kept = []
        for block in blocks:
            if left > 0 and "cachePoint" in block:
                left -= 1
            else:
                kept.append(block)
        blocks[:] = kept
