"""A context overflow reads the same for a client, whichever upstream tells it."""

import orjson
import pytest

from gateway.protocol.dialects.anthropic.client import error_body as anthropic_body
from gateway.protocol.dialects.openai.wire import error_body as openai_body
from gateway.protocol.error_classes import classify

MANY = "However, your messages resulted in 9000 tokens. Please reduce the length of the messages."
OPENAI = f"This model's maximum context length is 8192 tokens. {MANY}"
NUMBERED = [
    "prompt is too long: 9000 tokens > 8192 maximum",
    (
        "This model's maximum context length is 8192 tokens. However, you requested 9000 tokens (8000 in the messages, "
        "1000 in the completion)."
    ),
    "The input token count (9000) exceeds the maximum number of tokens allowed (8192).",
    "Prompt contains 9000 tokens, too large for model with 8192 maximum context length",
    "This model's maximum prompt length is 8,192 but the request contains 9,000 tokens.",
    "request (9000 tokens) exceeds the available context size (8192 tokens), try increasing it",
    "The input (9000 tokens) is longer than the model's context length (8192 tokens).",
    "too many tokens: total number of tokens in the prompt cannot exceed 8192 - received 9000.",
]


def messages_of(text: str) -> tuple[str, str]:
    fault = classify(400, message=text)
    assert (fault.status, fault.code) == (400, "context_length_exceeded")
    return tuple(orjson.loads(render(fault))["error"]["message"] for render in (openai_body, anthropic_body))


@pytest.mark.parametrize("text", NUMBERED)
def test_the_numbers_of_the_upstream_stand_in_the_words_of_the_dialect(text: str) -> None:
    openai_text, anthropic_text = messages_of(text)
    assert openai_text == (text if "maximum context length is" in text else OPENAI)
    assert anthropic_text == "prompt is too long: 9000 tokens > 8192 maximum"


@pytest.mark.parametrize("text", ["Input is too long for requested model.", "context window of 7 items", "9" * 900])
def test_without_both_numbers_the_text_of_the_upstream_follows(text: str) -> None:
    fault = classify(400, message=text, code="context_length_exceeded")
    openai_text, anthropic_text = (orjson.loads(r(fault))["error"]["message"] for r in (openai_body, anthropic_body))
    assert openai_text == f"This model's maximum context length is exceeded. The upstream says: {text}"
    assert anthropic_text == f"prompt is too long: {text}"


def test_the_sum_that_clients_of_anthropic_read_stays() -> None:
    text = "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000, decrease input length"
    assert messages_of(text)[1] == text


def test_another_error_keeps_its_words() -> None:
    fault = classify(400, message="bad context window of 5", code="bad")
    fault.code = "bad"
    assert orjson.loads(openai_body(fault))["error"]["message"] == "bad context window of 5"
