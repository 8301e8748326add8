"""Parts of Anthropic's Messages format that clients and upstreams share: events, usage, errors, betas, media sources.

Source: https://platform.claude.com/docs/en/api/messages and the types of the `anthropic` package 2.10.0; each field's
decision is in docs/dialects/anthropic.md.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace

import orjson

from gateway.protocol.error_classes import classify
from gateway.protocol.errors import BadRequest, UpstreamFault, sanitize
from gateway.protocol.json.answer import load_answer
from gateway.protocol.json.types import Json, JsonMapping, JsonObject
from gateway.protocol.retry_after import find_retry_after_s
from gateway.protocol.sse import EventSplitter, event_data
from gateway.protocol.usage import MAX_TOKENS, Usage

WIRE = "anthropic_messages"
MESSAGE_STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'


def read_usage(raw: JsonMapping) -> Usage | None:
    """The disjoint counts of an Anthropic usage object; None where it holds no usable count.

    The iterations of EXTRA_ITERATIONS are not in the top-level counts and add to them. One of another model has that
    model's price, which a deployment does not have: the usage is then marked as inconsistent. So is one with a redeemed
    fallback credit, which Anthropic bills by other rules than its counts.
    """
    counts = _read_counts(raw)
    iterations = raw.get("iterations")
    for iteration in iterations if type(iterations) is list else ():
        kind = iteration.get("type") if type(iteration) is dict else None
        if kind in EXTRA_ITERATIONS:
            extra = _read_counts(iteration)
            sums = {name: getattr(counts, name) + getattr(extra, name) for name in COUNTS}
            is_foreign = counts.is_inconsistent or extra.is_inconsistent or kind == "advisor_message"
            counts = replace(counts, **sums, is_inconsistent=is_foreign)
        elif kind == "fallback_message":
            counts = replace(counts, is_inconsistent=True)
    credit = raw.get("fallback_credit")
    status = credit.get("status") if type(credit) is dict else None
    if type(status) is dict and status.get("type") == "redeemed":
        counts = replace(counts, is_inconsistent=True)
    return counts if counts.total_input or counts.total_output else None


def usage_object(usage: Usage) -> JsonObject:
    written = usage.cache_write_5m_tokens + usage.cache_write_1h_tokens
    fields: JsonObject = {
        "input_tokens": usage.input_tokens + usage.input_audio_tokens,
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": usage.cache_read_tokens,
        "output_tokens": usage.total_output,
    }
    if usage.reasoning_tokens:
        fields["output_tokens_details"] = {"thinking_tokens": usage.reasoning_tokens}
    return fields


def merge_usage(usage: JsonObject, newer: JsonObject) -> JsonObject:
    """The usage so far with the counts of a later event, which are cumulative."""
    if max(len(usage), len(newer)) > MAX_USAGE_MEMBERS:
        return usage
    return usage | {name: value for name, value in newer.items() if value is not None}


MAX_USAGE_MEMBERS = 64  # a usage has about ten
#: Source: BetaUsage.iterations of the `anthropic` package 2.10.0.
EXTRA_ITERATIONS = ("compaction", "advisor_message")
COUNTS = tuple(field.name for field in fields(Usage) if field.name.endswith("_tokens"))


def _read_counts(raw: JsonMapping) -> Usage:
    is_inconsistent = False

    def count(holder: Json, name: str) -> int:
        nonlocal is_inconsistent
        value = holder.get(name) if isinstance(holder, Mapping) else None
        if value is None:
            return 0
        if type(value) is int and 0 <= value <= MAX_TOKENS:
            return value
        is_inconsistent = True
        return 0

    written = count(raw, "cache_creation_input_tokens")
    hour = count(raw.get("cache_creation"), "ephemeral_1h_input_tokens")
    minutes = count(raw.get("cache_creation"), "ephemeral_5m_input_tokens")
    has_remainder = hour + minutes > 0 and hour + minutes != written  # it is priced as written for five minutes
    written = max(written, hour + minutes)
    output = count(raw, "output_tokens")
    thinking = count(raw.get("output_tokens_details"), "thinking_tokens")
    return Usage(
        input_tokens=count(raw, "input_tokens"),
        cache_read_tokens=count(raw, "cache_read_input_tokens"),
        cache_write_5m_tokens=written - hour,
        cache_write_1h_tokens=hour,
        output_tokens=max(output - thinking, 0),
        reasoning_tokens=thinking,
        is_inconsistent=is_inconsistent or has_remainder or thinking > output,
    )


def broken(what: str) -> UpstreamFault:
    return UpstreamFault(f"The upstream sent {what}.", finish="upstream_broken")


def unsupported(message: str, param: str) -> BadRequest:
    return BadRequest(message, param=param, code="unsupported_parameter")


def read_event(data: bytes) -> JsonObject:
    try:
        event = load_answer(data)
    except orjson.JSONDecodeError:
        raise broken("an event that is not JSON") from None
    if type(event) is not dict:
        raise broken("an event that is not a JSON object")
    return event


def last_events(splitter: EventSplitter) -> list[bytes]:
    """The events that the end of the stream completes, without one that was cut off."""
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
        message = load_answer(body)
        if b'"tool_use"' in body:
            message = json.loads(body)  # whole numbers of any size
    except (ValueError, RecursionError):
        raise UpstreamFault("The upstream's answer is not JSON.") from None
    if type(message) is not dict:
        raise UpstreamFault("The upstream's answer is not a JSON object.")
    if message.get("type") == "error":
        raise classify_error(message, 500)
    return message


# Errors

#: Statuses of error types. Any other type has the class of its HTTP status.
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


def read_failure(status: int, headers: Mapping[str, str], body: bytes, secrets: Iterable[str] = ()) -> UpstreamFault:
    """The fault that an error answer stands for."""
    try:
        answer = load_answer(body)
    except orjson.JSONDecodeError:
        answer = None
    return classify_error(answer, status, secrets=secrets, retry_after_s=find_retry_after_s(headers))


def classify_error(
    answer: Json, status: int, *, secrets: Iterable[str] = (), retry_after_s: float | None = None
) -> UpstreamFault:
    """The fault that a parsed error answer or error event stands for, also in Google's envelope of the same names."""
    if isinstance(answer, list) and answer:
        answer = answer[0]
    error = answer.get("error") if isinstance(answer, dict) else None
    if not isinstance(error, dict):
        error = {"message": error} if isinstance(error, str) else {}
    kind, text = error.get("type"), error.get("message")
    message = sanitize(text, secrets) if isinstance(text, str) else ""
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
    return classify(status, message=message, code=code, retry_after_s=retry_after_s)


MAX_BETAS = 32
BETA = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)


def read_betas(value: str | Sequence[str], param: str) -> tuple[str, ...]:
    """The names in a list, or in a text with commas. Raises BadRequest for an invalid name: a header carries them."""
    texts = value.split(",") if isinstance(value, str) else [name for text in value for name in text.split(",")]
    names = tuple(dict.fromkeys(name for text in texts if (name := text.strip())))
    if len(names) > MAX_BETAS or not all(BETA.fullmatch(name) for name in names):
        raise BadRequest(
            f"'{param}' must be at most {MAX_BETAS} names of letters, digits, dots, hyphens and underscores.",
            param=param,
            code="invalid_value",
        )
    return names


def url_sources(node: Json) -> Iterator[JsonObject]:
    """The sources of images and documents that are URLs, at any depth of a Messages body's `messages`."""
    if isinstance(node, list):
        for item in node:
            yield from url_sources(item)
    elif isinstance(node, dict):
        source = node.get("source")
        if node.get("type") in ("image", "document") and isinstance(source, dict) and source.get("type") == "url":
            yield source
        yield from url_sources(node.get("content"))
