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
from gateway.protocol.dialects.anthropic.upstream_request import EncodedRequest, encode_request, find_answer_tools
from gateway.protocol.dialects.anthropic.wire import WIRE, read_failure, read_message, text_of, url_sources
from gateway.protocol.dialects.shared.emulation import to_chat_request
from gateway.protocol.dialects.shared.parameters import SettledRequest, add_defaults, settle_request
from gateway.protocol.dialects.shared.translate import TranslatedRelay, translate_body
from gateway.protocol.errors import UpstreamFault
from gateway.protocol.items import UNSET_OPTIONS
from gateway.protocol.json.body import ABSENT
from gateway.protocol.json.types import JsonMapping, JsonObject
from gateway.protocol.listing import ListRequest, ModelPage, read_answer, read_names
from gateway.protocol.provider import PlainProvider, Target, UpstreamRequest
from gateway.protocol.usage import MAX_TOKENS

VERSION = "2023-06-01"

MODELS_A_PAGE = 1000
#: The options of a ChatRequest that the Messages format names alike.
MESSAGES_OPTIONS = frozenset({"max_tokens", "temperature", "top_p", "top_k", "thinking", "service_tier"})


@dataclass(frozen=True, slots=True)
class AnthropicUpstream(PlainProvider):
    """A provider of Claude; its fields say how its requests differ from Anthropic's own."""

    name: str
    title: str
    aliases: tuple[str, ...] = ()
    default_api_base: str = ""
    needs_api_base: bool = True
    needs_api_key: bool = False
    operations: frozenset[Operation] = frozenset({Operation.CHAT, Operation.COMPLETION})
    path: str = "/v1/messages"
    make_url: Callable[[Call, Target], str] | None = None  # for an address other than api_base + path
    key_headers: tuple[str, ...] = ("x-api-key",)  # a fetched token goes into `authorization` instead
    issuer: str = ""  # of the token that the gateway fetches where there is no api_key
    version_header: str = VERSION
    #: Members of the body for this upstream; ABSENT removes one.
    members: JsonMapping = field(default_factory=dict)
    inlines_media: bool = False  # takes no URLs
    #: The gateway streams a whole answer that may be longer, and gathers it (the SDKs refuse more than 21,333).
    streams_above_tokens: int | None = None
    #: Parameters of a deployment that are not members of the body.
    own_parameters: frozenset[str] = frozenset()
    own_secrets: frozenset[str] = frozenset()
    replays_reasoning: bool = True

    def token(self, target: Target) -> str:
        return "" if target.credential.get("api_key") else self.issuer

    def wire(self, target: Target) -> str:
        return WIRE

    def models_request(self, target: Target, context: AttemptContext, page: str = "") -> ListRequest | None:
        if self.make_url is not None:
            return None  # a cloud that serves Claude has no list of models at this address
        headers = {"accept-encoding": "identity", "anthropic-version": self.version_header, **target.headers}
        query = urlencode({"limit": MODELS_A_PAGE} | ({"after_id": page} if page else {}))
        base = target.api_base.rstrip("/").removesuffix("/v1")
        return ListRequest(f"{base}/v1/models?{query}", headers | self._credential_headers(target, context))

    def models(self, body: bytes) -> ModelPage:
        answer = read_answer(body)
        answer = answer if isinstance(answer, dict) else {}
        next_page = text_of(answer, "last_id") if answer.get("has_more") else ""
        return ModelPage(read_names(answer.get("data"), "id"), next_page)

    def takes_prefill(self, target: Target) -> bool:
        return target.capabilities.prefill

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
            defaults = {
                name: value
                for name, value in self._body_parameters(target.parameters).items()
                if name not in UNSET_OPTIONS or name in MESSAGES_OPTIONS
            }
            fetched = context.fetched if self.inlines_media else {}
            body, dropped = anthropic_passthrough.edit_request(call, target, self.members, defaults, fetched)
        else:
            encoded, other_parameters = self._encode(call, target, context)
            fields = {"model": target.upstream_model, **encoded.body}
            fields = add_defaults(fields, self._body_parameters(other_parameters))
            if not call.stream and fields["max_tokens"] > (self.streams_above_tokens or MAX_TOKENS):
                fields["stream"] = True
            fields |= self.members
            body = orjson.dumps({name: value for name, value in fields.items() if value is not ABSENT})
            dropped = encoded.dropped
        return UpstreamRequest(self._url(call, target), self._headers(call, target, context), body, dropped=dropped)

    def count_request(self, call: Call, target: Target, context: AttemptContext) -> UpstreamRequest:
        """A request to the upstream's own count_tokens, for a call of this dialect. Its answer holds `input_tokens`."""
        body = anthropic_passthrough.edit_count_request(call, target.upstream_model)
        return UpstreamRequest(self._url(call, target) + "/count_tokens", self._headers(call, target, context), body)

    def relay(self, call: Call, target: Target, context: AttemptContext) -> StreamRelay:
        if call.dialect.wire == WIRE:
            return anthropic_passthrough.MessagesRelay(call.model)
        return TranslatedRelay(self._decoder(call, target), call.dialect.answer(call, context))

    def relay_body(
        self, call: Call, target: Target, context: AttemptContext, body: bytes, headers: Mapping[str, str]
    ) -> tuple[bytes, AnswerMetadata]:
        if call.dialect.wire == WIRE:
            return anthropic_passthrough.pass_message(call.model, body)
        decoder = self._decoder(call, target)
        if "text/event-stream" in headers.get("content-type", ""):
            events = decoder.feed(body) + decoder.finish()
        else:
            events = decoder.decode_message(read_message(body))
        return translate_body(events, call.dialect.answer(call, context))

    def failure(self, target: Target, status: int, headers: Mapping[str, str], body: bytes) -> UpstreamFault:
        return read_failure(status, headers, body, target.reveal_secrets())

    def _url(self, call: Call, target: Target) -> str:
        if self.make_url is not None:
            return self.make_url(call, target)
        return target.api_base.rstrip("/").removesuffix("/v1") + self.path

    def _headers(self, call: Call, target: Target, context: AttemptContext) -> dict[str, str]:
        headers = {"content-type": "application/json", "accept-encoding": "identity"}
        if self.version_header:
            headers["anthropic-version"] = str(target.parameters.get("anthropic_version") or self.version_header)
        headers |= target.headers
        sources = [headers.get("anthropic-beta"), target.parameters.get("anthropic_beta"), *call.betas]
        betas = [beta for source in sources for beta in (source if isinstance(source, list) else [source]) if beta]
        if betas:
            headers["anthropic-beta"] = ",".join(dict.fromkeys(str(beta) for beta in betas))
        return headers | self._credential_headers(target, context)

    def _credential_headers(self, target: Target, context: AttemptContext) -> dict[str, str]:
        api_key = target.credential.get("api_key")
        if context.token:
            return {"authorization": f"Bearer {context.token}"}
        if target.credential.get("auth_token"):
            return {"authorization": f"Bearer {target.credential['auth_token'].reveal()}"}
        return dict.fromkeys(self.key_headers, api_key.reveal()) if api_key else {}

    def _encode(self, call: Call, target: Target, context: AttemptContext) -> tuple[EncodedRequest, JsonObject]:
        """(the request, the deployment's parameters that are no option of it)."""
        settled = _settle(call, target)
        encoded = encode_request(settled.request, target.capabilities, stream=call.stream, fetched=context.fetched)
        dropped = tuple(dict.fromkeys([*encoded.dropped, *settled.dropped]))
        return replace(encoded, dropped=dropped), settled.other_parameters

    def _decoder(self, call: Call, target: Target) -> StreamDecoder:
        json_tool, custom_tools = find_answer_tools(_settle(call, target).request, target.capabilities)
        return StreamDecoder(json_tool=json_tool, custom_tools=custom_tools)

    def _body_parameters(self, parameters: JsonMapping) -> JsonObject:
        """The parameters of a deployment that are members of the body."""
        excluded = self.own_parameters | {"anthropic_version", "anthropic_beta"}
        return {name: value for name, value in parameters.items() if name not in excluded}


def _settle(call: Call, target: Target) -> SettledRequest:
    return settle_request(to_chat_request(call), target.parameters, target.unsupported_parameters)
