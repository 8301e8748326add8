"""ChatRequest → request of Gemini's generateContent, which two providers speak. Its answers: gemini_answer.py.

Source: https://ai.google.dev/api/generate-content and the types of google-genai 3.3.0. What becomes of each request
field is told in docs/dialects/gemini.md.
"""

import re
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import orjson

from gateway.protocol.attempt_context import AttemptContext
from gateway.protocol.capabilities import Capabilities
from gateway.protocol.dialects.gemini import files as google_files
from gateway.protocol.dialects.gemini.json_schema import declaration, to_openapi_subset, wire_name, wire_names
from gateway.protocol.dialects.gemini.upstream_answer import member
from gateway.protocol.dialects.shared.call_arguments import MAX_DEPTH, read_arguments
from gateway.protocol.dialects.shared.system_text import system_texts
from gateway.protocol.errors import BadRequest
from gateway.protocol.items import (
    Assistant,
    Audio,
    ChatRequest,
    File,
    Image,
    Message,
    Part,
    System,
    Text,
    Tool,
    ToolCall,
    ToolResult,
    User,
)
from gateway.protocol.json.body import is_deeper
from gateway.protocol.json.types import Json, JsonMapping, JsonObject

#: Passes the check of a call whose signature the client has lost; documented with the thought signatures
#: (https://ai.google.dev/gemini-api/docs/thought-signatures). It is valid base64 as it stands.
NO_SIGNATURE = "skip_thought_signature_validator"
SIGNATURE = re.compile(r"[A-Za-z0-9+/_-]+={0,2}")
THIRD_OR_LATER = re.compile(r"gemini-(?:[3-9]|[1-9]\d)", re.IGNORECASE)
PRO = re.compile(r"\bpro\b", re.IGNORECASE)
MAX_STOPS = 5
MAX_TOP_LOGPROBS = 20
MIN_BUDGET = 1024  # below it a thinking budget that had to be cut is not worth having
PRO_BUDGET = 128  # the least that a Pro model takes: its thinking cannot be turned off
BUDGETS = {"minimal": 512, "low": 1024, "medium": 8192, "high": 24_576, "xhigh": 24_576, "max": 24_576}
LEVELS = {"none": "MINIMAL", "minimal": "MINIMAL", "low": "LOW", "medium": "MEDIUM", "high": "HIGH"}
SERVICE_TIERS = {"flex": "flex", "default": "standard", "standard": "standard", "priority": "priority"}
CHOICE_MODES = {"auto": "AUTO", "required": "ANY", "none": "NONE", "named": "ANY"}
AUDIO_TYPES = {"wav": "audio/wav", "mp3": "audio/mp3", "pcm16": "audio/pcm"}
MEDIA_TYPES = {
    **{kind: f"image/{kind}" for kind in ("png", "jpeg", "webp", "gif", "heic")},
    **{kind: f"video/{kind}" for kind in ("mp4", "mov", "webm")},
    **{kind: f"text/{kind}" for kind in ("csv", "html")},
    **AUDIO_TYPES,
    "jpg": "image/jpeg",
    "txt": "text/plain",
    "md": "text/markdown",
    "pdf": "application/pdf",
    "json": "application/json",
}
#: The provider reads these itself; any other address is fetched by the gateway.
READ_UPSTREAM = re.compile(
    r"gs://|https://generativelanguage\.googleapis\.com/|https://(?:www\.|m\.)?youtube\.com/|https://youtu\.be/"
)
#: Hints without a meaning of their own, which even a strict deployment drops.
HINTS = frozenset({"cache_control", "user", "service_tier"})


@dataclass(frozen=True, slots=True)
class EncodedRequest:
    body: bytes
    dropped: tuple[str, ...] = ()


def encode_request(
    conversation: ChatRequest,
    capabilities: Capabilities,
    *,
    upstream_model: str,
    context: AttemptContext,
    files_base: str = "",
    options: JsonMapping | None = None,
    unsupported_parameters: Iterable[str] = (),
) -> EncodedRequest:
    """`files_base` is what `files/…` stands under; `options` are the deployment's own parameters, of which those
    with OpenAI's names stand in where the client said nothing and all others go into the body. `learned` are
    parameters that the upstream has refused before. Files by their addresses at Google are taken where the options
    allow them.

    Raises BadRequest for what cannot be said without changing its meaning, and, where the deployment refuses
    instead of dropping, for the first parameter that would be dropped.
    """
    options = options or {}
    conversation, extra = with_defaults(conversation, options)
    extra.pop(google_files.ALLOW_FILE_URIS, None)
    refused = [
        name for name in unsupported_parameters if name in UNSAID and getattr(conversation, name) != UNSAID[name]
    ]
    conversation = replace(conversation, **{name: UNSAID[name] for name in refused}) if refused else conversation
    encoding = _RequestEncoder(conversation, capabilities, upstream_model, context, files_base, refused)
    encoding.allows_files = google_files.are_allowed(options)
    return encoding.encoded(extra)


#: Plain options of a conversation, and what each is where nobody said anything.
UNSAID: JsonMapping = {
    **dict.fromkeys(("max_tokens", "temperature", "top_p", "top_k", "seed", "presence_penalty", "frequency_penalty")),
    **dict.fromkeys(("n", "logprobs", "top_logprobs", "thinking")),
    "reasoning_effort": "",
    "service_tier": "",
}
OPTION_NAMES = {"safety_settings": "safetySettings", "cached_content": "cachedContent"}


def with_defaults(conversation: ChatRequest, options: JsonMapping) -> tuple[ChatRequest, JsonObject]:
    """(the conversation with a deployment's parameters where the client said nothing, the parameters left over)"""
    given: JsonObject = {}
    extra: JsonObject = {}
    for name, value in options.items():
        member = "max_tokens" if name == "max_completion_tokens" else name
        if member not in UNSAID:
            extra[OPTION_NAMES.get(name, name)] = value
        elif getattr(conversation, member) == UNSAID[member]:
            given[member] = value
    return (replace(conversation, **given) if given else conversation), extra


def needs_signatures(upstream_model: str, capabilities: Capabilities) -> bool:
    """From Gemini 3 on a function call in the history must carry its thought signature."""
    return capabilities.thinking == "level" or THIRD_OR_LATER.search(upstream_model) is not None


def media_urls(conversation: ChatRequest) -> tuple[str, ...]:
    """What the gateway must fetch before `encode`, each once."""
    urls = [
        part.url
        for message in conversation.messages
        if not isinstance(message, System)
        for part in message.parts
        if isinstance(part, Image | File) and part.url and not READ_UPSTREAM.match(part.url)
    ]
    return tuple(dict.fromkeys(url for url in urls if url.startswith(("http://", "https://"))))


class _RequestEncoder:
    """One request in the making."""

    __slots__ = (
        *("_asked", "_capabilities", "_dropped", "_files_base", "_is_pro", "_is_subset", "_is_third", "_moment"),
        *("_names", "allows_files"),
    )

    def __init__(
        self,
        conversation: ChatRequest,
        capabilities: Capabilities,
        upstream_model: str,
        context: AttemptContext,
        files_base: str,
        dropped: list[str],
    ) -> None:
        self.allows_files = False
        self._asked = conversation
        self._capabilities = capabilities
        self._moment = context
        self._files_base = files_base
        self._is_third = needs_signatures(upstream_model, capabilities)
        self._is_subset = capabilities.schema_mode == "openapi_subset"
        self._names = wire_names(conversation.tools, is_subset=self._is_subset)
        self._is_pro = PRO.search(upstream_model) is not None
        self._dropped = list(dropped)

    def encoded(self, extra: JsonObject) -> EncodedRequest:
        asked = self._asked
        contents = self._contents()
        config = self._config()
        suffix = self._set_output(config)
        self._set_thinking(config)
        self._set_modalities(config)
        body: JsonObject = {}
        said = [part.text for item in asked.messages if isinstance(item, System) for part in system_texts(item)]
        system = [{"text": text} for text in (*said, suffix) if text]
        if system:
            body["systemInstruction"] = {"parts": system}
        body["contents"] = contents
        self._set_tools(body)
        if config:
            body["generationConfig"] = config
        self._set_rest(body)
        for name, value in extra.items():
            held = body.get(name)
            body[name] = {**value, **held} if isinstance(held, dict) and isinstance(value, dict) else value
        self._refuse_where_strict()
        return EncodedRequest(orjson.dumps(body), tuple(dict.fromkeys(self._dropped)))

    def _refuse_where_strict(self) -> None:
        if self._capabilities.on_unsupported != "error":
            return
        for name in self._dropped:
            if name not in HINTS:
                raise BadRequest(f"This model does not support '{name}'.", param=name, code="unsupported_parameter")

    # Contents

    def _contents(self) -> list[JsonObject]:
        """Turns of alternating roles, each function response in the turn after its call."""
        made: list[JsonObject] = []

        def turn(role: str) -> list[JsonObject]:
            if not made or made[-1]["role"] != role:
                made.append({"role": role, "parts": []})
            parts: list[JsonObject] = made[-1]["parts"]
            return parts

        for message, results in _steps(self._asked.messages):
            if isinstance(message, User):
                turn("user").extend(self._parts(message.parts))
            elif isinstance(message, Assistant):
                said = [*message.parts, *([Text(message.refusal)] if message.refusal else [])]
                parts = [*self._parts(said), *self._calls(message.tool_calls)]
                if message.tool_calls and not made:
                    turn("user")  # a call must follow a user's turn
                turn("model").extend(parts)
                if message.tool_calls:
                    turn("user").extend(self._responses(message.tool_calls, results))
            elif isinstance(message, ToolResult):  # of no call that stands before it
                turn("user").extend(self._parts(message.parts))
        for content in made or [{"role": "user", "parts": []}]:
            if not content["parts"]:
                content["parts"].append({"text": " "})
        return made or [{"role": "user", "parts": [{"text": " "}]}]

    def _parts(self, parts: Iterable[Part]) -> list[JsonObject]:
        made = []
        for part in parts:
            if part.cache is not None:
                self._dropped.append("cache_control")
            if isinstance(part, Text):
                if part.text:
                    made.append({"text": part.text})
            elif isinstance(part, Audio):
                if not self._capabilities.audio:
                    raise _unreadable("This model takes no audio.")
                kind = AUDIO_TYPES.get(part.format.lower(), f"audio/{part.format.lower() or 'wav'}")
                made.append(_inline(kind, part.data))
            else:
                made.append(self._medium(part))
        return made

    def _medium(self, part: Image | File) -> JsonObject:
        if isinstance(part, Image) and not self._capabilities.vision:
            raise _unreadable("This model takes no images.")
        name = part.filename if isinstance(part, File) else ""
        if part.data:
            kind = part.media_type or _media_type(name)
            return _inline(kind or ("image/png" if isinstance(part, Image) else "application/pdf"), part.data)
        uri = part.url or (part.file_id if isinstance(part, File) else "")
        if uri.startswith("files/") and self._files_base:
            uri = f"{self._files_base}/{uri}"
        is_uploaded = bool(self._files_base) and uri.startswith(f"{self._files_base}/files/")
        if (is_uploaded or google_files.OURS.match(uri)) and not self.allows_files:
            raise google_files.refused("messages")
        if is_uploaded or READ_UPSTREAM.match(uri):
            kind = part.media_type or _media_type(name) or _media_type(uri)
            return {"fileData": {"mimeType": kind, "fileUri": uri} if kind else {"fileUri": uri}}
        fetched = self._moment.fetched.get(uri)
        if fetched is None:
            raise _unreadable("A file or an image of this request is at no address that the model can read.")
        return _inline(fetched.media_type or part.media_type or _media_type(uri) or "image/png", fetched.data)

    def _name(self, name: str) -> str:
        return self._names.get(name) or wire_name(name, is_subset=self._is_subset)

    def _calls(self, calls: Sequence[ToolCall]) -> list[JsonObject]:
        """Ids are left out: Vertex refuses them, and responses are matched by their order."""
        made = []
        for index, call in enumerate(calls):
            part: JsonObject = {"functionCall": {"name": self._name(call.name), "args": _arguments(call)}}
            if SIGNATURE.fullmatch(call.signature):
                part["thoughtSignature"] = call.signature
            elif index == 0 and self._is_third:  # of parallel calls only the first has one
                part["thoughtSignature"] = NO_SIGNATURE
            made.append(part)
        return made

    def _responses(self, calls: Sequence[ToolCall], results: list[ToolResult]) -> list[JsonObject]:
        """One for each call, in the order of the calls; what a result holds besides text follows them."""
        made, media = [], []
        waiting: defaultdict[str, deque[ToolResult]] = defaultdict(deque)
        for item in results:
            waiting[item.tool_call_id].append(item)
        for call in calls:
            response: JsonObject = {"error": "no result"}
            if waiting[call.id]:
                result = waiting[call.id].popleft()
                media += self._parts(part for part in result.parts if not isinstance(part, Text))
                response = _response(result)
            made.append({"functionResponse": {"name": self._name(call.name), "response": response}})
        for left in waiting.values():  # second results of one call: kept as text
            for result in left:
                media += self._parts(result.parts)
        return made + media

    # Options

    def _config(self) -> JsonObject:
        asked, capabilities = self._asked, self._capabilities
        config: JsonObject = {}
        samples = capabilities.sampling != "none"
        self._put(config, "temperature", "temperature", asked.temperature, known=samples)
        both = capabilities.sampling == "full" or asked.temperature is None
        self._put(config, "topP", "top_p", asked.top_p, known=samples and both)
        self._put(config, "topK", "top_k", asked.top_k, known=samples)
        limit = asked.max_tokens
        if limit and capabilities.max_output_tokens:
            limit = min(limit, capabilities.max_output_tokens)
        self._put(config, "maxOutputTokens", "max_tokens", limit)
        stops = [text for text in asked.stop if text]
        if len(stops) > MAX_STOPS:
            self._dropped.append("stop")
        self._put(config, "stopSequences", "stop", stops[:MAX_STOPS] or None)
        self._put(config, "seed", "seed", asked.seed)
        self._put(config, "presencePenalty", "presence_penalty", asked.presence_penalty)
        self._put(config, "frequencyPenalty", "frequency_penalty", asked.frequency_penalty)
        if asked.n is not None and asked.n > 1:
            config["candidateCount"] = asked.n
        if asked.logprobs:
            config["responseLogprobs"] = True
            if asked.top_logprobs:
                config["logprobs"] = min(asked.top_logprobs, MAX_TOP_LOGPROBS)
        return config

    def _put(self, config: JsonObject, member: str, name: str, value: Json, *, known: bool = True) -> None:
        if value is None:
            return
        if known:
            config[member] = value
        else:
            self._dropped.append(name)

    def _set_output(self, config: JsonObject) -> str:
        """Returns what the system instruction must say where the format cannot be set."""
        output, capabilities = self._asked.output, self._capabilities
        if output is None:
            return ""
        if capabilities.structured == "none":
            self._dropped.append("response_format")
            return ""
        if capabilities.structured != "native" or (self._asked.tools and not self._is_third):
            said = "Respond with one JSON object only."
            if output.kind == "json_schema":
                said = f"{said[:-1]}, which follows this JSON schema: {orjson.dumps(output.schema or {}).decode()}"
            return said
        config["responseMimeType"] = "application/json"
        if output.kind == "json_schema" and output.schema:
            if self._is_subset:
                config["responseSchema"] = to_openapi_subset(output.schema)
            else:
                config["responseJsonSchema"] = output.schema
        return ""

    def _set_thinking(self, config: JsonObject) -> None:
        effort, explicit = self._asked.reasoning_effort, self._asked.thinking
        own = member(self._asked.others.get("google"), "thinking_config")
        if own:
            config["thinkingConfig"] = {_camel(name): value for name, value in own.items()}
            return
        if explicit is None and not effort:
            return
        kind = self._capabilities.thinking
        if kind not in {"budget", "adaptive", "level"} or (explicit is None and effort not in {"none", *BUDGETS}):
            self._dropped.append("thinking" if explicit is not None else "reasoning_effort")
            return
        budget: int | None = None
        if explicit is not None:
            given = explicit.get("budget_tokens")
            budget = given if type(given) is int and given > 0 else None
            effort = "none" if explicit.get("type") == "disabled" else ""
        if kind == "level":
            config["thinkingConfig"] = self._level(effort, budget)
        else:
            config["thinkingConfig"] = self._budget(effort, budget)

    def _level(self, effort: str, budget: int | None) -> JsonObject:
        if budget is not None:
            effort = "low" if budget <= BUDGETS["low"] else "medium" if budget <= BUDGETS["medium"] else "high"
        if not effort:
            return {"includeThoughts": True}
        level = LEVELS.get(effort, "HIGH")
        if level == "MINIMAL" and self._is_pro:
            level = "LOW"
        return {"thinkingLevel": level} if effort == "none" else {"thinkingLevel": level, "includeThoughts": True}

    def _budget(self, effort: str, budget: int | None) -> JsonObject:
        off = {"thinkingBudget": PRO_BUDGET if self._is_pro else 0}
        if effort == "none":
            return off
        if budget is None:
            if not effort:
                return {"thinkingBudget": -1, "includeThoughts": True}  # as much as the model finds right
            budget = BUDGETS[effort]
            if effort == "minimal" and self._is_pro:
                budget = PRO_BUDGET
        limit = self._asked.max_tokens
        if limit is not None and budget >= limit:  # thinking counts inside the caller's limit
            budget = limit - 1
            if budget < MIN_BUDGET:
                return off
        return {"thinkingBudget": budget, "includeThoughts": True}

    def _set_modalities(self, config: JsonObject) -> None:
        modalities = self._asked.others.get("modalities")
        if isinstance(modalities, list) and modalities != ["text"]:
            config["responseModalities"] = [str(item).upper() for item in modalities]
        voice = member(self._asked.others, "audio").get("voice")
        if isinstance(voice, str):
            config["speechConfig"] = {"voiceConfig": {"prebuiltVoiceConfig": {"voiceName": voice}}}

    def _set_tools(self, body: JsonObject) -> None:
        asked = self._asked
        choice = asked.tool_choice
        if asked.parallel_tools is False and asked.tools and not self._capabilities.force_single_tool:
            self._dropped.append("parallel_tool_calls")
        tools: Sequence[Tool] = asked.tools
        if choice is not None and choice.mode == "auto" and choice.allowed:  # AUTO takes no list of names
            allowed = frozenset(choice.allowed)
            tools = [tool for tool in tools if tool.name in allowed]
        if not tools:
            return
        if any(tool.cache is not None for tool in tools):
            self._dropped.append("cache_control")
        declared = [declaration(tool, self._name(tool.name), is_subset=self._is_subset) for tool in tools]
        body["tools"] = [{"functionDeclarations": declared}]
        if choice is None:
            return
        calling: JsonObject = {"mode": CHOICE_MODES[choice.mode]}
        names = (choice.name,) if choice.mode == "named" else choice.allowed if choice.mode == "required" else ()
        if names:
            calling["allowedFunctionNames"] = [self._name(name) for name in names]
        body["toolConfig"] = {"functionCallingConfig": calling}

    def _set_rest(self, body: JsonObject) -> None:
        asked = self._asked
        if asked.service_tier:
            tier = SERVICE_TIERS.get(asked.service_tier)
            if tier:
                body["serviceTier"] = tier
            elif asked.service_tier != "auto":
                self._dropped.append("service_tier")
        cached = asked.others.get("cached_content") or member(asked.others, "google").get("cached_content")
        if isinstance(cached, str):
            body["cachedContent"] = cached
        if asked.user:
            self._dropped.append("user")
        if asked.logit_bias:
            self._dropped.append("logit_bias")
        if asked.cache is not None:
            self._dropped.append("cache_control")
        self._dropped += [name for name in asked.others if name not in READ_OTHERS]


READ_OTHERS = frozenset({"modalities", "audio", "google", "cached_content"})


def _steps(messages: Iterable[Message]) -> Iterator[tuple[Message, list[ToolResult]]]:
    """Each message but the results that belong to a call before it: those come with the call's message, from
    wherever they stand before the next answer."""
    held = list(messages)
    taken: set[int] = set()
    for index, message in enumerate(held):
        if index in taken:
            continue
        results: list[ToolResult] = []
        if isinstance(message, Assistant) and message.tool_calls:
            ids = {call.id for call in message.tool_calls}
            for later in range(index + 1, len(held)):
                item = held[later]
                if isinstance(item, Assistant):
                    break
                if isinstance(item, ToolResult) and item.tool_call_id in ids:
                    results.append(item)
                    taken.add(later)
        yield message, results


def _unreadable(message: str) -> BadRequest:
    return BadRequest(message, param="messages", code="unsupported_parameter")


def _inline(media_type: str, data: str) -> JsonObject:
    return {"inlineData": {"mimeType": media_type, "data": data}}


def _media_type(name: str) -> str:
    return MEDIA_TYPES.get(name.partition("?")[0].rpartition(".")[2].lower(), "")


def _arguments(call: ToolCall) -> JsonObject:
    if call.kind == "custom":
        return {"input": call.arguments}
    if not call.arguments.strip():
        return {}
    value = read_arguments(call)
    return value if isinstance(value, dict) else {"_raw": call.arguments}


def _response(result: ToolResult) -> JsonObject:
    said = "".join(part.text for part in result.parts if isinstance(part, Text))
    if result.is_error:
        return {"error": said}
    try:
        value = orjson.loads(said)
    except orjson.JSONDecodeError:
        value = None
    is_taken = isinstance(value, dict) and not is_deeper(value, MAX_DEPTH)  # deeper ones cannot be written again
    return value if is_taken else {"result": said}


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(word.capitalize() for word in rest)
