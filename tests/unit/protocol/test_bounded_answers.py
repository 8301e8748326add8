"""Hostile answers: tool calls have limits, and no delta is read more than once."""

import sys
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from types import FrameType
from typing import Any

import orjson
import pytest

from gateway.protocol.answer import StreamRelay
from gateway.protocol.attempt_context import AttemptContext
from gateway.protocol.call import Call
from gateway.protocol.dialect import Hints
from gateway.protocol.dialects.anthropic import client as anthropic_client
from gateway.protocol.dialects.anthropic.client import MessagesAnswer
from gateway.protocol.dialects.openai.client_answer import ChatAnswer
from gateway.protocol.dialects.openai.upstream_request import MAX_STOP_CHARS, MAX_STOPS
from gateway.protocol.dialects.responses.open_item import OpenItem
from gateway.protocol.errors import BadRequest, UpstreamFault
from gateway.protocol.events import (
    MAX_ARGUMENT_CHARS,
    MAX_TOOL_CALLS,
    Event,
    Finished,
    ReasoningDelta,
    TextDelta,
    ToolArgumentsDelta,
    ToolCallStarted,
)
from gateway.protocol.reasoning_replay import CallReasoning, ReasoningReplay
from gateway.providers.registry import PROVIDERS
from gateway.state.signatures import SignatureMemory
from tests.fakes.memory import chat, chunk, event, target

CONTEXT = AttemptContext("attempt-1", 1_800_000_000.0)
#: Arguments that have no end.
PIECE = "x" * 64 * 1024
TOO_MANY_PIECES = MAX_ARGUMENT_CHARS // len(PIECE) + 1
TOOLS = [{"type": "function", "function": {"name": "run", "parameters": {"type": "object"}}}]
FREE_TOOLS = [{"type": "custom", "custom": {"name": "run"}}]


def messages() -> Call:
    body = {"model": "public", "max_tokens": 5, "stream": True, "messages": [{"role": "user", "content": "x"}]}
    return anthropic_client.DIALECT.decode(orjson.dumps(body), Hints())


def openai_call(*, name: str | None, arguments: str, index: int = 0) -> bytes:
    function = {"arguments": arguments} | ({"name": name} if name else {})
    delta = {"tool_calls": [{"index": index, "function": function}]}
    return event(chunk(choices=[{"index": 0, "delta": delta, "finish_reason": None}]))


def named(kind: str, **members: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), orjson.dumps({"type": kind, **members}))


CLAUDE_START = named("message_start", message={"id": "m", "model": "claude", "usage": {"input_tokens": 1}})
CLAUDE_CALL = named(
    "content_block_start", index=0, content_block={"type": "tool_use", "id": "t", "name": "run", "input": {}}
)
CLAUDE_PIECE = named("content_block_delta", index=0, delta={"type": "input_json_delta", "partial_json": PIECE})
CLAUDE_THOUGHT = named("content_block_start", index=0, content_block={"type": "thinking", "thinking": ""})
CLAUDE_SIGNATURE = named("content_block_delta", index=0, delta={"type": "signature_delta", "signature": PIECE})

ENDLESS: dict[str, tuple[Call, str, list[bytes], bytes]] = {
    "OpenAI to Messages": (
        messages(),
        "openai_compatible",
        [openai_call(name="run", arguments="{")],
        openai_call(name=None, arguments=PIECE),
    ),
    "Claude to Chat": (chat(stream=True, tools=TOOLS), "anthropic", [CLAUDE_START, CLAUDE_CALL], CLAUDE_PIECE),
    "free text of Claude": (
        chat(stream=True, tools=FREE_TOOLS),
        "anthropic",
        [CLAUDE_START, CLAUDE_CALL],
        CLAUDE_PIECE,
    ),
    "a signature": (chat(stream=True), "anthropic", [CLAUDE_START, CLAUDE_THOUGHT], CLAUDE_SIGNATURE),
}


def open_relay(call: Call, provider: str) -> StreamRelay:
    return PROVIDERS[provider].relay(call, target(provider=PROVIDERS[provider]), CONTEXT)


@pytest.mark.parametrize(("call", "provider", "head", "piece"), ENDLESS.values(), ids=ENDLESS)
def test_endless_arguments_end_in_an_error_of_the_clients_dialect(
    call: Call, provider: str, head: list[bytes], piece: bytes
) -> None:
    relay = open_relay(call, provider)
    for part in head:
        relay.feed(part)
    with pytest.raises(UpstreamFault) as caught:
        deque(map(relay.feed, [piece] * TOO_MANY_PIECES), maxlen=0)
    fault = caught.value
    assert (fault.status, fault.code, fault.is_retryable) == (502, "upstream_tool_call_too_large", False)
    assert b"1,048,576 characters" in call.dialect.error_event(fault)  # type: ignore[attr-defined]


def test_arguments_within_the_limit_pass_whole() -> None:
    text = '{"text":"' + "x" * (MAX_ARGUMENT_CHARS - 11) + '"}'
    relay = open_relay(messages(), "openai_compatible")
    sent = relay.feed(openai_call(name="run", arguments=""))
    for at in range(0, len(text), len(PIECE)):
        sent += relay.feed(openai_call(name=None, arguments=text[at : at + len(PIECE)]))
    sent += relay.feed(event(chunk(finish="tool_calls"))) + relay.feed(event(b"[DONE]")) + relay.finish()
    lines = [orjson.loads(line[6:]) for line in sent.split(b"\n") if line.startswith(b"data: ")]
    deltas = [line["delta"].get("partial_json", "") for line in lines if line["type"] == "content_block_delta"]
    assert "".join(deltas) == text


def test_an_answer_has_so_many_calls() -> None:
    relay = open_relay(messages(), "openai_compatible")
    for number in range(MAX_TOOL_CALLS):
        relay.feed(openai_call(name="run", arguments="{}", index=number))
    with pytest.raises(UpstreamFault, match="tool calls"):
        relay.feed(openai_call(name="run", arguments="{}", index=MAX_TOOL_CALLS))


def test_a_chunk_of_many_choices_is_refused() -> None:
    with pytest.raises(UpstreamFault, match="choices"):
        open_relay(messages(), "openai_compatible").feed(event(chunk(choices=[{}] * 100_000)))


def test_an_item_that_passes_has_the_same_limit() -> None:
    item = OpenItem({"id": "fc_1", "type": "function_call"}, 0)
    kind, delta = "response.function_call_arguments.delta", {"delta": PIECE}
    with pytest.raises(UpstreamFault, match="characters"):
        deque(map(item.feed, [kind] * TOO_MANY_PIECES, [delta] * TOO_MANY_PIECES), maxlen=0)


@pytest.mark.parametrize("stop", [["x"] * (MAX_STOPS + 5), ["a", "b", "c", "d", "x" * (MAX_STOP_CHARS + 1)]])
def test_stop_sequences_that_the_gateway_looks_for_are_limited(stop: list[str]) -> None:
    provider = PROVIDERS["openai"]
    with pytest.raises(BadRequest, match="stop"):
        provider.request(chat(stop=stop), target(provider=provider), CONTEXT)


# Work


def count_reads(work: Callable[[], object]) -> int:
    """The number of times that a text is joined or parsed."""
    reads = 0

    def count(frame: FrameType, kind: str, function: Any) -> None:
        nonlocal reads
        reads += kind == "c_call" and function.__name__ in {"join", "loads"}

    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return reads


def test_a_server_that_repeats_the_name_of_a_call_has_each_delta_read_once() -> None:
    relay = open_relay(messages(), "openai_compatible")
    relay.feed(openai_call(name="run", arguments='{"text":"'))
    events = [openai_call(name="run", arguments="x") for _ in range(1000)]
    assert count_reads(lambda: [relay.feed(one) for one in events]) <= 3 * len(events)


def alternating() -> Iterable[Event]:
    yield ToolCallStarted(0, "call_1", "run")
    yield ToolArgumentsDelta(0, '{"text":"')
    for _ in range(1000):
        yield ToolArgumentsDelta(0, "x")
        yield TextDelta("x")
        yield ReasoningDelta("x")


def test_open_arguments_are_not_read_again_whenever_a_block_begins() -> None:
    encoder = MessagesAnswer(messages(), "msg_1")
    assert count_reads(lambda: encoder.chunks(alternating())) <= 10


class Piece(str):
    """A text that notices when it is added to another one, which copies that one."""

    copies = 0

    def __radd__(self, other: str) -> str:
        type(self).copies += 1
        return str(other) + str(self)


def test_a_gathered_call_is_joined_once() -> None:
    events: list[Event] = [ToolCallStarted(0, "call_1", "run"), ToolCallStarted(1, "call_2", "ask", kind="custom")]
    events += [ToolArgumentsDelta(number % 2, Piece(number)) for number in range(1000)]
    body = ChatAnswer(chat(), answer_id="a", created_s=1).body([*events, Finished("tool_calls")])
    calls = orjson.loads(body)["choices"][0]["message"]["tool_calls"]
    assert calls[0]["function"] == {"name": "run", "arguments": "".join(map(str, range(0, 1000, 2)))}
    assert calls[1]["custom"] == {"name": "ask", "input": "".join(map(str, range(1, 1000, 2)))}
    assert Piece.copies == 0


class CountingMemory(SignatureMemory):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = 0

    def put(self, tenant: str, tool_call_id: str, reasoning: CallReasoning) -> None:
        self.blocks += len(reasoning.reasoning)
        super().put(tenant, tool_call_id, reasoning)


def test_of_endless_reasoning_before_calls_only_their_signatures_are_remembered() -> None:
    memory = CountingMemory()
    call = replace(chat(), dialect=ReasoningReplay(chat().dialect, memory, "tenant"))
    events: list[Event] = [ReasoningDelta("x", signature="y") for _ in range(20_000)]
    events += [ToolCallStarted(number, f"call_{number}", "run", signature="s") for number in range(500)]
    call.dialect.answer(call, CONTEXT).body([*events, Finished("tool_calls")])
    assert memory.blocks == 0
    assert memory.get("tenant", "call_0") == CallReasoning("s")
