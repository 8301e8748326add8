"""Gemini API. Source: https://ai.google.dev/api. `api_base` includes `/v1beta`.

The key is a header, never a query parameter: proxies log those. Completions go through chat.
"""

from collections.abc import Mapping, Sequence
from urllib.parse import quote, urlencode

import orjson

from gateway.protocol.answer import AnswerMetadata, StreamRelay
from gateway.protocol.attempt_context import AttemptContext
from gateway.protocol.call import Call, Operation
from gateway.protocol.dialects.gemini import files as google_files
from gateway.protocol.dialects.gemini import upstream_answer as gemini_answer
from gateway.protocol.dialects.gemini import upstream_request as gemini_request
from gateway.protocol.dialects.openai.embedding_answer import encode_embeddings, input_texts, join_lists, split_texts
from gateway.protocol.dialects.shared.emulation import to_chat_request
from gateway.protocol.errors import UpstreamFault
from gateway.protocol.json.answer import load_answer
from gateway.protocol.json.types import JsonObject
from gateway.protocol.listing import ListRequest, ModelPage, read_answer, read_names, text_of
from gateway.protocol.provider import PlainProvider, Target, UpstreamRequest

MODELS_A_PAGE = 1000
#: Parameters of an embedding request beyond OpenAI's, by their names on the wire.
EMBEDDING_FIELDS = {"dimensions": "outputDimensionality", "task_type": "taskType", "title": "title"}
MAX_TEXTS = 100  # in one batchEmbedContents (github.com/langchain-ai/langchainjs/issues/4491)


class Gemini(PlainProvider):
    name = "gemini"
    title = "Google Gemini API"
    aliases: tuple[str, ...] = ()
    default_api_base = "https://generativelanguage.googleapis.com/v1beta"
    needs_api_base = False
    needs_api_key = True
    operations = frozenset(Operation)
    own_parameters = frozenset({google_files.ALLOW_FILE_URIS})
    own_secrets = frozenset[str]()
    replays_reasoning = True

    def request(self, call: Call, target: Target, context: AttemptContext) -> UpstreamRequest:
        base = target.api_base or self.default_api_base
        model = target.upstream_model.removeprefix("models/")
        resource = model if "/" in model else f"models/{model}"  # tunedModels/… stand beside models/…
        url = f"{base}/{quote(resource, safe='/@')}"
        headers = {"content-type": "application/json", "accept-encoding": "identity", **target.headers}
        api_key = target.credential.get("api_key")
        if api_key:
            headers["x-goog-api-key"] = api_key.reveal()
        if call.operation is Operation.EMBEDDING:
            body = orjson.dumps(_embedding_body(call, target, resource))
            dropped = ("user",) if call.body.get("user") else ()
            return UpstreamRequest(url=f"{url}:batchEmbedContents", headers=headers, body=body, dropped=dropped)
        encoded = gemini_request.encode_request(
            to_chat_request(call),
            target.capabilities,
            upstream_model=model,
            context=context,
            files_base=base,
            parameters=target.parameters,
            unsupported_parameters=target.unsupported_parameters,
        )
        method = "streamGenerateContent?alt=sse" if call.stream else "generateContent"
        return UpstreamRequest(url=f"{url}:{method}", headers=headers, body=encoded.body, dropped=encoded.dropped)

    def relay(self, call: Call, target: Target, context: AttemptContext) -> StreamRelay:
        return gemini_answer.relay_stream(call, target, context)

    def relay_body(
        self, call: Call, target: Target, context: AttemptContext, body: bytes, headers: Mapping[str, str]
    ) -> tuple[bytes, AnswerMetadata]:
        if call.operation is Operation.EMBEDDING:
            return _embedding_answer(call, body)
        return gemini_answer.relay_body(call, target, context, body)

    def models_request(self, target: Target, context: AttemptContext, page: str = "") -> ListRequest | None:
        headers = {"accept-encoding": "identity", **target.headers}
        api_key = target.credential.get("api_key")
        if api_key:
            headers["x-goog-api-key"] = api_key.reveal()
        query = urlencode({"pageSize": MODELS_A_PAGE} | ({"pageToken": page} if page else {}))
        return ListRequest(f"{target.api_base or self.default_api_base}/models?{query}", headers)

    def models(self, body: bytes) -> ModelPage:
        answer = read_answer(body)
        answer = answer if isinstance(answer, dict) else {}
        names = read_names(answer.get("models"), "name")
        return ModelPage(tuple(name.removeprefix("models/") for name in names), text_of(answer.get("nextPageToken")))

    def failure(self, target: Target, status: int, headers: Mapping[str, str], body: bytes) -> UpstreamFault:
        return gemini_answer.read_failure(status, headers, body, target.reveal_secrets())

    def wire(self, target: Target) -> str:
        return "gemini"

    def media(self, call: Call, target: Target) -> tuple[str, ...]:
        return (
            () if call.operation is Operation.EMBEDDING else gemini_request.media_urls(call.dialect.chat_request(call))
        )

    def split(self, call: Call, target: Target) -> tuple[Call, ...]:
        return split_texts(call, MAX_TEXTS)

    def join(self, call: Call, answers: Sequence[tuple[bytes, AnswerMetadata]]) -> tuple[bytes, AnswerMetadata]:
        return join_lists(call, answers)

    def token(self, target: Target) -> str:
        return ""


def _embedding_body(call: Call, target: Target, resource: str) -> JsonObject:
    fields = {**target.parameters, **call.body}
    options = {name: fields[option] for option, name in EMBEDDING_FIELDS.items() if fields.get(option) is not None}
    return {
        "requests": [
            {"model": resource, "content": {"parts": [{"text": text}]}, **options} for text in input_texts(call.body)
        ]
    }


def _embedding_answer(call: Call, body: bytes) -> tuple[bytes, AnswerMetadata]:
    """OpenAI's list of embeddings. Most models report no usage: the answer then shows an estimate."""
    try:
        answer = load_answer(body)
    except orjson.JSONDecodeError:
        raise UpstreamFault("The upstream's answer is not JSON.", is_retryable=True) from None
    if isinstance(answer, dict) and answer.get("error"):
        raise gemini_answer.read_failure(200, {}, body)
    embeddings = answer.get("embeddings") if isinstance(answer, dict) else None
    if not isinstance(embeddings, list) or len(embeddings) != len(input_texts(call.body)):
        raise UpstreamFault("The upstream's answer does not hold one embedding an input.", is_retryable=True)
    vectors = [item.get("values") if isinstance(item, dict) else None for item in embeddings]
    metadata = AnswerMetadata()
    usage_metadata = answer.get("usageMetadata")
    usage = gemini_answer.read_usage(usage_metadata) if isinstance(usage_metadata, dict) else None
    if usage is not None and usage.total_input:
        metadata.usage, metadata.raw_usage = usage, usage_metadata
    tokens = metadata.usage.total_input if metadata.usage is not None else call.input_estimate
    encoding = call.body.get("encoding_format")
    return encode_embeddings(vectors, model=call.model, prompt_tokens=tokens, encoding_format=encoding), metadata


PROVIDER = Gemini()
