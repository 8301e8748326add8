"""The application of a call, by its headers, reaches the call in each format of clients."""

import orjson
import pytest

from gateway.pipeline.interpret import interpret, read_hints
from gateway.pipeline.responses.create import interpret as interpret_response
from gateway.pipeline.run import Inbound
from gateway.protocol.dialect import Dialect
from gateway.protocol.dialects.anthropic.client import DIALECT as MESSAGES
from gateway.protocol.dialects.openai.chat import DIALECT as CHAT
from gateway.protocol.dialects.openai.embeddings import DIALECT as EMBEDDINGS

HEADERS = {b"user-agent": b"claude-cli/2.0.14 (external, cli)"}
MESSAGE = {"role": "user", "content": "hello"}


@pytest.mark.parametrize(
    ("dialect", "body"),
    [
        (CHAT, {"messages": [MESSAGE]}),
        (EMBEDDINGS, {"input": "hello"}),
        (MESSAGES, {"messages": [MESSAGE], "max_tokens": 5}),
    ],
)
@pytest.mark.parametrize("more", [{}, {b"x-litellm-tags": b"red"}])
def test_a_call_names_its_application(dialect: Dialect, body: dict[str, object], more: dict[bytes, bytes]) -> None:
    call = interpret(orjson.dumps({"model": "m", **body}), HEADERS | more, dialect)
    assert call.application == "claude-code"
    assert call.tags == (("red",) if more else ())


def test_a_response_names_its_application() -> None:
    body = orjson.dumps({"model": "m", "input": "hello"})
    assert interpret_response(Inbound("id", HEADERS, body)).application == "claude-code"


def test_a_call_without_the_headers_has_no_application() -> None:
    assert read_hints({}).application == ""
