"""AttemptTimer: one timer for every time limit of an attempt.

It ends a wait for the upstream that is too long, sends keep-alive comments while a stream is silent, and ends the call
of a client that has stopped reading.
"""

import asyncio
from collections.abc import Callable, Coroutine
from math import inf

from gateway.pipeline.ports import ClientStalled
from gateway.pipeline.time_limits import AttemptLimits
from gateway.protocol.errors import DeadlineExceeded, UpstreamFault

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
        "_delivered_at",
        "_end_by",
        "_first_by",
        "_heard_at",
        "_idle_s",
        "_keepalive_s",
        "_limits",
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
        limits: AttemptLimits,
        keepalive_s: float,
        stalled_s: float,
        comment: Callable[[], Coroutine[object, None, None]] | None,
    ) -> None:
        """`comment`: sends one, None where there is no stream."""
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._loop = task.get_loop()
        self._comment = comment
        self._limits = limits
        self._idle_s = inf  # no silence may be longer
        self._keepalive_s = keepalive_s if comment is not None else inf
        self._stalled_s = stalled_s if comment is not None else inf
        self._heard_at = self._delivered_at = self._loop.time()
        self._first_by = self._heard_at + limits.first_s
        self._end_by = self._heard_at + limits.total_s
        self._busy_at: float | None = None
        self._sending: asyncio.Task[None] | None = None
        self.expired: UpstreamFault | ClientStalled | None = None
        self._timer = self._loop.call_later(
            max(min(limits.first_s, self._keepalive_s, self._stalled_s, limits.total_s), 0), self._tick
        )

    def begin_answer(self) -> None:
        """The head of a stream is there: from now on its silence is limited."""
        self.heard()
        self._idle_s = self._limits.idle_s
        if self._idle_s < self._keepalive_s:
            self._timer.cancel()
            self._timer = self._loop.call_later(self._idle_s, self._tick)

    def busy(self) -> None:
        """Events are being sent to the client."""
        self._busy_at = self._loop.time()
        self._first_by = inf

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
            left_s = min(self._busy_at + self._stalled_s, self._end_by) - now
            if left_s <= 0:
                self.expired = ClientStalled()
                self._task.cancel()
            else:
                self._again(min(left_s, self._keepalive_s))
            return
        silence_s = now - self._heard_at
        self.expired = self._find_expired(now, silence_s)
        if self.expired is not None:
            self._task.cancel()
            return
        left_s = self._delivered_at + self._keepalive_s - now
        if left_s <= 0:
            left_s = self._keepalive_s
            if self._comment is not None and (self._sending is None or self._sending.done()):
                self._delivered_at = now
                self._sending = self._loop.create_task(self._comment())
        self._again(min(left_s, self._idle_s - silence_s, self._stalled_s, self._first_by - now, self._end_by - now))

    def _find_expired(self, now: float, silence_s: float) -> UpstreamFault | None:
        """The limit that is reached."""
        limits = self._limits
        if now >= self._first_by:
            return DeadlineExceeded() if limits.is_first_clients else timed_out()
        if silence_s >= self._idle_s:
            return timed_out()
        if now >= self._end_by:
            return DeadlineExceeded() if limits.is_total_clients else stream_too_long()
        return None

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
