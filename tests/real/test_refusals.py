"""A refusal or a break of the server reaches the client as an error, never as a whole answer."""

from contextlib import suppress
from typing import Any

import openai
import pytest

from gateway.protocol.json.types import JsonObject
from tests.e2e.gateway import Gateway, eventually
from tests.real.asks import ASK, FORCED, GREEDY, TOOL, TOOLBOX, books, each_way, joined, reasons
from tests.real.conftest import WRONG_KEY
from tests.real.server import API_KEY, CONTEXT

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(60)]

TOO_LONG: list[Any] = [{"role": "user", "content": "word " * CONTEXT}]
each_mended_way = pytest.mark.parametrize("way", ["hosted_vllm", "llamacpp"])


def test_a_model_that_is_not_served_is_not_found(client: openai.OpenAI) -> None:
    """Although this server answers whatever model it is asked for."""
    with pytest.raises(openai.NotFoundError) as refused:
        client.chat.completions.create(model="tiny-chat", messages=ASK)
    assert (refused.value.code, refused.value.param) == ("model_not_found", "model")


@each_way
def test_a_prompt_that_is_too_long_is_the_callers_mistake(
    gateway: Gateway, client: openai.OpenAI, key: str, way: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model=f"small-{way}", messages=TOO_LONG, **GREEDY)
    assert refused.value.code == "context_length_exceeded"
    assert str(CONTEXT) in refused.value.message
    row = books(gateway, key)
    assert (row["status"], row["completion_tokens"]) == ("failure", 0)


@each_way
def test_a_stream_without_any_event_is_no_answer(gateway: Gateway, client: openai.OpenAI, key: str, way: str) -> None:
    """To a streamed call this server says 200 and nothing more when its prompt is too long."""
    with pytest.raises(openai.InternalServerError) as failed:
        list(client.chat.completions.create(model=f"small-{way}", messages=TOO_LONG, stream=True, **GREEDY))
    assert failed.value.status_code == 502
    assert failed.value.code == "upstream_incomplete_stream"
    rows = eventually(lambda: gateway.settled_rows(api_key=key), within_s=15, what="the attempts are settled")
    assert {(row["status"], row["completion_tokens"]) for row in rows} == {("failure", 0)}


def test_a_credential_that_the_server_refuses_is_the_gateways_mistake(client: openai.OpenAI) -> None:
    with pytest.raises(openai.InternalServerError) as failed:
        client.chat.completions.create(model="locked", messages=ASK)
    assert (failed.value.status_code, failed.value.code) == (502, "upstream_auth_failed")
    assert WRONG_KEY not in str(failed.value.body)


@each_way
def test_an_error_of_the_server_shows_nothing_of_its_inside(client: openai.OpenAI, way: str) -> None:
    """It answers a request that it cannot read with 500, the path of its source file, and the input."""
    with pytest.raises(openai.InternalServerError) as failed:
        client.embeddings.create(model=f"vectors-{way}", input=[1, 2, 3])
    assert (failed.value.status_code, failed.value.code) == (502, "upstream_error")
    body = failed.value.response.text
    assert "site-packages" not in body
    assert ".py" not in body
    assert API_KEY not in body


@each_way
def test_a_stream_that_the_server_gave_up_is_not_told_as_complete(client: openai.OpenAI, way: str) -> None:
    """Another call makes this server end the stream it is in the midst of: `[DONE]` without a finish reason."""
    stream = client.chat.completions.create(
        model=f"small-{way}", messages=ASK, temperature=0, max_tokens=3500, stream=True
    )
    chunks = [next(stream)]
    assert client.chat.completions.create(model=f"small-{way}", messages=ASK, **GREEDY).choices
    with suppress(openai.APIError):  # that it broke off may be told
        chunks.extend(stream)
    assert joined(chunks)
    assert len(chunks) < 3000
    assert reasons(chunks) == []


# What this server does not know


@each_mended_way
def test_the_newer_limit_of_tokens_is_kept(client: openai.OpenAI, way: str) -> None:
    ask: JsonObject = {"model": f"small-{way}", "messages": ASK, "temperature": 0}
    text = client.chat.completions.create(**ask, max_tokens=40).choices[0].message.content
    assert text
    answer = client.chat.completions.create(**ask, max_completion_tokens=3, stop=text[20:24])
    assert answer.usage
    assert answer.usage.completion_tokens == 3
    assert answer.choices[0].finish_reason == "length"


@each_mended_way
def test_a_developers_message_is_taken(client: openai.OpenAI, way: str) -> None:
    messages: list[Any] = [{"role": "developer", "content": ASK[0]["content"]}, ASK[1]]
    answer = client.chat.completions.create(model=f"small-{way}", messages=messages, **GREEDY)
    expected = client.chat.completions.create(model=f"small-{way}", messages=ASK, **GREEDY)
    assert answer.choices[0].message.content == expected.choices[0].message.content


@each_mended_way
def test_a_streamed_call_names_its_function_once(client: openai.OpenAI, way: str) -> None:
    """This server repeats name and id in every piece, which a client that puts pieces together takes for one name."""
    ask: JsonObject = {"model": f"caller-{way}", "messages": ASK, "tools": TOOLBOX, "tool_choice": FORCED}
    chunks = list(client.chat.completions.create(**ask, stream=True, **GREEDY))
    deltas = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    assert "".join(call.function.name or "" for call in deltas) == TOOL
    assert len([call.id for call in deltas if call.id]) == 1
