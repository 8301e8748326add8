"""Whole answers of Converse, and its errors."""

import json
from typing import Any

import pytest

from gateway.protocol.dialects.bedrock import upstream_answer as bedrock_answer
from gateway.protocol.errors import UpstreamFault
from gateway.protocol.events import (
    Finished,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolArgumentsDelta,
    ToolCallStarted,
    UsageReported,
)
from gateway.protocol.usage import Usage
from gateway.providers.bedrock import PROVIDER
from tests.fakes.bedrock import END, START, chat, delta, read, stop, stream, target, whole
from tests.fakes.provider_cases import MOMENT

# Whole answers


def test_a_whole_answer() -> None:
    content = [
        {"reasoningContent": {"reasoningText": {"text": "Hm", "signature": "sig"}}},
        {"reasoningContent": {"redactedContent": "aGk="}},
        {"text": "Sure"},
        {"citationsContent": {"content": [{"text": ", as said"}], "citations": []}},
        {"toolUse": {"toolUseId": "s", "name": "search", "input": {}, "type": "server_tool_use"}},
        {"toolUse": {"toolUseId": "a", "name": "weather", "input": {"n": 12345678901234567890123}}},
        {"toolUse": {"toolUseId": "b", "name": "weather", "input": {}}},
        {"unknown": 1},
    ]
    events = bedrock_answer.decode_body(whole(content, "end_turn"), upstream_id="rq")
    assert events == [
        Started("rq", ""),
        ReasoningDelta("Hm"),
        ReasoningDelta(signature="sig"),
        ReasoningDelta(redacted="aGk="),
        TextDelta("Sure"),
        TextDelta(", as said"),
        ToolCallStarted(0, "a", "weather"),
        ToolArgumentsDelta(0, '{"n":12345678901234567890123}'),
        ToolCallStarted(1, "b", "weather"),
        ToolArgumentsDelta(1, "{}"),
        UsageReported(Usage(input_tokens=3, output_tokens=2), {"inputTokens": 3, "outputTokens": 2, "totalTokens": 5}),
        Finished("tool_calls"),
    ]
    _, metadata = PROVIDER.relay_body(chat(), target(), MOMENT, whole([{"text": "x"}]), {"x-amzn-requestid": "rq-7"})
    assert metadata.upstream_id == "rq-7"


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("tool_use", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("guardrail_intervened", "content_filter"),
        ("content_filtered", "content_filter"),
        ("something_new", "stop"),
        (None, "stop"),
        (["x"], "stop"),
    ],
)
def test_finish_reasons(reason: Any, finish: str) -> None:
    assert bedrock_answer.decode_body(whole([{"text": "x"}], reason))[-1] == Finished(finish)
    assert Finished(finish) in read(stream(START, delta(text="x"), ("messageStop", {"stopReason": reason}), END))


@pytest.mark.parametrize("reason", ["malformed_model_output", "malformed_tool_use"])
def test_a_malformed_answer_is_a_fault(reason: str) -> None:
    for attempt in (
        lambda: bedrock_answer.decode_body(whole([], reason)),
        lambda: read(stream(START, stop(reason), END)),
    ):
        with pytest.raises(UpstreamFault) as fault:
            attempt()
        assert (fault.value.status, fault.value.code) == (502, "upstream_malformed_tool_call")
        assert fault.value.is_retryable


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"null",
        b'{"message":"x"}',
        b'{"output":[]}',
        b'{"output":{"message":{"content":"x"}}}',
        b'{"toolUse":' + b"[" * 5000,
        whole([{"toolUse": {"name": "x"}}]),
        whole([{"toolUse": {"toolUseId": 1, "name": "x"}}]),
        whole([{"text": 5}]),
    ],
)
def test_an_unusable_answer_is_a_fault(body: bytes) -> None:
    with pytest.raises(UpstreamFault):
        bedrock_answer.decode_body(body)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({}, None),
        ({"inputTokens": 0}, None),
        ({"inputTokens": 5, "outputTokens": 4}, Usage(input_tokens=5, output_tokens=4)),
        ({"inputTokens": -5, "outputTokens": 4}, Usage(output_tokens=4, is_inconsistent=True)),
        ({"inputTokens": "5", "outputTokens": True, "totalTokens": 9}, Usage(output_tokens=9, is_inconsistent=True)),
        (
            {
                "inputTokens": 1,
                "outputTokens": 2,
                "totalTokens": 3,
                "cacheReadInputTokens": 4,
                "cacheWriteInputTokens": 10,
                "cacheDetails": [{"ttl": "1h", "inputTokens": 6}, {"ttl": "5m", "inputTokens": 4}, "x"],
            },
            Usage(1, cache_read_tokens=4, cache_write_5m_tokens=4, cache_write_1h_tokens=6, output_tokens=2),
        ),
        ({"cacheWriteInputTokens": 3, "cacheDetails": 7}, Usage(cache_write_5m_tokens=3)),
    ],
)
def test_usage_is_disjoint(raw: dict[str, Any], expected: Usage | None) -> None:
    assert bedrock_answer.read_usage(raw) == expected


# Errors


@pytest.mark.parametrize(
    ("name", "status", "message", "expected"),
    [
        ("ThrottlingException", 429, "Too many tokens, please wait", (429, "rate_limit_exceeded", True)),
        ("ServiceQuotaExceededException", 400, "Quota", (429, "insufficient_quota", True)),
        ("ModelNotReadyException", 429, "Wait", (503, "overloaded", True)),
        ("ServiceUnavailableException", 503, "", (503, "overloaded", True)),
        ("ModelTimeoutException", 408, "", (504, "upstream_timeout", True)),
        ("ModelErrorException", 424, "x", (502, "upstream_error", True)),
        ("InternalServerException", 500, "x", (502, "upstream_error", True)),
        ("ResourceNotFoundException", 404, "No model", (404, "model_not_found", True)),
        ("AccessDeniedException", 403, "no", (502, "upstream_auth_failed", True)),
        ("UnrecognizedClientException", 403, "bad token", (502, "upstream_auth_failed", True)),
        ("ExpiredTokenException", 400, "expired", (502, "upstream_auth_failed", True)),
        ("InvalidSignatureException", 403, "clock", (502, "upstream_auth_failed", True)),
        ("ValidationException", 400, "Input is too long for requested model.", (400, "context_length_exceeded", False)),
        ("ValidationException", 400, "The provided model identifier is invalid.", (404, "model_not_found", True)),
        ("ValidationException", 400, "tools.0 is wrong", (400, None, False)),
        (
            "ValidationException",
            400,
            "Invocation of model ID x with on-demand throughput isn’t supported. Retry with an inference profile",
            (404, "model_not_found", True),
        ),
        ("", 403, "", (502, "upstream_auth_failed", True)),
        ("", 500, "", (502, "upstream_error", True)),
        ("SomethingNew", 400, "odd", (400, None, False)),
    ],
)
def test_error_classes(name: str, status: int, message: str, expected: tuple[int, str | None, bool]) -> None:
    url = ":http://internal.amazon.com/coral/com.amazon.bedrock/"
    body = json.dumps({"message": message}).encode()
    fault = PROVIDER.failure(target(), status, {"x-amzn-errortype": name + url if name else ""}, body)
    assert (fault.status, fault.code, fault.is_retryable) == expected
    named_within = json.dumps({"__type": f"com.amazon.coral.service#{name}", "Message": message}).encode()
    again = PROVIDER.failure(target(), status, {}, named_within)
    assert (again.status, again.code, again.message) == (fault.status, fault.code, fault.message)


def test_retry_after_is_passed_on() -> None:
    headers = {"x-amzn-errortype": "ThrottlingException", "retry-after": "7"}
    assert PROVIDER.failure(target(), 429, headers, b"{}").headers == ((b"retry-after", b"7"),)


@pytest.mark.parametrize("body", [b"", b"<html>no</html>", b"[]", b'{"message":5}', b"\xff"])
def test_an_error_without_a_message_has_its_class(body: bytes) -> None:
    assert PROVIDER.failure(target(), 503, {}, body).code == "overloaded"


def test_errors_hide_accounts_and_keys() -> None:
    words = "User arn:aws:iam::111122223333:user/x of 444455556666 with AKIDEXAMPLE at https://internal.amazon.com/x"
    body = json.dumps({"message": words}).encode()
    message = PROVIDER.failure(target(), 400, {"x-amzn-errortype": "ValidationException"}, body).message
    for secret in ("111122223333", "444455556666", "AKIDEXAMPLE", "internal.amazon.com"):
        assert secret not in message
