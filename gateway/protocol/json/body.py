"""Strict JSON: the reader of request bodies, and edits of their bytes that spare a full re-encode.

Stricter than RFC 8259 where a lenient reading lets two parsers disagree: duplicate keys, NaN, infinities, lone
surrogates, byte order marks and other encodings than UTF-8 are refused, and nesting is bounded.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from functools import cache

import orjson

from gateway.protocol.errors import BadRequest
from gateway.protocol.json.types import Json, JsonMapping, JsonObject

MAX_DEPTH = 64
#: Values in one body. A value costs a hundred times its bytes: 31 MB of `[],` cost 0.9 GB and six seconds.
MAX_VALUES = 500_000
MAX_QUOTES = 400_000  # in a body whose separators may stand in its strings
MAX_NAME_LENGTH = 64  # of a client's key in an error text
#: Stands for a member that is to be removed.
ABSENT = object()
ESCAPED_ASCII = re.compile(rb"\\u00[5-7]")
#: The end of a key that stands apart from its colon. The pattern begins with the quote, which makes the search fast.
SPACED_COLON = re.compile(rb'"[ \t\r\n]+:')
ENDING_BACKSLASH = b'\\\\":'  # the end of a key whose last character is a backslash
NOT_SPACE = re.compile(rb"[^ \t\r\n]")
#: A large body is searched in slices, between which other threads run: one search of 31 MB holds the interpreter for
#: tens of milliseconds.
SLICE_BYTES = 256 * 1024


def parse_object(raw: bytes) -> JsonObject:
    """The JSON object in `raw`. Raises BadRequest (400) for anything else."""
    _check_size(raw)
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"The body is not valid JSON: {error.msg} (character {error.pos}).") from None
    if type(value) is not dict:
        raise BadRequest("The body must be a JSON object.")
    if _count_keys(value) != _count_colons(raw) or _has_odd_colon(raw):
        _refuse_duplicates(raw)
    return value


def parse_exact_object(raw: bytes) -> JsonObject:
    """The JSON object in `raw` for the database: fractions become Decimal, and text that PostgreSQL cannot store is
    refused by the name of its field. Raises BadRequest (400)."""
    _check_size(raw)
    try:
        value = json.loads(raw, parse_float=Decimal)
    except (ValueError, RecursionError, ArithmeticError):
        parse_object(raw)
        raise BadRequest("The body holds a number with too many digits.") from None
    if isinstance(value, dict) and not is_deeper(value, MAX_DEPTH):
        for name, member in value.items():
            _check_texts(name, member)
    parse_object(raw)
    exact: JsonObject = value
    return exact


def _check_size(raw: bytes) -> None:
    """Raises BadRequest for more values than MAX_VALUES, before they are built. Separators inside strings are text."""
    if len(raw) <= MAX_VALUES or _count_separators(raw) <= MAX_VALUES:
        return
    if _count(raw, b'"') > MAX_QUOTES or sum(map(_count_separators, _outside_strings(raw))) > MAX_VALUES:
        raise BadRequest(f"The body holds more than {MAX_VALUES:,} values.", code="body_too_complex")


def _count_separators(raw: bytes) -> int:
    return _count(raw, b",") + _count(raw, b"[") + _count(raw, b"{")


def _count(raw: bytes, part: bytes) -> int:
    """`raw.count(part)`, in slices; `part` must not overlap with itself."""
    if len(raw) <= SLICE_BYTES:
        return raw.count(part)
    last = SLICE_BYTES + len(part) - 1
    return sum(raw.count(part, start, start + last) for start in range(0, len(raw), SLICE_BYTES))


def _outside_strings(raw: bytes) -> Iterator[bytes]:
    """The bytes of a JSON text that stand outside its strings, by slices."""
    rest = b""  # a backslash at the end of a slice, which escapes the next byte
    is_inside = False
    for start in range(0, len(raw), SLICE_BYTES):
        plain = (rest + raw[start : start + SLICE_BYTES]).replace(b"\\\\", b"")
        rest = b"\\" if plain.endswith(b"\\") else b""
        parts = plain.removesuffix(b"\\").replace(b'\\"', b"").split(b'"')
        yield b"".join(parts[is_inside::2])
        is_inside ^= len(parts) % 2 == 0


def has_more_values(raw: bytes, *, containers: int, values: int) -> bool:
    """True where a JSON text holds more objects and arrays, or more values in all. It is searched before it is read."""
    if len(raw) <= containers:
        return False
    brackets = _count(raw, b"[") + _count(raw, b"{")
    if brackets <= containers and brackets + _count(raw, b",") <= values:
        return False
    brackets = commas = 0
    for part in _outside_strings(raw):
        brackets += part.count(b"[") + part.count(b"{")
        commas += part.count(b",")
    return brackets > containers or brackets + commas > values


def _check_texts(name: str, member: Json) -> None:
    param = name[:MAX_NAME_LENGTH].encode("utf-8", "replace").decode("utf-8").replace("\0", "")
    for text in _texts([name, member]):
        if "\0" in text:
            raise BadRequest(f"{param!r} must not contain a NUL character.", param=param)
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise BadRequest(f"{param!r} must not contain half a surrogate pair.", param=param) from None


def _texts(value: Json) -> Iterator[str]:
    """All keys and strings in `value`, at any depth."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from value
        yield from _texts(list(value.values()))
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def _count_colons(raw: bytes) -> int:
    """The colons that follow a quote which is not escaped."""
    return _count(raw, b'":') - (_count(raw, b'\\":') if b"\\" in raw else 0)


def _has_odd_colon(raw: bytes) -> bool:
    """True where counting colons does not count all keys. A colon inside a string may look like one of these."""
    if b"\\" in raw and _count(raw, ENDING_BACKSLASH):
        return True
    start = 0
    while start < len(raw):
        following = NOT_SPACE.search(raw, start + SLICE_BYTES)
        end = following.end() if following is not None else len(raw)
        if SPACED_COLON.search(raw, start, end):
            return True
        start = end - 1 if following is not None else end
    return False


def _count_keys(value: JsonObject) -> int:
    """All keys at any depth. Raises BadRequest beyond MAX_DEPTH."""
    keys = 0
    level: list[Json] = [value]
    for _ in range(MAX_DEPTH):
        below: list[Json] = []
        for node in level:
            if type(node) is dict:
                keys += len(node)
                children = node.values()
            else:
                children = node
            below += [child for child in children if type(child) is dict or type(child) is list]
        if not below:
            return keys
        level = below
    name = next(name for name, member in value.items() if is_deeper(member, MAX_DEPTH - 1))[:MAX_NAME_LENGTH]
    raise BadRequest(f"The body is nested deeper than {MAX_DEPTH} levels.", param=name)


def is_deeper(value: Json, levels: int) -> bool:
    """True where more than `levels` objects and arrays stand within each other."""
    level = [value] if type(value) is dict or type(value) is list else []
    for _ in range(levels):
        inside = (node.values() if type(node) is dict else node for node in level)
        level = [child for nodes in inside for child in nodes if type(child) is dict or type(child) is list]
        if not level:
            return False
    return bool(level)


def _refuse_duplicates(raw: bytes) -> None:
    """The exact check, for bodies where counting colons does not rule a duplicate out."""

    def build_unique(pairs: list[tuple[str, Json]]) -> JsonObject:
        members = dict(pairs)
        if len(members) != len(pairs):
            name = Counter(key for key, _ in pairs).most_common(1)[0][0][:MAX_NAME_LENGTH]
            raise BadRequest(f"The key {name!r} stands twice in one object.", param=name)
        return members

    json.loads(raw, object_pairs_hook=build_unique, parse_int=str, parse_float=str)


def replace_member(raw: bytes, name: str, value: Json, body: JsonMapping) -> bytes:
    """`raw` with the top-level member `name`, a string, a number or null, set to `value`; `body` is `raw`, parsed.

    Where the member's place in the bytes is certain it is replaced there, else the object is encoded anew.
    An unescaped `"name"` cannot stand inside a JSON string, so a single match at a key is the member itself,
    unless the key itself was written with escapes.
    """
    matches = _member_pattern(name).findall(raw)
    if len(matches) == 1 and name in body and not ESCAPED_ASCII.search(raw):
        return raw.replace(matches[0], b'"%s":%s' % (name.encode(), orjson.dumps(value)), 1)
    return edit_members(raw, {name: value})


def edit_members(raw: bytes, changes: JsonMapping) -> bytes:
    """`raw`, an object, encoded anew with `changes`; ABSENT removes a member. Numbers keep all their digits."""
    value = {**json.loads(raw), **changes}
    members = {name: member for name, member in value.items() if member is not ABSENT}
    return json.dumps(members, ensure_ascii=False, separators=(",", ":")).encode()


def add_members(raw: bytes, extra: JsonMapping) -> bytes:
    """`raw`, a JSON object that has none of the keys of `extra`, with these appended."""
    if not extra:
        return raw
    head = raw.rstrip()[:-1].rstrip()
    return head + (b"" if head.endswith(b"{") else b",") + orjson.dumps(extra)[1:]


@cache
def _member_pattern(name: str) -> re.Pattern[bytes]:
    return re.compile(rb'"%s"\s*:\s*(?:"(?:[^"\\]|\\.)*"|null|-?[0-9][0-9.eE+-]*)' % name.encode())
