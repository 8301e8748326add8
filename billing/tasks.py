"""Celery tasks of bookkeeping. A message is only a wake-up: late, lost or doubled, it changes nothing."""

import time
from collections.abc import Callable

from celery import shared_task

from billing import bookkeeping
from tenants.database import OUTAGES

PAUSE_S = 0.002  # for the answers that wait for SQLite's one write lock
BUSY_S = 20.0  # well inside the task's time limit; the next wake-up continues


@shared_task(ignore_result=True)
@OUTAGES.note_outage()
def price_pending() -> None:
    _until_done(bookkeeping.price_pending)


@shared_task(ignore_result=True)
@OUTAGES.note_outage()
def sweep_open() -> None:
    _until_done(bookkeeping.sweep_open)
    _until_done(bookkeeping.correct_lost)
    bookkeeping.return_dead_leases()


def _until_done(step: Callable[[], int]) -> None:
    end = time.monotonic() + BUSY_S
    while step() == bookkeeping.BATCH_ROWS and time.monotonic() < end:
        time.sleep(PAUSE_S)
