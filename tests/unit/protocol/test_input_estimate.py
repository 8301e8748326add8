"""The estimate of a request's input: text, tools, images, documents and audio, in every format of a client."""

import base64
import struct
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol.input_estimate import estimate_content, estimate_request
from gateway.protocol.usage import SAMPLE_CHARACTERS, SAMPLES, estimate_tokens

WORDS = "word " * 400  # 500 tokens


def png(width: int, height: int) -> str:
    head = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", width, height)
    return base64.b64encode(head + bytes(1000)).decode()


def user(*parts: Mapping[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts)}]}


def image_url(url: str, **fields: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **fields}}


def data_url(width: int, height: int) -> str:
    return "data:image/png;base64," + png(width, height)


def claude_image(width: int, height: int) -> dict[str, Any]:
    source = {"type": "base64", "media_type": "image/png", "data": png(width, height)}
    return {"type": "image", "source": source}


# Sources: the documents that the module names, and their examples
PARTS: dict[str, tuple[dict[str, Any], int]] = {
    "OpenAI, 1024 × 1024": (image_url(data_url(1024, 1024)), 765),
    "OpenAI, 2048 × 4096": (image_url(data_url(2048, 4096), detail="high"), 1105),
    "OpenAI, low": (image_url(data_url(4096, 8192), detail="low"), 85),
    "OpenAI, small": (image_url(data_url(512, 512)), 255),
    "OpenAI, by its address": (image_url("https://example.test/a.png"), 765),
    "Responses, 1024 × 1024": ({"type": "input_image", "image_url": data_url(1024, 1024)}, 765),
    "Responses, low": ({"type": "input_image", "image_url": data_url(1024, 1024), "detail": "low"}, 85),
    "Responses, by its id": ({"type": "input_image", "file_id": "file_1"}, 765),
    "Anthropic, 200 × 200": (claude_image(200, 200), 54),
    "Anthropic, 1000 × 1000": (claude_image(1000, 1000), 1334),
    "Anthropic, larger than Claude looks at": (claude_image(4000, 4000), 1600),
    "Anthropic, by its address": ({"type": "image", "source": {"type": "url", "url": "https://x.test"}}, 1500),
    "a PDF of three pages": (
        {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "A" * 160_000}},
        6000,
    ),
    "a document of text": (
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": WORDS}},
        501,
    ),
    "a document of blocks": (
        {"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": WORDS}]}},
        501,
    ),
    "OpenAI's file": (
        {"type": "file", "file": {"file_data": "data:application/pdf;base64," + "A" * 160_000, "filename": ""}},
        6000,
    ),
    "Responses' file": ({"type": "input_file", "file_data": "data:application/pdf;base64," + "A" * 160_000}, 6000),
    "a file by its address": ({"type": "input_file", "file_url": "https://example.test/a.pdf"}, 2000),
    "a second of WAV": ({"type": "input_audio", "input_audio": {"data": "A" * 64_000, "format": "wav"}}, 11),
    "a second of MP3": ({"type": "input_audio", "input_audio": {"data": "A" * 21_334, "format": "mp3"}}, 11),
    "text that begins like a data URL": ({"type": "text", "text": "data:" + "x" * 395}, 101),
}


@pytest.mark.parametrize(("part", "tokens"), PARTS.values(), ids=PARTS.keys())
def test_a_part_has_the_tokens_of_its_providers_formula(part: dict[str, Any], tokens: int) -> None:
    assert estimate_request(user(part)) == tokens + 4
    result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": [part]}]}
    assert tokens <= estimate_request({"messages": [result]}) <= tokens + 10


SCHEMA = {"type": "object", "properties": {"city": {"type": "string", "description": WORDS}}}
GROWING: dict[str, dict[str, Any]] = {
    "a tool of chat": {"tools": [{"type": "function", "function": {"name": "t", "parameters": SCHEMA}}]},
    "a function": {"functions": [{"name": "t", "parameters": SCHEMA}]},
    "a tool of messages": {"tools": [{"name": "t", "input_schema": SCHEMA}]},
    "a response format": {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}},
    "a text format": {"text": {"format": {"type": "json_schema", "schema": SCHEMA}}},
    "a system text": {"system": WORDS},
    "system blocks": {"system": [{"type": "text", "text": WORDS, "cache_control": {"type": "ephemeral"}}]},
    "instructions": {"instructions": WORDS},
    "an input": {"input": WORDS},
    "inputs": {"input": [WORDS]},
    "a prompt": {"prompt": WORDS},
    "a tool call": {
        "messages": [{"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": "t", "arguments": WORDS}}]}]
    },
    "a tool use": {"messages": [{"role": "assistant", "content": [{"type": "tool_use", "input": {"city": WORDS}}]}]},
    "thinking": {"messages": [{"role": "assistant", "content": [{"type": "thinking", "thinking": WORDS}]}]},
    "numbers too large for 64 bits": {"tools": [{"name": "t", "input_schema": {**SCHEMA, "maximum": 10**40}}]},
}


@pytest.mark.parametrize("fields", GROWING.values(), ids=GROWING.keys())
def test_every_place_of_text_is_counted(fields: dict[str, Any]) -> None:
    assert 500 <= estimate_request(fields) <= 560


def test_what_the_model_does_not_read_is_not_counted() -> None:
    secret = {"type": "thinking", "thinking": "", "signature": WORDS}
    redacted = {"type": "redacted_thinking", "data": WORDS}
    assert estimate_request({"messages": [{"role": "assistant", "content": [secret, redacted]}]}) == 4
    assert estimate_request({"model": WORDS, "metadata": {"a": WORDS}, "user": WORDS}) == 0


@pytest.mark.parametrize(
    ("text", "least", "most"),
    [("中" * 1000, 1000, 1010), ("あ" * 1000, 1000, 1010), ("한" * 1000, 1000, 1010), ("ж" * 1000, 300, 700)],
)
def test_a_character_of_chinese_japanese_or_korean_is_a_token(text: str, least: int, most: int) -> None:
    assert least <= estimate_tokens(text) <= most


def test_a_long_text_is_estimated_by_samples() -> None:
    long = ("中" * 100 + "abcd" * 25) * 1000
    assert len(long) > SAMPLES * SAMPLE_CHARACTERS
    exact = 1000 * (100 + 25)
    assert exact * 0.85 <= estimate_tokens(long) <= exact * 1.15


def test_the_rest_of_an_endless_conversation_is_like_its_beginning() -> None:
    message = {"role": "user", "content": [{"type": "text", "text": "x" * 400}]}
    exact = 20_000 * 105
    assert exact * 0.9 <= estimate_content([message] * 20_000) <= exact * 1.1
    parts = [{"role": "user", "content": [{"type": "text", "text": "x" * 400}] * 20_000}]
    assert 20_000 * 40 <= estimate_content(parts) <= 20_000 * 110


def test_a_deep_value_is_counted() -> None:
    deep: Any = "x" * 400
    for _ in range(2000):
        deep = [deep]
    assert estimate_request({"messages": deep, "tools": deep}) >= 100


NAMES = (
    *("type", "role", "content", "text", "source", "data", "image_url", "url", "file", "input_audio", "detail"),
    *("file_data", "media_type", "input", "name", "format", "encrypted_content", "title"),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(NAMES),
            inner
            | st.sampled_from(["image", "image_url", "document", "input_file", "input_audio", "tool_use", "base64"]),
            max_size=5,
        )
    ),
    max_leaves=20,
)


@given(st.dictionaries(st.sampled_from(["messages", "system", "input", "prompt", "tools", "text"]), JSON))
def test_any_json_has_an_estimate(body: dict[str, Any]) -> None:
    assert estimate_request(body) >= 0
