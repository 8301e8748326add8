"""Makes the reports that are due, each once, and hands them to the deliveries of alerts.

A worker claims a schedule by moving `try_at` on. One that ends while it makes the report has sent nothing, and another
one takes the schedule when the claim is over. The report, its deliveries and the schedule's next instant are written in
one transaction, which only the holder of the claim can end.
"""

import secrets
import time
from dataclasses import replace
from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction
from django.db.models import Exists, F, OuterRef, Q, QuerySet, Window
from django.db.models.functions import RowNumber
from django_scopes import scopes_disabled

from billing.alerts.record import MAX_TITLE, deliver_to
from billing.models import Alert, AlertChannel, AlertDelivery, AlertKind, ReportFile, ReportSchedule
from billing.report_schedules.made import MadeReport, make
from billing.report_schedules.writes import timing_of
from gateway.protocol.errors import ClientFault, GatewayFault, RateLimited
from tenants.database import database_now
from tenants.ids import new_id
from tenants.rest.client_departure import ClientDeparture
from tenants.revision import write_transaction

#: Longer than a task may take.
LEASE = timedelta(seconds=120)
#: The waits after failures; after one more the report has failed, and its channels are told.
WAITS = tuple(timedelta(seconds=seconds) for seconds in (60, 300, 1800, 7200))
#: Of the database, for one report: other tasks wait meanwhile, for a worker may have one process only.
MOST_S = 10.0
BATCH = 50
MAX_ERROR = 500
CUT = "the process that made it ended, or it took too long"
#: Longer than any time between two instants of the frequency.
LONGEST = {
    ReportSchedule.Frequency.DAILY: timedelta(days=2),
    ReportSchedule.Frequency.WEEKLY: timedelta(days=8),
    ReportSchedule.Frequency.MONTHLY: timedelta(days=33),
}
#: Until the next look at a schedule without a next instant. Its channels are told again then.
UNPLANNED = timedelta(days=1)
RUN_KEY = "report-run:"
RUNS, RUN_PERIOD = 10, timedelta(minutes=10)
FILES_KEPT_FOR = timedelta(days=3)  # longer than a delivery is tried


def make_due_reports(busy_s: float) -> int:
    """Begins another report before so many seconds have passed. Returns how many were made or have failed."""
    end, count = time.monotonic() + busy_s, 0
    with scopes_disabled():  # the worker makes the reports of all organizations
        _plan_strayed(database_now())
        while due := _find_due(database_now()):
            for schedule in due:
                if claim(schedule, database_now()):
                    make_and_send(schedule)
                    count += 1
                if time.monotonic() >= end:
                    return count
    return count


def make_now(schedule: ReportSchedule, now: datetime, departure: ClientDeparture | None = None) -> MadeReport:
    """The report as if it were due. It may take a minute, so never within a transaction, which on SQLite would keep all
    other writers waiting. Raises ClientFault and GatewayFault."""
    return make(schedule, now, most_s=settings.TOLLGATE_REPORT_TIMEOUT_S, departure=departure)


def send_now(schedule: ReportSchedule, made: MadeReport, now: datetime) -> Alert:
    """Sends what `make_now` has made; the plan of the schedule stays. Raises RateLimited."""
    with write_transaction():
        own = Alert.objects.filter(kind=AlertKind.REPORT, organization_id=schedule.organization_id)
        recent = own.filter(key__startswith=RUN_KEY, created_at__gt=now - RUN_PERIOD)
        if recent.count() >= RUNS:
            raise RateLimited(
                f"At most {RUNS} reports are sent on demand in {RUN_PERIOD // timedelta(minutes=1)} minutes.",
                code="too_many_runs",
                headers=((b"retry-after", str(int(RUN_PERIOD.total_seconds())).encode()),),
            )
        return _record(schedule, made, f"{RUN_KEY}{new_id()}", now)


def purge_files(now: datetime) -> None:
    """Deletes the files of reports that no delivery waits for any more, and old ones."""
    with scopes_disabled():  # retention spans all organizations
        waiting = AlertDelivery.objects.filter(alert=OuterRef("pk"), state=AlertDelivery.State.PENDING)
        over = ReportFile.objects.filter(Q(alert__created_at__lt=now - FILES_KEPT_FOR) | ~Q(Exists(waiting)))
        ReportFile.objects.filter(pk__in=[pk for (pk,) in over.values_list("pk")[:BATCH]]).delete()


def _find_due(now: datetime) -> list[ReportSchedule]:
    """One of each organization, in any order: no organization is always the first. A blocked one gets none."""
    place = Window(RowNumber(), partition_by=F("organization_id"), order_by=("try_at", "id"))
    due = _open_schedules().filter(try_at__lte=now).order_by().annotate(place=place)
    rows: list[ReportSchedule] = list(due.filter(place=1).order_by("try_at", "id")[:BATCH])
    secrets.SystemRandom().shuffle(rows)
    return rows


def _open_schedules() -> QuerySet[ReportSchedule]:
    return ReportSchedule.objects.filter(Q(organization=None) | Q(organization__blocked=False), is_enabled=True)


def claim(schedule: ReportSchedule, now: datetime) -> bool:
    claim = now + LEASE
    turn = ReportSchedule.objects.filter(pk=schedule.pk, is_enabled=True, try_at=schedule.try_at)
    if not turn.update(try_at=claim, attempts=F("attempts") + 1):
        return False
    schedule.try_at, schedule.attempts = claim, schedule.attempts + 1
    return True


def make_and_send(schedule: ReportSchedule) -> None:
    """Makes the report of the last instant that has come: those before it were missed while no worker ran."""
    due_at = schedule.next_at
    try:
        due_at = timing_of(schedule).find_last(database_now())
        if schedule.attempts > len(WAITS) + 1:
            raise GatewayFault(CUT)
        made = make(schedule, due_at, most_s=MOST_S)
    except (ClientFault, GatewayFault) as fault:
        _note_failure(schedule, due_at, fault.message[:MAX_ERROR])
        return
    _send(schedule, made, due_at)


def _note_failure(schedule: ReportSchedule, due_at: datetime, error: str) -> None:
    if schedule.attempts <= len(WAITS):
        again_at = database_now() + WAITS[schedule.attempts - 1]
        _held(schedule).update(try_at=again_at, error=error)
        return
    details = {"schedule_id": schedule.id, "schedule": schedule.name, "organization_id": schedule.organization_id}
    made = MadeReport(f"{schedule.name}: the report could not be made", {**details, "error": error})
    _send(schedule, made, due_at, error=error)


def _send(schedule: ReportSchedule, made: MadeReport, due_at: datetime, *, error: str = "") -> None:
    """Writes the report once: not where the schedule has changed since the claim, or another process has written it."""
    now = database_now()
    next_at = _find_next(schedule, due_at) or now + UNPLANNED
    changes: dict[str, object] = {"next_at": next_at, "try_at": next_at, "attempts": 0, "error": error}
    with transaction.atomic():
        if not _held(schedule).update(**changes if error else {**changes, "last_sent_at": now}):
            return
        key = f"report:{schedule.id}:{due_at.isoformat()}"
        if not Alert.objects.filter(key=key).exists():
            _record(ReportSchedule.objects.get(pk=schedule.pk), made, key, now)


def _find_next(schedule: ReportSchedule, after: datetime) -> datetime | None:
    """None for a schedule whose time zone is gone: it must not hold up the others."""
    try:
        return timing_of(schedule).find_next(after)
    except ClientFault:
        return None


def _held(schedule: ReportSchedule) -> QuerySet[ReportSchedule]:
    """The schedule, while the claim of this process holds."""
    return ReportSchedule.objects.filter(pk=schedule.pk, is_enabled=True, try_at=schedule.try_at)


def _record(schedule: ReportSchedule, made: MadeReport, key: str, now: datetime) -> Alert:
    owner = schedule.organization_id
    made = replace(made, title=made.title[:MAX_TITLE])
    alert = Alert.objects.create(
        id=new_id(), organization_id=owner, kind=AlertKind.REPORT, key=key, title=made.title, data=made.details
    )
    if made.name:
        ReportFile.objects.create(
            alert=alert,
            organization_id=owner,
            name=made.name,
            media_type=made.media_type,
            content=made.content,
            rows=made.rows,
        )
    channels = AlertChannel.objects.filter(organization=owner, pk__in=schedule.channel_ids, is_enabled=True)
    deliver_to(alert, channels, now)
    return alert


def _plan_strayed(now: datetime) -> None:
    """Plans again what was planned by a clock that was far ahead, and is set back since."""
    strayed = Q(next_at__lte=now, try_at__gt=now + WAITS[-1])
    for frequency, longest in LONGEST.items():
        strayed |= Q(frequency=frequency, next_at__gt=now + longest)
    for schedule in _open_schedules().filter(strayed)[:BATCH]:
        next_at = min(schedule.next_at, _find_next(schedule, now) or now)
        _held(schedule).update(next_at=next_at, try_at=next_at)
