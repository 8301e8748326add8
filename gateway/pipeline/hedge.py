"""Race: two attempts of one request at once, the second begun while the first is silent for longer than usual.

The first that has something for the client wins. The other one is cancelled, and its row is closed before the winner's
last byte leaves. Source: Dean and Barroso, "The Tail at Scale" (https://doi.org/10.1145/2408776.2408794).
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import TypeAlias

from gateway.pipeline.ports import Attempt
from gateway.protocol.errors import UpstreamFault


class Lane:
    """One of the attempts. `attempt` is None until it is made."""

    __slots__ = ("_race", "attempt", "is_ending", "task")

    def __init__(self, race: "Race") -> None:
        self._race = race
        self.attempt: Attempt | None = None
        self.is_ending = False  # its row is being closed
        self.task: asyncio.Task[None] | None = None

    def claim(self) -> None:
        """Before anything is sent to the client, and before the row of an answer is closed. Raises CancelledError where
        another one has won."""
        self._race.decide(self)

    async def wait_for_others(self) -> None:
        """Returns when the others have closed their rows."""
        await self._race.wait_for_others(self)


#: Makes an attempt; one that returns without a claim was not begun.
Runner: TypeAlias = Callable[[Lane], Coroutine[None, None, None]]


class Race:
    """`winner` is None until a lane has claimed."""

    __slots__ = ("_decided", "_lanes", "_last", "winner")

    def __init__(self) -> None:
        self._lanes: list[Lane] = []
        self._decided: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.winner: Lane | None = None
        self._last: Lane | None = None

    async def run(self, first: Runner, second: Runner, *, after_s: float) -> None:
        """Raises what ends the winner; without one, the last upstream's fault. Whatever happens, all lanes have ended
        then."""
        try:
            lane = self._begin(first)
            await asyncio.wait(_tasks([lane]) | {self._decided}, timeout=after_s, return_when=asyncio.FIRST_COMPLETED)
            if self.winner is None and lane.task is not None and not lane.task.done():
                self._begin(second)
            await self._wait_for_end()
        finally:
            await self._end()

    def decide(self, lane: Lane) -> None:
        if self.winner is None:
            self.winner = lane
            if not self._decided.done():
                self._decided.set_result(None)
            for other in self._lanes:
                if other is not lane:
                    _stop(other)
        elif self.winner is not lane:
            raise asyncio.CancelledError

    async def wait_for_others(self, lane: Lane) -> None:
        others = _tasks([other for other in self._lanes if other is not lane])
        if others:
            await asyncio.wait(others)

    def _begin(self, runner: Runner) -> Lane:
        lane = Lane(self)
        lane.task = asyncio.create_task(runner(lane))
        self._lanes.append(lane)
        return lane

    def take_last(self) -> Lane | None:
        """The lane whose end was that of the race. The race forgets it."""
        last, self._last = self._last, None
        return last

    async def _wait_for_end(self) -> None:
        running = list(self._lanes)
        while running:
            await asyncio.wait(_tasks(running), return_when=asyncio.FIRST_COMPLETED)
            for lane in [lane for lane in running if lane.task is None or lane.task.done()]:
                running.remove(lane)
                self._note_end(lane)
            if self.winner is not None and self.winner not in running:
                break
        if self._last is not None and self._last.task is not None:
            self._last.task.result()

    def _note_end(self, lane: Lane) -> None:
        if self._last is None or self._rank(lane) >= self._rank(self._last):
            self._last = lane

    def _rank(self, lane: Lane) -> int:
        """The winner's end is that of the race; without one an upstream's fault stands before another error."""
        if lane is self.winner:
            return 3
        if lane.task is None or lane.task.cancelled():
            return 1
        error = lane.task.exception()
        return 2 if isinstance(error, UpstreamFault) else int(error is not None)

    async def _end(self) -> None:
        """Ends what still runs. A cancellation that comes meanwhile waits until all rows are closed."""
        is_cancelled = False
        for lane in self._lanes:
            if lane.task is not None and not lane.task.done() and not lane.is_ending:
                lane.task.cancel()
        while left := {task for task in _tasks(self._lanes) if not task.done()}:
            try:
                await asyncio.wait(left)
            except asyncio.CancelledError:
                is_cancelled = True
        for lane in self._lanes:
            if lane.task is not None and not lane.task.cancelled():
                lane.task.exception()  # seen: it is logged by nothing else
            lane.task = None  # its error refers to the frames that hold the request
        self._lanes.clear()  # a lane refers to its race: the cycle would keep the request in memory
        self.winner = None
        if is_cancelled:
            raise asyncio.CancelledError


def _tasks(lanes: Sequence[Lane]) -> set[asyncio.Future[None]]:
    return {lane.task for lane in lanes if lane.task is not None}


def _stop(lane: Lane) -> None:
    if lane.attempt is not None and not lane.is_ending:
        lane.attempt.has_lost = True
    if lane.task is not None and not lane.is_ending:
        lane.task.cancel()
