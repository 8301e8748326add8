"""The check for JSON text that breaks off before it is complete."""

import re

#: Whole strings, which may hold anything; brackets; a quote that opens a string without an end.
SYMBOL = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}"]', re.DOTALL)
DEPTH = {"{": 1, "[": 1, "}": -1, "]": -1}


def is_open(text: str) -> bool:
    """True where an object, an array or a string in the text has no end. A complete text may be wrong otherwise."""
    depth = 0
    for match in SYMBOL.finditer(text):
        symbol = match.group()
        if symbol == '"':
            return True
        depth += DEPTH.get(symbol, 0)
    return depth > 0
