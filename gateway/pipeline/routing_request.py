"""RoutingRequest of a call: what the choice of its deployment depends on."""

from collections.abc import Iterator, Mapping, Sequence

from gateway.pipeline.admit import named_fallbacks
from gateway.pipeline.ports import Catalog, Principal
from gateway.protocol.call import Call
from gateway.protocol.json.types import Json
from gateway.protocol.provider import ALL_ABILITIES, Target
from gateway.protocol.routing_options import MAX_RETRIES, OPTIONS
from gateway.routing.request import RoutingRequest
from gateway.routing.walk import RouteOptions

#: The headers by which coding agents name their session: Codex, Claude Code, OpenCode, and LiteLLM's own.
SESSION_HEADERS = (b"session_id", b"x-claude-code-session-id", b"x-session-id", b"x-litellm-session-id")
MAX_SESSION_CHARS = 256
MAX_PARTS = 10_000  # of the messages, looked through for images and audio
IMAGES = frozenset({"image_url", "input_image", "image"})
AUDIO = frozenset({"input_audio", "audio"})


def read_routing_request(
    call: Call, headers: Mapping[bytes, bytes], targets: Sequence[Target], preferred: str = ""
) -> RoutingRequest:
    """`preferred`: the deployment that answered the conversation before."""
    needs = frozenset[str]()
    if any(target.abilities is not ALL_ABILITIES for target in targets):
        needs = frozenset(_needs(call))
    return RoutingRequest(
        input_tokens=call.input_estimate,
        needs=needs,
        tags=frozenset(call.tags),
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


def _needs(call: Call) -> Iterator[str]:
    body = call.body
    if body.get("tools") or body.get("functions"):
        yield "tools"
    form = body.get("response_format") or _member(body.get("text"), "format")
    if _member(form, "type") == "json_schema":
        yield "json_schema"
    kinds = set(_part_kinds(body.get("messages") or body.get("input")))
    if not IMAGES.isdisjoint(kinds):
        yield "vision"
    if not AUDIO.isdisjoint(kinds):
        yield "audio"


def _member(value: Json, name: str) -> Json:
    return value.get(name) if isinstance(value, dict) else None


def _part_kinds(messages: Json) -> Iterator[str]:
    seen = 0
    for message in messages if isinstance(messages, list) else ():
        content = _member(message, "content")
        for part in content if isinstance(content, list) else ():
            seen += 1
            if seen > MAX_PARTS:
                return
            kind = _member(part, "type")
            if isinstance(kind, str):
                yield kind
