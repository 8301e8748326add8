"""The official SDKs of OpenAI and Anthropic reach every wire format through one running gateway."""

import base64
import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import anthropic
import openai
import pytest

from tests.e2e.conftest import ENVIRONMENT
from tests.e2e.gateway import Gateway, Json, decimal_cost, events
from tests.fakes.upstream import CREDENTIAL, EMBEDDING_USAGE, LEAKS, USAGE, vector, words_of
from tests.fakes.wires import ARGUMENTS, FILLED, FakeWires, echo_of

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(60)]

QUESTION = "你是谁? naïve 🚀"
ASK: list[Any] = [{"role": "user", "content": QUESTION}]
SYSTEM = "请用中文回答"
PARAMETERS: Json = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
NAMES = ("get_weather", "get_population")
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": name, "description": "d", "parameters": PARAMETERS}} for name in NAMES
]
MESSAGES_TOOLS: list[Any] = [{"name": name, "description": "d", "input_schema": PARAMETERS} for name in NAMES]
CALLS = list(zip(NAMES, ARGUMENTS, strict=True))
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9aw=="
SCHEMA: Any = {"type": "json_schema", "json_schema": {"name": "place", "schema": PARAMETERS}}
PRICES = {
    "input_cost_per_token": "0.000003",
    "output_cost_per_token": "1.5e-5",
    "cache_read_input_token_cost": "3e-7",
    "cache_creation_input_token_cost": "0.00000375",
    "cache_creation_input_token_cost_above_1hr": "6e-6",
}
INPUT, OUTPUT, READ, WRITE_5M, WRITE_1H = (Decimal(text) for text in PRICES.values())
# status of the upstream → status, code and exception at the client
CLASSES: dict[int, tuple[int, str | None, type[openai.APIStatusError]]] = {
    400: (400, None, openai.BadRequestError),
    401: (502, "upstream_auth_failed", openai.InternalServerError),
    404: (404, "model_not_found", openai.NotFoundError),
    429: (429, "rate_limit_exceeded", openai.RateLimitError),
    500: (502, "upstream_error", openai.InternalServerError),
    503: (503, "overloaded", openai.InternalServerError),
}
MESSAGES_CLASSES: dict[int, tuple[int, str]] = {
    400: (400, "invalid_request_error"), 401: (502, "api_error"), 404: (404, "not_found_error"),
    429: (429, "rate_limit_error"), 500: (502, "api_error"), 503: (503, "overloaded_error"),
}  # fmt: skip
BREAKS = ("cut", "end", "error")
# how many words stand in the frames before a stream breaks
SHOWN_WORDS = {"openai": 4, "azure": 4, "anthropic": 2, "gemini": 5, "bedrock": 4, "ollama": 5}


@dataclass(frozen=True, slots=True)
class Wire:
    """How a wire is deployed, and what of a call is seen there: prompt, completion and cached tokens, its cost."""

    model: str  # provider/upstream model
    base: str  # below the bare host
    usage: tuple[int, int, int]
    cost: Decimal
    system: Json | None  # what of the request holds the system prompt; None: the first message
    embedding: str = ""
    embedding_tokens: int | None = None  # None: estimated
    dropped: str = ""  # a parameter that the wire does not know, and its value
    dropped_value: Any = None
    has_completions: bool = False
    params: Json = field(default_factory=dict)


OPENAI_COST = (1207 - 256) * INPUT + 256 * READ + 311 * OUTPUT
WIRES = {
    "openai": Wire(
        "openai/gpt-4o", "/v1", (1207, 311, 256), OPENAI_COST, None, "openai/embed", EMBEDDING_USAGE["prompt_tokens"],
        has_completions=True,
    ),
    "azure": Wire(
        "azure/gpt-4o-eu", "", (1207, 311, 256), OPENAI_COST, None, "azure/embed-eu", EMBEDDING_USAGE["prompt_tokens"],
        has_completions=True, params={"api_version": "2024-10-21"},
    ),
    "anthropic": Wire(
        "anthropic/claude-sonnet-4-5", "", (1310, 9, 1000),
        10 * INPUT + 1000 * READ + 200 * WRITE_5M + 100 * WRITE_1H + 9 * OUTPUT,
        {"system": SYSTEM}, dropped="seed", dropped_value=7,
    ),
    "gemini": Wire(
        "gemini/gemini-2.5-flash", "/v1beta", (100, 25, 64), 36 * INPUT + 64 * READ + 25 * OUTPUT,
        {"systemInstruction": {"parts": [{"text": SYSTEM}]}}, "gemini/text-embedding-004",
        dropped="logit_bias", dropped_value={"5": 1},
    ),
    "bedrock": Wire(
        "bedrock/us.anthropic.claude-sonnet-4-5-20250929-v1:0", "", (320, 3, 300),
        10 * INPUT + 300 * READ + 10 * WRITE_5M + 3 * OUTPUT,
        {"system": [{"text": SYSTEM}]}, "bedrock/amazon.titan-embed-text-v2:0", 3, dropped="seed", dropped_value=7,
        params={"aws_access_key_id": "AKID", "aws_secret_access_key": CREDENTIAL, "aws_region_name": "eu-west-1"},
    ),
    "ollama": Wire(
        "ollama/qwen3", "", (26, 12, 0), 26 * INPUT + 12 * OUTPUT, None, "ollama/nomic-embed-text", 5,
        dropped="logit_bias", dropped_value={"5": 1}, params={"num_ctx": 8192},
    ),
}  # fmt: skip
MESSAGES_WIRES = ("anthropic", "openai", "gemini", "ollama")
TWISTS = (*map(str, CLASSES), *BREAKS, "bytewise")


def upstream_name(name: str) -> str:
    return WIRES[name].model.partition("/")[2]


@pytest.fixture(scope="module")
def wires() -> Iterator[FakeWires]:
    with FakeWires() as running:
        yield running


@pytest.fixture(scope="module")
def gateway(wires: FakeWires, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    rows: list[Json] = []

    def serve(public: str, model: str, wire: Wire, **more: Any) -> None:
        params = {"model": model, "api_base": wires.root + wire.base, **wire.params, **more}
        if "aws_access_key_id" not in params:
            params["api_key"] = CREDENTIAL
        rows.append({"model_name": public, "litellm_params": params})

    for name, wire in WIRES.items():
        serve(name, wire.model, wire, **PRICES)
        for twist in TWISTS:
            serve(f"{name}~{twist}", f"{wire.model}~{twist}", wire, **PRICES)
        if wire.embedding:
            serve(f"{name}-embed", wire.embedding, wire, **PRICES)
    serve("bedrock~damaged", f"{WIRES['bedrock'].model}~damaged", WIRES["bedrock"])
    serve("lightllm", "lightllm/qwen~raw-call", WIRES["openai"], tool_call_parser="qwen25")
    running = Gateway(tmp_path_factory.mktemp("gateway-wires"), config={"model_list": rows}, env=ENVIRONMENT)
    try:
        yield running.start()
        running.stop()
    finally:
        running.close()


@pytest.fixture
def messages(gateway: Gateway, key: str) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=gateway.url, api_key=key, max_retries=0, timeout=30) as client:
        yield client


def streamed_calls(chunks: list[Any]) -> tuple[list[tuple[str, Json]], list[str]]:
    """The calls that a stream adds up to, and its finish reasons. Only the first delta of a call names it."""
    calls: dict[int, Json] = {}
    reasons = []
    for choice in (choice for chunk in chunks for choice in chunk.choices):
        reasons += [choice.finish_reason] if choice.finish_reason else []
        for part in choice.delta.tool_calls or []:
            if part.index not in calls:
                assert part.id
                assert part.type == "function"
                calls[part.index] = {"id": part.id, "name": part.function.name, "arguments": ""}
            else:
                assert (part.id, part.type, part.function.name) == (None, None, None)
            calls[part.index]["arguments"] += part.function.arguments or ""
    assert len({call["id"] for call in calls.values()}) == len(calls)
    return [(call["name"], json.loads(call["arguments"])) for call in calls.values()], reasons


def text_of(chunks: list[Any]) -> str:
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


# OpenAI's SDK


@pytest.mark.parametrize("name", WIRES)
def test_chat(client: openai.OpenAI, wires: FakeWires, key: str, name: str) -> None:
    answer = client.chat.completions.create(model=name, messages=ASK)
    assert (answer.model, answer.object, answer.choices[0].finish_reason) == (name, "chat.completion", "stop")
    assert answer.choices[0].message.content == echo_of(QUESTION)
    assert answer.usage is not None
    cached = answer.usage.prompt_tokens_details.cached_tokens if answer.usage.prompt_tokens_details else 0
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, cached or 0) == WIRES[name].usage
    seen = wires.asked(upstream_name(name))
    assert key not in repr(seen)
    assert CREDENTIAL not in seen.path + seen.query
    assert (name == "bedrock") is seen.headers.get("authorization", "").startswith("AWS4-HMAC-SHA256")


@pytest.mark.parametrize("name", WIRES)
@pytest.mark.parametrize("asks_usage", [False, True], ids=["plain", "usage"])
def test_streamed_chat(client: openai.OpenAI, gateway: Gateway, key: str, name: str, asks_usage: bool) -> None:
    asked: Json = {"stream_options": {"include_usage": True}} if asks_usage else {}
    chunks = list(client.chat.completions.create(model=name, messages=ASK, stream=True, **asked))
    assert text_of(chunks) == echo_of(QUESTION)
    assert [c.finish_reason for chunk in chunks for c in chunk.choices if c.finish_reason] == ["stop"]
    assert [c.delta.role for chunk in chunks for c in chunk.choices if c.delta.role] == ["assistant"]
    assert {(chunk.model, chunk.id) for chunk in chunks} == {(name, chunks[0].id)}
    usages = [(u.prompt_tokens, u.completion_tokens) for u in (chunk.usage for chunk in chunks) if u]
    assert usages == ([WIRES[name].usage[:2]] if asks_usage else [])
    assert gateway.call(key, model=name, stream=True).text.count("[DONE]") == 1


@pytest.mark.parametrize("name", WIRES)
@pytest.mark.parametrize("tools", [[], TOOLS], ids=["text", "tools"])
def test_a_stream_in_single_bytes(client: openai.OpenAI, name: str, tools: Any) -> None:
    asked: Json = {"tools": tools} if tools else {}
    chunks = list(client.chat.completions.create(model=f"{name}~bytewise", messages=ASK, stream=True, **asked))
    assert streamed_calls(chunks) == ((CALLS, ["tool_calls"]) if tools else ([], ["stop"]))
    assert text_of(chunks) == ("" if tools else echo_of(QUESTION))


@pytest.mark.parametrize("name", WIRES)
def test_tools_and_their_results_go_round(client: openai.OpenAI, wires: FakeWires, name: str) -> None:
    choice = client.chat.completions.create(model=name, messages=ASK, tools=TOOLS).choices[0]
    assert choice.finish_reason == "tool_calls"
    calls: list[Any] = choice.message.tool_calls or []
    assert [(call.function.name, json.loads(call.function.arguments)) for call in calls] == CALLS
    assert len({call.id for call in calls}) == 2
    results: list[Any] = [{"role": "tool", "tool_call_id": call.id, "content": "21 °C"} for call in calls]
    history = [*ASK, choice.message.model_dump(exclude_none=True), *results]
    after = client.chat.completions.create(model=name, messages=history, tools=TOOLS).choices[0]
    assert after.finish_reason == "stop"
    assert "21 °C" in (after.message.content or "")
    assert wires.asked(upstream_name(name)).body.decode().count("21 °C") == 2


@pytest.mark.parametrize("name", WIRES)
def test_streamed_tools(client: openai.OpenAI, name: str) -> None:
    chunks = list(client.chat.completions.create(model=name, messages=ASK, tools=TOOLS, stream=True))
    assert streamed_calls(chunks) == (CALLS, ["tool_calls"])


@pytest.mark.parametrize("name", WIRES)
def test_system_prompt(client: openai.OpenAI, wires: FakeWires, name: str) -> None:
    client.chat.completions.create(model=name, messages=[{"role": "system", "content": SYSTEM}, *ASK])
    sent = wires.asked(upstream_name(name)).json
    expected = WIRES[name].system
    if expected is None:
        assert sent["messages"][0] == {"role": "system", "content": SYSTEM}
    else:
        assert {field: sent[field] for field in expected} == expected
        assert SYSTEM not in json.dumps(sent.get("messages") or sent.get("contents"), ensure_ascii=False)


@pytest.mark.parametrize("name", WIRES)
def test_image(client: openai.OpenAI, wires: FakeWires, name: str) -> None:
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
    content: Any = [{"type": "text", "text": QUESTION}, image]
    answer = client.chat.completions.create(model=name, messages=[{"role": "user", "content": content}])
    assert answer.choices[0].message.content == echo_of(QUESTION)
    sent = wires.asked(upstream_name(name)).json
    turn = (sent.get("messages") or sent.get("contents"))[-1]
    assert json.dumps(turn).count(PNG) == 1
    assert (f"data:image/png;base64,{PNG}" in json.dumps(turn)) is (name in {"openai", "azure"})


@pytest.mark.parametrize("name", WIRES)
def test_json_schema(client: openai.OpenAI, wires: FakeWires, name: str) -> None:
    answer = client.chat.completions.create(model=name, messages=ASK, response_format=SCHEMA)
    assert answer.choices[0].message.content == FILLED
    assert '"city' in wires.asked(upstream_name(name)).body.decode().replace('\\"', '"')


@pytest.mark.parametrize("name", WIRES)
@pytest.mark.parametrize("status", CLASSES)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_errors_have_their_class(client: openai.OpenAI, name: str, status: int, stream: bool) -> None:
    expected, code, kind = CLASSES[status]
    with pytest.raises(kind) as refused:
        client.chat.completions.create(model=f"{name}~{status}", messages=ASK, stream=stream)
    assert refused.value.status_code == expected
    assert refused.value.code == code or (code is None and name in {"openai", "azure"})
    if status == 429:
        assert refused.value.response.headers["retry-after"] == "7"
    assert not [leak for leak in (*LEAKS, "127.0.0.1", "arn:") if leak in refused.value.response.text]


@pytest.mark.parametrize("model", [*(f"{name}~{twist}" for name in WIRES for twist in BREAKS), "bedrock~damaged"])
def test_a_broken_stream_ends_with_an_error(gateway: Gateway, client: openai.OpenAI, key: str, model: str) -> None:
    chunks: list[Any] = []
    with pytest.raises(openai.APIError):
        chunks.extend(client.chat.completions.create(model=model, messages=ASK, stream=True))
    response = gateway.call(key, model=model, stream=True)
    assert response.status_code == 200
    assert "[DONE]" not in response.text
    *shown, last = [json.loads(event) for event in events(response.content)]
    text = "".join(choice["delta"].get("content") or "" for event in shown for choice in event["choices"])
    assert text == "".join(words_of({"prompt": "hi"}, None)[: SHOWN_WORDS[model.partition("~")[0]]])
    assert set(last["error"]) == {"message", "type", "param", "code"}
    if model.endswith(("cut", "end")):
        assert last["error"]["code"] == "upstream_incomplete_stream"
    assert not [leak for leak in LEAKS if leak in response.text]


@pytest.mark.parametrize("name", [name for name, wire in WIRES.items() if wire.embedding])
@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_embeddings(client: openai.OpenAI, gateway: Gateway, key: str, name: str, encoding: Any) -> None:
    given = ["one", "二"][: 1 if name == "bedrock" else 2]  # Titan takes one text a call
    answer = client.embeddings.create(model=f"{name}-embed", input=given, encoding_format=encoding)
    assert (answer.model, [row.index for row in answer.data]) == (f"{name}-embed", [*range(len(given))])
    rows = [row.embedding for row in answer.data]
    if encoding == "float":
        assert rows == [vector(index) for index in range(len(given))]
    else:
        assert rows == [base64.b64encode(struct.pack("<8f", *vector(index))).decode() for index in range(len(given))]
    tokens = WIRES[name].embedding_tokens
    assert answer.usage.prompt_tokens == tokens or (tokens is None and answer.usage.prompt_tokens > 0)
    [row] = gateway.wait_priced(api_key=key)
    assert (row["call_type"], row["usage_estimated"]) == ("aembedding", tokens is None)
    assert decimal_cost(row) == row["prompt_tokens"] * INPUT


@pytest.mark.parametrize("name", WIRES)
def test_completions(client: openai.OpenAI, wires: FakeWires, name: str) -> None:
    answer = client.completions.create(model=name, prompt=QUESTION, max_tokens=50)
    assert (answer.object, answer.model) == ("text_completion", name)
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == (echo_of(QUESTION), "stop")
    chunks = list(client.completions.create(model=name, prompt=QUESTION, max_tokens=50, stream=True))
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == echo_of(QUESTION)
    assert ("prompt" in wires.asked(upstream_name(name)).json) is WIRES[name].has_completions


@pytest.mark.parametrize("name", [name for name, wire in WIRES.items() if wire.dropped])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_dropped_parameter_is_named(gateway: Gateway, wires: FakeWires, key: str, name: str, stream: bool) -> None:
    wire = WIRES[name]
    response = gateway.call(key, model=name, stream=stream, **{wire.dropped: wire.dropped_value})
    assert response.status_code == 200, response.text
    assert response.headers["x-tollgate-dropped-params"] == wire.dropped
    assert wire.dropped not in wires.asked(upstream_name(name)).body.decode()


# What it costs


@pytest.mark.parametrize("name", WIRES)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_spend_is_exact(gateway: Gateway, key: str, name: str, stream: bool) -> None:
    assert gateway.call(key, model=name, stream=stream).status_code == 200
    [row] = gateway.wait_priced(api_key=key)
    assert (row["cost_status"], row["status"], row["usage_estimated"]) == ("priced", "success", False)
    assert (row["prompt_tokens"], row["completion_tokens"]) == WIRES[name].usage[:2]
    assert decimal_cost(row) == WIRES[name].cost
    assert (row["model_group"], row["custom_llm_provider"]) == (name, WIRES[name].model.partition("/")[0])


@pytest.mark.parametrize("name", MESSAGES_WIRES)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_spend_of_messages_is_exact(gateway: Gateway, key: str, name: str, stream: bool) -> None:
    body = {"model": name, "max_tokens": 50, "messages": ASK, "stream": stream}
    response = gateway.http.post("/v1/messages", json=body, headers={"x-api-key": key})
    assert response.status_code == 200, response.text
    [row] = gateway.wait_priced(api_key=key)
    assert (row["prompt_tokens"], row["completion_tokens"]) == WIRES[name].usage[:2]
    assert decimal_cost(row) == WIRES[name].cost


@pytest.mark.parametrize("name", WIRES)
@pytest.mark.parametrize("twist", BREAKS)
def test_what_a_broken_stream_used_is_estimated(gateway: Gateway, key: str, name: str, twist: str) -> None:
    gateway.call(key, model=f"{name}~{twist}", stream=True)
    [row] = gateway.wait_priced(api_key=key)
    assert (row["cost_status"], row["status"]) == ("priced", "failure")
    assert row["completion_tokens"] > 0
    assert decimal_cost(row) > 0


@pytest.mark.parametrize("name", WIRES)
@pytest.mark.parametrize("status", [400, 429, 500])
def test_an_error_costs_nothing(gateway: Gateway, key: str, name: str, status: int) -> None:
    gateway.call(key, model=f"{name}~{status}")
    [row] = gateway.wait_priced(api_key=key)
    assert (row["status"], row["total_tokens"], row["spend"]) == ("failure", 0, 0)


# Calls as text


def test_lightllm_calls_as_text(client: openai.OpenAI) -> None:
    asked: Json = {"model": "lightllm", "messages": ASK, "tools": TOOLS}
    expected = [(NAMES[0], ARGUMENTS[1])]
    choice = client.chat.completions.create(**asked).choices[0]
    assert [(call.function.name, json.loads(call.function.arguments)) for call in choice.message.tool_calls] == expected
    assert (choice.finish_reason, choice.message.content.strip()) == ("tool_calls", "Sure.")
    chunks = list(client.chat.completions.create(**asked, stream=True))
    assert streamed_calls(chunks) == (expected, ["tool_calls"])
    assert text_of(chunks).strip() == "Sure."


# Anthropic's SDK


@pytest.mark.parametrize("name", MESSAGES_WIRES)
def test_message(messages: anthropic.Anthropic, wires: FakeWires, name: str) -> None:
    answer = messages.messages.create(model=name, max_tokens=50, system=SYSTEM, messages=ASK)
    assert (answer.model, answer.role, answer.stop_reason) == (name, "assistant", "end_turn")
    assert [(block.type, getattr(block, "text", "")) for block in answer.content] == [("text", echo_of(QUESTION))]
    prompt, completion, cached = WIRES[name].usage
    used = answer.usage
    read, written = used.cache_read_input_tokens or 0, used.cache_creation_input_tokens or 0
    assert (used.input_tokens + read + written, used.output_tokens, read) == (prompt, completion, cached)
    assert SYSTEM in json.dumps(wires.asked(upstream_name(name)).json, ensure_ascii=False)


@pytest.mark.parametrize("name", MESSAGES_WIRES)
def test_image_of_messages(messages: anthropic.Anthropic, wires: FakeWires, name: str) -> None:
    source = {"type": "base64", "media_type": "image/png", "data": PNG}
    content: Any = [{"type": "image", "source": source}, {"type": "text", "text": QUESTION}]
    answer: Any = messages.messages.create(model=name, max_tokens=50, messages=[{"role": "user", "content": content}])
    assert answer.content[0].text == echo_of(QUESTION)
    assert wires.asked(upstream_name(name)).body.decode().count(PNG) == 1


@pytest.mark.parametrize("name", MESSAGES_WIRES)
def test_streamed_message(messages: anthropic.Anthropic, name: str) -> None:
    with messages.messages.stream(model=name, max_tokens=50, messages=ASK) as stream:
        kinds = [event.type for event in stream if event.type not in {"text", "input_json"}]
        answer = stream.get_final_message()
    assert (kinds[0], kinds[-1]) == ("message_start", "message_stop")
    assert [getattr(block, "text", "") for block in answer.content] == [echo_of(QUESTION)]
    assert (answer.model, answer.stop_reason, answer.usage.output_tokens) == (name, "end_turn", WIRES[name].usage[1])


@pytest.mark.parametrize("name", MESSAGES_WIRES)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_tools_of_messages_go_round(messages: anthropic.Anthropic, wires: FakeWires, name: str, stream: bool) -> None:
    asked: Json = {"model": name, "max_tokens": 50, "tools": MESSAGES_TOOLS}
    if stream:
        with messages.messages.stream(messages=ASK, **asked) as events_of:
            answer = events_of.get_final_message()
    else:
        answer = messages.messages.create(messages=ASK, **asked)
    uses: list[Any] = [block for block in answer.content if block.type == "tool_use"]
    assert ([(use.name, use.input) for use in uses], answer.stop_reason) == (CALLS, "tool_use")
    results = [{"type": "tool_result", "tool_use_id": use.id, "content": "21 °C"} for use in uses]
    said = {"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in answer.content]}
    after: Any = messages.messages.create(messages=[*ASK, said, {"role": "user", "content": results}], **asked)
    assert after.stop_reason == "end_turn"
    assert "21 °C" in after.content[0].text
    assert wires.asked(upstream_name(name)).body.decode().count("21 °C") == 2


@pytest.mark.parametrize("name", MESSAGES_WIRES)
@pytest.mark.parametrize("status", MESSAGES_CLASSES)
def test_errors_of_messages(messages: anthropic.Anthropic, name: str, status: int) -> None:
    expected, kind = MESSAGES_CLASSES[status]
    with pytest.raises(anthropic.APIStatusError) as refused:
        messages.messages.create(model=f"{name}~{status}", max_tokens=50, messages=ASK)
    body: Any = refused.value.body
    assert (refused.value.status_code, body["type"], body["error"]["type"]) == (expected, "error", kind)
    assert body["error"]["message"]
    assert not [leak for leak in (*LEAKS, "127.0.0.1") if leak in refused.value.response.text]


@pytest.mark.parametrize("model", [f"{name}~{twist}" for name in MESSAGES_WIRES for twist in BREAKS])
def test_a_broken_stream_of_messages_ends_with_an_error(gateway: Gateway, key: str, model: str) -> None:
    body = {"model": model, "max_tokens": 50, "messages": ASK, "stream": True}
    response = gateway.http.post("/v1/messages", json=body, headers={"x-api-key": key})
    *shown, last = [json.loads(event) for event in events(response.content)]
    assert (shown[0]["type"], last["type"], set(last["error"])) == ("message_start", "error", {"type", "message"})
    text = "".join(event["delta"].get("text", "") for event in shown if event["type"] == "content_block_delta")
    assert text == "".join(words_of({"prompt": QUESTION}, None)[: SHOWN_WORDS[model.partition("~")[0]]])
    assert "message_stop" not in {event["type"] for event in shown}
    assert not [leak for leak in LEAKS if leak in response.text]


@pytest.mark.parametrize("name", MESSAGES_WIRES)
def test_tokens_are_counted(messages: anthropic.Anthropic, wires: FakeWires, name: str) -> None:
    before = len(wires.requests)
    short = messages.messages.count_tokens(model=name, messages=ASK).input_tokens
    long = messages.messages.count_tokens(model=name, messages=ASK, system="word " * 100, tools=MESSAGES_TOOLS)
    assert 0 < short < long.input_tokens
    assert len(wires.requests) == before


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
def test_refusals_have_the_shape_of_messages(gateway: Gateway, key: str, path: str) -> None:
    cases: list[tuple[str, Json, int, str]] = [
        ("sk-wrong", {}, 401, "authentication_error"),
        (key, {"model": "no-such-model"}, 404, "not_found_error"),
        (key, {"messages": "x"}, 400, "invalid_request_error"),
    ]
    for presented, changes, status, kind in cases:
        body = {"model": "anthropic", "max_tokens": 50, "messages": ASK, **changes}
        response = gateway.http.post(path, json=body, headers={"x-api-key": presented})
        assert response.status_code == status, response.text
        assert response.json()["type"] == "error"
        assert response.json()["error"]["type"] == kind


@pytest.mark.parametrize("name", ["openai", "azure"])
def test_openai_usage_keeps_its_details(client: openai.OpenAI, name: str) -> None:
    usage: Any = client.chat.completions.create(model=name, messages=ASK).usage
    assert usage.model_dump(exclude_none=True) == USAGE
