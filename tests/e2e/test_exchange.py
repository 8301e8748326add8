"""One request may become several calls to its upstreams, one more call, a count, or a fetched medium."""

import asyncio
import base64
import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest

from gateway.protocol.json.types import JsonObject
from tests.e2e.conftest import ENVIRONMENT
from tests.e2e.gateway import Gateway
from tests.fakes.upstream import CREDENTIAL, LEAKS, Exchange, FakeUpstream

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(60)]

ASK: list[Any] = [{"role": "user", "content": "hi"}]
PIXEL = b"\x89PNG\r\n\x1a\n" + bytes(range(64))
MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude",
    "content": [{"type": "text", "text": "Hello"}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 3, "output_tokens": 2},
}
COUNTED = 4242
PAUSE_S = 0.05


class Upstream(FakeUpstream):
    """Titan, Claude and Gemini, each as far as these tests go. `most`: embeddings that were asked for at once."""

    def __init__(self) -> None:
        super().__init__()
        self.under_way = 0
        self.most = 0
        self.times: Counter[str] = Counter()

    async def _answer(self, exchange: Exchange) -> None:
        path = exchange.recorded.path
        if path.endswith("/invoke"):
            await self._embed(exchange)
        elif path == "/pixel.png":
            await exchange.reply(PIXEL, content_type="image/png")
        elif path == "/v1/messages/count_tokens":
            status = 500 if exchange.recorded.model == "claude-broken" else 200
            await exchange.reply(json.dumps({"input_tokens": COUNTED}).encode(), status=status)
        elif path == "/v1/messages":
            await exchange.reply(json.dumps(MESSAGE).encode())
        elif match := re.fullmatch(r"/v1beta/models/([\w-]+):generateContent", path):
            await self._generate(exchange, match[1])
        else:
            await super()._answer(exchange)

    async def _embed(self, exchange: Exchange) -> None:
        text = exchange.json["inputText"]
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(PAUSE_S)
        self.under_way -= 1
        if "fail" in text:
            await exchange.reply(b'{"message":"Too many requests"}', status=429)
            return
        answer = {"embedding": [float(len(text)), 1.0], "inputTextTokenCount": 3}
        await exchange.reply(json.dumps(answer).encode())

    async def _generate(self, exchange: Exchange, model: str) -> None:
        self.times[model] += 1
        is_good = "always" not in model and self.times[model] > 1
        candidate = {"content": {"parts": [{"text": "Hello"}] if is_good else []}}
        candidate["finishReason"] = "STOP" if is_good else "MALFORMED_FUNCTION_CALL"
        usage = {"promptTokenCount": 5, "candidatesTokenCount": 2, "totalTokenCount": 7}
        await exchange.reply(json.dumps({"candidates": [candidate], "usageMetadata": usage}).encode())


@pytest.fixture(scope="module")
def trial() -> Iterator[Upstream]:
    with Upstream() as running:
        yield running


@pytest.fixture(scope="module")
def gateway(trial: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    root = trial.url.removesuffix("/v1")
    aws = {"aws_access_key_id": "AKID", "aws_secret_access_key": CREDENTIAL, "aws_region_name": "eu-west-1"}

    def row(name: str, model: str, base: str = root, **params: Any) -> JsonObject:
        return {"model_name": name, "litellm_params": {"model": model, "api_base": base, **params}}

    rows = [
        row("titan", "bedrock/amazon.titan-embed-text-v2:0", input_cost_per_token="2e-8", **aws),
        row("claude", "anthropic/claude-sonnet-4-5", api_key=CREDENTIAL),
        row("claude-broken", "anthropic/claude-broken", api_key=CREDENTIAL),
        row("gemini", "gemini/gemini-2-5-flash", f"{root}/v1beta", api_key=CREDENTIAL),
        row("gemini-always", "gemini/gemini-always", f"{root}/v1beta", api_key=CREDENTIAL),
        row("gemini-sees", "gemini/gemini-sees-always", f"{root}/v1beta", api_key=CREDENTIAL),
        row("plain", "openai_compatible/up-plain", trial.url, api_key=CREDENTIAL),
    ]
    running = Gateway(
        tmp_path_factory.mktemp("gateway-trial"),
        config={"model_list": rows},
        env={**ENVIRONMENT, "TOLLGATE_MEDIA_NETWORKS": "127.0.0.0/8"},
    )
    try:
        yield running.start()
        running.stop()
    finally:
        running.close()


@pytest.fixture
def messages(gateway: Gateway, key: str) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=gateway.url, api_key=key, max_retries=0, timeout=30) as messages_client:
        yield messages_client


def test_a_list_for_a_model_of_one_text_is_one_answer_and_one_row(
    gateway: Gateway, key: str, client: openai.OpenAI, trial: Upstream
) -> None:
    texts = ["x" * (1 + number % 7) for number in range(40)]
    answer = client.embeddings.create(model="titan", input=texts, encoding_format="float")
    assert [item.embedding[0] for item in answer.data] == [len(text) for text in texts]
    assert [item.index for item in answer.data] == list(range(40))
    assert answer.usage.prompt_tokens == 120
    assert 1 < trial.most <= 8
    (row,) = gateway.wait_priced(api_key=key)
    assert row["prompt_tokens"] == 120


def test_one_text_that_is_refused_refuses_the_list(
    gateway: Gateway, key: str, client: openai.OpenAI, trial: Upstream
) -> None:
    before = len(trial.requests)
    with pytest.raises(openai.RateLimitError) as caught:
        client.embeddings.create(model="titan", input=["a", "fail", *["b"] * 100], encoding_format="float")
    assert not any(needle in str(caught.value) for needle in LEAKS)
    assert len(trial.requests) - before < 50, "the others are let go"
    (row,) = gateway.wait_priced(api_key=key)
    assert row["status"] == "failure"


def test_a_malformed_tool_call_is_asked_for_once_more(
    gateway: Gateway, key: str, client: openai.OpenAI, trial: Upstream
) -> None:
    answer = client.chat.completions.create(model="gemini", messages=ASK)
    assert answer.choices[0].message.content == "Hello"
    assert trial.times["gemini-2-5-flash"] == 2
    gateway.wait_priced(2, api_key=key)
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(model="gemini-always", messages=ASK)
    assert caught.value.code == "upstream_malformed_tool_call"
    assert trial.times["gemini-always"] == 2


def test_betas_reach_their_own_wire_and_are_named_on_another(messages: anthropic.Anthropic, trial: Upstream) -> None:
    fields: JsonObject = {"max_tokens": 9, "messages": ASK, "betas": ["context-1m-2025-08-07", "files-api"]}
    own = messages.beta.messages.with_raw_response.create(model="claude", **fields)
    assert trial.last("claude-sonnet-4-5").headers["anthropic-beta"] == "context-1m-2025-08-07,files-api"
    assert "x-tollgate-dropped-params" not in own.headers
    other = messages.beta.messages.with_raw_response.create(model="plain", **fields)
    assert other.headers["x-tollgate-dropped-params"] == "anthropic_beta"
    assert "anthropic-beta" not in trial.last("up-plain").headers


def test_a_beta_that_is_no_name_is_refused(gateway: Gateway, key: str) -> None:
    headers = {"x-api-key": key, "anthropic-beta": "a b"}
    body = {"model": "claude", "max_tokens": 9, "messages": ASK}
    for path in ("/v1/messages", "/v1/messages/count_tokens"):
        response = gateway.http.post(path, json=body, headers=headers)
        assert response.status_code == 400
        assert response.json()["error"]["type"] == "invalid_request_error"


def test_tokens_are_counted_by_the_upstream_or_else_estimated(
    gateway: Gateway, key: str, messages: anthropic.Anthropic, trial: Upstream
) -> None:
    def count(model: str) -> int:
        return messages.messages.count_tokens(model=model, messages=ASK, system="Be short.").input_tokens

    assert count("claude") == COUNTED
    assert trial.last("claude-sonnet-4-5").json == {
        "model": "claude-sonnet-4-5",
        "messages": ASK,
        "system": "Be short.",
    }
    before = len(trial.requests)
    assert count("plain") == count("claude-broken") < 50
    assert [one.model for one in trial.requests[before:]] == ["claude-broken"]
    assert gateway.spend_rows(api_key=key) == [], "counting costs nothing"
    with pytest.raises(anthropic.NotFoundError):
        count("unknown")


def test_a_medium_on_a_private_networks_own_port_is_fetched_where_the_network_is_allowed(
    client: openai.OpenAI, trial: Upstream
) -> None:
    url = f"http://127.0.0.1:{trial.port}/pixel.png"
    with pytest.raises(openai.InternalServerError):  # this model's answers are malformed; what it was asked is seen
        client.chat.completions.create(
            model="gemini-sees",
            messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}],
        )
    request = next(one for one in trial.requests if "gemini-sees" in one.path).json
    inline = request["contents"][0]["parts"][0]["inlineData"]
    assert inline == {"mimeType": "image/png", "data": base64.b64encode(PIXEL).decode()}


def test_the_port_of_a_public_address_is_not_opened_by_an_allowed_network(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model="gemini-sees",
            messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://8.8.8.8:22/"}}]}],
        )
    assert "port" in caught.value.message
