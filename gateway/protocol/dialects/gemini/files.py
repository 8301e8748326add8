"""Files that Google reads itself, with the deployment's credential: whoever may call the model could read by them what
the company keeps there, so a deployment may refuse them."""

import re
from collections.abc import Iterator

from gateway.protocol.errors import BadRequest
from gateway.protocol.json.types import Json, JsonMapping

#: The deployment's parameter: anything but true refuses such files.
ALLOW_FILE_URIS = "allow_file_uris"
#: Cloud Storage, and what was uploaded with the deployment's key.
OURS = re.compile(r"gs://|https?://generativelanguage\.googleapis\.com/", re.IGNORECASE)
#: Members of a message's part that hold no address: what is said, and what tools are given.
SAID = frozenset({"text", "thinking", "arguments", "input", "tool_calls", "function_call"})


def are_allowed(parameters: JsonMapping) -> bool:
    return parameters.get(ALLOW_FILE_URIS, True) is True


def refused(param: str) -> BadRequest:
    return BadRequest(
        "This model takes no addresses of Cloud Storage or of uploaded files: send the content, or an http address.",
        param=param,
        code="unsupported_parameter",
    )


def refuse_named(messages: Json) -> None:
    """Raises BadRequest for the first such address in a client's messages, in whichever dialect they are."""
    for path, text in _texts(messages, "messages"):
        if OURS.match(text):
            raise refused(path)


def _texts(value: Json, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, list):
        for index, item in enumerate(value):
            if not isinstance(item, str):
                yield from _texts(item, f"{path}.{index}")
    elif isinstance(value, dict):
        for name, item in value.items():
            if isinstance(item, str):
                if name not in SAID and name != "content":
                    yield f"{path}.{name}", item
            elif name not in SAID:
                yield from _texts(item, f"{path}.{name}")
