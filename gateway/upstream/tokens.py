"""Bearer tokens for upstreams. The clouds' own libraries fetch them in a thread; a cache keeps them until shortly
before they expire.

google-auth, azure-identity and botocore are optional extras (`tollgate[vertex,azure,bedrock]`).
"""

import asyncio
import importlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC
from typing import Any

from gateway.protocol.errors import UpstreamFault
from gateway.protocol.provider import Target
from gateway.protocol.secret import Secret

EARLY_S = 300
GOOGLE_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
ENTRA_SCOPE = "https://cognitiveservices.azure.com/.default"


@dataclass(frozen=True, slots=True)
class Token:
    text: str
    expires_at_s: float


TokenKey = tuple[str, str, frozenset[tuple[str, Secret]]]


class TokenSource:
    """The cache of tokens. A deployment has one fetch at a time, which all its calls wait for."""

    def __init__(self) -> None:
        self._tokens: dict[TokenKey, Token] = {}
        self._fetching: dict[TokenKey, asyncio.Task[Token]] = {}

    async def get(self, kind: str, target: Target) -> str:
        """A valid token. Raises UpstreamFault (502, `upstream_auth_failed`) where there is none."""
        key = (kind, target.deployment_id, frozenset(target.credential.items()))
        token = self._tokens.get(key)
        if token is not None and token.expires_at_s - EARLY_S > time.time():
            return token.text
        task = self._fetching.get(key)
        if task is None:
            task = asyncio.create_task(asyncio.to_thread(FETCHERS[kind], target))
            self._fetching[key] = task
            task.add_done_callback(lambda ended: self._store(key, ended))
        return (await asyncio.shield(task)).text

    def _store(self, key: TokenKey, ended: asyncio.Task[Token]) -> None:
        self._fetching.pop(key, None)
        if not ended.cancelled() and ended.exception() is None:
            self._tokens[key] = ended.result()


def _import_library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise _fault(f"This deployment needs a package that is not installed: {name}.") from None


def _auth_failed() -> UpstreamFault:
    return _fault("The gateway could not authenticate with the upstream.")


def _fault(message: str) -> UpstreamFault:
    return UpstreamFault(message, code="upstream_auth_failed", is_retryable=True)


def _fetch_google(target: Target) -> Token:
    """A token for the service account of `vertex_credentials` (JSON text or a path), or the application default."""
    auth = _import_library("google.auth")
    transport = _import_library("google.auth.transport.requests")
    service_account = target.credential.get("vertex_credentials")
    try:
        if service_account:
            text = service_account.reveal()
            if not text.lstrip().startswith("{"):
                with open(text, encoding="utf-8") as file:
                    text = file.read()
            credentials, _ = auth.load_credentials_from_dict(json.loads(text), scopes=[GOOGLE_SCOPE])
        else:
            credentials, _ = auth.default(scopes=[GOOGLE_SCOPE])
        credentials.refresh(transport.Request())
        expiry = credentials.expiry  # naive, in UTC
        return Token(credentials.token, expiry.replace(tzinfo=UTC).timestamp() if expiry else time.time() + 3600)
    except (auth.exceptions.GoogleAuthError, OSError, ValueError):
        raise _auth_failed() from None


def _fetch_entra(target: Target) -> Token:
    """The deployment's token, else one for its client secret, else one of azure-identity's default chain."""
    token = target.credential.get("azure_ad_token")
    if token:
        return Token(token.reveal(), time.time() + 10 * EARLY_S)
    identity = _import_library("azure.identity")
    values = {
        name: target.credential[name].reveal()
        for name in ("client_id", "client_secret", "tenant_id")
        if name in target.credential
    }
    core = _import_library("azure.core.exceptions")
    try:
        credential = (
            identity.ClientSecretCredential(**values) if len(values) == 3 else identity.DefaultAzureCredential()
        )
        access = credential.get_token(ENTRA_SCOPE)
    except (core.AzureError, ValueError):
        raise _auth_failed() from None
    return Token(access.token, float(access.expires_on))


def _fetch_aws(target: Target) -> Token:
    """The credentials of botocore's chain (environment, profile, role of the machine), as JSON."""
    session = _import_library("botocore.session")
    errors = _import_library("botocore.exceptions")
    try:
        profile = target.parameters.get("aws_profile_name")
        credentials = session.Session(profile=str(profile) if profile else None).get_credentials()
        if credentials is None:
            raise _auth_failed()
        frozen = credentials.get_frozen_credentials()
    except (errors.BotoCoreError, OSError, ValueError):
        raise _auth_failed() from None
    text = json.dumps(
        {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "session_token": frozen.token or "",
        }
    )
    return Token(text, time.time() + 2 * EARLY_S)  # botocore renews them itself: ask it every five minutes


FETCHERS: dict[str, Callable[[Target], Token]] = {"google": _fetch_google, "entra": _fetch_entra, "aws": _fetch_aws}
