"""Items of a chat request, independent of any dialect. Inbound dialects write them, providers read them."""

from dataclasses import dataclass, field

from gateway.protocol.json.types import JsonMapping, JsonObject


@dataclass(frozen=True, slots=True)
class Cache:
    """A mark after which a provider may cache: `ttl` is "", "5m" or "1h"."""

    ttl: str = ""


@dataclass(frozen=True, slots=True)
class Text:
    text: str
    cache: Cache | None = None


@dataclass(frozen=True, slots=True)
class Image:
    """Either `url`, or `data` (base64) with its `media_type`."""

    url: str = ""
    data: str = ""
    media_type: str = ""
    detail: str = ""
    cache: Cache | None = None


@dataclass(frozen=True, slots=True)
class File:
    """One of `data` (base64), `url` and `file_id`."""

    filename: str = ""
    media_type: str = ""
    data: str = ""
    url: str = ""
    file_id: str = ""
    cache: Cache | None = None


@dataclass(frozen=True, slots=True)
class Audio:
    format: str
    data: str  # base64
    cache: Cache | None = None


Part = Text | Image | File | Audio


@dataclass(frozen=True, slots=True)
class Reasoning:
    """A block of reasoning as a provider gave it; `signature` and `redacted` go back to that provider unchanged."""

    text: str = ""
    signature: str = ""
    redacted: str = ""


@dataclass(frozen=True, slots=True)
class ToolCall:
    id: str
    name: str
    arguments: str  # JSON text, as the model wrote it
    kind: str = "function"  # function | custom
    signature: str = ""  # Gemini's thought signature


@dataclass(frozen=True, slots=True)
class System:
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class User:
    parts: tuple[Part, ...]
    name: str = ""


@dataclass(frozen=True, slots=True)
class Assistant:
    parts: tuple[Part, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    reasoning: tuple[Reasoning, ...] = ()
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class ToolResult:
    tool_call_id: str
    parts: tuple[Part, ...]
    is_error: bool = False


Message = System | User | Assistant | ToolResult


@dataclass(frozen=True, slots=True)
class Tool:
    name: str
    description: str = ""
    schema: JsonMapping | None = None
    strict: bool | None = None
    cache: Cache | None = None
    kind: str = "function"  # function | custom


@dataclass(frozen=True, slots=True)
class ToolChoice:
    mode: str  # auto | none | required | named
    name: str = ""
    allowed: tuple[str, ...] = ()  # of `allowed_tools`: empty allows all


@dataclass(frozen=True, slots=True)
class OutputFormat:
    kind: str  # json_object | json_schema
    name: str = ""
    schema: JsonMapping | None = None
    strict: bool | None = None


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A chat request. None, empty and 0 stand for a field that the client left unset."""

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice | None = None
    parallel_tools: bool | None = None
    output: OutputFormat | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    n: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    logit_bias: JsonMapping | None = None
    reasoning_effort: str = ""  # none, minimal, low, medium, high, xhigh, max
    thinking: JsonMapping | None = None  # an explicit Anthropic-style object, which wins over the effort
    service_tier: str = ""
    user: str = ""
    cache: Cache | None = None  # for the whole request
    #: Fields that no other member carries, by their OpenAI names.
    others: JsonMapping = field(default_factory=dict)

    def options(self) -> JsonObject:
        """The options that the client set, by their OpenAI names."""
        return {name: value for name, unset in UNSET_OPTIONS.items() if (value := getattr(self, name)) != unset}


#: The options of a chat request, with the value of each that the client left unset.
UNSET_OPTIONS: JsonMapping = {
    **dict.fromkeys(("max_tokens", "temperature", "top_p", "top_k", "seed", "presence_penalty", "frequency_penalty")),
    **dict.fromkeys(("n", "logprobs", "top_logprobs", "logit_bias", "thinking")),
    **dict.fromkeys(("reasoning_effort", "service_tier", "user"), ""),
    "stop": (),
}
