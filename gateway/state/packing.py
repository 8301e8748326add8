"""The body of a stored response or item: JSON, deflated where that pays.

A response is kept in two: its items, which every later turn reads, and the rest of the object, which repeats the
request and can be as large. Measured: a turn after nineteen others spends half as long on decoding them.

Measured: deflating 2 KB costs as much as the rest of storing it and saves a page at most, so only larger bodies are.
"""

import asyncio
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import orjson

DEFLATED_FROM_BYTES = 8 * 1024
LEVEL = 1
MAX_BYTES = 256 * 1024 * 1024  # what a body may inflate to
YIELD_BYTES = 1024 * 1024  # unpacked in one step of the event loop


class TooLarge(ValueError):
    """There is more JSON than was asked for. No more than that has been inflated."""


def pack(value: Any) -> bytes:
    plain = orjson.dumps(value)
    return zlib.compress(plain, LEVEL) if len(plain) >= DEFLATED_FROM_BYTES else plain


def unpack(body: bytes | memoryview) -> Any:
    return orjson.loads(_inflated(bytes(body), MAX_BYTES))


def pack_response(input_items: Iterable[Any], response: Mapping[str, Any]) -> tuple[bytes, bytes]:
    """(body, head). The output keeps its place in the head."""
    return pack({"input": input_items, "output": response["output"]}), pack({**response, "output": None})


def unpack_response(body: bytes | memoryview, head: bytes | memoryview) -> tuple[list[Any], dict[str, Any]]:
    """(input, response)."""
    items, response = unpack(body), unpack(head)
    response["output"] = items["output"]
    return items["input"], response


async def unpacked(bodies: Iterable[bytes], most: int) -> list[Any]:
    """All of them, in steps, so that others have their turn. Raises TooLarge where all of them have more than
    `most` bytes of JSON."""
    values: list[Any] = []
    size = step = 0
    for body in bodies:
        plain = _inflated(body, most - size)
        size += len(plain)
        step += len(plain)
        values.append(orjson.loads(plain))
        if step > YIELD_BYTES:
            step = 0
            await asyncio.sleep(0)
    return values


def _inflated(body: bytes, most: int) -> bytes:
    # A deflated text begins with 0x78. One byte more than it may have tells that it has more
    plain = body if body[:1] in (b"{", b"[") else zlib.decompressobj().decompress(body, most + 1)
    if len(plain) > most:
        raise TooLarge
    return plain
