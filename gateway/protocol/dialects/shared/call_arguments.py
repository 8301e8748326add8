"""The arguments of a tool call in a history, for an upstream that takes them as an object of its own request."""

from typing import Any

import orjson

from gateway.protocol.errors import BadRequest
from gateway.protocol.items import ToolCall

#: Well inside what an encoder of JSON takes, with the request's own levels around it.
MAX_DEPTH = 200


def read_arguments(call: ToolCall) -> Any:
    """The value of the arguments; None where they are not JSON, which a model may well have written.

    Raises BadRequest where they are nested too deeply to be sent.
    """
    text = call.arguments
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        if "depth" in error.msg:
            raise _too_deep(call) from None
        return None
    if text.count("{") + text.count("[") > MAX_DEPTH and is_deeper(value, MAX_DEPTH):
        raise _too_deep(call)
    return value


def is_deeper(value: Any, levels: int) -> bool:
    """Whether objects and arrays stand within each other more than so many times."""
    level = [value] if type(value) is dict or type(value) is list else []
    for _ in range(levels):
        inside = (node.values() if type(node) is dict else node for node in level)
        level = [child for nodes in inside for child in nodes if type(child) is dict or type(child) is list]
        if not level:
            return False
    return bool(level)


def _too_deep(call: ToolCall) -> BadRequest:
    """Told by its id and name: where it stands is another place in each dialect."""
    return BadRequest(
        f"The arguments of the call {call.id[:64]!r} of {call.name[:64]!r} are nested deeper than {MAX_DEPTH} levels.",
        param="messages",
        code="invalid_value",
    )
