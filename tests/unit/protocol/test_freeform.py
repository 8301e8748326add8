"""Custom tools at upstreams that know functions only: an object around the text, and off again."""

from collections.abc import Iterable
from typing import Any

import orjson
import pytest

from gateway.protocol.events import Event, Finished, TextDelta, ToolArgumentsDelta, ToolCallStarted
from gateway.protocol.freeform import CustomToolEncoder, replace_custom_tools
from gateway.protocol.items import Assistant, ChatRequest, Text, Tool, ToolCall, User

FUNCTION = Tool("look", schema={"type": "object"})


class Told:
    """An AnswerEncoder that keeps what it is given."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def chunks(self, events: Iterable[Event]) -> bytes:
        self.events += events
        return b""

    def last_chunks(self) -> bytes:
        return b"last"

    def body(self, events: Iterable[Event]) -> bytes:
        self.events += events
        return b"body"


def unwrap_text(*events: Event) -> list[Event]:
    told = Told()
    encoder = CustomToolEncoder(told, frozenset({"run"}))
    for event in events:
        encoder.chunks([event])
    assert encoder.last_chunks() == b"last"
    whole = Told()
    assert CustomToolEncoder(whole, frozenset({"run"})).body(events) == b"body"
    assert whole.events == told.events
    return told.events


def test_a_custom_tool_and_its_calls_are_told_as_functions() -> None:
    called = Assistant(tool_calls=(ToolCall("c1", "run", 'say "hi"', kind="custom"), ToolCall("c2", "look", "{}")))
    asked = ChatRequest(messages=(User((Text("x"),)), called), tools=(Tool("run", "Runs.", kind="custom"), FUNCTION))
    told = replace_custom_tools(asked)
    assert [tool.kind for tool in told.tools] == ["function", "function"]
    assert (told.tools[0].description, told.tools[1]) == ("Runs.", FUNCTION)
    assert told.tools[0].schema is not None
    assert list(told.tools[0].schema["properties"]) == ["input"]
    message: Any = told.messages[1]
    assert [call.kind for call in message.tool_calls] == ["function", "function"]
    assert orjson.loads(message.tool_calls[0].arguments) == {"input": 'say "hi"'}
    assert message.tool_calls[1].arguments == "{}"


def test_the_text_is_taken_out_of_the_object_when_it_is_whole() -> None:
    custom, function = ToolCallStarted(0, "c1", "run"), ToolCallStarted(1, "c2", "look")
    events = unwrap_text(
        TextDelta("so"),
        custom,
        function,
        ToolArgumentsDelta(0, '{"in'),
        ToolArgumentsDelta(1, '{"input"'),
        ToolArgumentsDelta(0, 'put": "a\\nb"}'),
        ToolArgumentsDelta(1, ": 1}"),
        Finished("tool_calls"),
    )
    assert events == [
        TextDelta("so"),
        ToolCallStarted(0, "c1", "run", kind="custom"),
        function,
        ToolArgumentsDelta(1, '{"input"'),
        ToolArgumentsDelta(1, ": 1}"),
        ToolArgumentsDelta(0, "a\nb"),
        Finished("tool_calls"),
    ]


@pytest.mark.parametrize("written", ["print(1)", '{"other": "x"}', '{"input": 1}', '{"input": "cut', "[]"])
def test_what_is_no_such_object_is_the_text(written: str) -> None:
    events = unwrap_text(ToolCallStarted(0, "c1", "run"), ToolArgumentsDelta(0, written), Finished("tool_calls"))
    assert events[1] == ToolArgumentsDelta(0, written)


def test_each_choice_has_its_own_calls() -> None:
    events = unwrap_text(
        ToolCallStarted(0, "c1", "run"),
        ToolCallStarted(0, "c2", "run", choice=1),
        ToolArgumentsDelta(0, '{"input": "one"}'),
        ToolArgumentsDelta(0, '{"input": "two"}', choice=1),
        Finished("tool_calls", choice=1),
        Finished("tool_calls"),
    )
    told = [(event.choice, event.text) for event in events if isinstance(event, ToolArgumentsDelta)]
    assert told == [(1, "two"), (0, "one")]


def test_a_call_that_an_upstream_told_as_custom_stays_as_it_is() -> None:
    events = [ToolCallStarted(0, "c1", "run", kind="custom"), ToolArgumentsDelta(0, "x"), Finished("tool_calls")]
    assert unwrap_text(*events) == events
