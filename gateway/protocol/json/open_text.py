"""Progress of a JSON text that arrives in pieces: open, ended, blank. A complete text may be wrong otherwise."""

import re

#: Whole strings, which may hold anything; brackets; a quote that opens a string without an end.
SYMBOL = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[\]{}"]', re.DOTALL)
#: The inside of a string, up to its quote or half an escape.
STRING = re.compile(r'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
DEPTH = {"{": 1, "[": 1, "}": -1, "]": -1}


class JsonProgress:
    """Reads each character once, and stores none of them."""

    __slots__ = ("_depth", "_in_string", "_is_escaped", "has_ended", "is_blank", "size")

    def __init__(self) -> None:
        self.size = 0  # characters
        self.is_blank = True
        self.has_ended = False  # an object, an array or a string at the outermost level is over
        self._depth = 0
        self._in_string = False
        self._is_escaped = False

    @property
    def is_open(self) -> bool:
        """True where an object, an array or a string has no end."""
        return self._in_string or self._depth > 0

    def feed(self, text: str) -> None:
        self.size += len(text)
        if self.is_blank:
            self.is_blank = not text.strip()
        start = self._read_string(text, 0) if self._in_string else 0
        for match in SYMBOL.finditer(text, start):
            symbol = match.group()
            if symbol == '"':
                self._in_string = True
                self._read_string(text, match.end())
                return
            self._depth += DEPTH.get(symbol, 0)
            self.has_ended = self.has_ended or self._depth == 0

    def _read_string(self, text: str, start: int) -> int:
        """The position after the string, or the text's length where it has no end."""
        if self._is_escaped and text:
            start += 1
            self._is_escaped = False
        match = STRING.match(text, start)
        end = match.end() if match else start
        if end < len(text):
            self._is_escaped = text[end] == "\\"
            self._in_string = self._is_escaped
            end += 1
            self.has_ended = self.has_ended or not (self._in_string or self._depth)
        return end


def is_open(text: str) -> bool:
    """True where an object, an array or a string in the text has no end."""
    progress = JsonProgress()
    progress.feed(text)
    return progress.is_open
