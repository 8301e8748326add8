"""Anthropic's Messages format towards an upstream, for whoever serves Claude in it. `api_base` is the bare host.

Source: https://platform.claude.com/docs/en/api/messages and the types of the `anthropic` package 2.10.0; each field's
decision is in docs/dialects/anthropic.md. Requests are made in anthropic_request.py; a client
of the same format is passed through (anthropic_wire.py).
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlencode

import orjson

from gateway.protocol import items
from gateway.protocol.answer import AnswerMetadata, StreamRelay
from gateway.protocol.attempt_context import AttemptContext
from gateway.protocol.call import Call, Operation
from gateway.protocol.dialects.anthropic import wire as messages_format
from gateway.protocol.dialects.anthropic.upstream_request import Encoded, encode
from gateway.protocol.dialects.anthropic.wire import broken, fault_of, member, text_of
from gateway.protocol.dialects.shared.emulation import to_chat_request
from gateway.protocol.dialects.shared.translate import StreamReader, TranslatedRelay, incomplete, translated_body
from gateway.protocol.errors import UpstreamFault
from gateway.protocol.events import (
    AnnotationAdded,
    Event,
    Finished,
    ReasoningDelta,
    RefusalDelta,
    Started,
    TextDelta,
    ToolArgumentsDelta,
    ToolCallStarted,
    UsageReported,
)
from gateway.protocol.json.body import ABSENT
from gateway.protocol.json.types import JsonObject
from gateway.protocol.listing import ListRequest, ModelPage, names_of, read_answer
from gateway.protocol.provider import PlainProvider, Target, UpstreamRequest
from gateway.protocol.sse import EventSplitter, event_data
from gateway.protocol.usage import MAX_TOKENS

VERSION = "2023-06-01"
MODELS_A_PAGE = 1000

# Answer → events

FINISHES = {
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
}


@dataclass(slots=True)
class _Block:
    """A content block of the answer as far as it has come."""

    kind: str  # text | thinking | redacted | tool | custom | json | other
    call: int = 0
    given: Any = None  # the input that stood in the block's beginning
    pieces: list[str] = field(default_factory=list)
    begin: int = 0  # characters of text before it
    signature: str = ""
    citations: list[Any] = field(default_factory=list)
    has_input: bool = False


class Decoder(StreamReader):
    """translate.Decoder for a stream; decode_body feeds a whole answer through the same blocks."""

    __slots__ = ("_blocks", "_calls", "_customs", "_json_tool", "_reason", "_size", "_splitter", "_usage")

    def __init__(self, *, json_tool: str = "", custom_tools: frozenset[str] = frozenset()) -> None:
        super().__init__()
        self._splitter = EventSplitter()
        self._json_tool = json_tool
        self._customs = custom_tools
        self._blocks: dict[int, _Block] = {}
        self._calls = 0
        self._reason = ""
        self._size = 0  # characters of text
        self._usage: JsonObject = {}

    def feed(self, piece: bytes) -> list[Event]:
        return self._events(self._splitter.feed(piece))

    def finish(self) -> list[Event]:
        events = self._events(messages_format.last_events(self._splitter))
        self._raise_held()
        if not self.is_done and not self._reason:
            raise incomplete()
        self.is_done = True
        return events

    def _events(self, received: Iterable[bytes]) -> list[Event]:
        events: list[Event] = []
        try:
            for event in received:
                self._read(event, events)
        except UpstreamFault as fault:
            self._hold(fault, events)
        return events

    def _read(self, raw: bytes, events: list[Event]) -> None:
        data = event_data(raw)
        if not data or self.is_done or data == b"[DONE]":
            return
        event = messages_format.read_event(data)
        kind = event.get("type")
        if kind == "content_block_delta":
            self._delta(event.get("index"), member(event, "delta"), events)
        elif kind == "content_block_start":
            self._start(event.get("index"), member(event, "content_block"), events)
        elif kind == "content_block_stop":
            self._stop(event.get("index"), events)
        elif kind == "message_start":
            self._begin(member(event, "message"), events)
        elif kind == "message_delta":
            self._end(member(event, "delta"), event.get("usage"), events)
        elif kind == "message_stop":
            if not self._reason:
                raise incomplete()
            self.is_done = True
        elif kind == "error":
            raise fault_of(event, 500)

    def whole(self, message: JsonObject) -> list[Event]:
        events: list[Event] = []
        self._begin(message, events)
        content = message.get("content")
        if type(content) is not list:
            raise UpstreamFault("The upstream's answer holds no content.")
        for index, block in enumerate(content):
            if type(block) is not dict:
                raise broken("a content block that is no object")
            self._start(index, block, events)
            self._stop(index, events)
        self._end({"stop_reason": "end_turn", **message}, None, events)
        return events

    def _begin(self, message: JsonObject, events: list[Event]) -> None:
        events.append(Started(text_of(message, "id"), text_of(message, "model")))
        if type(message.get("usage")) is dict:
            self._usage = message["usage"]

    def _start(self, index: Any, given: JsonObject, events: list[Event]) -> None:
        if type(index) is not int or index in self._blocks:
            raise broken("a content block out of order")
        kind = given.get("type")
        block = self._blocks[index] = _Block("other", begin=self._size)
        if kind == "text":
            block.kind = "text"
            self._say(text_of(given, "text"), events)
            block.citations += given.get("citations") or ()
        elif kind == "thinking":
            block.kind = "thinking"
            block.signature = text_of(given, "signature")
            if text_of(given, "thinking"):
                events.append(ReasoningDelta(given["thinking"]))
        elif kind == "redacted_thinking":
            block.kind = "redacted"
            block.signature = text_of(given, "data")
        elif kind == "tool_use":
            block.given = given.get("input")
            name = text_of(given, "name")
            if name == self._json_tool and name:
                block.kind = "json"
                return
            block.kind = "custom" if name in self._customs else "tool"
            block.call = self._calls
            self._calls += 1
            told = "custom" if block.kind == "custom" else "function"
            events.append(ToolCallStarted(block.call, text_of(given, "id"), name, kind=told))

    def _delta(self, index: Any, delta: JsonObject, events: list[Event]) -> None:
        kind = delta.get("type")
        if kind == "text_delta":
            self._say(text_of(delta, "text"), events)
            return
        block = self._blocks.get(index) if type(index) is int else None
        if block is None:
            raise broken("a piece of no content block")
        if kind == "input_json_delta":
            piece = text_of(delta, "partial_json")
            if not piece:
                return
            block.has_input = True
            if block.kind == "tool":
                events.append(ToolArgumentsDelta(block.call, piece))
            elif block.kind == "json":
                self._say(piece, events)
            elif block.kind == "custom":
                block.pieces.append(piece)
        elif kind == "thinking_delta":
            if text_of(delta, "thinking"):
                events.append(ReasoningDelta(delta["thinking"]))
        elif kind == "signature_delta":
            block.signature += text_of(delta, "signature")
        elif kind == "citations_delta":
            block.citations.append(delta.get("citation"))

    def _say(self, text: str, events: list[Event]) -> None:
        if text:
            self._size += len(text)
            events.append(TextDelta(text))

    def _stop(self, index: Any, events: list[Event]) -> None:
        block = self._blocks.get(index) if type(index) is int else None
        if block is None or block.kind in {"other", "ended"}:
            return
        if block.kind == "text":
            self._annotate(block, events)
        elif block.kind == "thinking":
            if block.signature:
                events.append(ReasoningDelta(signature=block.signature))
        elif block.kind == "redacted":
            events.append(ReasoningDelta(redacted=block.signature))
        elif block.kind == "custom":
            events.append(ToolArgumentsDelta(block.call, _custom_input("".join(block.pieces) or block.given)))
        elif not block.has_input:
            given = block.given if isinstance(block.given, dict) else {}
            text = json.dumps(given, ensure_ascii=False, separators=(",", ":"))
            if block.kind == "json":
                self._say(text, events)
            else:
                events.append(ToolArgumentsDelta(block.call, text))
        block.kind = "ended"

    def _annotate(self, block: _Block, events: list[Event]) -> None:
        """Citations of the web, over the text of the block that they stand in."""
        for citation in block.citations:
            if not isinstance(citation, dict) or not isinstance(citation.get("url"), str):
                continue
            place = {"start_index": block.begin, "end_index": self._size}
            source = {"url": citation["url"], "title": citation.get("title") or ""}
            events.append(AnnotationAdded({"type": "url_citation", "url_citation": source | place}))

    def _end(self, delta: JsonObject, usage: Any, events: list[Event]) -> None:
        if type(usage) is dict:  # cumulative
            self._usage = self._usage | {name: value for name, value in usage.items() if value is not None}
        reason = text_of(delta, "stop_reason")
        if reason and not self._reason:
            for index in self._blocks:
                self._stop(index, events)
            self._reason = reason
            details = delta.get("stop_details")
            if reason == "refusal" and isinstance(details, dict) and isinstance(details.get("explanation"), str):
                events.append(RefusalDelta(details["explanation"]))
            told = FINISHES.get(reason, "stop")
            if told in {"stop", "tool_calls"}:
                told = "tool_calls" if self._calls else "stop"
            events.append(Finished(told))
        read = messages_format.read_usage(self._usage) if self._reason else None
        if read is not None:
            events.append(UsageReported(read, self._usage))


def _custom_input(given: Any) -> str:
    """The free text of a custom tool out of the object that carried it; the object's text where it does not."""
    text = given if isinstance(given, str) else json.dumps(given or {}, ensure_ascii=False)
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
    inner = value.get("input") if isinstance(value, dict) else None
    return inner if isinstance(inner, str) else text


def decode_body(body: bytes, *, json_tool: str = "", custom_tools: frozenset[str] = frozenset()) -> list[Event]:
    """A whole answer. Raises UpstreamFault for an unusable one."""
    return Decoder(json_tool=json_tool, custom_tools=custom_tools).whole(messages_format.read_message(body))


# Upstream


@dataclass(frozen=True, slots=True)
class AnthropicUpstream(PlainProvider):
    """A provider that serves Claude in this format; how its requests differ is data."""

    name: str
    title: str
    aliases: tuple[str, ...] = ()
    default_api_base: str = ""
    needs_api_base: bool = True
    needs_api_key: bool = False
    operations: frozenset[Operation] = frozenset({Operation.CHAT, Operation.COMPLETION})
    path: str = "/v1/messages"
    make_url: Callable[[Call, Target], str] | None = None  # where api_base + path does not do
    key_headers: tuple[str, ...] = ("x-api-key",)  # a fetched token goes into `authorization` instead
    token_kind: str = ""  # of the token that is fetched where there is no api_key
    version_header: str = VERSION
    #: Members that the body has for this upstream; ABSENT takes one out.
    members: Mapping[str, Any] = field(default_factory=dict)
    inlines_media: bool = False  # takes no URLs
    #: Longer whole answers are streamed from the upstream and gathered here (the SDKs refuse beyond 21,333).
    streams_above_tokens: int | None = None
    #: Parameters of a deployment that are not members of the body.
    own_parameters: frozenset[str] = frozenset()
    own_secrets: frozenset[str] = frozenset()
    replays_reasoning: bool = True

    def token(self, target: Target) -> str:
        return "" if target.credential.get("api_key") else self.token_kind

    def wire(self, target: Target) -> str:
        return messages_format.WIRE

    def models_request(self, target: Target, context: AttemptContext, page: str = "") -> ListRequest | None:
        if self.make_url is not None:
            return None  # a cloud that serves Claude lists nothing at this door
        headers = {"accept-encoding": "identity", "anthropic-version": self.version_header, **target.headers}
        query = urlencode({"limit": MODELS_A_PAGE} | ({"after_id": page} if page else {}))
        base = target.api_base.rstrip("/").removesuffix("/v1")
        return ListRequest(f"{base}/v1/models?{query}", headers | self._credential_headers(target, context))

    def models(self, body: bytes) -> ModelPage:
        answer = read_answer(body)
        answer = answer if isinstance(answer, dict) else {}
        next_page = text_of(answer, "last_id") if answer.get("has_more") else ""
        return ModelPage(names_of(answer.get("data"), "id"), next_page)

    def media(self, call: Call, target: Target) -> tuple[str, ...]:
        if not self.inlines_media:
            return ()
        if call.dialect.wire == messages_format.WIRE:
            urls = [source.get("url") for source in messages_format.url_sources(call.body["messages"])]
        else:
            parts = [part for item in call.dialect.chat_request(call).messages for part in item.parts]
            urls = [part.url for part in parts if isinstance(part, items.Image | items.File)]
        return tuple(dict.fromkeys(url for url in urls if isinstance(url, str) and url.startswith("http")))

    def request(self, call: Call, target: Target, context: AttemptContext) -> UpstreamRequest:
        if call.dialect.wire == messages_format.WIRE:
            extra: JsonObject = {}
            self._add_parameters(extra, target)
            extra |= {name: value for name, value in target.parameters.items() if name in PASSED}
            fetched = context.fetched if self.inlines_media else {}
            body, dropped = messages_format.edit_request(call, target, self.members, extra, fetched)
        else:
            encoded = self._encoded(call, target, context)
            made = {"model": target.upstream_model, **encoded.body}
            self._add_parameters(made, target)
            if not call.stream and made["max_tokens"] > (self.streams_above_tokens or MAX_TOKENS):
                made["stream"] = True
            made |= self.members
            body = orjson.dumps({name: value for name, value in made.items() if value is not ABSENT})
            dropped = encoded.dropped
        return UpstreamRequest(self._url(call, target), self._headers(call, target, context), body, dropped=dropped)

    def count_request(self, call: Call, target: Target, context: AttemptContext) -> UpstreamRequest:
        """Of the upstream's own count_tokens, for a call of this dialect. The answer holds `input_tokens`."""
        body = messages_format.edit_count_request(call, target.upstream_model)
        return UpstreamRequest(self._url(call, target) + "/count_tokens", self._headers(call, target, context), body)

    def relay(self, call: Call, target: Target, context: AttemptContext) -> StreamRelay:
        if call.dialect.wire == messages_format.WIRE:
            return messages_format.MessagesRelay(call.model)
        encoded = self._encoded(call, target, context)
        decoder = Decoder(json_tool=encoded.json_tool, custom_tools=encoded.custom_tools)
        return TranslatedRelay(decoder, call.dialect.answer(call, context))

    def relay_body(
        self, call: Call, target: Target, context: AttemptContext, body: bytes, headers: Mapping[str, str]
    ) -> tuple[bytes, AnswerMetadata]:
        if call.dialect.wire == messages_format.WIRE:
            return messages_format.message_through(call.model, body)
        encoded = self._encoded(call, target, context)
        decoder = Decoder(json_tool=encoded.json_tool, custom_tools=encoded.custom_tools)
        if "text/event-stream" in headers.get("content-type", ""):
            events = decoder.feed(body) + decoder.finish()
        else:
            events = decoder.whole(messages_format.read_message(body))
        return translated_body(events, call.dialect.answer(call, context))

    def failure(self, target: Target, status: int, headers: Mapping[str, str], body: bytes) -> UpstreamFault:
        try:
            answer = orjson.loads(body)
        except orjson.JSONDecodeError:
            answer = None
        secrets = [secret.reveal() for secret in target.credential.values()]
        return fault_of(answer, status, secrets=secrets, retry_after=headers.get("retry-after"))

    def _url(self, call: Call, target: Target) -> str:
        if self.make_url is not None:
            return self.make_url(call, target)
        return target.api_base.rstrip("/").removesuffix("/v1") + self.path

    def _headers(self, call: Call, target: Target, context: AttemptContext) -> dict[str, str]:
        headers = {"content-type": "application/json", "accept-encoding": "identity"}
        if self.version_header:
            headers["anthropic-version"] = str(target.parameters.get("anthropic_version") or self.version_header)
        headers |= target.headers
        betas = [headers.get("anthropic-beta"), target.parameters.get("anthropic_beta"), *call.betas]
        named = [beta for given in betas for beta in (given if isinstance(given, list) else [given]) if beta]
        if named:
            headers["anthropic-beta"] = ",".join(dict.fromkeys(str(beta) for beta in named))
        return headers | self._credential_headers(target, context)

    def _credential_headers(self, target: Target, context: AttemptContext) -> dict[str, str]:
        api_key = target.credential.get("api_key")
        if context.token:
            return {"authorization": f"Bearer {context.token}"}
        if target.credential.get("auth_token"):
            return {"authorization": f"Bearer {target.credential['auth_token'].reveal()}"}
        return dict.fromkeys(self.key_headers, api_key.reveal()) if api_key else {}

    def _encoded(self, call: Call, target: Target, context: AttemptContext) -> Encoded:
        conversation = to_chat_request(call)
        # What a deployment sets stands for what the client did not say; what its upstream refuses is left out.
        changes = {
            name: value
            for name, value in target.parameters.items()
            if name in DEFAULTED and getattr(conversation, name) in (None, "")
        }
        refused = target.unsupported_parameters & REFUSABLE.keys()
        changes |= {name: REFUSABLE[name] for name in refused}
        encoded = encode(
            replace(conversation, **changes), target.capabilities, stream=call.stream, fetched=context.fetched
        )
        return replace(encoded, dropped=tuple(dict.fromkeys([*encoded.dropped, *sorted(refused & call.body.keys())])))

    def _add_parameters(self, body: JsonObject, target: Target) -> None:
        left_out = self.own_parameters | DEFAULTED | {"anthropic_version", "anthropic_beta"}
        for name, value in target.parameters.items():
            if name not in left_out:
                body.setdefault(name, value)


#: Parameters of a deployment that stand for a field which the client left out.
DEFAULTED = frozenset({"max_tokens", "temperature", "top_p", "top_k", "thinking", "reasoning_effort", "service_tier"})
PASSED = DEFAULTED - {"reasoning_effort"}  # of them, those that are fields of this format
#: What an upstream may refuse → what stands for not having said it.
REFUSABLE: Mapping[str, Any] = {
    **dict.fromkeys(("temperature", "top_p", "top_k", "thinking")),
    **dict.fromkeys(("reasoning_effort", "service_tier", "user"), ""),
    "stop": (),
}
