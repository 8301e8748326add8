"""Reads JSON that comes in pieces of any size, one character after another: strings, escapes and depth.

Nothing is decoded but names, and nothing is written anew: what a model wrote is found, cut out and handed on as it is.
Where an object breaks off never depends on how its text was cut.
"""

import json
from collections.abc import Callable
from enum import Enum, auto

MAX_NAME_CHARS = 256
MAX_BUFFERED_CHARS = 1 << 20
#: Keys, names and ids between their quotes. A longest name may be written in `\uXXXX` throughout.
MAX_WRITTEN_CHARS = 6 * MAX_NAME_CHARS + 2

#: A first key beside these says that an object is an answer, not a call.
CALL_KEYS = frozenset({"type", "name", "function", "parameters", "arguments"})
SPACE = " \t\r\n"
BLACK = "+-."  # beside letters and digits: what numbers, true, false and null are written with


class ValueScanner:
    """Finds the end of one string, object or array. Brackets are counted, not paired: a model's slip stays its own."""

    __slots__ = ("_depth", "_in_string", "_is_escaped", "is_done")

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._is_escaped = False
        self.is_done = False

    def feed(self, text: str, pos: int, end: int) -> int:
        """The position behind the value when it `is_done`; else `end`, or that of a `<` outside a string: no JSON has
        one, and many marks begin with one. The caller may step over it."""
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
            if quote < pos:  # looked for once for all escapes before it: a long string is read in linear time
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
    """Whether the text is one `{…}` and nothing behind it."""
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
    """What a JSON string says; None where it says nothing that UTF-8 can carry."""
    try:
        value = json.loads(written, strict=False)
        value.encode()
    except ValueError:
        return None
    return str(value)


def arguments_of(written: str) -> str:
    """The arguments that a value stands for: a string that holds an object is decoded once, nothing becomes `{}`."""
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


def cut_arguments_of(written: str) -> str:
    """As much as can be decoded of a string that was cut inside; empty unless it had begun to hold an object."""
    for missing in range(13):  # the longest tail that says nothing yet is half an escaped pair: \ud83d\ude0
        decoded = decode_string(written[: len(written) - missing] + '"')
        if decoded is not None:
            return decoded if decoded.lstrip().startswith("{") else ""
    return ""


class Status(Enum):
    READING = auto()
    STREAM = auto()  # the name is known and the arguments begin here: they need no buffer
    READY = auto()  # the name is known, and so are the whole `arguments`
    COMPLETE = auto()  # behind the closing brace
    BROKEN = auto()  # the next character belongs to no call


class _Role(Enum):
    KEY = auto()
    NAME = auto()
    ID = auto()
    ARGUMENTS = auto()
    OTHER = auto()


class CallObject:
    """Reads the object that a call is written as: `{"name": …, "arguments": …}`, also with `parameters`, with the keys
    in any order, and inside `{"type": "function", "function": …}`.

    With `declared`, an object that nothing but its look makes a call: it is one only if it names one of these tools.
    """

    __slots__ = (
        "_declared",
        "_depth",
        "_has_foreign_keys",
        "_kept",
        "_key",
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
        self._kept: list[str] = []
        self._room = 0
        self._role = _Role.KEY
        self._key = ""
        self._seen_key = False
        self._seen_arguments = False
        self._has_foreign_keys = False

    def feed(self, text: str, pos: int, end: int) -> int:
        """Reads until `end` or a status to act upon; the first character of all is the opening brace. After STREAM it
        goes on behind the arguments."""
        self.status = Status.READING
        while pos < end:
            pos = self._state(text, pos, end)
            if self.status is not Status.READING:
                break
        return pos

    @property
    def is_call(self) -> bool:
        """Of a complete object without arguments: a tool without parameters was called."""
        return bool(self.name) and (self._declared is None or not self._has_foreign_keys)

    @property
    def is_marked(self) -> bool:
        return self._declared is None

    def cut_arguments(self) -> str:
        """The stream ended inside: what is known of the arguments of a call whose name is known."""
        if self.name and self._role is _Role.ARGUMENTS and self.arguments is None and self._kept[:1]:
            written = "".join(self._kept)
            if written.startswith('"'):
                return cut_arguments_of(written)
        return ""

    # States: from a position to the next one. A state that does not like its character leaves it unread.

    def _open(self, text: str, pos: int, end: int) -> int:
        self._depth += 1
        self._state = self._member
        return pos + 1

    def _member(self, text: str, pos: int, end: int) -> int:
        char = text[pos]
        if char == '"':
            return self._take(_Role.KEY, text, pos, end)
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
        return self._take(role, text, pos, end)

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

    def _take(self, role: _Role, text: str, pos: int, end: int) -> int:
        self._role = role
        self._kept = []
        is_long = role in {_Role.ARGUMENTS, _Role.OTHER}
        self._room = MAX_BUFFERED_CHARS if is_long else MAX_WRITTEN_CHARS
        self._scanner = ValueScanner()
        self._state = self._scan if text[pos] in '"{[' else self._scan_word
        return self._state(text, pos, end)

    def _scan(self, text: str, pos: int, end: int) -> int:
        end = min(end, pos + self._room)
        stop = self._scanner.feed(text, pos, end)
        self._keep(text, pos, stop)
        if self._scanner.is_done:
            self._taken("".join(self._kept))
        elif stop < end or self._room == 0:
            self.status = Status.BROKEN
        return stop

    def _scan_word(self, text: str, pos: int, end: int) -> int:
        stop = pos
        while stop < end and (text[stop].isalnum() or text[stop] in BLACK):
            stop += 1
        self._keep(text, pos, stop)
        if stop < end:
            self._taken("".join(self._kept))
        return stop

    def _keep(self, text: str, pos: int, stop: int) -> None:
        self._room -= stop - pos
        if self._role is not _Role.OTHER:
            self._kept.append(text[pos:stop])

    def _taken(self, written: str) -> None:
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
                self.arguments = arguments_of(written)
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
