"""The processes of one start: a parent and its children (worker, further web processes).

Each child has the reading end of a pipe whose writing end is in the parent. When the parent dies, by whatever cause,
the pipe ends, and so does the child.
"""

import contextlib
import ctypes
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

logger = logging.getLogger(__name__)

CHILD_GRACE_S = 30.0  # for a child that need not wait for running requests
FIRST_PAUSE_S = 0.5  # before a child that died is started again; doubled while it dies within EARLY_S
LONGEST_PAUSE_S = 30.0
EARLY_S = 60.0
M_ARENA_MAX = -8  # mallopt(3)


def save_memory() -> None:
    """Makes all threads share one heap: glibc gives each its own, and one heap saves 5 MB a process."""
    with contextlib.suppress(AttributeError, OSError):  # other C libraries have no such option
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)


def follow_parent(lifeline: int, grace_s: float) -> None:
    """Ends this process when the parent at the other end of `lifeline` dies, by force when the grace is over."""

    def wait() -> None:
        os.read(lifeline, 1)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(grace_s)
        os._exit(1)

    threading.Thread(target=wait, name="lifeline", daemon=True).start()


class ProcessGroup:
    """The child processes. A child that dies is started again, after a longer pause each time it dies early.

    `program`: the command that a child's arguments follow.
    """

    def __init__(self, program: Sequence[str] = ()) -> None:
        self._program = list(program) or [sys.executable, sys.argv[0]]
        self._lifeline, self._writing_end = os.pipe()
        self._children: list[subprocess.Popen[bytes]] = []
        self._is_stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()

    def start(self, *arguments: str, inherit: tuple[int, ...] = ()) -> None:
        thread = threading.Thread(target=self._supervise, args=(arguments, inherit), name=f"child {arguments[0]}")
        thread.daemon = True
        thread.start()
        self._threads.append(thread)

    def stop(self, grace_s: float) -> None:
        """Ends every child: SIGTERM, a grace for its running requests, SIGKILL."""
        with self._lock:
            self._is_stopping.set()
            for child in self._children:
                child.terminate()
        end = time.monotonic() + grace_s
        for child in self._children:
            try:
                child.wait(max(end - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def wait(self) -> None:
        """Waits for SIGTERM or SIGINT, in a parent that serves nothing itself."""
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        stop.wait()

    def _supervise(self, arguments: tuple[str, ...], inherit: tuple[int, ...]) -> None:
        pause_s = FIRST_PAUSE_S
        command = [*self._program, *arguments, "--lifeline", str(self._lifeline)]
        while True:
            with self._lock:
                if self._is_stopping.is_set():
                    return
                child = subprocess.Popen(command, pass_fds=(self._lifeline, *inherit))  # noqa: S603 - our own command
                self._children.append(child)
            started_at = time.monotonic()
            code = child.wait()
            with self._lock:
                if self._is_stopping.is_set():
                    return
                self._children.remove(child)
            logger.error("a child process ended", extra={"child": arguments[0], "code": code})
            if time.monotonic() - started_at > EARLY_S:
                pause_s = FIRST_PAUSE_S
            self._is_stopping.wait(pause_s)
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
