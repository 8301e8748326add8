"""AttemptTimer: one timer for every time limit of an attempt.

It ends a wait for the upstream that is too long, sends keep-alive comments while a stream is silent, and ends the call
of a client that has stopped reading.
"""

import asyncio
from collections.abc import Callable, Coroutine

from gateway.pipeline.ports import ClientStalled
from gateway.protocol.errors import UpstreamFault

COMMENT = b": keep-alive\n\n"


class AttemptTimer:
    """Rules: a comment is sent only between two events, while no event is being sent, once the client has got nothing
    for `keepalive_s`, whatever the upstream sends; time in which the client is being written to counts against the
    client, all other time against the upstream.

    A limit that is reached cancels the task; `expired` is then the reason.
    """

    __slots__ = (
        "_busy_at",
        "_comment",
        "_deadline",
        "_delivered_at",
        "_heard_at",
        "_keepalive_s",
        "_limit_s",
        "_loop",
        "_sending",
        "_stalled_s",
        "_task",
        "_timer",
        "expired",
    )

    def __init__(
        self,
        *,
        limit_s: float,
        keepalive_s: float,
        stalled_s: float,
        total_s: float,
        comment: Callable[[], Coroutine[object, None, None]] | None,
    ) -> None:
        """`limit_s`: to the upstream's first word; `total_s`: to the end of a stream; `comment`: sends one, None where
        there is no stream."""
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._loop = task.get_loop()
        self._comment = comment
        self._limit_s = limit_s
        self._keepalive_s = keepalive_s if comment is not None else float("inf")
        self._stalled_s = stalled_s if comment is not None else float("inf")
        self._heard_at = self._delivered_at = self._loop.time()
        self._deadline = self._heard_at + (total_s if comment is not None else float("inf"))
        self._busy_at: float | None = None
        self._sending: asyncio.Task[None] | None = None
        self.expired: UpstreamFault | ClientStalled | None = None
        self._timer = self._loop.call_later(min(limit_s, self._keepalive_s, self._stalled_s, total_s), self._tick)

    def limit(self, limit_s: float) -> None:
        """From now on no silence of the upstream may be longer than this."""
        self.heard()
        self._limit_s = limit_s
        if limit_s < self._keepalive_s:
            self._timer.cancel()
            self._timer = self._loop.call_later(limit_s, self._tick)

    def busy(self) -> None:
        """Something is being sent to the client."""
        self._busy_at = self._loop.time()

    def heard(self) -> None:
        """The upstream has sent something, and the events that it completes are with the client."""
        self._heard_at = self._loop.time()
        if self._busy_at is not None:
            self._busy_at = None
            self._delivered_at = self._heard_at

    def stop(self) -> None:
        self._timer.cancel()
        if self._sending is not None:
            self._sending.cancel()

    def take_cause(self, error: BaseException) -> BaseException:
        """The reason for an error: a limit that was reached appears as the task's cancellation. The timer forgets it,
        because a raised reason refers to the frame that holds the timer."""
        expired, self.expired = self.expired, None
        if expired is None or not isinstance(error, asyncio.CancelledError):
            return error
        if self._task.uncancel() > 0:  # the edge has cancelled the task too: the client has gone
            return error
        return expired

    def _tick(self) -> None:
        now = self._loop.time()
        if self._busy_at is not None:
            left_s = min(self._busy_at + self._stalled_s, self._deadline) - now
            if left_s <= 0:
                self.expired = ClientStalled()
                self._task.cancel()
            else:
                self._again(min(left_s, self._keepalive_s))
            return
        silence_s = now - self._heard_at
        if silence_s >= self._limit_s or now >= self._deadline:
            self.expired = timed_out() if silence_s >= self._limit_s else stream_too_long()
            self._task.cancel()
            return
        left_s = self._delivered_at + self._keepalive_s - now
        if left_s <= 0:
            left_s = self._keepalive_s
            if self._comment is not None and (self._sending is None or self._sending.done()):
                self._delivered_at = now
                self._sending = self._loop.create_task(self._comment())
        self._again(min(left_s, self._limit_s - silence_s, self._stalled_s, self._deadline - now))

    def _again(self, delay_s: float) -> None:
        self._timer = self._loop.call_later(max(delay_s, 0.01), self._tick)


def timed_out() -> UpstreamFault:
    return UpstreamFault(
        "The upstream did not answer in time.",
        status=504,
        code="upstream_timeout",
        finish="timeout",
        is_retryable=True,
    )


def stream_too_long() -> UpstreamFault:
    return UpstreamFault(
        "The upstream's stream did not end in time.", status=504, code="upstream_stream_timeout", finish="timeout"
    )
