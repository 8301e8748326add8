"""A worker's background responses: the supervisor claims queued runs, renews them, and stops those that it lost."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from functools import partial

from gateway.pipeline.frame_release import FRAME_RELEASE
from gateway.pipeline.responses.runs import Run, RunPostponed, Runs
from gateway.protocol.context_overflow import openai_text
from gateway.protocol.dialects.responses.dialect import failure_code
from gateway.protocol.errors import Fault, GatewayFault

logger = logging.getLogger(__name__)

CAPACITY = 32
LOOK_S = 1.0  # until a worker notices that a response was cancelled
RENEW_S = 2.0
#: A run that cannot be begun is put back again and again for so long.
PATIENCE_S = 300.0


class Supervisor:
    """`perform` answers one run, or raises the Fault to end it with. Closes: `stop`, after which `serve` returns."""

    def __init__(self, runs: Runs, perform: Callable[[Run], Awaitable[None]], *, capacity: int = CAPACITY) -> None:
        self._runs = runs
        self._perform = perform
        self._capacity = capacity
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._wake = asyncio.Event()
        self.may_be_more = True  # runs may be queued
        self._renewed_at = float("-inf")
        self._rests_until = float("-inf")  # no claim before: a run that was just put back would come back at once
        self._put_back_at: dict[str, float] = {}  # {response: when it was first put back}
        self._is_stopping = False
        self._is_giving_up = False
        self._grace_s = 0.0

    def wake(self) -> None:
        """A run may be queued."""
        self.may_be_more = True
        self._wake.set()

    def stop(self, grace_s: float) -> None:
        """Claims nothing more. Runs may go on for `grace_s`; then they are ended as failed."""
        if not self._is_stopping:
            self._is_stopping = True
            self._grace_s = grace_s
            self._wake.set()

    async def serve(self) -> None:
        loop = asyncio.get_running_loop()
        while not self._is_stopping:
            self._wake.clear()
            if self.may_be_more and loop.time() >= self._rests_until:
                await self._claim()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S if self._tasks or self.may_be_more else None):
                    await self._wake.wait()
            await self._look()
        await self._drain()

    async def _drain(self) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + self._grace_s
        while self._tasks and loop.time() < end:
            await asyncio.wait(self._tasks.values(), timeout=min(LOOK_S, end - loop.time()))
            await self._look()
        self._is_giving_up = True
        left = list(self._tasks.values())
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _claim(self) -> None:
        free = self._capacity - len(self._tasks)
        if free <= 0:
            return  # a run that ends wakes the supervisor
        self.may_be_more = False  # until `wake`
        try:
            claimed = await self._runs.claim(free)
        except GatewayFault:
            self.may_be_more = True  # tried again after the next look
            return
        if len(claimed) == free:
            self.may_be_more = True
        for run in claimed:
            task = asyncio.create_task(self._answer(run), name=f"background {run.stored.id}")
            self._tasks[run.stored.id] = task
            task.add_done_callback(partial(self._forget, run.stored.id))

    def _forget(self, response_id: str, _: asyncio.Task[None]) -> None:
        self._tasks.pop(response_id, None)
        self.wake()  # its slot is free, also for a run that could not be claimed before

    async def _look(self) -> None:
        """Renews the runs under way, and no others: the sweeper ends those. Stops the runs whose responses were
        cancelled, deleted or taken for dead."""
        if not self._tasks:
            return
        now = asyncio.get_running_loop().time()
        with contextlib.suppress(GatewayFault):  # the next look may pass
            if now - self._renewed_at >= RENEW_S:
                self._runs.renew(self._tasks.keys())
                self._renewed_at = now
            mine = list(self._tasks.items())
            claimed_ids = await self._runs.claimed_ids()
            for response_id, task in mine:
                if response_id not in claimed_ids:
                    task.cancel()

    async def _answer(self, run: Run) -> None:
        try:
            try:
                with FRAME_RELEASE:
                    await self._perform(run)
            except RunPostponed as fault:
                await self._put_back(run, fault)
            else:
                self._put_back_at.pop(run.stored.id, None)
        except Fault as fault:
            await self._fail(run, failure_code(fault.status), openai_text(fault))
        except asyncio.CancelledError:
            if self._is_giving_up:
                await self._fail(run, "server_error", "The gateway was stopped before the response was complete.")
            raise
        except Exception:  # one run must not end the others
            logger.exception("a background response failed", extra={"request_id": run.request_id})
            await self._fail(run, "server_error", "The gateway failed on this response.")

    async def _put_back(self, run: Run, fault: RunPostponed) -> None:
        """Puts the run back as soon as the store takes it. Raises the fault where the run was put back for too long."""
        now, response_id = asyncio.get_running_loop().time, run.stored.id
        if now() - self._put_back_at.get(response_id, now()) >= PATIENCE_S:
            del self._put_back_at[response_id]
            raise fault
        while True:
            try:
                is_back = await self._runs.put_back(run)
                break
            except GatewayFault:
                await asyncio.sleep(LOOK_S)
        if is_back:
            recent = {key: at for key, at in self._put_back_at.items() if now() - at < 2 * PATIENCE_S}
            self._put_back_at = {response_id: now(), **recent}
            self._rests_until = now() + LOOK_S
            self.may_be_more = True
        else:
            raise fault  # it ends the run only where this worker holds it

    async def _fail(self, run: Run, code: str, message: str) -> None:
        with contextlib.suppress(GatewayFault):  # then its lease runs out, and the sweeper ends it
            await self._runs.fail(run, code, message)
