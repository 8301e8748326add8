"""Scanners of JSON that arrives in pieces of any size: strings, escapes and depth, one character after another.

They decode names only, and pass a model's text on unchanged. How the text is chunked never changes where an object
breaks off.
"""

import json
from collections.abc import Callable
from enum import Enum, auto

from gateway.protocol.events import MAX_ARGUMENT_CHARS

MAX_NAME_CHARS = 256
MAX_BUFFERED_CHARS = MAX_ARGUMENT_CHARS
#: The limit of keys, names and ids with their quotes: the longest name may consist of `\uXXXX` only.
MAX_WRITTEN_CHARS = 6 * MAX_NAME_CHARS + 2

#: An object whose first key is none of these is an answer, not a call.
CALL_KEYS = frozenset({"type", "name", "function", "parameters", "arguments"})
SPACE = " \t\r\n"
WORD_SIGNS = "+-."  # the characters of numbers, true, false and null beside letters and digits


class ValueScanner:
    """Finds the end of one string, object or array. It counts brackets without pairing them, and so tolerates a
    model's mistakes."""

    __slots__ = ("_depth", "_in_string", "_is_escaped", "is_done")

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._is_escaped = False
        self.is_done = False

    def feed(self, text: str, pos: int, end: int) -> int:
        """The position after the value when it `is_done`; else `end`, or the position of a `<` outside a string, where
        a mark may begin although JSON has none. The caller may step over it."""
        while pos < end:
            if self._in_string:
                pos = self._read_string(text, pos, end)
                if self.is_done:
                    return pos
                continue
            char = text[pos]
            if char == '"':
                self._in_string = True
            elif char in "{[":
                self._depth += 1
            elif char in "}]":
                self._depth -= 1
                if self._depth == 0:
                    self.is_done = True
                    return pos + 1
            elif char == "<":
                return pos
            pos += 1
        return pos

    def _read_string(self, text: str, pos: int, end: int) -> int:
        quote = -1
        while pos < end:
            if self._is_escaped:
                self._is_escaped = False
                pos += 1
                continue
            if quote < pos:  # one search for all escapes before the quote keeps a long string linear
                quote = text.find('"', pos, end)
                if quote < 0:
                    quote = end
            backslash = text.find("\\", pos, quote)
            if backslash < 0:
                if quote == end:
                    return end
                self._in_string = False
                self.is_done = self._depth == 0
                return quote + 1
            self._is_escaped = True
            pos = backslash + 1
        return pos


def is_object(text: str) -> bool:
    """True where the text is one `{…}` and nothing else."""
    text = text.strip()
    if not text.startswith("{"):
        return False
    scanner = ValueScanner()
    pos = 0
    while pos < len(text) and not scanner.is_done:
        pos = scanner.feed(text, pos, len(text))
        pos += not scanner.is_done
    return scanner.is_done and pos == len(text)


def decode_string(written: str) -> str | None:
    """The text of a JSON string; None where it is invalid, or UTF-8 cannot carry it."""
    try:
        value = json.loads(written, strict=False)
        value.encode()
    except ValueError:
        return None
    return str(value)


def unwrap_arguments(written: str) -> str:
    """The arguments in a value: null and an empty string become `{}`, a string that holds an object becomes it."""
    if written in {"null", "None"}:
        return "{}"
    if written.startswith('"'):
        decoded = decode_string(written)
        if decoded is not None:
            if not decoded.strip():
                return "{}"
            if is_object(decoded):
                return decoded
    return written


def unwrap_cut_arguments(written: str) -> str:
    """The decodable beginning of a string that was cut off; empty unless it is the beginning of an object."""
    for missing in range(13):  # the longest undecodable tail is half an escaped surrogate pair: \ud83d\ude0
        decoded = decode_string(written[: len(written) - missing] + '"')
        if decoded is not None:
            return decoded if decoded.lstrip().startswith("{") else ""
    return ""


class Status(Enum):
    READING = auto()
    STREAM = auto()  # the name is known and the arguments begin here: the caller reads them
    READY = auto()  # the name and the whole `arguments` are known
    COMPLETE = auto()  # the object has its closing brace
    BROKEN = auto()  # the next character cannot be part of a call


class _Role(Enum):
    KEY = auto()
    NAME = auto()
    ID = auto()
    ARGUMENTS = auto()
    OTHER = auto()


class CallObject:
    """Reads the object of a call: `{"name": …, "arguments": …}`, also with `parameters`, with the keys in any order,
    and inside `{"type": "function", "function": …}`.

    `declared` is for an object without a mark before it: it is a call only if it names one of these tools.
    """

    __slots__ = (
        "_declared",
        "_depth",
        "_has_foreign_keys",
        "_key",
        "_pieces",
        "_role",
        "_room",
        "_scanner",
        "_seen_arguments",
        "_seen_key",
        "_state",
        "arguments",
        "call_id",
        "name",
        "status",
    )

    def __init__(self, declared: frozenset[str] | None = None) -> None:
        self.status = Status.READING
        self.name = ""  # empty: not known yet
        self.call_id = ""
        self.arguments: str | None = None
        self._declared = declared
        self._state: Callable[[str, int, int], int] = self._open
        self._depth = 0
        self._scanner = ValueScanner()
        self._pieces: list[str] = []
        self._room = 0
        self._role = _Role.KEY
        self._key = ""
        self._seen_key = False
        self._seen_arguments = False
        self._has_foreign_keys = False

    def feed(self, text: str, pos: int, end: int) -> int:
        """Reads until `end`, or until the status changes; the very first character is the opening brace. After STREAM
        the caller continues after the arguments."""
        self.status = Status.READING
        while pos < end:
            pos = self._state(text, pos, end)
            if self.status is not Status.READING:
                break
        return pos

    @property
    def is_call(self) -> bool:
        """True where a complete object without arguments calls a tool without parameters."""
        return bool(self.name) and (self._declared is None or not self._has_foreign_keys)

    @property
    def is_marked(self) -> bool:
        return self._declared is None

    def cut_arguments(self) -> str:
        """The beginning of the arguments, in an object that the end of the stream cuts off and whose name is known."""
        if self.name and self._role is _Role.ARGUMENTS and self.arguments is None and self._pieces[:1]:
            written = "".join(self._pieces)
            if written.startswith('"'):
                return unwrap_cut_arguments(written)
        return ""

    # States: functions from a position to the next one. A state leaves a character that it cannot use unread.

    def _open(self, text: str, pos: int, end: int) -> int:
        self._depth += 1
        self._state = self._member
        return pos + 1

    def _member(self, text: str, pos: int, end: int) -> int:
        char = text[pos]
        if char == '"':
            return self._begin_value(_Role.KEY, text, pos, end)
        return self._close_or_break(char, pos)

    def _colon(self, text: str, pos: int, end: int) -> int:
        if text[pos] == ":":
            self._state = self._value
        elif text[pos] not in SPACE:
            self.status = Status.BROKEN
            return pos
        return pos + 1

    def _value(self, text: str, pos: int, end: int) -> int:
        char = text[pos]
        if char in SPACE:
            return pos + 1
        if not (char in '"{[' or char.isalnum() or char == "-"):
            self.status = Status.BROKEN
            return pos
        role = _Role.OTHER
        match self._key:
            case "function" if char == "{" and self._depth == 1:
                return self._open(text, pos, end)
            case "name" | "function" if char == '"' and not self.name:
                role = _Role.NAME
            case "id" if char == '"' and not (self.call_id or self._seen_arguments):
                role = _Role.ID
            case "arguments" | "parameters" if not self._seen_arguments:
                self._seen_arguments = True
                if char == "{" and self.name:
                    self._state = self._next
                    self.status = Status.STREAM
                    return pos
                role = _Role.ARGUMENTS
            case _:
                pass
        return self._begin_value(role, text, pos, end)

    def _next(self, text: str, pos: int, end: int) -> int:
        if text[pos] == ",":
            self._state = self._member
            return pos + 1
        return self._close_or_break(text[pos], pos)

    def _close_or_break(self, char: str, pos: int) -> int:
        if char == "}":
            self._depth -= 1
            self._state = self._next
            if self._depth == 0:
                self.status = Status.COMPLETE
        elif char not in SPACE:
            self.status = Status.BROKEN
            return pos
        return pos + 1

    # Values

    def _begin_value(self, role: _Role, text: str, pos: int, end: int) -> int:
        self._role = role
        self._pieces = []
        is_long = role in {_Role.ARGUMENTS, _Role.OTHER}
        self._room = MAX_BUFFERED_CHARS if is_long else MAX_WRITTEN_CHARS
        self._scanner = ValueScanner()
        self._state = self._scan if text[pos] in '"{[' else self._scan_word
        return self._state(text, pos, end)

    def _scan(self, text: str, pos: int, end: int) -> int:
        end = min(end, pos + self._room)
        stop = self._scanner.feed(text, pos, end)
        self._buffer(text, pos, stop)
        if self._scanner.is_done:
            self._end_value("".join(self._pieces))
        elif stop < end or self._room == 0:
            self.status = Status.BROKEN
        return stop

    def _scan_word(self, text: str, pos: int, end: int) -> int:
        stop = pos
        while stop < end and (text[stop].isalnum() or text[stop] in WORD_SIGNS):
            stop += 1
        self._buffer(text, pos, stop)
        if stop < end:
            self._end_value("".join(self._pieces))
        return stop

    def _buffer(self, text: str, pos: int, stop: int) -> None:
        self._room -= stop - pos
        if self._role is not _Role.OTHER:
            self._pieces.append(text[pos:stop])

    def _end_value(self, written: str) -> None:
        self._state = self._next
        match self._role:
            case _Role.KEY:
                self._state = self._colon
                self._take_key(decode_string(written))
            case _Role.NAME:
                self._take_name(decode_string(written))
            case _Role.ID:
                self.call_id = decode_string(written) or ""
            case _Role.ARGUMENTS:
                self.arguments = unwrap_arguments(written)
                if self.name:
                    self.status = Status.READY
            case _Role.OTHER:
                pass

    def _take_key(self, key: str | None) -> None:
        self._key = key or ""
        if self._key not in CALL_KEYS and self._key != "id":
            self._has_foreign_keys = True
        if self._declared is not None and not self._seen_key and self._key not in CALL_KEYS:
            self.status = Status.BROKEN
        self._seen_key = True

    def _take_name(self, name: str | None) -> None:
        if name is None or len(name) > MAX_NAME_CHARS or not (self._declared is None or name in self._declared):
            self.status = Status.BROKEN
            return
        self.name = name
        if name and self.arguments is not None:
            self.status = Status.READY
