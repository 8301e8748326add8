"""Azure OpenAI and Azure AI Foundry: which address a call goes to, and with which credential."""

from typing import Any

import orjson
import pytest

from gateway.protocol.attempt_context import AttemptContext
from gateway.protocol.provider import Provider, Target
from gateway.protocol.secret import Secret
from gateway.providers import azure, azure_ai
from tests.fakes import memory
from tests.fakes.memory import decode
from tests.fakes.provider_cases import MOMENT

AZURE, AZURE_AI = azure.PROVIDER, azure_ai.PROVIDER


def target(**changes: Any) -> Target:
    return memory.target(**{"upstream_model": "m", **changes})


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": "alias-1", "messages": [{"role": "user", "content": "Hi"}], **fields}


@pytest.mark.parametrize(
    ("base", "version", "url"),
    [
        ("https://r.openai.azure.com", None, "/openai/deployments/a%2Fb/chat/completions?api-version=2024-10-21"),
        (
            "https://r.openai.azure.com/",
            "2024-02-01",
            "/openai/deployments/a%2Fb/chat/completions?api-version=2024-02-01",
        ),
        ("https://r.openai.azure.com", "v1", "/openai/v1/chat/completions"),
        ("https://r.openai.azure.com/openai/v1/", None, "/openai/v1/chat/completions"),
        ("https://r.openai.azure.com", "preview", "/openai/v1/chat/completions?api-version=preview"),
    ],
)
def test_azure_is_asked_at_the_address_of_its_version(base: str, version: str | None, url: str) -> None:
    parameters = {"api_version": version} if version else {}
    made = AZURE.request(
        decode(chat(stream=True)), target(api_base=base, upstream_model="a/b", parameters=parameters), MOMENT
    )
    assert made.url == "https://r.openai.azure.com" + url
    body = orjson.loads(made.body)
    assert body["model"] == "a/b"
    assert "api_version" not in body
    assert ("stream_options" in body) == (version != "2024-02-01")


@pytest.mark.parametrize("provider", [AZURE, AZURE_AI])
def test_azure_takes_a_key_or_a_token_of_entra(provider: Provider) -> None:
    base = "https://r.services.ai.azure.com"
    with_key = target(api_base=base, credential={"api_key": Secret("k")})
    without = target(api_base=base, credential={})
    assert (provider.token(with_key), provider.token(without)) == ("", "entra")
    headers = provider.request(decode(chat()), with_key, MOMENT).headers
    assert headers["api-key"] == "k"
    assert "authorization" not in headers
    headers = provider.request(decode(chat()), without, AttemptContext("a", 1.0, token="t")).headers
    assert headers["authorization"] == "Bearer t"
    assert "api-key" not in headers


@pytest.mark.parametrize(
    ("base", "model", "url"),
    [
        ("https://r.services.ai.azure.com", "m", "/models/chat/completions?api-version=2024-05-01-preview"),
        ("https://r.services.ai.azure.com/models", "m", "/models/chat/completions?api-version=2024-05-01-preview"),
        ("https://r.services.ai.azure.com/openai/v1", "m", "/openai/v1/chat/completions"),
        ("https://m.eastus.models.ai.azure.com", "m", "/v1/chat/completions"),
        ("https://m.eastus.models.ai.azure.com/v1", "m", "/v1/chat/completions"),
        ("https://r.services.ai.azure.com", "claude-opus-4-6", "/anthropic/v1/messages"),
        ("https://r.services.ai.azure.com/anthropic", "my-deployment", "/anthropic/v1/messages"),
    ],
)
def test_foundry_is_asked_at_the_door_of_the_model(base: str, model: str, url: str) -> None:
    made = AZURE_AI.request(decode(chat(max_tokens=5)), target(api_base=base, upstream_model=model), MOMENT)
    assert made.url == base.partition(".com")[0] + ".com" + url
    assert orjson.loads(made.body)["model"] == model


def test_foundry_is_told_to_pass_on_what_it_does_not_know() -> None:
    at = target(api_base="https://r.services.ai.azure.com/models", upstream_model="m")
    plain = AZURE_AI.request(decode(chat(temperature=0.5)), at, MOMENT)
    assert "extra-parameters" not in plain.headers
    for body in (chat(top_k=5), chat(stream=True)):
        assert AZURE_AI.request(decode(body), at, MOMENT).headers["extra-parameters"] == "pass-through"


def test_completions_are_asked_as_chat_where_there_are_none() -> None:
    call = decode({"model": "alias-1", "prompt": "Once", "max_tokens": 5}, "completion")
    at = target(api_base="https://r.openai.azure.com", parameters={"api_version": "v1"})
    made = AZURE.request(call, at, MOMENT)
    assert made.url.endswith("/openai/v1/chat/completions")
    assert orjson.loads(made.body)["messages"] == [{"role": "user", "content": "Once"}]
    answer = {"id": "1", "choices": [{"index": 0, "message": {"content": " upon"}, "finish_reason": "stop"}]}
    shown, _ = AZURE.relay_body(call, at, MOMENT, orjson.dumps(answer), {})
    assert orjson.loads(shown)["choices"][0]["text"] == " upon"
