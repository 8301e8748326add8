"""The cost that a caller is told is the cost of the spend row, to the picodollar."""

import json
import uuid
from decimal import Decimal
from typing import Any

import httpx
import pytest

from gateway.protocol.json.types import JsonObject
from tests.e2e.gateway import Gateway, decimal_cost

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

TELL = {"x-tollgate-include-cost": "true"}
USAGE = {"stream": True, "stream_options": {"include_usage": True}}


def ask(gateway: Gateway, key: str, path: str, headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
    fields = {"model": "priced", **body}
    answer = gateway.http.post(path, json=fields, headers={"authorization": f"Bearer {key}", **(headers or {})})
    assert answer.status_code == 200, answer.text
    return answer


def chat(gateway: Gateway, key: str, headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
    messages = [{"role": "user", "content": f"say {uuid.uuid4()}"}]
    return ask(gateway, key, "/v1/chat/completions", headers, **{"messages": messages, **body})


def read_events(answer: httpx.Response) -> list[JsonObject]:
    texts = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: {")]
    return [json.loads(text, parse_float=Decimal) for text in texts]


def test_a_whole_answer_tells_the_cost_of_its_row(gateway: Gateway, key: str) -> None:
    answer = chat(gateway, key)
    [row] = gateway.wait_priced(api_key=key)
    told = {Decimal(answer.headers[name]) for name in ("x-litellm-response-cost", "x-tollgate-cost")}
    assert told == {decimal_cost(row)}
    assert decimal_cost(row) > 0


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/responses"])
def test_a_stream_tells_the_cost_of_its_row_at_its_end(gateway: Gateway, key: str, path: str) -> None:
    text = {"/v1/completions": "prompt", "/v1/responses": "input"}.get(path)
    body: JsonObject = {text: "say hello"} if text else {"messages": [{"role": "user", "content": "say hello"}]}
    answer = ask(gateway, key, path, TELL, **(USAGE if text != "input" else {"stream": True}), **body)
    last = read_events(answer)[-1]
    usages = [usage for one in read_events(answer) if (usage := (one.get("response") or one).get("usage"))]
    assert usages == [(last.get("response") or last)["usage"]], "usage is told once"
    [row] = gateway.wait_priced(api_key=key)
    assert usages[0]["cost"] == decimal_cost(row) > 0
    assert "x-tollgate-cost" not in answer.headers


def test_a_stream_tells_no_cost_to_a_client_that_does_not_ask(gateway: Gateway, key: str) -> None:
    for headers in ({}, {"x-tollgate-include-cost": "false"}):
        assert "cost" not in read_events(chat(gateway, key, headers, **USAGE))[-1]["usage"]


def test_a_stream_without_a_price_tells_no_cost(gateway: Gateway, key: str) -> None:
    answer = chat(gateway, key, TELL, model="chat", **USAGE)
    assert "cost" not in read_events(answer)[-1]["usage"]
    whole = chat(gateway, key, model="chat")
    assert not {"x-tollgate-cost", "x-litellm-response-cost"} & set(whole.headers)


def test_an_answer_of_the_cache_tells_that_it_cost_nothing(gateway: Gateway, key: str) -> None:
    body = {"messages": [{"role": "user", "content": f"say {uuid.uuid4()}"}], "cache": {"ttl": 300}, **USAGE}
    first, second = (read_events(chat(gateway, key, TELL, **body))[-1]["usage"] for _ in range(2))
    assert first["cost"] > 0
    assert second == {**first, "cost": 0}
    plain = read_events(chat(gateway, key, **body))[-1]["usage"]
    assert "cost" not in plain


def test_a_header_that_says_neither_yes_nor_no_is_refused(gateway: Gateway, key: str) -> None:
    answer = gateway.http.post(
        "/v1/chat/completions",
        json={"model": "priced", "messages": [{"role": "user", "content": "hi"}], **USAGE},
        headers={"authorization": f"Bearer {key}", "x-tollgate-include-cost": "perhaps"},
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "x-tollgate-include-cost"
