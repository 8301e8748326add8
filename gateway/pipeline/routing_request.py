"""RoutingRequest of a call: what the choice of its deployment depends on."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain

from gateway.pipeline.admit import named_fallbacks
from gateway.pipeline.ports import Catalog, Principal
from gateway.protocol.abilities import EMBEDDINGS, GENERATION
from gateway.protocol.call import Call, Operation
from gateway.protocol.json.types import Json
from gateway.protocol.routing_options import MAX_RETRIES, OPTIONS
from gateway.routing.request import RoutingRequest
from gateway.routing.walk import RouteOptions

#: The headers by which coding agents name their session: Codex, Claude Code, OpenCode, and LiteLLM's own.
SESSION_HEADERS = (b"session_id", b"x-claude-code-session-id", b"x-session-id", b"x-litellm-session-id")
MAX_SESSION_CHARS = 256
MAX_PARTS = 5_000  # messages and their parts that are looked through for images, audio and files
#: {kind of a part: the ability that it needs}
PARTS: Mapping[str, str] = {
    **dict.fromkeys(("image_url", "input_image", "image"), "vision"),
    **dict.fromkeys(("input_audio", "audio"), "audio"),
    **dict.fromkeys(("file", "input_file", "document"), "pdf"),
}
FREE_CHOICES = frozenset({None, "auto", "none"})
NO_NEEDS = frozenset[str]()


def read_routing_request(
    call: Call, headers: Mapping[bytes, bytes], principal: Principal, catalog: Catalog, preferred: str = ""
) -> RoutingRequest:
    """`preferred`: the deployment that answered the conversation before."""
    return RoutingRequest(
        input_tokens=call.input_estimate,
        needs=frozenset(_needs(call, catalog.lacking)) if catalog.lacking else NO_NEEDS,
        tags=frozenset(call.tags),
        key_tags=principal.tags,
        session=_session(call, headers),
        preferred=preferred,
        is_stream=call.stream,
    )


def read_route_options(
    call: Call, headers: Mapping[bytes, bytes], principal: Principal, catalog: Catalog
) -> RouteOptions:
    """The options of the body (routing_options.py), `x-litellm-num-retries`, which wins over it, and
    `x-tollgate-disable-fallbacks`; a value of a header that is none is as if it were not sent."""
    body = call.body
    text = headers.get(b"x-litellm-num-retries", b"")
    retries = min(int(text), MAX_RETRIES) if text.isdigit() and len(text) <= 4 else None
    is_without = headers.get(b"x-tollgate-disable-fallbacks", b"").lower() == b"true"
    if OPTIONS.isdisjoint(body):
        return RouteOptions(retries=retries, is_without_fallbacks=is_without)
    named = named_fallbacks(call, principal, catalog)
    return RouteOptions(
        retries=body.get("num_retries") if retries is None else retries,
        fallbacks=named.get("fallbacks"),
        context_window_fallbacks=named.get("context_window_fallbacks", named.get("context_window_fallback_dict")),
        content_policy_fallbacks=named.get("content_policy_fallbacks"),
        is_without_fallbacks=is_without or body.get("disable_fallbacks") is True,
    )


def _session(call: Call, headers: Mapping[bytes, bytes]) -> str:
    for name in SESSION_HEADERS:
        value = headers.get(name)
        if value:
            return value[:MAX_SESSION_CHARS].decode("latin-1")
    key = call.body.get("prompt_cache_key")
    return key[:MAX_SESSION_CHARS] if isinstance(key, str) else ""


def _needs(call: Call, lacking: frozenset[str]) -> Iterator[str]:
    """The abilities that the call needs, of those that some deployment lacks: parts are not looked through for others.
    Names of fields are those of all dialects."""
    body = call.body
    yield EMBEDDINGS if call.operation is Operation.EMBEDDING else GENERATION
    if body.get("tools") or body.get("functions"):
        yield "tools"
        choice = body.get("tool_choice")
        if (_member(choice, "type") if isinstance(choice, dict) else choice) not in FREE_CHOICES:
            yield "tool_choice"
    forms = (
        body.get("response_format"),
        body.get("output_format"),
        _member(body.get("text"), "format"),
        _member(body.get("output_config"), "format"),
    )
    if any(_member(form, "type") == "json_schema" for form in forms):
        yield "json_schema"
    if not lacking.isdisjoint(PARTS.values()):
        yield from _needs_of_parts(body.get("messages") or body.get("input"))


def _needs_of_parts(messages: Json) -> set[str]:
    """The abilities that the parts of messages need, tool results and outputs of functions among them."""
    needs: set[str] = set()
    left = MAX_PARTS
    for message in _items(messages):
        left -= 1
        if left <= 0 or not isinstance(message, dict):
            continue
        for part in chain(_items(message.get("content")), _items(message.get("output"))):
            left -= 1
            if left <= 0:
                break
            if isinstance(part, dict):
                inner = _items(part.get("content"))
                left -= len(inner)
                for one in (part, *inner[:MAX_PARTS]):
                    kind = one.get("type") if isinstance(one, dict) else None
                    if isinstance(kind, str) and kind in PARTS:
                        needs.add(PARTS[kind])
    return needs


def _member(value: Json, name: str) -> Json:
    return value.get(name) if isinstance(value, dict) else None


def _items(value: Json) -> Sequence[Json]:
    return value if isinstance(value, list) else ()
