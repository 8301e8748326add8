"""Ids of a response and its items. They share one random part, so that an item's id names its response."""

import re

ITEM = re.compile(r"[a-z]{1,8}_([0-9a-f]{48})[0-9a-f]{4,8}")


class Ids:
    """Makes the ids of one response. `token`: 24 bytes in hex, most of them random."""

    __slots__ = ("_count", "token")

    def __init__(self, token: str) -> None:
        self.token = token
        self._count = 0

    @property
    def response_id(self) -> str:
        return f"resp_{self.token}"

    def __call__(self, prefix: str) -> str:
        """A new id: the prefix (`msg_`), the token, and a number."""
        self._count += 1
        return f"{prefix}{self.token}{self._count:04x}"


def response_of(item_id: str) -> str:
    """The id of the response that an item belongs to; empty for an id of another form."""
    match = ITEM.fullmatch(item_id)
    return f"resp_{match.group(1)}" if match else ""
