"""The paths of LiteLLM's proxy that this version does not serve: 501, because a client takes a 404 on deletion for
success.

Source: the routes of litellm 1.106.10 (tests/fixtures/litellm_paths.txt). A route of our own comes first: a path is
looked up here only where none matches.
"""

import re

from gateway.protocol.errors import Fault
from gateway.version import VERSION

#: First parts of paths; all below them is LiteLLM's too.
NAMES = """
    a2a access_group active adaptive_router add agent agents alerting anthropic api apply_guardrail assemblyai
    assistants audio audit authorize auto_router azure azure_ai azure_speech backend-api batches bedrock bespoke
    budget cache callback callbacks claude-code claude_code_gateway cloudzero cohere compliance comprehendmedical
    config config_overrides containers coordination_redis cost cost_optimization credentials cursor customer debug
    decisions deepgram delete docs enabled end_user engines eu.assemblyai fal_ai fallback files fine_tuning gateway
    gemini get get_favicon get_image get_logo_url gigachat global guardrails images interactions introspect invitation
    jwt langfuse laya lazy lens litellm login management mcp mcp-rest memory-usage memory-usage-in-mem-cache
    memory-usage-in-mem-cache-items milvus mistral model-insights model_group model_hub moderations moyai
    nvidia_nim oauth ocr onboarding openai openai_passthrough openapi.json openrouter organization otel-spans
    plugin-proxy policies policy project prompt prompts provider public queue rag realtime redoc register reload
    rerank revoke roi-calculator router routes schedule scim search search_tools session settings sso swagger
    systemone tag test threads tinyfish token toolset transcribe typesafe ui update upload usage user utils v1beta v2
    v3 vantage vector_store vector_stores vertex-ai vertex_ai videos vllm watsonx
"""
#: The same below /v1.
V1_NAMES = """
    a2a access_group agents assistants audio batches containers decisions evals files fine_tuning images indexes logs
    mcp memory moderations ocr rag realtime rerank rust_control_plane search skills systemone threads tool traces
    unified_access_group vector_store vector_stores videos workflows
"""
FAMILIES, V1_FAMILIES = frozenset(NAMES.split()), frozenset(V1_NAMES.split())
#: Beside routes of our own, and those that begin with a name of the operator's.
PATHS = re.compile(
    r"key/spend/report"
    r"|team/(?:available|metadata_schema|permissions_bulk_update|filter/ui)"
    r"|team/(?:.+/(?:callback(?:/[^/]+)?|disable_logging|members/me|member/[^/]+/reset_(?:budget|spend)))"
    r"|team/(?:daily/activity.*|key/bulk_update|spend/(?:by_user|report))"
    r"|teams/[^/]+/members/bulk_(?:delete|update)"
    r"|model/(?:block|unblock|cost_map/source|(?:streaming_)?metrics(?:/exceptions|/slow_responses)?|settings)"
    r"|(?:v1/)?model/deprecations"
    r"|(?:v1/)?models/.+:(?:countTokens|generateContent|streamGenerateContent)"
    r"|spend(?:/(?:calculate|capture_rate|keys|tags|users|logs/(?:v2|session/ui|ui(?:/[^/]+)?)))?"
    r"|health(?:/(?:backlog|drain|history|latest|license|readiness/details|services|shared-status|test_connection))?"
    r"|\.well-known/(?:(?:agent-)?skills/index\.json|jwks\.json|litellm-.+|oauth-.+|openid-configuration)"
    r"|[^/]+/(?:authorize|mcp|register|token)"
    r"|[^/]+/v1/(?:batches|files)(?:/.*)?"
)


def is_unserved(path: str) -> bool:
    path = path.removeprefix("/").removesuffix("/")
    first, _, rest = path.partition("/")
    if first == "v1" and rest.partition("/")[0] in V1_FAMILIES:
        return True
    return first in FAMILIES or PATHS.fullmatch(path) is not None


def refuse_unserved(path: str) -> None:
    """Raises the Fault of a path that LiteLLM serves and this version does not. OpenAI's client must not retry it."""
    if is_unserved(path):
        raise Fault(
            f"Tollgate {VERSION} does not serve this endpoint of LiteLLM.",
            status=501,
            code="not_implemented",
            headers=((b"x-should-retry", b"false"),),
        )
