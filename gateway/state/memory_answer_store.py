"""The cached answers of one process."""

import heapq
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from gateway.state.answer_store import ENTRY_OVERHEAD_BYTES, SHARE

#: The queue of expiries is rebuilt when it is so many times as long as there are entries.
MOST_STALE = 2
LEAST_REBUILT = 64
#: Expired answers that one step drops: all of them at once would hold the event loop after a pause.
MOST_DROPPED = 64


@dataclass(frozen=True, slots=True)
class _Entry:
    value: bytes
    owner: str
    expires_at: float

    @property
    def size(self) -> int:
        return len(self.value) + ENTRY_OVERHEAD_BYTES


class MemoryAnswerStore:
    """AnswerStore of one process; `max_bytes` bounds all entries together."""

    def __init__(self, max_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_bytes = max_bytes
        self._clock = clock
        self._entries: dict[str, _Entry] = {}  # the oldest first
        self._by_owner: defaultdict[str, dict[str, None]] = defaultdict(dict)
        self._sizes: defaultdict[str, int] = defaultdict(int)
        self._size = 0
        self._expiries: list[tuple[float, str]] = []

    async def get(self, key: str, max_bytes: int) -> bytes | None:
        self._drop_expired()
        entry = self._entries.get(key)
        if entry is None or entry.expires_at <= self._clock():
            return None
        return entry.value if len(entry.value) <= max_bytes else None

    async def put(self, key: str, value: bytes, *, owner: str, ttl_s: float) -> None:
        self._drop_expired()
        self._drop(key)
        entry = _Entry(value, owner, self._clock() + ttl_s)
        if entry.size > self._max_bytes:
            return
        while self._size + entry.size > self._max_bytes:
            has_more_than_share = (self._sizes[owner] + entry.size) * SHARE > self._max_bytes
            oldest = self._by_owner[owner] if has_more_than_share else self._entries
            self._drop(next(iter(oldest or self._entries)))
        self._entries[key] = entry
        self._by_owner[owner][key] = None
        self._sizes[owner] += entry.size
        self._size += entry.size
        self._note_expiry(entry.expires_at, key)

    def _note_expiry(self, expires_at: float, key: str) -> None:
        heapq.heappush(self._expiries, (expires_at, key))
        if len(self._expiries) > MOST_STALE * len(self._entries) + LEAST_REBUILT:
            self._expiries = [(entry.expires_at, key) for key, entry in self._entries.items()]
            heapq.heapify(self._expiries)

    def _drop_expired(self) -> None:
        now = self._clock()
        for _ in range(MOST_DROPPED):
            if not self._expiries or self._expiries[0][0] > now:
                return
            expires_at, key = heapq.heappop(self._expiries)
            entry = self._entries.get(key)
            if entry is not None and entry.expires_at == expires_at:
                self._drop(key)

    def _drop(self, key: str) -> None:
        entry = self._entries.pop(key, None)
        if entry is None:
            return
        self._size -= entry.size
        self._sizes[entry.owner] -= entry.size
        del self._by_owner[entry.owner][key]
        if not self._by_owner[entry.owner]:
            del self._by_owner[entry.owner], self._sizes[entry.owner]
