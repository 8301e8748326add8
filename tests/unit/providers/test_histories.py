"""Histories in the requests of providers with a wire of their own: calls, their results, system messages."""

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


def sent_body(wire: str, messages: list[JsonObject], **fields: Any) -> JsonObject:
    call = decode({"model": "alias-1", "messages": messages, **fields})
    body: JsonObject = orjson.loads(PROVIDERS[wire].request(call, TARGETS[wire](), MOMENT).body)
    return body


def refusal(wire: str, messages: list[JsonObject]) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        sent_body(wire, messages)
    return caught.value


def calls(*named: tuple[str, str], arguments: str = "{}") -> JsonObject:
    """An assistant message that makes these calls, each (id, name)."""
    pairs = [
        {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
        for call_id, name in named
    ]
    return {"role": "assistant", "content": None, "tool_calls": pairs}


def result(call_id: str, text: str) -> JsonObject:
    return {"role": "tool", "tool_call_id": call_id, "content": text}


# Results and their calls


def pairs(wire: str, body: JsonObject) -> list[tuple[str, str]]:
    """(the tool's name, its result) in the order of the results, as the upstream pairs them."""
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
        paired = [(names.pop(item["toolUseId"]), item["content"][0]["text"]) for item in results]
    else:
        uses = [block for block in blocks if block["type"] == "tool_use"]
        results = [block for block in blocks if block["type"] == "tool_result"]
        names = {use["id"]: use["name"] for use in uses}
        paired = [(names.pop(item["tool_use_id"]), item["content"]) for item in results]
    assert len(uses) == len(results), "each call has one result, and an id of its own"
    return paired


@EVERYWHERE
@pytest.mark.parametrize("call_id", ["c", "c/ an invalid form"])
def test_calls_of_one_id_in_a_turn_are_answered_in_their_order(wire: str, call_id: str) -> None:
    messages = [USER, calls((call_id, "f"), ("d", "h"), (call_id, "g"))]
    messages += [result(call_id, "one"), result("d", "two"), result(call_id, "three"), USER]
    expected = {("f", "one"), ("h", "two"), ("g", "three")}
    assert set(pairs(wire, sent_body(wire, messages))) == expected
    assert sent_body(wire, messages) == sent_body(wire, messages)


@EVERYWHERE
def test_a_repeated_id_belongs_to_the_later_turn(wire: str) -> None:
    messages = [USER, calls(("c", "f")), result("c", "one"), calls(("c", "g")), result("c", "two"), USER]
    assert pairs(wire, sent_body(wire, messages)) == [("f", "one"), ("g", "two")]


@EVERYWHERE
def test_an_unanswered_call_takes_no_result_of_a_later_turn(wire: str) -> None:
    messages = [USER, calls(("c", "f")), USER, calls(("c", "g")), result("c", "two"), USER]
    answered = pairs(wire, sent_body(wire, messages))
    assert answered[-1] == ("g", "two")
    assert answered[:-1] in ([], [("f", "no result")])


@pytest.mark.parametrize("wire", ["anthropic", "bedrock", "gemini"])
def test_surplus_results_become_text(wire: str) -> None:
    messages = [USER, calls(("c", "f")), result("c", "one"), result("c", "more"), result("d", "lost"), USER]
    body = sent_body(wire, messages)
    assert pairs(wire, body) == [("f", "one")]
    last = body["contents"][-1]["parts"] if wire == "gemini" else body["messages"][-1]["content"]
    assert [block["text"] for block in last if "text" in block] == ["more", "lost", "Hi"]


# System messages


@EVERYWHERE
@pytest.mark.parametrize("parts", [[PNG], [PNG, PDF], [{"type": "text", "text": "Be kind."}, PDF]])
@pytest.mark.parametrize("role", ["system", "developer"])
def test_a_system_message_with_media_is_refused_by_its_position(wire: str, parts: list[JsonObject], role: str) -> None:
    for messages in ([{"role": role, "content": parts}, USER], [USER, {"role": role, "content": parts}, USER]):
        refused = refusal(wire, messages)
        assert (refused.param, refused.code) == ("messages", "unsupported_parameter")
        assert "system message" in str(refused)


# Arguments


def nested(levels: int) -> str:
    return '{"a":' * levels + "1" + "}" * levels


@EVERYWHERE
@pytest.mark.parametrize("levels", [201, 500, 5000])
def test_too_deep_arguments_are_refused_by_their_call(wire: str, levels: int) -> None:
    refused = refusal(wire, [USER, calls(("c1", "f"), ("c2", "g"), arguments=nested(levels)), USER])
    assert (refused.param, refused.code) == ("messages", "invalid_value")
    assert "'c1' of 'f'" in str(refused)


@EVERYWHERE
def test_deep_arguments_are_sent_whole(wire: str) -> None:
    body = sent_body(wire, [USER, calls(("c", "f"), arguments=nested(200)), result("c", "r"), USER])
    assert nested(200) in orjson.dumps(body).decode()


@EVERYWHERE
def test_many_brackets_side_by_side_are_not_deep(wire: str) -> None:
    arguments = '{"a":[' + ",".join(["[]"] * 500) + "]}"
    body = sent_body(wire, [USER, calls(("c", "f"), arguments=arguments), result("c", "r"), USER])
    assert arguments in orjson.dumps(body).decode()


@EVERYWHERE
def test_a_result_may_be_nested_to_any_depth(wire: str) -> None:
    messages = [USER, calls(("c", "f")), result("c", nested(500)), USER]
    assert pairs(wire, sent_body(wire, messages)) == [("f", nested(500))]


# Long histories


def steps(work: Callable[[], object]) -> int:
    """The number of Python instructions of a call, which is the same each time."""
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
def test_work_grows_linearly_with_the_history(wire: str, kind: str, has_system_role: bool) -> None:
    def encode(size: int) -> Callable[[], object]:
        call = decode({"model": "alias-1", "messages": LONG[kind](size)})
        where = TARGETS[wire]()
        where = replace(where, capabilities=replace(where.capabilities, system_role=has_system_role))
        PROVIDERS[wire].request(call, where, MOMENT)  # fills the caches
        return lambda: PROVIDERS[wire].request(call, where, MOMENT)

    assert steps(encode(200)) < 2.2 * steps(encode(100))
