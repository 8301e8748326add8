"""ChatRequest → the body of Gemini's generateContent.

Source: https://ai.google.dev/api/generate-content and the types of google-genai 3.3.0. What becomes of each request
field: docs/dialects/gemini.md.
"""

import re
from collections import defaultdict, deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import orjson

from gateway.protocol.attempt_context import AttemptContext
from gateway.protocol.capabilities import Capabilities
from gateway.protocol.dialects.gemini import files as google_files
from gateway.protocol.dialects.gemini.json_schema import declaration, to_openapi_subset, wire_name, wire_names
from gateway.protocol.dialects.gemini.upstream_answer import member
from gateway.protocol.dialects.shared.call_arguments import MAX_DEPTH, read_arguments
from gateway.protocol.dialects.shared.parameters import refuse_dropped, settle_request
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

#: A call with this signature passes the API's check although the client has lost the real one. It is valid base64.
#: Source: https://ai.google.dev/gemini-api/docs/thought-signatures.
NO_SIGNATURE = "skip_thought_signature_validator"
SIGNATURE = re.compile(r"[A-Za-z0-9+/_-]+={0,2}")
THIRD_OR_LATER = re.compile(r"gemini-(?:[3-9]|[1-9]\d)", re.IGNORECASE)
PRO = re.compile(r"\bpro\b", re.IGNORECASE)
MAX_STOPS = 5
MAX_TOP_LOGPROBS = 20
MIN_BUDGET = 1024  # thinking is turned off rather than cut below this
PRO_BUDGET = 128  # a Pro model's least: its thinking cannot be turned off
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
#: Addresses that the provider reads itself. The gateway fetches any other.
READ_UPSTREAM = re.compile(
    r"gs://|https://generativelanguage\.googleapis\.com/|https://(?:www\.|m\.)?youtube\.com/|https://youtu\.be/"
)
#: Parameters that do not change the answer: even a strict deployment drops them.
HINTS = frozenset({"cache_control", "user", "service_tier"})


@dataclass(frozen=True, slots=True)
class EncodedRequest:
    body: bytes
    dropped: tuple[str, ...] = ()


def encode_request(
    request: ChatRequest,
    capabilities: Capabilities,
    *,
    upstream_model: str,
    context: AttemptContext,
    files_base: str = "",
    parameters: JsonMapping | None = None,
    unsupported_parameters: Collection[str] = (),
) -> EncodedRequest:
    """The body of generateContent.

    `files_base` is the address that `files/…` is relative to. `parameters` are the deployment's: those that are options
    of a ChatRequest apply where the client set nothing, the others go into the body. `unsupported_parameters` are the
    ones that the upstream has refused before.

    Raises BadRequest for content that the model cannot take, and, where the deployment wants no parameter dropped, for
    the first one that would be.
    """
    settled = settle_request(request, parameters or {}, unsupported_parameters)
    encoder = _RequestEncoder(
        settled.request,
        capabilities,
        upstream_model,
        context,
        files_base,
        settled.dropped,
        allows_files=google_files.are_allowed(settled.other_parameters),
    )
    members = {MEMBER_NAMES.get(name, name): value for name, value in settled.other_parameters.items()}
    members.pop(google_files.ALLOW_FILE_URIS, None)
    return encoder.encode(members)


#: Parameters of a deployment whose member of the body has another name.
MEMBER_NAMES = {"safety_settings": "safetySettings", "cached_content": "cachedContent"}


def needs_signatures(upstream_model: str, capabilities: Capabilities) -> bool:
    """From Gemini 3 on a function call in the history must carry its thought signature."""
    return capabilities.thinking == "level" or THIRD_OR_LATER.search(upstream_model) is not None


def media_urls(request: ChatRequest) -> tuple[str, ...]:
    """The addresses that the gateway must fetch before `encode_request`, each once."""
    urls = [
        part.url
        for message in request.messages
        if not isinstance(message, System)
        for part in message.parts
        if isinstance(part, Image | File) and part.url and not READ_UPSTREAM.match(part.url)
    ]
    return tuple(dict.fromkeys(url for url in urls if url.startswith(("http://", "https://"))))


class _RequestEncoder:
    """Encodes one request."""

    __slots__ = (
        *("_request", "_capabilities", "_dropped", "_files_base", "_is_pro", "_is_subset", "_is_third", "_context"),
        *("_names", "_allows_files"),
    )

    def __init__(
        self,
        request: ChatRequest,
        capabilities: Capabilities,
        upstream_model: str,
        context: AttemptContext,
        files_base: str,
        dropped: Iterable[str],
        *,
        allows_files: bool,
    ) -> None:
        self._allows_files = allows_files
        self._request = request
        self._capabilities = capabilities
        self._context = context
        self._files_base = files_base
        self._is_third = needs_signatures(upstream_model, capabilities)
        self._is_subset = capabilities.schema_mode == "openapi_subset"
        self._names = wire_names(request.tools, is_subset=self._is_subset)
        self._is_pro = PRO.search(upstream_model) is not None
        self._dropped = list(dropped)

    def encode(self, extra: JsonObject) -> EncodedRequest:
        request = self._request
        contents = self._contents()
        config = self._config()
        instruction = self._set_output(config)
        self._set_thinking(config)
        self._set_modalities(config)
        body: JsonObject = {}
        texts = [part.text for item in request.messages if isinstance(item, System) for part in system_texts(item)]
        system = [{"text": text} for text in (*texts, instruction) if text]
        if system:
            body["systemInstruction"] = {"parts": system}
        body["contents"] = contents
        self._set_tools(body)
        if config:
            body["generationConfig"] = config
        self._set_rest(body)
        for name, value in extra.items():
            existing = body.get(name)
            body[name] = {**value, **existing} if isinstance(existing, dict) and isinstance(value, dict) else value
        refuse_dropped(self._dropped, self._capabilities, hints=HINTS)
        return EncodedRequest(orjson.dumps(body), tuple(dict.fromkeys(self._dropped)))

    # Contents

    def _contents(self) -> list[JsonObject]:
        """Turns of alternating roles, each function response in the turn after its call."""
        contents: list[JsonObject] = []

        def turn(role: str) -> list[JsonObject]:
            if not contents or contents[-1]["role"] != role:
                contents.append({"role": role, "parts": []})
            parts: list[JsonObject] = contents[-1]["parts"]
            return parts

        for message, results in _join_results(self._request.messages):
            if isinstance(message, User):
                turn("user").extend(self._parts(message.parts))
            elif isinstance(message, Assistant):
                texts = [*message.parts, *([Text(message.refusal)] if message.refusal else [])]
                parts = [*self._parts(texts), *self._calls(message.tool_calls)]
                if message.tool_calls and not contents:
                    turn("user")  # a call must follow a user's turn
                turn("model").extend(parts)
                if message.tool_calls:
                    turn("user").extend(self._responses(message.tool_calls, results))
            elif isinstance(message, ToolResult):  # no earlier call has this id
                turn("user").extend(self._parts(message.parts))
        for content in contents or [{"role": "user", "parts": []}]:
            if not content["parts"]:
                content["parts"].append({"text": " "})
        return contents or [{"role": "user", "parts": [{"text": " "}]}]

    def _parts(self, parts: Iterable[Part]) -> list[JsonObject]:
        encoded = []
        for part in parts:
            if part.cache is not None:
                self._dropped.append("cache_control")
            if isinstance(part, Text):
                if part.text:
                    encoded.append({"text": part.text})
            elif isinstance(part, Audio):
                if not self._capabilities.audio:
                    raise _unreadable("This model takes no audio.")
                kind = AUDIO_TYPES.get(part.format.lower(), f"audio/{part.format.lower() or 'wav'}")
                encoded.append(_inline(kind, part.data))
            else:
                encoded.append(self._medium(part))
        return encoded

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
        if (is_uploaded or google_files.GOOGLE_FILES.match(uri)) and not self._allows_files:
            raise google_files.refusal("messages")
        if is_uploaded or READ_UPSTREAM.match(uri):
            kind = part.media_type or _media_type(name) or _media_type(uri)
            return {"fileData": {"mimeType": kind, "fileUri": uri} if kind else {"fileUri": uri}}
        fetched = self._context.fetched.get(uri)
        if fetched is None:
            raise _unreadable("A file or an image of this request is at no address that the model can read.")
        return _inline(fetched.media_type or part.media_type or _media_type(uri) or "image/png", fetched.data)

    def _name(self, name: str) -> str:
        return self._names.get(name) or wire_name(name, is_subset=self._is_subset)

    def _calls(self, calls: Sequence[ToolCall]) -> list[JsonObject]:
        """Function calls without ids: Vertex refuses ids, and the API matches responses by their order."""
        parts = []
        for index, call in enumerate(calls):
            part: JsonObject = {"functionCall": {"name": self._name(call.name), "args": _arguments(call)}}
            if SIGNATURE.fullmatch(call.signature):
                part["thoughtSignature"] = call.signature
            elif index == 0 and self._is_third:  # only the first of parallel calls has one
                part["thoughtSignature"] = NO_SIGNATURE
            parts.append(part)
        return parts

    def _responses(self, calls: Sequence[ToolCall], results: list[ToolResult]) -> list[JsonObject]:
        """One function response for each call, in the order of the calls, then the media of all results."""
        responses, media = [], []
        results_by_id: defaultdict[str, deque[ToolResult]] = defaultdict(deque)
        for item in results:
            results_by_id[item.tool_call_id].append(item)
        for call in calls:
            response: JsonObject = {"error": "no result"}
            if results_by_id[call.id]:
                result = results_by_id[call.id].popleft()
                media += self._parts(part for part in result.parts if not isinstance(part, Text))
                response = _response(result)
            responses.append({"functionResponse": {"name": self._name(call.name), "response": response}})
        for extra_results in results_by_id.values():  # a second result of one call goes in as plain content
            for result in extra_results:
                media += self._parts(result.parts)
        return responses + media

    # Options

    def _config(self) -> JsonObject:
        request, capabilities = self._request, self._capabilities
        config: JsonObject = {}
        samples = capabilities.sampling != "none"
        self._put(config, "temperature", "temperature", request.temperature, is_supported=samples)
        both = capabilities.sampling == "full" or request.temperature is None
        self._put(config, "topP", "top_p", request.top_p, is_supported=samples and both)
        self._put(config, "topK", "top_k", request.top_k, is_supported=samples)
        limit = request.max_tokens
        if limit and capabilities.max_output_tokens:
            limit = min(limit, capabilities.max_output_tokens)
        self._put(config, "maxOutputTokens", "max_tokens", limit)
        stops = [text for text in request.stop if text]
        if len(stops) > MAX_STOPS:
            self._dropped.append("stop")
        self._put(config, "stopSequences", "stop", stops[:MAX_STOPS] or None)
        self._put(config, "seed", "seed", request.seed)
        self._put(config, "presencePenalty", "presence_penalty", request.presence_penalty)
        self._put(config, "frequencyPenalty", "frequency_penalty", request.frequency_penalty)
        if request.n is not None and request.n > 1:
            config["candidateCount"] = request.n
        if request.logprobs:
            config["responseLogprobs"] = True
            if request.top_logprobs:
                config["logprobs"] = min(request.top_logprobs, MAX_TOP_LOGPROBS)
        return config

    def _put(self, config: JsonObject, member: str, name: str, value: Json, *, is_supported: bool = True) -> None:
        if value is None:
            return
        if is_supported:
            config[member] = value
        else:
            self._dropped.append(name)

    def _set_output(self, config: JsonObject) -> str:
        """Sets the response format; returns an instruction for the model where the format cannot be set."""
        output_format, capabilities = self._request.output, self._capabilities
        if output_format is None:
            return ""
        if capabilities.structured == "none":
            self._dropped.append("response_format")
            return ""
        if capabilities.structured != "native" or (self._request.tools and not self._is_third):
            if output_format.kind != "json_schema":
                return "Respond with one JSON object only."
            schema = orjson.dumps(output_format.schema or {}).decode()
            return f"Respond with one JSON object only, which follows this JSON schema: {schema}"
        config["responseMimeType"] = "application/json"
        if output_format.kind == "json_schema" and output_format.schema:
            if self._is_subset:
                config["responseSchema"] = to_openapi_subset(output_format.schema)
            else:
                config["responseJsonSchema"] = output_format.schema
        return ""

    def _set_thinking(self, config: JsonObject) -> None:
        effort, thinking = self._request.reasoning_effort, self._request.thinking
        native = member(self._request.others.get("google"), "thinking_config")
        if native:
            config["thinkingConfig"] = {_camel(name): value for name, value in native.items()}
            return
        if thinking is None and not effort:
            return
        kind = self._capabilities.thinking
        if kind not in {"budget", "adaptive", "level"} or (thinking is None and effort not in {"none", *BUDGETS}):
            self._dropped.append("thinking" if thinking is not None else "reasoning_effort")
            return
        budget: int | None = None
        if thinking is not None:
            tokens = thinking.get("budget_tokens")
            budget = tokens if type(tokens) is int and tokens > 0 else None
            effort = "none" if thinking.get("type") == "disabled" else ""
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
                return {"thinkingBudget": -1, "includeThoughts": True}  # the model decides
            budget = BUDGETS[effort]
            if effort == "minimal" and self._is_pro:
                budget = PRO_BUDGET
        limit = self._request.max_tokens
        if limit is not None and budget >= limit:  # the client's limit includes thinking
            budget = limit - 1
            if budget < MIN_BUDGET:
                return off
        return {"thinkingBudget": budget, "includeThoughts": True}

    def _set_modalities(self, config: JsonObject) -> None:
        modalities = self._request.others.get("modalities")
        if isinstance(modalities, list) and modalities != ["text"]:
            config["responseModalities"] = [str(item).upper() for item in modalities]
        voice = member(self._request.others, "audio").get("voice")
        if isinstance(voice, str):
            config["speechConfig"] = {"voiceConfig": {"prebuiltVoiceConfig": {"voiceName": voice}}}

    def _set_tools(self, body: JsonObject) -> None:
        request = self._request
        choice = request.tool_choice
        if request.parallel_tools is False and request.tools and not self._capabilities.force_single_tool:
            self._dropped.append("parallel_tool_calls")
        tools: Sequence[Tool] = request.tools
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
        request = self._request
        if request.service_tier:
            tier = SERVICE_TIERS.get(request.service_tier)
            if tier:
                body["serviceTier"] = tier
            elif request.service_tier != "auto":
                self._dropped.append("service_tier")
        cached = request.others.get("cached_content") or member(request.others, "google").get("cached_content")
        if isinstance(cached, str):
            body["cachedContent"] = cached
        if request.user:
            self._dropped.append("user")
        if request.logit_bias:
            self._dropped.append("logit_bias")
        if request.cache is not None:
            self._dropped.append("cache_control")
        self._dropped += [name for name in request.others if name not in READ_OTHERS]


READ_OTHERS = frozenset({"modalities", "audio", "google", "cached_content"})


def _join_results(messages: Sequence[Message]) -> Iterator[tuple[Message, list[ToolResult]]]:
    """Each message with the results of its tool calls.

    A result may stand anywhere before the next assistant message; it then comes with the message of its call only.
    """
    joined: set[int] = set()
    for index, message in enumerate(messages):
        if index in joined:
            continue
        results: list[ToolResult] = []
        if isinstance(message, Assistant) and message.tool_calls:
            ids = {call.id for call in message.tool_calls}
            for later in range(index + 1, len(messages)):
                item = messages[later]
                if isinstance(item, Assistant):
                    break
                if isinstance(item, ToolResult) and item.tool_call_id in ids:
                    results.append(item)
                    joined.add(later)
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
    """A result that is a JSON object goes in as it is; any other text as a member of one."""
    text = "".join(part.text for part in result.parts if isinstance(part, Text))
    if result.is_error:
        return {"error": text}
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        value = None
    is_encodable = isinstance(value, dict) and not is_deeper(value, MAX_DEPTH)  # orjson cannot write deeper objects
    return value if is_encodable else {"result": text}


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(word.capitalize() for word in rest)
