"""/user/daily/activity and its siblings of teams, tags, customers and organizations, with LiteLLM's names.

Every caller sees the rows of the spend log that it may read, as in the reports; the parameters narrow them.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import reduce
from operator import or_
from typing import ClassVar

import orjson
from django.db.models import Q, QuerySet
from django.http import HttpResponse
from rest_framework.request import Request

from billing.log_search import has_tag
from billing.models import SpendLog, UsageSeries
from billing.reports.activity import (
    DIMENSIONS,
    KEY,
    KeyName,
    Names,
    describe_keys,
    find_members,
    render_days,
    render_totals,
)
from billing.reports.guard import guard_report
from billing.reports.kept import check_days
from billing.reports.period import Period
from billing.reports.plan import MEMBERS
from billing.reports.query import ReportQuery
from billing.reports.render import JSON_TYPE
from billing.reports.spend import NOTHING, Report, report_spend
from gateway.protocol.errors import BadRequest
from gateway.protocol.json.types import JsonObject
from tenants.keys import find_digests
from tenants.models import Organization, Team, VirtualKey
from tenants.permissions import Area, Reach
from tenants.rest.authentication import caller_of
from tenants.rest.client_departure import departure_of
from tenants.rest.fields import read_count, read_query
from tenants.rest.views import ManagementView

MAX_PAGE = 1000
MAX_PAGE_DAYS = 366
#: Rows of a page before they are nested; each becomes several members of the answer.
MAX_ROWS = 50_000
MAX_NAMES = 100  # of a parameter with commas
#: Minutes that UTC is ahead, as JavaScript's getTimezoneOffset tells → a zone that never changes its clock. The zones
#: of whole hours have such a name each.
ODD_OFFSETS: Mapping[int, str] = {
    -345: "Asia/Kathmandu",
    -330: "Asia/Kolkata",
    -210: "Asia/Tehran",
    -270: "Asia/Kabul",
    -390: "Asia/Yangon",
    -525: "Australia/Eucla",
    -570: "Australia/Darwin",
    570: "Pacific/Marquesas",
}
WHOLE_HOURS = range(-14, 13)


@dataclass(frozen=True, slots=True)
class Entity:
    """`dimension` of the reports; `parameter` names members of it, with commas between; `column` has one of a row."""

    dimension: str
    parameter: str
    column: str


class DailyActivity(ManagementView):
    """The newest days first; a page is whole days."""

    area = Area.SPEND
    least_reach = Reach.OWN
    entity: ClassVar[Entity]

    def get(self, request: Request) -> HttpResponse:
        entity = self.entity
        known = {"start_date", "end_date", "model", "api_key", "page", "page_size", "timezone", entity.parameter}
        query = read_query(request, known=known)
        page = read_count(query, "page", default=1, maximum=MAX_PAGE)
        size = read_count(query, "page_size", default=50, maximum=MAX_PAGE_DAYS)
        period = read_period(query)
        condition = _read_condition(query, entity)
        rows = self.rows(SpendLog.objects.filter(condition))
        series = self.rows(UsageSeries.objects.filter(condition)) if _has_series(query, entity) else None
        days = find_page(period, page, size)
        total_pages = -(-((period.end - period.start).days + 1) // size)
        results: list[bytes] = []
        keys: JsonObject = {}
        total = NOTHING
        if days is not None:
            with guard_report(caller_of(request).organization_id, departure_of(request)):
                check_days(period)  # of all pages
                report = _report(rows, series, days, DIMENSIONS)
                entities = _report(rows, series, days, ("day", KEY, entity.dimension))
                total, keys = report.total, describe_keys(report)
                names = _find_names(report, entities, entity)
                results = [orjson.dumps(day) for day in render_days(report, entities, entity.dimension, names)]
        pages = {"page": page, "total_pages": total_pages, "has_more": page < total_pages}
        return HttpResponse(_join(results, {**render_totals(total), **pages, **keys}), content_type=JSON_TYPE)


class UserActivity(DailyActivity):
    entity = Entity("user", "user_id", "user_id")


class TeamActivity(DailyActivity):
    entity = Entity("team", "team_ids", "team_id")


class TagActivity(DailyActivity):
    """A call with two tags counts under both, and once in the metrics of its day."""

    entity = Entity("tag", "tags", "tags")


class CustomerActivity(DailyActivity):
    entity = Entity("end_user", "end_user_ids", "end_user")


class OrganizationActivity(DailyActivity):
    entity = Entity("organization", "organization_ids", "organization_id")


def read_period(query: Mapping[str, str]) -> Period:
    """The days from `start_date` to `end_date`, of the zone that `timezone` means. Raises BadRequest."""
    for name in ("start_date", "end_date"):
        if name not in query:
            raise BadRequest("Please provide start_date and end_date", param=name)
    days = {name: query[name] for name in ("start_date", "end_date")}
    try:
        return ReportQuery.read({**days, "group_by": "day", "tz": _read_zone(query)}).period
    except BadRequest as error:
        if error.param != "tz":
            raise
        raise BadRequest(error.message.replace("'tz'", "'timezone'"), param="timezone") from None


def _join(results: Sequence[bytes], metadata: JsonObject) -> bytes:
    """The answer of its days, each written by itself: json.dumps of all would hold the interpreter for long."""
    return b"".join((b'{"results":[', b",".join(results), b'],"metadata":', orjson.dumps(metadata), b"}"))


def find_page(period: Period, page: int, size: int) -> Period | None:
    """The days of a page, the newest page first; None behind the last one."""
    end = period.end - timedelta(days=(page - 1) * size)
    if end < period.start:
        return None
    return replace(period, start=max(period.start, end - timedelta(days=size - 1)), end=end)


def match_tags(tags: Sequence[str]) -> Q:
    """The rows with any of these tags; none for no tag."""
    return reduce(or_, map(has_tag, tags), Q(pk__in=()))


def _read_zone(query: Mapping[str, str]) -> str:
    """LiteLLM's minutes, or the name of a zone, which has no fault where the clock changes."""
    text = query.get("timezone", "0")
    if not re.fullmatch(r"-?[0-9]{1,4}", text):
        return text  # the report refuses what is no zone
    hours, odd = divmod(int(text), 60)
    if not odd and hours in WHOLE_HOURS:
        return f"Etc/GMT{hours:+d}" if hours else "UTC"
    if int(text) not in ODD_OFFSETS:
        raise BadRequest("'timezone' must be an offset in minutes that a zone has, or its name.", param="timezone")
    return ODD_OFFSETS[int(text)]


def _read_condition(query: Mapping[str, str], entity: Entity) -> Q:
    condition = Q()
    if "model" in query:
        condition &= Q(upstream_model=query["model"]) | Q(model_group=query["model"])
    if "api_key" in query:
        condition &= Q(key_digest__in=find_digests(query["api_key"]))
    if entity.parameter in query:
        names = [name for name in query[entity.parameter].split(",") if name]
        if len(names) > MAX_NAMES:
            raise BadRequest(f"{entity.parameter!r} names at most {MAX_NAMES}.", param=entity.parameter)
        is_tag = entity.dimension == "tag"
        condition &= match_tags(names) if is_tag else Q(**{f"{entity.column}__in": names})
    return condition


def _has_series(query: Mapping[str, str], entity: Entity) -> bool:
    """False where a parameter chooses rows by what no series has: the digest of a key, an end user, a tag."""
    return "api_key" not in query and (entity.parameter not in query or entity.dimension not in MEMBERS)


def _report(
    rows: QuerySet[SpendLog], series: QuerySet[UsageSeries] | None, period: Period, group_by: Sequence[str]
) -> Report:
    try:
        return report_spend(rows, ReportQuery(period, tuple(group_by)), series=series, max_rows=MAX_ROWS)
    except BadRequest as refusal:
        if refusal.param != "group_by":
            raise
        raise BadRequest("The page would be too large. Ask for fewer days a page.", param="page_size") from None


def _find_names(report: Report, entities: Report, entity: Entity) -> Names:
    return Names(find_key_names(report), _find_metadata(entity.dimension, find_members(entities, entity.dimension)))


def find_key_names(report: Report) -> Mapping[str, KeyName]:
    """Key id → its names, of those that are in the report and still exist."""
    keys = VirtualKey.objects.filter(id__in=find_members(report, KEY)).values_list("id", "digest", "alias", "team_id")
    return {key_id: KeyName(digest, alias or None, team_id) for key_id, digest, alias, team_id in keys}


def _find_metadata(dimension: str, members: Sequence[str]) -> Mapping[str, JsonObject]:
    """The names of teams and organizations that LiteLLM tells beside their numbers."""
    if dimension == "team":
        teams = Team.objects.filter(id__in=members).values_list("id", "alias")
        return {team_id: {"team_alias": alias or None} for team_id, alias in teams}
    if dimension == "organization":
        organizations = Organization.objects.filter(id__in=members).values_list("id", "name")
        return {place: {"organization_alias": name} for place, name in organizations}
    return {}
