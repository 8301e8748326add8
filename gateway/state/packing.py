"""The body of a stored response or item: JSON, deflated where that pays.

Measured: deflating 2 KB costs as much as the rest of storing it and saves a page at most, so only larger bodies are.
"""

import zlib
from typing import Any

import orjson

DEFLATED_FROM_BYTES = 8 * 1024
LEVEL = 1
MAX_BYTES = 256 * 1024 * 1024  # what a body may inflate to


def pack(value: Any) -> bytes:
    plain = orjson.dumps(value)
    return zlib.compress(plain, LEVEL) if len(plain) >= DEFLATED_FROM_BYTES else plain


def unpack(body: bytes | memoryview) -> Any:
    data = bytes(body)
    if data[:1] in (b"{", b"["):  # a deflated text begins with 0x78
        return orjson.loads(data)
    return orjson.loads(zlib.decompressobj().decompress(data, MAX_BYTES))
