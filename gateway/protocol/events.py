"""Events of an answer, independent of any dialect.

A decoder turns an upstream's bytes into these; an encoder turns them into a client's dialect; Close reads Started,
UsageReported and Finished. A passed-through stream emits those three only, its content stays bytes.
Order: Started, then content and tool events in any order, UsageReported at any time (the last counts), Finished
once a choice, nothing after the last Finished but usage.
"""

from dataclasses import dataclass

from gateway.protocol.json.types import JsonMapping
from gateway.protocol.usage import Usage

#: The arguments of one tool call, in all its deltas. A longer call read from text is text.
MAX_ARGUMENT_CHARS = 1 << 20
#: The tool calls of one answer.
MAX_TOOL_CALLS = 1024


@dataclass(frozen=True, slots=True)
class UsageReported:
    """`service_tier`: that the upstream says it served the request in; the price may depend on it."""

    usage: Usage
    raw: JsonMapping
    service_tier: str = ""


@dataclass(frozen=True, slots=True)
class Started:
    """`usage`: the input that the upstream reports before its answer; UsageReported replaces it."""

    upstream_id: str
    model: str
    usage: UsageReported | None = None


@dataclass(frozen=True, slots=True)
class TextDelta:
    """`logprobs`: those of the text's tokens, in OpenAI's shape {token, logprob, bytes, top_logprobs}. They may come
    without text."""

    text: str
    choice: int = 0
    logprobs: tuple[JsonMapping, ...] = ()


@dataclass(frozen=True, slots=True)
class RefusalDelta:
    text: str
    choice: int = 0
    logprobs: tuple[JsonMapping, ...] = ()


@dataclass(frozen=True, slots=True)
class ImageMade:
    """An image of the answer, whole. A dialect that has no place for one shows `text`."""

    url: str  # a data URL, or where it can be fetched
    choice: int = 0

    @property
    def text(self) -> str:
        return f"![image]({self.url})"


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """`signature` and `redacted` carry what a provider wants back unchanged (Anthropic, Gemini)."""

    text: str = ""
    signature: str = ""
    redacted: str = ""
    choice: int = 0


@dataclass(frozen=True, slots=True)
class ToolCallStarted:
    index: int  # counts tool calls of a choice: 0, 1, 2…
    id: str
    name: str
    kind: str = "function"  # function | custom
    signature: str = ""
    choice: int = 0


@dataclass(frozen=True, slots=True)
class ToolArgumentsDelta:
    index: int
    text: str
    choice: int = 0


@dataclass(frozen=True, slots=True)
class AnnotationAdded:
    annotation: JsonMapping
    choice: int = 0


@dataclass(frozen=True, slots=True)
class Finished:
    reason: str  # OpenAI's finish reasons: stop, length, tool_calls, content_filter
    choice: int = 0


Event = (
    Started
    | TextDelta
    | RefusalDelta
    | ImageMade
    | ReasoningDelta
    | ToolCallStarted
    | ToolArgumentsDelta
    | AnnotationAdded
    | UsageReported
    | Finished
)
