"""Celery tasks of bookkeeping. A message is only a wake-up: late, lost or doubled, it changes nothing."""

import time
from collections.abc import Callable

from celery import shared_task
from django.conf import settings

from billing import bookkeeping, retention, rollup_retention
from billing.alerts.find import (
    find_budget_alerts,
    find_pricing_lag,
    find_refused_credentials,
    find_spikes,
    find_unpriced_alerts,
)
from billing.alerts.record import purge_alerts, record_alerts
from billing.report_schedules.runs import make_due_reports, purge_files
from tenants.database import OUTAGES, database_now

PAUSE_S = 0.002  # for the answers that wait for SQLite's one write lock
PURGE_S = 2.0  # then other tasks have their turn
PURGE_EVERY_S = 3600
FIND_ALERTS = (
    find_budget_alerts,
    find_spikes,
    find_unpriced_alerts,
    find_refused_credentials,
    find_pricing_lag,
)
REPORTS_S = 5.0  # another report is begun before this time
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


@shared_task(ignore_result=True)
@OUTAGES.note_outage()
def purge_spend_logs() -> None:
    """Deletes old spend rows; sends itself another wake-up if some are left."""
    if not retention.purge_spend_logs(settings.TOLLGATE_SPEND_LOG_RETENTION_DAYS, busy_s=PURGE_S).is_done:
        purge_spend_logs.apply_async(expires=PURGE_EVERY_S, retry=False)


@shared_task(ignore_result=True)
@OUTAGES.note_outage()
def purge_rollups() -> None:
    """Deletes old sums of reports; sends itself another wake-up if some are left."""
    keep_days, keep_quarter_days = (
        settings.TOLLGATE_ROLLUP_RETENTION_DAYS,
        settings.TOLLGATE_QUARTER_HOUR_RETENTION_DAYS,
    )
    if not rollup_retention.purge_rollups(keep_days, keep_quarter_days, busy_s=PURGE_S).is_done:
        purge_rollups.apply_async(expires=PURGE_EVERY_S, retry=False)


@shared_task(ignore_result=True)
@OUTAGES.note_outage()
def find_alerts() -> None:
    """Writes what has happened since the last look, once."""
    now = database_now()
    for find in FIND_ALERTS:
        record_alerts(find(now), now)
    purge_alerts(now)
    purge_files(now)


@shared_task(ignore_result=True)
@OUTAGES.note_outage()
def make_reports() -> None:
    """Makes the scheduled reports that are due; the next wake-up continues what is left."""
    make_due_reports(REPORTS_S)


def _until_done(step: Callable[[], int]) -> None:
    end = time.monotonic() + BUSY_S
    while step() == bookkeeping.BATCH_ROWS and time.monotonic() < end:
        time.sleep(PAUSE_S)
