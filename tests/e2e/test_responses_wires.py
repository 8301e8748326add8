"""/v1/responses on every wire that is translated: each provider of the matrix, with OpenAI's SDK and byte by byte."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from gateway.protocol.json.types import JsonObject
from tests.e2e.conftest import ENVIRONMENT
from tests.e2e.gateway import Gateway, decimal_cost
from tests.e2e.streams import deltas, get, post, streamed, text_of
from tests.e2e.test_providers import (
    BREAKING,
    CALLS,
    CLASSES,
    NAMES,
    PARAMETERS,
    PNG,
    QUESTION,
    SYSTEM,
    TWISTS,
    WIRES,
    deployed,
    upstream_name,
)
from tests.fakes.google import FakeGoogle
from tests.fakes.self_hosted import PLACE
from tests.fakes.upstream import FREE_TEXT, LEAKS, words_of
from tests.fakes.wire_server import FakeWires
from tests.fakes.wires import CUT_WORDS, FILLED, REDACTED, SIGNATURE, THOUGHT, echo_of

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(60)]

TOOLS: list[Any] = [
    {"type": "function", "name": name, "description": "d", "parameters": PARAMETERS, "strict": False} for name in NAMES
]
CUSTOM: list[Any] = [{"type": "custom", "name": "run", "description": "Runs code."}]
#: What the model thought, and the wire's own proof of it, in a request: with and without a tool call.
THINKERS: dict[str, tuple[str, ...]] = {
    "azure_claude": (SIGNATURE, THOUGHT, REDACTED),
    "anthropic": (SIGNATURE, THOUGHT, REDACTED),
    "vertex_claude": (SIGNATURE, THOUGHT, REDACTED),
    "bedrock": (SIGNATURE, THOUGHT),
    "gemini": (SIGNATURE,),
    "vertex_ai": (SIGNATURE,),
}
STATUSES = (400, 401, 404, 429, 500)
BOTH = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
PROVE = {"reasoning": {"effort": "low"}, "max_output_tokens": 4096}


@pytest.fixture(scope="module")
def wires() -> Iterator[FakeWires]:
    with FakeWires() as running:
        yield running


@pytest.fixture(scope="module")
def google() -> Iterator[FakeGoogle]:
    with FakeGoogle() as running:
        yield running


@pytest.fixture(scope="module")
def gateway(wires: FakeWires, google: FakeGoogle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    home = tmp_path_factory.mktemp("gateway-responses")
    rows = deployed(wires.root, google, home, (*TWISTS, "thinks", "short"))
    running = Gateway(home, config={"model_list": rows}, env=ENVIRONMENT)
    try:
        yield running.start()
        running.stop()
    finally:
        running.close()


def ask(gateway: Gateway, key: str, *, stream: bool, **body: Any) -> JsonObject:
    """The response, streamed or whole."""
    if stream:
        return streamed(gateway, key, **body)[1]
    answer = post(gateway, key, **body)
    assert answer.status_code == 200, answer.text
    response: JsonObject = answer.json()
    return response


def fetch_stored(gateway: Gateway, key: str, response: JsonObject) -> JsonObject:
    answer = get(gateway, key, f"/v1/responses/{response['id']}")
    assert answer.status_code == 200, answer.text
    response: JsonObject = answer.json()
    return response


def sent_text(wires: FakeWires, name: str) -> str:
    """The last request of a model, as text."""
    base, mark, twist = name.partition("~")
    return json.dumps(wires.last_request(upstream_name(base) + mark + twist).json, ensure_ascii=False)


def usage_of(name: str) -> tuple[int, int, int]:
    return WIRES[name].usage


# Text


@pytest.mark.parametrize("name", WIRES)
def test_create(client: openai.OpenAI, name: str) -> None:
    answer = client.responses.create(model=name, input=QUESTION)
    assert (answer.model, answer.object, answer.status) == (name, "response", "completed")
    assert answer.output_text == echo_of(QUESTION)
    used = answer.usage
    assert used is not None
    assert (used.input_tokens, used.output_tokens, used.input_tokens_details.cached_tokens) == usage_of(name)
    assert client.responses.retrieve(answer.id) == answer


@pytest.mark.parametrize("name", WIRES)
async def test_create_with_the_asynchronous_client(gateway: Gateway, key: str, name: str) -> None:
    async with gateway.async_openai(key) as client:
        answer = await client.responses.create(model=name, input=QUESTION)
        events = [event async for event in await client.responses.create(model=name, input=QUESTION, stream=True)]
        async with client.responses.stream(model=name, input=QUESTION) as stream:
            added_up = await stream.get_final_response()
        last: Any = events[-1]
        assert last.type == "response.completed"
        assert answer.output_text == last.response.output_text == added_up.output_text == echo_of(QUESTION)
        assert await client.responses.retrieve(answer.id) == answer
        assert await client.responses.retrieve(last.response.id) == last.response


@pytest.mark.parametrize("name", WIRES)
@pytest.mark.parametrize("twist", ["", "~bytewise"], ids=["", "bytewise"])
@pytest.mark.parametrize("tools", [[], TOOLS], ids=["text", "tools"])
def test_stream(gateway: Gateway, key: str, name: str, twist: str, tools: list[Any]) -> None:
    events, response = streamed(gateway, key, model=name + twist, input=QUESTION, tools=tools)
    assert (response["status"], response["model"]) == ("completed", name + twist)
    assert deltas(events) == text_of(response) == ("" if tools else echo_of(QUESTION))
    assert calls_of(response) == (CALLS if tools else [])
    used = response["usage"]
    cached = used["input_tokens_details"]["cached_tokens"]
    assert (used["input_tokens"], used["output_tokens"], cached) == usage_of(name)
    assert fetch_stored(gateway, key, response) == response


@pytest.mark.parametrize("name", WIRES)
@pytest.mark.parametrize("tools", [[], TOOLS], ids=["text", "tools"])
def test_the_sdk_adds_a_stream_up(client: openai.OpenAI, name: str, tools: list[Any]) -> None:
    with client.responses.stream(model=name, input=QUESTION, tools=tools) as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        answer = stream.get_final_response()
    assert answer.output_text == text == ("" if tools else echo_of(QUESTION))
    stored, items = client.responses.retrieve(answer.id), list[Any](answer.output)
    assert [item.id for item in list[Any](stored.output)] == [item.id for item in items]
    assert stored.usage == answer.usage
    assert stored.usage is not None


def calls_of(response: JsonObject) -> list[tuple[str, JsonObject]]:
    calls = [item for item in response["output"] if item["type"] == "function_call"]
    return [(item["name"], json.loads(item["arguments"])) for item in calls]


# Tools


@pytest.mark.parametrize("name", WIRES)
@BOTH
def test_parallel_calls_and_their_outputs_go_round(
    gateway: Gateway, wires: FakeWires, key: str, name: str, stream: bool
) -> None:
    first = ask(gateway, key, stream=stream, model=name, input=QUESTION, tools=TOOLS)
    calls = [item for item in first["output"] if item["type"] == "function_call"]
    assert calls_of(first) == CALLS
    assert len({call["call_id"] for call in calls} | {call["id"] for call in calls}) == 4
    outputs = [
        {"type": "function_call_output", "call_id": call["call_id"], "output": f"{number} °C"}
        for number, call in enumerate(calls, 21)
    ]
    second = ask(gateway, key, stream=stream, model=name, input=outputs, tools=TOOLS, previous_response_id=first["id"])
    assert (second["status"], second["previous_response_id"]) == ("completed", first["id"])
    assert "22 °C" in text_of(second)
    text = sent_text(wires, name)
    assert [text.count(word) for word in ("21 °C", "22 °C", QUESTION)] == [1, 1, 1]
    turns = wires.last_request(upstream_name(name)).json
    assert (
        len([turn for turn in turns.get("messages") or turns["contents"] if turn["role"] in {"assistant", "model"}])
        == 1
    )
    third = ask(gateway, key, stream=stream, model=name, input="thanks", previous_response_id=second["id"])
    assert third["status"] == "completed"
    assert sent_text(wires, name).count("22 °C") == 2  # the output, and the answer that repeats it


@pytest.mark.parametrize("name", WIRES)
@BOTH
def test_a_custom_tool_goes_round(gateway: Gateway, wires: FakeWires, key: str, name: str, stream: bool) -> None:
    first = ask(gateway, key, stream=stream, model=name, input=QUESTION, tools=CUSTOM)
    [call] = [item for item in first["output"] if item["type"] == "custom_tool_call"]
    assert (call["name"], call["input"]) == ("run", FREE_TEXT)
    assert (sent_text(wires, name).count('"custom"') > 0) is (name in {"openai", "azure"})  # others are told a function
    output = {"type": "custom_tool_call_output", "call_id": call["call_id"], "output": "21 °C"}
    body = {"model": name, "input": [output], "tools": CUSTOM, "previous_response_id": first["id"]}
    second = ask(gateway, key, stream=stream, **body)
    assert "21 °C" in text_of(second)
    assert sent_text(wires, name).count("21 °C") == 1


# What is asked for


class Place(BaseModel):
    city: str


@pytest.mark.parametrize("name", WIRES)
def test_image(client: openai.OpenAI, wires: FakeWires, name: str) -> None:
    url = f"data:image/png;base64,{PNG}"
    parts: Any = [{"type": "input_text", "text": QUESTION}, {"type": "input_image", "image_url": url, "detail": "auto"}]
    answer = client.responses.create(model=name, input=[{"role": "user", "content": parts}])
    assert answer.output_text == echo_of(QUESTION)
    assert sent_text(wires, name).count(PNG) == 1
    client.responses.create(model=name, input="and now?", previous_response_id=answer.id)
    assert sent_text(wires, name).count(PNG) == 1


@pytest.mark.parametrize("name", WIRES)
def test_parse(client: openai.OpenAI, wires: FakeWires, name: str) -> None:
    answer = client.responses.parse(model=name, input=QUESTION, text_format=Place)
    assert answer.output_text == FILLED
    assert answer.output_parsed == Place(city="Paris")
    assert '"city' in sent_text(wires, name).replace('\\"', '"')


@pytest.mark.parametrize("name", WIRES)
def test_instructions_hold_for_one_turn(client: openai.OpenAI, wires: FakeWires, name: str) -> None:
    first = client.responses.create(model=name, input=QUESTION, instructions=SYSTEM)
    request, expected = wires.last_request(upstream_name(name)).json, WIRES[name].system
    if expected is None:
        assert request["messages"][0] == {"role": "system", "content": SYSTEM}
    else:
        assert {field: request[field] for field in expected} == expected
    assert first.instructions == SYSTEM
    second = client.responses.create(model=name, input="again", previous_response_id=first.id)
    assert second.instructions is None
    assert SYSTEM not in sent_text(wires, name)
    assert QUESTION in sent_text(wires, name)


@pytest.mark.parametrize("name", WIRES)
@BOTH
def test_what_the_limit_cut_is_incomplete_and_can_be_continued(
    gateway: Gateway, wires: FakeWires, key: str, name: str, stream: bool
) -> None:
    cut = ask(gateway, key, stream=stream, model=f"{name}~short", input=QUESTION, max_output_tokens=16)
    text = "".join(words_of({"prompt": QUESTION}, None)[:CUT_WORDS])
    assert (cut["status"], cut["incomplete_details"], text_of(cut)) == (
        "incomplete",
        {"reason": "max_output_tokens"},
        text,
    )
    assert cut["output"][-1]["status"] == "incomplete"
    assert cut["max_output_tokens"] == 16
    assert cut["usage"] is not None
    assert fetch_stored(gateway, key, cut) == cut
    assert (
        ask(gateway, key, stream=stream, model=name, input="go on", previous_response_id=cut["id"])["status"]
        == "completed"
    )
    assert text.strip() in sent_text(wires, name)


# What goes wrong


@pytest.mark.parametrize("name", WIRES)
@pytest.mark.parametrize("status", STATUSES)
@BOTH
def test_errors_have_their_class(client: openai.OpenAI, name: str, status: int, stream: bool) -> None:
    expected, code, kind = CLASSES[status]
    with pytest.raises(kind) as refused:
        client.responses.create(model=f"{name}~{status}", input=QUESTION, stream=stream)
    assert refused.value.status_code == expected
    assert refused.value.code == code or (code is None and WIRES[name].has_codes)
    assert set(refused.value.response.json()["error"]) == {"message", "type", "param", "code"}
    if status == 429:
        assert refused.value.response.headers["retry-after"] == "7"
    assert not [leak for leak in (*LEAKS, "127.0.0.1", "arn:", PLACE) if leak in refused.value.response.text]


@pytest.mark.parametrize("model", [*("~".join(case) for case in BREAKING), "bedrock~damaged"])
def test_a_broken_stream_fails_and_keeps_what_came(gateway: Gateway, key: str, model: str) -> None:
    events, failed = streamed(gateway, key, model=model, input=QUESTION)
    assert (events[-1]["type"], failed["status"], failed["error"]["code"]) == (
        "response.failed",
        "failed",
        "server_error",
    )
    text = "".join(words_of({"prompt": QUESTION}, None)[: WIRES[model.partition("~")[0]].shown_words])
    assert deltas(events) == text_of(failed) == text
    assert failed["output"][-1]["status"] == "incomplete"
    stored = get(gateway, key, f"/v1/responses/{failed['id']}")
    assert stored.json() == failed
    assert not [leak for leak in LEAKS if leak in json.dumps(events) + stored.text]
    follow = post(gateway, key, model=model.partition("~")[0], input="on", previous_response_id=failed["id"])
    assert (follow.status_code, follow.json()["status"]) == (200, "completed")


# Reasoning


@dataclass(frozen=True, slots=True)
class Replayed:
    first: JsonObject
    next_request: str  # the next turn's request, in the same process
    later_request: str  # and in another one


@pytest.fixture(scope="module")
def replayed(
    wires: FakeWires, google: FakeGoogle, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[tuple[str, bool, bool], Replayed]]:
    """By wire, whether a tool was called, and whether it streamed. One restart for all."""
    home = tmp_path_factory.mktemp("gateway-reasoning")
    running = Gateway(home, config={"model_list": deployed(wires.root, google, home, ("thinks",))}, env=ENVIRONMENT)
    cases = [(name, tool, stream) for name in THINKERS for tool in (False, True) for stream in (False, True)]
    try:
        key = running.start().issue_key()

        def follow(first: JsonObject, name: str, tools: list[Any]) -> str:
            outputs = [
                {"type": "function_call_output", "call_id": item["call_id"], "output": "21 °C"}
                for item in first["output"]
                if item["type"] == "function_call"
            ]
            body = {"tools": tools, "previous_response_id": first["id"], **PROVE}
            answer = post(running, key, model=f"{name}~thinks", input=outputs or "go on", **body)
            assert answer.status_code == 200, answer.text
            return sent_text(wires, f"{name}~thinks")

        firsts = {}
        for name, tool, stream in cases:
            body = {"model": f"{name}~thinks", "input": QUESTION, "tools": TOOLS if tool else [], **PROVE}
            firsts[name, tool, stream] = ask(running, key, stream=stream, **body)
        at_once = {case: follow(first, case[0], TOOLS if case[1] else []) for case, first in firsts.items()}
        running.restart()
        later = {case: follow(first, case[0], TOOLS if case[1] else []) for case, first in firsts.items()}
        yield {case: Replayed(first, at_once[case], later[case]) for case, first in firsts.items()}
    finally:
        running.close()


@pytest.mark.parametrize("name", THINKERS)
@BOTH
@pytest.mark.parametrize("tool", [False, True], ids=["text", "tools"])
def test_reasoning_goes_back_to_its_maker_from_the_store(
    replayed: dict[tuple[str, bool, bool], Replayed], name: str, tool: bool, stream: bool
) -> None:
    replay = replayed[name, tool, stream]
    reasoning = replay.first["output"][0]
    assert reasoning["type"] == "reasoning"
    assert THOUGHT in json.dumps(reasoning, ensure_ascii=False)
    assert SIGNATURE not in json.dumps(replay.first)
    for text in (replay.next_request, replay.later_request):
        if tool or name not in {"gemini", "vertex_ai"}:  # Gemini signs calls only
            assert [text.count(proof) for proof in THINKERS[name]] == [1] * len(THINKERS[name])
    assert replay.next_request == replay.later_request


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("maker", "reader"),
    [
        ("anthropic", "bedrock"),
        ("anthropic", "gemini"),
        ("gemini", "anthropic"),
        ("bedrock", "openai"),
        ("anthropic", "ollama"),
    ],
)
def test_reasoning_goes_to_nobody_else(
    gateway: Gateway, wires: FakeWires, key: str, maker: str, reader: str, stream: bool
) -> None:
    first = ask(gateway, key, stream=stream, model=f"{maker}~thinks", input=QUESTION, tools=TOOLS, **PROVE)
    outputs = [
        {"type": "function_call_output", "call_id": item["call_id"], "output": "21 °C"}
        for item in first["output"]
        if item["type"] == "function_call"
    ]
    body: JsonObject = {"input": outputs, "tools": TOOLS}
    second = ask(gateway, key, stream=stream, model=reader, previous_response_id=first["id"], **body)
    text = sent_text(wires, reader)
    assert "21 °C" in text
    assert not [proof for proof in (SIGNATURE, REDACTED, THOUGHT) if proof in text]
    body = {"input": "and now?", "previous_response_id": second["id"], "tools": TOOLS, **PROVE}
    ask(gateway, key, stream=stream, model=f"{maker}~thinks", **body)
    assert [sent_text(wires, f"{maker}~thinks").count(proof) for proof in THINKERS[maker]] == [1] * len(THINKERS[maker])


@pytest.mark.parametrize("name", ["anthropic", "bedrock", "gemini"])
def test_reasoning_that_the_client_keeps_is_taken_back(gateway: Gateway, wires: FakeWires, key: str, name: str) -> None:
    """A client that stores nothing sends the items back as they came."""
    include = ["reasoning.encrypted_content"]
    body: JsonObject = {"model": f"{name}~thinks", "store": False, "include": include, **PROVE}
    first = ask(gateway, key, stream=True, input=QUESTION, **body)
    assert SIGNATURE not in json.dumps(first)
    history = [{"role": "user", "content": QUESTION}, *first["output"], {"role": "user", "content": "go on"}]
    ask(gateway, key, stream=False, input=history, **body)
    if name != "gemini":
        assert [sent_text(wires, f"{name}~thinks").count(proof) for proof in THINKERS[name]] == [1] * len(
            THINKERS[name]
        )


# What it costs


@pytest.fixture(scope="module")
def rows(gateway: Gateway) -> dict[tuple[str, bool], str]:
    """The keys of calls that were made once for all tests: a price comes a second after a call."""
    keys = {}
    for name in WIRES:
        for stream in (False, True):
            keys[name, stream] = gateway.issue_key()
            ask(gateway, keys[name, stream], stream=stream, model=name, input=QUESTION)
    return keys


@pytest.mark.parametrize("name", WIRES)
@BOTH
def test_spend_is_exact(gateway: Gateway, rows: dict[tuple[str, bool], str], name: str, stream: bool) -> None:
    [row] = gateway.wait_priced(api_key=rows[name, stream])
    assert (row["cost_status"], row["status"], row["usage_estimated"]) == ("priced", "success", False)
    assert (row["prompt_tokens"], row["completion_tokens"]) == WIRES[name].usage[:2]
    assert decimal_cost(row) == WIRES[name].cost
    assert (row["model_group"], row["custom_llm_provider"]) == (name, WIRES[name].provider)
    assert row["call_type"] == "aresponses"
