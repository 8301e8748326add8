"""Bearer tokens for upstreams: fetched in a thread by the clouds' own libraries, cached until shortly before they end.

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


Place = tuple[str, str, frozenset[tuple[str, Secret]]]


class TokenSource:
    """One fetch at a time for a deployment; those that come meanwhile wait for it."""

    def __init__(self) -> None:
        self._tokens: dict[Place, Token] = {}
        self._fetching: dict[Place, asyncio.Task[Token]] = {}

    async def get(self, kind: str, target: Target) -> str:
        """Raises UpstreamFault (502, `upstream_auth_failed`) where none is to be had."""
        place = (kind, target.deployment_id, frozenset(target.credential.items()))
        token = self._tokens.get(place)
        if token is not None and token.expires_at_s - EARLY_S > time.time():
            return token.text
        task = self._fetching.get(place)
        if task is None:
            task = asyncio.create_task(asyncio.to_thread(FETCHERS[kind], target))
            self._fetching[place] = task
            task.add_done_callback(lambda done: self._keep(place, done))
        return (await asyncio.shield(task)).text

    def _keep(self, place: Place, done: asyncio.Task[Token]) -> None:
        self._fetching.pop(place, None)
        if not done.cancelled() and done.exception() is None:
            self._tokens[place] = done.result()


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise _fault(f"This deployment needs a package that is not installed: {name}.") from None


def _failed() -> UpstreamFault:
    return _fault("The gateway could not authenticate with the upstream.")


def _fault(message: str) -> UpstreamFault:
    return UpstreamFault(message, code="upstream_auth_failed", is_retryable=True)


def _google(target: Target) -> Token:
    """A service account from `vertex_credentials` (JSON text or a path), else the application default."""
    auth = _library("google.auth")
    transport = _library("google.auth.transport.requests")
    given = target.credential.get("vertex_credentials")
    try:
        if given:
            text = given.reveal()
            if not text.lstrip().startswith("{"):
                with open(text, encoding="utf-8") as file:
                    text = file.read()
            credentials, _ = auth.load_credentials_from_dict(json.loads(text), scopes=[GOOGLE_SCOPE])
        else:
            credentials, _ = auth.default(scopes=[GOOGLE_SCOPE])
        credentials.refresh(transport.Request())
        expiry = credentials.expiry  # UTC, though it does not say so
        return Token(credentials.token, expiry.replace(tzinfo=UTC).timestamp() if expiry else time.time() + 3600)
    except (auth.exceptions.GoogleAuthError, OSError, ValueError):
        raise _failed() from None


def _entra(target: Target) -> Token:
    """A client secret where the deployment has one, else azure-identity's default chain; a given token as it is."""
    given = target.credential.get("azure_ad_token")
    if given:
        return Token(given.reveal(), time.time() + 10 * EARLY_S)
    identity = _library("azure.identity")
    values = {
        name: target.credential[name].reveal()
        for name in ("client_id", "client_secret", "tenant_id")
        if name in target.credential
    }
    core = _library("azure.core.exceptions")
    try:
        credential = (
            identity.ClientSecretCredential(**values) if len(values) == 3 else identity.DefaultAzureCredential()
        )
        token = credential.get_token(ENTRA_SCOPE)
    except (core.AzureError, ValueError):
        raise _failed() from None
    return Token(token.token, float(token.expires_on))


def _aws(target: Target) -> Token:
    """The credential chain of botocore (environment, profile, role of the machine), as JSON."""
    session = _library("botocore.session")
    errors = _library("botocore.exceptions")
    try:
        profile = target.parameters.get("aws_profile_name")
        credentials = session.Session(profile=str(profile) if profile else None).get_credentials()
        if credentials is None:
            raise _failed()
        frozen = credentials.get_frozen_credentials()
    except (errors.BotoCoreError, OSError, ValueError):
        raise _failed() from None
    text = json.dumps(
        {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "session_token": frozen.token or "",
        }
    )
    return Token(text, time.time() + 2 * EARLY_S)  # botocore renews its own; asked again every five minutes


FETCHERS: dict[str, Callable[[Target], Token]] = {"google": _google, "entra": _entra, "aws": _aws}
