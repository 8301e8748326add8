"""Pulse: one timer a stream. Sends keep-alive comments while the upstream is silent, ends a silence that is too long,
and gives up on a client that has stopped reading."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from gateway.protocol.errors import UpstreamFault

COMMENT = b": keep-alive\n\n"


class Pulse:
    """Rule: a comment is sent only between two events, while nobody else is sending."""

    __slots__ = (
        "_busy_at",
        "_comment",
        "_heard_at",
        "_idle_s",
        "_keepalive_s",
        "_loop",
        "_on_idle",
        "_on_stalled",
        "_sending",
        "_stalled_s",
        "_timer",
        "is_expired",
    )

    def __init__(
        self,
        *,
        comment: Callable[[], Coroutine[Any, Any, None]],
        on_stalled: Callable[[], object],
        keepalive_s: float,
        stalled_s: float,
    ) -> None:
        self._comment = comment
        self._on_stalled = on_stalled
        self._keepalive_s = keepalive_s
        self._stalled_s = stalled_s
        self._on_idle: Callable[[], object] | None = None
        self._idle_s = float("inf")
        self._loop = asyncio.get_running_loop()
        self._heard_at = self._loop.time()
        self._busy_at: float | None = None
        self._sending: asyncio.Task[None] | None = None
        self.is_expired = False
        self._timer = self._loop.call_later(min(keepalive_s, stalled_s), self._tick)

    def watch(self, on_idle: Callable[[], object], *, idle_s: float) -> None:
        """From now on a silence of `idle_s` calls `on_idle`."""
        self._on_idle = on_idle
        self._idle_s = idle_s
        self.heard()
        if idle_s < self._keepalive_s:
            self._timer.cancel()
            self._timer = self._loop.call_later(idle_s, self._tick)

    def busy(self) -> None:
        """Something is being sent to the client: its slowness is not the upstream's silence."""
        self._busy_at = self._loop.time()

    def heard(self) -> None:
        """The upstream has sent something, and it is with the client."""
        self._busy_at = None
        self._heard_at = self._loop.time()

    def stop(self) -> None:
        self._timer.cancel()
        if self._sending is not None:
            self._sending.cancel()

    def fault(self) -> UpstreamFault:
        return UpstreamFault("The upstream stopped sending.", status=504, code="upstream_timeout", finish="timeout")

    def _tick(self) -> None:
        now = self._loop.time()
        if self._busy_at is not None:
            left_s = self._busy_at + self._stalled_s - now
            if left_s <= 0:
                self._on_stalled()
                return
            self._again(min(left_s, self._keepalive_s))
            return
        silence = now - self._heard_at
        if silence >= self._idle_s and self._on_idle is not None:
            self.is_expired = True
            self._on_idle()
            return
        if silence >= self._keepalive_s and (self._sending is None or self._sending.done()):
            self._sending = self._loop.create_task(self._comment())
        left_s = self._keepalive_s - silence
        self._again(min(left_s if left_s > 0 else self._keepalive_s, self._idle_s - silence))

    def _again(self, delay_s: float) -> None:
        self._timer = self._loop.call_later(max(delay_s, 0.01), self._tick)
