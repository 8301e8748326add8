"""Instants as both databases read them."""

import time
from functools import lru_cache


@lru_cache(maxsize=8)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(seconds))


def instant(seconds: float | None) -> str | None:
    """UTC, in the text that both databases read, and that Django writes on SQLite."""
    if seconds is None:
        return None
    micros = round(seconds * 1e6)
    return f"{_second(micros // 1_000_000)}.{micros % 1_000_000:06d}"
