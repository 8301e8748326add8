"""Bearer tokens for upstreams. The clouds' own libraries fetch them in a thread; a cache keeps them until shortly
before they expire. Those of a role of AWS are apart for each set of session tags, by which AWS's own reports tell who
has spent what.

google-auth, azure-identity and botocore are optional extras (`tollgate[vertex,azure,bedrock]`).
"""

import asyncio
import importlib
import json
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC
from functools import cache, partial
from typing import Any
from weakref import WeakValueDictionary

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


#: Session tags: (key, value), sorted.
Tags = tuple[tuple[str, str], ...]
TokenKey = tuple[str, str, frozenset[tuple[str, Secret]], tuple[str, ...], Tags]
#: Parameters of a deployment that say whose token it is: a change of one asks for another.
IDENTITY = ("aws_role_name", "aws_session_name", "aws_profile_name", "aws_region_name")
#: Beyond it the token goes that was not used for the longest time: callers name the teams of session tags.
MAX_TOKENS = 1_000
THREADS = 16  # of their own: a cloud that does not answer holds up no look-up of a name, which takes a thread too
FETCHES_AT_ONCE = 4  # of a deployment
SESSION_NAME = "tollgate"
STS_REGION = "us-east-1"  # where neither the deployment nor the machine names one
STS_TIMEOUT_S = 10.0


class TokenSource:
    """The cache of tokens. A deployment has one fetch at a time, and one for each set of session tags, which all calls
    of it wait for: at most FETCHES_AT_ONCE, so that a slow cloud leaves threads for other deployments."""

    def __init__(self) -> None:
        self._tokens: OrderedDict[TokenKey, Token] = OrderedDict()
        self._fetching: dict[TokenKey, asyncio.Task[Token]] = {}
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="token")
        self._turns: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    async def get(self, kind: str, target: Target, tags: Tags = ()) -> str:
        """A valid token. Raises UpstreamFault (502, `upstream_auth_failed`) where there is none."""
        refuse_borrowed_identity(target)
        identity = tuple(str(target.parameters.get(name) or "") for name in IDENTITY)
        key = (kind, target.deployment_id, frozenset(target.credential.items()), identity, tags)
        token = self._tokens.get(key)
        if token is not None and token.expires_at_s - EARLY_S > time.time():
            self._tokens.move_to_end(key)
            return token.text
        task = self._fetching.get(key)
        if task is None:
            fetch = partial(assume_role, tags=tags) if tags else FETCHERS[kind]
            task = asyncio.create_task(self._run(target.deployment_id, partial(fetch, target)))
            self._fetching[key] = task
            task.add_done_callback(lambda ended: self._store(key, ended))
        return (await asyncio.shield(task)).text

    async def _run(self, deployment_id: str, fetch: Callable[[], Token]) -> Token:
        turns = self._turns.get(deployment_id)
        if turns is None:
            turns = self._turns[deployment_id] = asyncio.Semaphore(FETCHES_AT_ONCE)
        async with turns:
            return await asyncio.get_running_loop().run_in_executor(self._threads, fetch)

    def _store(self, key: TokenKey, ended: asyncio.Task[Token]) -> None:
        self._fetching.pop(key, None)
        if not ended.cancelled() and ended.exception() is None:
            self._tokens[key] = ended.result()
            self._tokens.move_to_end(key)
            while len(self._tokens) > MAX_TOKENS:
                self._tokens.popitem(last=False)


def fetch_token(kind: str, target: Target) -> str:
    """A new token, fetched in this thread. Raises UpstreamFault."""
    refuse_borrowed_identity(target)
    return FETCHERS[kind](target).text


def refuse_borrowed_identity(target: Target) -> None:
    """Raises UpstreamFault for a deployment of an organization that would use the identity of the gateway's machine. No
    such deployment is stored any more, but earlier versions did."""
    if target.organization_id is None:
        return
    secrets = [name for name, secret in target.credential.items() if secret]
    borrowed = target.provider.find_borrowed_identity(secrets, target.parameters)
    if borrowed is not None:
        raise _fault(f"The deployment's {' '.join(borrowed)}.")


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
    """The credentials of the deployment's role, else those of botocore's chain (environment, profile, role of the
    machine), as JSON."""
    if target.parameters.get("aws_role_name"):
        return assume_role(target)
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
    text = _aws_keys(frozen.access_key, frozen.secret_key, frozen.token or "")
    return Token(text, time.time() + 2 * EARLY_S)  # botocore renews them itself: ask it every five minutes


def assume_role(target: Target, tags: Tags = ()) -> Token:
    """Credentials of the role that the deployment names, for an hour, with these session tags. The deployment's own
    keys assume it, else the machine's identity.

    Source: botocore's model sts 2011-06-15, AssumeRole. AWS_ENDPOINT_URL_STS names another endpoint.
    """
    role, own = str(target.parameters.get("aws_role_name") or ""), _own_keys(target)
    if not role:
        raise _fault("The deployment has aws_session_tags without aws_role_name.")
    session, config = _import_library("botocore.session"), _import_library("botocore.config")
    errors = _import_library("botocore.exceptions")
    profile = target.parameters.get("aws_profile_name")
    options: dict[str, object] = {"RoleArn": role, "RoleSessionName": _session_name(target)}
    if tags:
        options["Tags"] = [{"Key": key, "Value": value} for key, value in tags]
    try:
        aws = session.Session(profile=str(profile) if profile else None)
        aws.register_component("data_loader", _aws_loader())
        if own is not None:
            aws.set_credentials(*own)
        region = target.parameters.get("aws_region_name") or aws.get_config_variable("region") or STS_REGION
        limits = config.Config(
            connect_timeout=STS_TIMEOUT_S, read_timeout=STS_TIMEOUT_S, retries={"total_max_attempts": 2}
        )
        found = aws.create_client("sts", region_name=str(region), config=limits).assume_role(**options)["Credentials"]
    except (errors.BotoCoreError, errors.ClientError, OSError, ValueError):
        raise _auth_failed() from None
    text = _aws_keys(found["AccessKeyId"], found["SecretAccessKey"], found["SessionToken"])
    return Token(text, found["Expiration"].timestamp())


@cache
def _aws_loader() -> Any:
    """botocore's descriptions of services, which take 50 ms to parse."""
    return _import_library("botocore.loaders").create_loader()


def _own_keys(target: Target) -> tuple[str, str, str | None] | None:
    names = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
    key, secret, token = [target.credential[name].reveal() if name in target.credential else "" for name in names]
    return (key, secret, token or None) if key and secret else None


def _session_name(target: Target) -> str:
    """AWS takes 2 to 64 of these characters."""
    name = re.sub(r"[^\w+=,.@-]", "-", str(target.parameters.get("aws_session_name") or ""), flags=re.ASCII)[:64]
    return name if len(name) > 1 else SESSION_NAME


def _aws_keys(access_key: str, secret_key: str, session_token: str) -> str:
    return json.dumps({"access_key_id": access_key, "secret_access_key": secret_key, "session_token": session_token})


FETCHERS: dict[str, Callable[[Target], Token]] = {"google": _fetch_google, "entra": _fetch_entra, "aws": _fetch_aws}
