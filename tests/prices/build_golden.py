"""Makes tests/fixtures/prices/golden.json: usage blocks of providers as they stand on the wire, the counts that they
mean, and their exact cost. `python -m tests.prices.build_golden`.

Nothing here uses the gateway's code. A block begins with what was used; the wire's object is written from that by the
provider's rules, and the cost is a plain sum of decimals over a table of rates.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path
from typing import Any

FILE = Path(__file__).resolve().parents[1] / "fixtures" / "prices" / "golden.json"
MILLION = Decimal(10) ** 6
#: Component → the one whose rate it has where it lacks its own.
STAND_IN = {
    "cache_read": "input",
    "cache_write_5m": "input",
    "cache_write_1h": "cache_write_5m",
    "input_audio": "input",
    "reasoning": "output",
    "output_audio": "output",
}
Rates = dict[str, str]


@dataclass(frozen=True)
class Used:
    """The tokens that a call used, each counted once; `minute` of the day in UTC."""

    input: int = 0
    cache_read: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    input_audio: int = 0
    output: int = 0
    reasoning: int = 0
    output_audio: int = 0
    tier: str = ""
    minute: int = 0
    web_search: int = 0

    @property
    def inputs(self) -> int:
        return self.input + self.cache_read + self.cache_write_5m + self.cache_write_1h + self.input_audio

    @property
    def outputs(self) -> int:
        return self.output + self.reasoning + self.output_audio

    def tokens(self) -> dict[str, int]:
        names = ("input", "input_audio", "cache_read", "cache_write_5m", "cache_write_1h")
        return {name: getattr(self, name) for name in (*names, "output", "output_audio", "reasoning")}


@dataclass(frozen=True)
class Price:
    """USD per million tokens, and per unit in `units`."""

    rates: Rates
    tiers: dict[str, Rates] = field(default_factory=dict)
    above: int = 0
    above_rates: Rates = field(default_factory=dict)
    hours: tuple[str, int, int] = ("", 0, 0)  # as text, and its first and last minute
    hour_rates: Rates = field(default_factory=dict)
    bracket: int = 0
    bracket_rates: Rates = field(default_factory=dict)
    units: Rates = field(default_factory=dict)

    def lines(self) -> Rates:
        """The gateway's lines of it."""
        tables = [("", self.rates), (f">{self.above}", self.above_rates), (f"~{self.hours[0]}", self.hour_rates)]
        tables += [(f">>{self.bracket}", self.bracket_rates)]
        tables += [(f"@{tier}", rates) for tier, rates in self.tiers.items()]
        lines = {
            f"{name}{mark}": f"{Decimal(usd) / MILLION:f}" for mark, rates in tables for name, usd in rates.items()
        }
        return lines | self.units

    def cost(self, used: Used) -> int:
        """Picodollars: each component is rounded once, half to even."""
        rates = self.rates | self.tiers.get(used.tier, {})
        if self.above and used.inputs > self.above:
            rates = rates | self.above_rates
        if self.hours[0] and self.hours[1] <= used.minute <= self.hours[2]:
            rates = rates | self.hour_rates
        total = Decimal(0)
        for component, count in used.tokens().items():
            if not count:
                continue
            name = component
            while name not in rates:
                name = STAND_IN[name]
            beyond = max(0, count - self.bracket) if name in self.bracket_rates else 0
            usd = (count - beyond) * Decimal(rates[name]) / MILLION
            usd += beyond * Decimal(self.bracket_rates.get(name, "0")) / MILLION
            total += _pico(usd)
        total += _pico(Decimal(self.units.get("request", "0")))
        total += _pico(used.web_search * Decimal(self.units.get("web_search", "0")))
        return int(total)


def _pico(usd: Decimal) -> Decimal:
    return (usd * 10**12).quantize(Decimal(1), rounding=ROUND_HALF_EVEN)


OPENAI = Price(
    {"input": "2.5", "cache_read": "1.25", "output": "10", "input_audio": "40", "output_audio": "80"},
    tiers={
        "flex": {"input": "1.25", "cache_read": "0.625", "output": "5"},
        "priority": {"input": "4.25", "cache_read": "2.125", "output": "17"},
    },
    above=272_000,
    above_rates={"input": "5", "cache_read": "2.5", "output": "15"},
)
WRITES = Price({"input": "1.1", "cache_read": "0.11", "cache_write_5m": "1.375", "output": "8.8"})
CLAUDE = Price(
    {"input": "3", "cache_read": "0.3", "cache_write_5m": "3.75", "cache_write_1h": "6", "output": "15"},
    tiers={"batch": {"input": "1.5", "cache_read": "0.15", "cache_write_5m": "1.875", "output": "7.5"}},
    above=200_000,
    above_rates={"input": "6", "cache_read": "0.6", "cache_write_5m": "7.5", "cache_write_1h": "12", "output": "22.5"},
    units={"web_search": "0.01"},
)
GEMINI = Price(
    {"input": "1.25", "cache_read": "0.125", "output": "10"},
    tiers={"flex": {"input": "0.625", "cache_read": "0.0625", "output": "5"}, "priority": {"input": "2.25"}},
    above=200_000,
    above_rates={"input": "2.5", "cache_read": "0.25", "output": "15"},
)
FLASH = Price({"input": "0.3", "cache_read": "0.03", "input_audio": "1", "output": "2.5", "output_audio": "12"})
BEDROCK = Price(
    {"input": "3.3", "cache_read": "0.33", "cache_write_5m": "4.125", "cache_write_1h": "6.6", "output": "16.5"},
    tiers={"flex": {"input": "1.65", "output": "8.25"}, "priority": {"input": "5.775", "output": "28.875"}},
)
#: Rates that leave the picodollar: a sum of halves, and one of LiteLLM's floats.
ODD = Price({"input": "0.0000005", "cache_read": "0.30001999999999996", "output": "0.0000015"})
HOURS = Price(
    {"input": "0.27", "cache_read": "0.07", "output": "1.1"},
    hours=("16:30-23:59", 990, 1438),
    hour_rates={"input": "0.135", "cache_read": "0.035", "output": "0.55"},
)
BRACKETS = Price({"input": "1", "output": "4"}, bracket=1000, bracket_rates={"input": "0.8", "output": "3.3"})
REQUEST = Price({"input": "1", "output": "1"}, units={"request": "0.005"})
FREE = Price({"input": "0", "output": "0"})
PLAIN = Price({"input": "0.05", "output": "0.15"})

#: Counts that every wire can say.
BASIC = [
    Used(input=1, output=1),
    Used(input=7, output=3),
    Used(input=1_234, output=567),
    Used(input=99_999, output=8_191),
]
CACHED = [
    Used(input=10, cache_read=990, output=20),
    Used(cache_read=4_096, output=1),
    Used(input=1, cache_read=1, output=0),
]
THINKING = [
    Used(input=50, output=20, reasoning=300),
    Used(input=5, reasoning=64),
    Used(input=9, cache_read=8, output=7, reasoning=6),
]
SPOKEN = [Used(input=100, input_audio=250, output=30, output_audio=900), Used(input_audio=80, output=5)]


def limits(threshold: int) -> list[Used]:
    """The input at the threshold, and one token above it; cached tokens are input."""
    return [
        *(Used(input=threshold + more, output=1_000) for more in (0, 1)),
        *(Used(input=1_000, cache_read=threshold - 1_000 + more, output=10) for more in (0, 1)),
    ]


WRITTEN = [
    Used(input=3, cache_write_5m=2_048, output=40),
    Used(input=3, cache_write_1h=2_048, output=40),
    Used(input=3, cache_read=512, cache_write_5m=1_024, cache_write_1h=2_048, output=40),
    Used(input=1_000, cache_write_5m=198_999, cache_write_1h=1, output=2),
    Used(input=1_000, cache_write_5m=199_000, cache_write_1h=1, output=2),
]


def openai_usage(used: Used) -> dict[str, Any]:
    """Totals include their parts. Source: OpenAI API reference, chat completions, `usage`."""
    usage: dict[str, Any] = {
        "prompt_tokens": used.inputs,
        "completion_tokens": used.outputs,
        "total_tokens": used.inputs + used.outputs,
        "prompt_tokens_details": {"cached_tokens": used.cache_read, "audio_tokens": used.input_audio},
        "completion_tokens_details": {"reasoning_tokens": used.reasoning, "audio_tokens": used.output_audio},
    }
    if used.cache_write_5m:
        usage["prompt_tokens_details"]["cache_write_tokens"] = used.cache_write_5m
    return usage


def plain_usage(used: Used) -> dict[str, Any]:
    return {"prompt_tokens": used.inputs, "completion_tokens": used.outputs, "total_tokens": used.inputs + used.outputs}


def deepseek_usage(used: Used) -> dict[str, Any]:
    """Source: DeepSeek API, `usage`: hits and misses of the cache add up to the prompt."""
    hits = {"prompt_cache_hit_tokens": used.cache_read, "prompt_cache_miss_tokens": used.input}
    return plain_usage(used) | hits | {"completion_tokens_details": {"reasoning_tokens": used.reasoning}}


def xai_usage(used: Used) -> dict[str, Any]:
    """Reasoning is beside the completion, and in the total. Source: xAI API, chat completions."""
    usage = openai_usage(used)
    return usage | {"completion_tokens": used.output}


def moonshot_usage(used: Used) -> dict[str, Any]:
    return plain_usage(used) | {"cached_tokens": used.cache_read}


def claude_usage(used: Used) -> dict[str, Any]:
    """The input excludes what the cache read or wrote. Source: Anthropic API, Messages, `usage`."""
    written = used.cache_write_5m + used.cache_write_1h
    usage: dict[str, Any] = {
        "input_tokens": used.input,
        "cache_read_input_tokens": used.cache_read,
        "cache_creation_input_tokens": written,
        "output_tokens": used.outputs,
        "service_tier": used.tier or "standard",
    }
    if written:
        ages = {"5m": used.cache_write_5m, "1h": used.cache_write_1h}
        usage["cache_creation"] = {f"ephemeral_{age}_input_tokens": count for age, count in ages.items()}
    if used.reasoning:
        usage["output_tokens_details"] = {"thinking_tokens": used.reasoning}
    if used.web_search:
        usage["server_tool_use"] = {"web_search_requests": used.web_search}
    return usage


def gemini_usage(used: Used) -> dict[str, Any]:
    """The prompt includes cached tokens, the candidates exclude thoughts. Source: Gemini API, UsageMetadata."""
    modes = {"promptTokensDetails": (used.input + used.cache_read, used.input_audio)}
    modes["candidatesTokensDetails"] = (used.output, used.output_audio)
    return {
        "promptTokenCount": used.inputs,
        "cachedContentTokenCount": used.cache_read,
        "candidatesTokenCount": used.output + used.output_audio,
        "thoughtsTokenCount": used.reasoning,
        "totalTokenCount": used.inputs + used.outputs,
        **({"serviceTier": used.tier} if used.tier else {}),
        **{
            name: [{"modality": "TEXT", "tokenCount": text}, {"modality": "AUDIO", "tokenCount": audio}]
            for name, (text, audio) in modes.items()
        },
    }


def vertex_usage(used: Used) -> dict[str, Any]:
    """Vertex AI tells the tier as a type of traffic. Source: Vertex AI API, UsageMetadata."""
    usage = gemini_usage(used)
    usage.pop("serviceTier", None)
    return usage | {"trafficType": f"ON_DEMAND_{used.tier.upper()}" if used.tier else "ON_DEMAND"}


def bedrock_usage(used: Used) -> dict[str, Any]:
    """The input excludes the cache's tokens. Source: Amazon Bedrock API, TokenUsage."""
    written = {"5m": used.cache_write_5m, "1h": used.cache_write_1h}
    return {
        "inputTokens": used.input,
        "outputTokens": used.outputs,
        "cacheReadInputTokens": used.cache_read,
        "cacheWriteInputTokens": sum(written.values()),
        "cacheDetails": [{"ttl": ttl, "inputTokens": count} for ttl, count in written.items()],
        "totalTokens": used.inputs + used.outputs,
    }


def ollama_usage(used: Used) -> dict[str, Any]:
    return {"prompt_eval_count": used.inputs, "eval_count": used.outputs, "prompt_eval_cached_count": used.cache_read}


TIERED = [
    Used(input=900, cache_read=100, output=50, tier=tier) for tier in ("flex", "priority", "default", "unheard-of")
]
BATCHES = [
    Used(input=900, cache_read=100, output=50, tier="batch"),
    Used(input=1, cache_write_5m=100, cache_write_1h=50, output=5, tier="batch"),
    Used(input=20, output=30, web_search=3),
    Used(input=20, cache_read=7, output=30, reasoning=11, web_search=1),
]
AT_NIGHT = [Used(input=500, cache_read=250, output=90, minute=minute) for minute in (0, 989, 990, 1_200, 1_438, 1_439)]
WIDE = [Used(input=size, output=size) for size in (999, 1_000, 1_001, 2_500)]
HALVES = [Used(input=size, output=size, cache_read=size) for size in (1, 2, 3, 4, 5, 101)]

#: (provider, its wire, upstream model, how its usage is written, the price, the blocks)
FAMILIES: list[tuple[str, str, str, Any, Price, list[Used]]] = [
    ("openai", "openai", "gpt", openai_usage, OPENAI, [*BASIC, *CACHED, *THINKING, *SPOKEN, *TIERED, *limits(272_000)]),
    ("openai", "openai", "gpt", openai_usage, WRITES, [Used(input=5, cache_write_5m=700, output=6)]),
    ("openai", "openai", "gpt", openai_usage, ODD, HALVES),
    ("openai", "openai", "gpt", openai_usage, BRACKETS, WIDE),
    ("azure", "openai", "gpt", openai_usage, OPENAI, [*BASIC, *CACHED, *THINKING, *SPOKEN, *limits(272_000)]),
    ("azure_ai", "openai", "phi", plain_usage, PLAIN, BASIC),
    ("azure_ai", "anthropic", "claude-sonnet-4-5", claude_usage, CLAUDE, [*BASIC, *CACHED, *WRITTEN]),
    (
        "anthropic",
        "anthropic",
        "claude",
        claude_usage,
        CLAUDE,
        [*BASIC, *CACHED, *THINKING, *WRITTEN, *BATCHES, *limits(200_000)],
    ),
    ("bedrock", "bedrock", "us.anthropic.claude", bedrock_usage, BEDROCK, [*BASIC, *CACHED, *WRITTEN, *TIERED]),
    ("gemini", "gemini", "gemini", gemini_usage, GEMINI, [*BASIC, *CACHED, *THINKING, *TIERED, *limits(200_000)]),
    ("gemini", "gemini", "gemini", gemini_usage, FLASH, SPOKEN),
    (
        "vertex_ai",
        "gemini",
        "gemini-2.5-pro",
        vertex_usage,
        GEMINI,
        [*BASIC, *CACHED, *THINKING, *TIERED, *limits(200_000)],
    ),
    ("vertex_ai", "anthropic", "claude-opus-4-5", claude_usage, CLAUDE, [*BASIC, *CACHED, *WRITTEN, *limits(200_000)]),
    ("ollama", "ollama", "llama", ollama_usage, FREE, BASIC),
    ("ollama", "ollama", "llama", ollama_usage, ODD, HALVES),
    ("xinference", "openai", "qwen", plain_usage, PLAIN, BASIC),
    ("mindie", "openai", "qwen", plain_usage, PLAIN, BASIC),
    ("lightllm", "openai", "qwen", plain_usage, REQUEST, BASIC),
    ("deepseek", "openai", "deepseek-chat", deepseek_usage, HOURS, [*BASIC, *CACHED, *THINKING, *AT_NIGHT]),
    ("xai", "openai", "grok", xai_usage, OPENAI, [*BASIC, *CACHED, *THINKING]),
    ("moonshot", "openai", "kimi", moonshot_usage, WRITES, [*BASIC, *CACHED]),
]


def blocks() -> Iterator[dict[str, Any]]:
    for provider, wire, model, write, price, all_used in FAMILIES:
        for used in all_used:
            counts = {f"{name}_tokens": count for name, count in used.tokens().items() if count}
            if wire == "bedrock" or write in (plain_usage, ollama_usage, moonshot_usage):  # no count of reasoning
                assert not used.reasoning
            for stream in (False, True):
                yield {
                    "provider": provider,
                    "wire": wire,
                    "model": model,
                    "stream": stream,
                    "usage": write(used),
                    "tier": used.tier,
                    "minute": used.minute,
                    "counts": counts,
                    "lines": price.lines(),
                    "pusd": price.cost(used),
                }


if __name__ == "__main__":
    rows = ",\n".join(json.dumps(block) for block in blocks())
    FILE.write_text(f"[\n{rows}\n]\n", encoding="utf-8")
