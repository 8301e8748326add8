"""Strict JSON: what a client may send as a body, and edits of the bytes that spare a full re-encode.

Stricter than RFC 8259 where a lenient reading would let two parsers disagree: duplicate keys, NaN, infinities,
lone surrogates, byte order marks and other encodings than UTF-8 are refused, and nesting is bounded.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import orjson

from gateway.protocol.errors import BadRequest
from gateway.protocol.json.types import JsonObject

MAX_DEPTH = 64
#: Stands for a member that is to be removed.
ABSENT = object()
ESCAPED_ASCII = re.compile(rb"\\u00[5-7]")
#: A key that stands apart from its colon, or ends in a backslash. It begins with the quote: that is searched fast.
SPACED_COLON = re.compile(rb'"(?:[ \t\r\n]+:|(?<=\\\\"):)')


def parse_object(raw: bytes) -> JsonObject:
    """The JSON object in `raw`. Raises BadRequest (400) for anything else."""
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"The body is not valid JSON: {error.msg} (character {error.pos}).") from None
    if type(value) is not dict:
        raise BadRequest("The body must be a JSON object.")
    if _count_keys(value) != _count_colons(raw) or SPACED_COLON.search(raw):
        _refuse_duplicates(raw)
    return value


def _count_colons(raw: bytes) -> int:
    """Those that stand at a quote which is not escaped."""
    return raw.count(b'":') - (raw.count(b'\\":') if b"\\" in raw else 0)


def _count_keys(value: JsonObject) -> int:
    """All keys at any depth. Raises BadRequest beyond MAX_DEPTH."""
    keys = 0
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for node in level:
            if type(node) is dict:
                keys += len(node)
                node = node.values()  # noqa: PLW2901 - the one difference between the two containers
            below += [child for child in node if type(child) is dict or type(child) is list]
        if not below:
            return keys
        level = below
    raise BadRequest(f"The body is nested deeper than {MAX_DEPTH} levels.")


def _refuse_duplicates(raw: bytes) -> None:
    """The exact check, taken where counting colons could not rule a duplicate out."""

    def unique(pairs: list[tuple[str, Any]]) -> JsonObject:
        found = dict(pairs)
        if len(found) != len(pairs):
            name = Counter(key for key, _ in pairs).most_common(1)[0][0][:64]
            raise BadRequest(f"The key {name!r} stands twice in one object.", param=name)
        return found

    json.loads(raw, object_pairs_hook=unique, parse_int=str, parse_float=str)


def replace_member(raw: bytes, name: str, value: Any, body: Mapping[str, Any]) -> bytes:
    """`raw` with the top-level string member `name` set to `value`; `body` is `raw`, parsed.

    Where the member's place in the bytes is certain it is replaced there, else the object is encoded anew.
    An unescaped `"name"` cannot stand inside a JSON string, so a single match at a key is the member itself,
    unless the key itself was written with escapes.
    """
    found = _member(name).findall(raw)
    if len(found) == 1 and name in body and not ESCAPED_ASCII.search(raw):
        return raw.replace(found[0], b'"%s":%s' % (name.encode(), orjson.dumps(value)), 1)
    return edit_members(raw, {name: value})


def edit_members(raw: bytes, changes: Mapping[str, Any]) -> bytes:
    """`raw`, an object, encoded anew with `changes`; ABSENT removes a member. Numbers keep all their digits."""
    value = {**json.loads(raw), **changes}
    kept = {name: member for name, member in value.items() if member is not ABSENT}
    return json.dumps(kept, ensure_ascii=False, separators=(",", ":")).encode()


def add_members(raw: bytes, extra: Mapping[str, Any]) -> bytes:
    """`raw`, a JSON object that has none of the keys of `extra`, with these appended."""
    if not extra:
        return raw
    head = raw.rstrip()[:-1].rstrip()
    return head + (b"" if head.endswith(b"{") else b",") + orjson.dumps(extra)[1:]


def _member(name: str, patterns: dict[str, re.Pattern[bytes]] = {}) -> re.Pattern[bytes]:  # noqa: B006 - a memo
    pattern = patterns.get(name)
    if pattern is None:
        pattern = patterns[name] = re.compile(rb'"%s"\s*:\s*(?:"(?:[^"\\]|\\.)*"|null)' % name.encode())
    return pattern
