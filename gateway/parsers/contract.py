"""The contract of a tool-call text parser, and the base class of all of them: content, indexes, ids, limits.

A parser turns a server's text into the events TextDelta, ToolCallStarted and ToolArgumentsDelta. It is a state machine;
each state is a function from a position in the text to the next position, so any chunking of a text gives the same
events. A call begins when its name is known and its arguments have begun; from then on its arguments pass as they
arrive. Until then the parser buffers its text, which becomes content if it turns out to be no call: no text is lost.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

from gateway.parsers.scanner import MAX_BUFFERED_CHARS, CallObject, Status, ValueScanner
from gateway.protocol.events import Event, Finished, TextDelta, ToolArgumentsDelta, ToolCallStarted

MAX_CALLS = 128
#: Texts that begin like a call and are none, after which all is text: each costs a hundred times its two characters.
MAX_REJECTIONS = 256
#: A feed with more events than this merges neighbouring texts: marks without a call give one every few characters.
MAX_SEPARATE_EVENTS = 64
#: The white space that waits for the text after it; a longer run passes in blocks of this size.
MAX_WAITING_SPACE = 1 << 12
NON_SPACE = re.compile(r"\S")
#: The finish reasons of a complete answer.
COMPLETED = frozenset({"", "stop", "tool_calls", "function_call"})


class ToolTextParser(Protocol):
    """One choice of one answer."""

    @property
    def is_open(self) -> bool:
        """True while a call is incomplete: an upstream that stops here has broken off."""

    @property
    def dropped_calls(self) -> int:
        """The number of calls left out because only one is allowed."""

    def feed(self, text: str) -> list[Event]: ...

    def finish(self, finish_reason: str) -> list[Event]:
        """The remaining events, then Finished with the reason that the parsed text implies. Ends the parser."""


class CallTextParser(ABC):
    """Base of all grammars. A grammar names its marks and sets the state that follows each.

    The parser removes `end_tokens`, which belong to the model's vocabulary only, anywhere in text. A text may also hold
    `common_end_tokens` (`</s>` is HTML), so the parser removes them only where the text ends: before and after a call,
    and at the end of the answer.
    """

    marks: ClassVar[tuple[str, ...]]
    end_tokens: ClassVar[tuple[str, ...]] = ()
    common_end_tokens: ClassVar[tuple[str, ...]] = ()

    _all_marks: ClassVar[tuple[str, ...]]
    _arguments_stops: ClassVar[tuple[str, ...]]  # marks that end unfinished arguments: JSON has "<" in strings only
    _longest: ClassVar[int]
    _heads: ClassVar[frozenset[str]]
    _search: ClassVar[re.Pattern[str]]

    def __init_subclass__(cls) -> None:
        cls._all_marks = cls.marks + cls.end_tokens + cls.common_end_tokens
        cls._arguments_stops = tuple(mark for mark in cls._all_marks if mark.startswith("<"))
        cls._longest = max(map(len, cls._all_marks))
        cls._heads = frozenset(mark[0] for mark in cls._all_marks)
        cls._search = re.compile("|".join(map(re.escape, cls._all_marks)))  # for text, never for JSON

    def __init__(
        self, tools: frozenset[str], *, new_id: Callable[[], str], parallel: bool = True, choice: int = 0
    ) -> None:
        self._tools = tools
        self._new_id = new_id
        self._parallel = parallel
        self._choice = choice
        self._events: list[Event] = []
        self._state: Callable[[str, int], int] = self._in_text
        self._pending = ""  # the beginning of a possible mark, read again with the text after it
        # Content
        self._trailing = ""  # white space and common end tokens at the end of the text so far
        self._has_content = False
        self._has_segment = True  # there is text after the last call, or no call yet
        # Calls
        self._count = 0
        self._is_call_dropped = False
        self.dropped_calls = 0
        self._rejections = 0
        self._undecided: list[str] = []  # text after the last call that is a call or content
        self._undecided_chars = 0
        self._is_closing = False  # after the arguments of a call, before the end of its block
        self._object = CallObject()
        self._is_begun = False  # the call of the object has begun
        self._arguments: ValueScanner | None = None
        self._after_arguments: Callable[[], None] = self._resume_object  # called once the arguments are complete

    def feed(self, text: str) -> list[Event]:
        if self._pending:
            text, self._pending = self._pending + text, ""
        pos, end = 0, len(text)
        while pos < end:
            pos = self._state(text, pos)
        events, self._events = self._events, []
        return events if len(events) <= MAX_SEPARATE_EVENTS else self._merge_texts(events)

    def _merge_texts(self, events: list[Event]) -> list[Event]:
        merged: list[Event] = []
        texts: list[str] = []
        for event in events:
            if isinstance(event, TextDelta):
                texts.append(event.text)
                continue
            if texts:
                merged.append(TextDelta("".join(texts), choice=self._choice))
                texts.clear()
            merged.append(event)
        if texts:
            merged.append(TextDelta("".join(texts), choice=self._choice))
        return merged

    def finish(self, finish_reason: str) -> list[Event]:
        if self._arguments:
            self._write_arguments(self._pending)
        elif self._undecided and not self._is_closing:
            self._finish_block()
        elif not self._is_closing_mark(self._pending):
            self._write(self._pending)
        if not self._count:
            self._write_now(self._without_end_tokens(self._trailing))
        self._events.append(Finished(self._reason(finish_reason), choice=self._choice))
        return self._events

    @property
    def is_open(self) -> bool:
        if self._arguments:
            return True
        return bool(self._undecided) and not self._is_closing and (self._object.is_marked or bool(self._object.name))

    def _reason(self, reason: str) -> str:
        if not self._count:
            return "stop" if reason in COMPLETED else reason
        if reason in COMPLETED or (reason == "length" and self._is_closing):
            return "tool_calls"
        return reason

    # Hooks of a grammar

    @abstractmethod
    def _open_mark(self, mark: str) -> None:
        """Sets the state for the text after one of `marks`."""

    @abstractmethod
    def _end_object(self, *, is_complete: bool) -> None:
        """Sets the state after an object that was a call; `is_complete`: it has its closing brace."""

    def _is_closing_mark(self, pending: str) -> bool:
        """True where the last text of the answer is the beginning of the mark that closes a call."""
        return False

    def _call_id(self, upstream_id: str) -> str:
        return self._new_id()

    def _reject_call(self, *, is_complete: bool = False) -> None:
        """Writes the buffered text as content: it is no call."""
        self._write_buffer()
        self._rejections += 1
        self._state = self._in_text if self._rejections < MAX_REJECTIONS else self._in_rest

    # Text

    def _in_rest(self, text: str, pos: int) -> int:
        """After MAX_REJECTIONS: no mark has a meaning any more."""
        self._write(text[pos:])
        return len(text)

    def _in_text(self, text: str, pos: int) -> int:
        match = self._search.search(text, pos)
        if match is None:
            end = self._find_partial_mark(text, pos)
            self._write(text[pos:end])
            self._pending = text[end:]
            return len(text)
        self._write(text[pos : match.start()])
        mark = match.group()
        if mark in self.common_end_tokens:
            self._defer(mark)
        elif mark not in self.end_tokens:
            self._open_mark(mark)
        return match.end()

    def _find_partial_mark(self, text: str, pos: int) -> int:
        """The position of the longest end of the text that may become a mark; the text's length where there is none."""
        for head in self._heads:  # a mark has its first character only once, so the last one is the only candidate
            start = text.rfind(head, max(pos, len(text) - self._longest + 1))
            if start >= 0 and any(mark.startswith(text[start:]) for mark in self._all_marks):
                return start
        return len(text)

    def _write(self, text: str) -> None:
        body = text.rstrip()
        if not body:
            self._defer(text)
            return
        self._is_closing = False
        if not self._has_segment:
            self._has_segment = True
            body = body.lstrip()
            if self._has_content:
                body = "\n" + body
        self._write_now(self._trailing + body)
        self._trailing = ""
        self._defer(text[len(text.rstrip()) :])

    def _defer(self, space: str) -> None:
        """Holds back what is content only if text follows, and never at the beginning of a segment."""
        if not self._has_segment:
            return
        self._trailing += space
        end = len(self._trailing) - len(self._trailing) % MAX_WAITING_SPACE
        if end:
            self._write_now(self._trailing[:end])
            self._trailing = self._trailing[end:]

    def _write_now(self, text: str) -> None:
        if text:
            self._has_content = True
            self._events.append(TextDelta(text, choice=self._choice))

    def _without_end_tokens(self, text: str) -> str:
        for token in self.common_end_tokens:
            text = text.replace(token, "")
        return text

    # Text that is a call or content

    def _buffer(self, text: str) -> None:
        if text:
            self._undecided.append(text)
            self._undecided_chars += len(text)

    def _take_buffer(self) -> str:
        raw = "".join(self._undecided)
        self._undecided.clear()
        self._undecided_chars = 0
        return raw

    def _write_buffer(self) -> None:
        self._write(self._take_buffer())

    def _skip_space(self, text: str, pos: int) -> int:
        """Buffers white space; returns the position of the next character, which the text may not have yet."""
        limit = pos + MAX_BUFFERED_CHARS - self._undecided_chars
        match = NON_SPACE.search(text, pos, limit)
        end = match.start() if match else min(limit, len(text))
        self._buffer(text[pos:end])
        if end == limit:
            self._reject_call()
        return end

    def _finish_block(self) -> None:
        """Decides about the buffered text at the end of the answer: a cut call, or content."""
        arguments = self._object.cut_arguments() if self._state == self._in_object else ""
        if arguments and self._begin_call(self._object.name, self._object.call_id):
            self._is_closing = False
            self._write_arguments(arguments)
        else:
            self._write_buffer()

    # Calls

    def _begin_call(self, name: str, upstream_id: str = "") -> bool:
        """Begins a call with the buffered text. False where there are too many calls: the block is then content."""
        if self._count and not self._parallel:
            self._is_call_dropped = True
            self.dropped_calls += 1
        elif self._count == MAX_CALLS:
            return False
        else:
            self._events.append(ToolCallStarted(self._count, self._call_id(upstream_id), name, choice=self._choice))
            self._count += 1
        self._take_buffer()
        self._trailing = ""
        self._has_segment = False
        self._is_closing = True
        return True

    def _write_arguments(self, text: str) -> None:
        if text and not self._is_call_dropped:
            self._events.append(ToolArgumentsDelta(self._count - 1, text, choice=self._choice))

    def _begin_arguments(self, after_arguments: Callable[[], None]) -> None:
        self._arguments = ValueScanner()
        self._after_arguments = after_arguments
        self._is_closing = False
        self._state = self._in_arguments

    def _in_arguments(self, text: str, pos: int) -> int:
        arguments = self._arguments
        assert arguments is not None
        start, end = pos, len(text)
        while pos < end:
            pos = arguments.feed(text, pos, end)
            if arguments.is_done:
                self._arguments = None
                self._after_arguments()
                break
            if pos == end:
                break
            ahead = text[pos : pos + self._longest]
            if ahead.startswith(self._arguments_stops):
                self._arguments = None
                self._state = self._in_text
                break
            if any(mark.startswith(ahead) for mark in self._arguments_stops):
                self._write_arguments(text[start:pos])
                self._pending = text[pos:]
                return end
            pos += 1
        self._write_arguments(text[start:pos])
        return pos

    def _begin_object(self, declared: frozenset[str] | None = None) -> None:
        self._object = CallObject(declared)
        self._is_begun = False
        self._is_closing = False
        self._state = self._in_object

    def _in_object(self, text: str, pos: int) -> int:
        call = self._object
        stop = call.feed(text, pos, min(len(text), pos + MAX_BUFFERED_CHARS - self._undecided_chars))
        self._buffer(text[pos:stop])
        match call.status:
            case Status.STREAM:
                if self._begin_object_call(None):
                    self._begin_arguments(self._resume_object)
            case Status.READY:
                self._begin_object_call(call.arguments)
            case Status.COMPLETE:
                if self._is_begun or (call.is_call and self._begin_object_call("{}")):
                    self._take_buffer()
                    self._end_object(is_complete=True)
                elif self._state == self._in_object:
                    self._reject_call(is_complete=True)
            case Status.BROKEN:
                self._abandon_object()
            case Status.READING:
                if self._undecided_chars == MAX_BUFFERED_CHARS:
                    self._abandon_object()
        return stop

    def _resume_object(self) -> None:
        self._is_closing = True
        self._state = self._in_object

    def _begin_object_call(self, arguments: str | None) -> bool:
        if not self._begin_call(self._object.name, self._object.call_id):
            self._reject_call()
            return False
        self._is_begun = True
        self._write_arguments(arguments or "")
        return True

    def _abandon_object(self) -> None:
        if not self._is_begun:
            self._reject_call()
            return
        if "".join(self._undecided).strip() in {"", ","}:
            self._take_buffer()
        else:
            self._write_buffer()
        self._end_object(is_complete=False)


@dataclass(frozen=True, slots=True)
class ToolParser:
    """A grammar under the name that deployments give it."""

    name: str
    grammar: type[CallTextParser]

    def open(
        self, tools: frozenset[str], *, new_id: Callable[[], str], parallel: bool = True, choice: int = 0
    ) -> ToolTextParser:
        """A parser for one choice. `tools` are the names that the client declares; `new_id` returns `call_` and 24
        random hex digits."""
        return self.grammar(tools, new_id=new_id, parallel=parallel, choice=choice)


def parser_of(module: str, grammar: type[CallTextParser]) -> ToolParser:
    """The parser of a module, under the module's name."""
    return ToolParser(module.rpartition(".")[2], grammar)
