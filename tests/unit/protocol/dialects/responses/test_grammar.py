"""The checker of response streams refuses what is not legal."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from gateway.protocol.events import (
    AnnotationAdded,
    Finished,
    ReasoningDelta,
    RefusalDelta,
    TextDelta,
    ToolArgumentsDelta,
    ToolCallStarted,
)
from gateway.protocol.json.types import JsonObject
from tests.fakes.responses_cases import URL_CITATION, USAGE, render, stream
from tests.fakes.responses_grammar import check, read_frames

LEGAL = render(
    ReasoningDelta("hm"),
    TextDelta("Hi"),
    AnnotationAdded(URL_CITATION),
    RefusalDelta("no"),
    ToolCallStarted(0, "call_a", "f"),
    ToolArgumentsDelta(0, "{}"),
    ToolCallStarted(1, "call_b", "g", kind="custom"),
    ToolArgumentsDelta(1, "x"),
    Finished("tool_calls"),
    USAGE,
)


def numbered(events: list[JsonObject]) -> list[JsonObject]:
    return [event | {"sequence_number": number} for number, event in enumerate(events)]


def test_a_legal_stream_passes() -> None:
    assert check(LEGAL) == LEGAL[-1]["response"]


@pytest.mark.parametrize("place", range(len(LEGAL)))
def test_no_event_can_be_left_out_or_doubled(place: int) -> None:
    for events in (LEGAL[:place] + LEGAL[place + 1 :], LEGAL[: place + 1] + LEGAL[place:]):
        with pytest.raises(AssertionError):
            check(numbered(events))


def test_numbers_have_no_gaps() -> None:
    with pytest.raises(AssertionError, match="sequence_number is not 1"):
        check([LEGAL[0], *LEGAL[2:]])


def place_of(kind: str) -> int:
    return next(place for place, event in enumerate(LEGAL) if event["type"] == f"response.{kind}")


CHANGES: dict[str, tuple[str, Callable[[JsonObject], Any]]] = {
    "a delta is not in the text": ("output_text.delta", lambda event: event.update(delta="Ho")),
    "a delta of nothing": ("output_text.delta", lambda event: event.update(delta="")),
    "a delta without logprobs": ("output_text.delta", lambda event: event.update(logprobs=None)),
    "a delta of another part": ("output_text.delta", lambda event: event.update(content_index=1)),
    "a delta of another item": ("output_text.delta", lambda event: event.update(item_id="msg_9")),
    "a delta of no item": ("output_text.delta", lambda event: event.update(output_index=9)),
    "an output index is skipped": ("output_item.added", lambda event: event.update(output_index=1)),
    "an item begins completed": ("output_item.added", lambda event: event["item"].update(status="completed")),
    "an id changes": ("output_item.done", lambda event: event["item"].update(id="rs_9")),
    "a private member": ("output_item.done", lambda event: event["item"].update(tollgate={})),
    "an item changes after it was done": ("output_item.done", lambda event: event["item"].update(new=1)),
    "an incomplete item amid others": ("output_item.done", lambda event: event["item"].update(status="incomplete")),
    "a nested annotation": (
        "output_text.annotation.added",
        lambda event: event["annotation"].update(url_citation={}),
    ),
    "created_at is a float": ("created", lambda event: event["response"].update(created_at=1.5)),
    "usage before the end": ("in_progress", lambda event: event["response"].update(usage={})),
    "no usage": ("completed", lambda event: event["response"].update(usage=None)),
    "a sum is wrong": ("completed", lambda event: event["response"]["usage"].update(total_tokens=1)),
    "no cache writes": ("completed", lambda event: event["response"]["usage"]["input_tokens_details"].clear()),
    "another response": ("completed", lambda event: event["response"].update(id="resp_2")),
    "another status": ("completed", lambda event: event["response"].update(status="failed")),
    "no completed_at": ("completed", lambda event: event["response"].update(completed_at=None)),
    "an item is lost": ("completed", lambda event: event["response"]["output"].pop()),
    "an unknown event": ("refusal.delta", lambda event: event.update(type="response.refusal.new")),
    "a chat's own helper": ("completed", lambda event: event["response"].update(output_text="Hi")),
}


@pytest.mark.parametrize("name", CHANGES)
def test_it_refuses_events_that_were_changed(name: str) -> None:
    kind, change = CHANGES[name]
    events = json.loads(json.dumps(LEGAL))  # nothing is shared between events
    change(events[place_of(kind)])
    with pytest.raises(AssertionError):
        check(events)


def test_a_completed_call_has_arguments() -> None:
    one = stream()
    events = one.feed([ToolCallStarted(0, "c", "f")]) + one.cancel()
    assert check(events)["output"][0]["arguments"] == ""
    done_event = next(event for event in events if event["type"] == "response.output_item.done")
    done_event["item"]["status"] = "completed"
    with pytest.raises(AssertionError, match="no arguments"):
        check(events)


@pytest.mark.parametrize(
    "raw",
    [
        b"data: [DONE]\n",
        b'event: a\ndata: {"type":"a"}\n\n',
        b'event: b\ndata: {"type":"a"}\n\ndata: [DONE]\n\n',
        b'data: {"type":"a"}\n\ndata: [DONE]\n\n',
    ],
)
def test_it_refuses_frames_that_are_not_of_the_wire(raw: bytes) -> None:
    with pytest.raises(AssertionError):
        read_frames(raw)
