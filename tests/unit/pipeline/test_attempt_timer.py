"""Pulse: comments while a stream is silent, an end to a silence that is too long, and to clients that stop reading."""

import asyncio
from collections.abc import Callable

import pytest

from gateway.pipeline.attempt_timer import AttemptTimer
from gateway.pipeline.ports import ClientStalled
from gateway.pipeline.time_limits import AttemptLimits
from gateway.protocol.errors import DeadlineExceeded, UpstreamFault
from tests.fakes.memory import play

INFINITE = float("inf")


async def watched(
    act: Callable[[AttemptTimer], object],
    *,
    until_s: float = 1000,
    comment_takes_s: float = 0,
    has_stream: bool = True,
    keepalive_s: float = 15.0,
    stalled_s: float = 120.0,
    **limits: float,
) -> tuple[AttemptTimer, list[float], float]:
    """(pulse, when comments were begun, when the task was cancelled); `act` is called at once."""
    loop = asyncio.get_running_loop()
    comments: list[float] = []

    async def comment() -> None:
        comments.append(loop.time())
        await asyncio.sleep(comment_takes_s)

    async def work() -> AttemptTimer:
        timer = timers[0] = AttemptTimer(
            limits=AttemptLimits(**({"first_s": INFINITE} | limits)),
            keepalive_s=keepalive_s,
            stalled_s=stalled_s,
            comment=comment if has_stream else None,
        )
        act(timer)
        await asyncio.sleep(until_s)
        return timer

    timers: list[AttemptTimer] = [None]  # type: ignore[list-item]
    task = asyncio.create_task(work())
    await asyncio.wait([task])
    ended_at = loop.time()
    timers[0].stop()
    await asyncio.sleep(50)
    return timers[0], comments, ended_at


def nothing(timer: AttemptTimer) -> None:
    pass


def test_a_silence_gets_a_comment_at_each_interval_until_it_is_ended() -> None:
    timer, comments, ended_at = play(watched(nothing, first_s=50))
    assert comments == pytest.approx([15, 30, 45])
    assert ended_at == pytest.approx(50)
    assert timer.expired is not None
    assert (timer.expired.status, timer.expired.finish) == (504, "timeout")


def test_no_comment_is_sent_where_there_is_no_stream() -> None:
    _, comments, ended_at = play(watched(nothing, first_s=50, has_stream=False))
    assert (comments, ended_at) == ([], pytest.approx(50))


def test_a_limit_below_the_interval_holds() -> None:
    _, comments, ended_at = play(watched(lambda timer: timer.begin_answer(), first_s=600, idle_s=4))
    assert (comments, ended_at) == ([], pytest.approx(4))


def begin_at_ten(timer: AttemptTimer) -> None:
    asyncio.get_running_loop().call_later(10, timer.begin_answer)


def test_the_silence_of_an_answer_counts_from_its_head() -> None:
    _, _, ended_at = play(watched(begin_at_ten, first_s=60, idle_s=20))
    assert ended_at == pytest.approx(30)


def test_an_answer_without_an_event_has_no_more_time_than_one_without_a_head() -> None:
    _, _, ended_at = play(watched(begin_at_ten, first_s=12, idle_s=20))
    assert ended_at == pytest.approx(12)


@pytest.mark.parametrize(
    ("limits", "ended_at_s", "kind", "code"),
    [
        ({"first_s": 9}, 9, UpstreamFault, "upstream_timeout"),
        ({"first_s": 9, "is_first_clients": True}, 9, DeadlineExceeded, "deadline_exceeded"),
        ({"total_s": 9}, 9, UpstreamFault, "upstream_stream_timeout"),
        ({"total_s": 9, "is_total_clients": True}, 9, DeadlineExceeded, "deadline_exceeded"),
        ({"first_s": -1, "is_first_clients": True}, 0.01, DeadlineExceeded, "deadline_exceeded"),
    ],
)
def test_the_fault_says_whose_limit_was_reached(
    limits: dict[str, float], ended_at_s: float, kind: type[UpstreamFault], code: str
) -> None:
    timer, _, ended_at = play(watched(nothing, **limits))
    assert ended_at == pytest.approx(ended_at_s, abs=0.02)
    assert type(timer.expired) is kind
    assert (timer.expired.status, timer.expired.code, timer.expired.finish) == (504, code, "timeout")


def test_each_event_postpones_the_comment_and_the_end() -> None:
    def relay(timer: AttemptTimer) -> None:
        timer.begin_answer()
        timer.busy()
        timer.heard()

    def every_ten_seconds(timer: AttemptTimer) -> None:
        loop = asyncio.get_running_loop()
        for number in range(1, 11):
            loop.call_later(number * 10, relay, timer)

    _, comments, ended_at = play(watched(every_ten_seconds, first_s=20, idle_s=20))
    assert ended_at == pytest.approx(120)
    assert comments == pytest.approx([115])


def drip(timer: AttemptTimer) -> None:
    """The upstream sends a byte a second, never a whole event."""
    timer.begin_answer()
    for second in range(1, 1000):
        asyncio.get_running_loop().call_later(second, timer.heard)


def test_an_upstream_that_drips_does_not_silence_the_comments() -> None:
    _, comments, _ = play(watched(drip, until_s=100, idle_s=4))
    assert comments == pytest.approx([15, 30, 45, 60, 75, 90])


def test_a_stream_has_a_total_limit_however_much_the_upstream_sends() -> None:
    timer, _, ended_at = play(watched(drip, idle_s=4, total_s=100))
    assert ended_at == pytest.approx(100)
    assert timer.expired is not None
    assert (timer.expired.status, timer.expired.finish) == (504, "timeout")


def test_a_client_that_reads_slowly_does_not_outlast_the_total_limit() -> None:
    timer, _, ended_at = play(watched(lambda timer: timer.busy(), first_s=30, total_s=50))
    assert isinstance(timer.expired, ClientStalled)
    assert ended_at == pytest.approx(50)


def test_an_upstream_that_drips_and_completes_no_event_is_ended_like_a_silent_one() -> None:
    _, _, ended_at = play(watched(drip, idle_s=4, first_s=30, total_s=100))
    assert ended_at == pytest.approx(30)


def test_a_comment_that_is_still_being_sent_is_not_sent_twice() -> None:
    _, comments, _ = play(watched(nothing, until_s=100, comment_takes_s=70))
    assert comments == pytest.approx([15, 90])


def test_time_in_which_the_client_is_written_to_counts_against_the_client() -> None:
    timer, comments, ended_at = play(watched(lambda timer: timer.busy(), first_s=30, stalled_s=100))
    assert comments == []
    assert isinstance(timer.expired, ClientStalled)
    assert ended_at == pytest.approx(100)


def test_a_stopped_pulse_does_nothing_more() -> None:
    _, comments, ended_at = play(watched(lambda timer: timer.stop(), until_s=300, first_s=30))
    assert (comments, ended_at) == ([], pytest.approx(300))


def test_stopping_ends_a_comment_under_way() -> None:
    async def story() -> bool:
        was_cancelled = False

        async def comment() -> None:
            nonlocal was_cancelled
            try:
                await asyncio.sleep(1e6)
            except asyncio.CancelledError:
                was_cancelled = True

        timer = AttemptTimer(limits=AttemptLimits(1e9), keepalive_s=1, stalled_s=1, comment=comment)
        await asyncio.sleep(2)
        timer.stop()
        await asyncio.sleep(0)
        return was_cancelled

    assert play(story())
