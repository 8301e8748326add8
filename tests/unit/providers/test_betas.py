"""Betas: the features that a client of the Messages format names in header or body reach upstreams of that format."""

from typing import Any

import orjson
import pytest

from gateway.pipeline.interpret import interpret
from gateway.protocol.attempt_context import AttemptContext
from gateway.protocol.call import Call
from gateway.protocol.dialects.anthropic.client import DIALECT
from gateway.protocol.dialects.openai import chat as openai_chat
from gateway.protocol.errors import BadRequest
from gateway.protocol.provider import Target, UpstreamRequest
from gateway.providers.registry import PROVIDERS
from tests.fakes.memory import target

BODY = {"model": "public", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}


def read_call(header: bytes | None = None, **fields: Any) -> Call:
    headers = {} if header is None else {b"anthropic-beta": header}
    return interpret(orjson.dumps({**BODY, **fields}), headers, DIALECT)


def claude(name: str = "anthropic", **changes: Any) -> Target:
    fields = {
        "provider": PROVIDERS[name],
        "upstream_model": "claude-sonnet-4-5",
        "api_base": "http://first.test",
        "parameters": {"vertex_project": "p"} if name == "vertex_ai" else {},
    }
    return target(**(fields | changes))


def request_for(call: Call, where: Target) -> UpstreamRequest:
    return where.provider.request(call, where, AttemptContext("a", 0.0, token="t"))


@pytest.mark.parametrize("name", ["anthropic", "azure_ai", "vertex_ai"])
def test_a_clients_header_is_passed_on(name: str) -> None:
    request = request_for(read_call(b"context-1m-2025-08-07, files-api_2025.04,context-1m-2025-08-07"), claude(name))
    assert request.headers["anthropic-beta"] == "context-1m-2025-08-07,files-api_2025.04"


def test_a_call_with_betas_still_passes_through_byte_for_byte() -> None:
    plain, with_header = read_call(), read_call(b"context-1m")
    assert request_for(with_header, claude()).body == request_for(plain, claude()).body
    assert "anthropic-beta" not in request_for(plain, claude()).headers


def test_header_body_and_deployment_add_up() -> None:
    where = claude(headers={"anthropic-beta": "of-headers"}, parameters={"anthropic_beta": ["of-parameters"]})
    request = request_for(read_call(b"of-client", anthropic_beta=["of-body", "of-client"]), where)
    assert request.headers["anthropic-beta"] == "of-headers,of-parameters,of-client,of-body"
    assert "anthropic_beta" not in orjson.loads(request.body)


@pytest.mark.parametrize("value", [b"", b" ", b",", b" , ,"])
def test_an_empty_header_asks_for_nothing(value: bytes) -> None:
    assert read_call(value).betas == ()


BAD = ["a b", "a;b", "a\tb", "é", "-a", "x" * 65, ",".join(f"b{number}" for number in range(33)), "a\x7f", "a=b", '"a"']


@pytest.mark.parametrize("value", BAD)
def test_an_invalid_name_is_refused(value: str) -> None:
    with pytest.raises(BadRequest) as caught:
        read_call(value.encode("latin-1"))
    assert caught.value.param == "anthropic-beta"
    for body in (value, [value]):
        with pytest.raises(BadRequest) as caught:
            read_call(anthropic_beta=body)
        assert caught.value.param == "anthropic_beta"


@pytest.mark.parametrize("value", ["a\r\nx-api-key: k", "a\nb", "a\0b"])
def test_a_body_cannot_write_headers(value: str) -> None:
    with pytest.raises(BadRequest):
        read_call(anthropic_beta=[value])


def test_the_number_of_betas_is_limited() -> None:
    names = [f"b{number}" for number in range(32)]
    assert read_call(",".join(names).encode()).betas == tuple(names)
    assert read_call(b"x" * 64).betas == ("x" * 64,)


def test_betas_of_another_dialects_client_are_ignored() -> None:
    body = orjson.dumps({"model": "public", "messages": [{"role": "user", "content": "hi"}]})
    call = interpret(body, {b"anthropic-beta": b"no name at all"}, openai_chat.DIALECT)
    assert call.betas == ()
    assert "anthropic-beta" not in request_for(call, claude()).headers
