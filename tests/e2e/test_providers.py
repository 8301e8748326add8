"""The official SDKs of OpenAI and Anthropic reach every wire format through one running gateway."""

import base64
import json
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from gateway.protocol.json.types import JsonObject
from tests.e2e.conftest import ENVIRONMENT
from tests.e2e.gateway import Gateway, decimal_cost, events
from tests.fakes.google import ACCESS_TOKEN, PROJECT, FakeGoogle, new_key, pem
from tests.fakes.self_hosted import PLACE
from tests.fakes.upstream import CREDENTIAL, EMBEDDING_USAGE, LEAKS, USAGE, vector, words_of
from tests.fakes.wire_server import FakeWires
from tests.fakes.wires import ARGUMENTS, FILLED, echo_of

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(60)]

QUESTION = "你是谁? naïve 🚀"
ASK: list[Any] = [{"role": "user", "content": QUESTION}]
SYSTEM = "请用中文回答"
PARAMETERS: JsonObject = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
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
BEARER = f"Bearer {CREDENTIAL}"


@dataclass(frozen=True, slots=True)
class Wire:
    """The deployment of a wire, and a call's prompt, completion and cached tokens and its cost there."""

    model: str  # provider/upstream model
    base: str  # below the bare host
    usage: tuple[int, int, int]
    cost: Decimal
    system: JsonObject | None = None  # the part of the request that holds the system prompt; None: the first message
    embedding: str = ""
    embedding_tokens: int | None = None  # None: estimated
    dropped: str = ""  # a parameter that the wire does not know, and its value
    dropped_value: Any = None
    has_completions: bool = False
    has_data_urls: bool = True  # of images
    has_codes: bool = False  # errors come with a code that is shown
    is_googles: bool = False  # with a token of Google's, not a key
    authorization: tuple[str, str] = ("authorization", BEARER)  # a header, and what its value begins with
    shown_words: int = 4  # that stand in the frames before a stream breaks
    breaks: tuple[str, ...] = BREAKS
    secrets: JsonObject = field(default_factory=lambda: {"api_key": CREDENTIAL})
    params: JsonObject = field(default_factory=dict)

    @property
    def upstream_model(self) -> str:
        return self.model.partition("/")[2]

    @property
    def provider(self) -> str:
        return self.model.partition("/")[0]


OPENAI_USAGE = (1207, 311, 256)
OPENAI_COST = (1207 - 256) * INPUT + 256 * READ + 311 * OUTPUT
MESSAGES_USAGE = (1310, 9, 1000)
MESSAGES_COST = 10 * INPUT + 1000 * READ + 200 * WRITE_5M + 100 * WRITE_1H + 9 * OUTPUT
GEMINI_USAGE = (100, 25, 64)
GEMINI_COST = 36 * INPUT + 64 * READ + 25 * OUTPUT
MESSAGES_SYSTEM: JsonObject = {"system": SYSTEM}
GEMINI_SYSTEM: JsonObject = {"systemInstruction": {"parts": [{"text": SYSTEM}]}}
EMBEDDED = EMBEDDING_USAGE["prompt_tokens"]
TOKEN = ("authorization", f"Bearer {ACCESS_TOKEN}")
PLACED = {"vertex_project": PROJECT, "vertex_location": "europe-west4"}
LOGIT_BIAS = {"5": 1}
WIRES = {
    "openai": Wire(
        "openai/gpt-4o", "/v1", OPENAI_USAGE, OPENAI_COST, None, "openai/embed", EMBEDDED,
        has_completions=True, has_codes=True,
    ),
    "azure": Wire(
        "azure/gpt-4o-eu", "", OPENAI_USAGE, OPENAI_COST, None, "azure/embed-eu", EMBEDDED,
        has_completions=True, has_codes=True, params={"api_version": "2024-10-21"},
        authorization=("api-key", CREDENTIAL),
    ),
    "azure_ai": Wire(
        "azure_ai/Llama-4-Maverick", "", OPENAI_USAGE, OPENAI_COST, None, "azure_ai/embed-v-4-0", EMBEDDED,
        "logit_bias", LOGIT_BIAS, has_codes=True, authorization=("api-key", CREDENTIAL),
    ),
    "azure_claude": Wire(
        "azure_ai/claude-haiku-4-5", "", MESSAGES_USAGE, MESSAGES_COST, MESSAGES_SYSTEM, dropped="seed",
        dropped_value=7, has_data_urls=False, authorization=("x-api-key", CREDENTIAL), shown_words=2,
    ),
    "anthropic": Wire(
        "anthropic/claude-sonnet-4-5", "", MESSAGES_USAGE, MESSAGES_COST, MESSAGES_SYSTEM, dropped="seed",
        dropped_value=7, has_data_urls=False, authorization=("x-api-key", CREDENTIAL), shown_words=2,
    ),
    "gemini": Wire(
        "gemini/gemini-2.5-flash", "/v1beta", GEMINI_USAGE, GEMINI_COST, GEMINI_SYSTEM, "gemini/text-embedding-004",
        dropped="logit_bias", dropped_value=LOGIT_BIAS, has_data_urls=False,
        authorization=("x-goog-api-key", CREDENTIAL), shown_words=5,
    ),
    "vertex_ai": Wire(
        "vertex_ai/gemini-2.5-pro", "/v1", GEMINI_USAGE, GEMINI_COST, GEMINI_SYSTEM, "vertex_ai/text-embedding-005", 6,
        "logit_bias", LOGIT_BIAS, has_data_urls=False, is_googles=True, authorization=TOKEN, shown_words=5,
    ),
    "vertex_claude": Wire(
        "vertex_ai/claude-opus-4-5@20251101", "/v1", MESSAGES_USAGE, MESSAGES_COST, MESSAGES_SYSTEM, dropped="seed",
        dropped_value=7, has_data_urls=False, is_googles=True, authorization=TOKEN, shown_words=2, params=PLACED,
    ),
    "vertex_partner": Wire(
        "vertex_ai/meta/llama-4-scout", "/v1", OPENAI_USAGE, OPENAI_COST, dropped="logit_bias",
        dropped_value=LOGIT_BIAS, is_googles=True, authorization=TOKEN, params=PLACED,
    ),
    "bedrock": Wire(
        "bedrock/us.anthropic.claude-sonnet-4-5-20250929-v1:0", "", (320, 3, 300),
        10 * INPUT + 300 * READ + 10 * WRITE_5M + 3 * OUTPUT,
        {"system": [{"text": SYSTEM}]}, "bedrock/amazon.titan-embed-text-v2:0", 3, "seed", 7, has_data_urls=False,
        authorization=("authorization", "AWS4-HMAC-SHA256"), params={"aws_region_name": "eu-west-1"},
        secrets={"aws_access_key_id": "AKID", "aws_secret_access_key": CREDENTIAL},
    ),
    "ollama": Wire(
        "ollama/qwen3", "", (26, 12, 0), 26 * INPUT + 12 * OUTPUT, None, "ollama/nomic-embed-text", 5,
        "logit_bias", LOGIT_BIAS, has_completions=True, has_data_urls=False, shown_words=5, params={"num_ctx": 8192},
    ),
    "xinference": Wire(
        "xinference/qwen2.5-instruct", "/xinference/v1", (40, 12, 0), 40 * INPUT + 12 * OUTPUT, None,
        "xinference/bge-m3", EMBEDDED, "logit_bias", LOGIT_BIAS, has_completions=True,
    ),
    "mindie": Wire(
        "mindie/qwen3-32b", "/mindie/v1", (60, 14, 16), 44 * INPUT + 16 * READ + 14 * OUTPUT,
        dropped="logit_bias", dropped_value=LOGIT_BIAS, has_completions=True,
    ),
    "lightllm": Wire(
        "lightllm/qwen2.5-7b", "/lightllm/v1", (50, 13, 0), 50 * INPUT + 13 * OUTPUT,
        dropped="logit_bias", dropped_value=LOGIT_BIAS, has_completions=True, shown_words=5, breaks=("cut", "end"),
    ),
    "hosted_vllm": Wire(
        "hosted_vllm/Qwen/Qwen3-8B", "/vllm/v1", (70, 15, 0), 70 * INPUT + 15 * OUTPUT, None,
        "hosted_vllm/BAAI/bge-m3", EMBEDDED, "verbosity", "low", has_completions=True,
    ),
}  # fmt: skip
MESSAGES_WIRES = ("anthropic", "openai", "gemini", "ollama")
EMBEDDERS = [name for name, wire in WIRES.items() if wire.embedding]
DROPPERS = [name for name, wire in WIRES.items() if wire.dropped]
BREAKING = [(name, twist) for name, wire in WIRES.items() for twist in wire.breaks]
REFUSING = (400, 429, 500)
TWISTS = (*map(str, CLASSES), *BREAKS, "bytewise")


def upstream_name(name: str) -> str:
    return WIRES[name].upstream_model


@pytest.fixture(scope="module")
def wires() -> Iterator[FakeWires]:
    with FakeWires() as running:
        yield running


@pytest.fixture(scope="module")
def google() -> Iterator[FakeGoogle]:
    with FakeGoogle() as running:
        yield running


def deployed(root: str, google: FakeGoogle, folder: Path, twists: Iterable[str]) -> list[JsonObject]:
    """The rows of a model list: each wire under its name, and once more for each twist."""
    key_file = folder / "account.json"
    key_file.write_text(json.dumps(google.account))
    rows: list[JsonObject] = []

    def serve(public: str, model: str, wire: Wire) -> None:
        params = {"model": model, "api_base": root + wire.base, **wire.params, **PRICES}
        if wire.is_googles:  # as text, and as a path where the project is said beside it
            account = str(key_file) if wire.params else key_file.read_text()
            params |= {"vertex_location": "europe-west4", "vertex_credentials": account}
        else:
            params |= wire.secrets
        rows.append({"model_name": public, "litellm_params": params})

    for name, wire in WIRES.items():
        serve(name, wire.model, wire)
        for twist in twists:
            serve(f"{name}~{twist}", f"{wire.model}~{twist}", wire)
        if wire.embedding:
            serve(f"{name}-embed", wire.embedding, wire)
    serve("bedrock~damaged", f"{WIRES['bedrock'].model}~damaged", WIRES["bedrock"])
    serve("vertex-denied", "vertex_ai/gemini-2.5-flash-lite", WIRES["vertex_ai"])
    rows[-1]["litellm_params"]["vertex_credentials"] = json.dumps(google.account | {"private_key": pem(new_key())})
    return rows


@pytest.fixture(scope="module")
def gateway(wires: FakeWires, google: FakeGoogle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    home = tmp_path_factory.mktemp("gateway-wires")
    # Each error is the first and only one of its call
    config = {"model_list": deployed(wires.root, google, home, TWISTS), "router_settings": {"num_retries": 0}}
    running = Gateway(home, config=config, env=ENVIRONMENT)
    try:
        yield running.start()
        running.stop()
    finally:
        running.close()


Spend = Callable[..., JsonObject]


@pytest.fixture(scope="module")
def spend(gateway: Gateway) -> Spend:
    """`spend(kind, …)` is the row of a call that was made once for all tests: a price comes a second after a call."""
    keys: dict[tuple[Any, ...], str] = {}

    def called(*case: Any) -> str:
        keys[case] = gateway.issue_key()
        return keys[case]

    for name in WIRES:
        for stream in (False, True):
            gateway.call(called("chat", name, stream), model=name, stream=stream)
        for status in REFUSING:
            gateway.call(called("error", name, status), model=f"{name}~{status}")
    for name, twist in BREAKING:
        gateway.call(called("broken", name, twist), model=f"{name}~{twist}", stream=True)
    for name in EMBEDDERS:
        body = {"model": f"{name}-embed", "input": embedded_by(name)}
        gateway.call(called("embedding", name), "/v1/embeddings", **body)
    for name in MESSAGES_WIRES:
        for stream in (False, True):
            body = {"model": name, "max_tokens": 50, "messages": ASK, "stream": stream}
            headers = {"x-api-key": called("message", name, stream)}
            gateway.http.post("/v1/messages", json=body, headers=headers)

    def row(*case: Any) -> JsonObject:
        [row] = gateway.wait_priced(api_key=keys[case])
        return row

    return row


def embedded_by(name: str) -> list[str]:
    return ["one", "二"][: 1 if name == "bedrock" else 2]  # Titan takes one text a call


@pytest.fixture
def messages(gateway: Gateway, key: str) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=gateway.url, api_key=key, max_retries=0, timeout=30) as client:
        yield client


def streamed_calls(chunks: list[Any]) -> tuple[list[tuple[str, JsonObject]], list[str]]:
    """The calls that a stream adds up to, and its finish reasons. Only the first delta of a call names it."""
    calls: dict[int, JsonObject] = {}
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
    request = wires.last_request(upstream_name(name))
    assert key not in repr(request)
    assert CREDENTIAL not in request.path + request.query
    header, value = WIRES[name].authorization
    assert request.headers[header].startswith(value)


@pytest.mark.parametrize("name", WIRES)
@pytest.mark.parametrize("asks_usage", [False, True], ids=["plain", "usage"])
def test_streamed_chat(client: openai.OpenAI, gateway: Gateway, key: str, name: str, asks_usage: bool) -> None:
    options: JsonObject = {"stream_options": {"include_usage": True}} if asks_usage else {}
    chunks = list(client.chat.completions.create(model=name, messages=ASK, stream=True, **options))
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
    options: JsonObject = {"tools": tools} if tools else {}
    chunks = list(client.chat.completions.create(model=f"{name}~bytewise", messages=ASK, stream=True, **options))
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
    assert wires.last_request(upstream_name(name)).body.decode().count("21 °C") == 2


@pytest.mark.parametrize("name", WIRES)
def test_streamed_tools(client: openai.OpenAI, name: str) -> None:
    chunks = list(client.chat.completions.create(model=name, messages=ASK, tools=TOOLS, stream=True))
    assert streamed_calls(chunks) == (CALLS, ["tool_calls"])


@pytest.mark.parametrize("name", WIRES)
def test_system_prompt(client: openai.OpenAI, wires: FakeWires, name: str) -> None:
    client.chat.completions.create(model=name, messages=[{"role": "system", "content": SYSTEM}, *ASK])
    request = wires.last_request(upstream_name(name)).json
    expected = WIRES[name].system
    if expected is None:
        assert request["messages"][0] == {"role": "system", "content": SYSTEM}
    else:
        assert {field: request[field] for field in expected} == expected
        assert SYSTEM not in json.dumps(request.get("messages") or request.get("contents"), ensure_ascii=False)


@pytest.mark.parametrize("name", WIRES)
def test_image(client: openai.OpenAI, wires: FakeWires, name: str) -> None:
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
    content: Any = [{"type": "text", "text": QUESTION}, image]
    answer = client.chat.completions.create(model=name, messages=[{"role": "user", "content": content}])
    assert answer.choices[0].message.content == echo_of(QUESTION)
    request = wires.last_request(upstream_name(name)).json
    turn = (request.get("messages") or request.get("contents"))[-1]
    assert json.dumps(turn).count(PNG) == 1
    assert (f"data:image/png;base64,{PNG}" in json.dumps(turn)) is WIRES[name].has_data_urls


@pytest.mark.parametrize("name", WIRES)
def test_json_schema(client: openai.OpenAI, wires: FakeWires, name: str) -> None:
    answer = client.chat.completions.create(model=name, messages=ASK, response_format=SCHEMA)
    assert answer.choices[0].message.content == FILLED
    assert '"city' in wires.last_request(upstream_name(name)).body.decode().replace('\\"', '"')


@pytest.mark.parametrize("name", WIRES)
@pytest.mark.parametrize("status", CLASSES)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_errors_have_their_class(client: openai.OpenAI, name: str, status: int, stream: bool) -> None:
    expected, code, kind = CLASSES[status]
    with pytest.raises(kind) as refused:
        client.chat.completions.create(model=f"{name}~{status}", messages=ASK, stream=stream)
    assert refused.value.status_code == expected
    assert refused.value.code == code or (code is None and WIRES[name].has_codes)
    if status == 429:
        assert refused.value.response.headers["retry-after"] == "7"
    assert not [leak for leak in (*LEAKS, "127.0.0.1", "arn:", PLACE) if leak in refused.value.response.text]


@pytest.mark.parametrize("model", [*("~".join(case) for case in BREAKING), "bedrock~damaged"])
def test_a_broken_stream_ends_with_an_error(gateway: Gateway, client: openai.OpenAI, key: str, model: str) -> None:
    chunks: list[Any] = []
    with pytest.raises(openai.APIError):
        chunks.extend(client.chat.completions.create(model=model, messages=ASK, stream=True))
    response = gateway.call(key, model=model, stream=True)
    assert response.status_code == 200
    assert "[DONE]" not in response.text
    *head, last = [json.loads(event) for event in events(response.content)]
    text = "".join(choice["delta"].get("content") or "" for event in head for choice in event["choices"])
    assert text == "".join(words_of({"prompt": "hi"}, None)[: WIRES[model.partition("~")[0]].shown_words])
    assert set(last["error"]) == {"message", "type", "param", "code"}
    if model.endswith(("cut", "end")):
        assert last["error"]["code"] == "upstream_incomplete_stream"
    assert not [leak for leak in LEAKS if leak in response.text]


@pytest.mark.parametrize("name", EMBEDDERS)
@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_embeddings(client: openai.OpenAI, name: str, encoding: Any) -> None:
    texts = embedded_by(name)
    answer = client.embeddings.create(model=f"{name}-embed", input=texts, encoding_format=encoding)
    assert (answer.model, [row.index for row in answer.data]) == (f"{name}-embed", [*range(len(texts))])
    rows = [row.embedding for row in answer.data]
    if encoding == "float":
        assert rows == [vector(index) for index in range(len(texts))]
    else:
        assert rows == [base64.b64encode(struct.pack("<8f", *vector(index))).decode() for index in range(len(texts))]
    tokens = WIRES[name].embedding_tokens
    assert answer.usage.prompt_tokens == tokens or (tokens is None and answer.usage.prompt_tokens > 0)


@pytest.mark.parametrize("name", WIRES)
def test_completions(client: openai.OpenAI, wires: FakeWires, name: str) -> None:
    answer = client.completions.create(model=name, prompt=QUESTION, max_tokens=50)
    assert (answer.object, answer.model) == ("text_completion", name)
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == (echo_of(QUESTION), "stop")
    chunks = list(client.completions.create(model=name, prompt=QUESTION, max_tokens=50, stream=True))
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == echo_of(QUESTION)
    assert ("prompt" in wires.last_request(upstream_name(name)).json) is WIRES[name].has_completions


@pytest.mark.parametrize("name", DROPPERS)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_dropped_parameter_is_named(gateway: Gateway, wires: FakeWires, key: str, name: str, stream: bool) -> None:
    wire = WIRES[name]
    response = gateway.call(key, model=name, stream=stream, **{wire.dropped: wire.dropped_value})
    assert response.status_code == 200, response.text
    assert response.headers["x-tollgate-dropped-params"] == wire.dropped
    assert wire.dropped not in wires.last_request(upstream_name(name)).body.decode()


# What it costs


@pytest.mark.parametrize("name", WIRES)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_spend_is_exact(spend: Spend, name: str, stream: bool) -> None:
    row = spend("chat", name, stream)
    assert (row["cost_status"], row["status"], row["usage_estimated"]) == ("priced", "success", False)
    assert (row["prompt_tokens"], row["completion_tokens"]) == WIRES[name].usage[:2]
    assert decimal_cost(row) == WIRES[name].cost
    assert (row["model_group"], row["custom_llm_provider"]) == (name, WIRES[name].provider)


@pytest.mark.parametrize("name", MESSAGES_WIRES)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_spend_of_messages_is_exact(spend: Spend, name: str, stream: bool) -> None:
    row = spend("message", name, stream)
    assert (row["prompt_tokens"], row["completion_tokens"]) == WIRES[name].usage[:2]
    assert decimal_cost(row) == WIRES[name].cost


@pytest.mark.parametrize("name", EMBEDDERS)
def test_spend_of_embeddings_is_exact(spend: Spend, name: str) -> None:
    row, tokens = spend("embedding", name), WIRES[name].embedding_tokens
    assert (row["call_type"], row["usage_estimated"]) == ("aembedding", tokens is None)
    assert row["prompt_tokens"] == tokens or (tokens is None and row["prompt_tokens"] > 0)
    assert decimal_cost(row) == row["prompt_tokens"] * INPUT


@pytest.mark.parametrize(("name", "twist"), BREAKING)
def test_what_a_broken_stream_used_is_estimated(spend: Spend, name: str, twist: str) -> None:
    row = spend("broken", name, twist)
    assert (row["cost_status"], row["status"]) == ("priced", "failure")
    assert row["completion_tokens"] > 0
    assert decimal_cost(row) > 0


@pytest.mark.parametrize("name", WIRES)
@pytest.mark.parametrize("status", REFUSING)
def test_an_error_costs_nothing(spend: Spend, name: str, status: int) -> None:
    row = spend("error", name, status)
    assert (row["status"], row["total_tokens"], row["spend"]) == ("failure", 0, 0)


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
    assert SYSTEM in json.dumps(wires.last_request(upstream_name(name)).json, ensure_ascii=False)


@pytest.mark.parametrize("name", MESSAGES_WIRES)
def test_image_of_messages(messages: anthropic.Anthropic, wires: FakeWires, name: str) -> None:
    source = {"type": "base64", "media_type": "image/png", "data": PNG}
    content: Any = [{"type": "image", "source": source}, {"type": "text", "text": QUESTION}]
    answer: Any = messages.messages.create(model=name, max_tokens=50, messages=[{"role": "user", "content": content}])
    assert answer.content[0].text == echo_of(QUESTION)
    assert wires.last_request(upstream_name(name)).body.decode().count(PNG) == 1


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
    fields: JsonObject = {"model": name, "max_tokens": 50, "tools": MESSAGES_TOOLS}
    if stream:
        with messages.messages.stream(messages=ASK, **fields) as events_of:
            answer = events_of.get_final_message()
    else:
        answer = messages.messages.create(messages=ASK, **fields)
    uses: list[Any] = [block for block in answer.content if block.type == "tool_use"]
    assert ([(use.name, use.input) for use in uses], answer.stop_reason) == (CALLS, "tool_use")
    results = [{"type": "tool_result", "tool_use_id": use.id, "content": "21 °C"} for use in uses]
    turn = {"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in answer.content]}
    after: Any = messages.messages.create(messages=[*ASK, turn, {"role": "user", "content": results}], **fields)
    assert after.stop_reason == "end_turn"
    assert "21 °C" in after.content[0].text
    assert wires.last_request(upstream_name(name)).body.decode().count("21 °C") == 2


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
    *head, last = [json.loads(event) for event in events(response.content)]
    assert (head[0]["type"], last["type"], set(last["error"])) == ("message_start", "error", {"type", "message"})
    text = "".join(event["delta"].get("text", "") for event in head if event["type"] == "content_block_delta")
    assert text == "".join(words_of({"prompt": QUESTION}, None)[: WIRES[model.partition("~")[0]].shown_words])
    assert "message_stop" not in {event["type"] for event in head}
    assert not [leak for leak in LEAKS if leak in response.text]


@pytest.mark.parametrize("name", MESSAGES_WIRES)
def test_tokens_are_counted(messages: anthropic.Anthropic, wires: FakeWires, name: str) -> None:
    before = len(wires.requests)
    short = messages.messages.count_tokens(model=name, messages=ASK).input_tokens
    long = messages.messages.count_tokens(model=name, messages=ASK, system="word " * 100, tools=MESSAGES_TOOLS)
    assert 0 < short < long.input_tokens
    requests = wires.requests[before:]
    if name == "anthropic":  # it counts for nothing, and knows best
        assert [len(request.body) for request in requests] == [short, long.input_tokens]
    else:
        assert not requests


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
def test_refusals_have_the_shape_of_messages(gateway: Gateway, key: str, path: str) -> None:
    cases: list[tuple[str, JsonObject, int, str]] = [
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


# Google's token


def test_one_token_serves_all_calls_of_a_deployment(client: openai.OpenAI, google: FakeGoogle) -> None:
    client.chat.completions.create(model="vertex_ai", messages=ASK)
    fetched = len(google.claims)
    for _ in range(3):
        client.chat.completions.create(model="vertex_ai", messages=ASK)
    assert len(google.claims) == fetched
    assert {claims["iss"] for claims in google.claims} == {google.account["client_email"]}
    assert {claims["scope"] for claims in google.claims} == {"https://www.googleapis.com/auth/cloud-platform"}


def test_a_service_account_that_google_refuses_is_the_gateways_fault(gateway: Gateway, key: str) -> None:
    answer = gateway.call(key, model="vertex-denied")
    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == "upstream_auth_failed"
    assert "PRIVATE KEY" not in answer.text + gateway.output()
    [row] = gateway.wait_priced(api_key=key)
    assert (row["status"], row["spend"]) == ("failure", 0)
