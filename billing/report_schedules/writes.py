"""Schedules of reports: the one way to create, change and delete them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from django.conf import settings

from billing.models import AlertChannel, ReportSchedule
from billing.report_schedules.periods import PERIODS
from billing.report_schedules.timing import WEEKDAYS, Timing
from billing.reports.query import FILTERS, MARGIN, ReportQuery, read_zone
from gateway.protocol.errors import BadRequest, Forbidden
from tenants.audit import audited
from tenants.database import database_now
from tenants.ids import new_id
from tenants.invalid import KeyInvalid
from tenants.models import Organization

MAX_SCHEDULES = 50  # of an organization, and of the platform
MAX_CHANNELS = 10
FORMATS = ("csv", "xlsx", "json")
FIRST_WEEKDAY, FIRST_DAY = WEEKDAYS[0], 1
DEFAULT_HOUR = 8


@dataclass(frozen=True, slots=True)
class Settings:
    """The fields of a schedule. None: as it is, or the default of a new one; `weekday` and `day` are for a weekly and a
    monthly one alone. `filters`: dimension → member, all of them."""

    name: str | None = None
    group_by: str | None = None
    period: str | None = None
    time_zone: str | None = None
    format: str | None = None
    frequency: str | None = None
    weekday: str | None = None
    day: int | None = None
    hour: int | None = None
    channel_ids: Sequence[str] | None = None
    is_enabled: bool | None = None
    filters: Mapping[str, str] | None = None
    measures: str | None = None


def create_schedule(organization: Organization | None, values: Settings) -> ReportSchedule:
    """Raises KeyInvalid, BadRequest and Forbidden."""
    zone = organization.time_zone if organization is not None else str(settings.TIME_ZONE)
    row = ReportSchedule(id=new_id(), organization=organization, time_zone=zone, format=FORMATS[0], hour=DEFAULT_HOUR)
    _apply(row, values)
    _plan(row)
    with audited("create", row):  # which takes turns, so that those that come at once are counted
        if ReportSchedule.objects.filter(organization=organization).count() >= MAX_SCHEDULES:
            raise KeyInvalid("name", f"there are {MAX_SCHEDULES} schedules already")
        row.save(force_insert=True)
    return row


def change_schedule(row: ReportSchedule, values: Settings) -> ReportSchedule:
    """A change of its time, or that enables it, plans it anew: what was missed while it was off is not caught up.
    Raises KeyInvalid, BadRequest and Forbidden."""
    before = _planned(row)
    with audited("update", row):
        _apply(row, values)
        if _planned(row) != before:
            _plan(row)
        row.try_at, row.attempts, row.error = row.next_at, 0, ""  # an attempt that runs is of the old settings
        row.save()
    return row


def delete_schedule(row: ReportSchedule) -> None:
    with audited("delete", row):
        row.delete()


def timing_of(row: ReportSchedule) -> Timing:
    """Raises BadRequest for a zone that this machine's data of time zones does not have, or no longer."""
    try:
        zone = read_zone(row.time_zone)
    except BadRequest:
        raise BadRequest(f"The time zone {row.time_zone!r} is not known here.", param="tz") from None
    return Timing(row.hour, zone, row.weekday, row.day)


def query_of(row: ReportSchedule, due_on: date) -> ReportQuery:
    """The report that is due on a day of its zone. Raises BadRequest."""
    start, end = PERIODS[row.period](due_on)
    return ReportQuery.read(
        {
            **row.filters,
            "start_date": start.isoformat(),
            "end_date": end.isoformat(),
            "group_by": row.group_by,
            "tz": row.time_zone,
            "format": row.format,
            "measures": row.measures,
        }
    )


def _apply(row: ReportSchedule, values: Settings) -> None:
    if values.filters is not None:
        row.filters = _read_filters(values.filters)
    for name in ("name", "group_by", "period", "time_zone", "format", "frequency", "hour", "is_enabled", "measures"):
        value = getattr(values, name)
        if value is not None:
            setattr(row, name, value)
    _apply_day(row, values)
    query = _check_query(row)
    row.group_by, row.measures = ",".join(query.group_by), ",".join(query.measures)
    if values.channel_ids is not None:
        row.channel_ids = _read_channels(row, values.channel_ids)


def _read_filters(filters: Mapping[str, str]) -> dict[str, str]:
    for name, member in filters.items():
        if name not in FILTERS:
            raise KeyInvalid(f"filters.{name[:60]}", f"is none of {', '.join(FILTERS)}")
        if not member:
            raise KeyInvalid(f"filters.{name}", "must name a member; leave it out for the rows of all")
    return {name: filters[name] for name in FILTERS if name in filters}


def _check_query(row: ReportSchedule) -> ReportQuery:
    """The margin is for the platform's own schedules: the channels of an organization are read by its people."""
    try:
        query = query_of(row, database_now().date())
    except BadRequest as refusal:
        if refusal.param not in FILTERS:
            raise
        raise BadRequest(refusal.message, param=f"filters.{refusal.param}") from None
    if MARGIN in query.measures and row.organization_id is not None:
        raise Forbidden("'measures' may have 'margin' in schedules of the platform alone.", param="measures")
    return query


def _apply_day(row: ReportSchedule, values: Settings) -> None:
    is_weekly = row.frequency == ReportSchedule.Frequency.WEEKLY
    is_monthly = row.frequency == ReportSchedule.Frequency.MONTHLY
    if values.weekday is not None and not is_weekly:
        raise KeyInvalid("weekday", "is for a weekly schedule")
    if values.day is not None and not is_monthly:
        raise KeyInvalid("day", "is for a monthly schedule")
    row.weekday = (values.weekday or row.weekday or FIRST_WEEKDAY) if is_weekly else ""
    row.day = (values.day or row.day or FIRST_DAY) if is_monthly else None


def _read_channels(row: ReportSchedule, ids: Sequence[str]) -> list[str]:
    """Those of the schedule's own organization alone; of a platform's schedule the platform's."""
    names = list(dict.fromkeys(ids))
    if not 0 < len(names) <= MAX_CHANNELS:
        raise KeyInvalid("channel_ids", f"must be 1 to {MAX_CHANNELS} alert channels")
    known = AlertChannel.objects.filter(organization=row.organization_id, pk__in=names)
    found = set(known.values_list("pk", flat=True))
    for name in names:
        if name not in found:
            raise KeyInvalid("channel_ids", f"the alert channel {name[:60]!r} does not exist here")
    return names


def _planned(row: ReportSchedule) -> tuple[object, ...]:
    return row.is_enabled, row.time_zone, row.frequency, row.weekday, row.day, row.hour


def _plan(row: ReportSchedule) -> None:
    row.next_at = row.try_at = timing_of(row).find_next(database_now())
