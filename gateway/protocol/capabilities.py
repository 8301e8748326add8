"""Capabilities of an upstream model: flags of a deployment, with defaults by the model's name.

Names and meanings: docs/capabilities.md. A guess by name rots, so a deployment's own flags win.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache

from gateway.protocol.json.types import JsonMapping


@dataclass(frozen=True, slots=True)
class Capabilities:
    sampling: str = "full"  # full | one_of (temperature wins over top_p) | none
    thinking: str = "none"  # none | budget | adaptive | level: how reasoning_effort is expressed
    structured: str = "native"  # native | tool | prompt | none: how a JSON schema is expressed
    schema_mode: str = "json_schema"  # json_schema | openapi_subset
    default_max_tokens: int = 4096  # where the provider requires a limit
    max_output_tokens: int | None = None
    tool_call_parser: str = ""  # qwen25 | llama3 | mistral: calls arrive as text
    prefill: bool = False  # the conversation may end with the beginning of the answer
    system_role: bool = False  # system messages may stand later in the conversation
    vision: bool = True
    audio: bool = True
    parallel_tools: bool = True
    force_single_tool: bool = False
    think_tags: bool = False  # <think>…</think> stands in the content
    reasoning_model: bool = False
    on_unsupported: str = "drop"  # drop | error
    hosted_tools: str = "refuse"  # refuse | drop: tools of the Responses API that a translated upstream does not have
    cache_breakpoints: bool = False  # the gateway marks what to cache for clients that mark nothing
    cache_minimum_tokens: int = 1024  # shorter prompts are not cached
    routing_fields: bool = False  # clients may choose models and providers behind the deployment
    responses: bool | None = None  # the server speaks the Responses API itself; None: as its provider says


NAMES = frozenset(field.name for field in fields(Capabilities))
#: Flags that are parameters of a deployment too.
PARAMETERS = ("tool_call_parser", "hosted_tools", "cache_breakpoints")
#: The values of the flags that are checked where a deployment is written.
CHOICES: Mapping[str, tuple[str | bool, ...]] = {
    "hosted_tools": ("refuse", "drop"),
    "cache_breakpoints": (True, False),
    "prefill": (True, False),
}


def find_invalid_flag(flags: JsonMapping) -> tuple[str, str] | None:
    """(name, problem) of the first flag with a value that it cannot have."""
    for name, choices in CHOICES.items():
        value = flags.get(name)
        if value is not None and not any(type(value) is type(choice) and value == choice for choice in choices):
            return name, f"must be one of {', '.join(str(choice).lower() for choice in choices)}"
    return None


def apply_flags(flags: JsonMapping, base: Capabilities | None = None) -> Capabilities:
    """`base` with the flags that exist. The configuration refuses unknown names before."""
    return replace(base or Capabilities(), **{name: value for name, value in flags.items() if name in NAMES})


#: (pattern of an upstream model's name, flags), the first match counts.
RULES: tuple[tuple[re.Pattern[str], JsonMapping], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), flags)
    for pattern, flags in (
        # Converse, where the vendor stands before a dot. Structured output is documented for these Claudes
        # (https://docs.aws.amazon.com/bedrock/latest/userguide/structured-output.html, and the models' cards), and
        # refused for later ones (github.com/vercel/ai/pull/15288, .../anthropics/anthropic-sdk-python/issues/1759)
        (r"\.claude-(?:opus|sonnet|haiku)-4-6", {"sampling": "none", "thinking": "adaptive"}),
        (
            r"\.claude-(?:opus-4-[15]|(?:sonnet|haiku)-4-5)",
            {"sampling": "one_of", "thinking": "budget", "prefill": True},
        ),
        (
            r"\.claude-(?:opus|sonnet|haiku)-(?:[5-9]|4-[7-9])",
            {"sampling": "none", "thinking": "adaptive", "structured": "tool"},
        ),
        (
            r"\.claude-(?:opus|sonnet|haiku)-4",
            {"sampling": "one_of", "thinking": "budget", "structured": "tool", "prefill": True},
        ),
        (r"amazon\.nova-micro", {"structured": "tool", "vision": False, "audio": False}),
        (r"amazon\.nova-2", {"structured": "tool", "thinking": "level", "audio": False}),
        (r"amazon\.nova", {"structured": "tool", "audio": False}),
        (r"meta\.llama(?:4|3-2-(?:11|90)b)", {"structured": "prompt", "audio": False}),
        (
            r"meta\.llama3-(?:8|70)b",  # its limit: github.com/BerriAI/litellm/pull/33413
            {"structured": "prompt", "vision": False, "audio": False, "max_output_tokens": 2048},
        ),
        (r"meta\.llama", {"structured": "prompt", "vision": False, "audio": False}),
        (r"claude-(?:opus|sonnet|haiku)-(?:[5-9]|4-[6-9])", {"sampling": "none", "thinking": "adaptive"}),
        # Claude 4.6 refuses a prefill, which the models before it take
        # (https://platform.claude.com/docs/en/about-claude/models/whats-new-claude-4-6#prefill-removal)
        (
            r"claude-(?:opus-4-[15]|sonnet-4|haiku-4|opus-4)",
            {"sampling": "one_of", "thinking": "budget", "prefill": True},
        ),
        (r"claude-3-7", {"thinking": "budget", "structured": "tool", "prefill": True}),
        (r"claude", {"structured": "tool", "prefill": True}),
        (r"gemini-(?:[3-9])", {"thinking": "level"}),
        (r"gemini-2\.5", {"thinking": "budget"}),
        (r"gemini-(?:2\.0|1)", {"schema_mode": "openapi_subset"}),
        (r"(?:^|/)(?:o[1-9](?:-|$)|gpt-5(?!.*chat))", {"sampling": "none", "reasoning_model": True}),
    )
)


#: (pattern of an upstream model's name, the shortest prompt that is cached), the first match counts. Source:
#: https://platform.claude.com/docs/en/build-with-claude/prompt-caching; a newer model is taken to be like the last one.
CACHE_MINIMUMS: tuple[tuple[re.Pattern[str], int], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), tokens)
    for pattern, tokens in (
        (r"claude-(?:opus|haiku)-(?:[5-9]|4-[5-9])", 4096),
        (r"claude-sonnet-(?:[5-9]|4-[6-9])", 2048),
        (r"claude-3(?:-5)?-haiku", 2048),
    )
)


@lru_cache(maxsize=1024)  # all deployments of a wildcard ask it for one name
def default_capabilities(upstream_model: str) -> Capabilities:
    minimum = next((tokens for pattern, tokens in CACHE_MINIMUMS if pattern.search(upstream_model)), None)
    base = Capabilities() if minimum is None else Capabilities(cache_minimum_tokens=minimum)
    for pattern, flags in RULES:
        if pattern.search(upstream_model):
            return apply_flags(flags, base)
    return base
