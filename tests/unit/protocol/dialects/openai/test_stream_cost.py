"""The cost in the last usage of a stream, exactly, whatever the upstream's chunks look like."""

import json
from dataclasses import replace
from decimal import Decimal

import pytest

from gateway.protocol.answer import AnswerCost
from gateway.protocol.dialects.openai.passthrough import DONE, EventRelay
from gateway.protocol.dialects.openai.stream_cost import add_cost
from gateway.protocol.dialects.responses.stream_cost import add_cost as add_response_cost
from gateway.protocol.usage import Usage
from tests.fakes.memory import chat

CALL = replace(chat(stream=True, usage=True), tells_cost=True)
COST = AnswerCost("0.000000000001", Usage(input_tokens=3, output_tokens=4), "id", 7)
TEXT = b'data: {"id":"up","model":"up","choices":[{"index":0,"delta":{"content":"\\n\\ndata: [DONE]"}}]}\n\n'
STOP = b'data: {"id":"up","model":"up","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
USAGE = b'data: {"id":"up","model":"up","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}\n\n'


def relay(stream: bytes, size: int) -> bytes:
    one = EventRelay(CALL)
    events = b"".join(one.feed(stream[first : first + size]) for first in range(0, len(stream), size))
    assert b'"usage"' not in events, "it waits for the cost"
    return events + add_cost(CALL, one.finish(), COST)


@pytest.mark.parametrize("size", [1, 7, 10_000])
@pytest.mark.parametrize("end", [b"data: [DONE]\n\n", b""])
def test_the_chunk_of_usage_waits_for_the_cost_and_keeps_its_place(size: int, end: bytes) -> None:
    stream = relay(TEXT + STOP + USAGE + end, size)
    *_, last, done, rest = stream.split(b"\n\n")
    assert (done, rest) == (DONE.strip(), b"")
    chunk = json.loads(last.removeprefix(b"data: "), parse_float=Decimal)
    assert chunk["usage"] == {"prompt_tokens": 3, "completion_tokens": 4, "cost": Decimal("0.000000000001")}
    assert (chunk["model"], chunk["choices"]) == (CALL.model, [])


def test_a_stream_without_a_chunk_of_usage_gets_one() -> None:
    for ending in (DONE, TEXT + DONE):
        told = add_cost(CALL, ending, COST)
        assert told.startswith(ending[: -len(DONE)])
        chunk = json.loads(told[len(ending) - len(DONE) : -len(DONE)].removeprefix(b"data: "), parse_float=Decimal)
        assert (chunk["id"], chunk["created"], chunk["choices"]) == ("id", 7, [])
        assert chunk["usage"]["total_tokens"] == 7
        assert chunk["usage"]["cost"] == Decimal("0.000000000001")


def test_a_former_cost_is_replaced() -> None:
    told = add_cost(CALL, add_cost(CALL, USAGE + DONE, COST), replace(COST, usd="0.000000000000"))
    assert told.count(b'"cost"') == 1
    assert b'"cost":0.000000000000}' in told


def test_a_stream_that_broke_off_stays_as_it_is() -> None:
    assert add_cost(CALL, USAGE, COST) == USAGE


RESPONSE = b'event: response.completed\ndata: {"type":"response.completed","response":{"usage":%b}}\n\ndata: [DONE]\n\n'


def test_the_terminal_event_of_a_response_has_the_cost() -> None:
    before = b'event: x\ndata: {"delta":"event: response.completed"}\n\n'
    told = add_response_cost(before + RESPONSE % b'{"total_tokens":7}', "0.5")
    assert told == before + RESPONSE % b'{"total_tokens":7,"cost":0.5}'


def test_an_ending_of_a_response_without_usage_stays_as_it_is() -> None:
    failed = b'event: response.failed\ndata: {"type":"response.failed"}\n\n'
    for ending in (RESPONSE % b"null", failed, b"", b"event: response.completed\n"):
        assert add_response_cost(ending, "0.5") == ending
