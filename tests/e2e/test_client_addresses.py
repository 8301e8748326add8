"""Clients that are made for Azure, or for OpenAI's old addresses, work as they are."""

from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from tests.e2e.gateway import Gateway
from tests.fakes.upstream import FakeUpstream

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(60)]

ASK: list[Any] = [{"role": "user", "content": "你是谁?"}]


@pytest.fixture
def azure(gateway: Gateway, key: str) -> Iterator[openai.AzureOpenAI]:
    with openai.AzureOpenAI(
        azure_endpoint=gateway.url, api_key=key, api_version="2024-10-21", max_retries=0, timeout=30
    ) as client:
        yield client


def test_azures_client_chats(azure: openai.AzureOpenAI, upstream: FakeUpstream) -> None:
    answer = azure.chat.completions.create(model="chat", messages=ASK)
    assert "你是谁?" in (answer.choices[0].message.content or "")
    assert answer.model == "chat"
    assert "api-version" not in upstream.last("up-chat").query


def test_azures_client_streams(azure: openai.AzureOpenAI) -> None:
    chunks = list(azure.chat.completions.create(model="chat", messages=ASK, stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert "你是谁?" in text
    assert {chunk.model for chunk in chunks} == {"chat"}


def test_azures_client_embeds_and_completes(azure: openai.AzureOpenAI) -> None:
    assert len(azure.embeddings.create(model="embed", input=["a", "b"]).data) == 2
    assert azure.completions.create(model="chat", prompt="Say hi").choices[0].text


def test_azures_client_continues_a_response(azure: openai.AzureOpenAI) -> None:
    first = azure.responses.create(model="chat", input="你是谁?")
    second = azure.responses.create(model="chat", input="And now?", previous_response_id=first.id)
    assert second.previous_response_id == first.id
    assert azure.responses.retrieve(second.id).output_text == second.output_text
    with azure.responses.stream(model="chat", input="Go on.", previous_response_id=second.id) as stream:
        assert stream.get_final_response().status == "completed"
    azure.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        azure.responses.retrieve(first.id)


def test_a_client_of_one_deployment_gets_this_one(gateway: Gateway, key: str, upstream: FakeUpstream) -> None:
    with openai.AzureOpenAI(
        azure_endpoint=gateway.url, azure_deployment="priced", api_key=key, api_version="2024-10-21", max_retries=0
    ) as client:
        asked = client.chat.completions.create(model="chat", messages=ASK)
        assert asked.model == "priced"
        assert {model.id for model in client.models.list()} >= {"chat", "priced"}


def test_the_v1_address_of_azure(gateway: Gateway, key: str) -> None:
    with openai.OpenAI(base_url=f"{gateway.url}/openai/v1", api_key=key, max_retries=0) as client:
        assert client.chat.completions.create(model="chat", messages=ASK).model == "chat"
        assert client.models.retrieve("chat").id == "chat"
        assert client.responses.create(model="chat", input="hi").status == "completed"


@pytest.mark.parametrize("root", ["/engines", "/v1/engines"])
def test_engines_answer(gateway: Gateway, key: str, root: str) -> None:
    for operation, body in {
        "chat/completions": {"messages": ASK},
        "completions": {"prompt": "Say hi"},
        "embeddings": {"input": "x"},
    }.items():
        model = "embed" if operation == "embeddings" else "chat"
        answer = gateway.call(key, f"{root}/{model}/{operation}", **{"model": model, **body})
        assert answer.status_code == 200, answer.text
        assert answer.json()["model"] == model


def test_a_key_stays_within_its_models_and_routes(gateway: Gateway) -> None:
    narrow = gateway.issue_key(models=["chat"])
    path = "/openai/deployments/priced/chat/completions"
    assert gateway.call(narrow, path, model="chat").status_code == 403
    assert gateway.call(narrow, path.replace("priced", "chat"), model="priced").status_code == 200
    no_chat = gateway.issue_key(allowed_routes=["/v1/embeddings"])
    assert gateway.call(no_chat, "/engines/chat/chat/completions").json()["error"]["code"] == "route_not_allowed"


def test_what_is_not_there_is_said_as_azure_says_it(gateway: Gateway, key: str, azure: openai.AzureOpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as absent:
        azure.chat.completions.create(model="no/such model", messages=ASK)
    assert absent.value.code == "model_not_found"
    unknown = gateway.call(key, "/openai/deployments/chat/nothing?api-version=2024-10-21")
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "404")
    assert unknown.json()["error"]["message"] == "Resource not found"
    assert gateway.call(key, "/openai/deployments/chat/images/generations").status_code == 501
    anonymous = httpx.post(f"{gateway.url}/openai/deployments/chat/chat/completions", json={"messages": ASK})
    assert anonymous.status_code == 401
    odd = gateway.http.post("/openai/deployments/chat/chat/completions", content=b"[1]", headers={"api-key": key})
    assert odd.status_code == 400
