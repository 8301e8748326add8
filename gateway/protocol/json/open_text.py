"""Whether JSON text broke off before it was complete."""

import re

#: Whole strings, which may hold anything; brackets; a quote that opens a string without an end.
TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}"]', re.DOTALL)
DEPTH = {"{": 1, "[": 1, "}": -1, "]": -1}


def is_open(text: str) -> bool:
    """Whether an object, an array or a string in it has no end. What is closed may be wrong otherwise."""
    depth = 0
    for token in TOKEN.finditer(text):
        found = token.group()
        if found == '"':
            return True
        depth += DEPTH.get(found, 0)
    return depth > 0
