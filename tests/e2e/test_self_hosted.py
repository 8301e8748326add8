"""The examples of the self-hosted servers as their users write them: chat, a stream line by line, function calling.

Before each server stands its own wire format; LightLLM in three generations, and with calls that it leaves in the text.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import openai
import pytest

from gateway.protocol.json.types import JsonObject
from tests.e2e.conftest import ENVIRONMENT
from tests.e2e.gateway import Gateway
from tests.fakes.self_hosted import INTRODUCTION, LIGHTLLM_USAGE, written
from tests.fakes.upstream import CREDENTIAL
from tests.fakes.wire_server import FakeWires
from tests.fakes.wires import ARGUMENTS_OF, echo_of

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(60)]

QUESTION = "你好，介绍一下北京 — naïve 🚀"
ASK: list[Any] = [{"role": "user", "content": QUESTION}]


def tool(name: str, description: str, **properties: JsonObject) -> JsonObject:
    parameters = {"type": "object", "properties": properties, "required": list(properties)[:1]}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


WEATHER = tool(
    "get_current_weather",
    "The weather in a city",
    city={"type": "string", "description": "The city's name"},
    unit={"type": "string", "enum": ["celsius", "fahrenheit"]},
)
CALCULATE = tool("calculate", "Evaluates an expression", expression={"type": "string"})


@dataclass(frozen=True, slots=True)
class Server:
    """The deployment of a server."""

    model: str  # provider/upstream model
    base: str  # below the bare host
    params: JsonObject = field(default_factory=dict)
    introduction: str | None = None  # what the model says before it calls
    is_streamed: bool = True  # with tools; otherwise the gateway asks for the whole answer and streams it itself
    are_exact: bool = True  # arguments reach the client byte for byte as the model wrote them

    @property
    def upstream_model(self) -> str:
        return self.model.partition("/")[2]


LIGHTLLM = "/lightllm/v1"
SERVERS = {
    "lightllm": Server("lightllm/qwen2.5-7b", LIGHTLLM),
    "lightllm-2026": Server("lightllm/qwen3-8b", "/lightllm-2026/v1"),
    "lightllm-first": Server("lightllm/qwen2-7b", "/lightllm-first/v1", introduction=INTRODUCTION),
    "text-qwen25": Server(
        "lightllm/qwen2.5-14b~as-qwen25", LIGHTLLM, {"tool_call_parser": "qwen25"}, introduction=INTRODUCTION
    ),
    "text-llama3": Server("lightllm/llama-3.1~as-llama3", LIGHTLLM, {"tool_call_parser": "llama3"}),
    "text-llama3-bare": Server("lightllm/llama-3.2~as-llama3-bare", LIGHTLLM, {"tool_call_parser": "llama3"}),
    "text-mistral": Server("lightllm/mistral-nemo~as-mistral", LIGHTLLM, {"tool_call_parser": "mistral"}),
    "xinference": Server("xinference/qwen2.5-instruct", "/xinference/v1"),
    "xinference-whole": Server("xinference/my-llama-3.1", "/xinference/v1", is_streamed=False),
    "mindie": Server("mindie/qwen3-32b", "/mindie/v1"),
    "mindie-whole": Server("mindie/qwen2.5-72b", "/mindie/v1", is_streamed=False),
    "vllm": Server("hosted_vllm/Qwen/Qwen3-8B", "/vllm/v1"),
    "ollama": Server("ollama/qwen2.5", "", are_exact=False),  # its arguments are an object, not text
    "ollama-v1": Server("ollama/qwen2.5-coder", "/ollama-v1/v1"),
}
UNREAD = {name.removeprefix("text-"): server for name, server in SERVERS.items() if server.params}


@pytest.fixture(scope="module")
def wires() -> Iterator[FakeWires]:
    with FakeWires() as running:
        yield running


@pytest.fixture(scope="module")
def gateway(wires: FakeWires, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    rows: list[JsonObject] = []

    def serve(public: str, server: Server, **params: Any) -> None:
        shared = {"model": server.model, "api_base": wires.root + server.base, "api_key": CREDENTIAL}
        prices = {"input_cost_per_token": "0.000003", "output_cost_per_token": "1.5e-5"}
        rows.append({"model_name": public, "litellm_params": {**shared, **prices, **params}})

    for name, server in SERVERS.items():
        serve(name, server, **server.params)
    for family, server in UNREAD.items():
        serve(f"unread-{family}", server)
    running = Gateway(tmp_path_factory.mktemp("gateway-self-hosted"), config={"model_list": rows}, env=ENVIRONMENT)
    try:
        yield running.start()
        running.stop()
    finally:
        running.close()


def lines_of(gateway: Gateway, key: str, **body: Any) -> list[str]:
    """The lines of a stream, as a plain HTTP client reads them; empty ones and comments left out."""
    headers = {"authorization": f"Bearer {key}"}
    with httpx.stream(
        "POST", f"{gateway.url}/v1/chat/completions", json={"stream": True, **body}, headers=headers, timeout=30
    ) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        return [line for line in response.iter_lines() if line and not line.startswith(":")]


def same_arguments(server: Server, arguments: str, name: str) -> bool:
    expected = ARGUMENTS_OF[name]
    is_same: bool = json.loads(arguments) == expected
    return is_same and (not server.are_exact or arguments == json.dumps(expected, ensure_ascii=False))


@pytest.mark.parametrize("name", SERVERS)
def test_simple_chat(client: openai.OpenAI, wires: FakeWires, name: str) -> None:
    messages: list[Any] = [{"role": "system", "content": "You are a helpful assistant."}, *ASK]
    answer = client.chat.completions.create(model=name, messages=messages, temperature=0.7, max_tokens=100)
    assert (answer.model, answer.object, answer.choices[0].finish_reason) == (name, "chat.completion", "stop")
    assert answer.choices[0].message.content == echo_of(QUESTION)
    assert answer.choices[0].message.tool_calls is None
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 0
    request = wires.last_request(SERVERS[name].upstream_model).json
    options = request.get("options", request)  # Ollama has a place of its own for them
    assert (options["temperature"], options.get("num_predict", options.get("max_tokens"))) == (0.7, 100)


@pytest.mark.parametrize("name", SERVERS)
def test_streamed_chat_line_by_line(gateway: Gateway, key: str, name: str) -> None:
    lines = lines_of(gateway, key, model=name, messages=ASK, temperature=0.7, max_tokens=100)
    assert all(line.startswith("data: ") for line in lines)
    *events, last = [line[len("data: ") :] for line in lines]
    assert last == "[DONE]"
    chunks = [json.loads(event) for event in events]
    choices = [chunk["choices"][0] for chunk in chunks]  # none is empty: the usage was not asked for
    assert "".join(choice["delta"].get("content") or "" for choice in choices) == echo_of(QUESTION)
    assert [choice["delta"]["role"] for choice in choices if "role" in choice["delta"]] == ["assistant"]
    assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == ["stop"]
    assert choices[-1]["finish_reason"] == "stop"
    assert {(chunk["object"], chunk["model"], chunk["id"]) for chunk in chunks} == {
        ("chat.completion.chunk", name, chunks[0]["id"])
    }


@pytest.mark.parametrize("name", SERVERS)
def test_function_calling(client: openai.OpenAI, wires: FakeWires, name: str) -> None:
    server = SERVERS[name]
    fields: JsonObject = {"model": name, "tools": [WEATHER], "tool_choice": "auto"}
    messages: list[Any] = [{"role": "user", "content": "北京今天天气怎么样?"}]
    choice = client.chat.completions.create(messages=messages, **fields).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert (choice.message.content or None) == server.introduction
    [call] = choice.message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == "get_current_weather"
    assert same_arguments(server, call.function.arguments, "get_current_weather")
    result = {"role": "tool", "tool_call_id": call.id, "content": '{"temperature": "21"}'}
    messages += [choice.message.model_dump(exclude_none=True), result]
    after = client.chat.completions.create(messages=messages, **fields).choices[0]
    assert (after.finish_reason, after.message.content) == ("stop", echo_of('{"temperature": "21"}'))
    assert CREDENTIAL not in wires.last_request(server.upstream_model).body.decode()


@pytest.mark.parametrize("name", SERVERS)
def test_streamed_function_calling(client: openai.OpenAI, wires: FakeWires, name: str) -> None:
    server = SERVERS[name]
    messages: list[Any] = [{"role": "user", "content": "(12 + 3) * 4 / 2 = ?"}]
    stream = client.chat.completions.create(
        model=name, messages=messages, tools=[CALCULATE], tool_choice="auto", stream=True
    )
    choices = [choice for chunk in stream for choice in chunk.choices]
    first, *later = [part for choice in choices for part in choice.delta.tool_calls or []]
    assert (first.index, first.type, first.function and first.function.name) == (0, "function", "calculate")
    assert first.id
    arguments = (first.function.arguments or "") if first.function else ""
    for part in later:
        assert (part.index, part.id, part.type) == (0, None, None)
        assert part.function is not None
        assert part.function.name is None
        assert part.function.arguments
        arguments += part.function.arguments
    assert same_arguments(server, arguments, "calculate")
    assert ("".join(choice.delta.content or "" for choice in choices) or None) == server.introduction
    assert [choice.finish_reason for choice in choices if choice.finish_reason] == ["tool_calls"]
    assert wires.last_request(server.upstream_model).json.get("stream", False) is server.is_streamed


@pytest.mark.parametrize("name", SERVERS)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_two_functions_are_called_at_once(gateway: Gateway, key: str, name: str, stream: bool) -> None:
    body: JsonObject = {"model": name, "messages": ASK, "tools": [WEATHER, CALCULATE]}
    if stream:
        choices = [json.loads(line[6:])["choices"][0]["delta"] for line in lines_of(gateway, key, **body)[:-1]]
    else:
        choices = [gateway.call(key, **body).json()["choices"][0]["message"]]
    calls: dict[int, JsonObject] = {}
    for part in (part for choice in choices for part in choice.get("tool_calls") or []):
        call = calls.setdefault(part.get("index", len(calls)), {"name": "", "arguments": "", "id": ""})
        call["id"] += part.get("id") or ""
        for field_name in ("name", "arguments"):
            call[field_name] += part["function"].get(field_name) or ""
    assert [(call["name"], json.loads(call["arguments"])) for call in calls.values()] == [
        ("get_current_weather", {"city": "Paris", "unit": "c"}),
        ("calculate", {"city": "北京"}),
    ]
    assert len({call["id"] for call in calls.values()}) == 2


@pytest.mark.parametrize("family", UNREAD)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_calls_that_nobody_reads_stay_text(client: openai.OpenAI, family: str, stream: bool) -> None:
    """Neither the server nor the deployment names a parser: what the model wrote is not lost, and not guessed at."""
    fields: JsonObject = {"model": f"unread-{family}", "messages": ASK, "tools": [CALCULATE], "tool_choice": "auto"}
    if stream:
        choices = [
            choice for chunk in client.chat.completions.create(stream=True, **fields) for choice in chunk.choices
        ]
        text = "".join(choice.delta.content or "" for choice in choices)
        assert not [choice for choice in choices if choice.delta.tool_calls]
    else:
        choices = client.chat.completions.create(**fields).choices
        text = choices[0].message.content
        assert choices[0].message.tool_calls is None
    assert text == written([("calculate", ARGUMENTS_OF["calculate"])], family)
    assert choices[-1].finish_reason == "stop"


def test_the_usage_behind_the_end_of_a_lightllm_completion_counts(gateway: Gateway, key: str) -> None:
    body = {"model": "lightllm", "prompt": "2 + 2 =", "max_tokens": 20, "stream": True}
    answer = gateway.call(key, "/v1/completions", **body)
    assert answer.text.count("[DONE]") == 1
    [row] = gateway.wait_priced(api_key=key)
    counts = (LIGHTLLM_USAGE["prompt_tokens"], LIGHTLLM_USAGE["completion_tokens"])
    assert (row["prompt_tokens"], row["completion_tokens"], row["usage_estimated"]) == (*counts, False)


def test_the_usage_behind_the_end_of_a_lightllm_completion_is_told_before_it(client: openai.OpenAI) -> None:
    fields: JsonObject = {"prompt": "2 + 2 =", "stream": True, "stream_options": {"include_usage": True}}
    *chunks, last = client.completions.create(model="lightllm", **fields)
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == echo_of("2 + 2 =")
    assert last.usage is not None
    assert last.usage.model_dump(exclude_none=True) == LIGHTLLM_USAGE
