"""The log of a background response: wherever it breaks off, its end follows the grammar."""

import itertools
from collections.abc import Sequence
from typing import Any

import orjson
import pytest

from gateway.protocol.dialects.responses.event_log import EventLog, number_events, read_events
from gateway.protocol.dialects.responses.stream import ResponseStream, encode_frame
from gateway.protocol.events import (
    AnnotationAdded,
    Event,
    Finished,
    ReasoningDelta,
    RefusalDelta,
    TextDelta,
    ToolArgumentsDelta,
    ToolCallStarted,
)
from gateway.protocol.json.types import JsonObject
from tests.fakes.responses_grammar import check

HEAD = {"id": "resp_1", "object": "response", "created_at": 1, "model": "public", "metadata": {}}
CITATION = {"type": "url_citation", "url_citation": {"url": "u", "title": "t", "start_index": 0, "end_index": 1}}
ANSWERS: dict[str, list[Event]] = {
    "text": [TextDelta("Hel"), TextDelta("lo"), AnnotationAdded(CITATION), TextDelta("!"), Finished("stop")],
    "reasoning and text": [ReasoningDelta("so "), ReasoningDelta("then"), TextDelta("yes"), Finished("stop")],
    "a refusal": [TextDelta("well"), RefusalDelta("no"), RefusalDelta(" way"), Finished("stop")],
    "parallel calls": [
        ToolCallStarted(0, "call_a", "first"),
        ToolCallStarted(1, "call_b", "second"),
        ToolArgumentsDelta(0, '{"a":'),
        ToolArgumentsDelta(1, "{}"),
        ToolArgumentsDelta(0, "1}"),
        Finished("tool_calls"),
    ],
}
ENDS: dict[str, JsonObject | None] = {"cancelled": None, "failed": {"code": "server_error", "message": "gone"}}


def stream_of(answer: Sequence[Event]) -> tuple[JsonObject, list[JsonObject]]:
    """(the response as it was queued, all events of its stream)"""
    numbers = itertools.count()
    stream = ResponseStream(HEAD, lambda prefix: f"{prefix}{next(numbers)}")
    events = stream.open(is_queued=True)
    for event in answer:
        events += stream.feed([event])
    events += stream.complete(2)
    parsed: list[JsonObject] = orjson.loads(orjson.dumps(events))
    return parsed[0]["response"], parsed


@pytest.mark.parametrize("status", ENDS)
@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS.keys())
def test_a_log_that_was_cut_off_anywhere_is_closed_in_order(answer: list[Event], status: str) -> None:
    queued, events = stream_of(answer)
    for length in range(2, len(events)):  # the first two are there from the beginning
        log = EventLog()
        log.feed(events[:length])
        closing, response = log.end(queued, status=status, error=ENDS[status])
        complete = [*events[:length], *closing]
        assert check(orjson.loads(orjson.dumps(complete))) == orjson.loads(orjson.dumps(response))
        assert response["status"] == status
        streamed_text = "".join(
            event["delta"] for event in events[:length] if event["type"].endswith("output_text.delta")
        )
        texts = [part.get("text", "") for item in response["output"] for part in item.get("content", ())]
        kinds = [part["type"] for item in response["output"] for part in item.get("content", ())]
        assert "".join(text for text, kind in zip(texts, kinds, strict=True) if kind == "output_text") == streamed_text


def test_a_done_item_stays_as_it_was() -> None:
    queued, events = stream_of(ANSWERS["reasoning and text"])
    log = EventLog()
    log.feed(events[:-1])
    _, response = log.end(queued, status="cancelled")
    assert response["output"] == events[-1]["response"]["output"]


def test_the_numbers_continue() -> None:
    log = EventLog()
    log.feed(number_events([("response.created", {}), ("response.queued", {})], 0))
    assert log.next_number == 2
    assert [event["sequence_number"] for event in number_events([("a", {}), ("b", {})], 2)] == [2, 3]


def test_frames_are_read_without_comments_and_without_the_end() -> None:
    events: list[Any] = [{"type": "a", "sequence_number": 0}, {"type": "b", "sequence_number": 1, "delta": "x\n\ny"}]
    frames = b": keep-alive\n\n" + b"".join(map(encode_frame, events)) + b"data: [DONE]\n\n"
    assert read_events(frames) == events
    assert read_events(b"") == []
