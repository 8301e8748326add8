"""Celery tasks of the data plane. A message is only a wake-up: the database says what is to be done."""

import time

from celery import shared_task
from django.conf import settings

from billing.alerts.delivery import deliver_due
from billing.repricing import find_running, run_step
from gateway.server.alert_sender import send_all
from gateway.server.background_worker import RUNNER
from gateway.server.health_checks import HEALTH_CHECKS
from gateway.stores import storage_quota
from gateway.stores.deployment_prices import RowPrices, find_deployment_ids
from gateway.stores.idempotency import purge_claims
from gateway.stores.retention import purge_expired
from gateway.stores.runs import has_queued, sweep_lost, sweep_runs
from tenants import revision
from tenants.database import OUTAGES
from tenants.idempotency import purge_writes
from tenants.key_rotation import report_due_keys

PURGE_S = 2.0  # then other tasks have their turn: a worker may have one process only
PURGE_EVERY_S = 3600
LOST_EVERY_S = 60.0  # it reads many rows for a rare case


class Throttle:
    """Lets an action of this process happen at most once in so many seconds."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._next_at = float("-inf")

    def is_due(self, now: float) -> bool:
        is_due = now >= self._next_at
        if is_due:
            self._next_at = now + self._every_s
        return is_due


LOST = Throttle(LOST_EVERY_S)
#: Well inside the task's time limit; and a pause for the answers that wait for SQLite's one write lock.
REPRICE_S, REPRICE_PAUSE_S = 15.0, 0.005
#: Another batch is begun before this time; one takes at most as long as its slowest requests.
ALERTS_S = 5.0


@shared_task(ignore_result=True)
def run_background() -> None:
    RUNNER.wake()


@shared_task(ignore_result=True)
@OUTAGES.note_outage()
def sweep_background() -> None:
    """Ends the runs of dead workers and lost responses, wakes this worker for queued runs, erases expired claims."""
    sweep_runs()
    if LOST.is_due(time.monotonic()):
        sweep_lost()
    if has_queued():
        RUNNER.wake()
    purge_claims()
    purge_writes()


@shared_task(ignore_result=True)
@OUTAGES.note_outage()
def count_stored() -> None:
    """Counts the bytes that each organization stores, for its quota."""
    storage_quota.count_stored()


@shared_task(ignore_result=True)
@OUTAGES.note_outage()
def purge_responses() -> None:
    """Erases expired responses; sends itself another wake-up if some are left."""
    if not purge_expired(busy_s=PURGE_S).is_done:
        purge_responses.apply_async(expires=PURGE_EVERY_S, retry=False)


@shared_task(ignore_result=True)
@OUTAGES.note_outage()
def probe_deployments() -> None:
    """Starts the probes that are due, in threads; where no interval is set there are none."""
    if settings.TOLLGATE_HEALTH_CHECK_INTERVAL_S:
        HEALTH_CHECKS.run_due(settings.TOLLGATE_HEALTH_CHECK_INTERVAL_S)


@shared_task(ignore_result=True)
@OUTAGES.note_outage()
def report_rotations() -> None:
    """Names the keys that have become due for rotation since the last report. A key's text is shown to the caller who
    rotates it alone, so nothing rotates a key by itself: its holder would never learn the new text."""
    report_due_keys()


@shared_task(ignore_result=True)
@OUTAGES.note_outage()
def prune_changes() -> None:
    """Deletes what the log of changes no longer needs: a process that is so far behind forgets everything."""
    revision.prune_changes()


@shared_task(ignore_result=True)
@OUTAGES.note_outage()
def continue_repricing() -> None:
    """Continues jobs whose command or process has ended; the next wake-up continues what is left."""
    end = time.monotonic() + REPRICE_S
    for job_id in find_running():
        find_price = RowPrices()
        while time.monotonic() < end and run_step(job_id, find_price, find_deployment_ids):
            time.sleep(REPRICE_PAUSE_S)


@shared_task(ignore_result=True)
@OUTAGES.note_outage()
def deliver_alerts() -> None:
    """Sends the alerts that are due, or due again."""
    end = time.monotonic() + ALERTS_S
    while deliver_due(send_all) and time.monotonic() < end:
        pass
