"""Addresses of files that Google reads itself, with the deployment's credential.

A client who may call the model could read the company's own files by them, so a deployment may refuse them.
"""

import re
from collections.abc import Iterator

from gateway.protocol.errors import BadRequest
from gateway.protocol.json.types import Json, JsonMapping

#: The deployment's parameter: any value but true refuses such files.
ALLOW_FILE_URIS = "allow_file_uris"
#: Addresses in Cloud Storage, and of files uploaded with the deployment's key.
GOOGLE_FILES = re.compile(r"gs://|https?://generativelanguage\.googleapis\.com/", re.IGNORECASE)
#: Members of a message's part that hold content, never an address.
CONTENT_MEMBERS = frozenset({"text", "thinking", "arguments", "input", "tool_calls", "function_call"})


def are_allowed(parameters: JsonMapping) -> bool:
    return parameters.get(ALLOW_FILE_URIS, True) is True


def refusal(param: str) -> BadRequest:
    return BadRequest(
        "This model takes no addresses of Cloud Storage or of uploaded files: send the content, or an http address.",
        param=param,
        code="unsupported_parameter",
    )


def refuse_addresses(messages: Json) -> None:
    """Raises BadRequest for the first such address in a client's messages, in any dialect."""
    for path, text in _find_texts(messages, "messages"):
        if GOOGLE_FILES.match(text):
            raise refusal(path)


def _find_texts(value: Json, path: str) -> Iterator[tuple[str, str]]:
    """The (path, text) of every member that may hold an address."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            if not isinstance(item, str):
                yield from _find_texts(item, f"{path}.{index}")
    elif isinstance(value, dict):
        for name, item in value.items():
            if isinstance(item, str):
                if name not in CONTENT_MEMBERS and name != "content":
                    yield f"{path}.{name}", item
            elif name not in CONTENT_MEMBERS:
                yield from _find_texts(item, f"{path}.{name}")
