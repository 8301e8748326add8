"""Hosted tools: tools that the server of the model runs, which an upstream of another format does not have.

A deployment refuses requests that offer one, or drops the tool (`hosted_tools` of its capabilities). Tools that the
client runs itself (shell, local shell, apply patch, computer) are never dropped: without them an agent can do nothing,
and should hear so.
"""

import re
from collections.abc import Iterable

from gateway.protocol.dialects.responses.namespaces import NAMESPACE
from gateway.protocol.json.types import JsonMapping
from gateway.protocol.provider import Target

_HOSTED = re.compile(
    r"(web_search_preview|web_search|file_search|code_interpreter|image_generation|mcp|programmatic_tool_calling"
    r"|tool_search)(?:_\d{4}_\d{2}_\d{2})?"
)


def may_drop_hosted(target: Target) -> bool:
    return target.capabilities.hosted_tools == "drop"


def is_hosted(kind: str) -> bool:
    return _HOSTED.fullmatch(kind) is not None


def hosted_names(tools: Iterable[JsonMapping]) -> tuple[str, ...]:
    """Each kind of the hosted tools among valid `tools`, once and without a date, such as `tools.web_search`."""
    kinds = (inner["type"] for tool in tools for inner in (tool["tools"] if tool["type"] == NAMESPACE else (tool,)))
    matches = (_HOSTED.fullmatch(kind) for kind in kinds)
    return tuple(dict.fromkeys(f"tools.{match[1]}" for match in matches if match is not None))
