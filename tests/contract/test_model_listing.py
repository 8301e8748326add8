"""Which models an upstream has: one fake upstream for every wire, asked through the management API and the console."""

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from django.test import Client
from django_scopes import scopes_disabled

from gateway.deployments import save_deployment
from gateway.models import Deployment
from gateway.protocol.attempt_context import AttemptContext
from gateway.protocol.json.types import JsonObject
from gateway.protocol.listing import ModelLister
from gateway.providers.registry import PROVIDERS
from gateway.stores.catalog import target_of
from tenants.models import User
from tests.contract.models import SECRET, Api, answer_of, refused, watched

pytestmark = pytest.mark.django_db

INTERNAL = "http://10.1.2.3:8000/private"


@dataclass(slots=True)
class Answer:
    body: Any
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Asked:
    path: str
    query: dict[str, str]
    headers: dict[str, str]


class Upstream:
    """Answers each GET by what `answers` says of its path. Closes: `close()`."""

    def __init__(self) -> None:
        self.requests: list[Asked] = []
        self.answers: dict[str, Answer | Callable[[Asked], Answer]] = {}
        upstream = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                query = {name: values[0] for name, values in parse_qs(parts.query).items()}
                request = Asked(parts.path, query, {name.lower(): value for name, value in self.headers.items()})
                upstream.requests.append(request)
                script = upstream.answers.get(parts.path, Answer({"error": {"message": "no such path"}}, 404))
                answer = script if isinstance(script, Answer) else script(request)
                raw = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
                self.send_response(answer.status)
                for name, value in {"content-length": str(len(raw)), **answer.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *arguments: Any) -> None:
                """Logs nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    upstream = Upstream()
    yield upstream
    upstream.close()


@pytest.fixture
def api(client: Client) -> Iterator[Api]:
    yield from watched(client)


def deployed(provider: str, api_base: str, credential: JsonObject | None = None, **fields: Any) -> Deployment:
    with scopes_disabled():
        row = Deployment(
            model_group="m", provider=provider, api_base=api_base, **{"upstream_model": "gpt-4o", **fields}
        )
        return save_deployment(row, credential={"api_key": SECRET} if credential is None else credential)


def listed(api: Api, row: Deployment) -> list[str]:
    answer = answer_of(api.get("/model/upstream", {"model_id": row.id}))
    assert answer == {"model_id": row.id, "provider": row.provider, "models": answer["models"]}
    models: list[str] = answer["models"]
    return models


OPENAI = {"object": "list", "data": [{"id": "qwen", "object": "model"}, {"id": "gpt-4o"}, {"id": "北京"}]}
NAMES = ["gpt-4o", "qwen", "北京"]


# One wire each


@pytest.mark.parametrize("provider", ["openai", "openai_compatible", "hosted_vllm", "xinference", "mindie", "lightllm"])
def test_openais_dialect_lists_models(api: Api, upstream: Upstream, provider: str) -> None:
    upstream.answers["/v1/models"] = Answer(OPENAI)
    row = deployed(provider, f"{upstream.url}/v1", parameters={"extra_headers": {"X-Zone": "b"}})
    assert listed(api, row) == NAMES
    [request] = upstream.requests
    assert request.headers["authorization"] == f"Bearer {SECRET}"
    assert request.headers["x-zone"] == "b"
    assert request.query == {}


def test_a_bare_list_is_a_list(api: Api, upstream: Upstream) -> None:
    upstream.answers["/v1/models"] = Answer(OPENAI["data"])
    assert listed(api, deployed("together_ai", f"{upstream.url}/v1")) == NAMES


def test_a_disabled_model_lists_its_upstream_too(api: Api, upstream: Upstream) -> None:
    upstream.answers["/v1/models"] = Answer(OPENAI)
    assert listed(api, deployed("openai", f"{upstream.url}/v1", {}, enabled=False)) == NAMES
    assert "authorization" not in upstream.requests[0].headers


@pytest.mark.parametrize(
    ("version", "path", "query"),
    [
        (None, "/openai/models", {"api-version": "2024-10-21"}),
        ("2025-04-01-preview", "/openai/models", {"api-version": "2025-04-01-preview"}),
        ("v1", "/openai/v1/models", {}),
        ("preview", "/openai/v1/models", {"api-version": "preview"}),
    ],
)
def test_azure_lists_models_by_its_version(
    api: Api, upstream: Upstream, version: str | None, path: str, query: JsonObject
) -> None:
    upstream.answers[path] = Answer(OPENAI)
    row = deployed("azure", upstream.url, parameters={"api_version": version} if version else {})
    assert listed(api, row) == NAMES
    assert upstream.requests[0].query == query
    assert upstream.requests[0].headers["api-key"] == SECRET


def test_foundry_lists_models_at_its_openai_address(api: Api, upstream: Upstream) -> None:
    upstream.answers["/openai/v1/models"] = Answer(OPENAI)
    assert listed(api, deployed("azure_ai", f"{upstream.url}/openai/v1")) == NAMES
    refused(
        api.get("/model/upstream", {"model_id": deployed("azure_ai", upstream.url).id}),
        400,
        "model_id",
        "not_offered",
    )


def test_anthropic_lists_models_in_pages(api: Api, upstream: Upstream) -> None:
    def page(request: Asked) -> Answer:
        if "after_id" not in request.query:
            return Answer({"data": [{"id": "claude-b"}], "has_more": True, "first_id": "b", "last_id": "claude-b"})
        return Answer({"data": [{"id": "claude-a"}], "has_more": False, "last_id": "claude-a"})

    upstream.answers["/v1/models"] = page
    assert listed(api, deployed("anthropic", upstream.url)) == ["claude-a", "claude-b"]
    first, second = upstream.requests
    assert first.query == {"limit": "1000"}
    assert second.query == {"limit": "1000", "after_id": "claude-b"}
    assert first.headers["x-api-key"] == second.headers["x-api-key"] == SECRET
    assert first.headers["anthropic-version"] == "2023-06-01"


def test_gemini_lists_models_in_pages_and_the_key_is_no_query(api: Api, upstream: Upstream) -> None:
    def page(request: Asked) -> Answer:
        if "pageToken" not in request.query:
            return Answer({"models": [{"name": "models/gemini-b"}], "nextPageToken": "t+/="})
        return Answer({"models": [{"name": "tunedModels/a"}]})

    upstream.answers["/v1beta/models"] = page
    assert listed(api, deployed("gemini", f"{upstream.url}/v1beta")) == ["gemini-b", "tunedModels/a"]
    assert [request.query for request in upstream.requests] == [
        {"pageSize": "1000"},
        {"pageSize": "1000", "pageToken": "t+/="},
    ]
    assert {request.headers["x-goog-api-key"] for request in upstream.requests} == {SECRET}


@pytest.mark.parametrize("path", ["", "/v1"])
def test_ollama_lists_models_at_both_addresses(api: Api, upstream: Upstream, path: str) -> None:
    upstream.answers["/api/tags"] = Answer({"models": [{"name": "qwen3:8b", "model": "qwen3:8b", "size": 1}]})
    upstream.answers["/v1/models"] = Answer({"data": [{"id": "qwen3:8b"}]})
    assert listed(api, deployed("ollama", upstream.url + path, {})) == ["qwen3:8b"]
    assert upstream.requests[0].path == ("/v1/models" if path else "/api/tags")


def test_bedrock_lists_models_with_a_signed_request(api: Api, upstream: Upstream) -> None:
    upstream.answers["/foundation-models"] = Answer({"modelSummaries": [{"modelId": "amazon.nova-lite-v1:0"}]})
    keys = {"aws_access_key_id": "AKIA-of-the-test", "aws_secret_access_key": SECRET}
    row = deployed("bedrock", upstream.url, keys, parameters={"aws_region_name": "eu-west-1"})
    assert listed(api, row) == ["amazon.nova-lite-v1:0"]
    [request] = upstream.requests
    signed = AWSRequest("GET", upstream.url + request.path, data=b"")
    signed.headers["content-type"] = request.headers["content-type"]
    signed.headers["host"] = request.headers["host"]
    signed.headers["x-amz-date"] = signed.context["timestamp"] = request.headers["x-amz-date"]
    theirs = SigV4Auth(SimpleNamespace(access_key="", secret_key=SECRET, token=""), "bedrock", "eu-west-1")
    text = theirs.string_to_sign(signed, theirs.canonical_request(signed))
    assert request.headers["authorization"].endswith(f"Signature={theirs.signature(text, signed)}")


@pytest.mark.parametrize(
    ("api_base", "region", "host"),
    [
        ("", "eu-west-1", "bedrock.eu-west-1.amazonaws.com"),
        ("", "cn-north-1", "bedrock.cn-north-1.amazonaws.com.cn"),
        ("https://bedrock-runtime-fips.us-east-1.amazonaws.com", "", "bedrock-fips.us-east-1.amazonaws.com"),
    ],
)
def test_bedrock_calls_the_host_beside_the_runtime(api_base: str, region: str, host: str) -> None:
    target = target_of(deployed("bedrock", api_base, parameters={"aws_region_name": region}))
    provider = target.provider
    assert isinstance(provider, ModelLister)
    request = provider.models_request(target, AttemptContext("m", 0))
    assert request is not None
    assert request.url == f"https://{host}/foundation-models"
    assert request.headers["authorization"] == f"Bearer {SECRET}"


# What cannot be listed


@pytest.mark.parametrize("provider", ["vertex_ai", "mock"])
def test_a_provider_without_a_list_is_reported(api: Api, provider: str) -> None:
    row = deployed(provider, "", {})
    error = refused(api.get("/model/upstream", {"model_id": row.id}), 400, "model_id", "not_offered")
    assert PROVIDERS[provider].title in error["message"]


def test_an_unknown_model_and_a_wrong_query_are_refused(api: Api) -> None:
    refused(api.get("/model/upstream"), 400, "model_id")
    refused(api.get("/model/upstream", {"model_id": "unknown"}), 404, "model_id")
    refused(api.get("/model/upstream", {"id": "x"}), 400, "id")


def test_a_credential_that_cannot_be_opened_is_not_used(api: Api, upstream: Upstream) -> None:
    row = deployed("openai", f"{upstream.url}/v1")
    with scopes_disabled():
        Deployment.objects.filter(id=row.id).update(credential="gone")
    refused(api.get("/model/upstream", {"model_id": row.id}), 400, "model_id", "model_unusable")
    assert upstream.requests == []


# What upstreams do wrong


FAILURES = [
    (Answer({"error": {"message": f"Bad key {SECRET} at {INTERNAL}"}}, 401), "upstream_auth_failed"),
    (Answer({"error": {"message": f"Odd request {SECRET} at {INTERNAL}", "code": "odd"}}, 400), "odd"),
    (Answer({"detail": "Not Found"}, 404), "model_not_found"),
    (Answer({"error": {"message": "slow down"}}, 429), "rate_limit_exceeded"),
    (Answer(b'Traceback (most recent call last):\n  File "/srv/x.py", line 1', 500), "upstream_error"),
    (Answer(b"", 302, {"location": INTERNAL}), "upstream_error"),
    (Answer(b"<html>"), "upstream_error"),
    (Answer({"object": "list"}), "upstream_error"),
    (Answer({"data": {"id": "x"}}), "upstream_error"),
    (Answer(b"{}", headers={"content-encoding": "br"}), "upstream_error"),
    (Answer(b"\x00" * (9 * 1024 * 1024)), "upstream_error"),
    (Answer(b"{", headers={"content-length": "100", "connection": "close"}), "upstream_error"),
]


@pytest.mark.parametrize(("answer", "code"), FAILURES, ids=[f"{i}-{code}" for i, (_, code) in enumerate(FAILURES)])
def test_an_error_of_the_upstream_is_reported_without_secrets(
    api: Api, upstream: Upstream, answer: Answer, code: str
) -> None:
    upstream.answers["/v1/models"] = answer
    row = deployed("openai", f"{upstream.url}/v1")
    error = refused(api.get("/model/upstream", {"model_id": row.id}), 502, None, code)
    for leak in (SECRET, "10.1.2.3", "/srv/", "Traceback"):
        assert leak not in error["message"]
    assert [request.path for request in upstream.requests] == ["/v1/models"]  # no redirect is followed


@pytest.mark.parametrize("provider", ["anthropic", "gemini", "ollama", "bedrock"])
def test_every_wire_reports_failures_alike(api: Api, upstream: Upstream, provider: str) -> None:
    row = deployed(provider, upstream.url)
    refused(api.get("/model/upstream", {"model_id": row.id}), 502, None)


@pytest.mark.parametrize("provider", ["anthropic", "gemini", "ollama", "bedrock"])
@pytest.mark.parametrize("body", [b"nothing", b"[]", b"{}", b'{"data": 1, "models": 1, "modelSummaries": 1}'], ids=str)
def test_every_wire_refuses_an_answer_that_is_no_list(api: Api, upstream: Upstream, provider: str, body: bytes) -> None:
    for path in ("/v1/models", "/models", "/api/tags", "/foundation-models"):
        upstream.answers[path] = Answer(body)
    row = deployed(provider, upstream.url)
    if (provider, body) == ("ollama", b"[]"):
        assert listed(api, row) == []
    else:
        refused(api.get("/model/upstream", {"model_id": row.id}), 502, None, "upstream_error")


def test_pages_without_an_end_are_given_up(api: Api, upstream: Upstream) -> None:
    upstream.answers["/v1/models"] = lambda request: Answer(
        {"data": [{"id": "m"}], "has_more": True, "last_id": f"m{len(upstream.requests)}"}
    )
    row = deployed("anthropic", upstream.url)
    error = refused(api.get("/model/upstream", {"model_id": row.id}), 502, None, "upstream_error")
    assert "pages" in error["message"]


def test_invalid_names_are_left_out(api: Api, upstream: Upstream) -> None:
    data = [{"id": "good"}, {"id": 5}, {"id": ""}, {"id": "two\nlines"}, "text", None, {}, {"id": "good"}]
    upstream.answers["/v1/models"] = Answer({"data": data})
    assert listed(api, deployed("openai", f"{upstream.url}/v1")) == ["good"]


@pytest.mark.parametrize(
    "base", ["http://127.0.0.1:1/v1", "http://no-such-host.invalid/v1", "gopher://x/v1", "http://[::bad/v1"]
)
def test_an_unreachable_upstream_is_reported(api: Api, base: str) -> None:
    row = deployed("anthropic", base)
    error = refused(api.get("/model/upstream", {"model_id": row.id}), 502, None)
    assert base not in error["message"]


def test_a_header_that_cannot_be_sent_is_reported(api: Api, upstream: Upstream) -> None:
    row = deployed("openai", f"{upstream.url}/v1", {"api_key": "schlüssel-北京"})
    refused(api.get("/model/upstream", {"model_id": row.id}), 502, None)


# The console


def test_the_console_lists_the_models_of_the_selected(client: Client, upstream: Upstream) -> None:
    client.force_login(User.objects.create_superuser("root", password="correct horse battery"))
    upstream.answers["/v1/models"] = Answer(OPENAI)
    rows = [deployed("openai", f"{upstream.url}/v1"), deployed("mock", "", {})]
    form = {"action": "list_models", "_selected_action": [row.pk for row in rows]}
    page = client.post("/console/gateway/deployment/", form, follow=True)
    messages = [str(message) for message in page.context["messages"]]
    assert any(", ".join(NAMES) in text for text in messages)
    assert any("offers no list" in text for text in messages)
    assert len(messages) == len(rows)

    many = [deployed("openai", f"{upstream.url}/v1").pk for _ in range(6)]
    client.post("/console/gateway/deployment/", {**form, "_selected_action": many})
    assert len(upstream.requests) == 1  # one call for each would hold the page up
