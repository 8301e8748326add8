"""The client learns of each mistake of its own in one error shape; a forbidden call has no effect."""

import json
from typing import Any

import pytest

from gateway.protocol.json.types import JsonObject
from tests.e2e.gateway import MASTER_KEY, Gateway, eventually
from tests.fakes.raw import RawUpstreams
from tests.fakes.upstream import CREDENTIAL, FakeUpstream

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(60)]

CHAT = "/v1/chat/completions"
ASK: list[Any] = [{"role": "user", "content": "hi"}]
ERROR = {"message", "type", "param", "code"}


def post(gateway: Gateway, key: str, body: bytes, path: str = CHAT) -> Any:
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    return gateway.http.post(path, content=body, headers=headers)


# Keys


def test_every_key_that_does_not_count_is_refused_alike(gateway: Gateway) -> None:
    blocked, deleted, expired = gateway.issue_key(), gateway.issue_key(), gateway.issue_key(duration="1s")
    gateway.admin.post("/key/block", json={"key": blocked})
    gateway.admin.post("/key/delete", json={"keys": [deleted]})
    for key in (blocked, deleted, expired):
        eventually(lambda key=key: gateway.call(key).status_code == 401, within_s=3, what="the key is refused")
    cases: dict[str, str | None] = {
        "missing": None,
        "empty": "",
        "scheme only": "Bearer",
        "wrong": "Bearer sk-" + "A" * 48,
        "not a key": "Bearer hello",
        "blocked": f"Bearer {blocked}",
        "deleted": f"Bearer {deleted}",
        "expired": f"Bearer {expired}",
        "other scheme": "Digest abc",
        "master key cut short": f"Bearer {MASTER_KEY[:-1]}",
        "upstream credential": f"Bearer {CREDENTIAL}",
        "SQL": "Bearer ' OR 1=1 --",
        "percent": "Bearer sk-%",
        "very long": "Bearer sk-" + "x" * 4000,
    }
    shapes = {}
    for path, method in ((CHAT, "POST"), ("/v1/models", "GET")):
        for name, header in cases.items():
            headers = {} if header is None else {"authorization": header}
            body = {"model": "chat", "messages": ASK} if method == "POST" else None
            response = gateway.http.request(method, path, json=body, headers=headers)
            assert response.status_code == 401, (name, response.text)
            error = response.json()["error"]
            assert set(error) == ERROR
            shapes[method, name] = (error["type"], error["code"], error["param"])
            for secret in (blocked, deleted, expired, CREDENTIAL, MASTER_KEY[:-1], "OR 1=1"):
                assert secret not in response.text, name
    assert set(shapes.values()) == {("auth_error", "invalid_api_key", None)}, shapes


def test_bytes_outside_ascii_in_a_key_are_refused(gateway: Gateway) -> None:
    headers = [(b"authorization", b"Bearer sk-\xff\xfe\xe4\xbd\xa0")]
    assert gateway.http.get("/v1/models", headers=headers).status_code == 401


def test_the_key_is_judged_before_the_body(gateway: Gateway) -> None:
    assert post(gateway, "sk-" + "0" * 48, b"{not json").status_code == 401


# Models


@pytest.mark.parametrize("model", ["no-such-model", "模型", "chat ", "CHAT", "up-chat", "", "a" * 5000, "../chat", "*"])
def test_an_unknown_model_is_named(gateway: Gateway, key: str, model: str) -> None:
    response = gateway.call(key, model=model)
    if not model:
        assert response.status_code in {400, 404}
        return
    assert response.status_code == 404, response.text
    error = response.json()["error"]
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert model[:50] in error["message"]


# Bodies

GOOD = '{"model":"chat","messages":[{"role":"user","content":"hi"}]'
BROKEN: dict[str, bytes] = {
    "empty": b"",
    "cut": GOOD.encode(),
    "trailing comma": f"{GOOD},}}".encode(),
    "two values": f"{GOOD}}}{{}}".encode(),
    "list": b"[]",
    "text": b'"chat"',
    "number": b"3",
    "null": b"null",
    "form": b"model=chat&messages=hi",
    "NaN": f'{GOOD},"temperature":NaN}}'.encode(),
    "Infinity": f'{GOOD},"temperature":-Infinity}}'.encode(),
    "overflow": f'{GOOD},"temperature":1e999}}'.encode(),
    "5,000 digits": f'{GOOD},"seed":{"9" * 5000}}}'.encode(),
    "duplicate key": f'{GOOD},"model":"priced"}}'.encode(),
    "duplicate key below": f'{GOOD},"metadata":{{"a":1,"a":2}}}}'.encode(),
    "duplicate key, spaced": f'{GOOD} , "model" : "priced"}}'.encode(),
    "duplicate key, escaped": f'{GOOD},"mod\\u0065l":"priced"}}'.encode(),
    "bad UTF-8": GOOD.encode().replace(b"hi", b"\xff\xfe") + b"}",
    "cut UTF-8": GOOD.encode().replace(b"hi", "你".encode()[:2]) + b"}",
    "UTF-16": f"{GOOD}}}".encode("utf-16"),
    "byte order mark": b"\xef\xbb\xbf" + GOOD.encode() + b"}",
    "deep lists": f'{GOOD},"x":{"[" * 5000}{"]" * 5000}}}'.encode(),
    "deep objects": (GOOD + ',"x":' + '{"a":' * 70 + "1" + "}" * 70 + "}").encode(),
    "very deep": b"[" * 200_000,
    "control character": GOOD.encode().replace(b"hi", b"\x01") + b"}",
    "single quotes": GOOD.replace('"', "'").encode() + b"}",
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_body_that_is_not_one_json_object_is_refused(
    gateway: Gateway, key: str, upstream: FakeUpstream, name: str
) -> None:
    count = len(upstream.requests)
    response = post(gateway, key, BROKEN[name])
    assert response.status_code == 400, response.text[:300]
    error = response.json()["error"]
    assert set(error) == ERROR
    assert error["type"] == "invalid_request_error"
    assert len(upstream.requests) == count


@pytest.mark.parametrize("text", [r"\ud800", r"\udfff\ud800", r"a\u0000b"], ids=["half", "swapped", "null character"])
@pytest.mark.parametrize("place", ["content", "user", "model", "metadata"])
def test_characters_that_no_database_takes_never_break_the_gateway(
    gateway: Gateway, key: str, text: str, place: str
) -> None:
    extra = {"content": "", "metadata": f',"metadata":{{"tags":["{text}"]}}'}.get(place, f',"{place}":"{text}"')
    content = text if place == "content" else "hi"
    model = "" if place == "model" else '"model":"chat",'
    body = f'{{{model}"messages":[{{"role":"user","content":"{content}"}}]{extra}}}'
    assert post(gateway, key, body.encode()).status_code in {200, 400, 404}
    assert gateway.call(key).status_code == 200
    gateway.wait_priced(len(gateway.spend_rows(api_key=key)), api_key=key)


WRONG: dict[str, list[Any]] = {  # field of a chat -> values that it may not have
    "model": [None, 5, [], {}, True],
    "messages": [None, [], "hi", 5, {}, [5], ["x"]],
    "stream": ["yes", 1, [], {}],
    "n": [0, -1, "2", 1.5, True],
    "max_tokens": [-1, "9", 1.5, []],
    "max_completion_tokens": [-1, "9"],
    "temperature": ["hot", [], True],
    "stream_options": [5, [], "x"],
    "tools": ["x", {}, 5],
    "user": [5, [], {}],
    "metadata": ["x", [], 5],
}
CASES: list[tuple[str, JsonObject, str]] = [
    *((CHAT, {name: value}, name) for name, values in WRONG.items() for value in values),
    (CHAT, {"stream": True, "stream_options": {"include_usage": "yes"}}, "stream_options.include_usage"),
    *(("/v1/completions", {"prompt": value}, "prompt") for value in (None, 5, {})),
    *(("/v1/embeddings", {"input": value}, "input") for value in (None, 5, {}, [], [{}])),
    ("/v1/embeddings", {"input": "x", "encoding_format": 5}, "encoding_format"),
]


@pytest.mark.parametrize("case", CASES, ids=[f"{path[4:]} {fields}" for path, fields, _ in CASES])
def test_a_wrong_field_is_named(
    gateway: Gateway, key: str, upstream: FakeUpstream, case: tuple[str, JsonObject, str]
) -> None:
    path, fields, param = case
    count = len(upstream.requests)
    response = gateway.call(key, path, **{"model": "chat", **fields})
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert set(error) == ERROR
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert len(upstream.requests) == count


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (CHAT, {"messages": ASK}, "model"),
        (CHAT, {"model": "chat"}, "messages"),
        ("/v1/completions", {"model": "chat"}, "prompt"),
        ("/v1/embeddings", {"model": "embed"}, "input"),
    ],
)
def test_a_missing_field_is_named(gateway: Gateway, key: str, path: str, body: JsonObject, param: str) -> None:
    response = post(gateway, key, json.dumps(body).encode(), path)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param), response.text


MANAGEMENT: list[tuple[str, JsonObject, str]] = [
    ("/key/generate", {"models": "chat"}, "models"),
    ("/key/generate", {"models": [5]}, "models"),
    ("/key/generate", {"metadata": []}, "metadata"),
    ("/key/generate", {"duration": "soon"}, "duration"),
    ("/key/generate", {"duration": "-5d"}, "duration"),
    ("/key/generate", {"duration": 5}, "duration"),
    ("/key/generate", {"key_alias": 5}, "key_alias"),
    ("/key/generate", {"key_alias": "x" * 300}, "key_alias"),
    ("/key/generate", {"key": "not-a-key-but-quite-long-enough-0123456789"}, "key"),
    ("/key/generate", {"key": 5}, "key"),
    ("/key/generate", {"team_id": []}, "team_id"),
    ("/key/generate", {"max_budget": -1}, "max_budget"),
    ("/key/generate", {"rpm_limit": -1}, "rpm_limit"),
    ("/key/generate", {"tpm_limit": -1}, "tpm_limit"),
    ("/key/generate", {"max_parallel_requests": -1}, "max_parallel_requests"),
    ("/key/generate", {"max_budget": "lots"}, "max_budget"),
    ("/team/new", {"models": 5}, "models"),
    ("/team/new", {"team_id": 5}, "team_id"),
    ("/team/new", {"max_budget": -1}, "max_budget"),
    ("/key/delete", {}, "keys"),
    ("/key/delete", {"keys": "sk-x"}, "keys"),
    ("/key/block", {}, "key"),
    ("/key/update", {}, "key"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "body", "param"), MANAGEMENT, ids=[f"{row[0][1:]} {str(row[1])[:40]}" for row in MANAGEMENT]
)
def test_management_names_a_wrong_field(gateway: Gateway, path: str, body: JsonObject, param: str) -> None:
    response = gateway.admin.post(path, json=body)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert set(error) == ERROR
    assert (error["type"], error["param"]) == ("invalid_request_error", param)


@pytest.mark.parametrize("name", [name for name in BROKEN if name != "empty"])  # which issues a key
def test_management_refuses_what_is_not_one_json_object(gateway: Gateway, name: str) -> None:
    response = gateway.admin.post("/key/generate", content=BROKEN[name], headers={"content-type": "application/json"})
    assert response.status_code == 400, response.text[:300]
    assert set(response.json()["error"]) == ERROR


# Paths and methods


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", CHAT),
        ("PUT", "/v1/completions"),
        ("DELETE", "/v1/embeddings"),
        ("POST", "/v1/models"),
        ("PATCH", "/v1/models/chat"),
        ("GET", "/embeddings"),
        ("POST", "/health/readiness"),
        ("GET", "/key/generate"),
        ("POST", "/key/list"),
        ("DELETE", "/spend/logs"),
    ],
)
def test_a_wrong_method_is_refused(gateway: Gateway, method: str, path: str) -> None:
    response = gateway.admin.request(method, path)
    assert response.status_code == 405, response.text[:300]
    assert set(response.json()["error"]) == ERROR
    assert response.headers["allow"]


@pytest.mark.parametrize(
    "path",
    ["/v1", "/v1/", "/v1/nothing", "/v1/chat", "/v1/chat/completions/x",
     "/v1/%2e%2e/health/readiness", "/v1//models", "/v1/v1/models", "/v1/console/"],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_unknown_path_is_not_found_in_the_openai_shape(gateway: Gateway, key: str, method: str, path: str) -> None:
    response = gateway.http.request(method, path, headers={"authorization": f"Bearer {key}"})
    assert response.status_code in {404, 400}, response.text[:300]
    assert set(response.json()["error"]) == ERROR


# Fields that would lead the call, or a credential, elsewhere

ADDRESSES = [
    "api_base",
    "base_url",
    "api_url",
    "endpoint",
    "azure_endpoint",
    "proxy",
    "aws_bedrock_runtime_endpoint",
]
OTHERS: dict[str, Any] = {
    "api_key": "sk-of-the-client",
    "api_version": "2020-01-01",
    "extra_headers": {"authorization": "Bearer evil", "host": "evil"},
    "headers": {"authorization": "Bearer evil"},
    "default_headers": {"authorization": "Bearer evil"},
    "custom_llm_provider": "anthropic",
    "organization": "org-evil",
    "azure_ad_token": "evil",
    "litellm_credential_name": "other",
    "mock_response": "evil",
}


def redirecting(evil: str) -> dict[str, JsonObject]:
    flat = dict.fromkeys(ADDRESSES, evil) | OTHERS
    inside = {"api_base": evil, "base_url": evil, "api_key": "sk-evil", "model": "openai/up-chat"}
    bodies = {name: {name: value} for name, value in flat.items()}
    bodies |= {
        name: {name: inside}
        for name in (
            "litellm_params",
            "user_config",
            "metadata",
            "litellm_metadata",
            "extra_body",
            "optional_params",
        )
    }
    bodies["model_list"] = {"model_list": [{"model_name": "chat", "litellm_params": inside}]}
    bodies["user_config list"] = {"user_config": {"model_list": [{"model_name": "chat", "litellm_params": inside}]}}
    bodies["fallbacks"] = {"fallbacks": [{"model": "chat", **inside}]}
    bodies["deep"] = {"metadata": {"a": [{"b": {"litellm_params": inside}}]}}
    bodies["everything"] = {**flat, "litellm_params": inside, "model_info": inside}
    return bodies


@pytest.mark.parametrize("name", redirecting(""))
def test_a_client_cannot_lead_its_call_elsewhere(
    gateway: Gateway, key: str, upstream: FakeUpstream, raw: RawUpstreams, name: str
) -> None:
    count = len(upstream.of("up-chat"))
    fields = redirecting(raw.trap_url)[name]
    for path, body in (
        (CHAT, {"messages": ASK}),
        ("/v1/completions", {"prompt": "x"}),
        ("/v1/embeddings", {"input": "x"}),
    ):
        for model, answers in (("chat", {200, 400}), ("gone", {400, 502})):
            response = gateway.call(key, path, **{**fields, **body, "model": model})
            assert response.status_code in answers, response.text
            assert "evil" not in response.text
    for request in upstream.of("up-chat")[count:]:
        assert request.headers["authorization"] == f"Bearer {CREDENTIAL}"
        assert request.headers["host"] == f"127.0.0.1:{upstream.port}"
        assert not {
            "api_base",
            "base_url",
            "api_key",
            "extra_headers",
            "user_config",
            "litellm_params",
        } & set(request.json)
    assert raw.contacts == []


def test_neither_headers_nor_the_address_line_lead_a_call_elsewhere(
    gateway: Gateway, key: str, upstream: FakeUpstream, raw: RawUpstreams
) -> None:
    names = (
        "x-api-base",
        "x-base-url",
        "x-portkey-custom-host",
        "x-litellm-api-base",
        "x-forwarded-host",
        "api-base",
    )
    query = {"api_base": raw.trap_url, "base_url": raw.trap_url, "model": "priced"}
    headers = {"authorization": f"Bearer {key}", **dict.fromkeys(names, raw.trap_url)}
    response = gateway.http.post(CHAT, params=query, headers=headers, json={"model": "chat", "messages": ASK})
    assert response.status_code in {200, 400}
    assert upstream.last().query == ""
    assert not set(names) & set(upstream.last().headers)
    assert raw.contacts == []


def test_a_tool_may_have_a_parameter_of_that_name(gateway: Gateway, key: str, upstream: FakeUpstream) -> None:
    properties = {
        "api_base": {"type": "string"},
        "base_url": {"type": "string"},
        "api_key": {"type": "string"},
    }
    schema = {"type": "object", "properties": properties, "required": ["base_url"]}
    tools = [{"type": "function", "function": {"name": "fetch", "parameters": schema}}]
    assert gateway.call(key, tools=tools).status_code == 200
    assert upstream.last("up-chat").json["tools"] == tools
