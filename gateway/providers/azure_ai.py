"""Models of Azure AI Foundry: the model inference API, a serverless deployment, /openai/v1, and Claude.

Sources: https://learn.microsoft.com/rest/api/aifoundry/modelinference and the addresses of Anthropic's SDK
(anthropic/lib/foundry.py). `api_base` and the model's name decide which of the four serves a deployment. Without an
api_key the gateway gets a token from Entra.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from urllib.parse import urlencode, urlsplit

from gateway.parsers.registry import PARSERS
from gateway.parsers.think import ThinkSplitter
from gateway.protocol.answer import AnswerMetadata, StreamRelay
from gateway.protocol.attempt_context import AttemptContext
from gateway.protocol.call import Call, Operation
from gateway.protocol.dialects.openai.upstream_answer import OpenAITranslated
from gateway.protocol.dialects.openai.upstream_request import OPENAI, Traits
from gateway.protocol.dialects.openai.wire import PATHS
from gateway.protocol.errors import UpstreamFault
from gateway.protocol.json.types import JsonMapping
from gateway.protocol.listing import ListRequest, ModelPage
from gateway.protocol.provider import PlainProvider, Target, UpstreamRequest
from gateway.providers.bases.anthropic_messages import AnthropicUpstream
from gateway.providers.bases.own_credentials import ENTRA_PRINCIPAL, find_borrowed_entra_identity

NAME, TITLE = "azure_ai", "Azure AI Foundry"
DEFAULT_VERSION = "2024-05-01-preview"
SERVERLESS_HOST = ".models.ai.azure.com"
CLAUDE = re.compile(r"claude", re.IGNORECASE)
#: Fields of the model inference API. For any other field a header asks the service to pass it on.
KNOWN_FIELDS = frozenset(
    {"messages", "model", "frequency_penalty", "presence_penalty", "stream", "temperature", "top_p"}
    | {"max_tokens", "response_format", "stop", "tools", "tool_choice", "seed", "modalities", "input"}
    | {"dimensions", "encoding_format", "input_type"}
)


class _OpenAIEndpoint(OpenAITranslated):
    """Base of the endpoints of OpenAI's dialect that take the key as `api-key`."""

    __slots__ = ()

    def credential_headers(self, target: Target, context: AttemptContext) -> dict[str, str]:
        key = target.credential.get("api_key")
        if key:
            return {"api-key": key.reveal()}
        return {"authorization": f"Bearer {context.token}"} if context.token else {}


class _Inference(_OpenAIEndpoint):
    __slots__ = ()

    def url(self, operation: Operation, target: Target) -> str:
        base = target.api_base.rstrip("/")
        if not urlsplit(base).path:
            base += "/models"
        version = target.parameters.get("api_version") or DEFAULT_VERSION
        return f"{base}{PATHS[operation]}?{urlencode({'api-version': version})}"

    def traits_of(self, target: Target) -> Traits:
        return replace(self.traits, is_openai=target.capabilities.reasoning_model)

    def body_headers(self, body: JsonMapping) -> dict[str, str]:
        return {} if body.keys() <= KNOWN_FIELDS else {"extra-parameters": "pass-through"}


class _Serverless(OpenAITranslated):
    """One model behind a host of its own."""

    __slots__ = ()

    def url(self, operation: Operation, target: Target) -> str:
        base = target.api_base.rstrip("/")
        return (base if urlsplit(base).path else f"{base}/v1") + PATHS[operation]

    def credential_headers(self, target: Target, context: AttemptContext) -> dict[str, str]:
        key = target.credential.get("api_key")
        token = key.reveal() if key else context.token
        return {"authorization": f"Bearer {token}"} if token else {}


CHAT_ONLY = Traits(has_completions=False, takes_reasoning=False)
INFERENCE = _Inference(name=NAME, title=TITLE, traits=CHAT_ONLY, parsers=PARSERS, think=ThinkSplitter)
SERVERLESS = _Serverless(name=NAME, title=TITLE, traits=CHAT_ONLY, parsers=PARSERS, think=ThinkSplitter)
OPENAI_V1 = _OpenAIEndpoint(
    name=NAME, title=TITLE, traits=replace(OPENAI, has_completions=False), parsers=PARSERS, think=ThinkSplitter
)


def _claude_url(call: Call, target: Target) -> str:
    base = target.api_base.rstrip("/").removesuffix("/v1").removesuffix("/models").removesuffix("/anthropic")
    return f"{base}/anthropic/v1/messages"


ANTHROPIC = AnthropicUpstream(
    name=NAME,
    title=TITLE,
    make_url=_claude_url,
    key_headers=("x-api-key", "api-key"),
    issuer="entra",
    own_parameters=frozenset({"api_version"}),
)


def _endpoint(target: Target) -> OpenAITranslated | AnthropicUpstream:
    parts = urlsplit(target.api_base)
    path = parts.path.rstrip("/")
    if path.endswith("/openai/v1"):
        return OPENAI_V1
    if path.endswith(("/anthropic", "/anthropic/v1")) or CLAUDE.search(target.upstream_model):
        return ANTHROPIC
    return SERVERLESS if (parts.hostname or "").endswith(SERVERLESS_HOST) else INFERENCE


class AzureAI(PlainProvider):
    name = NAME
    title = TITLE
    aliases: tuple[str, ...] = ()
    default_api_base = ""
    needs_api_base = True
    needs_api_key = False
    operations = frozenset(Operation)  # completions go out as chat
    own_parameters = frozenset({"api_version"})
    own_secrets = ENTRA_PRINCIPAL | {"azure_ad_token"}
    replays_reasoning = True

    def request(self, call: Call, target: Target, context: AttemptContext) -> UpstreamRequest:
        return _endpoint(target).request(call, target, context)

    def relay(self, call: Call, target: Target, context: AttemptContext) -> StreamRelay:
        return _endpoint(target).relay(call, target, context)

    def relay_body(
        self, call: Call, target: Target, context: AttemptContext, body: bytes, headers: Mapping[str, str]
    ) -> tuple[bytes, AnswerMetadata]:
        return _endpoint(target).relay_body(call, target, context, body, headers)

    def models_request(self, target: Target, context: AttemptContext, page: str = "") -> ListRequest | None:
        endpoint = _endpoint(target)
        return endpoint.models_request(target, context, page) if endpoint is OPENAI_V1 else None

    def models(self, body: bytes) -> ModelPage:
        return OPENAI_V1.models(body)

    def failure(self, target: Target, status: int, headers: Mapping[str, str], body: bytes) -> UpstreamFault:
        return _endpoint(target).failure(target, status, headers, body)

    def wire(self, target: Target) -> str:
        return _endpoint(target).wire(target)

    def has_responses(self, target: Target) -> bool:
        return _endpoint(target).has_responses(target)

    def takes_prefill(self, target: Target) -> bool:
        return _endpoint(target).takes_prefill(target)

    def count_request(self, call: Call, target: Target, context: AttemptContext) -> UpstreamRequest | None:
        return _endpoint(target).count_request(call, target, context)

    def token(self, target: Target) -> str:
        return "" if target.credential.get("api_key") else "entra"

    def find_borrowed_identity(self, secrets: Collection[str], parameters: JsonMapping) -> tuple[str, str] | None:
        return find_borrowed_entra_identity(secrets)


PROVIDER = AzureAI()
