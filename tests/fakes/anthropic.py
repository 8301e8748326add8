"""Anthropic's Messages API for its tests: calls, deployments, and an answer with everything in
it, whole and streamed."""

from collections.abc import Iterable
from typing import Any

import orjson
from hypothesis import strategies as st

from gateway.protocol.attempt_context import AttemptContext
from gateway.protocol.capabilities import apply_flags
from gateway.protocol.dialect import Hints
from gateway.protocol.dialects.anthropic import client as anthropic_client
from gateway.protocol.dialects.anthropic.upstream_answer import StreamDecoder
from gateway.protocol.dialects.openai import chat as openai_chat
from gateway.protocol.events import Event
from gateway.protocol.provider import Target
from gateway.protocol.secret import Secret
from gateway.providers.anthropic import PROVIDER

NOW = AttemptContext("attempt-1", 1_800_000_000.0)
USER = {"role": "user", "content": "Hi"}
WEATHER = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def target(context: dict[str, Any] | None = None, **changes: Any) -> Target:
    flags = dict(context or {})
    fields: dict[str, Any] = {
        "deployment_id": "d",
        "model_group": "alias-1",
        "organization_id": None,
        "provider": PROVIDER,
        "upstream_model": flags.pop("upstream_model", "claude-sonnet-4-5"),
        "api_base": PROVIDER.default_api_base,
        "credential": {"api_key": Secret("sk-ant-test")},
        "capabilities": apply_flags(flags),
    }
    return Target(**(fields | changes))


def call(body: dict[str, Any]) -> Any:
    return openai_chat.DIALECT.decode(orjson.dumps({"model": "alias-1", **body}), Hints())


def messages_call(body: dict[str, Any]) -> Any:
    request = {"model": "alias-1", "max_tokens": 20, "messages": [USER], **body}
    return anthropic_client.DIALECT.decode(orjson.dumps(request), Hints())


# A stream, event by event


def event(kind: str, **members: Any) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), orjson.dumps({"type": kind, **members}))


def begin(**usage: Any) -> bytes:
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude", "content": []}
    return event("message_start", message={**message, "usage": usage or {"input_tokens": 5, "output_tokens": 1}})


def block(index: int, head: dict[str, Any], *deltas: dict[str, Any]) -> bytes:
    frames = event("content_block_start", index=index, content_block=head)
    frames += b"".join(event("content_block_delta", index=index, delta=delta) for delta in deltas)
    return frames + event("content_block_stop", index=index)


def end(reason: str, **more: Any) -> bytes:
    usage = {"output_tokens": 40, "output_tokens_details": {"thinking_tokens": 10}}
    delta = {"stop_reason": reason, "stop_sequence": None, **more}
    return event("message_delta", delta=delta, usage=usage) + event("message_stop")


THOUGHT = block(
    0,
    {"type": "thinking", "thinking": "", "signature": ""},
    {"type": "thinking_delta", "thinking": "Let me "},
    {"type": "thinking_delta", "thinking": "see."},
    {"type": "signature_delta", "signature": "sig"},
)
TOOLS = (
    block(1, {"type": "redacted_thinking", "data": "opaque"})
    + block(2, {"type": "text", "text": ""}, {"type": "text_delta", "text": "Looking."})
    + block(
        3,
        {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {}},
        {"type": "input_json_delta", "partial_json": ""},
        {"type": "input_json_delta", "partial_json": '{"city": "Zü'},
        {"type": "input_json_delta", "partial_json": 'rich"}'},
    )
    + block(4, {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}})
    + block(
        5,
        {"type": "tool_use", "id": "toolu_2", "name": "now", "input": {}},
        {"type": "input_json_delta", "partial_json": ""},
    )
)
FULL = begin(input_tokens=5, cache_read_input_tokens=7, output_tokens=1) + THOUGHT + TOOLS + end("tool_use")

WHOLE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude",
    "content": [
        {"type": "thinking", "thinking": "Let me see.", "signature": "sig"},
        {"type": "redacted_thinking", "data": "opaque"},
        {"type": "text", "text": "Looking."},
        {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"city": "Zürich"}},
        {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "q"}},
        {"type": "tool_use", "id": "toolu_2", "name": "now", "input": {}},
    ],
    "stop_reason": "tool_use",
    "stop_sequence": None,
    "usage": {
        "input_tokens": 5,
        "cache_read_input_tokens": 7,
        "output_tokens": 40,
        "output_tokens_details": {"thinking_tokens": 10},
    },
}


# What is read of it


def decoded(pieces: Iterable[bytes], **options: Any) -> list[Event]:
    decoder = StreamDecoder(**options)
    events = [event for piece in pieces for event in decoder.feed(piece)]
    return events + decoder.finish()


def relayed(pieces: Iterable[bytes]) -> tuple[bytes, Any]:
    relay = PROVIDER.relay(messages_call({"stream": True}), target(), NOW)
    out = b"".join(relay.feed(piece) for piece in pieces)
    return out + relay.finish(), relay.metadata
