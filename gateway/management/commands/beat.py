"""`manage.py beat`: the schedule alone. Several of them are harmless."""

from typing import Any

from celery.apps.beat import Beat
from django.core.management.base import BaseCommand

from gateway.celery import app


class Command(BaseCommand):
    help = "Run the schedule that wakes the workers."
    requires_system_checks = []

    def handle(self, *args: Any, **options: Any) -> None:
        Beat(app=app, loglevel="WARNING", quiet=True).run()
