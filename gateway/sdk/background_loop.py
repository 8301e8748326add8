"""BackgroundLoop: the event loop of the SDK, in a thread of its own.

Every call of the process runs there, whichever thread or event loop has made it: so the connections to upstreams and
the state of routing are shared, and a synchronous call works inside a running loop (a notebook) too.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Generic, TypeVar

Result = TypeVar("Result")
CLOSE_S = 5.0  # for calls under way to end at the exit of the process
OnClose = Callable[[], Coroutine[None, None, None]]


class BackgroundLoop:
    """It starts with the first call. Closes: the owner, with `close()`; the next call starts it anew."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._on_close: list[OnClose] = []

    def run(self, call: Coroutine[object, None, Result]) -> Result:
        """Waits in this thread. An interrupt of the wait (Ctrl-C) cancels the call."""
        if threading.current_thread() is self._thread:
            call.close()
            raise RuntimeError("A synchronous call of the SDK was made in its own event loop, and would never return.")
        future = self._submit(call)
        try:
            return future.result()
        finally:
            future.cancel()

    async def wait(self, call: Coroutine[object, None, Result]) -> Result:
        """Waits in the caller's event loop; the caller's cancellation cancels the call."""
        crossing: _Crossing[Result] = _Crossing(asyncio.get_running_loop())
        with self._lock:
            loop = self._open()
            loop.call_soon_threadsafe(crossing.start, loop, call)
        try:
            return await crossing.result
        except asyncio.CancelledError:
            self.post(crossing.cancel)
            raise

    def post(self, action: Callable[[], object]) -> None:
        """Runs `action` in the loop, soon; does nothing where the loop is closed."""
        loop = self._loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed, and all its calls with it
                loop.call_soon_threadsafe(action)

    def on_close(self, action: OnClose) -> None:
        """`action` runs once, in the loop, when it closes."""
        self._on_close.append(action)

    def drop(self, action: OnClose) -> None:
        """`action` is not needed any more."""
        with contextlib.suppress(ValueError):
            self._on_close.remove(action)

    def close(self) -> None:
        """Cancels the calls under way, and returns when they have ended."""
        with self._lock:
            loop, thread, actions = self._loop, self._thread, self._on_close
            self._loop, self._thread, self._on_close = None, None, []
        if loop is None or thread is None:
            return
        with contextlib.suppress(FutureTimeout):
            asyncio.run_coroutine_threadsafe(_end_tasks(actions), loop).result(CLOSE_S)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(CLOSE_S)
        if not thread.is_alive():
            loop.close()

    def forget(self) -> None:
        """After a fork: the thread of the parent does not exist in the child."""
        self._lock = threading.Lock()
        self._loop, self._thread, self._on_close = None, None, []

    def _submit(self, call: Coroutine[object, None, Result]) -> Future[Result]:
        with self._lock:
            return asyncio.run_coroutine_threadsafe(call, self._open())

    def _open(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=_serve, args=[self._loop], name="tollgate sdk", daemon=True)
            self._thread.start()
        return self._loop


class _Crossing(Generic[Result]):
    """A call from one event loop into another. asyncio.wrap_future does the same in twice the time, because it goes
    through a future for threads."""

    def __init__(self, caller: asyncio.AbstractEventLoop) -> None:
        self._caller = caller
        self._task: asyncio.Task[Result] | None = None
        self.result: asyncio.Future[Result] = caller.create_future()

    def start(self, loop: asyncio.AbstractEventLoop, call: Coroutine[object, None, Result]) -> None:
        self._task = loop.create_task(call)
        self._task.add_done_callback(self._bring_back)

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _bring_back(self, task: asyncio.Task[Result]) -> None:
        error = None if task.cancelled() else task.exception()  # else asyncio would log it
        with contextlib.suppress(RuntimeError):  # the caller's loop is closed: its task was cancelled
            self._caller.call_soon_threadsafe(self._settle, task, error)

    def _settle(self, task: asyncio.Task[Result], error: BaseException | None) -> None:
        if self.result.done():
            return
        if task.cancelled():
            self.result.cancel()
        elif error is not None:
            self.result.set_exception(error)
        else:
            self.result.set_result(task.result())


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    loop.run_forever()


async def _end_tasks(actions: list[OnClose]) -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    for action in actions:
        await action()
