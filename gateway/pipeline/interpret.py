"""Station 3, Interpret: bytes and headers → Call."""

from functools import lru_cache

import orjson

from gateway.pipeline.time_limits import read_seconds
from gateway.protocol.applications import name_application
from gateway.protocol.call import Call
from gateway.protocol.dialect import Dialect, Hints
from gateway.protocol.errors import BadRequest
from gateway.protocol.json.types import JsonMapping, JsonObject

NO_HINTS = Hints()
END_USER = (b"x-litellm-customer-id", b"x-litellm-end-user-id")
BETAS = b"anthropic-beta"
HINT_HEADERS = frozenset({*END_USER, b"x-litellm-tags", b"x-litellm-spend-logs-metadata", BETAS})
MAX_HINT_CHARACTERS = 255


def read_hints(headers: dict[bytes, bytes]) -> Hints:
    """Reads LiteLLM's request headers, and one of Anthropic's. Raises BadRequest for a header that cannot be read."""
    application = name_application(headers)
    if HINT_HEADERS.isdisjoint(headers):
        return _hints_of(application)
    end_user = next((_text(headers, name) for name in END_USER if name in headers), "")
    tags = tuple(tag.strip() for tag in _text(headers, b"x-litellm-tags").split(",") if tag.strip())
    metadata: JsonObject | None = None
    value = headers.get(b"x-litellm-spend-logs-metadata")
    if value is not None:
        try:
            metadata = orjson.loads(value)
        except orjson.JSONDecodeError:
            metadata = None
        if not isinstance(metadata, dict):
            raise BadRequest(
                "x-litellm-spend-logs-metadata must be a JSON object.", param="x-litellm-spend-logs-metadata"
            )
    betas = headers.get(BETAS, b"").decode("latin-1")
    return Hints(end_user=end_user, tags=tags, metadata=metadata, betas=betas, application=application)


@lru_cache(maxsize=256)
def _hints_of(application: str) -> Hints:
    """There are as many as applications."""
    return Hints(application=application)


def read_timeout(headers: dict[bytes, bytes], body: JsonMapping, *, stream: bool) -> float | None:
    """Seconds the client allows: the shorter of its header and the body's `timeout`, which is checked already. Raises
    BadRequest naming the header."""
    limits = (_header_timeout(headers, stream=stream), body.get("timeout"))
    return min((seconds for seconds in limits if seconds is not None), default=None)


def _header_timeout(headers: dict[bytes, bytes], *, stream: bool) -> float | None:
    """Reads x-litellm-timeout or x-litellm-stream-timeout."""
    for name in (b"x-litellm-stream-timeout", b"x-litellm-timeout") if stream else (b"x-litellm-timeout",):
        text = headers.get(name)
        if text is not None:
            return read_seconds(name, text)
    return None


def interpret(raw: bytes, headers: dict[bytes, bytes], dialect: Dialect) -> Call:
    """Raises ClientFault naming the `param`."""
    call = dialect.decode(raw, read_hints(headers))
    check_hints(call.end_user, call.tags)
    return call


def check_hints(end_user: str, tags: tuple[str, ...]) -> None:
    for name, value in (("user", end_user), *(("tags", tag) for tag in tags)):
        if len(value) > MAX_HINT_CHARACTERS:
            raise BadRequest(f"'{name}' is longer than {MAX_HINT_CHARACTERS} characters.", param=name)


def _text(headers: dict[bytes, bytes], name: bytes) -> str:
    return headers.get(name, b"").decode("utf-8", "replace").replace("\0", "").strip()
