"""Usage: token counts as disjoint parts, read from a provider's usage object.

Source: OpenAI API reference, "Create chat completion" → `usage` (prompt_tokens includes cached and audio tokens,
completion_tokens includes reasoning and audio tokens), with the extensions of other servers, all of them parts of
prompt_tokens: `prompt_tokens_details.cache_creation_tokens` and `cache_creation_token_details`; DashScope's
`prompt_tokens_details.cache_creation_input_tokens`; Moonshot's top-level `cached_tokens`; DeepSeek's
`prompt_cache_hit_tokens`. tests/fixtures/usage holds one block of each.
"""

from dataclasses import dataclass
from enum import StrEnum

from gateway.protocol.json.types import Json, JsonMapping

MAX_TOKENS = 10**12  # a larger count is nonsense, and sums of such counts leave 64 bits


class UsageSource(StrEnum):
    PROVIDER = "provider"
    PARTIAL = "partial"  # the counts that the upstream did not report, or not usably, are estimated
    ESTIMATED = "estimated"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Usage:
    """The five input counts add up to the whole input, the three output counts to the whole output."""

    input_tokens: int = 0
    input_audio_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_5m_tokens: int = 0
    cache_write_1h_tokens: int = 0
    output_tokens: int = 0
    output_audio_tokens: int = 0
    reasoning_tokens: int = 0
    is_inconsistent: bool = False  # the provider's numbers contradict each other or were out of range

    @property
    def total_input(self) -> int:
        return (
            self.input_tokens
            + self.input_audio_tokens
            + self.cache_read_tokens
            + self.cache_write_5m_tokens
            + self.cache_write_1h_tokens
        )

    @property
    def total_output(self) -> int:
        return self.output_tokens + self.output_audio_tokens + self.reasoning_tokens


NO_USAGE = Usage()


class _Reader:
    """Reads counts leniently and notes that one of them was nonsense."""

    __slots__ = ("is_inconsistent",)

    def __init__(self) -> None:
        self.is_inconsistent = False

    def count(self, holder: Json, *names: str) -> int:
        if type(holder) is not dict:
            return 0
        for name in names:
            value = holder.get(name)
            if value is None:
                continue
            if type(value) is float and value.is_integer():
                value = int(value)
            if type(value) is int and 0 <= value <= MAX_TOKENS:
                return value
            self.is_inconsistent = True
        return 0

    def remainder(self, total: int, *parts: int) -> int:
        """The part of `total` that is in none of the parts. Parts larger than the total keep their size."""
        rest = total - sum(parts)
        if rest < 0:
            self.is_inconsistent = True
            return 0
        return rest


def from_openai(raw: JsonMapping) -> Usage | None:
    """None where the object holds no usable count at all."""
    read = _Reader()
    prompt = read.count(raw, "prompt_tokens", "input_tokens")
    completion = read.count(raw, "completion_tokens", "output_tokens")
    total = read.count(raw, "total_tokens")
    if total > prompt + completion:  # price the larger total; an input is missing more often than an output
        read.is_inconsistent = True
        if prompt:
            completion = total - prompt
        else:
            prompt = total - completion
    if prompt + completion == 0:
        return None
    details = raw.get("prompt_tokens_details") or raw.get("input_tokens_details")
    out_details = raw.get("completion_tokens_details") or raw.get("output_tokens_details")
    cached = read.count(details, "cached_tokens") or read.count(raw, "cached_tokens", "prompt_cache_hit_tokens")
    if not details and not out_details and not cached:
        return Usage(input_tokens=prompt, output_tokens=completion, is_inconsistent=read.is_inconsistent)
    written = read.count(details, "cache_creation_tokens", "cache_write_tokens", "cache_creation_input_tokens")
    split = details.get("cache_creation_token_details") if type(details) is dict else None
    hour = min(read.count(split, "ephemeral_1h_input_tokens"), written)
    audio = read.count(details, "audio_tokens")
    reasoning = read.count(out_details, "reasoning_tokens")
    out_audio = read.count(out_details, "audio_tokens")
    return Usage(
        input_tokens=read.remainder(prompt, cached, written, audio),
        input_audio_tokens=audio,
        cache_read_tokens=cached,
        cache_write_5m_tokens=written - hour,
        cache_write_1h_tokens=hour,
        output_tokens=read.remainder(completion, reasoning, out_audio),
        output_audio_tokens=out_audio,
        reasoning_tokens=reasoning,
        is_inconsistent=read.is_inconsistent,
    )


def estimate_tokens(text: str) -> int:
    """A rough count for answers without usage: a token is four ASCII characters, or about one and a half others."""
    if not text:
        return 0
    if text.isascii():
        return len(text) // 4 + 1
    wide = len(text.encode("utf-8", "surrogatepass")) - len(text)  # UTF-8 bytes beyond one a character
    return len(text) // 4 + wide // 3 + 1
