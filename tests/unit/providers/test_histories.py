"""Histories as the providers with a wire of their own are told them: calls, their results, system messages."""

import sys
from collections.abc import Callable
from dataclasses import replace
from types import FrameType
from typing import Any

import orjson
import pytest

from gateway.protocol.errors import BadRequest
from gateway.protocol.json.types import JsonObject
from gateway.providers.anthropic import PROVIDER as ANTHROPIC
from gateway.providers.bedrock import PROVIDER as BEDROCK
from gateway.providers.gemini import PROVIDER as GEMINI
from gateway.providers.ollama import PROVIDER as OLLAMA
from tests.fakes import anthropic, bedrock, gemini, memory
from tests.fakes.memory import decode
from tests.fakes.provider_cases import MOMENT

USER = {"role": "user", "content": "Hi"}
PNG = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
PDF = {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0="}}
TARGETS: dict[str, Callable[[], Any]] = {
    "anthropic": anthropic.target,
    "bedrock": bedrock.target,
    "gemini": gemini.target,
    "ollama": lambda: memory.target(api_base="http://127.0.0.1:11434", upstream_model="qwen3:8b", credential={}),
}
PROVIDERS = {"anthropic": ANTHROPIC, "bedrock": BEDROCK, "gemini": GEMINI, "ollama": OLLAMA}
EVERYWHERE = pytest.mark.parametrize("wire", PROVIDERS)


def told(wire: str, messages: list[JsonObject], **fields: Any) -> JsonObject:
    call = decode({"model": "alias-1", "messages": messages, **fields})
    made: JsonObject = orjson.loads(PROVIDERS[wire].request(call, TARGETS[wire](), MOMENT).body)
    return made


def refusal(wire: str, messages: list[JsonObject]) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        told(wire, messages)
    return caught.value


def calls(*named: tuple[str, str], arguments: str = "{}") -> JsonObject:
    """(id, name) of each."""
    made = [
        {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
        for call_id, name in named
    ]
    return {"role": "assistant", "content": None, "tool_calls": made}


def result(call_id: str, text: str) -> JsonObject:
    return {"role": "tool", "tool_call_id": call_id, "content": text}


# Which result is which call's


def pairs(wire: str, body: JsonObject) -> list[tuple[str, str]]:
    """(the tool's name, what came of it), in the order of the results, as the upstream pairs them."""
    if wire == "ollama":
        return [(item["tool_name"], item["content"]) for item in body["messages"] if item["role"] == "tool"]
    if wire == "gemini":
        parts = [part for content in body["contents"] for part in content["parts"]]
        called = [part["functionCall"]["name"] for part in parts if "functionCall" in part]
        responses = [part["functionResponse"] for part in parts if "functionResponse" in part]
        assert called == [item["name"] for item in responses]
        return [(item["name"], next(iter(item["response"].values()))) for item in responses]
    blocks = [block for message in body["messages"] for block in message["content"]]
    if wire == "bedrock":
        uses = [block["toolUse"] for block in blocks if "toolUse" in block]
        results = [block["toolResult"] for block in blocks if "toolResult" in block]
        names = {use["toolUseId"]: use["name"] for use in uses}
        made = [(names.pop(item["toolUseId"]), item["content"][0]["text"]) for item in results]
    else:
        uses = [block for block in blocks if block["type"] == "tool_use"]
        results = [block for block in blocks if block["type"] == "tool_result"]
        names = {use["id"]: use["name"] for use in uses}
        made = [(names.pop(item["tool_use_id"]), item["content"]) for item in results]
    assert len(uses) == len(results), "each call has one result, and an id of its own"
    return made


@EVERYWHERE
@pytest.mark.parametrize("call_id", ["c", "c/ in no form that is taken"])
def test_calls_of_one_id_in_a_turn_are_answered_in_their_order(wire: str, call_id: str) -> None:
    messages = [USER, calls((call_id, "f"), ("d", "h"), (call_id, "g"))]
    messages += [result(call_id, "one"), result("d", "two"), result(call_id, "three"), USER]
    expected = {("f", "one"), ("h", "two"), ("g", "three")}
    assert set(pairs(wire, told(wire, messages))) == expected
    assert told(wire, messages) == told(wire, messages)


@EVERYWHERE
def test_an_id_that_comes_again_is_the_later_turns(wire: str) -> None:
    messages = [USER, calls(("c", "f")), result("c", "one"), calls(("c", "g")), result("c", "two"), USER]
    assert pairs(wire, told(wire, messages)) == [("f", "one"), ("g", "two")]


@EVERYWHERE
def test_a_call_that_was_not_answered_takes_no_result_of_a_later_turn(wire: str) -> None:
    messages = [USER, calls(("c", "f")), USER, calls(("c", "g")), result("c", "two"), USER]
    answered = pairs(wire, told(wire, messages))
    assert answered[-1] == ("g", "two")
    assert answered[:-1] in ([], [("f", "no result")])


@pytest.mark.parametrize("wire", ["anthropic", "bedrock", "gemini"])
def test_more_results_than_calls_are_kept_as_text(wire: str) -> None:
    messages = [USER, calls(("c", "f")), result("c", "one"), result("c", "more"), result("d", "lost"), USER]
    body = told(wire, messages)
    assert pairs(wire, body) == [("f", "one")]
    last = body["contents"][-1]["parts"] if wire == "gemini" else body["messages"][-1]["content"]
    assert [block["text"] for block in last if "text" in block] == ["more", "lost", "Hi"]


# System messages


@EVERYWHERE
@pytest.mark.parametrize("parts", [[PNG], [PNG, PDF], [{"type": "text", "text": "Be kind."}, PDF]])
@pytest.mark.parametrize("role", ["system", "developer"])
def test_a_system_message_that_is_no_text_is_refused_by_its_place(
    wire: str, parts: list[JsonObject], role: str
) -> None:
    for messages in ([{"role": role, "content": parts}, USER], [USER, {"role": role, "content": parts}, USER]):
        refused = refusal(wire, messages)
        assert (refused.param, refused.code) == ("messages", "unsupported_parameter")
        assert "system message" in str(refused)


# Arguments


def nested(levels: int) -> str:
    return '{"a":' * levels + "1" + "}" * levels


@EVERYWHERE
@pytest.mark.parametrize("levels", [201, 500, 5000])
def test_arguments_that_are_nested_too_deeply_are_refused_by_their_call(wire: str, levels: int) -> None:
    refused = refusal(wire, [USER, calls(("c1", "f"), ("c2", "g"), arguments=nested(levels)), USER])
    assert (refused.param, refused.code) == ("messages", "invalid_value")
    assert "'c1' of 'f'" in str(refused)


@EVERYWHERE
def test_arguments_that_are_nested_deeply_are_sent_whole(wire: str) -> None:
    body = told(wire, [USER, calls(("c", "f"), arguments=nested(200)), result("c", "r"), USER])
    assert nested(200) in orjson.dumps(body).decode()


@EVERYWHERE
def test_many_brackets_side_by_side_are_not_deep(wire: str) -> None:
    arguments = '{"a":[' + ",".join(["[]"] * 500) + "]}"
    body = told(wire, [USER, calls(("c", "f"), arguments=arguments), result("c", "r"), USER])
    assert arguments in orjson.dumps(body).decode()


@EVERYWHERE
def test_a_result_may_be_nested_as_deeply_as_it_likes(wire: str) -> None:
    messages = [USER, calls(("c", "f")), result("c", nested(500)), USER]
    assert pairs(wire, told(wire, messages)) == [("f", nested(500))]


# Long ones


def steps(work: Callable[[], object]) -> int:
    """How many instructions of Python it takes: the same number each time."""
    count = 0

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal count
        frame.f_trace_opcodes = True
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


LONG: dict[str, Callable[[int], list[JsonObject]]] = {
    "calls of one id": lambda n: [USER, calls(*[("c", "f")] * n), *[result("c", "r")] * n],
    "calls of one id in no form": lambda n: [USER, calls(*[("c /", "f")] * n), *[result("c /", "r")] * n],
    "turns of one id": lambda n: [USER, *[calls(("c", "f")), result("c", "r")] * n],
    "calls without results": lambda n: [USER, *[calls(("c", "f")), USER] * n],
    "results in reverse": lambda n: [
        USER,
        calls(*[(f"c{index}", "f") for index in range(n)]),
        *[result(f"c{index}", "r") for index in reversed(range(n))],
    ],
    "answers": lambda n: [USER, *[{"role": "assistant", "content": "a"}] * n, USER],
    "system messages": lambda n: [USER, *[{"role": "system", "content": "s"}] * n, USER],
}


@EVERYWHERE
@pytest.mark.parametrize("has_system_role", [True, False])
@pytest.mark.parametrize("kind", LONG)
def test_a_history_that_is_twice_as_long_takes_twice_the_work(wire: str, kind: str, has_system_role: bool) -> None:
    def encode(size: int) -> Callable[[], object]:
        call = decode({"model": "alias-1", "messages": LONG[kind](size)})
        where = TARGETS[wire]()
        where = replace(where, capabilities=replace(where.capabilities, system_role=has_system_role))
        PROVIDERS[wire].request(call, where, MOMENT)  # whatever is made once only is made
        return lambda: PROVIDERS[wire].request(call, where, MOMENT)

    assert steps(encode(200)) < 2.2 * steps(encode(100))
