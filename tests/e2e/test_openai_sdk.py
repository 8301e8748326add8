"""The official SDK sees through the gateway what it would see at the upstream."""

import asyncio
import base64
import struct
from collections.abc import Iterable
from typing import Any

import httpx
import openai
import pytest

from gateway.protocol.json.types import JsonObject
from tests.e2e.conftest import LOCAL_SERVERS
from tests.e2e.gateway import Gateway
from tests.fakes.upstream import CREDENTIAL, ODDITIES, USAGE, VECTOR_SIZE, FakeUpstream, vector

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(60)]

ASK: list[Any] = [
    {"role": "system", "content": "请用中文回答"},
    {"role": "user", "content": "你是谁? “naïve” 🚀"},
]
ANSWER = "You said '你是谁? “naïve” 🚀'. 这是一个很好的问题 — naïve 🚀 answer."
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}}
    for name in ("get_weather", "get_population")
]
PNG = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9aw=="


def joined(chunks: Iterable[Any], index: int = 0) -> str:
    return "".join(c.delta.content or "" for chunk in chunks for c in chunk.choices if c.index == index)


def test_models_are_listed_and_retrieved(client: openai.OpenAI) -> None:
    listed = {model.id: model for model in client.models.list()}
    assert {"chat", "priced", "embed", "weighted"} <= set(listed)
    assert listed["chat"].object == "model"
    assert client.models.retrieve("chat").id == "chat"
    with pytest.raises(openai.NotFoundError) as refused:
        client.models.retrieve("no-such-model")
    assert refused.value.code == "model_not_found"
    assert "no-such-model" in refused.value.message


def test_chat_answers_as_the_upstream_does(client: openai.OpenAI, key: str, upstream: FakeUpstream) -> None:
    answer = client.chat.completions.create(model="chat", messages=ASK)
    assert answer.choices[0].message.content == ANSWER
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.model_dump(exclude_none=True) == USAGE
    assert answer.system_fingerprint == "fp_fake"
    assert answer.model_extra == {"x_vendor": {"node": 7}}
    request = upstream.last("up-chat")
    assert request.headers["authorization"] == f"Bearer {CREDENTIAL}"
    assert key not in repr(request)
    assert request.json["messages"] == ASK


def test_the_client_sees_the_model_name_it_asked_for(gateway: Gateway, client: openai.OpenAI, key: str) -> None:
    assert client.chat.completions.create(model="chat", messages=ASK).model == "chat"
    assert {chunk.model for chunk in client.chat.completions.create(model="chat", messages=ASK, stream=True)} == {
        "chat"
    }
    assert client.embeddings.create(model="embed", input="x").model == "embed"
    assert "up-chat" not in gateway.call(key).text


def test_chat_streams_word_by_word(client: openai.OpenAI) -> None:
    chunks = list(client.chat.completions.create(model="chat", messages=ASK, stream=True))
    assert joined(chunks) == ANSWER
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason] == ["stop"]
    assert len({chunk.id for chunk in chunks}) == 1
    assert len(chunks) > 5


@pytest.mark.parametrize("name", ODDITIES)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_an_unusual_form_changes_no_answer(client: openai.OpenAI, name: str, stream: bool) -> None:
    if stream:
        assert joined(client.chat.completions.create(model=name, messages=ASK, stream=True)) == ANSWER
    else:
        answer = client.chat.completions.create(model=name, messages=ASK)
        assert answer.choices[0].message.content == ANSWER


def test_a_stream_ends_with_one_done_and_nothing_after(gateway: Gateway, key: str) -> None:
    for model in ("chat", "double-done", "after-done", "no-done"):
        text = gateway.call(key, model=model, stream=True).text
        assert text.count("[DONE]") == 1, model
        assert text.rstrip().endswith("data: [DONE]"), model


def test_tool_calls_arrive_whole(client: openai.OpenAI) -> None:
    choice = client.chat.completions.create(model="chat", messages=ASK, tools=TOOLS).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls is not None
    calls = [(c.id, c.function.name, c.function.arguments) for c in choice.message.tool_calls if c.type == "function"]
    assert calls == [
        ("call_0", "get_weather", '{"city": "Paris", "unit": "c"}'),
        ("call_1", "get_population", '{"city": "北京"}'),
    ]
    result: list[Any] = [
        *ASK,
        choice.message.model_dump(exclude_none=True),
        *({"role": "tool", "tool_call_id": call[0], "content": "21 °C"} for call in calls),
    ]
    after = client.chat.completions.create(model="chat", messages=result, tools=TOOLS)
    assert "21 °C" in (after.choices[0].message.content or "")


def test_streamed_tool_calls_arrive_interleaved_and_whole(client: openai.OpenAI) -> None:
    calls: dict[int, JsonObject] = {}
    reasons = []
    for chunk in client.chat.completions.create(model="chat", messages=ASK, tools=TOOLS, stream=True):
        for choice in chunk.choices:
            reasons += [choice.finish_reason] if choice.finish_reason else []
            for part in choice.delta.tool_calls or []:
                assert part.function is not None
                call = calls.setdefault(part.index, {"id": part.id, "name": part.function.name, "arguments": ""})
                call["arguments"] += part.function.arguments or ""
    assert reasons == ["tool_calls"]
    assert calls == {
        0: {"id": "call_0", "name": "get_weather", "arguments": '{"city": "Paris", "unit": "c"}'},
        1: {"id": "call_1", "name": "get_population", "arguments": '{"city": "北京"}'},
    }


def test_several_choices_and_logprobs_arrive(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="chat", messages=ASK, n=3, logprobs=True, top_logprobs=0)
    assert [choice.message.content for choice in answer.choices] == [ANSWER] * 3
    scores = answer.choices[2].logprobs
    assert scores is not None
    assert scores.content is not None
    assert "".join(token.token for token in scores.content) == ANSWER
    chunks = list(client.chat.completions.create(model="chat", messages=ASK, n=3, logprobs=True, stream=True))
    assert [joined(chunks, index) for index in range(3)] == [ANSWER] * 3
    assert any(c.logprobs and c.logprobs.content for chunk in chunks for c in chunk.choices)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_whatever_the_upstream_takes_passes_unchanged(
    client: openai.OpenAI, upstream: FakeUpstream, stream: bool
) -> None:
    body: JsonObject = {
        "messages": [
            {"role": "user", "content": [
                {"type": "text", "text": "什么在图中? \u0007 \\ \" </script>"},
                {"type": "image_url", "image_url": {"url": PNG, "detail": "low"}},
                {"type": "image_url", "image_url": {"url": "https://example.org/cat.png?x=1&y=%20"}},
                {"type": "vendor_part", "vendor": {"deep": [1, 2.5, None, True]}},
            ]}
        ],
        "temperature": 0.1,
        "top_k": 40,
        "seed": 9007199254740993,
        "stop": ["\n\n", "结束"],
        "logit_bias": {"50256": -100},
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}},
        "x_vendor": {"nested": {"list": [{"a": 1}, []], "small": 1e-7}, "model": "not-the-model"},
        "chat_template_kwargs": {"enable_thinking": False},
    }  # fmt: skip
    sdk_fields = {name: body[name] for name in ("messages", "temperature", "seed", "stop", "logit_bias")}
    extra = {name: value for name, value in body.items() if name not in sdk_fields}
    answer: Any = client.chat.completions.create(model="chat", stream=stream, extra_body=extra, **sdk_fields)
    if stream:
        list(answer)
    received = upstream.last("up-chat").json
    assert received.pop("model") == "up-chat"
    assert received.pop("stream", False) is stream
    assert received.pop("stream_options", None) == ({"include_usage": True} if stream else None)
    assert received == body


def test_stream_options_of_the_client_are_kept(client: openai.OpenAI, upstream: FakeUpstream) -> None:
    options: Any = {"include_obfuscation": False}
    list(client.chat.completions.create(model="chat", messages=ASK, stream=True, stream_options=options))
    assert upstream.last("up-chat").json["stream_options"] == {
        "include_obfuscation": False,
        "include_usage": True,
    }


def test_completions_answer_and_stream(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="chat", prompt="你是谁?")
    assert answer.choices[0].text.startswith("You said '你是谁?'")
    assert answer.object == "text_completion"
    chunks = list(client.completions.create(model="chat", prompt="你是谁?", stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == answer.choices[0].text
    assert chunks[-1].choices[0].finish_reason == "stop"
    many = client.completions.create(model="chat", prompt=["one", "two"])
    assert [choice.text[:14] for choice in many.choices] == ["You said 'one'", "You said 'two'"]


@pytest.mark.parametrize(
    ("texts", "count"),
    [("Embedding text...", 1), (["一", "two"], 2), ([101, 7592, 102], 1), ([[1, 2], [3], [4, 5, 6]], 3)],
    ids=["text", "list", "tokens", "token-lists"],
)
def test_embeddings_as_floats_and_base64(client: openai.OpenAI, upstream: FakeUpstream, texts: Any, count: int) -> None:
    expected = [vector(index) for index in range(count)]
    floats = client.embeddings.create(model="embed", input=texts, encoding_format="float")
    assert [row.embedding for row in floats.data] == expected
    assert upstream.last("up-embed").json["input"] == texts
    decoded_by_sdk = client.embeddings.create(model="embed", input=texts)
    assert [row.embedding for row in decoded_by_sdk.data] == expected
    packed: Any = client.embeddings.create(model="embed", input=texts, encoding_format="base64").data[0].embedding
    assert list(struct.unpack(f"<{VECTOR_SIZE}f", base64.b64decode(packed))) == expected[0]


@pytest.mark.parametrize("prefix", ["", "/v1"])
def test_paths_work_with_and_without_v1(gateway: Gateway, key: str, prefix: str) -> None:
    headers = {"authorization": f"Bearer {key}"}
    ids = [row["id"] for row in gateway.http.get(f"{prefix}/models", headers=headers).json()["data"]]
    assert "chat" in ids
    assert gateway.http.get(f"{prefix}/models/chat", headers=headers).json()["id"] == "chat"
    bodies: dict[str, JsonObject] = {
        "chat/completions": {"model": "chat", "messages": ASK},
        "completions": {"model": "chat", "prompt": "你是谁?"},
        "embeddings": {"model": "embed", "input": "Embedding text..."},
    }
    for path, body in bodies.items():
        response = gateway.http.post(f"{prefix}/{path}", json=body, headers=headers)
        assert response.status_code == 200, (path, response.text)


@pytest.mark.parametrize("provider", LOCAL_SERVERS)
def test_local_servers_answer_in_both_modes(client: openai.OpenAI, upstream: FakeUpstream, provider: str) -> None:
    model = f"local-{provider}"
    assert client.chat.completions.create(model=model, messages=ASK).choices[0].message.content == ANSWER
    assert joined(client.chat.completions.create(model=model, messages=ASK, stream=True)) == ANSWER
    assert upstream.last().model == f"up-{model}"
    assert client.completions.create(model=model, prompt="a").choices[0].text.startswith("You said 'a'")


def test_deployments_of_one_group_share_the_calls_by_weight(gateway: Gateway, key: str, upstream: FakeUpstream) -> None:
    def counts() -> list[int]:
        return [len(upstream.of(name)) for name in ("up-weighted-a", "up-weighted-b")]

    before = counts()
    for _ in range(60):
        assert gateway.call(key, model="weighted").json()["model"] == "weighted"
    a, b = (now - then for now, then in zip(counts(), before, strict=True))
    assert a + b == 60
    assert 4 <= a < b  # 1 : 3; fewer than 4 of 60 would come once in 10,000 runs


def test_many_streams_at_once_do_not_mix(gateway: Gateway, key: str) -> None:
    async def ask(sdk: openai.AsyncOpenAI, number: int) -> str:
        messages: Any = [{"role": "user", "content": f"number {number}"}]
        stream = await sdk.chat.completions.create(model="slow", messages=messages, stream=True)
        return joined([chunk async for chunk in stream])

    async def ask_all() -> list[str]:
        async with gateway.async_openai(key) as sdk:
            return await asyncio.gather(*(ask(sdk, number) for number in range(30)))

    answers = asyncio.run(ask_all())
    assert [f"'number {number}'" in answer for number, answer in enumerate(answers)] == [True] * 30


def test_every_answer_names_its_request_and_deployment(gateway: Gateway, key: str) -> None:
    for stream in (False, True):
        headers = gateway.call(key, stream=stream).headers
        assert headers["x-request-id"]
        assert headers["x-litellm-call-id"]
        assert headers["x-litellm-model-id"]
        assert headers["x-litellm-model-group"] == "chat"
        assert not {"x-internal-host", "server"} & set(headers), "the upstream's own headers stay inside"
        assert headers["content-type"].startswith("text/event-stream" if stream else "application/json")
    ids = [gateway.call(key).headers["x-request-id"] for _ in range(3)]
    assert len(set(ids)) == 3


def test_nothing_of_the_client_but_the_body_reaches_the_upstream(
    gateway: Gateway, key: str, upstream: FakeUpstream
) -> None:
    headers = {
        "authorization": f"Bearer {key}",
        "cookie": "session=secret",
        "x-forwarded-for": "203.0.113.9",
        "openai-organization": "org-of-the-client",
        "x-api-key": key,
        "x-custom": "1",
    }
    response = gateway.http.post("/v1/chat/completions", json={"model": "chat", "messages": ASK}, headers=headers)
    assert response.status_code == 200
    headers = upstream.last("up-chat").headers
    assert not {"cookie", "x-forwarded-for", "openai-organization", "x-api-key", "x-custom"} & set(headers)
    assert key not in repr(headers)


def test_connections_are_kept_alive_on_both_sides(gateway: Gateway, key: str) -> None:
    with httpx.Client(base_url=gateway.url, timeout=10) as http:
        body = {"model": "chat", "messages": ASK}
        for _ in range(3):
            response = http.post("/v1/chat/completions", json=body, headers={"authorization": f"Bearer {key}"})
            assert response.headers.get("connection", "keep-alive").lower() == "keep-alive"
