"""Addresses of Azure's and of old clients lead to the gateway's own paths, and their model wins."""

from typing import Any

import orjson
import pytest

from gateway.edge.path_aliases import MODEL, refuse_azure_path, resolve_alias, resolve_scope, set_model
from gateway.edge.request_guard import find_fault
from gateway.protocol.errors import BadRequest, Fault

NAMED = {
    "/openai/deployments/gpt/chat/completions": ("/v1/chat/completions", "gpt"),
    "/openai/deployments/gpt/chat/completions/": ("/v1/chat/completions", "gpt"),
    "/openai/deployments/org/name/chat/completions": ("/v1/chat/completions", "org/name"),
    "/openai/deployments/gpt/completions": ("/v1/completions", "gpt"),
    "/openai/deployments/gpt/embeddings": ("/v1/embeddings", "gpt"),
    "/openai/deployments/chat/completions": ("/v1/completions", "chat"),
    "/openai/deployments/gpt/responses": ("/v1/responses", "gpt"),
    "/openai/deployments/gpt/responses/resp_1/cancel": ("/v1/responses/resp_1/cancel", "gpt"),
    "/engines/gpt/chat/completions": ("/v1/chat/completions", "gpt"),
    "/engines/gpt/completions": ("/v1/completions", "gpt"),
    "/engines/responses/embeddings": ("/v1/embeddings", "responses"),
    "/v1/engines/gpt 4/embeddings": ("/v1/embeddings", "gpt 4"),
    "/openai/v1/chat/completions": ("/v1/chat/completions", ""),
    "/openai/v1/responses/resp_1/input_items": ("/v1/responses/resp_1/input_items", ""),
    "/openai/v1/models/org/name": ("/v1/models/org/name", ""),
    "/openai/responses": ("/v1/responses", ""),
    "/openai/models": ("/v1/models", ""),
    "/openai/conversations/conv_1/items": ("/v1/conversations/conv_1/items", ""),
}
OTHERS = [
    *("/v1/chat/completions", "/openai", "/openai/", "/openai/v1", "/openai/deployments", "/openai/deployments/"),
    *("/openai/deployments/gpt", "/openai/deployments/gpt/images/generations"),
    *("/openai/v1/files", "/engines", "/engines/gpt", "/engines/gpt/search", "/openai/key/generate"),
    *("/openai/v1/key/info", "/openai/deployments/gpt/key/generate", "/openai/console/", "/openai/v1/chatter"),
    "/openai/deployments/g\npt/embeddings",
]


@pytest.mark.parametrize(("path", "expected"), NAMED.items())
def test_an_alias_has_one_path_and_its_model(path: str, expected: tuple[str, str]) -> None:
    assert resolve_alias(path) == expected


@pytest.mark.parametrize("path", OTHERS)
def test_any_other_path_is_no_alias(path: str) -> None:
    assert resolve_alias(path) is None


@pytest.mark.parametrize("path", [*NAMED, *OTHERS])
def test_an_alias_is_resolved_once(path: str) -> None:
    alias = resolve_alias(path)
    assert alias is None or resolve_alias(alias.path) is None


def test_the_scope_of_the_server_stays_as_it_is() -> None:
    scope = {"path": "/engines/gpt/embeddings", "method": "POST"}
    assert resolve_scope(scope) == {"path": "/v1/embeddings", "method": "POST", MODEL: "gpt"}
    assert scope == {"path": "/engines/gpt/embeddings", "method": "POST"}


BODIES: list[tuple[bytes, dict[str, Any]]] = [
    (b'{"messages":[]}', {"messages": [], "model": "a/ü"}),
    (b"{}", {"model": "a/ü"}),
    (b'{"model":"other","n":1}', {"model": "a/ü", "n": 1}),
    (b'{"model":null}', {"model": "a/ü"}),
    (b'{"model":["other"]}', {"model": "a/ü"}),
    (b'{"m\\u006fdel":"other"}', {"model": "a/ü"}),
    (b'{"tools":[{"model":"inner"}]}', {"tools": [{"model": "inner"}], "model": "a/ü"}),
    (b'{"tools":[{"model":"inner"}],"model":"other"}', {"tools": [{"model": "inner"}], "model": "a/ü"}),
    (b'{"seed":12345678901234567890, "input":"\\"model\\":\\"x\\""}', {}),
]


@pytest.mark.parametrize(("raw", "expected"), BODIES)
def test_the_model_of_the_address_wins(raw: bytes, expected: dict[str, Any]) -> None:
    body = orjson.loads(set_model(raw, "a/ü"))
    assert body == (expected or {**orjson.loads(raw), "model": "a/ü"})


@pytest.mark.parametrize("raw", [b"", b"[]", b"null", b"{", b'{"model":"a","model":"b"}'])
def test_a_body_that_is_no_object_is_refused(raw: bytes) -> None:
    with pytest.raises(BadRequest):
        set_model(raw, "gpt")


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/openai/deployments/gpt/nothing", 404, "404"),
        ("/openai/deployments/gpt", 404, "404"),
        ("/openai/v1/nothing", 404, "404"),
        ("/openai/deployments/gpt/images/generations", 501, "not_implemented"),
        ("/openai/v1/files/file-1", 501, "not_implemented"),
        ("/openai/v1/realtime", 501, "not_implemented"),
    ],
)
def test_an_unknown_path_answers_as_azure_does(path: str, status: int, code: str) -> None:
    with pytest.raises(Fault) as refused:
        refuse_azure_path(path)
    assert (refused.value.status, refused.value.code) == (status, code)


def test_only_azures_paths_are_refused_so() -> None:
    refuse_azure_path("/v1/nothing")


@pytest.mark.parametrize(
    ("path", "raw_path", "is_good"),
    [
        ("/openai/deployments/org/name/embeddings", b"/openai/deployments/org%2Fname/embeddings", True),
        ("/engines/org/name/embeddings", b"/engines/org%2fname/embeddings", True),
        ("/openai/v1/responses/x", b"/openai/v1%2fresponses/x", False),
        ("/openai/deployments/../key/generate", b"/openai/deployments/%2e%2e%2fkey/generate", False),
    ],
)
def test_only_a_models_name_may_have_an_encoded_slash(path: str, raw_path: bytes, is_good: bool) -> None:
    headers = [(b"host", b"gate.test")]
    scope: Any = {"type": "http", "path": path, "raw_path": raw_path, "headers": headers, "http_version": "1.1"}
    assert (find_fault(scope) is None) is is_good
