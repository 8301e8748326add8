"""Upstream errors: their class, and their text without credentials, addresses and stacks."""

from typing import Any

import orjson
import pytest

from gateway.protocol.call import Finish
from gateway.protocol.dialects.openai.wire import error_body, error_event
from gateway.protocol.error_classes import classify
from gateway.protocol.errors import MAX_UPSTREAM_TEXT, BadRequest, UpstreamFault, sanitize
from tests.fakes.memory import CREDENTIAL, target

LEAKS = {
    "an OpenAI key": ("Incorrect API key provided: sk-proj-AbCdEf1234567890.", "AbCdEf"),
    "a masked key": ("Incorrect API key provided: sk-ab********************wxyz.", "wxyz"),
    "an AWS key": ("The key AKIAIOSFODNN7EXAMPLE is not valid", "AKIAIOSFODNN7EXAMPLE"),
    "a Google key": ("API key AIzaSyD-abc_1234567890 not valid", "AIzaSyD"),
    "a bearer token": ("Invalid header: Authorization: Bearer abc.def", "abc.def"),
    "a JSON web token": ("token eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.sig_nature expired", "sig_nature"),
    "an address": ("cannot POST http://10.1.2.3:8000/v1/chat/completions", "10.1.2.3"),
    "an address in capitals": ("cannot reach HTTPS://Models.Example.Org/v1", "Example.Org"),
    "a host": ("connection to vllm-0.models.svc.cluster.local:8000 refused", "vllm-0"),
    "an internal host": ("upstream gpu7.corp failed", "gpu7"),
    "localhost": ("connect to localhost:11434 refused", "11434"),
    "an IPv4 address": ("no route to 192.168.7.9", "192.168.7.9"),
    "an IPv6 address": ("connect to [fd00:ec2::254]:8000 refused", "fd00:ec2::254"),
    "LightLLM's own address": ("[address=127.0.0.1:45123, pid=77] model not found", "pid=77"),
    "an account": (
        "Rate limit reached for gpt-5 in organization org-AbCdEfGh12345678 on tokens",
        "org-AbCdEfGh12345678",
    ),
    "an ARN": ("arn:aws:bedrock:us-east-1:123456789012:inference-profile/x is not valid", "123456789012"),
    "a Python stack": ('Traceback (most recent call last):\n  File "/srv/llm/serve.py", line 3', "serve.py"),
    "a JavaScript stack": ("TypeError: x\n    at Object.<anonymous> (/srv/app/index.js:1:1)", "index.js"),
}


@pytest.mark.parametrize(("text", "leak"), LEAKS.values(), ids=LEAKS.keys())
def test_upstream_text_never_shows(text: str, leak: str) -> None:
    assert leak not in sanitize(text)


@pytest.mark.parametrize(
    "text",
    [
        "This model's maximum context length is 8192 tokens. However, you requested 9000 tokens.",
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
        "temperature must be between 0 and 1.5, got 1.7",
        "模型不存在",
        "first line\nsecond line",
    ],
)
def test_harmless_upstream_text_is_shown_as_it_is(text: str) -> None:
    assert sanitize(text) == text


def test_the_deployments_own_secrets_are_hidden_wherever_they_stand() -> None:
    assert sanitize(f"key={CREDENTIAL}!{CREDENTIAL}", [CREDENTIAL, ""]) == "key=***!***"


def test_upstream_text_is_bounded_and_without_controls() -> None:
    text = sanitize("\x1b[31mred\x00\r" + "long " * 1000)
    assert len(text) <= MAX_UPSTREAM_TEXT
    assert all(character.isprintable() for character in text)


@pytest.mark.timeout(20)  # hangs for minutes where a shape is searched for in more than linear time
@pytest.mark.parametrize("part", ["a-", "a.", "a.b-", "a+", "1.", "sk-", "eyJ.", "at ", "://"])
def test_a_long_upstream_text_does_not_freeze_the_gateway(part: str) -> None:
    """An upstream repeats its caller's words: what stands in them must not cost seconds."""
    assert len(sanitize(part * (4 * 1024 * 1024 // len(part)))) <= MAX_UPSTREAM_TEXT


#                    status, message, code → status, code, retryable
CLASSES: list[tuple[int, str, str | None, int, str | None, bool]] = [
    (400, "bad", None, 400, None, False),
    (400, "bad", "invalid_value", 400, "invalid_value", False),
    (422, "bad", None, 400, None, False),
    (409, "conflict", None, 400, None, False),
    (418, "", None, 400, None, False),
    (400, "x", "context_length_exceeded", 400, "context_length_exceeded", False),
    (400, "This model's maximum context length is 8 tokens", None, 400, "context_length_exceeded", False),
    (422, "Prompt is too long", None, 400, "context_length_exceeded", False),
    (413, "too many tokens", None, 400, "context_length_exceeded", False),
    (400, "The input token count (9) exceeds the maximum", None, 400, "context_length_exceeded", False),
    (429, "Too many tokens, please wait", None, 429, "rate_limit_exceeded", True),
    (401, "x", None, 502, "upstream_auth_failed", True),
    (402, "x", None, 502, "upstream_auth_failed", True),
    (403, "x", None, 502, "upstream_auth_failed", True),
    (404, "x", None, 404, "model_not_found", True),
    (413, "x", None, 413, "request_too_large", False),
    (429, "x", None, 429, "rate_limit_exceeded", True),
    (429, "x", "insufficient_quota", 429, "insufficient_quota", True),
    (408, "x", None, 504, "upstream_timeout", True),
    (504, "x", None, 504, "upstream_timeout", True),
    (503, "x", None, 503, "overloaded", True),
    (529, "x", None, 503, "overloaded", True),
    (500, "x", None, 502, "upstream_error", True),
    (502, "x", None, 502, "upstream_error", True),
    (599, "x", None, 502, "upstream_error", True),
    (700, "x", None, 502, "upstream_error", True),
]


@pytest.mark.parametrize(("given", "message", "code", "status", "told", "retryable"), CLASSES)
def test_the_class_of_an_upstream_error(
    given: int, message: str, code: str | None, status: int, told: str | None, retryable: bool
) -> None:
    fault = classify(given, message=message, code=code)
    assert (fault.status, fault.code, fault.is_retryable) == (status, told, retryable)
    assert fault.finish in set(Finish)
    assert fault.message
    assert fault.status != 401  # the caller's key is fine
    kind = {429: "rate_limit_error"}.get(status, "invalid_request_error" if status < 500 else "api_error")
    assert fault.type == kind


@pytest.mark.parametrize(("wait_s", "told"), [(3.0, b"3"), (1.2, b"2"), (60.0, b"60")])
@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_passed_on_in_whole_seconds(status: int, wait_s: float, told: bytes) -> None:
    fault = classify(status, message="", retry_after_s=wait_s)
    assert fault.headers == ((b"retry-after", told),)
    assert fault.retry_after_s == wait_s


@pytest.mark.parametrize("status", [400, 500, 404])
def test_retry_after_belongs_to_429_and_503(status: int) -> None:
    fault = classify(status, message="", retry_after_s=3.0)
    assert (fault.headers, fault.retry_after_s) == ((), None)


BODIES: dict[str, tuple[Any, str]] = {
    "OpenAI's object": ({"error": {"message": "no such tool", "param": "tools"}}, "no such tool"),
    "a bare object, as of an older vLLM": (
        {"object": "error", "message": "no such tool", "code": 40303},
        "no such tool",
    ),
    "a string, as of Ollama": ({"error": "no such tool"}, "no such tool"),
    "FastAPI's detail": ({"detail": "no such tool"}, "no such tool"),
    "a list of details": ({"detail": [{"msg": "no"}, {"msg": "such"}]}, "no; such"),
    "Google's array": (
        [{"error": {"code": 400, "message": "no such tool", "status": "INVALID_ARGUMENT"}}],
        "no such tool",
    ),
    "an array": ([1], "The upstream refused the request."),
    "a number": (7, "The upstream refused the request."),
    "an odd error": ({"error": 7}, "The upstream refused the request."),
    "an empty object": ({}, "The upstream refused the request."),
    "a null message": ({"error": {"message": None, "code": {}, "param": []}}, "The upstream refused the request."),
}


def failure(body: Any, status: int = 400) -> UpstreamFault:
    where = target()
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    return where.provider.failure(where, status, {}, raw)


@pytest.mark.parametrize(("body", "message"), BODIES.values(), ids=BODIES.keys())
def test_the_shapes_of_upstream_errors_in_use_are_read(body: Any, message: str) -> None:
    assert failure(body).message == message


@pytest.mark.parametrize("body", [b"", b"<html>Bad Gateway</html>", b'{"error":', b"\xff\xfe", b"null"])
def test_an_error_body_that_is_no_json_is_told_without_it(body: bytes) -> None:
    assert failure(body).message == "The upstream refused the request."


@pytest.mark.parametrize("field", ["message", "code", "param"])
@pytest.mark.parametrize("leak", [CREDENTIAL, "http://10.0.0.5:8000/v1", "sk-proj-abcdefgh12345678"])
def test_no_field_of_an_upstream_error_carries_a_credential_or_an_address(field: str, leak: str) -> None:
    fault = failure({"error": {"message": "m", field: f"see {leak}"}})
    assert leak.encode() not in error_body(fault)


@pytest.mark.parametrize("field", ["message", "code", "param"])
def test_no_field_of_an_upstream_error_is_unbounded(field: str) -> None:
    assert len(error_body(failure({"error": {"message": "m", field: "x" * 60_000}}))) < 4 * MAX_UPSTREAM_TEXT


def test_an_error_is_rendered_in_openais_shape() -> None:
    fault = BadRequest("No.", param="n", code="invalid_value")
    error = {"message": "No.", "type": "invalid_request_error", "param": "n", "code": "invalid_value"}
    assert orjson.loads(error_body(fault)) == {"error": error}
    assert error_event(fault) == b"data: " + error_body(fault) + b"\n\n"
