"""Waiting for what happens in another thread."""

import time
from collections.abc import Callable


def eventually(condition: Callable[[], object], limit_s: float = 20) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "it has not happened"
        time.sleep(0.01)
