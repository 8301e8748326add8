"""The part of a worker process that makes background responses: an event loop in a thread of its own.

A Celery task only wakes it, since a task that waited for a model would delay the tasks of billing. The thread starts
at the first wake-up of its process, and ends with the process.
"""

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from celery.signals import worker_process_shutdown, worker_shutting_down
from django.conf import settings

from gateway.pipeline.responses.runs import Run, RunPostponed, perform
from gateway.pipeline.responses.supervisor import Supervisor
from gateway.runtime import Drain, Runtime, start_runtime
from gateway.stores.catalog import NOT_LOADED

logger = logging.getLogger(__name__)

MARGIN_S = 5.0  # the end of the grace, in which a process that will be killed records its unfinished responses
STOP_S = 10.0

OpenSupervisor = Callable[[], AbstractAsyncContextManager[Supervisor]]


class BackgroundRunner:
    """The thread, whose event loop calls `open_supervisor`. Closes: `stop`; running responses then have `grace_s`."""

    def __init__(self, open_supervisor: OpenSupervisor, *, grace_s: float) -> None:
        self._open_supervisor = open_supervisor
        self._grace_s = grace_s
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._supervisor: Supervisor | None = None
        self._thread: threading.Thread | None = None
        self._is_woken = False  # while there was no supervisor
        self._is_stopping = False

    def end_within(self, kill_s: float) -> None:
        """Shortens the grace: this process is killed `kill_s` after SIGTERM."""
        self._grace_s = min(self._grace_s, kill_s - MARGIN_S)

    def wake(self) -> None:
        """Makes the supervisor look for queued responses, and starts the thread where there is none."""
        with self._lock:
            if self._is_stopping:
                return
            loop, supervisor = self._loop, self._supervisor
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="background responses", daemon=True)
                self._thread.start()
            elif loop is None or supervisor is None:  # the thread starts or ends
                self._is_woken = True
            else:
                loop.call_soon_threadsafe(self._wake_supervisor, supervisor)

    def begin_stop(self) -> None:
        """Makes the supervisor claim no more responses. A signal handler calls it too, so it takes no lock."""
        self._is_stopping = True
        loop, supervisor = self._loop, self._supervisor
        if loop is not None and supervisor is not None:
            with contextlib.suppress(RuntimeError):  # the loop has just been closed
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
            except Exception:  # the next wake-up starts a new loop
                logger.exception("background responses came to a halt")
            with self._lock:
                if self._is_stopping or not self._is_woken:
                    self._thread = None
                    return

    async def _serve(self) -> None:
        with self._lock:
            self._is_woken = False  # a supervisor looks for queued responses when it starts
        async with self._open_supervisor() as supervisor:
            with self._lock:
                self._supervisor, self._loop = supervisor, asyncio.get_running_loop()
                self._is_woken = False
            if self._is_stopping:  # since before there was a supervisor
                supervisor.stop(self._grace_s)
            try:
                await supervisor.serve()
            finally:
                with self._lock:
                    self._supervisor = self._loop = None
                    self._is_woken = supervisor.may_be_more  # for the responses that it did not claim

    def _wake_supervisor(self, supervisor: Supervisor) -> None:
        if supervisor is self._supervisor:
            supervisor.wake()
        else:  # that supervisor ended before this call
            self._is_woken = True


def answer_with(runtime: Runtime) -> Callable[[Run], Awaitable[None]]:
    """The function that a supervisor calls for each run."""

    async def answer(run: Run) -> None:
        snapshot = runtime.snapshot
        if snapshot is NOT_LOADED:  # the database was away when the runtime started
            raise RunPostponed("The gateway does not know its models yet.")
        await perform(run, runtime.runs, snapshot.catalog, runtime.services, runtime.response_services)

    return answer


@asynccontextmanager
async def _supervisor() -> AsyncIterator[Supervisor]:
    async with start_runtime(Drain(), is_worker=True) as runtime:
        yield Supervisor(runtime.runs, answer_with(runtime))


RUNNER = BackgroundRunner(_supervisor, grace_s=settings.TOLLGATE_DRAIN_GRACE_S)


@worker_shutting_down.connect(weak=False)
def _stop_claiming(**_: object) -> None:
    RUNNER.begin_stop()


@worker_process_shutdown.connect(weak=False)
def _drain(**_: object) -> None:
    """Drains a process of the prefork pool. A solo worker drains at the end of its command."""
    RUNNER.stop()
