"""Messages from a client to an upstream of the same format: the bytes pass through with few edits.

Source: https://platform.claude.com/docs/en/api/messages and the types of the `anthropic` package 2.10.0; each field's
decision is in docs/dialects/anthropic.md.
"""

import json
from collections.abc import Mapping
from math import ceil

import orjson

from gateway.protocol.answer import AnswerMetadata
from gateway.protocol.attempt_context import Fetched
from gateway.protocol.call import Call
from gateway.protocol.dialects.anthropic.cache_breakpoints import add_breakpoints
from gateway.protocol.dialects.anthropic.wire import (
    MESSAGE_STOP,
    classify_error,
    last_events,
    member,
    merge_usage,
    read_event,
    read_message,
    read_usage,
    unsupported,
    url_sources,
)
from gateway.protocol.dialects.openai import wire as openai_wire
from gateway.protocol.dialects.shared.translate import EventPasser, incomplete
from gateway.protocol.errors import UpstreamFault
from gateway.protocol.json.body import ABSENT, add_members, edit_members, replace_member
from gateway.protocol.json.types import JsonMapping, JsonObject
from gateway.protocol.provider import Target
from gateway.protocol.sse import EventSplitter, event_data
from gateway.protocol.usage import estimate_tokens


def _note_message(metadata: AnswerMetadata, message: JsonObject) -> None:
    metadata.upstream_id = metadata.upstream_id or (message["id"] if isinstance(message.get("id"), str) else "")
    metadata.model = metadata.model or (message["model"] if isinstance(message.get("model"), str) else "")


def _note_usage(metadata: AnswerMetadata, usage: JsonObject) -> None:
    counts = read_usage(usage)
    if counts is not None:
        metadata.usage, metadata.raw_usage = counts, usage
    if isinstance(usage.get("service_tier"), str):
        metadata.service_tier = usage["service_tier"]


class MessagesRelay(EventPasser):
    """StreamRelay from Messages to Messages: the events pass unchanged but for the model's name."""

    __slots__ = ("_has_ended", "_model", "_size", "_splitter", "_usage", "metadata")

    def __init__(self, model: str) -> None:
        super().__init__()
        self.metadata = AnswerMetadata()
        self._model = model  # the public name
        self._splitter = EventSplitter()
        self._has_ended = False
        self._size = 0.0
        self._usage: JsonObject = {}

    def feed(self, piece: bytes) -> bytes:
        return self._relay_events(self._splitter.feed(piece))

    def finish(self) -> bytes:
        rest = self._relay_events(last_events(self._splitter))
        self._raise_fault()
        if not self.is_done and not self._has_ended:
            raise incomplete()
        self.is_done = True
        return rest + MESSAGE_STOP

    def _through(self, raw: bytes) -> bytes:
        data = event_data(raw)
        if not data or self.is_done:
            return b""
        event = read_event(data)
        kind = event.get("type")
        if kind == "content_block_delta":
            delta = member(event, "delta")
            text = delta.get("text") or delta.get("thinking") or delta.get("partial_json")
            if isinstance(text, str):
                self._size += len(text) / 4 if text.isascii() else estimate_tokens(text)
                self.metadata.output_estimate = ceil(self._size)
        elif kind == "message_start":
            message = member(event, "message")
            _note_message(self.metadata, message)
            if type(message.get("usage")) is dict:
                self._usage = message["usage"]
                self.metadata.early_usage, self.metadata.raw_usage = read_usage(self._usage), self._usage
            message["model"] = self._model
            return b"event: message_start\ndata: " + orjson.dumps(event) + b"\n\n"
        elif kind == "message_delta":
            usage = event.get("usage")
            if type(usage) is dict:
                self._usage = merge_usage(self._usage, usage)
            if member(event, "delta").get("stop_reason"):
                self._has_ended = True
                _note_usage(self.metadata, self._usage)
        elif kind == "message_stop":
            if not self._has_ended:
                raise incomplete()
            self.is_done = True
            return b""
        elif kind == "error":
            raise classify_error(event, 500)
        return raw + b"\n\n"


def pass_message(model: str, body: bytes) -> tuple[bytes, AnswerMetadata]:
    """The upstream's whole message with the public model name. Raises UpstreamFault for an unusable one."""
    message = read_message(body)
    if type(message.get("content")) is not list:
        raise UpstreamFault("The upstream's answer holds no content.")
    metadata = AnswerMetadata()
    _note_message(metadata, message)
    if type(message.get("usage")) is dict:
        _note_usage(metadata, message["usage"])
    if metadata.usage is None:
        values = [value for block in message["content"] if isinstance(block, dict) for value in block.values()]
        metadata.output_estimate = sum(estimate_tokens(value) for value in values if isinstance(value, str))
    try:
        return replace_member(body, "model", model, message), metadata
    except RecursionError:
        raise UpstreamFault("The upstream's answer is nested too deeply.") from None


def edit_request(
    call: Call, target: Target, members: JsonMapping, parameters: JsonObject, fetched: Mapping[str, Fetched]
) -> tuple[bytes, tuple[str, ...]]:
    """(the client's bytes with the upstream's model, the names of dropped parameters).

    `members` replace the client's (ABSENT removes one), `parameters` fill in what the client left unset. The body is
    encoded anew only where more than the model changes.
    """
    body = call.body
    changes: JsonObject = dict.fromkeys((openai_wire.OURS | {"anthropic_beta"}) & body.keys(), ABSENT)
    dropped = _refused_sampling(body, target.capabilities.sampling)
    if dropped and target.capabilities.on_unsupported == "error":
        raise unsupported(f"'{dropped[0]}' is not supported by this model.", dropped[0])
    dropped = tuple(dict.fromkeys([*dropped, *sorted(target.unsupported_parameters & body.keys())]))
    changes |= dict.fromkeys(dropped, ABSENT)
    metadata = body.get("metadata")
    if metadata and not openai_wire.OUR_METADATA.isdisjoint(metadata):
        remaining = {name: value for name, value in metadata.items() if name not in openai_wire.OUR_METADATA}
        changes["metadata"] = remaining or ABSENT
    if fetched:
        messages = json.loads(call.raw)["messages"]
        for source in url_sources(messages):
            medium = fetched.get(str(source.get("url")))
            if medium is not None:
                source.clear()
                source.update(type="base64", media_type=medium.media_type, data=medium.data)
        changes["messages"] = messages
    if target.capabilities.cache_breakpoints and b'"cache_control"' not in call.raw:
        marked = json.loads(call.raw)
        marked["messages"] = changes.get("messages", marked["messages"])
        names = add_breakpoints(marked, target.capabilities.cache_minimum_tokens)
        changes |= {name: marked[name] for name in names}
    changes |= members
    defaults = {name: value for name, value in parameters.items() if name not in body and name not in changes}
    if changes:
        raw = edit_members(call.raw, {"model": target.upstream_model, **changes})
    elif target.upstream_model != call.model:
        raw = replace_member(call.raw, "model", target.upstream_model, body)
    else:
        raw = call.raw
    return add_members(raw, defaults), dropped


def _refused_sampling(body: JsonMapping, sampling: str) -> tuple[str, ...]:
    if sampling == "none":
        return tuple(name for name in ("temperature", "top_p", "top_k") if name in body)
    is_both = body.get("temperature") is not None and body.get("top_p") is not None
    return ("top_p",) if sampling == "one_of" and is_both else ()


COUNTED = frozenset(
    {"messages", "system", "tools", "tool_choice", "thinking", "output_config", "cache_control", "speed"}
)


def edit_count_request(call: Call, model: str) -> bytes:
    """The body for the upstream's count_tokens, which takes fewer fields."""
    excluded = call.body.keys() - COUNTED
    return edit_members(call.raw, {**dict.fromkeys(excluded, ABSENT), "model": model})
