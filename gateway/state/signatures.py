"""The parts that providers expect back with tool calls, in memory, bounded by number, size and age. See
protocol/reasoning_replay.py."""

import threading
import time
from collections import OrderedDict

from gateway.protocol.reasoning_replay import MAX_CALL_BYTES, CallReasoning

MAX_KEPT = 20_000
MAX_BYTES = 32 * 1024 * 1024
MAX_AGE_S = 24 * 3600


class SignatureMemory:
    """The memory of one process, for all its threads. The oldest entry is dropped first."""

    def __init__(self) -> None:
        self._entries: OrderedDict[tuple[str, str], tuple[CallReasoning, float]] = OrderedDict()
        self.size_bytes = 0
        self._lock = threading.Lock()

    def get(self, tenant: str, tool_call_id: str) -> CallReasoning | None:
        value, stored_at = self._entries.get((tenant, tool_call_id), (None, 0.0))
        return value if stored_at + MAX_AGE_S >= time.monotonic() else None

    def put(self, tenant: str, tool_call_id: str, kept: CallReasoning) -> None:
        if kept.size_bytes > MAX_CALL_BYTES:
            return
        with self._lock:
            before = self._entries.pop((tenant, tool_call_id), None)
            self.size_bytes += kept.size_bytes - (before[0].size_bytes if before else 0)
            self._entries[(tenant, tool_call_id)] = (kept, time.monotonic())
            while len(self._entries) > MAX_KEPT or self.size_bytes > MAX_BYTES:
                _, (oldest, _) = self._entries.popitem(last=False)
                self.size_bytes -= oldest.size_bytes
