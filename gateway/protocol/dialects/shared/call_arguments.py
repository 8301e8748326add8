"""The arguments of a tool call in a history, for an upstream that takes them as an object of its own request."""

import orjson

from gateway.protocol.errors import BadRequest
from gateway.protocol.items import ToolCall
from gateway.protocol.json.body import is_deeper
from gateway.protocol.json.types import Json

#: Well inside what a JSON encoder takes, with the request's own levels around it.
MAX_DEPTH = 200


def read_arguments(call: ToolCall) -> Json:
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


def _too_deep(call: ToolCall) -> BadRequest:
    """The error names the call by its id and name, because its place differs between dialects."""
    return BadRequest(
        f"The arguments of the call {call.id[:64]!r} of {call.name[:64]!r} are nested deeper than {MAX_DEPTH} levels.",
        param="messages",
        code="invalid_value",
    )
