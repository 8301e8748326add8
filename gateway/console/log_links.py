"""Addresses of the spend log that show the rows behind a number of a report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from urllib.parse import urlencode

from django.urls import reverse

from billing.log_search import FAILURE, REQUESTS, WITHOUT_PRICE
from billing.reports.period import HOUR_S, UNITS, Period
from billing.reports.plan import MEMBERS
from billing.reports.query import ReportQuery
from billing.reports.spend import OTHER

#: Dimension → the log's filter.
FILTERS: Mapping[str, str] = {
    "organization": "organization_id",
    "team": "team_id",
    "user": "user_id",
    "key": "key_id",
    "model_group": "model_group",
    "deployment": "deployment_id",
    "provider": "provider",
    "upstream_model": "upstream_model",
    "end_user": "end_user",
    "tag": "tag",
    "application": "application",
    "endpoint": "operation",
    "status": "status",
}


@dataclass(frozen=True, slots=True)
class LogLinks:
    """The addresses of the rows that the numbers of one row of a report count; empty where there are none."""

    requests: str
    failures: str
    unpriced: str


def link_to_log(query: ReportQuery, members: Sequence[str]) -> LogLinks:
    """The links of a row of the report; without members those of the whole report. The end users and tags that a day
    has no room to name have none: no filter finds their rows."""
    begin, end = query.period.starts_at, query.period.ends_at
    filters: dict[str, str] = {}
    without: list[str] = []
    if any(
        dimension in MEMBERS and member == OTHER for dimension, member in zip(query.group_by, members, strict=False)
    ):
        return LogLinks("", "", "")
    for dimension, member in zip(query.group_by, members, strict=False):
        if dimension in UNITS:
            first, after = find_bounds(dimension, member, query.period)
            begin, end = max(begin, first), min(end, after)
        elif member:
            filters[FILTERS[dimension]] = member
        else:
            without.append(FILTERS[dimension])
    if without:
        filters["without"] = ",".join(without)
    return link_to_span(begin, end, filters)


def link_to_span(begin: datetime, end: datetime, filters: Mapping[str, str] | None = None) -> LogLinks:
    """The links of the calls that begin in a span of time."""
    rows = {**(filters or {}), "from": begin.isoformat(), "before": end.isoformat()}
    return LogLinks(
        _make_link({**rows, "counted": REQUESTS}),
        _make_link({**rows, "counted": REQUESTS, "status": FAILURE}),
        _make_link({**rows, "counted": WITHOUT_PRICE}),
    )


def _make_link(filters: Mapping[str, str]) -> str:
    return f"{reverse('admin:billing_spendlog_changelist')}?{urlencode(filters)}"


def find_bounds(unit: str, name: str, period: Period) -> tuple[datetime, datetime]:
    """The first instant of a unit of time, and the first one after it."""
    if unit == "hour":
        begin = datetime.fromisoformat(name).astimezone(UTC)
        return begin, begin + timedelta(seconds=HOUR_S)
    first = date.fromisoformat(f"{name}-01" if unit == "month" else name)
    if unit == "month":
        last = (first.replace(day=28) + timedelta(days=4)).replace(day=1) - timedelta(days=1)
    else:
        last = first + timedelta(days=6 if unit == "week" else 0)
    span = Period(first, last, period.zone)
    return span.starts_at, span.ends_at
