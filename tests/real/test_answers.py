"""The server's answers reach the client of the official SDK unchanged, and the books."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anthropic
import openai
import pytest

from gateway.protocol.json.types import JsonObject
from tests.e2e.gateway import Gateway, eventually
from tests.real.asks import (
    ASK,
    CITIES,
    FORCED,
    GREEDY,
    SCHEMA,
    TOOL,
    TOOLBOX,
    UNITS,
    assert_metered,
    books,
    each_way,
    joined,
    reasons,
)
from tests.real.server import CHAT, EMBEDDING, TOOLS, VECTOR_SIZE, Server

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(60)]

PROMPT = "the gate opens, 你好"
SEEDED: JsonObject = {"temperature": 2, "top_p": 1, "max_tokens": 40, "extra_body": {"min_p": 0, "top_k": 0}}
END_OF_TURN = "4"  # the token's number


# Chat


@each_way
def test_chat_is_what_the_server_says(
    gateway: Gateway, client: openai.OpenAI, direct: openai.OpenAI, key: str, way: str
) -> None:
    expected = direct.chat.completions.create(model=CHAT, messages=ASK, **GREEDY)
    answer = client.chat.completions.create(model=f"small-{way}", messages=ASK, **GREEDY)
    assert answer.choices[0].message.content == expected.choices[0].message.content
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == expected.choices[0].finish_reason == "length"
    assert answer.usage == expected.usage
    assert answer.model == f"small-{way}"
    row = books(gateway, key)
    assert_metered(row, expected.usage)
    assert (row["model"], row["model_group"]) == (f"{way}/{CHAT}", f"small-{way}")


@each_way
def test_streamed_chat_is_the_whole_answer_in_pieces(
    gateway: Gateway, client: openai.OpenAI, direct: openai.OpenAI, key: str, way: str
) -> None:
    expected = direct.chat.completions.create(model=CHAT, messages=ASK, **GREEDY)
    chunks = list(client.chat.completions.create(model=f"small-{way}", messages=ASK, stream=True, **GREEDY))
    assert joined(chunks) == expected.choices[0].message.content
    assert reasons(chunks) == ["length"]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert {chunk.model for chunk in chunks} == {f"small-{way}"}
    assert len({chunk.id for chunk in chunks}) == 1
    assert len(chunks) > 20
    row = books(gateway, key)
    assert row["usage_estimated"] is True  # this server counts nothing in a stream
    assert row["prompt_tokens"] > 0
    assert row["completion_tokens"] > 0


@each_way
def test_a_seed_reaches_the_server(client: openai.OpenAI, direct: openai.OpenAI, way: str) -> None:
    def answer(sdk: openai.OpenAI, model: str, seed: int) -> str | None:
        return sdk.chat.completions.create(model=model, messages=ASK, seed=seed, **SEEDED).choices[0].message.content

    first = answer(direct, CHAT, 7)
    assert answer(client, f"small-{way}", 7) == first
    assert answer(client, f"small-{way}", 8) != first
    chunks = client.chat.completions.create(model=f"small-{way}", messages=ASK, seed=7, stream=True, **SEEDED)
    assert joined(chunks) == first


@each_way
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_stop_sequence_ends_the_text_before_it(client: openai.OpenAI, way: str, stream: bool) -> None:
    model = f"small-{way}"
    text = client.chat.completions.create(model=model, messages=ASK, **GREEDY).choices[0].message.content
    assert text
    stop = text[9:13]
    if stream:
        chunks = list(client.chat.completions.create(model=model, messages=ASK, stop=stop, stream=True, **GREEDY))
        text, why = joined(chunks), reasons(chunks)
    else:
        choice = client.chat.completions.create(model=model, messages=ASK, stop=stop, **GREEDY).choices[0]
        text, why = choice.message.content or "", [choice.finish_reason]
    assert text == text.partition(stop)[0]
    assert why == ["stop"]


@each_way
def test_the_models_own_end_is_told_as_stop(client: openai.OpenAI, way: str) -> None:
    ask: JsonObject = {"model": f"small-{way}", "messages": ASK, "logit_bias": {END_OF_TURN: 100}, **GREEDY}
    choice = client.chat.completions.create(**ask).choices[0]
    chunks = list(client.chat.completions.create(stream=True, **ask))
    assert choice.finish_reason == "stop"
    assert reasons(chunks) == ["stop"]
    assert joined(chunks) == choice.message.content


@each_way
def test_callers_at_the_same_time_get_their_own_answers(client: openai.OpenAI, direct: openai.OpenAI, way: str) -> None:
    def answer(sdk: openai.OpenAI, model: str, text: str) -> str | None:
        messages: list[Any] = [{"role": "user", "content": text}]
        return sdk.chat.completions.create(model=model, messages=messages, **GREEDY).choices[0].message.content

    questions = [f"question {number}" for number in range(8)]
    expected = [answer(direct, CHAT, question) for question in questions]
    assert len(set(expected)) > 1
    with ThreadPoolExecutor(len(questions)) as pool:
        answers = pool.map(lambda question: answer(client, f"small-{way}", question), questions)
    assert list(answers) == expected


@each_way
def test_a_client_that_leaves_stops_the_server(
    gateway: Gateway, client: openai.OpenAI, server: Server, key: str, way: str
) -> None:
    count = server.output().count("Disconnected from client")
    stream = client.chat.completions.create(
        model=f"small-{way}", messages=ASK, temperature=0, max_tokens=3500, stream=True
    )
    next(iter(stream))
    stream.close()
    eventually(
        lambda: server.output().count("Disconnected from client") > count, within_s=10, what="the server has stopped"
    )
    assert books(gateway, key)["cost_status"] == "priced"


# Completions


@each_way
def test_completions_are_what_the_server_says(
    gateway: Gateway, client: openai.OpenAI, direct: openai.OpenAI, key: str, way: str
) -> None:
    expected = direct.completions.create(model=CHAT, prompt=PROMPT, echo=True, **GREEDY)
    answer = client.completions.create(model=f"small-{way}", prompt=PROMPT, echo=True, **GREEDY)
    assert answer.choices[0].text == expected.choices[0].text
    assert answer.choices[0].text.startswith(PROMPT)
    assert answer.choices[0].finish_reason == expected.choices[0].finish_reason == "length"
    assert answer.usage == expected.usage
    assert answer.model == f"small-{way}"
    assert_metered(books(gateway, key), expected.usage)


@each_way
def test_streamed_completions_are_the_whole_text_in_pieces(
    client: openai.OpenAI, direct: openai.OpenAI, way: str
) -> None:
    expected = direct.completions.create(model=CHAT, prompt=PROMPT, **GREEDY)
    chunks = list(client.completions.create(model=f"small-{way}", prompt=PROMPT, stream=True, **GREEDY))
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == expected.choices[0].text
    assert reasons(chunks) == ["length"]
    assert {chunk.model for chunk in chunks} == {f"small-{way}"}
    assert len(chunks) > 20


# Embeddings


@each_way
def test_embeddings_are_the_servers_vectors_in_order(
    gateway: Gateway, client: openai.OpenAI, direct: openai.OpenAI, key: str, way: str
) -> None:
    texts = ["the gate", "你好 🚀", "naïve"]
    expected = direct.embeddings.create(model=EMBEDDING, input=texts)
    result = client.embeddings.create(model=f"vectors-{way}", input=texts)
    assert [item.index for item in result.data] == [0, 1, 2]
    assert [item.embedding for item in result.data] == [item.embedding for item in expected.data]
    assert {len(item.embedding) for item in result.data} == {VECTOR_SIZE}
    assert result.data[0].embedding != result.data[1].embedding
    assert result.usage == expected.usage
    assert result.model == f"vectors-{way}"
    assert_metered(books(gateway, key), expected.usage)


# Tools and schemas


@each_way
@pytest.mark.parametrize("choice", ["auto", FORCED], ids=["auto", "forced"])
def test_a_tool_call_has_the_arguments_that_the_server_wrote(
    gateway: Gateway, client: openai.OpenAI, direct: openai.OpenAI, key: str, way: str, choice: Any
) -> None:
    tools = TOOLBOX[:1]
    expected = direct.chat.completions.create(
        model=TOOLS, messages=ASK, tools=tools, tool_choice=choice, temperature=0, max_tokens=200
    )
    answer = client.chat.completions.create(
        model=f"caller-{way}", messages=ASK, tools=tools, tool_choice=choice, temperature=0, max_tokens=200
    )
    [call], [same] = answer.choices[0].message.tool_calls or [], expected.choices[0].message.tool_calls or []
    assert call.type == same.type == "function"
    assert (call.function.name, call.function.arguments) == (TOOL, same.function.arguments)
    arguments = json.loads(call.function.arguments)
    assert arguments["city"] in CITIES
    assert arguments["unit"] in UNITS
    assert answer.choices[0].finish_reason == "tool_calls"
    assert_metered(books(gateway, key), expected.usage)


@each_way
def test_a_streamed_tool_call_is_the_whole_call_in_pieces(client: openai.OpenAI, way: str) -> None:
    ask: JsonObject = {"model": f"caller-{way}", "messages": ASK, "tools": TOOLBOX, "tool_choice": FORCED}
    whole = client.chat.completions.create(**ask, temperature=0, max_tokens=200)
    [expected] = whole.choices[0].message.tool_calls or []
    chunks = list(client.chat.completions.create(**ask, temperature=0, max_tokens=200, stream=True))
    deltas = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    assert "".join(call.function.arguments or "" for call in deltas) == expected.function.arguments
    assert (deltas[0].function.name, deltas[0].index) == (TOOL, 0)
    assert deltas[0].id
    assert len(deltas) > 10
    assert reasons(chunks) == ["tool_calls"]


@each_way
def test_a_tools_result_is_taken_back(client: openai.OpenAI, way: str) -> None:
    """Beside the calls this server wants a text, were it empty."""
    model = f"caller-{way}"
    called = client.chat.completions.create(model=model, messages=ASK, tools=TOOLBOX, tool_choice=FORCED, **GREEDY)
    [call] = called.choices[0].message.tool_calls or []
    result = {"role": "tool", "tool_call_id": call.id, "content": '{"degrees": 21}'}
    turn = {"role": "assistant", "content": "", "tool_calls": [call.model_dump()]}
    history: list[Any] = [*ASK, turn, result]
    answer = client.chat.completions.create(model=model, messages=history, **GREEDY)
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "length"


@each_way
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_an_answer_keeps_to_the_schema(client: openai.OpenAI, way: str, stream: bool) -> None:
    """This server takes the schema within `json_object`, which is no form of OpenAI's: it passes all the same."""
    form: Any = {"type": "json_object", "schema": SCHEMA}
    ask: JsonObject = {"model": f"small-{way}", "messages": ASK, "response_format": form, "temperature": 0}
    if stream:
        chunks = list(client.chat.completions.create(stream=True, max_tokens=200, **ask))
        text, why = joined(chunks), reasons(chunks)
    else:
        choice = client.chat.completions.create(max_tokens=200, **ask).choices[0]
        text, why = choice.message.content or "", [choice.finish_reason]
    fields = json.loads(text)
    assert fields["city"] in CITIES
    assert fields["unit"] in UNITS
    assert why == ["stop"]


# Another dialect


@each_way
def test_the_anthropic_sdk_gets_the_same_answer(gateway: Gateway, direct: openai.OpenAI, key: str, way: str) -> None:
    expected = direct.chat.completions.create(model=CHAT, messages=ASK, **GREEDY)
    ask: JsonObject = {
        "model": f"small-{way}",
        "system": ASK[0]["content"],
        "messages": ASK[1:],
        "max_tokens": GREEDY["max_tokens"],
        "extra_body": {"temperature": 0},
    }
    with anthropic.Anthropic(base_url=gateway.url, api_key=key, max_retries=0) as sdk:
        whole = sdk.messages.create(**ask)
        with sdk.messages.stream(**ask) as events:
            streamed = events.get_final_message()
    for message in (whole, streamed):
        assert [block.text for block in message.content] == [expected.choices[0].message.content]
        assert (message.stop_reason, message.model) == ("max_tokens", f"small-{way}")
    assert expected.usage
    assert whole.usage.input_tokens == expected.usage.prompt_tokens
    assert whole.usage.output_tokens == expected.usage.completion_tokens
