"""Usage: token counts as disjoint parts, read from a provider's usage object.

Source: OpenAI API reference, "Create chat completion" → `usage` (prompt_tokens includes cached and audio tokens,
completion_tokens includes reasoning and audio tokens), with the extensions of other servers, all of them parts of
prompt_tokens: `prompt_tokens_details.cache_creation_tokens` and `cache_creation_token_details`; OpenAI's writes of
twelve hours, whose price line is that of the longest writes; DashScope's
`prompt_tokens_details.cache_creation_input_tokens`; Moonshot's top-level `cached_tokens`; DeepSeek's
`prompt_cache_hit_tokens`. xAI's completion_tokens exclude the reasoning, which its total_tokens include.
tests/fixtures/usage holds one block of each.
"""

from dataclasses import dataclass, fields
from enum import StrEnum

from gateway.protocol.json.types import Json, JsonMapping

MAX_TOKENS = 10**12  # a larger count is nonsense, and sums of such counts leave 64 bits


class UsageSource(StrEnum):
    PROVIDER = "provider"
    PARTIAL = "partial"  # the counts that the upstream did not report, or not usably, are estimated
    ESTIMATED = "estimated"
    NONE = "none"


#: The upstream has reported counts.
REPORTED = (UsageSource.PROVIDER, UsageSource.PARTIAL)


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

    def __add__(self, other: "Usage") -> "Usage":
        counts = {name: getattr(self, name) + getattr(other, name) for name in COUNTS}
        return Usage(**counts, is_inconsistent=self.is_inconsistent or other.is_inconsistent)

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


COUNTS = tuple(field.name for field in fields(Usage) if field.name.endswith("_tokens"))
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
    out_details = raw.get("completion_tokens_details") or raw.get("output_tokens_details")
    reasoning = read.count(out_details, "reasoning_tokens")
    beside = prompt + completion + reasoning  # the total, where the reasoning is no part of the completion
    if reasoning and (total == beside or (total > beside and reasoning > completion)):
        completion += reasoning
    if total > prompt + completion:  # price the larger total; an input is missing more often than an output
        read.is_inconsistent = True
        if prompt:
            completion = total - prompt
        else:
            prompt = total - completion
    if prompt + completion == 0:
        return None
    details = raw.get("prompt_tokens_details") or raw.get("input_tokens_details")
    cached = read.count(details, "cached_tokens") or read.count(raw, "cached_tokens", "prompt_cache_hit_tokens")
    if not details and not out_details and not cached:
        return Usage(input_tokens=prompt, output_tokens=completion, is_inconsistent=read.is_inconsistent)
    written = read.count(details, "cache_creation_tokens", "cache_write_tokens", "cache_creation_input_tokens")
    split = details.get("cache_creation_token_details") if type(details) is dict else None
    ages = details.get("cache_write_tokens_details") if type(details) is dict else None
    hour = read.count(split, "ephemeral_1h_input_tokens") + read.count(ages, "ttl_12h_tokens")
    split_tokens = hour + read.count(split, "ephemeral_5m_input_tokens") + read.count(ages, "ttl_30m_tokens")
    if split_tokens > written:  # price the larger total
        read.is_inconsistent, written = True, split_tokens
    audio = read.count(details, "audio_tokens")
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


SAMPLES, SAMPLE_CHARACTERS = 16, 1024


def estimate_tokens(text: str) -> int:
    """A rough count of a text's tokens: four ASCII characters are one, and so is one Chinese, Japanese or Korean
    character (three bytes of UTF-8); one of two bytes is five eighths. Of a long text samples are counted."""
    size = len(text)
    if not size:
        return 0
    if text.isascii():
        return size // 4 + 1
    if size > SAMPLES * SAMPLE_CHARACTERS:
        step = size // SAMPLES
        sample = "".join([text[place : place + SAMPLE_CHARACTERS] for place in range(0, step * SAMPLES, step)])
    else:
        sample = text
    wide = len(sample.encode("utf-8", "surrogatepass")) - len(sample)  # bytes beyond one a character
    return size // 4 + wide * 3 * size // (8 * len(sample)) + 1
