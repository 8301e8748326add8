"""The part of a worker process that makes background responses: an event loop in a thread of its own.

Celery only wakes it: a task that waited for a model would hold up the book-keeper's. It starts with the first wake-up,
in whichever process of the worker that comes, and ends when the process does.
"""

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from celery.signals import worker_process_shutdown, worker_shutting_down
from django.conf import settings

from gateway.pipeline.responses.runs import Run, Unbegun, perform
from gateway.pipeline.responses.supervisor import Supervisor
from gateway.runtime import Runtime

logger = logging.getLogger(__name__)

MARGIN_S = 5.0  # of a process that is killed after its grace: to write down what was not completed
STOP_S = 10.0

Begin = Callable[[], AbstractAsyncContextManager[Supervisor]]


class BackgroundRunner:
    """`begin` makes the supervisor and what it needs, in the thread's event loop. Closes: `stop`. `grace_s`: how long
    what runs may go on then."""

    def __init__(self, begin: Begin, *, grace_s: float) -> None:
        self._begin = begin
        self._grace_s = grace_s
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._supervisor: Supervisor | None = None
        self._thread: threading.Thread | None = None
        self._is_woken = False  # while there was no supervisor to hear it
        self._is_stopping = False

    def end_within(self, kill_s: float) -> None:
        """This process is killed so long after it was told to stop."""
        self._grace_s = min(self._grace_s, kill_s - MARGIN_S)

    def wake(self) -> None:
        """Something is queued."""
        with self._lock:
            if self._is_stopping:
                return
            loop, supervisor = self._loop, self._supervisor
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="background responses", daemon=True)
                self._thread.start()
            elif loop is None or supervisor is None:  # it is beginning, or ending
                self._is_woken = True
            else:
                loop.call_soon_threadsafe(self._pass_on, supervisor)

    def begin_stop(self) -> None:
        """Claims nothing more; does not wait. Called from a signal's handler too, so it takes no lock."""
        self._is_stopping = True
        loop, supervisor = self._loop, self._supervisor
        if loop is not None and supervisor is not None:
            with contextlib.suppress(RuntimeError):  # it has just been closed
                loop.call_soon_threadsafe(supervisor.stop, self._grace_s)

    def stop(self) -> None:
        self.begin_stop()
        thread = self._thread
        if thread is not None:
            thread.join(self._grace_s + STOP_S)

    def _run(self) -> None:
        while True:
            try:
                asyncio.run(self._serve())
            except Exception:  # the next wake-up starts it anew
                logger.exception("background responses came to a halt")
            with self._lock:
                if self._is_stopping or not self._is_woken:
                    self._thread = None
                    return

    async def _serve(self) -> None:
        with self._lock:
            self._is_woken = False  # a supervisor looks for what is queued when it begins
        async with self._begin() as supervisor:
            with self._lock:
                self._supervisor, self._loop = supervisor, asyncio.get_running_loop()
                self._is_woken = False
            if self._is_stopping:  # it was told so before there was anybody to tell
                supervisor.stop(self._grace_s)
            try:
                await supervisor.serve()
            finally:
                with self._lock:
                    self._supervisor = self._loop = None
                    self._is_woken = supervisor.may_be_more  # woken for what it did not come to claim

    def _pass_on(self, supervisor: Supervisor) -> None:
        if supervisor is self._supervisor:
            supervisor.wake()
        else:  # it came to a halt before it heard
            self._is_woken = True


def answering(runtime: Runtime) -> Callable[[Run], Awaitable[None]]:
    """What a supervisor performs, with this runtime, which has not started yet."""
    nothing = runtime.snapshot

    async def answer(run: Run) -> None:
        snapshot = runtime.snapshot
        if snapshot is nothing:  # the database was away when it started
            raise Unbegun("The gateway does not know its models yet.")
        await perform(run, runtime.runs, snapshot.catalog, runtime.services, runtime.sessions, runtime.draw)

    return answer


@asynccontextmanager
async def _supervisor() -> AsyncIterator[Supervisor]:
    runtime = Runtime()
    answer = answering(runtime)
    await runtime.start()
    try:
        yield Supervisor(runtime.runs, answer)
    finally:
        await runtime.stop()


RUNNER = BackgroundRunner(_supervisor, grace_s=settings.TOLLGATE_DRAIN_GRACE_S)


@worker_shutting_down.connect(weak=False)
def _stop_claiming(**_: Any) -> None:
    RUNNER.begin_stop()


@worker_process_shutdown.connect(weak=False)
def _drain(**_: Any) -> None:
    """Of a process of the prefork pool; the one that serves itself drains at the end of its command."""
    RUNNER.stop()
