"""Azure OpenAI: deployments with a dated `api_version`, and /openai/v1 where it is `v1` (or `preview`).

Sources: https://learn.microsoft.com/azure/ai-foundry/openai/reference and …/openai/latest. `api_base` is the bare host
of the resource, the upstream's model is the name of the deployment. Without an api_key the gateway gets a token
from Entra.
"""

from collections.abc import Collection
from dataclasses import replace
from urllib.parse import quote, urlencode

from gateway.parsers.registry import PARSERS
from gateway.parsers.think import ThinkSplitter
from gateway.protocol.attempt_context import AttemptContext
from gateway.protocol.call import Operation
from gateway.protocol.dialects.openai.upstream_answer import OpenAITranslated
from gateway.protocol.dialects.openai.upstream_request import OPENAI, Traits
from gateway.protocol.dialects.openai.wire import PATHS
from gateway.protocol.dialects.responses.upstream import PATH as RESPONSES_PATH
from gateway.protocol.json.types import JsonMapping
from gateway.protocol.provider import Target
from gateway.providers.bases.own_credentials import ENTRA_PRINCIPAL, find_borrowed_entra_identity

DEFAULT_VERSION = "2024-10-21"
UNDATED = frozenset({"v1", "latest", "preview"})
#: The first version that knows `stream_options`.
STREAM_USAGE_SINCE = "2024-09-01"


class Azure(OpenAITranslated):
    __slots__ = ()

    def url(self, operation: Operation, target: Target) -> str:
        deployment = quote(target.upstream_model, safe="")
        return _address(target, PATHS[operation], dated=f"/deployments/{deployment}{PATHS[operation]}")

    def models_url(self, target: Target) -> str:
        """The list of models that the resource can deploy or has tuned. Only the control plane lists deployments."""
        return _address(target, "/models")

    def responses_url(self, target: Target) -> str:
        """Dated versions know the address from 2025-03-01-preview on, and take the deployment's name in the body."""
        return _address(target, RESPONSES_PATH)

    def traits_of(self, target: Target) -> Traits:
        version = _version(target)
        if version in UNDATED:
            return replace(self.traits, has_completions=False)
        return replace(self.traits, asks_usage=version[:10] >= STREAM_USAGE_SINCE)

    def credential_headers(self, target: Target, context: AttemptContext) -> dict[str, str]:
        key = target.credential.get("api_key")
        if key:
            return {"api-key": key.reveal()}
        entra_token = target.credential.get("azure_ad_token")
        token = entra_token.reveal() if entra_token else context.token
        return {"authorization": f"Bearer {token}"} if token else {}

    def token(self, target: Target) -> str:
        return "" if target.credential.get("api_key") or target.credential.get("azure_ad_token") else "entra"

    def find_borrowed_identity(self, secrets: Collection[str], parameters: JsonMapping) -> tuple[str, str] | None:
        return find_borrowed_entra_identity(secrets)


def _address(target: Target, path: str, *, dated: str = "") -> str:
    """`dated`: the path under a dated version, where that differs."""
    version = _version(target)
    host = target.api_base.rstrip("/").removesuffix("/v1").removesuffix("/openai")
    if version in UNDATED:
        query = "?api-version=preview" if version == "preview" else ""
        return f"{host}/openai/v1{path}{query}"
    return f"{host}/openai{dated or path}?{urlencode({'api-version': version})}"


def _version(target: Target) -> str:
    version = target.parameters.get("api_version")
    if isinstance(version, str) and version:
        return version.lower()
    return "v1" if target.api_base.rstrip("/").endswith("/openai/v1") else DEFAULT_VERSION


PROVIDER = Azure(
    name="azure",
    title="Azure OpenAI",
    needs_api_base=True,
    traits=OPENAI,
    parsers=PARSERS,
    think=ThinkSplitter,
    own_parameters=frozenset({"api_version"}),
    own_secrets=ENTRA_PRINCIPAL | {"azure_ad_token"},
)
