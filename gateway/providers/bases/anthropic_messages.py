"""A provider that serves Claude in Anthropic's Messages format. `api_base` is the bare host, as in Anthropic's SDKs.

A client of the same format is passed through; any other one's request goes by way of a conversation and events.
Source: https://platform.claude.com/docs/en/api/messages; each field's decision is in docs/dialects/anthropic.md.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import urlencode

import orjson

from gateway.protocol import items
from gateway.protocol.answer import AnswerMetadata, StreamRelay
from gateway.protocol.attempt_context import AttemptContext
from gateway.protocol.call import Call, Operation
from gateway.protocol.dialects.anthropic import passthrough as anthropic_passthrough
from gateway.protocol.dialects.anthropic.upstream_answer import StreamDecoder
from gateway.protocol.dialects.anthropic.upstream_request import EncodedRequest, encode_request
from gateway.protocol.dialects.anthropic.wire import WIRE, read_failure, read_message, text_of, url_sources
from gateway.protocol.dialects.shared.emulation import to_chat_request
from gateway.protocol.dialects.shared.translate import TranslatedRelay, translated_body
from gateway.protocol.errors import UpstreamFault
from gateway.protocol.json.body import ABSENT
from gateway.protocol.json.types import JsonMapping, JsonObject
from gateway.protocol.listing import ListRequest, ModelPage, names_of, read_answer
from gateway.protocol.provider import PlainProvider, Target, UpstreamRequest
from gateway.protocol.usage import MAX_TOKENS

VERSION = "2023-06-01"

MODELS_A_PAGE = 1000


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
    members: JsonMapping = field(default_factory=dict)
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
        return WIRE

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
        if call.dialect.wire == WIRE:
            urls = [source.get("url") for source in url_sources(call.body["messages"])]
        else:
            parts = [part for item in call.dialect.chat_request(call).messages for part in item.parts]
            urls = [part.url for part in parts if isinstance(part, items.Image | items.File)]
        return tuple(dict.fromkeys(url for url in urls if isinstance(url, str) and url.startswith("http")))

    def request(self, call: Call, target: Target, context: AttemptContext) -> UpstreamRequest:
        if call.dialect.wire == WIRE:
            extra: JsonObject = {}
            self._add_parameters(extra, target)
            extra |= {name: value for name, value in target.parameters.items() if name in PASSED}
            fetched = context.fetched if self.inlines_media else {}
            body, dropped = anthropic_passthrough.edit_request(call, target, self.members, extra, fetched)
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
        body = anthropic_passthrough.edit_count_request(call, target.upstream_model)
        return UpstreamRequest(self._url(call, target) + "/count_tokens", self._headers(call, target, context), body)

    def relay(self, call: Call, target: Target, context: AttemptContext) -> StreamRelay:
        if call.dialect.wire == WIRE:
            return anthropic_passthrough.MessagesRelay(call.model)
        encoded = self._encoded(call, target, context)
        decoder = StreamDecoder(json_tool=encoded.json_tool, custom_tools=encoded.custom_tools)
        return TranslatedRelay(decoder, call.dialect.answer(call, context))

    def relay_body(
        self, call: Call, target: Target, context: AttemptContext, body: bytes, headers: Mapping[str, str]
    ) -> tuple[bytes, AnswerMetadata]:
        if call.dialect.wire == WIRE:
            return anthropic_passthrough.pass_message(call.model, body)
        encoded = self._encoded(call, target, context)
        decoder = StreamDecoder(json_tool=encoded.json_tool, custom_tools=encoded.custom_tools)
        if "text/event-stream" in headers.get("content-type", ""):
            events = decoder.feed(body) + decoder.finish()
        else:
            events = decoder.whole(read_message(body))
        return translated_body(events, call.dialect.answer(call, context))

    def failure(self, target: Target, status: int, headers: Mapping[str, str], body: bytes) -> UpstreamFault:
        return read_failure(status, headers, body, [secret.reveal() for secret in target.credential.values()])

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

    def _encoded(self, call: Call, target: Target, context: AttemptContext) -> EncodedRequest:
        conversation = to_chat_request(call)
        # What a deployment sets stands for what the client did not say; what its upstream refuses is left out.
        changes = {
            name: value
            for name, value in target.parameters.items()
            if name in DEFAULTED and getattr(conversation, name) in (None, "")
        }
        refused = target.unsupported_parameters & REFUSABLE.keys()
        changes |= {name: REFUSABLE[name] for name in refused}
        encoded = encode_request(
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
REFUSABLE: JsonMapping = {
    **dict.fromkeys(("temperature", "top_p", "top_k", "thinking")),
    **dict.fromkeys(("reasoning_effort", "service_tier", "user"), ""),
    "stop": (),
}
