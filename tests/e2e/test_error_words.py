"""Errors in the words that clients look for."""

from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import openai
import pytest

from tests.e2e.gateway import Gateway
from tests.fakes.upstream import CREDENTIAL, INTERNAL_HOST

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(60)]

ASK: list[Any] = [{"role": "user", "content": "hi"}]
LOST = "GPU 3 is lost at [upstream]"


@pytest.fixture
def claude(gateway: Gateway, key: str) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=gateway.url, api_key=key, max_retries=0, timeout=30) as client:
        yield client


def test_an_overflow_has_openais_sentence(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="This model's maximum context length is 8192 tokens") as refused:
        client.chat.completions.create(model="fault-overflow", messages=ASK)
    assert refused.value.code == "context_length_exceeded"


def test_an_overflow_has_anthropics_sentence(claude: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError, match="prompt is too long: 9000 tokens > 8192 maximum"):
        claude.messages.create(model="fault-overflow", max_tokens=5, messages=ASK)


def test_the_upstreams_text_reaches_the_client_and_the_log(gateway: Gateway, client: openai.OpenAI, key: str) -> None:
    with pytest.raises(openai.InternalServerError) as refused:
        client.chat.completions.create(model="fault-words", messages=ASK)
    assert isinstance(refused.value.body, dict)
    assert refused.value.body["message"] == LOST
    error = {"error_code": "502", "error_class": "upstream_error", "error_message": LOST}
    for row in gateway.wait_rows(1, api_key=key):  # each try of the call has its own
        assert row["metadata"]["error_information"] == error


def test_the_text_of_an_error_in_a_stream_reaches_the_client(gateway: Gateway, client: openai.OpenAI, key: str) -> None:
    with pytest.raises(openai.APIError, match="GPU 3 is lost") as broken:
        list(client.chat.completions.create(model="fault-words-frame", messages=ASK, stream=True))
    assert CREDENTIAL not in broken.value.message
    assert INTERNAL_HOST not in broken.value.message
    [row] = gateway.wait_rows(1, api_key=key)
    assert row["metadata"]["error_information"]["error_message"] == broken.value.message


def test_models_have_anthropics_shape_for_its_client(claude: anthropic.Anthropic) -> None:
    models = {model.id: model for model in claude.models.list(limit=1000)}
    assert models["chat"].type == claude.models.retrieve("chat").type == "model"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1/messages", 405), ("POST", "/v1/messages/batches", 404), ("GET", "/v1/messages/x/y", 404)],
)
def test_every_error_below_messages_is_anthropics(
    gateway: Gateway, key: str, method: str, path: str, status: int
) -> None:
    answer = httpx.request(method, gateway.url + path, headers={"x-api-key": key})
    assert answer.status_code == status
    body = answer.json()
    assert (body["type"], body["request_id"]) == ("error", answer.headers["request-id"])


def test_a_refused_key_is_told_in_anthropics_shape(gateway: Gateway) -> None:
    with (
        anthropic.Anthropic(base_url=gateway.url, api_key="sk-wrong", max_retries=0) as claude,
        pytest.raises(anthropic.AuthenticationError) as refused,
    ):
        claude.messages.create(model="chat", max_tokens=5, messages=ASK)
    assert refused.value.request_id
    assert isinstance(refused.value.body, dict)
    assert refused.value.body["request_id"] == refused.value.request_id
