"""One resolver of the end user for every format that clients speak."""

from collections.abc import Callable

import orjson
import pytest

from gateway.pipeline.interpret import interpret, read_hints
from gateway.protocol.dialect import Dialect
from gateway.protocol.dialects.anthropic.client import DIALECT as MESSAGES
from gateway.protocol.dialects.openai.chat import DIALECT as CHAT
from gateway.protocol.dialects.openai.completions import DIALECT as COMPLETIONS
from gateway.protocol.dialects.openai.embeddings import DIALECT as EMBEDDINGS
from gateway.protocol.dialects.responses.client_request import decode as decode_response
from gateway.protocol.json.types import JsonObject

Find = Callable[[JsonObject, dict[bytes, bytes]], str]
ASK = [{"role": "user", "content": "Hi"}]


def find_with(dialect: Dialect, minimal: JsonObject) -> Find:
    return lambda fields, headers: interpret(orjson.dumps(minimal | fields), headers, dialect).end_user


def find_in_response(fields: JsonObject, headers: dict[bytes, bytes]) -> str:
    raw = orjson.dumps({"model": "m", "input": "Hi"} | fields)
    return decode_response(raw, read_hints(headers), lambda prefix: prefix).end_user


FINDERS = {
    "chat": find_with(CHAT, {"model": "m", "messages": ASK}),
    "completions": find_with(COMPLETIONS, {"model": "m", "prompt": "Hi"}),
    "embeddings": find_with(EMBEDDINGS, {"model": "m", "input": "Hi"}),
    "messages": find_with(MESSAGES, {"model": "m", "messages": ASK, "max_tokens": 5}),
    "responses": find_in_response,
}
BODIES: list[tuple[JsonObject, str]] = [
    ({}, ""),
    ({"user": "u"}, "u"),
    ({"litellm_metadata": {"user": "l"}}, "l"),
    ({"metadata": {"user_id": "m"}}, "m"),
    ({"safety_identifier": "s"}, "s"),
    ({"user": "", "safety_identifier": "s"}, "s"),
    ({"litellm_metadata": {"user": 5}, "safety_identifier": "s"}, "s"),
    ({"safety_identifier": "s", "metadata": {"user_id": "m"}}, "m"),
    ({"safety_identifier": "s", "metadata": {"user_id": "m"}, "litellm_metadata": {"user": "l"}}, "l"),
    ({"safety_identifier": "s", "litellm_metadata": {"user": "l"}, "user": "u"}, "u"),
]


@pytest.mark.parametrize("endpoint", FINDERS)
@pytest.mark.parametrize(("fields", "name"), BODIES)
def test_the_body_names_the_end_user_in_one_order(endpoint: str, fields: JsonObject, name: str) -> None:
    assert FINDERS[endpoint](fields, {}) == name


@pytest.mark.parametrize("endpoint", FINDERS)
def test_a_header_names_the_end_user_before_the_body(endpoint: str) -> None:
    find, fields = FINDERS[endpoint], {"user": "u", "metadata": {"user_id": "m"}}
    assert find(fields, {b"x-litellm-end-user-id": b"e"}) == "e"
    assert find(fields, {b"x-litellm-end-user-id": b"e", b"x-litellm-customer-id": b"c"}) == "c"
