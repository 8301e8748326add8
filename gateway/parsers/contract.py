"""The contract of a tool-call text parser, and what is the same in all of them: content, indexes, ids, limits.

A parser turns a server's text into the events TextDelta, ToolCallStarted and ToolArgumentsDelta. It is a machine of
states, each a function from a position in the text to the next one, so any cutting of a text gives the same answer.
A call begins when its name is known and its arguments have begun; from then on its arguments pass as they come. Until
then its text is kept, and becomes content if it turns out to be no call: nothing that was written is ever lost.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

from gateway.parsers.scanner import MAX_BUFFERED_CHARS, CallObject, Status, ValueScanner
from gateway.protocol.events import Event, Finished, TextDelta, ToolArgumentsDelta, ToolCallStarted

MAX_CALLS = 128
#: White space that waits for what follows it; of a longer run, blocks of this size go on as they are full.
MAX_WAITING_SPACE = 1 << 12
#: The reasons that say no more than "the model was done".
COMPLETED = frozenset({"", "stop", "tool_calls", "function_call"})


class ToolTextParser(Protocol):
    """One choice of one answer."""

    @property
    def is_open(self) -> bool:
        """Whether a call has begun and is not complete: an upstream that just stops here has broken off."""

    @property
    def dropped_calls(self) -> int:
        """Calls after the first one, where only one was allowed."""

    def feed(self, text: str) -> list[Event]: ...

    def finish(self, finish_reason: str) -> list[Event]:
        """What is left, and Finished with the reason as the parser has come to know it. Nothing is fed afterwards."""


class CallTextParser(ABC):
    """What all grammars share. A grammar names its marks and says what follows them.

    `end_tokens` are a vocabulary's own and are removed wherever they stand in text; `common_end_tokens` are also what
    somebody may write (`</s>` is HTML), so they are removed where the text really ends: before and after a call, and
    at the end of the answer.
    """

    marks: ClassVar[tuple[str, ...]]
    end_tokens: ClassVar[tuple[str, ...]] = ()
    common_end_tokens: ClassVar[tuple[str, ...]] = ()

    _all_marks: ClassVar[tuple[str, ...]]
    _arguments_stops: ClassVar[tuple[str, ...]]  # what ends unfinished arguments: JSON has no "<" outside a string
    _longest: ClassVar[int]
    _heads: ClassVar[frozenset[str]]
    _search: ClassVar[re.Pattern[str]]

    def __init_subclass__(cls) -> None:
        cls._all_marks = cls.marks + cls.end_tokens + cls.common_end_tokens
        cls._arguments_stops = tuple(mark for mark in cls._all_marks if mark.startswith("<"))
        cls._longest = max(map(len, cls._all_marks))
        cls._heads = frozenset(mark[0] for mark in cls._all_marks)
        cls._search = re.compile("|".join(map(re.escape, cls._all_marks)))  # in text only, never in JSON

    def __init__(
        self, tools: frozenset[str], *, new_id: Callable[[], str], parallel: bool = True, choice: int = 0
    ) -> None:
        self._tools = tools
        self._new_id = new_id
        self._parallel = parallel
        self._choice = choice
        self._events: list[Event] = []
        self._state: Callable[[str, int], int] = self._in_text
        self._held = ""  # the beginning of what may be a mark, to be read again with what follows
        # Content
        self._waiting = ""  # white space and common end tokens at the end of the text so far
        self._has_content = False
        self._in_segment = True  # some text has been written since the last call
        # Calls
        self._count = 0
        self._is_dropping = False
        self.dropped_calls = 0
        self._raw: list[str] = []  # read since the last call and not decided yet
        self._raw_chars = 0
        self._is_closing = False  # behind the arguments of a call, before the end of its block
        self._object = CallObject()
        self._is_begun = False  # the object's call has begun
        self._arguments: ValueScanner | None = None
        self._then: Callable[[], None] = self._resume_object  # when the arguments are complete

    def feed(self, text: str) -> list[Event]:
        if self._held:
            text, self._held = self._held + text, ""
        pos, end = 0, len(text)
        while pos < end:
            pos = self._state(text, pos)
        events, self._events = self._events, []
        return events

    def finish(self, finish_reason: str) -> list[Event]:
        if self._arguments:
            self._write_arguments(self._held)
        elif self._raw and not self._is_closing:
            self._finish_block()
        elif not self._is_closing_mark(self._held):
            self._write(self._held)
        if not self._count:
            self._write_now(self._without_end_tokens(self._waiting))
        self._events.append(Finished(self._reason(finish_reason), choice=self._choice))
        return self._events

    @property
    def is_open(self) -> bool:
        if self._arguments:
            return True
        return bool(self._raw) and not self._is_closing and (self._object.is_marked or bool(self._object.name))

    def _reason(self, reason: str) -> str:
        if not self._count:
            return "stop" if reason in COMPLETED else reason
        if reason in COMPLETED or (reason == "length" and self._is_closing):
            return "tool_calls"
        return reason

    # Hooks of a grammar

    @abstractmethod
    def _open_mark(self, mark: str) -> None:
        """One of `marks` stands in the text; sets the state for what follows it."""

    @abstractmethod
    def _object_ended(self, *, is_complete: bool) -> None:
        """An object that was a call is over, with or without its closing brace; sets the next state."""

    def _is_closing_mark(self, held: str) -> bool:
        """Whether the end of the answer is a part of the mark that closes a call."""
        return False

    def _call_id(self, given: str) -> str:
        return self._new_id()

    def _refuse(self, *, is_complete: bool = False) -> None:
        """What was kept is no call: it is content, as it was written."""
        self._release()
        self._state = self._in_text

    # Text

    def _in_text(self, text: str, pos: int) -> int:
        found = self._search.search(text, pos)
        if found is None:
            end = self._holding_position(text, pos)
            self._write(text[pos:end])
            self._held = text[end:]
            return len(text)
        self._write(text[pos : found.start()])
        mark = found.group()
        if mark in self.common_end_tokens:
            self._wait_with(mark)
        elif mark not in self.end_tokens:
            self._open_mark(mark)
        return found.end()

    def _holding_position(self, text: str, pos: int) -> int:
        """Where the longest end of the text begins that may become a mark."""
        for head in self._heads:  # a mark has its head only once, so the last head is the only candidate
            start = text.rfind(head, max(pos, len(text) - self._longest + 1))
            if start >= 0 and any(mark.startswith(text[start:]) for mark in self._all_marks):
                return start
        return len(text)

    def _write(self, text: str) -> None:
        body = text.rstrip()
        if not body:
            self._wait_with(text)
            return
        self._is_closing = False
        if not self._in_segment:
            self._in_segment = True
            body = body.lstrip()
            if self._has_content:
                body = "\n" + body
        self._write_now(self._waiting + body)
        self._waiting = ""
        self._wait_with(text[len(text.rstrip()) :])

    def _wait_with(self, space: str) -> None:
        """Keeps what belongs to the content only if text follows. At the beginning of a segment it never does."""
        if not self._in_segment:
            return
        self._waiting += space
        while len(self._waiting) >= MAX_WAITING_SPACE:
            self._write_now(self._waiting[:MAX_WAITING_SPACE])
            self._waiting = self._waiting[MAX_WAITING_SPACE:]

    def _write_now(self, text: str) -> None:
        if text:
            self._has_content = True
            self._events.append(TextDelta(text, choice=self._choice))

    def _without_end_tokens(self, text: str) -> str:
        for token in self.common_end_tokens:
            text = text.replace(token, "")
        return text

    # What is not decided yet

    def _keep(self, text: str) -> None:
        if text:
            self._raw.append(text)
            self._raw_chars += len(text)

    def _forget(self) -> str:
        raw = "".join(self._raw)
        self._raw.clear()
        self._raw_chars = 0
        return raw

    def _release(self) -> None:
        self._write(self._forget())

    def _skip_space(self, text: str, pos: int) -> int:
        """Keeps white space up to the next character, which the state may look at if there is one."""
        stop = pos
        while stop < len(text) and text[stop].isspace():
            stop += 1
            if stop - pos + self._raw_chars == MAX_BUFFERED_CHARS:
                self._keep(text[pos:stop])
                self._refuse()
                return stop
        self._keep(text[pos:stop])
        return stop

    def _finish_block(self) -> None:
        """The answer ends before it is known whether what was kept is a call."""
        arguments = self._object.cut_arguments() if self._state == self._in_object else ""
        if arguments and self._begin_call(self._object.name, self._object.call_id):
            self._is_closing = False
            self._write_arguments(arguments)
        else:
            self._release()

    # Calls

    def _begin_call(self, name: str, given_id: str = "") -> bool:
        """False where there are too many: then the block is content. What was kept is a part of the call."""
        if self._count and not self._parallel:
            self._is_dropping = True
            self.dropped_calls += 1
        elif self._count == MAX_CALLS:
            return False
        else:
            self._events.append(ToolCallStarted(self._count, self._call_id(given_id), name, choice=self._choice))
            self._count += 1
        self._forget()
        self._waiting = ""
        self._in_segment = False
        self._is_closing = True
        return True

    def _write_arguments(self, text: str) -> None:
        if text and not self._is_dropping:
            self._events.append(ToolArgumentsDelta(self._count - 1, text, choice=self._choice))

    def _begin_arguments(self, then: Callable[[], None]) -> None:
        self._arguments = ValueScanner()
        self._then = then
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
                self._then()
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
                self._held = text[pos:]
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
        stop = call.feed(text, pos, min(len(text), pos + MAX_BUFFERED_CHARS - self._raw_chars))
        self._keep(text[pos:stop])
        match call.status:
            case Status.STREAM:
                if self._begin_object_call(None):
                    self._begin_arguments(self._resume_object)
            case Status.READY:
                self._begin_object_call(call.arguments)
            case Status.COMPLETE:
                if self._is_begun or (call.is_call and self._begin_object_call("{}")):
                    self._forget()
                    self._object_ended(is_complete=True)
                elif self._state == self._in_object:
                    self._refuse(is_complete=True)
            case Status.BROKEN:
                self._leave_object()
            case Status.READING:
                if self._raw_chars == MAX_BUFFERED_CHARS:
                    self._leave_object()
        return stop

    def _resume_object(self) -> None:
        self._is_closing = True
        self._state = self._in_object

    def _begin_object_call(self, arguments: str | None) -> bool:
        if not self._begin_call(self._object.name, self._object.call_id):
            self._refuse()
            return False
        self._is_begun = True
        self._write_arguments(arguments or "")
        return True

    def _leave_object(self) -> None:
        if not self._is_begun:
            self._refuse()
            return
        if "".join(self._raw).strip() in {"", ","}:
            self._forget()
        else:
            self._release()
        self._object_ended(is_complete=False)


@dataclass(frozen=True, slots=True)
class ToolParser:
    """A grammar as deployments name it."""

    name: str
    grammar: type[CallTextParser]

    def open(
        self, tools: frozenset[str], *, new_id: Callable[[], str], parallel: bool = True, choice: int = 0
    ) -> ToolTextParser:
        """`tools` are the names the client declared; `new_id` gives `call_` and 24 random hex digits."""
        return self.grammar(tools, new_id=new_id, parallel=parallel, choice=choice)


def parser_of(module: str, grammar: type[CallTextParser]) -> ToolParser:
    """A parser has its file's name."""
    return ToolParser(module.rpartition(".")[2], grammar)
