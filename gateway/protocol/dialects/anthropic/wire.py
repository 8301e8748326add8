"""What both directions of Anthropic's Messages format share: usage, errors, and passing through between them.

Source: https://platform.claude.com/docs/en/api/messages and the types of the `anthropic` package 2.10.0; each field's
decision is in docs/dialects/anthropic.md. Inbound: anthropic_messages.py. Towards an upstream: anthropic.py.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import ceil
from typing import Any

import orjson

from gateway.protocol.answer import AnswerMetadata
from gateway.protocol.attempt_context import Fetched
from gateway.protocol.call import Call
from gateway.protocol.dialects.openai import wire as openai_wire
from gateway.protocol.dialects.shared.translate import EventPasser, incomplete
from gateway.protocol.error_classes import classify
from gateway.protocol.errors import BadRequest, UpstreamFault, sanitize
from gateway.protocol.json.body import ABSENT, add_members, edit_members, replace_member
from gateway.protocol.json.types import JsonObject
from gateway.protocol.provider import Target
from gateway.protocol.sse import EventSplitter, event_data
from gateway.protocol.usage import MAX_TOKENS, Usage, estimate_tokens

WIRE = "anthropic_messages"
MESSAGE_STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'


def read_usage(raw: Mapping[str, Any]) -> Usage | None:
    """Disjoint counts of an Anthropic usage object; None where it holds no usable count."""
    is_odd = False

    def count(holder: Any, name: str) -> int:
        nonlocal is_odd
        value = holder.get(name) if isinstance(holder, Mapping) else None
        if value is None:
            return 0
        if type(value) is int and 0 <= value <= MAX_TOKENS:
            return value
        is_odd = True
        return 0

    written = count(raw, "cache_creation_input_tokens")
    hour = count(raw.get("cache_creation"), "ephemeral_1h_input_tokens")
    minutes = count(raw.get("cache_creation"), "ephemeral_5m_input_tokens")
    written = max(written, hour + minutes)
    output = count(raw, "output_tokens")
    thinking = count(raw.get("output_tokens_details"), "thinking_tokens")
    usage = Usage(
        input_tokens=count(raw, "input_tokens"),
        cache_read_tokens=count(raw, "cache_read_input_tokens"),
        cache_write_5m_tokens=written - hour,
        cache_write_1h_tokens=hour,
        output_tokens=max(output - thinking, 0),
        reasoning_tokens=thinking,
        is_inconsistent=is_odd or thinking > output,
    )
    return usage if usage.total_input or usage.total_output else None


def broken(what: str) -> UpstreamFault:
    return UpstreamFault(f"The upstream sent {what}.", finish="upstream_broken")


def unsupported(message: str, param: str) -> BadRequest:
    return BadRequest(message, param=param, code="unsupported_parameter")


def read_event(data: bytes) -> JsonObject:
    try:
        event = orjson.loads(data)
    except orjson.JSONDecodeError:
        raise broken("an event that is not JSON") from None
    if type(event) is not dict:
        raise broken("an event that is not a JSON object")
    return event


def last_events(splitter: EventSplitter) -> list[bytes]:
    """What the stream's end left over; nothing where that is a piece of an event."""
    try:
        return [event for event in splitter.finish() if orjson.loads(event_data(event) or b"{}") is not None]
    except orjson.JSONDecodeError:
        return []


def member(holder: JsonObject, name: str) -> JsonObject:
    value = holder.get(name)
    if type(value) is not dict:
        raise broken(f"an answer whose '{name}' is no object")
    return value


def text_of(holder: JsonObject, name: str) -> str:
    value = holder.get(name)
    if value is None:
        return ""
    if type(value) is not str:
        raise broken(f"an answer whose '{name}' is no text")
    return value


def read_message(body: bytes) -> JsonObject:
    try:
        message = orjson.loads(body)
        if b'"tool_use"' in body:
            message = json.loads(body)  # whole numbers of any size
    except (ValueError, RecursionError):
        raise UpstreamFault("The upstream's answer is not JSON.") from None
    if type(message) is not dict:
        raise UpstreamFault("The upstream's answer is not a JSON object.")
    if message.get("type") == "error":
        raise fault_of(message, 500)
    return message


# Errors

#: What an error's own type says about its class; the others are what their status says.
STATUSES = {
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "timeout_error": 504,
    "overloaded_error": 529,
}
UNPAID = re.compile(r"credit balance is too low", re.IGNORECASE)
SPENT = re.compile(r"usage limits|spend limit|spending limit", re.IGNORECASE)
FILTERED = re.compile(r"content filtering policy|content policy", re.IGNORECASE)


def fault_of(answer: Any, status: int, *, secrets: Iterable[str] = (), retry_after: str | None = None) -> UpstreamFault:
    """The class of an error answer or an error event. Google's envelope of the same names is read too."""
    if isinstance(answer, list) and answer:
        answer = answer[0]
    error = answer.get("error") if isinstance(answer, dict) else None
    if not isinstance(error, dict):
        error = {"message": error} if isinstance(error, str) else {}
    kind, said = error.get("type"), error.get("message")
    message = sanitize(said, secrets) if isinstance(said, str) else ""
    status = STATUSES.get(kind, status) if isinstance(kind, str) else status
    if kind == "invalid_request_error" and not 400 <= status < 500:
        status = 400
    code = None
    if status == 400 and UNPAID.search(message):
        status = 402
    elif status in {400, 429} and SPENT.search(message):
        status, code = 429, "insufficient_quota"
    elif status == 400 and FILTERED.search(message):
        code = "content_filter"
    return classify(status, message=message, code=code, retry_after=retry_after)


# Same dialect on both sides


def learn_message(metadata: AnswerMetadata, message: JsonObject) -> None:
    metadata.upstream_id = metadata.upstream_id or (message["id"] if isinstance(message.get("id"), str) else "")
    metadata.model = metadata.model or (message["model"] if isinstance(message.get("model"), str) else "")


def _learn_usage(metadata: AnswerMetadata, usage: JsonObject) -> None:
    read = read_usage(usage)
    if read is not None:
        metadata.usage, metadata.raw_usage = read, usage
    if isinstance(usage.get("service_tier"), str):
        metadata.service_tier = usage["service_tier"]


class MessagesRelay(EventPasser):
    """StreamRelay from Messages to Messages: the events go through as they are, the model's name excepted."""

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
        return self._all_through(self._splitter.feed(piece))

    def finish(self) -> bytes:
        rest = self._all_through(last_events(self._splitter))
        self._raise_held()
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
            learn_message(self.metadata, message)
            if type(message.get("usage")) is dict:
                self._usage = message["usage"]
            message["model"] = self._model
            return b"event: message_start\ndata: " + orjson.dumps(event) + b"\n\n"
        elif kind == "message_delta":
            usage = event.get("usage")
            if type(usage) is dict:
                self._usage = self._usage | {name: value for name, value in usage.items() if value is not None}
            if member(event, "delta").get("stop_reason"):
                self._has_ended = True
                _learn_usage(self.metadata, self._usage)
        elif kind == "message_stop":
            if not self._has_ended:
                raise incomplete()
            self.is_done = True
            return b""
        elif kind == "error":
            raise fault_of(event, 500)
        return raw + b"\n\n"


def message_through(model: str, body: bytes) -> tuple[bytes, AnswerMetadata]:
    """A whole message with its public model name. Raises UpstreamFault for an unusable one."""
    message = read_message(body)
    if type(message.get("content")) is not list:
        raise UpstreamFault("The upstream's answer holds no content.")
    metadata = AnswerMetadata()
    learn_message(metadata, message)
    if type(message.get("usage")) is dict:
        _learn_usage(metadata, message["usage"])
    if metadata.usage is None:
        said = [value for block in message["content"] if isinstance(block, dict) for value in block.values()]
        metadata.output_estimate = sum(estimate_tokens(value) for value in said if isinstance(value, str))
    try:
        return replace_member(body, "model", model, message), metadata
    except RecursionError:
        raise UpstreamFault("The upstream's answer is nested too deeply.") from None


MAX_BETAS = 32
BETA = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)


def read_betas(given: str | Sequence[str], param: str) -> tuple[str, ...]:
    """The names of a list, or of a text that commas divide. Raises BadRequest for what is no name: these become a
    header's value."""
    texts = given.split(",") if isinstance(given, str) else [name for text in given for name in text.split(",")]
    names = tuple(dict.fromkeys(name for text in texts if (name := text.strip())))
    if len(names) > MAX_BETAS or not all(BETA.fullmatch(name) for name in names):
        raise BadRequest(
            f"'{param}' must be at most {MAX_BETAS} names of letters, digits, dots, hyphens and underscores.",
            param=param,
            code="invalid_value",
        )
    return names


def url_sources(node: Any) -> Iterator[JsonObject]:
    """The images and documents given by URL, at any depth of a Messages body's `messages`."""
    if isinstance(node, list):
        for item in node:
            yield from url_sources(item)
    elif isinstance(node, dict):
        source = node.get("source")
        if node.get("type") in ("image", "document") and isinstance(source, dict) and source.get("type") == "url":
            yield source
        yield from url_sources(node.get("content"))


#: https://platform.claude.com/docs/en/build-with-claude/structured-outputs, "JSON Schema limitations"
SCHEMA_KEPT = frozenset({"type", "enum", "const", "title", "description", "default", "required", "$ref"})
SCHEMA_DROPPED = frozenset({"$schema", "$id", "$comment", "additionalProperties"})
SCHEMA_VALUES = frozenset(
    {"minItems: 0", "minItems: 1", "format: date-time", "format: time", "format: date", "format: duration"}
    | {"format: email", "format: hostname", "format: uri", "format: ipv4", "format: ipv6", "format: uuid"}
)


def strict_schema(schema: Any) -> Any:
    """A schema that structured output takes: closed objects, and what it does not know told in the description."""
    if not isinstance(schema, Mapping):
        return schema
    made: JsonObject = {}
    told: list[str] = []
    for name, value in schema.items():
        if name in {"properties", "$defs", "definitions"} and isinstance(value, Mapping):
            made[name] = {key: strict_schema(inner) for key, inner in value.items()}
        elif name in {"anyOf", "oneOf", "allOf"} and isinstance(value, list):
            made["anyOf" if name == "oneOf" else name] = [strict_schema(inner) for inner in value]
        elif name == "items":
            made[name] = strict_schema(value)
        elif name in SCHEMA_KEPT or f"{name}: {value}" in SCHEMA_VALUES:
            made[name] = value
        elif name not in SCHEMA_DROPPED:
            shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            told.append(f"{name}: {shown}")
    kind = schema.get("type")
    if kind == "object" or (isinstance(kind, list) and "object" in kind) or "properties" in schema:
        made["additionalProperties"] = False
    if told:
        before = f"{made['description']}\n\n" if made.get("description") else ""
        made["description"] = before + "{" + ", ".join(told) + "}"
    return made


def edit_request(
    call: Call, target: Target, members: Mapping[str, Any], parameters: JsonObject, fetched: Mapping[str, Fetched]
) -> tuple[bytes, tuple[str, ...]]:
    """(the client's bytes with the upstream's model in them, what was dropped). `members` replace the client's (ABSENT
    takes one out), `parameters` give way to them. Encoded anew only where more than the model has to change."""
    body = call.body
    changes: JsonObject = dict.fromkeys((openai_wire.OURS | {"anthropic_beta"}) & body.keys(), ABSENT)
    dropped = _refused_sampling(body, target.capabilities.sampling)
    if dropped and target.capabilities.on_unsupported == "error":
        raise unsupported(f"'{dropped[0]}' is not supported by this model.", dropped[0])
    dropped = tuple(dict.fromkeys([*dropped, *sorted(target.unsupported_parameters & body.keys())]))
    changes |= dict.fromkeys(dropped, ABSENT)
    metadata = body.get("metadata")
    if metadata and not openai_wire.OUR_METADATA.isdisjoint(metadata):
        kept = {name: value for name, value in metadata.items() if name not in openai_wire.OUR_METADATA}
        changes["metadata"] = kept or ABSENT
    if fetched:
        messages = json.loads(call.raw)["messages"]
        for source in url_sources(messages):
            medium = fetched.get(str(source.get("url")))
            if medium is not None:
                source.clear()
                source.update(type="base64", media_type=medium.media_type, data=medium.data)
        changes["messages"] = messages
    changes |= members
    extra = {name: value for name, value in parameters.items() if name not in body and name not in changes}
    if changes:
        raw = edit_members(call.raw, {"model": target.upstream_model, **changes})
    elif target.upstream_model != call.model:
        raw = replace_member(call.raw, "model", target.upstream_model, body)
    else:
        raw = call.raw
    return add_members(raw, extra), dropped


def _refused_sampling(body: Mapping[str, Any], sampling: str) -> tuple[str, ...]:
    if sampling == "none":
        return tuple(name for name in ("temperature", "top_p", "top_k") if name in body)
    is_both = body.get("temperature") is not None and body.get("top_p") is not None
    return ("top_p",) if sampling == "one_of" and is_both else ()


COUNTED = frozenset(
    {"messages", "system", "tools", "tool_choice", "thinking", "output_config", "cache_control", "speed"}
)


def edit_count_request(call: Call, model: str) -> bytes:
    """The body for the upstream's own count_tokens, which takes fewer fields."""
    left_out = call.body.keys() - COUNTED
    return edit_members(call.raw, {**dict.fromkeys(left_out, ABSENT), "model": model})
