"""The splitter of reasoning: any chunking gives the same answer, which lacks the tags and their line ends only."""

import itertools
import sys
from collections.abc import Iterable
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.parsers.think import MAX_WAITING_SPACE, ThinkSplitter
from gateway.protocol.events import ReasoningDelta, TextDelta
from tests.unit.parsers.answers import cuttings, read_answer

Split = tuple[str, str]  # (reasoning, answer)


def split(pieces: Iterable[str], *, is_opened: bool = False) -> Split:
    splitter = ThinkSplitter(is_opened=is_opened)
    events = [event for piece in pieces for event in splitter.feed(piece)] + splitter.finish()
    reasoning, answer = "", ""
    for event in events:
        match event:
            case ReasoningDelta(text):
                assert text
                assert not answer, "reasoning comes first"
                reasoning += text
            case TextDelta(text):
                assert text
                answer += text
            case _:
                raise AssertionError(event)
    return reasoning, answer


ROWS: dict[str, tuple[str, Split]] = {
    "reasoning and an answer": ("<think>\nHm.\n\nSo.\n</think>\n\nHi \n", ("Hm.\n\nSo.", "Hi \n")),
    "nothing around": ("<think>Hm.</think>Hi", ("Hm.", "Hi")),
    "space before": (" \n<think>Hm.</think>Hi", ("Hm.", "Hi")),
    "empty": ("<think>\n\n</think>\n\nHi", ("", "Hi")),
    "no reasoning": ("Hi <think> there </think>", ("", "Hi <think> there </think>")),
    "a closing tag alone": ("Hm.</think>Hi", ("", "Hm.</think>Hi")),
    "a tag in the answer": ("<think>Hm.</think>`<think>x</think>`", ("Hm.", "`<think>x</think>`")),
    "tags in reasoning": ("<think>a <think> b </ c <b></think>Hi", ("a <think> b </ c <b>", "Hi")),
    "indented reasoning and answer": ("<think>\n  a \n</think>\n\n  b", ("  a ", "  b")),
    "no end": ("<think>\nHm.\n", ("Hm.\n", "")),
    "cut in the closing tag": ("<think>Hm.\n</thi", ("Hm.\n</thi", "")),
    "cut in the opening tag": (" <thi", ("", " <thi")),
    "another tag": ("<thinking>Hm.</thinking>", ("", "<thinking>Hm.</thinking>")),
    "only reasoning": ("<think>Hm.</think>\n", ("Hm.", "")),
    "nothing": ("", ("", "")),
    "space": (" \n", ("", " \n")),
}
OPENED: dict[str, tuple[str, Split]] = {
    "without the tag": ("Hm.\n</think>\n\nHi", ("Hm.", "Hi")),
    "with the tag": ("<think>\nHm.\n</think>\n\nHi", ("Hm.", "Hi")),
    "no end": ("Hm.", ("Hm.", "")),
    "cut in the opening tag": ("\n<thi", ("\n<thi", "")),
    "empty": ("\n</think>\nHi", ("", "Hi")),
    "a tag in the answer": ("Hm.</think>a</think>b", ("Hm.", "a</think>b")),
}


@pytest.mark.parametrize(("text", "expected"), ROWS.values(), ids=ROWS)
def test_an_answer_is_split_the_same_however_it_is_cut(text: str, expected: Split) -> None:
    for pieces in cuttings(text):
        assert split(pieces) == expected, pieces


@pytest.mark.parametrize(("text", "expected"), OPENED.values(), ids=OPENED)
def test_an_answer_may_begin_after_the_opening_tag(text: str, expected: Split) -> None:
    for pieces in cuttings(text):
        assert split(pieces, is_opened=True) == expected, pieces


@given(
    fragments=st.lists(st.sampled_from(["<think>", "</think>", "<thi", "</", "<", "\n", "\r\n", " ", "a", "你"])),
    is_opened=st.booleans(),
    cuts=st.sets(st.integers(0, 60)),
)
def test_any_text_is_split_the_same_however_it_is_cut(fragments: list[str], is_opened: bool, cuts: set[int]) -> None:
    text = "".join(fragments)
    at = [0, *sorted(cut for cut in cuts if cut < len(text)), len(text)]
    expected = split([text], is_opened=is_opened)
    assert split(list(text), is_opened=is_opened) == expected
    assert split([text[start:end] for start, end in itertools.pairwise(at)], is_opened=is_opened) == expected
    assert "".join(expected).count("a") == text.count("a")


def test_reasoning_and_answers_stream() -> None:
    splitter = ThinkSplitter(choice=2)
    assert splitter.feed("<thi") == []
    assert splitter.feed("nk>\nHm") == [ReasoningDelta("Hm", choice=2)]
    assert splitter.feed(", 1 <") == [ReasoningDelta(", 1 ", choice=2)]
    assert splitter.feed(" 2\n") == [ReasoningDelta("< 2", choice=2)]
    assert splitter.feed("</think>\n") == []
    assert splitter.feed("\nHi") == [TextDelta("Hi", choice=2)]
    assert splitter.feed(" <") == [TextDelta(" <", choice=2)]
    assert splitter.feed("") == []
    assert splitter.finish() == []


@pytest.mark.parametrize("text", ["\n" * 500_000 + "a", "<think>" + "\n" * 500_000 + "a", "<think>a" + "\n" * 500_000])
def test_a_long_run_of_space_passes_in_blocks(text: str) -> None:
    whole = split([text])
    assert whole == split(text[start : start + 7777] for start in range(0, len(text), 7777))
    assert whole in {("", text), ("a", ""), (text.removeprefix("<think>"), "")}


def test_marks_in_reasoning_start_no_calls() -> None:
    call = '<tool_call>{"name": "run", "arguments": {}}</tool_call>'
    text = f"<think>Maybe {call}?</think>\n{call}"
    for pieces in cuttings(text):
        splitter = ThinkSplitter()
        events = [event for piece in pieces for event in splitter.feed(piece)] + splitter.finish()
        answer = read_answer("qwen25", [event.text for event in events if isinstance(event, TextDelta)])
        assert (answer.content, answer.calls) == (None, [("run", "{}")])
        reasoning = "".join(event.text for event in events if isinstance(event, ReasoningDelta))
        assert reasoning == f"Maybe {call}?"


# Hostile texts

MIB = 1 << 20
REPEATED = {
    "partial opening tags": ("", "<thi"),
    "partial closing tags": ("<think>", "</thi"),
    "half of a closing tag": ("<think>", "<"),
    "opening tags": ("", "<think>"),
    "closing tags": ("<think>", "</think>"),
    "both tags": ("", "<think></think>"),
    "line ends": ("<think>a", "\n"),
    "space before": ("", " "),
    "space between": ("<think>a", "\r\n\r\n x"),
    "text": ("<think>", "a"),
}


def count_work(pieces: Iterable[str]) -> tuple[int, int, int]:
    """(calls of functions of Python and C, the largest backlog in characters, the events)."""
    splitter = ThinkSplitter()
    steps = backlog = received = sent = count = 0

    def note(frame: FrameType, kind: str, argument: Any) -> None:
        nonlocal steps
        steps += kind in {"call", "c_call"}

    for piece in pieces:
        sys.setprofile(note)
        events = splitter.feed(piece)
        sys.setprofile(None)
        received += len(piece)
        sent += sum(len(event.text) for event in events if isinstance(event, TextDelta | ReasoningDelta))
        backlog = max(backlog, received - sent)
        count += len(events)
    return steps, backlog, count


@pytest.mark.parametrize(("head", "repeated"), REPEATED.values(), ids=REPEATED)
def test_megabytes_in_one_piece_are_a_handful_of_steps(head: str, repeated: str) -> None:
    steps, _, events = count_work([head + repeated * (8 * MIB // len(repeated))])
    assert steps <= 60
    assert events <= 8


@pytest.mark.parametrize(("head", "repeated"), REPEATED.values(), ids=REPEATED)
def test_the_work_for_a_character_and_the_backlog_are_bounded(head: str, repeated: str) -> None:
    """One character a piece: as many steps for each of the last characters as for the first, and little waits."""
    short, long = (head + repeated * (size // len(repeated)) for size in (1 << 13, 1 << 15))
    steps, _, _ = count_work(short)
    more_steps, backlog, _ = count_work(long)
    assert more_steps <= 40 * len(long)
    assert more_steps - steps <= 40 * (len(long) - len(short))
    tags = len("<think>") + len("</think>")
    assert backlog <= MAX_WAITING_SPACE + 2 * tags
