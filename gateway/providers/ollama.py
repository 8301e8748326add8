"""Ollama by its native API, or by its OpenAI-compatible API where `api_base` ends in /v1.

The native API is the default because only it takes `num_ctx`, without which the server silently cuts a long prompt.
Source: https://github.com/ollama/ollama/blob/main/docs/api.md. An api_key is for a proxy in front, or ollama.com.
"""

from collections.abc import Mapping
from dataclasses import replace

import orjson

from gateway.parsers.registry import PARSERS
from gateway.parsers.think import ThinkSplitter
from gateway.protocol.answer import AnswerMetadata, StreamRelay
from gateway.protocol.attempt_context import AttemptContext
from gateway.protocol.call import Call, Operation
from gateway.protocol.dialects.ollama import upstream_answer as ollama_answer
from gateway.protocol.dialects.ollama import upstream_request as ollama_request
from gateway.protocol.dialects.openai.upstream_answer import OpenAITranslated, failure, image_addresses, read_error
from gateway.protocol.dialects.openai.upstream_choice import Reading
from gateway.protocol.dialects.openai.upstream_request import OPENAI_ONLY, Traits
from gateway.protocol.dialects.shared.emulation import to_chat_request
from gateway.protocol.dialects.shared.translate import TranslatedRelay, translate_body
from gateway.protocol.errors import UpstreamFault
from gateway.protocol.freeform import answer_encoder, replace_custom_tools
from gateway.protocol.listing import ListRequest, ModelPage, read_answer, read_names
from gateway.protocol.provider import PlainProvider, Target, UpstreamRequest

COMPATIBLE = OpenAITranslated(
    name="ollama",
    title="Ollama",
    traits=Traits(
        joins_text=True,
        inlines_images=True,
        takes_tool_choice=False,
        takes_many=False,
        unknown=OPENAI_ONLY | {"parallel_tool_calls"},
    ),
    parsers=PARSERS,
    think=ThinkSplitter,
)


class Ollama(PlainProvider):
    name = "ollama"
    title = "Ollama"
    aliases = ("ollama_chat",)
    default_api_base = "http://127.0.0.1:11434"
    needs_api_base = False
    needs_api_key = False
    operations = frozenset(Operation)
    own_parameters = frozenset({"num_ctx", "keep_alive"})
    own_secrets = frozenset[str]()
    replays_reasoning = False

    def request(self, call: Call, target: Target, context: AttemptContext) -> UpstreamRequest:
        if _is_compatible(target):
            return COMPATIBLE.request(call, target, context)
        if call.operation is Operation.EMBEDDING:
            path = "/api/embed"
            encoded = ollama_request.encode_embedding_request(
                call.body, model=target.upstream_model, parameters=target.parameters
            )
        elif call.operation is Operation.COMPLETION:
            path = "/api/generate"
            request = to_chat_request(call)
            suffix = call.body.get("suffix") or ""
            others = {name: value for name, value in request.others.items() if name != "suffix"}
            encoded = ollama_request.encode_completion_request(
                replace(request, others=others),
                target.capabilities,
                model=target.upstream_model,
                stream=call.stream,
                suffix=suffix,
                parameters=target.parameters,
                unsupported_parameters=target.unsupported_parameters,
            )
        else:
            path = "/api/chat"
            encoded = ollama_request.encode_request(
                replace_custom_tools(call.dialect.chat_request(call)),
                target.capabilities,
                model=target.upstream_model,
                stream=call.stream,
                parameters=target.parameters,
                fetched=context.fetched,
                unsupported_parameters=target.unsupported_parameters,
            )
        headers = {"content-type": "application/json", "accept-encoding": "identity", **target.headers}
        return UpstreamRequest(
            url=target.api_base.rstrip("/") + path,
            headers=headers | COMPATIBLE.credential_headers(target, context),
            body=orjson.dumps(encoded.body),
            dropped=tuple(encoded.dropped),
        )

    def relay(self, call: Call, target: Target, context: AttemptContext) -> StreamRelay:
        if _is_compatible(target):
            return COMPATIBLE.relay(call, target, context)
        decoder = ollama_answer.StreamDecoder(_reading(call, target), context)
        return TranslatedRelay(decoder, answer_encoder(call, context))

    def relay_body(
        self, call: Call, target: Target, context: AttemptContext, body: bytes, headers: Mapping[str, str]
    ) -> tuple[bytes, AnswerMetadata]:
        if _is_compatible(target):
            return COMPATIBLE.relay_body(call, target, context, body, headers)
        if call.operation is Operation.EMBEDDING:
            return ollama_answer.decode_embeddings(body, call.body, model=call.model)
        events = ollama_answer.decode_body(body, _reading(call, target), context)
        return translate_body(events, answer_encoder(call, context))

    def models_request(self, target: Target, context: AttemptContext, page: str = "") -> ListRequest | None:
        list_request = COMPATIBLE.models_request(target, context, page)
        if _is_compatible(target) or list_request is None:
            return list_request
        return replace(list_request, url=f"{target.api_base.rstrip('/')}/api/tags")

    def models(self, body: bytes) -> ModelPage:
        answer = read_answer(body)
        is_native = isinstance(answer, dict) and "models" in answer
        return ModelPage(read_names(answer["models"], "name")) if is_native else COMPATIBLE.models(body)

    def failure(self, target: Target, status: int, headers: Mapping[str, str], body: bytes) -> UpstreamFault:
        return failure(target, status, headers, read_error(body))

    def wire(self, target: Target) -> str:
        return COMPATIBLE.wire(target) if _is_compatible(target) else "ollama"

    def media(self, call: Call, target: Target) -> tuple[str, ...]:
        return COMPATIBLE.media(call, target) if _is_compatible(target) else image_addresses(call)

    def takes_prefill(self, target: Target) -> bool:
        return target.flags.get("prefill") is not False

    def has_responses(self, target: Target) -> bool:
        return _is_compatible(target) and COMPATIBLE.has_responses(target)

    def token(self, target: Target) -> str:
        return ""


def _is_compatible(target: Target) -> bool:
    return target.api_base.rstrip("/").endswith("/v1")


def _reading(call: Call, target: Target) -> Reading:
    """The way to read the answer's text: a completion's passes unchanged."""
    if call.operation is Operation.COMPLETION:
        return Reading()
    capabilities = target.capabilities
    request = call.dialect.chat_request(call)
    choice = request.tool_choice
    is_off = choice is not None and choice.mode == "none"
    return Reading(
        parser=None if is_off else PARSERS.get(capabilities.tool_call_parser),
        think=ThinkSplitter if capabilities.think_tags else None,
        tools=frozenset(tool.name for tool in request.tools),
        parallel=request.parallel_tools is not False,
    )


PROVIDER = Ollama()
