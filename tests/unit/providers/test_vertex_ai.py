"""Vertex AI: the address, credential and wire format of each publisher's models."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from gateway.protocol.attempt_context import AttemptContext, Fetched
from gateway.protocol.call import Call
from gateway.protocol.capabilities import default_capabilities
from gateway.protocol.dialect import Hints
from gateway.protocol.dialects.openai import chat as openai_chat
from gateway.protocol.dialects.openai import completions as openai_completions
from gateway.protocol.dialects.openai import embeddings as openai_embeddings
from gateway.protocol.errors import BadRequest, UpstreamFault
from gateway.protocol.provider import Target, UpstreamRequest
from gateway.protocol.secret import Secret
from gateway.protocol.usage import Usage
from gateway.providers.vertex_ai import PROVIDER

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures" / "providers"
CASES = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in FIXTURES.glob("vertex_*.json")}
MOMENT = AttemptContext("attempt-1", 1_800_000_000.0, token="ya29.test")
HI = [{"role": "user", "content": "Hi"}]


def target(
    model: str = "gemini-2.5-flash",
    *,
    project: str = "p1",
    location: str = "",
    api_base: str = "",
    credential: dict[str, str] | None = None,
    **parameters: Any,
) -> Target:
    named = {"vertex_project": project, "vertex_location": location}
    return Target(
        deployment_id="d1",
        model_group="alias-1",
        organization_id=None,
        provider=PROVIDER,
        upstream_model=model,
        api_base=api_base,
        credential={name: Secret(value) for name, value in (credential or {}).items()},
        parameters={name: value for name, value in named.items() if value} | parameters,
        capabilities=default_capabilities(model),
    )


def chat(messages: Any = HI, **fields: Any) -> Call:
    body = {"model": "alias-1", "messages": messages, **fields}
    return openai_chat.DIALECT.decode(json.dumps(body).encode(), Hints())


def embeddings(**fields: Any) -> Call:
    return openai_embeddings.DIALECT.decode(json.dumps({"model": "alias-1", **fields}).encode(), Hints())


def request_for(call: Call, target: Target, context: AttemptContext = MOMENT) -> UpstreamRequest:
    return PROVIDER.request(call, target, context)


@pytest.mark.parametrize("name", sorted(name for name, case in CASES.items() if case["kind"] == "request"))
def test_a_request_equals_its_fixture(name: str) -> None:
    case = CASES[name]
    context, wire = case["context"], case["provider_wire"]
    where = target(context["upstream_model"], project=context["project"], location=context["location"])
    request = request_for(chat(**{k: v for k, v in case["openai"].items() if k != "model"}), where)
    url = urlsplit(request.url)
    assert url.netloc == f"{context['location']}-aiplatform.googleapis.com"
    assert url.path == wire["path"]
    assert dict(parse_qsl(url.query)) == wire.get("query", {})
    assert json.loads(request.body) == wire["body"]
    assert wire["headers"].items() <= request.headers.items()


@pytest.mark.parametrize(
    ("where", "url"),
    [
        (
            target(location="europe-west4"),
            "https://europe-west4-aiplatform.googleapis.com/v1/projects/p1/locations/europe-west4",
        ),
        (target(location="global"), "https://aiplatform.googleapis.com/v1/projects/p1/locations/global"),
        (target(location="eu"), "https://aiplatform.eu.rep.googleapis.com/v1/projects/p1/locations/eu"),
        (target(), "https://us-central1-aiplatform.googleapis.com/v1/projects/p1/locations/us-central1"),
        (
            target(api_base="https://us-east5-aiplatform.googleapis.com/v1"),
            "https://us-east5-aiplatform.googleapis.com/v1/projects/p1/locations/us-east5",
        ),
        (
            target(api_base="http://127.0.0.1:9/v1", location="us-east5"),
            "http://127.0.0.1:9/v1/projects/p1/locations/us-east5",
        ),
        (
            target(project="", credential={"vertex_credentials": '{"project_id": "from-account"}'}, location="global"),
            "https://aiplatform.googleapis.com/v1/projects/from-account/locations/global",
        ),
        (target(project="", credential={"api_key": "k"}), "https://aiplatform.googleapis.com/v1"),
    ],
)
def test_the_place_of_a_model(where: Target, url: str) -> None:
    request = request_for(chat(stream=True), where)
    assert request.url == f"{url}/publishers/google/models/gemini-2.5-flash:streamGenerateContent?alt=sse"


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("gemini-2.5-flash", "publishers/google/models/gemini-2.5-flash:generateContent"),
        ("google/gemini-2.5-flash", "publishers/google/models/gemini-2.5-flash:generateContent"),
        ("endpoints/123", "endpoints/123:generateContent"),
        ("claude-sonnet-4-5@20250929", "publishers/anthropic/models/claude-sonnet-4-5@20250929:rawPredict"),
        ("meta/llama-4-maverick-17b-128e-instruct-maas", "endpoints/openapi/chat/completions"),
    ],
)
def test_each_publishers_models_have_their_path(model: str, path: str) -> None:
    request = request_for(chat(), target(model, location="us-east5"))
    assert request.url.endswith(f"/projects/p1/locations/us-east5/{path}")


def test_a_project_cannot_change_the_path() -> None:
    assert "/projects/a%2F..%2Fb/locations/" in request_for(chat(), target(project="a/../b")).url


def test_without_a_project_another_deployment_may_try() -> None:
    with pytest.raises(UpstreamFault) as caught:
        request_for(chat(), target(project=""))
    assert caught.value.is_retryable


@pytest.mark.parametrize("model", ["gemini-2.5-flash", "claude-sonnet-4-5", "meta/llama-4"])
def test_a_fetched_token_is_the_bearer(model: str) -> None:
    where = target(model)
    assert PROVIDER.token(where) == "google"
    request = request_for(chat(), where)
    assert request.headers["authorization"] == "Bearer ya29.test"
    assert "ya29.test" not in request.url


def test_an_api_key_needs_no_token() -> None:
    where = target(project="", credential={"api_key": "k-secret"})
    assert PROVIDER.token(where) == ""
    request = request_for(chat(), where)
    assert request.headers["x-goog-api-key"] == "k-secret"
    assert "authorization" not in request.headers
    assert "k-secret" not in request.url


@pytest.mark.parametrize("model", ["gemini-2.5-flash", "claude-sonnet-4-5", "meta/llama-4"])
def test_location_parameters_stay_out_of_the_body(model: str) -> None:
    body = json.loads(request_for(chat(), target(model, location="us-east5", temperature=0.5)).body)
    assert not any(name.startswith("vertex") for name in body)
    assert body.get("temperature") == 0.5 or body["generationConfig"] == {"temperature": 0.5}


@pytest.mark.parametrize(("model", "is_fetched"), [("gemini-2.5-flash", True), ("meta/llama-4", False)])
def test_media_are_fetched_for_models_without_addresses_only(model: str, is_fetched: bool) -> None:
    url = "https://a.test/x.png"
    call = chat([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}])
    assert PROVIDER.media(call, target(model)) == ((url,) if is_fetched else ())


@pytest.mark.parametrize(
    ("model", "wire"),
    [("gemini-2.5-flash", "gemini"), ("claude-sonnet-4-5", "anthropic_messages"), ("meta/llama-4", "openai")],
)
def test_each_publisher_has_its_own_wire(model: str, wire: str) -> None:
    assert PROVIDER.wire(target(model)) == wire


@pytest.mark.parametrize(
    ("model", "sizes"),
    [
        ("gemini-embedding-001", [1] * 251),
        ("gemini-embedding-2", [1] * 251),
        ("text-embedding-005", [250, 1]),
        ("meta/llama-4", []),
    ],
)
def test_an_embedding_of_too_many_texts_is_split(model: str, sizes: list[int]) -> None:
    parts = PROVIDER.split(embeddings(input=["x"] * 251), target(model))
    assert [len(part.body["input"]) for part in parts] == sizes
    assert PROVIDER.split(embeddings(input=["x"]), target(model)) == ()
    assert PROVIDER.request(embeddings(input="x", user="u"), target(model), MOMENT).dropped == ("user",)


def test_claude_takes_its_images_inline() -> None:
    url = "https://a.test/x.png"
    call = chat([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}])
    assert PROVIDER.media(call, target("claude-sonnet-4-5")) == (url,)
    context = AttemptContext("a", 0.0, token="t", fetched={url: Fetched("image/png", "QUFB")})
    body = json.loads(request_for(call, target("claude-sonnet-4-5"), context).body)
    assert body["messages"][0]["content"][0]["source"] == {"type": "base64", "media_type": "image/png", "data": "QUFB"}


def test_each_model_answers_in_its_own_format() -> None:
    gemini = {"candidates": [{"content": {"parts": [{"text": "a"}]}, "finishReason": "STOP"}]}
    claude = {
        "id": "m", "type": "message", "role": "assistant", "model": "c", "content": [{"type": "text", "text": "a"}],
        "stop_reason": "end_turn", "usage": {"input_tokens": 1, "output_tokens": 1},
    }  # fmt: skip
    partner = {"id": "x", "choices": [{"index": 0, "message": {"content": "a"}, "finish_reason": "stop"}], "model": "y"}
    for model, answer in (("gemini-2.5-flash", gemini), ("claude-sonnet-4-5", claude), ("meta/llama-4", partner)):
        body, _ = PROVIDER.relay_body(chat(), target(model), MOMENT, json.dumps(answer).encode(), {})
        answers = json.loads(body)
        assert answers["choices"][0]["message"]["content"] == "a"
        assert answers["model"] == "alias-1"


@pytest.mark.parametrize("model", ["gemini-2.5-flash", "claude-sonnet-4-5", "meta/llama-4"])
def test_completions_go_through_chat(model: str) -> None:
    raw = json.dumps({"model": "alias-1", "prompt": "Once", "max_tokens": 5, "suffix": "end"}).encode()
    request = request_for(openai_completions.DIALECT.decode(raw, Hints()), target(model))
    assert request.url.endswith((":generateContent", ":rawPredict", "/chat/completions"))
    assert b"Once" in request.body
    assert request.dropped == ("suffix",)


def test_a_gemini_stream_is_translated() -> None:
    relay = PROVIDER.relay(chat(stream=True), target(), MOMENT)
    fragment = {"candidates": [{"content": {"parts": [{"text": "a"}]}, "finishReason": "STOP"}]}
    text = relay.feed(b"data: " + json.dumps(fragment).encode() + b"\n\n") + relay.finish()
    assert b'"content":"a"' in text
    assert text.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("model", ["gemini-2.5-flash", "claude-sonnet-4-5", "meta/llama-4"])
def test_errors_of_the_platform_are_read_for_every_model(model: str) -> None:
    message = "Publisher Model `projects/p1/locations/us-east5/publishers/x/models/y` was not found"
    body = json.dumps({"error": {"code": 404, "message": message, "status": "NOT_FOUND"}}).encode()
    fault = PROVIDER.failure(target(model), 404, {}, body)
    assert (fault.status, fault.code) == (404, "model_not_found")
    assert "not found" in fault.message
    assert "p1" not in fault.message


def test_claudes_own_errors_are_read_too() -> None:
    error = {"type": "invalid_request_error", "message": "prompt is too long: 9 tokens > 5 maximum"}
    body = json.dumps({"type": "error", "error": error}).encode()
    fault = PROVIDER.failure(target("claude-sonnet-4-5"), 400, {}, body)
    assert (fault.status, fault.code) == (400, "context_length_exceeded")


# Embeddings


def test_embeddings_are_predicted() -> None:
    call = embeddings(input=["a", "b"], dimensions=8, task_type="RETRIEVAL_QUERY")
    request = request_for(call, target("text-embedding-005"))
    assert request.url.endswith("/publishers/google/models/text-embedding-005:predict")
    assert json.loads(request.body) == {
        "instances": [{"content": text, "task_type": "RETRIEVAL_QUERY"} for text in "ab"],
        "parameters": {"outputDimensionality": 8},
    }


def test_predicted_embeddings_report_their_tokens() -> None:
    prediction = [
        {"embeddings": {"values": [number, 1.0], "statistics": {"truncated": False, "token_count": 2}}}
        for number in (0.5, 0.25)
    ]
    answer = json.dumps({"predictions": prediction}).encode()
    body, metadata = PROVIDER.relay_body(embeddings(input=["a", "b"]), target("text-embedding-005"), MOMENT, answer, {})
    upstream_body = json.loads(body)
    assert [item["embedding"] for item in upstream_body["data"]] == [[0.5, 1.0], [0.25, 1.0]]
    assert upstream_body["usage"] == {"prompt_tokens": 4, "total_tokens": 4}
    assert metadata.usage == Usage(input_tokens=4)


def test_the_newer_embedding_models_take_one_content() -> None:
    where = target("gemini-embedding-2")
    request = request_for(embeddings(input="a", dimensions=8), where)
    assert request.url.endswith("/gemini-embedding-2:embedContent")
    body = {"content": {"parts": [{"text": "a"}]}, "embedContentConfig": {"outputDimensionality": 8}}
    assert json.loads(request.body) == body
    with pytest.raises(BadRequest):
        request_for(embeddings(input=["a", "b"]), where)
    answer = json.dumps({"embedding": {"values": [1]}, "usageMetadata": {"promptTokenCount": 3}}).encode()
    upstream_body, metadata = PROVIDER.relay_body(embeddings(input="a"), where, MOMENT, answer, {})
    assert json.loads(upstream_body)["data"][0]["embedding"] == [1]
    assert metadata.usage == Usage(input_tokens=3)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"predictions":[{}]}', b'{"predictions":[]}', b'{"error":{"code":500}}']
)
def test_an_answer_without_its_vectors_is_a_fault(body: bytes) -> None:
    with pytest.raises(UpstreamFault):
        PROVIDER.relay_body(embeddings(input="a"), target("text-embedding-005"), MOMENT, body, {})


# Files of the company


@pytest.mark.parametrize("model", ["gemini-2.5-flash", "claude-sonnet-4-5", "meta/llama-4-maverick-17b"])
def test_a_deployment_may_keep_its_files_from_clients(model: str) -> None:
    part = {"type": "image_url", "image_url": {"url": "gs://company/o.png"}}
    call = chat([{"role": "user", "content": [{"type": "text", "text": "gs://see"}, part]}])
    with pytest.raises(BadRequest) as refused:
        request_for(call, target(model, allow_file_uris=False))
    assert (refused.value.param or "").startswith("messages")
    assert refused.value.code == "unsupported_parameter"
    allowed = request_for(call, target(model))
    assert b"gs://company/o.png" in allowed.body
    assert b"allow_file_uris" not in allowed.body


def test_the_path_of_a_refused_file_is_named() -> None:
    part = {"type": "video_url", "video_url": {"url": "gs://company/o.mp4"}}
    call = chat([*HI, {"role": "user", "content": [part]}])
    with pytest.raises(BadRequest) as refused:
        request_for(call, target("meta/llama-4-maverick-17b", allow_file_uris=False))
    assert refused.value.param == "messages.1.content.0.video_url.url"


def test_texts_and_tool_inputs_may_name_any_file() -> None:
    arguments = {"name": "copy", "arguments": '{"from": "gs://company/o.png"}'}
    messages = [
        {"role": "user", "content": "gs://company/o.png"},
        {"role": "assistant", "tool_calls": [{"id": "c", "type": "function", "function": arguments}]},
        {"role": "tool", "tool_call_id": "c", "content": "gs://company/o.png"},
    ]
    for model in ("gemini-2.5-flash", "claude-sonnet-4-5", "meta/llama-4-maverick-17b"):
        assert b"gs://company/o.png" in request_for(chat(messages), target(model, allow_file_uris=False)).body
