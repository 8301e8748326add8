"""The Celery app: Redis as its broker where REDIS_URL is set, else a folder under TOLLGATE_HOME.

The broker carries wake-ups only. The database says what is to be done, so a lost, late or doubled message changes
nothing.
"""

import sys

from celery import Celery
from celery.schedules import crontab
from django.conf import settings

from gateway.server.folder_broker import register

register()
app = Celery("tollgate")
app.conf.update(settings.CELERY)
# A worker keeps its connection from task to task; `OutageLog` closes one that fails. Only this name is read
app.conf["CELERY_DB_REUSE_MAX"] = sys.maxsize
app.conf.beat_schedule = {
    "price-pending": {"task": "billing.tasks.price_pending", "schedule": 5.0, "options": {"expires": 10}},
    # By the clock: a gateway that is restarted every half an hour purges too
    "purge-responses": {
        "task": "gateway.tasks.purge_responses",
        "schedule": crontab(minute="17"),
        "options": {"expires": 1800},
    },
    "purge-spend-logs": {
        "task": "billing.tasks.purge_spend_logs",
        "schedule": crontab(minute="41"),
        "options": {"expires": 1800},
    },
    "purge-rollups": {
        "task": "billing.tasks.purge_rollups",
        "schedule": crontab(minute="47"),
        "options": {"expires": 1800},
    },
    "count-stored": {
        "task": "gateway.tasks.count_stored",
        "schedule": crontab(minute="*/10"),
        "options": {"expires": 600},
    },
    "report-rotations": {
        "task": "gateway.tasks.report_rotations",
        "schedule": crontab(minute="7"),
        "options": {"expires": 1800},
    },
    "probe-deployments": {"task": "gateway.tasks.probe_deployments", "schedule": 2.0, "options": {"expires": 4}},
    "prune-changes": {
        "task": "gateway.tasks.prune_changes",
        "schedule": crontab(minute="*/10"),
        "options": {"expires": 600},
    },
    "sweep-background": {"task": "gateway.tasks.sweep_background", "schedule": 5.0, "options": {"expires": 10}},
    "continue-repricing": {"task": "gateway.tasks.continue_repricing", "schedule": 10.0, "options": {"expires": 10}},
    "find-alerts": {"task": "billing.tasks.find_alerts", "schedule": 60.0, "options": {"expires": 60}},
    "make-reports": {"task": "billing.tasks.make_reports", "schedule": 20.0, "options": {"expires": 20}},
    "deliver-alerts": {"task": "gateway.tasks.deliver_alerts", "schedule": 5.0, "options": {"expires": 10}},
    "sweep-open": {"task": "billing.tasks.sweep_open", "schedule": 1.0, "options": {"expires": 3}},
}
if not settings.TOLLGATE_HEALTH_CHECK_INTERVAL_S:
    del app.conf.beat_schedule["probe-deployments"]
app.autodiscover_tasks()
