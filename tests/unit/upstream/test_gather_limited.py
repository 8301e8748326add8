"""Together: so many at once and no more, results in order, and the first failure ends all."""

import asyncio

import pytest

from gateway.upstream.gather_limited import gather_limited
from tests.fakes.memory import play


def test_results_stand_in_the_order_of_what_was_asked() -> None:
    async def take(seconds: float) -> float:
        await asyncio.sleep(seconds)
        return seconds

    assert play(gather_limited(take, [3.0, 1.0, 2.0], limit=2)) == [3.0, 1.0, 2.0]


def test_nothing_is_nothing() -> None:
    async def never(_: int) -> int:
        raise AssertionError

    assert play(gather_limited(never, [], limit=2)) == []


@pytest.mark.parametrize(("at_once", "most"), [(1, 1), (3, 3), (8, 5)])
def test_no_more_than_so_many_wait_at_once(at_once: int, most: int) -> None:
    waiting: set[int] = set()
    seen: list[int] = []

    async def wait(number: int) -> None:
        waiting.add(number)
        seen.append(len(waiting))
        await asyncio.sleep(1)
        waiting.remove(number)

    play(gather_limited(wait, range(5), limit=at_once))
    assert max(seen) == most


def test_the_first_failure_is_raised_when_all_others_have_ended() -> None:
    ended: list[tuple[int, str]] = []

    async def work(number: int) -> None:
        try:
            await asyncio.sleep(2 if number != 3 else 1)
            if number == 3:
                raise ValueError("three")
        except asyncio.CancelledError:
            ended.append((number, "cancelled"))
            raise

    async def story() -> list[tuple[int, str]]:
        with pytest.raises(ValueError, match="three"):
            await gather_limited(work, range(9), limit=4)
        return list(ended)

    assert play(story()) == [(0, "cancelled"), (1, "cancelled"), (2, "cancelled")]


def test_of_failures_in_one_moment_the_first_in_order_is_raised() -> None:
    async def fail(number: int) -> None:
        await asyncio.sleep(1)
        raise ValueError(str(number))

    async def story() -> None:
        with pytest.raises(ValueError, match=r"^0$"):
            await gather_limited(fail, range(5), limit=5)

    play(story())


def test_cancelling_the_wait_cancels_what_is_waited_for() -> None:
    cancelled: list[int] = []

    async def work(number: int) -> None:
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            cancelled.append(number)
            raise

    async def story() -> None:
        task = asyncio.create_task(gather_limited(work, range(3), limit=2))
        asyncio.get_running_loop().call_later(1, task.cancel)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert cancelled == [0, 1]

    play(story())
