"""A turn over an upstream of another format, turn after turn: what it is sent, and what the client sees."""

from typing import Any

import orjson
import pytest

from gateway.pipeline.ports import Principal
from gateway.pipeline.responses.turn import Continuation, ResponseTurn, owner_of
from gateway.protocol.attempt_context import AttemptContext
from gateway.protocol.capabilities import Capabilities
from gateway.protocol.dialect import Hints
from gateway.protocol.dialects.responses.client_request import decode
from gateway.protocol.dialects.responses.dialect import ResponsesDialect
from gateway.protocol.ids import Ids
from gateway.protocol.json.types import JsonObject
from gateway.protocol.provider import Target
from tests.fakes import memory
from tests.fakes.responses_cases import OpenSeal
from tests.fakes.responses_grammar import check, read_frames

MOMENT = AttemptContext("01a1f7ee-f382-757a-934c-dda522f02992", 1_800_000_000.0)
#: Codex CLI tells each MCP server so.
NAMESPACE: JsonObject = {
    "type": "namespace",
    "name": "mcp__files__",
    "description": "Tools in the mcp__files__ namespace.",
    "tools": [
        {"type": "function", "name": "read", "strict": False, "parameters": {"type": "object", "properties": {}}},
        {"type": "custom", "name": "write", "description": "d"},
    ],
}
PNG = "iVBORw0KGgo="


def response_turn(*history: JsonObject, **fields: Any) -> ResponseTurn:
    request = decode(orjson.dumps({"model": "alias", "input": "Hi", **fields}), Hints(), Ids("a" * 48))
    return ResponseTurn(
        request=request,
        owner=owner_of(Principal(organization_id="home", key_digest="d", key_id="key", key_alias="")),
        continuation=Continuation(history=history),
        seal=OpenSeal(),
        created_s=1_700_000_000.0,
        retention_s=1.0,
    )


NOW_S = 1_700_000_009.0


def dialect(one: ResponseTurn, to: Target | None = None) -> ResponsesDialect:
    return one.dialect(lambda: NOW_S).for_target(to or memory.target())


def sent(one: ResponseTurn, to: Target | None = None) -> JsonObject:
    to = to or memory.target()
    body: JsonObject = orjson.loads(to.provider.request(dialect(one, to).call(), to, MOMENT).body)
    return body


def answered(one: ResponseTurn, message: JsonObject, reason: str = "stop") -> list[JsonObject]:
    """The output, as it is stored. Streamed or not, the client sees the same."""
    to = memory.target()
    delta = {**message}
    if "tool_calls" in message:
        delta["tool_calls"] = [{"index": index, **tool_call} for index, tool_call in enumerate(message["tool_calls"])]
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    chunk = {
        "id": "c",
        "model": "m",
        "choices": [{"index": 0, "delta": delta, "finish_reason": reason}],
        "usage": usage,
    }
    relay = to.provider.relay(dialect(one).call(), to, MOMENT)
    streamed = check(read_frames(relay.feed(b"data: %b\n\ndata: [DONE]\n\n" % orjson.dumps(chunk)) + relay.finish()))
    whole = {**chunk, "choices": [{"index": 0, "message": {"role": "assistant", **message}, "finish_reason": reason}]}
    attempt = dialect(one)
    body, _ = to.provider.relay_body(attempt.call(), to, MOMENT, orjson.dumps(whole), {})
    assert kinds_of(orjson.loads(body)) == kinds_of(streamed)
    output: list[JsonObject] = attempt.attempt_answer.response["output"]
    return output


def kinds_of(response: JsonObject) -> list[tuple[Any, ...]]:
    names = ("type", "name", "namespace", "arguments", "input", "content", "summary")
    return [tuple(item.get(name) for name in names) for item in response["output"]]


def tool_call(call_id: str, name: str, arguments: str = "{}") -> JsonObject:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def result(call_id: str) -> JsonObject:
    return {"type": "function_call_output", "call_id": call_id, "output": "a.txt"}


def test_tools_of_a_namespace_are_called_by_their_names_there_turn_after_turn() -> None:
    first = response_turn(input="Read", tools=[NAMESPACE])
    calls = [tool_call("call_a", "mcp__files__read"), tool_call("call_b", "mcp__files__write", '{"input":"text"}')]
    assert [tool["function"]["name"] for tool in sent(first)["tools"]] == ["mcp__files__read", "mcp__files__write"]
    output = answered(first, {"content": None, "tool_calls": calls}, "tool_calls")
    assert [(item["type"], item["namespace"], item["name"]) for item in output] == [
        ("function_call", "mcp__files__", "read"),
        ("custom_tool_call", "mcp__files__", "write"),
    ]
    assert output[1]["input"] == "text"
    results = [result("call_a"), {**result("call_b"), "type": "custom_tool_call_output"}]
    body = sent(response_turn(*first.request.input, *output, input=results, tools=[NAMESPACE]))
    assert body["messages"][1]["tool_calls"] == calls
    assert [message.get("tool_call_id") for message in body["messages"][2:]] == ["call_a", "call_b"]


def test_a_name_that_is_taken_leads_back_all_the_same() -> None:
    plain = {"type": "function", "name": "mcp__files__read", "parameters": {"type": "object"}}
    first = response_turn(tools=[NAMESPACE, plain])
    other, _, same = (tool["function"]["name"] for tool in sent(first)["tools"])
    assert same == "mcp__files__read" != other
    calls = [tool_call("call_a", other), tool_call("call_b", same)]
    output = answered(first, {"content": None, "tool_calls": calls}, "tool_calls")
    assert [(item.get("namespace"), item["name"]) for item in output] == [("mcp__files__", "read"), (None, same)]
    results = [result("call_a"), result("call_b")]
    body = sent(response_turn(*first.request.input, *output, input=results, tools=[NAMESPACE, plain]))
    assert body["messages"][1]["tool_calls"] == calls


def test_a_call_id_that_the_conversation_has_is_never_told_again() -> None:
    """Servers that count from call_0 in each answer: the client answers by the id that it got."""
    function = {"type": "function", "name": "f", "parameters": {"type": "object"}}
    message = {"content": None, "tool_calls": [tool_call("call_0", "f"), tool_call("call_1", "f")]}
    history: list[JsonObject] = []
    call_ids: list[str] = []
    for _ in range(3):
        results = [result(call_id) for call_id in call_ids[-2:]]
        one = response_turn(*history, input=[*results, {"role": "user", "content": "Go on"}], tools=[function])
        output = answered(one, message, "tool_calls")
        call_ids += [item["call_id"] for item in output]
        history += [*one.request.input, *output]
    assert call_ids[:2] == ["call_0", "call_1"]
    assert len(set(call_ids)) == 6


def test_a_client_that_keeps_its_own_history_is_told_no_call_id_twice() -> None:
    function = {"type": "function", "name": "f", "parameters": {"type": "object"}}
    ran = {"type": "local_shell_call", "call_id": "call_0", "action": {"type": "exec", "command": ["ls"]}}
    one = response_turn(input=[{"role": "user", "content": "Hi"}, ran, result("call_0")], tools=[function])
    (item,) = answered(one, {"content": None, "tool_calls": [tool_call("call_0", "f")]}, "tool_calls")
    assert item["call_id"].startswith("call_")
    assert item["call_id"] != "call_0"


@pytest.mark.parametrize("reasoning", [{"summary": "auto"}, {"generate_summary": "concise"}, {"effort": "low"}])
def test_a_thought_goes_back_to_its_maker_however_it_was_told(reasoning: JsonObject) -> None:
    first = response_turn(reasoning=reasoning)
    thought, answer = answered(first, {"reasoning_content": "Let me see", "content": "Hello."})
    texts = [part["text"] for part in thought.get("content") or thought["summary"]]
    assert texts == ["Let me see"]
    assert bool(thought["summary"]) == ("effort" not in reasoning)
    second = response_turn(*first.request.input, thought, answer, input="And?")
    bound = dialect(second)
    turn: Any = bound.chat_request(bound.call()).messages[1]
    assert [one.text for one in turn.reasoning] == ["Let me see"]


@pytest.mark.parametrize("vision", [True, False])
def test_an_image_that_was_made_before_is_shown_to_models_that_can_see(vision: bool) -> None:
    drawn = {"type": "image_generation_call", "id": "ig_1", "status": "completed", "result": PNG}
    question = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Draw"}]}
    body = sent(response_turn(question, drawn, input="Again"), memory.target(capabilities=Capabilities(vision=vision)))
    assert [message["role"] for message in body["messages"]] == ["user", "user", "user"]
    assert (PNG.encode() in orjson.dumps(body)) is vision
