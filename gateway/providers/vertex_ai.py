"""Google Vertex AI: Gemini, Claude, and the models of other publishers, each in its own wire format.

Source: https://cloud.google.com/vertex-ai/generative-ai/docs/reference/rest and the host rules of google-genai 3.3.0
(`_api_client.py`). `api_base` ends in `/v1` and defaults to the host of `vertex_location`. A fetched Google token is
the credential; an `api_key` without `vertex_project` is express mode, which serves Google's own models only.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from urllib.parse import quote

import orjson

from gateway.protocol.answer import AnswerMetadata, StreamRelay
from gateway.protocol.attempt_context import AttemptContext
from gateway.protocol.call import Call, Operation
from gateway.protocol.dialects.gemini import files as google_files
from gateway.protocol.dialects.gemini import upstream_answer as gemini_answer
from gateway.protocol.dialects.gemini import upstream_request as gemini_request
from gateway.protocol.dialects.openai.embedding_answer import encode_embeddings, input_texts, join_lists, split_texts
from gateway.protocol.dialects.openai.upstream_answer import OpenAITranslated
from gateway.protocol.dialects.openai.upstream_request import Traits
from gateway.protocol.dialects.shared.emulation import to_chat_request
from gateway.protocol.errors import BadRequest, UpstreamFault
from gateway.protocol.json.answer import load_answer
from gateway.protocol.json.body import ABSENT
from gateway.protocol.json.types import JsonMapping, JsonObject
from gateway.protocol.provider import PlainProvider, Target, UpstreamRequest
from gateway.protocol.usage import Usage
from gateway.providers.bases.anthropic_messages import AnthropicUpstream
from gateway.providers.bases.own_credentials import ask_for

DEFAULT_LOCATION = "us-central1"
MAX_TEXTS = 250  # in one `:predict`; Gemini's embedding models take one (docs "Get text embeddings", API limits)
PLACES = frozenset({"vertex_project", "vertex_location", "vertex_ai_project", "vertex_ai_location"})
OWN_PARAMETERS = PLACES | {google_files.ALLOW_FILE_URIS}
GOOGLES = re.compile(r"(?:google/)?(gemini-.+|text-embedding-.+|text-multilingual-embedding-.+|textembedding-.+)")
CLAUDE = re.compile(r"(?:anthropic/)?(claude-.+)")
ENDPOINT = re.compile(r"(?:endpoints/|gemini/)?(\d+)")  # a tuned model, served at an endpoint of the project
REGIONAL_HOST = re.compile(r"https://([a-z0-9-]+)-aiplatform\.googleapis\.com(?:/|$)")
MULTI_REGION_HOST = re.compile(r"https://aiplatform\.([a-z]+)\.rep\.googleapis\.com(?:/|$)")


def is_embedded_singly(model: str) -> bool:
    """True for embedding models after the first Gemini one: they have no `:predict`, and take one content a call."""
    return "embedding" in model and model.startswith("gemini-") and model != "gemini-embedding-001"


class VertexAI(PlainProvider):
    name = "vertex_ai"
    title = "Google Vertex AI"
    aliases: tuple[str, ...] = ("vertex_ai_beta",)
    default_api_base = ""
    needs_api_base = False
    needs_api_key = False
    operations = frozenset(Operation)
    own_parameters = OWN_PARAMETERS
    own_secrets = frozenset({"vertex_credentials"})
    replays_reasoning = True

    def request(self, call: Call, target: Target, context: AttemptContext) -> UpstreamRequest:
        is_claude, model = CLAUDE.fullmatch(target.upstream_model), google_model(target.upstream_model)
        if (is_claude or not model) and not google_files.are_allowed(target.parameters):
            google_files.refuse_addresses(call.body.get("messages"))
        if is_claude:
            return CLAUDES.request(call, target, context)
        if not model:
            partner_request = PARTNERS.request(call, _partner_target(target), context)
            return replace(partner_request, headers={**partner_request.headers, **_authorization(target, context)})
        headers = {
            "content-type": "application/json",
            "accept-encoding": "identity",
            **target.headers,
            **_authorization(target, context),
        }
        url = f"{parent(target)}/{quote(model, safe='/@')}"
        if call.operation is Operation.EMBEDDING:
            method, embedding_body = _embedding_request(call, target, model.rpartition("/")[2])
            dropped = ("user",) if call.body.get("user") else ()
            return UpstreamRequest(f"{url}:{method}", headers, orjson.dumps(embedding_body), dropped=dropped)
        encoded = gemini_request.encode_request(
            to_chat_request(call),
            target.capabilities,
            upstream_model=target.upstream_model,
            context=context,
            parameters={name: value for name, value in target.parameters.items() if name not in PLACES},
            unsupported_parameters=target.unsupported_parameters,
        )
        method = "streamGenerateContent?alt=sse" if call.stream else "generateContent"
        return UpstreamRequest(url=f"{url}:{method}", headers=headers, body=encoded.body, dropped=encoded.dropped)

    def relay(self, call: Call, target: Target, context: AttemptContext) -> StreamRelay:
        if CLAUDE.fullmatch(target.upstream_model):
            return CLAUDES.relay(call, target, context)
        if not google_model(target.upstream_model):
            return PARTNERS.relay(call, target, context)
        return gemini_answer.relay_stream(call, target, context)

    def relay_body(
        self, call: Call, target: Target, context: AttemptContext, body: bytes, headers: Mapping[str, str]
    ) -> tuple[bytes, AnswerMetadata]:
        if CLAUDE.fullmatch(target.upstream_model):
            return CLAUDES.relay_body(call, target, context, body, headers)
        if not google_model(target.upstream_model):
            return PARTNERS.relay_body(call, target, context, body, headers)
        if call.operation is Operation.EMBEDDING:
            return _embedding_answer(call, body)
        return gemini_answer.relay_body(call, target, context, body)

    def failure(self, target: Target, status: int, headers: Mapping[str, str], body: bytes) -> UpstreamFault:
        """The platform's own errors have Google's shape for every model; Claude's have Anthropic's."""
        if CLAUDE.fullmatch(target.upstream_model) and b'"type"' in body and b'"status"' not in body:
            return CLAUDES.failure(target, status, headers, body)
        return gemini_answer.read_failure(status, headers, body, target.reveal_secrets())

    def wire(self, target: Target) -> str:
        if CLAUDE.fullmatch(target.upstream_model):
            return CLAUDES.wire(target)
        return "gemini" if google_model(target.upstream_model) else PARTNERS.wire(target)

    def takes_prefill(self, target: Target) -> bool:
        return (CLAUDES if CLAUDE.fullmatch(target.upstream_model) else PARTNERS).takes_prefill(target)

    def media(self, call: Call, target: Target) -> tuple[str, ...]:
        """Claude takes no addresses on Google's platform; the models of other publishers do."""
        if CLAUDE.fullmatch(target.upstream_model):
            return CLAUDES.media(call, target)
        if not google_model(target.upstream_model):
            return PARTNERS.media(call, target)
        return (
            () if call.operation is Operation.EMBEDDING else gemini_request.media_urls(call.dialect.chat_request(call))
        )

    def split(self, call: Call, target: Target) -> tuple[Call, ...]:
        model = google_model(target.upstream_model)
        if not model:
            return PARTNERS.split(call, target)
        is_single = model.rpartition("/")[2].startswith("gemini-")
        return split_texts(call, 1 if is_single else MAX_TEXTS)

    def join(self, call: Call, answers: Sequence[tuple[bytes, AnswerMetadata]]) -> tuple[bytes, AnswerMetadata]:
        return join_lists(call, answers)

    def token(self, target: Target) -> str:
        return "" if target.credential.get("api_key") else "google"

    def find_borrowed_identity(self, secrets: Collection[str], parameters: JsonMapping) -> tuple[str, str] | None:
        """A service account in a file is no identity of the machine: the platform's admin has named it."""
        return None if {"api_key", "vertex_credentials"}.intersection(secrets) else ask_for("vertex_credentials")


# Addresses


def google_model(upstream_model: str) -> str:
    """The resource of a model in Gemini's wire format, below its parent; empty for other publishers' models."""
    model = upstream_model.removeprefix("publishers/google/models/")
    match = ENDPOINT.fullmatch(model)
    if match:
        return f"endpoints/{match[1]}"
    match = GOOGLES.fullmatch(model)
    return f"publishers/google/models/{match[1]}" if match else ""


def location_of(target: Target) -> str:
    for name in ("vertex_location", "vertex_ai_location"):
        if target.parameters.get(name):
            return str(target.parameters[name])
    for pattern in (REGIONAL_HOST, MULTI_REGION_HOST):
        match = pattern.match(target.api_base)
        if match:
            return match[1]
    return "global" if target.api_base.startswith("https://aiplatform.googleapis.com") else DEFAULT_LOCATION


def base_of(target: Target) -> str:
    if target.api_base:
        return target.api_base
    location = location_of(target)
    if location == "global" or _is_express(target):
        return "https://aiplatform.googleapis.com/v1"
    if location in {"us", "eu"}:
        return f"https://aiplatform.{location}.rep.googleapis.com/v1"
    return f"https://{quote(location, safe='')}-aiplatform.googleapis.com/v1"


def project_of(target: Target) -> str:
    """The project of the deployment, or of its service account."""
    for name in ("vertex_project", "vertex_ai_project"):
        if target.parameters.get(name):
            return str(target.parameters[name])
    account = target.credential.get("vertex_credentials")
    try:
        account_info = orjson.loads(account.reveal()) if account else {}
    except orjson.JSONDecodeError:  # a path, which the fetcher of tokens reads
        account_info = {}
    project = (
        account_info.get("project_id") or account_info.get("quota_project_id")
        if isinstance(account_info, dict)
        else None
    )
    return project if isinstance(project, str) else ""


def parent(target: Target) -> str:
    """The address below which the project's models and endpoints are."""
    if _is_express(target):
        return base_of(target)
    project = project_of(target)
    if not project:
        raise UpstreamFault(
            "The deployment names no project: set vertex_project.", code="upstream_auth_failed", is_retryable=True
        )
    location = quote(location_of(target), safe="")
    return f"{base_of(target)}/projects/{quote(project, safe=':')}/locations/{location}"


def _is_express(target: Target) -> bool:
    return bool(target.credential.get("api_key")) and not project_of(target)


def _authorization(target: Target, context: AttemptContext) -> dict[str, str]:
    api_key = target.credential.get("api_key")
    return {"x-goog-api-key": api_key.reveal()} if api_key else {"authorization": f"Bearer {context.token}"}


# Other publishers' models


def _claude_url(call: Call, target: Target) -> str:
    match = CLAUDE.fullmatch(target.upstream_model)
    model = quote(match[1] if match else target.upstream_model, safe="@")
    method = "streamRawPredict" if call.stream else "rawPredict"
    return f"{parent(target)}/publishers/anthropic/models/{model}:{method}"


def _partner_target(target: Target) -> Target:
    parameters = {name: value for name, value in target.parameters.items() if name not in OWN_PARAMETERS}
    return replace(target, api_base=f"{parent(target)}/endpoints/openapi", credential={}, parameters=parameters)


CLAUDES = AnthropicUpstream(
    name="vertex_ai",
    title="Claude on Google Vertex AI",
    make_url=_claude_url,
    key_headers=("x-goog-api-key",),
    issuer="google",
    version_header="",
    members={"model": ABSENT, "anthropic_version": "vertex-2023-10-16"},
    inlines_media=True,
    own_parameters=OWN_PARAMETERS,
)
PARTNERS = OpenAITranslated(
    name="vertex_ai",
    title="Partner models on Google Vertex AI",
    traits=Traits(has_completions=False, takes_reasoning=False),
)


# Embeddings


def _embedding_request(call: Call, target: Target, model: str) -> tuple[str, JsonObject]:
    """(the method, the request's body)."""
    fields = {**target.parameters, **call.body}
    texts = input_texts(call.body)
    size, task, truncates = fields.get("dimensions"), fields.get("task_type"), fields.get("auto_truncate")
    if is_embedded_singly(model):
        if len(texts) != 1:
            raise BadRequest("This model embeds one input a call.", param="input", code="unsupported_parameter")
        config = {"outputDimensionality": size, "taskType": task, "autoTruncate": truncates}
        body: JsonObject = {"content": {"parts": [{"text": texts[0]}]}}
        return "embedContent", body | _optional_member("embedContentConfig", config)
    instances = [{"content": text} if task is None else {"content": text, "task_type": task} for text in texts]
    return "predict", {
        "instances": instances,
        **_optional_member("parameters", {"outputDimensionality": size, "autoTruncate": truncates}),
    }


def _optional_member(name: str, options: JsonMapping) -> JsonObject:
    members = {option: value for option, value in options.items() if value is not None}
    return {name: members} if members else {}


def _embedding_answer(call: Call, body: bytes) -> tuple[bytes, AnswerMetadata]:
    try:
        answer = load_answer(body)
    except orjson.JSONDecodeError:
        answer = None
    if not isinstance(answer, dict):
        raise UpstreamFault("The upstream's answer is not a JSON object.", is_retryable=True)
    if answer.get("error"):
        raise gemini_answer.read_failure(200, {}, body)
    predictions = answer.get("predictions")
    if isinstance(answer.get("embedding"), dict):
        predictions = [{"embeddings": answer["embedding"]}]
    if not isinstance(predictions, list) or len(predictions) != len(input_texts(call.body)):
        raise UpstreamFault("The upstream's answer does not hold one embedding an input.", is_retryable=True)
    objects = [item.get("embeddings") if isinstance(item, dict) else None for item in predictions]
    embeddings = [item if isinstance(item, dict) else {} for item in objects]
    metadata = AnswerMetadata()
    counts = [_tokens_of(item) for item in embeddings]
    usage = answer.get("usageMetadata")
    if isinstance(usage, dict) and gemini_answer.read_usage(usage).total_input:
        metadata.usage, metadata.raw_usage = gemini_answer.read_usage(usage), usage
    elif counts and all(count is not None for count in counts):
        total = sum(count or 0 for count in counts)
        metadata.usage, metadata.raw_usage = Usage(input_tokens=total), {"token_count": total}
    tokens = metadata.usage.total_input if metadata.usage is not None else call.input_estimate
    vectors = [item.get("values") for item in embeddings]
    encoding = call.body.get("encoding_format")
    return encode_embeddings(vectors, model=call.model, prompt_tokens=tokens, encoding_format=encoding), metadata


def _tokens_of(embedding: JsonMapping) -> int | None:
    statistics = embedding.get("statistics")
    count = statistics.get("token_count", statistics.get("tokenCount")) if isinstance(statistics, dict) else None
    if type(count) is float and count.is_integer():
        count = int(count)
    return count if type(count) is int and count >= 0 else None


PROVIDER = VertexAI()
