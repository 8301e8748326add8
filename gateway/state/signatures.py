"""What providers want back with tool calls, in memory: bounded by number, size and age. See protocol/remembering.py."""

import time
from collections import OrderedDict

from gateway.protocol.reasoning_replay import Kept

MAX_KEPT = 20_000
MAX_BYTES = 32 * 1024 * 1024
MAX_AGE_S = 24 * 3600


class SignatureMemory:
    """Memory of one process. The oldest goes first."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str], tuple[Kept, float]] = OrderedDict()
        self._bytes = 0

    def get(self, tenant: str, tool_call_id: str) -> Kept | None:
        found = self._kept.get((tenant, tool_call_id))
        if found is None or found[1] + MAX_AGE_S < time.monotonic():
            return None
        return found[0]

    def put(self, tenant: str, tool_call_id: str, kept: Kept) -> None:
        if kept.size_bytes > MAX_BYTES // 100:
            return
        before = self._kept.pop((tenant, tool_call_id), None)
        self._bytes += kept.size_bytes - (before[0].size_bytes if before else 0)
        self._kept[(tenant, tool_call_id)] = (kept, time.monotonic())
        while len(self._kept) > MAX_KEPT or self._bytes > MAX_BYTES:
            _, (oldest, _) = self._kept.popitem(last=False)
            self._bytes -= oldest.size_bytes
