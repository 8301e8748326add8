"""Gemini's wire format: each fixture in any chunking, failures, and embeddings."""

import base64
import json
import struct
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from gateway.protocol.errors import BadRequest, UpstreamFault
from gateway.providers.gemini import PROVIDER
from tests.fakes.gemini import (
    CASES,
    MOMENT,
    accumulated,
    assert_like,
    chat,
    chunkings,
    embeddings,
    of_case,
    of_kind,
    relayed,
    target,
)

# Fixtures


@pytest.mark.parametrize("name", of_kind("request"))
def test_a_request_equals_its_fixture(name: str) -> None:
    case = CASES[name]
    call, where = of_case(case)
    request = PROVIDER.request(call, where, MOMENT)
    wire, url = case["provider_wire"], urlsplit(request.url)
    assert url.path == wire["path"]
    assert dict(parse_qsl(url.query)) == wire.get("query", {})
    assert json.loads(request.body) == wire["body"]
    assert wire["headers"].items() <= request.headers.items()
    assert "g-test" not in request.url


@pytest.mark.parametrize("name", of_kind("response"))
def test_a_whole_answer_equals_its_fixture(name: str) -> None:
    case = CASES[name]
    body, metadata = PROVIDER.relay_body(
        chat(), target(), MOMENT, json.dumps(case["provider_wire"]["body"]).encode(), {}
    )
    assert_like(json.loads(body), case["openai"])
    assert metadata.usage is not None
    assert metadata.usage.total_input == case["openai"]["usage"]["prompt_tokens"]


@pytest.mark.parametrize("name", of_kind("stream"))
def test_a_stream_equals_its_fixture_in_any_chunking(name: str) -> None:
    case = CASES[name]
    wire = case["provider_wire"]
    for pieces in chunkings(wire["body_text"].encode(), wire["cuts"]):
        chunks, is_done = relayed(pieces, include_usage=case["openai"]["include_usage"])
        assert is_done == case["openai"]["done"]
        assert_like(accumulated(chunks), case["openai"]["accumulated"])


@pytest.mark.parametrize("name", of_kind("error"))
def test_an_error_equals_its_fixture(name: str) -> None:
    case = CASES[name]
    wire, expected = case["provider_wire"], case["openai"]
    fault = PROVIDER.failure(target(), wire["status"], wire["headers"], json.dumps(wire["body"]).encode())
    assert fault.status == expected["status"]
    error = {"message": fault.message, "type": fault.type, "param": fault.param, "code": fault.code}
    assert_like({"error": error}, expected["body"])
    assert {name.decode(): value.decode() for name, value in fault.headers} == expected.get("headers", {})


# Failures


def failed(status: int, name: str, message: str = "x", **fields: Any) -> UpstreamFault:
    error = {"code": status, "message": message, "status": name, **fields}
    return PROVIDER.failure(target(), status, {}, json.dumps({"error": error}).encode())


def test_a_bad_key_is_an_authentication_fault_despite_status_400() -> None:
    reason = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}
    fault = failed(400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key.", details=[reason])
    assert (fault.status, fault.code, fault.is_retryable) == (502, "upstream_auth_failed", True)


@pytest.mark.parametrize(
    ("status", "name", "message", "expected"),
    [
        (400, "INVALID_ARGUMENT", "Bad schema", (400, None)),
        (400, "INVALID_ARGUMENT", "The input token count (9) exceeds the maximum number of tokens allowed (5).",
         (400, "context_length_exceeded")),
        (400, "FAILED_PRECONDITION", "User location is not supported for the API use.", (502, "upstream_auth_failed")),
        (400, "FAILED_PRECONDITION", "The File abc is not in an ACTIVE state.", (400, None)),
        (401, "UNAUTHENTICATED", "x", (502, "upstream_auth_failed")),
        (403, "PERMISSION_DENIED", "x", (502, "upstream_auth_failed")),
        (404, "NOT_FOUND", "x", (404, "model_not_found")),
        (429, "RESOURCE_EXHAUSTED", "x", (429, "rate_limit_exceeded")),
        (500, "INTERNAL", "x", (502, "upstream_error")),
        (503, "UNAVAILABLE", "x", (503, "overloaded")),
        (504, "DEADLINE_EXCEEDED", "x", (504, "upstream_timeout")),
        (499, "CANCELLED", "x", (502, "upstream_error")),
    ],
)  # fmt: skip
def test_failure_classes(status: int, name: str, message: str, expected: tuple[int, str | None]) -> None:
    fault = failed(status, name, message)
    assert (fault.status, fault.code) == expected


def test_a_daily_quota_is_no_rate_limit() -> None:
    quota = {"violations": [{"quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier"}]}
    assert failed(429, "RESOURCE_EXHAUSTED", details=[quota]).code == "insufficient_quota"


def test_a_fraction_of_a_second_is_rounded_up() -> None:
    fault = failed(429, "RESOURCE_EXHAUSTED", details=[{"retryDelay": "3.2s"}])
    assert fault.headers == ((b"retry-after", b"4"),)


def test_an_error_in_an_array_is_read() -> None:
    body = json.dumps([{"error": {"code": 404, "message": "models/x is not found", "status": "NOT_FOUND"}}]).encode()
    assert PROVIDER.failure(target(), 404, {}, body).message == "models/x is not found"


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"null", b'{"error":"text"}', b'{"error":{"message":7}}'])
def test_an_unreadable_error_is_a_fault(body: bytes) -> None:
    assert PROVIDER.failure(target(), 500, {}, body).code == "upstream_error"


def test_errors_hide_accounts_and_keys() -> None:
    message = "Quota of projects/acme-prod-1/locations/us and project_number:123456789 for key g-test is out"
    text = failed(429, "RESOURCE_EXHAUSTED", message).message
    for secret in ("acme-prod-1", "123456789", "g-test"):
        assert secret not in text


# Embeddings


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_embeddings_have_openais_shape(encoding: str) -> None:
    body = json.dumps({"embeddings": [{"values": [0.5, -1]}, {"values": [0.25, 2]}]}).encode()
    answer, metadata = PROVIDER.relay_body(
        embeddings(input=["a", "b"], encoding_format=encoding), target(), MOMENT, body, {}
    )
    client_answer = json.loads(answer)
    first = client_answer["data"][0]["embedding"]
    assert (list(struct.unpack("<2f", base64.b64decode(first))) if encoding == "base64" else first) == [0.5, -1]
    assert [item["index"] for item in client_answer["data"]] == [0, 1]
    assert client_answer["model"] == "alias-1"
    assert client_answer["usage"]["prompt_tokens"] == client_answer["usage"]["total_tokens"]
    assert metadata.usage is None  # Close estimates it


def test_token_arrays_are_refused() -> None:
    with pytest.raises(BadRequest) as caught:
        PROVIDER.request(embeddings(input=[1, 2]), target(), MOMENT)
    assert PROVIDER.request(embeddings(input="a", user="u"), target(), MOMENT).dropped == ("user",)
    assert caught.value.param == "input"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"embeddings":[]}',
        b'{"embeddings":[{"values":["x"]}]}',
        b'{"embeddings":[{}]}',
        b'{"error":{}}',
    ],
)
def test_an_answer_without_its_vectors_is_a_fault(body: bytes) -> None:
    with pytest.raises(UpstreamFault):
        PROVIDER.relay_body(embeddings(input="a"), target(), MOMENT, body, {})
