"""Reads an answer through a parser, adds up its events as a client does, and checks their order."""

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from gateway.parsers.contract import ToolTextParser
from gateway.parsers.registry import PARSERS
from gateway.protocol.events import Event, Finished, TextDelta, ToolArgumentsDelta, ToolCallStarted

TOOLS = frozenset({"get_weather", "clock_now", "run"})


@dataclass(slots=True)
class Answer:
    content: str | None = None
    calls: list[tuple[str, str]] = field(default_factory=list)  # (name, arguments)
    ids: list[str] = field(default_factory=list)
    reason: str = ""

    def add(self, event: Event) -> None:
        assert not self.reason, "nothing comes after Finished"
        match event:
            case TextDelta(text):
                assert text
                self.content = (self.content or "") + text
            case ToolCallStarted(index, call_id, name, kind):
                assert (index, kind) == (len(self.calls), "function")
                self.ids.append(call_id)
                self.calls.append((name, ""))
            case ToolArgumentsDelta(index, text):
                assert text
                assert index == len(self.calls) - 1
                name, arguments = self.calls[index]
                self.calls[index] = (name, arguments + text)
            case Finished(reason):
                self.reason = reason
            case _:
                raise AssertionError(event)


def counted_ids() -> Callable[[], str]:
    numbers = itertools.count(1)
    return lambda: f"call_{next(numbers):024x}"


def opened(name: str, *, tools: frozenset[str] = TOOLS, parallel: bool = True) -> ToolTextParser:
    return PARSERS[name].open(tools, new_id=counted_ids(), parallel=parallel)


def read_answer(
    name: str,
    pieces: Iterable[str],
    *,
    reason: str = "stop",
    tools: frozenset[str] = TOOLS,
    parallel: bool = True,
) -> Answer:
    parser = opened(name, tools=tools, parallel=parallel)
    answer = Answer()
    for piece in pieces:
        for event in parser.feed(piece):
            answer.add(event)
    for event in parser.finish(reason):
        answer.add(event)
    assert answer.reason
    assert len(set(answer.ids)) == len(answer.ids)
    assert all(0 < len(call_id) <= 40 for call_id in answer.ids)
    assert all(arguments for _, arguments in answer.calls)
    return answer


def cuttings(text: str) -> Iterable[list[str]]:
    """The text whole, in single characters, and in every two pieces."""
    yield [text]
    yield list(text)
    for cut in range(1, len(text)):
        yield [text[:cut], text[cut:]]


def read_however_cut(
    name: str,
    text: str,
    *,
    reason: str = "stop",
    tools: frozenset[str] = TOOLS,
    parallel: bool = True,
) -> Answer:
    """The answer, which must be the same for every chunking."""
    answers = [read_answer(name, pieces, reason=reason, tools=tools, parallel=parallel) for pieces in cuttings(text)]
    for pieces, answer in zip(cuttings(text), answers, strict=True):
        assert answer == answers[0], pieces
    return answers[0]
