"""The scheduler of beat: it sleeps until an entry is due."""

import time
from datetime import timedelta

from celery import Celery
from celery.beat import ScheduleEntry

from gateway.server.beat import Scheduler


class Recorder(Scheduler):
    def __init__(self, app: Celery) -> None:
        self.applied: list[str | None] = []
        super().__init__(app)

    def apply_entry(self, entry: ScheduleEntry, producer: object = None) -> None:
        self.applied.append(entry.name)


def test_the_scheduler_does_not_ask_again_and_again_until_an_entry_is_due() -> None:
    app = Celery("test", broker="memory://", set_as_current=False)
    app.conf.beat_schedule = {"often": {"task": "often", "schedule": timedelta(seconds=0.05)}}
    scheduler = Recorder(app)
    ticks = 0
    while len(scheduler.applied) < 4:
        ticks += 1
        time.sleep(max(scheduler.tick(), 0))
    assert ticks <= 5 * len(scheduler.applied)
