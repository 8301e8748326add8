"""Addresses of the spend log that show the rows behind a number of a report."""

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from urllib.parse import urlencode

from django.urls import reverse

from billing.reports.period import HOUR_S, UNITS, Period
from billing.reports.query import ReportQuery

#: Dimension → the log's filter. Without a filter of its own the log shows more than the number counts.
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


def link_to_log(query: ReportQuery, members: Sequence[str]) -> str:
    """The log of the rows that a row of the report sums; without members those of the whole report."""
    begin, end = query.period.starts_at, query.period.ends_at
    filters: dict[str, str] = {}
    for dimension, member in zip(query.group_by, members, strict=False):
        if dimension in UNITS:
            first, after = find_bounds(dimension, member, query.period)
            begin, end = max(begin, first), min(end, after)
        elif member:
            filters[FILTERS[dimension]] = member
    filters |= {"from": begin.isoformat(), "before": end.isoformat()}
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
