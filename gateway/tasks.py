"""Celery tasks of the data plane. A message is only a wake-up: what there is to do stands in the database."""

from celery import shared_task

from gateway.background import RUNNER
from gateway.background_store import has_queued, sweep_runs
from gateway.idempotency_store import purge_claims
from gateway.retention import purge_expired

PURGE_S = 2.0  # then others have their turn: a worker may have one process only
PURGE_EVERY_S = 3600


@shared_task(ignore_result=True)
def run_background() -> None:
    RUNNER.wake()


@shared_task(ignore_result=True)
def sweep_background() -> None:
    """Ends what a dead worker left, wakes this one for what nobody was woken for, erases claims that are void."""
    sweep_runs()
    if has_queued():
        RUNNER.wake()
    purge_claims()


@shared_task(ignore_result=True)
def purge_responses() -> None:
    """Erases what has expired. What is left it wakes itself for."""
    if not purge_expired(busy_s=PURGE_S).is_done:
        purge_responses.apply_async(expires=PURGE_EVERY_S, retry=False)
