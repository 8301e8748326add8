"""Reasoning and signatures that a client drops come back with the tool call they belong to, within the tenant."""

from dataclasses import replace

import pytest

from gateway.protocol.attempt_context import AttemptContext
from gateway.protocol.events import ReasoningDelta, TextDelta, ToolArgumentsDelta, ToolCallStarted
from gateway.protocol.items import Assistant, Reasoning
from gateway.protocol.reasoning_replay import CallReasoning, ReasoningReplay
from gateway.state.signatures import MAX_BYTES, MAX_KEPT, SignatureMemory
from tests.fakes.memory import chat

MOMENT = AttemptContext("01a1f7ee-f382-757a-934c-dda522f02992", 1_800_000_000.0)
ANSWER = [
    ReasoningDelta("I should "),
    ReasoningDelta("look."),
    ReasoningDelta(signature="c2ln"),
    ToolCallStarted(0, "call_1", "look", signature="Z29vZ2xl"),
    ToolArgumentsDelta(0, "{}"),
]
BLOCK = Reasoning(text="I should look.", signature="c2ln")


def turn(tenant: str, memory: SignatureMemory, **sent: object) -> Assistant:
    """The second turn's assistant message, as the provider is told it."""
    call = chat()
    message = {
        "role": "assistant",
        "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{}"}}],
        **sent,
    }
    told = replace(call, body={**call.body, "messages": [*call.body["messages"], message]})
    found = ReasoningReplay(call.dialect, memory, tenant).chat_request(told).messages[-1]
    assert isinstance(found, Assistant)
    return found


@pytest.mark.parametrize("streamed", [True, False])
def test_what_a_client_dropped_is_put_back(streamed: bool) -> None:
    memory, call = SignatureMemory(), chat()
    encoder = ReasoningReplay(call.dialect, memory, "mine").answer(call, MOMENT)
    if streamed:
        for event in ANSWER:
            encoder.chunks([event])
    else:
        encoder.body(ANSWER)
    told = turn("mine", memory)
    assert told.reasoning == (BLOCK,)
    assert told.tool_calls[0].signature == "Z29vZ2xl"


def test_what_a_client_sent_wins() -> None:
    memory = SignatureMemory()
    memory.put("mine", "call_1", CallReasoning("kept", (BLOCK,)))
    sent = {"thinking_blocks": [{"type": "thinking", "thinking": "own", "signature": "own"}]}
    assert turn("mine", memory, **sent).reasoning == (Reasoning(text="own", signature="own"),)


def test_thoughts_that_nobody_signed_are_no_reason_to_forget() -> None:
    memory = SignatureMemory()
    assert turn("mine", memory, reasoning_content="I should look.").reasoning == (Reasoning("I should look."),)
    memory.put("mine", "call_1", CallReasoning("kept", (BLOCK,)))
    assert turn("mine", memory, reasoning_content="I should look.").reasoning == (BLOCK,)


def test_another_tenant_gets_nothing() -> None:
    memory = SignatureMemory()
    memory.put("mine", "call_1", CallReasoning("kept", (BLOCK,)))
    told = turn("theirs", memory)
    assert (told.reasoning, told.tool_calls[0].signature) == ((), "")


def test_an_answer_without_reasoning_is_not_kept() -> None:
    memory, call = SignatureMemory(), chat()
    ReasoningReplay(call.dialect, memory, "mine").answer(call, MOMENT).body(
        [TextDelta("hi"), ToolCallStarted(0, "call_1", "look")]
    )
    assert memory.get("mine", "call_1") is None


def test_memory_is_bounded_by_number_and_size() -> None:
    memory = SignatureMemory()
    for number in range(MAX_KEPT + 5):
        memory.put("mine", str(number), CallReasoning("s"))
    assert memory.get("mine", "4") is None
    assert memory.get("mine", "5") is not None
    memory.put("mine", "huge", CallReasoning("s" * MAX_BYTES))
    assert memory.get("mine", "huge") is None
    for number in range(300):
        memory.put("large", str(number), CallReasoning("s" * (MAX_BYTES // 200)))
    assert memory.get("large", "0") is None
    assert memory.get("large", "299") is not None
