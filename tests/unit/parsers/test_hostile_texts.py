"""Hostile texts: the work of a parser is bounded, whatever a model writes. Counted in calls of Python functions."""

import sys
from types import FrameType

import pytest

from gateway.parsers.contract import MAX_REJECTIONS, MAX_SEPARATE_EVENTS
from gateway.parsers.registry import PARSERS
from gateway.protocol.events import Event, Finished, TextDelta

MIB = 1 << 20
REJECTED = [
    ("mistral", "[TOOL_CALLS][", "{}"),
    ("mistral", "[TOOL_CALLS][", "{},"),
    ("mistral", "[TOOL_CALLS][", " {}\n"),
    ("mistral", "", "[TOOL_CALLS]["),
    ("mistral", "", "[TOOL_CALLS]"),
    ("mistral", "", '[TOOL_CALLS]{"name":'),
    ("mistral", "", "[TOOL_CALLS]a[CALL_ID]"),
    ("qwen25", "", "<tool_call>{"),
    ("qwen25", "", "<tool_call>"),
]


def read(name: str, text: str, size: int) -> tuple[list[Event], int]:
    """The events of a text in pieces of this size, and the number of function calls that they took."""
    parser = PARSERS[name].open(frozenset({"a"}), new_id=lambda: "call_1")
    steps = 0

    def count(frame: FrameType, kind: str, argument: object) -> None:
        nonlocal steps
        steps += 1

    events: list[Event] = []
    sys.setprofile(count)
    try:
        for start in range(0, len(text), size):
            events += parser.feed(text[start : start + size])
        events += parser.finish("stop")
    finally:
        sys.setprofile(None)
    return events, steps


@pytest.mark.parametrize(("name", "head", "repeated"), REJECTED)
@pytest.mark.parametrize("size", [1 << 16, 8 * MIB])
def test_what_looks_like_calls_without_end_is_text_at_a_bounded_cost(
    name: str, head: str, repeated: str, size: int
) -> None:
    small, large = (head + repeated * (mib * MIB // len(repeated)) for mib in (1, 8))
    _, steps = read(name, small, size)
    events, more_steps = read(name, large, size)
    feeds = len(large) // size + 1
    assert more_steps <= steps + 60 * feeds
    assert steps <= 250 * MAX_REJECTIONS
    assert isinstance(events[-1], Finished)
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == large


def test_many_marks_in_one_feed_are_few_events() -> None:
    events, _ = read("qwen25", "</tool_call>" * 100_000, 8 * MIB)
    assert len(events) <= MAX_SEPARATE_EVENTS


@pytest.mark.parametrize("name", PARSERS)
def test_megabytes_of_space_in_one_piece_are_a_handful_of_steps(name: str) -> None:
    text = "a" + " \n" * (4 * MIB)
    events, steps = read(name, text, len(text))
    assert steps <= 100
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == text
