"""AnswerStore: the port behind the response cache. Cached answers are bytes here, and none of them is needed.

All stores bound their contents alike: an entry counts its bytes and ENTRY_OVERHEAD_BYTES. Where there is no room for a
new one, the oldest entries go: those of its own owner where that has more than SHARE of the room, else those of all. So
one tenant's flood displaces its own entries.
"""

from typing import Protocol

ENTRY_OVERHEAD_BYTES = 1024
SHARE = 4  # one part in so many


class AnswerStore(Protocol):
    """Does not raise: an answer that cannot be read is none, and one that cannot be written is lost."""

    async def get(self, key: str, max_bytes: int) -> bytes | None:
        """None for one that is unknown, expired, or larger."""

    async def put(self, key: str, value: bytes, *, owner: str, ttl_s: float) -> None:
        """Replaces what the key has. A value that is larger than the room is not kept."""


class NoAnswerStore:
    """The store of a gateway without a response cache."""

    async def get(self, key: str, max_bytes: int) -> bytes | None:
        return None

    async def put(self, key: str, value: bytes, *, owner: str, ttl_s: float) -> None:
        return
