"""The members of a large request body, which need not stay in memory while an upstream answers."""

from collections.abc import Iterator, Mapping

import orjson

from gateway.protocol.json.types import Json, JsonMapping, JsonObject

LARGE_BYTES = 1024 * 1024
SHORT_CHARACTERS = 256


class LargeBody(Mapping[str, Json]):
    """The parsed `raw`. `release` drops the members that may be large; the next reader of one parses `raw` again."""

    __slots__ = ("_members", "_names", "_raw")

    def __init__(self, raw: bytes, members: JsonObject) -> None:
        self._raw = raw
        self._members = members
        self._names = dict.fromkeys(members)

    def release(self) -> None:
        self._members = {
            name: value
            for name, value in self._members.items()
            if not isinstance(value, dict | list) and not (isinstance(value, str) and len(value) > SHORT_CHARACTERS)
        }

    def __getitem__(self, name: str) -> Json:
        members = self._members  # a second attempt may release them meanwhile, in another thread
        if name not in members and name in self._names:
            members = self._members = orjson.loads(self._raw)
        return members[name]

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def body_of(raw: bytes, members: JsonObject) -> JsonMapping:
    """`members`, which are the parsed `raw`, such that they can be released where `raw` is large."""
    return LargeBody(raw, members) if len(raw) >= LARGE_BYTES else members
