"""The places of a request after which a provider that caches on demand should cache, for clients that mark none.

At most four, which is what Anthropic and Bedrock take: after the tools, after the system prompt, and after the last two
turns of the user, so that the next call of the conversation finds what this one has cached. A place before which the
prompt is shorter than the model's minimum is left out: the provider would ignore it.
Source: https://platform.claude.com/docs/en/build-with-claude/prompt-caching and
https://docs.aws.amazon.com/bedrock/latest/userguide/prompt-caching.html.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.protocol.json.types import Json, JsonMapping
from gateway.protocol.usage import estimate_tokens

USER_TURNS = 2
#: Members with the base64 of a medium, whose tokens do not follow from its length.
MEDIA = frozenset({"data", "bytes"})
MEDIUM_TOKENS = 500
#: Members that the model does not read.
UNREAD = frozenset({"signature", "type", "id", "tool_use_id", "toolUseId"})


@dataclass(frozen=True, slots=True)
class Breakpoints:
    """`messages`: the places of the messages after which to cache."""

    after_tools: bool = False
    after_system: bool = False
    messages: tuple[int, ...] = ()


def plan_breakpoints(tools: Json, system: Json, messages: Sequence[JsonMapping], minimum_tokens: int) -> Breakpoints:
    """Messages have a `role` and a `content`. It reads no more of the request than the minimum needs."""
    missing = _subtract(minimum_tokens, tools)
    after_tools = bool(tools) and missing <= 0
    missing = _subtract(missing, system)
    after_system = bool(system) and missing <= 0
    users = [place for place, message in enumerate(messages) if message.get("role") == "user"][-USER_TURNS:]
    first = 0
    while missing > 0 and first < len(messages):
        missing = _subtract(missing, messages[first].get("content"))
        first += missing > 0
    return Breakpoints(after_tools, after_system, tuple(place for place in users if place >= first))


def _subtract(tokens: int, value: Json) -> int:
    """`tokens` without those of the value; at or below zero it reads no further."""
    todo = [value]
    while todo and tokens > 0:
        node = todo.pop()
        if type(node) is str:
            tokens -= estimate_tokens(node)
        elif type(node) is list:
            todo += node
        elif type(node) is dict:
            for name, member in node.items():
                if name in MEDIA and type(member) is str:
                    tokens -= MEDIUM_TOKENS
                elif name not in UNREAD:
                    tokens -= 1
                    todo.append(member)
    return tokens
