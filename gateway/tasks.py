"""Celery tasks of the data plane. A message is only a wake-up: what there is to do stands in the database."""

import time

from celery import shared_task

from gateway.server.background_worker import RUNNER
from gateway.stores.idempotency import purge_claims
from gateway.stores.retention import purge_expired
from gateway.stores.runs import has_queued, sweep_lost, sweep_runs

PURGE_S = 2.0  # then others have their turn: a worker may have one process only
PURGE_EVERY_S = 3600
LOST_EVERY_S = 60.0  # it reads many rows for what hardly ever happens


class Throttle:
    """True at most once in so many seconds, of this process."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._next_at = float("-inf")

    def is_due(self, now: float) -> bool:
        is_due = now >= self._next_at
        if is_due:
            self._next_at = now + self._every_s
        return is_due


LOST = Throttle(LOST_EVERY_S)


@shared_task(ignore_result=True)
def run_background() -> None:
    RUNNER.wake()


@shared_task(ignore_result=True)
def sweep_background() -> None:
    """Ends what a dead worker left and what was lost, wakes this one for what nobody was woken for, erases claims that
    are void."""
    sweep_runs()
    if LOST.is_due(time.monotonic()):
        sweep_lost()
    if has_queued():
        RUNNER.wake()
    purge_claims()


@shared_task(ignore_result=True)
def purge_responses() -> None:
    """Erases what has expired. What is left it wakes itself for."""
    if not purge_expired(busy_s=PURGE_S).is_done:
        purge_responses.apply_async(expires=PURGE_EVERY_S, retry=False)
