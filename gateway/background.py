"""The part of a worker process that makes background responses: an event loop in a thread of its own.

Celery only wakes it: a task that waited for a model would hold up the book-keeper's. It starts with the first wake-up,
in whichever process of the worker that comes, and ends when the process does.
"""

import asyncio
import logging
import threading
from typing import Any

from celery.signals import worker_process_shutdown, worker_shutting_down
from django.conf import settings

from gateway.family import CHILD_GRACE_S
from gateway.pipeline.background import Run, perform
from gateway.pipeline.supervisor import Supervisor
from gateway.runtime import Runtime

logger = logging.getLogger(__name__)

MARGIN_S = 5.0  # of a process that is killed after its grace: to write down what was not completed
STOP_S = 10.0


class BackgroundRunner:
    """Closes: `stop`. `grace_s`: how long what runs may go on then."""

    def __init__(self, *, grace_s: float) -> None:
        self._grace_s = grace_s
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._supervisor: Supervisor | None = None
        self._thread: threading.Thread | None = None
        self._is_stopping = False

    def wake(self) -> None:
        """Something is queued."""
        with self._lock:
            if self._is_stopping:
                return
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="background responses", daemon=True)
                self._thread.start()
            elif self._loop is not None and self._supervisor is not None:
                self._loop.call_soon_threadsafe(self._supervisor.wake)

    def begin_stop(self) -> None:
        """Claims nothing more; does not wait. Called from a signal's handler too."""
        self._is_stopping = True
        loop, supervisor = self._loop, self._supervisor
        if loop is not None and supervisor is not None and not loop.is_closed():
            loop.call_soon_threadsafe(supervisor.stop, self._grace_s)

    def stop(self) -> None:
        self.begin_stop()
        thread = self._thread
        if thread is not None:
            thread.join(self._grace_s + STOP_S)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception:  # the next wake-up starts it anew
            logger.exception("background responses came to a halt")

    async def _serve(self) -> None:
        runtime = Runtime()
        await runtime.start()

        async def answer(run: Run) -> None:
            await perform(run, runtime.runs, runtime.snapshot.catalog, runtime.services, runtime.sessions, runtime.draw)

        supervisor = Supervisor(runtime.runs, answer)
        self._supervisor, self._loop = supervisor, asyncio.get_running_loop()
        if self._is_stopping:  # it was told so before there was anybody to tell
            supervisor.stop(self._grace_s)
        try:
            await supervisor.serve()
        finally:
            self._supervisor = self._loop = None
            await runtime.stop()


RUNNER = BackgroundRunner(grace_s=min(settings.TOLLGATE_DRAIN_GRACE_S, CHILD_GRACE_S - MARGIN_S))


@worker_shutting_down.connect(weak=False)
def _stop_claiming(**_: Any) -> None:
    RUNNER.begin_stop()


@worker_process_shutdown.connect(weak=False)
def _drain(**_: Any) -> None:
    """Of a process of the prefork pool; the one that serves itself drains at the end of its command."""
    RUNNER.stop()
