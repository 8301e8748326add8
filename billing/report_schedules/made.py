"""One report of a schedule: what it tells, and its file."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from heapq import nlargest
from urllib.parse import urlencode

from django.db.models import QuerySet

from billing.models import ReportSchedule, SpendLog, UsageSeries
from billing.report_schedules.writes import query_of, timing_of
from billing.reports.formats import FILES, make_report, render_report
from billing.reports.guard import guard_report
from billing.reports.query import ReportQuery
from billing.reports.spend import MEASURES, Report
from gateway.protocol.json.types import JsonObject
from tenants.rest.client_departure import ClientDeparture

MAX_FILE_BYTES = 5 * 1024 * 1024
MAX_SHOWN_ROWS = 100  # in a webhook
#: Measures of the total that an alert names, beside those that the schedule adds.
TOLD = ("cost", "requests", "failures", "unpriced")


@dataclass(frozen=True, slots=True)
class MadeReport:
    """`details`: the total and the days, for every channel. `rows`: those that cost most, in the order of the report.
    `content` is None where the file is larger than MAX_FILE_BYTES."""

    title: str
    details: JsonObject
    rows: list[JsonObject] = field(default_factory=list)
    name: str = ""
    media_type: str = ""
    content: bytes | None = None


def make(
    schedule: ReportSchedule, due_at: datetime, *, most_s: float, departure: ClientDeparture | None = None
) -> MadeReport:
    """The report that is due at an instant, of the schedule's organization alone. Raises ClientFault and
    GatewayFault."""
    query = query_of(schedule, due_at.astimezone(timing_of(schedule).zone).date())
    rows, series = _rows_of(schedule)
    with guard_report(schedule.organization_id, departure, most_s=most_s):
        report = make_report(rows, query, series=series)
    assert isinstance(report, Report)  # a schedule compares nothing
    content = join_file(render_report(report, query))
    period, file = query.period, FILES[query.format]
    shown = _find_largest(report)
    total = report.total.render(report.measures)
    more = [name for name in total if name not in MEASURES]
    return MadeReport(
        _title(schedule, period.start, period.end, str(total["cost"])),
        {
            "schedule_id": schedule.id,
            "schedule": schedule.name,
            "organization_id": schedule.organization_id,
            "start_date": period.start.isoformat(),
            "end_date": period.end.isoformat(),
            "time_zone": schedule.time_zone,
            "group_by": schedule.group_by,
            **({"filters": schedule.filters} if schedule.filters else {}),
            **{name: total[name] for name in (*TOLD, *more)},
            "row_count": len(report.rows),
            "report": _link(query, schedule),
        },
        shown,
        f"spend-{period.start}-{period.end}{file.suffix}",
        file.media_type.partition(";")[0],
        content,
    )


def _rows_of(schedule: ReportSchedule) -> tuple[QuerySet[SpendLog], QuerySet[UsageSeries]]:
    """The rows of the organization; of a schedule of the platform those of all."""
    rows, series = SpendLog.objects.all(), UsageSeries.objects.all()
    if schedule.organization_id is None:
        return rows, series
    place = {"organization_id": schedule.organization_id}
    return rows.filter(**place), series.filter(**place)


def _title(schedule: ReportSchedule, start: date, end: date, cost: str) -> str:
    days = f"of {start}" if start == end else f"of {start} to {end}"
    return f"{schedule.name}: {cost} USD, the spend {days}"


def _link(query: ReportQuery, schedule: ReportSchedule) -> str:
    """The path of the whole report in the API."""
    parameters: Mapping[str, str] = {
        "start_date": str(query.period.start),
        "end_date": str(query.period.end),
        "group_by": schedule.group_by,
        "tz": schedule.time_zone,
        "format": query.format,
        **({"measures": schedule.measures} if schedule.measures else {}),
        **dict(query.filters),
    }
    return f"/api/reports/spend?{urlencode(parameters)}"


def join_file(parts: Iterable[bytes]) -> bytes | None:
    taken, size = [], 0
    for part in parts:
        size += len(part)
        if size > MAX_FILE_BYTES:
            return None
        taken.append(part)
    return b"".join(taken)


def _find_largest(report: Report) -> list[JsonObject]:
    """All rows where they are few."""
    places = nlargest(MAX_SHOWN_ROWS, range(len(report.rows)), key=lambda place: report.rows[place][1].cost_pusd)
    return [
        {**dict(zip(report.group_by, members, strict=True)), **sums.render(report.measures)}
        for members, sums in (report.rows[place] for place in sorted(places))
    ]
