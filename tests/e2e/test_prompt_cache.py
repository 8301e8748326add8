"""A deployment that marks what to cache: every client's request reaches the upstream with marks, and the row says what
they saved."""

import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from gateway.protocol.json.types import JsonObject
from tests.e2e.conftest import ENVIRONMENT
from tests.e2e.gateway import Gateway
from tests.fakes.upstream import CREDENTIAL
from tests.fakes.wire_server import FakeWires

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(60)]

RULES = "All the rules of the house. " * 400
HI: list[Any] = [{"role": "user", "content": "Hi"}]
MARK = {"type": "ephemeral"}
POINT = {"cachePoint": {"type": "default"}}
PRICES = {
    "input_cost_per_token": "3e-6",
    "output_cost_per_token": "15e-6",
    "cache_read_input_token_cost": "3e-7",
    "cache_creation_input_token_cost": "3.75e-6",
    "cache_creation_input_token_cost_above_1hr": "6e-6",
}


@pytest.fixture(scope="module")
def wires() -> Iterator[FakeWires]:
    with FakeWires() as running:
        yield running


@pytest.fixture(scope="module")
def gateway(wires: FakeWires, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    claude = {"model": "anthropic/claude-sonnet-4-5", "api_base": wires.root, "api_key": CREDENTIAL, **PRICES}
    bedrock = {
        "model": "bedrock/anthropic.claude-sonnet-4-5-20250929-v1:0",
        "api_base": wires.root,
        "aws_region_name": "us-east-1",
        "aws_access_key_id": "AKIDEXAMPLE",
        "aws_secret_access_key": CREDENTIAL,
        **PRICES,
    }
    rows = [
        {"model_name": "plain", "litellm_params": claude},
        {"model_name": "caching", "litellm_params": {**claude, "cache_breakpoints": True}},
        {"model_name": "caching-bedrock", "litellm_params": {**bedrock, "cache_breakpoints": True}},
    ]
    running = Gateway(tmp_path_factory.mktemp("gateway-cache"), config={"model_list": rows}, env=ENVIRONMENT)
    try:
        yield running.start()
        running.stop()
    finally:
        running.close()


def sent(wires: FakeWires, model: str = "claude-sonnet-4-5") -> JsonObject:
    return wires.last_request(model).json


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_chat_is_marked(gateway: Gateway, wires: FakeWires, stream: bool) -> None:
    messages = [{"role": "system", "content": RULES}, *HI]
    key = gateway.issue_key()
    assert gateway.call(key, model="caching", messages=messages, stream=stream).status_code == 200
    body = sent(wires)
    assert body["system"] == [{"type": "text", "text": RULES, "cache_control": MARK}]
    assert body["messages"][0]["content"][-1]["cache_control"] == MARK
    (row,) = gateway.wait_priced(api_key=key)
    usage = row["metadata"]["usage_object"]
    read, hour = usage["cache_read_input_tokens"], usage["cache_creation"]["ephemeral_1h_input_tokens"]
    rest = usage["cache_creation_input_tokens"] - hour
    saved = read * Decimal("2.7e-6") - rest * Decimal("0.75e-6") - hour * Decimal("3e-6")
    assert Decimal(row["cache_saving"]) == saved


def test_a_response_and_a_message_are_marked(gateway: Gateway, wires: FakeWires) -> None:
    key = gateway.issue_key()
    with gateway.openai(key) as client:
        first = client.responses.create(model="caching", instructions=RULES, input="Hi")
        assert sent(wires)["system"][0]["cache_control"] == MARK
        client.responses.create(model="caching", instructions=RULES, input="More", previous_response_id=first.id)
    marked = ["cache_control" in message["content"][-1] for message in sent(wires)["messages"]]
    assert marked == [True, False, True]
    message = {"model": "caching", "max_tokens": 20, "system": RULES, "messages": HI}
    assert gateway.call(key, "/v1/messages", **message).status_code == 200
    assert json.dumps(sent(wires)).count("cache_control") == 2


def test_nothing_is_marked_unasked(gateway: Gateway, wires: FakeWires) -> None:
    key = gateway.issue_key()
    messages = [{"role": "system", "content": RULES}, *HI]
    gateway.call(key, model="plain", messages=messages)
    assert "cache_control" not in json.dumps(sent(wires))
    gateway.call(key, model="caching", messages=HI)  # too short
    assert "cache_control" not in json.dumps(sent(wires))
    own = [
        {"role": "system", "content": [{"type": "text", "text": RULES, "cache_control": {**MARK, "ttl": "1h"}}]},
        *HI,
    ]
    gateway.call(key, model="caching", messages=own)
    assert json.dumps(sent(wires)).count("cache_control") == 1


def test_bedrock_gets_cache_points(gateway: Gateway, wires: FakeWires) -> None:
    messages = [{"role": "system", "content": RULES}, *HI]
    answer = gateway.call(gateway.issue_key(), model="caching-bedrock", messages=messages)
    assert answer.status_code == 200, answer.text
    body = sent(wires, "anthropic.claude-sonnet-4-5-20250929-v1")
    assert body["system"][-1] == body["messages"][-1]["content"][-1] == POINT
