"""Celery tasks of the book-keeper. A message is only a wake-up: late, lost or doubled, it changes nothing."""

import time
from collections.abc import Callable

from celery import shared_task

from billing import bookkeeping

PAUSE_S = 0.002  # in which SQLite's one write lock goes to whoever waits to answer
BUSY_S = 20.0  # well inside the task's time limit; what is left the next wake-up takes


@shared_task(ignore_result=True)
def price_pending() -> None:
    _until_done(bookkeeping.price_pending)


@shared_task(ignore_result=True)
def sweep_open() -> None:
    _until_done(bookkeeping.sweep_open)


def _until_done(step: Callable[[], int]) -> None:
    end = time.monotonic() + BUSY_S
    while step() == bookkeeping.BATCH_ROWS and time.monotonic() < end:
        time.sleep(PAUSE_S)
