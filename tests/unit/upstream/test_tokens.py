"""TokenSource: one fetch at a time, cached until shortly before the end, and a clear fault where none is to be had."""

import asyncio
import json
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import ModuleType, SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl

import pytest

from gateway.protocol.errors import UpstreamFault
from gateway.protocol.provider import Target
from gateway.protocol.secret import Secret
from gateway.providers.registry import PROVIDERS
from gateway.upstream import tokens
from gateway.upstream.listing import list_models
from gateway.upstream.tokens import EARLY_S, FETCHERS, Token, TokenSource
from tests.fakes.memory import EPOCH, target

KIND = "google"


@dataclass(slots=True)
class Cloud:
    """A scripted fetcher: tokens that live `lives_s`, or the error it raises; a closed `gate` delays it."""

    lives_s: float = 3600.0
    fails: Exception | None = None
    now_s: float = EPOCH
    fetched_for: list[str] = field(default_factory=list)
    threads: set[int] = field(default_factory=set)
    gate: threading.Event = field(default_factory=threading.Event)
    begun: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def fetch(self, deployment: Target) -> Token:
        self.fetched_for.append(deployment.deployment_id)
        self.threads.add(threading.get_ident())
        self.begun.release()
        assert self.gate.wait(30)
        if self.fails is not None:
            raise self.fails
        return Token(f"token-{len(self.fetched_for)}", self.now_s + self.lives_s)


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Cloud:
    scripted = Cloud()
    scripted.gate.set()
    for kind in ("google", "entra"):
        monkeypatch.setitem(FETCHERS, kind, scripted.fetch)
    monkeypatch.setattr(tokens, "time", SimpleNamespace(time=lambda: scripted.now_s))
    return scripted


async def test_a_token_is_fetched_once_and_kept(cloud: Cloud) -> None:
    source = TokenSource()
    assert [await source.get(KIND, target()) for _ in range(3)] == ["token-1"] * 3
    assert cloud.fetched_for == ["first"]
    assert threading.get_ident() not in cloud.threads, "the loop does not wait for a cloud"


async def test_each_deployment_and_each_kind_has_its_own(cloud: Cloud) -> None:
    source = TokenSource()
    assert await source.get(KIND, target("one")) == "token-1"
    assert await source.get(KIND, target("two")) == "token-2"
    assert await source.get("entra", target("one")) == "token-3"
    assert await source.get(KIND, target("one")) == "token-1"
    assert cloud.fetched_for == ["one", "two", "one"]


async def test_a_token_is_renewed_before_it_ends(cloud: Cloud) -> None:
    source = TokenSource()
    await source.get(KIND, target())
    cloud.now_s = EPOCH + cloud.lives_s - EARLY_S - 1
    assert await source.get(KIND, target()) == "token-1"
    cloud.now_s += 1
    assert await source.get(KIND, target()) == "token-2"
    assert await source.get(KIND, target()) == "token-2"


async def test_a_token_that_lives_shorter_than_the_margin_is_used_but_not_kept(cloud: Cloud) -> None:
    source = TokenSource()
    cloud.lives_s = EARLY_S
    assert await source.get(KIND, target()) == "token-1"
    assert await source.get(KIND, target()) == "token-2"


async def all_asked(cloud: Cloud, count: int) -> None:
    """Until the threads have begun."""
    for _ in range(count):
        assert await asyncio.to_thread(cloud.begun.acquire, timeout=30)


async def test_those_that_come_during_a_fetch_wait_for_it(cloud: Cloud) -> None:
    source = TokenSource()
    cloud.gate.clear()
    waiting = [asyncio.create_task(source.get(KIND, target())) for _ in range(20)]
    await all_asked(cloud, 1)
    assert not any(task.done() for task in waiting)
    cloud.gate.set()
    assert set(await asyncio.gather(*waiting)) == {"token-1"}
    assert cloud.fetched_for == ["first"]


async def test_one_deployments_fetch_does_not_hold_up_anothers(cloud: Cloud) -> None:
    source = TokenSource()
    cloud.gate.clear()
    waiting = [asyncio.create_task(source.get(KIND, target(name))) for name in ("one", "two")]
    await all_asked(cloud, 2)
    cloud.gate.set()
    await asyncio.gather(*waiting)
    assert sorted(cloud.fetched_for) == ["one", "two"]


async def test_clouds_that_do_not_answer_leave_threads_for_others(cloud: Cloud) -> None:
    source = TokenSource()
    cloud.gate.clear()
    waiting = [asyncio.create_task(source.get(KIND, target(str(number)))) for number in range(40)]
    await asyncio.wait_for(asyncio.to_thread(cloud.begun.acquire, timeout=20), 20)  # in one of the loop's threads
    cloud.gate.set()
    await asyncio.gather(*waiting)
    assert len(cloud.fetched_for) == 40


async def test_a_client_that_leaves_does_not_stop_the_fetch_for_the_others(cloud: Cloud) -> None:
    source = TokenSource()
    cloud.gate.clear()
    gone, stays = (asyncio.create_task(source.get(KIND, target())) for _ in range(2))
    await all_asked(cloud, 1)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    cloud.gate.set()
    assert await stays == "token-1"
    assert await source.get(KIND, target()) == "token-1"


async def test_what_was_fetched_for_a_client_that_left_is_kept(cloud: Cloud) -> None:
    source = TokenSource()
    cloud.gate.clear()
    gone = asyncio.create_task(source.get(KIND, target()))
    await all_asked(cloud, 1)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    cloud.gate.set()
    await asyncio.gather(*(task for task in asyncio.all_tasks() if task is not asyncio.current_task()))
    assert await source.get(KIND, target()) == "token-1"


async def test_a_failed_fetch_is_told_to_all_that_wait_and_tried_anew_by_the_next(cloud: Cloud) -> None:
    source = TokenSource()
    cloud.fails = UpstreamFault("no", code="upstream_auth_failed")
    cloud.gate.clear()
    waiting = [asyncio.create_task(source.get(KIND, target())) for _ in range(3)]
    await all_asked(cloud, 1)
    cloud.gate.set()
    for task in waiting:
        with pytest.raises(UpstreamFault):
            await task
    assert len(cloud.fetched_for) == 1
    cloud.fails = None
    assert await source.get(KIND, target()) == "token-2"


async def test_a_changed_credential_gets_a_token_of_its_own(cloud: Cloud) -> None:
    source = TokenSource()
    await source.get(KIND, target(credential={"vertex_credentials": Secret("old")}))
    assert await source.get(KIND, target(credential={"vertex_credentials": Secret("new")})) == "token-2"


# The clouds' libraries

PACKAGES = {"google": "google.auth", "entra": "azure.identity", "aws": "botocore.session"}


@pytest.mark.parametrize("kind", PACKAGES)
async def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setitem(sys.modules, PACKAGES[kind], None)  # as if it were not installed
    with pytest.raises(UpstreamFault) as caught:
        await TokenSource().get(kind, target())
    assert (caught.value.status, caught.value.code) == (502, "upstream_auth_failed")
    assert PACKAGES[kind] in caught.value.message


async def test_a_given_entra_token_is_used_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "azure.identity", None)
    deployment = target(credential={"azure_ad_token": Secret("given-token")})
    assert await TokenSource().get("entra", deployment) == "given-token"


@pytest.mark.filterwarnings("ignore:The load_credentials_from_dict method:DeprecationWarning")
@pytest.mark.parametrize("text", ["{}", "{", '{"type": "service_account"}', "/nonexistent/key.json"])
async def test_unusable_google_credentials_are_a_fault_that_shows_none_of_them(text: str) -> None:
    with pytest.raises(UpstreamFault) as caught:
        await TokenSource().get("google", target(credential={"vertex_credentials": Secret(text)}))
    assert (caught.value.status, caught.value.code) == (502, "upstream_auth_failed")
    assert caught.value.message == "The gateway could not authenticate with the upstream."


def module(monkeypatch: pytest.MonkeyPatch, name: str, **members: Any) -> None:
    module = ModuleType(name)
    module.__dict__.update(members)
    monkeypatch.setitem(sys.modules, name, module)


class Refused(Exception):
    """The error that a cloud's library raises."""


def google(monkeypatch: pytest.MonkeyPatch, expiry: datetime | None, error: Exception | None = None) -> list[Any]:
    """google-auth by script; returns what was loaded."""
    loaded: list[Any] = []

    def refresh(_: Any) -> None:
        if error is not None:
            raise error

    credentials = SimpleNamespace(token="google-token", expiry=expiry, refresh=refresh)

    def load(info: Any = None, *, scopes: list[str]) -> tuple[Any, None]:
        loaded.append(info)
        assert scopes == [tokens.GOOGLE_SCOPE]
        return credentials, None

    errors = SimpleNamespace(GoogleAuthError=Refused)
    module(monkeypatch, "google.auth", default=load, load_credentials_from_dict=load, exceptions=errors)
    module(monkeypatch, "google.auth.transport.requests", Request=object)
    return loaded


def test_googles_credentials_are_text_or_a_path_or_the_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    loaded = google(monkeypatch, None)
    path = tmp_path / "key.json"
    path.write_text('{"from": "file"}')
    for text in ('{"from": "text"}', str(path)):
        token = FETCHERS["google"](target(credential={"vertex_credentials": Secret(text)}))
        assert token.text == "google-token"
    FETCHERS["google"](target())
    assert loaded == [{"from": "text"}, {"from": "file"}, None]


@pytest.mark.parametrize("zone", ["UTC", "XXX-8", "YYY+8"])
def test_googles_expiry_is_naive_utc_wherever_the_gateway_stands(monkeypatch: pytest.MonkeyPatch, zone: str) -> None:
    expiry = datetime.fromtimestamp(EPOCH, tz=UTC).replace(tzinfo=None)
    google(monkeypatch, expiry)
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        assert FETCHERS["google"](target()).expires_at_s == EPOCH
    finally:
        monkeypatch.undo()
        time.tzset()


def test_googles_refusal_is_the_gateways_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    google(monkeypatch, None, Refused("secret of the account"))
    with pytest.raises(UpstreamFault) as caught:
        FETCHERS["google"](target())
    assert "secret" not in caught.value.message


def entra(monkeypatch: pytest.MonkeyPatch, error: Exception | None = None) -> list[Any]:
    """A scripted azure-identity; returns the arguments of each credential."""
    credentials: list[Any] = []

    class Credential:
        def __init__(self, **values: str) -> None:
            credentials.append(values)

        def get_token(self, scope: str) -> Any:
            assert scope == tokens.ENTRA_SCOPE
            if error is not None:
                raise error
            return SimpleNamespace(token="entra-token", expires_on=int(EPOCH))

    module(monkeypatch, "azure.identity", ClientSecretCredential=Credential, DefaultAzureCredential=Credential)
    module(monkeypatch, "azure.core.exceptions", AzureError=Refused)
    return credentials


def test_a_client_secret_is_used_where_it_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    credentials = entra(monkeypatch)
    whole = {name: Secret(f"my-{name}") for name in ("client_id", "client_secret", "tenant_id")}
    assert FETCHERS["entra"](target(credential=whole)) == Token("entra-token", EPOCH)
    FETCHERS["entra"](target(credential={"client_id": Secret("alone")}))
    assert credentials == [{name: f"my-{name}" for name in whole}, {}]


@pytest.mark.parametrize("error", [Refused("secret"), ValueError("secret")])
def test_entras_refusal_is_the_gateways_fault(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    entra(monkeypatch, error)
    with pytest.raises(UpstreamFault) as caught:
        FETCHERS["entra"](target())
    assert "secret" not in caught.value.message


def aws(monkeypatch: pytest.MonkeyPatch, credentials: Any) -> list[Any]:
    """botocore by script; returns the profiles that were asked for."""
    profiles: list[Any] = []

    def session(*, profile: str | None) -> Any:
        profiles.append(profile)
        return SimpleNamespace(get_credentials=lambda: credentials)

    module(monkeypatch, "botocore.session", Session=session)
    module(monkeypatch, "botocore.exceptions", BotoCoreError=Refused)
    return profiles


def test_amazons_chain_comes_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    frozen = SimpleNamespace(access_key="AK", secret_key="SK", token=None)
    profiles = aws(monkeypatch, SimpleNamespace(get_frozen_credentials=lambda: frozen))
    text = FETCHERS["aws"](target(parameters={"aws_profile_name": "work"})).text
    assert text == '{"access_key_id": "AK", "secret_access_key": "SK", "session_token": ""}'
    FETCHERS["aws"](target())
    assert profiles == ["work", None]


def test_an_empty_chain_of_amazons_is_the_gateways_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    aws(monkeypatch, None)
    with pytest.raises(UpstreamFault):
        FETCHERS["aws"](target())


# Roles of AWS


class FakeSts(BaseHTTPRequestHandler):
    """AssumeRole as AWS answers it; the server keeps the forms and the headers."""

    def do_POST(self) -> None:
        form = dict(parse_qsl(self.rfile.read(int(self.headers["content-length"])).decode()))
        sts: Any = self.server
        sts.forms.append(form | {"authorization": self.headers["authorization"]})
        number = len(sts.forms)
        body = (
            '<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult><Credentials>'
            f"<AccessKeyId>ASIA{number}</AccessKeyId><SecretAccessKey>secret</SecretAccessKey>"
            f"<SessionToken>token-{number}</SessionToken><Expiration>2100-01-01T00:00:00Z</Expiration>"
            "</Credentials></AssumeRoleResult></AssumeRoleResponse>"
        ).encode()
        self.send_response(sts.status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def sts(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    server: Any = HTTPServer(("127.0.0.1", 0), FakeSts)
    server.forms, server.status = [], 200
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


ROLE = {"aws_role_name": "arn:aws:iam::111122223333:role/gateway", "aws_session_name": "gate way"}
OWN = {"aws_access_key_id": Secret("AKIA-OWN"), "aws_secret_access_key": Secret("own-secret")}


async def test_a_role_is_assumed_once_for_each_set_of_session_tags(sts: Any) -> None:
    source, deployment = TokenSource(), target(parameters=ROLE, credential=OWN)
    research, sales = (("team", "research"),), (("team", "sales"),)
    tags = [research, sales, research, (), research]
    keys = [json.loads(await source.get("aws", deployment, tag))["access_key_id"] for tag in tags]
    assert keys == ["ASIA1", "ASIA2", "ASIA1", "ASIA3", "ASIA1"]
    assert [form.get("Tags.member.1.Value") for form in sts.forms] == ["research", "sales", None]
    assert {form["RoleArn"] for form in sts.forms} == {ROLE["aws_role_name"]}
    assert {form["RoleSessionName"] for form in sts.forms} == {"gate-way"}
    assert all("Credential=AKIA-OWN/" in form["authorization"] for form in sts.forms)


@pytest.mark.parametrize("tags", [(), (("team", "research"),)])
async def test_a_deployment_that_gets_another_role_leaves_the_old_ones_session(sts: Any, tags: tokens.Tags) -> None:
    source, other = TokenSource(), "arn:aws:iam::111122223333:role/other"
    roles = [ROLE["aws_role_name"], other, ROLE["aws_role_name"]]
    deployments = [target(parameters={**ROLE, "aws_role_name": role}, credential=OWN) for role in roles]
    keys = [json.loads(await source.get("aws", deployment, tags))["access_key_id"] for deployment in deployments]
    assert keys == ["ASIA1", "ASIA2", "ASIA1"]
    assert [form["RoleArn"] for form in sts.forms] == roles[:2]


async def test_a_flood_of_teams_keeps_a_bounded_number_of_sessions(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "assume_role", lambda deployment, tags: cloud.fetch(deployment))
    monkeypatch.setattr(tokens, "MAX_TOKENS", 3)
    source = TokenSource()
    for number in range(10):
        await source.get("aws", target(), (("team", str(number)),))
        await source.get("aws", target(), (("team", "0"),))  # in use, so it stays
    assert len(cloud.fetched_for) == 10
    await source.get("aws", target(), (("team", "1"),))
    assert len(cloud.fetched_for) == 11


async def test_a_slow_cloud_of_one_deployment_leaves_threads_for_others(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "assume_role", lambda deployment, tags: cloud.fetch(deployment))
    source = TokenSource()
    cloud.gate.clear()
    teams = [(("team", str(number)),) for number in range(tokens.THREADS + 1)]
    waiting = [asyncio.create_task(source.get("aws", target("slow"), tags)) for tags in teams]
    other = asyncio.create_task(source.get(KIND, target("other")))
    for _ in range(tokens.FETCHES_AT_ONCE + 1):
        assert await asyncio.to_thread(cloud.begun.acquire, timeout=30)
    assert sorted(cloud.fetched_for) == ["other", *["slow"] * tokens.FETCHES_AT_ONCE]
    cloud.gate.set()
    await asyncio.gather(*waiting, other)
    assert len(cloud.fetched_for) == len(teams) + 1


async def test_a_refused_role_is_the_gateways_fault_and_tells_no_secret(sts: Any) -> None:
    sts.status = 403
    with pytest.raises(UpstreamFault) as caught:
        await TokenSource().get("aws", target(parameters=ROLE, credential=OWN), (("team", "a"),))
    assert caught.value.code == "upstream_auth_failed"
    assert "own-secret" not in str(caught.value)


async def test_session_tags_without_a_role_are_refused_before_any_request(sts: Any) -> None:
    with pytest.raises(UpstreamFault, match="without aws_role_name"):
        await TokenSource().get("aws", target(credential=OWN), (("team", "a"),))
    assert sts.forms == []


# Deployments of organizations


@pytest.mark.parametrize(("provider", "kind"), [("azure", "entra"), ("bedrock", "aws"), ("vertex_ai", "google")])
async def test_a_deployment_of_an_organization_gets_no_token_of_the_machine(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch, provider: str, kind: str
) -> None:
    monkeypatch.setitem(FETCHERS, kind, cloud.fetch)
    source, shared = TokenSource(), target(provider=PROVIDERS[provider], credential={}, api_base="https://cloud.test")
    assert await source.get(kind, shared) == "token-1"
    own = replace(shared, organization_id="acme")  # the same deployment, after the platform gave it away
    for tags in ((), (("team", "a"),)):
        with pytest.raises(UpstreamFault, match="does not use the identity of the gateway's machine") as caught:
            await source.get(kind, own, tags)
        assert (caught.value.code, caught.value.is_retryable) == ("upstream_auth_failed", True)
    assert len(cloud.fetched_for) == 1


def test_a_list_of_models_is_not_fetched_with_the_machines_identity_either(cloud: Cloud) -> None:
    own = target(provider=PROVIDERS["azure"], credential={}, api_base="https://cloud.test", organization_id="acme")
    with pytest.raises(UpstreamFault, match="does not use the identity of the gateway's machine"):
        list_models(own, connect_timeout_s=1)
    assert cloud.fetched_for == []


async def test_a_role_of_an_organization_is_assumed_by_its_own_keys(sts: Any) -> None:
    fields = {"parameters": ROLE, "organization_id": "acme", "provider": PROVIDERS["bedrock"]}
    await TokenSource().get("aws", target(credential=OWN, **fields), (("team", "a"),))
    with pytest.raises(UpstreamFault, match="api_key is needed, or aws_access_key_id"):
        await TokenSource().get("aws", target(credential={}, **fields), (("team", "a"),))
    assert len(sts.forms) == 1
