"""`manage.py worker`: a Celery worker; with --beat also the schedule, in a thread of its own."""

import warnings
from argparse import ArgumentParser
from threading import Thread
from typing import Any

from celery.beat import EmbeddedService
from celery.platforms import SecurityWarning  # type: ignore[attr-defined]  # missing in celery-types
from django.core.management.base import BaseCommand

from gateway.celery import app
from gateway.server.background_worker import RUNNER
from gateway.server.processes import CHILD_GRACE_S, follow_parent, save_memory
from gateway.stores.schema import wait_for_schema

QUIET = ("--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel=WARNING")


class Command(BaseCommand):
    help = "Run a Celery worker: pricing, rollups, sweeping, background responses."
    requires_system_checks = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--beat", action="store_true", help="also run the schedule")
        parser.add_argument("--concurrency", type=int, default=1, help="processes; 1 works in this one")
        parser.add_argument("--lifeline", type=int, help="internal: the pipe that ends with the parent")

    def handle(self, *args: Any, **options: Any) -> None:
        save_memory()
        if options["lifeline"] is not None:
            follow_parent(options["lifeline"], CHILD_GRACE_S)
            RUNNER.end_within(CHILD_GRACE_S)
        wait_for_schema()
        if options["beat"]:
            schedule = EmbeddedService(app, thread=True, scheduler_cls=app.conf.beat_scheduler)
            assert isinstance(schedule, Thread)
            schedule.start()
        pool = "solo" if options["concurrency"] == 1 else "prefork"
        warnings.filterwarnings("ignore", category=SecurityWarning)  # JSON only: root may run it in a container
        try:
            app.worker_main(["--quiet", "worker", f"--pool={pool}", f"--concurrency={options['concurrency']}", *QUIET])
        finally:
            RUNNER.stop()
