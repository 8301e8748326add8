"""LiteLLM's reports of spend: /global/spend/report, /global/activity, /global/activity/model and /spend/tags.

Days are those of UTC, both dates included. Every caller sees the rows of the spend log that it may read.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import timedelta
from operator import itemgetter
from zoneinfo import ZoneInfo

from django.db.models import Q
from django.utils import timezone
from rest_framework.request import Request
from rest_framework.response import Response

from billing.models import SpendLog, UsageSeries
from billing.pricing import INPUTS
from billing.reports.guard import guard_report
from billing.reports.kept import find_first_day
from billing.reports.query import MAX_DAYS, ReportQuery
from billing.reports.spend import COUNTERS, Report, Sums, report_spend
from billing.rest.daily_activity import find_key_names
from billing.rest.rows_renderer import RowsRenderer
from gateway.protocol.amounts import PUSD
from gateway.protocol.errors import BadRequest
from gateway.protocol.json.types import JsonObject
from tenants.keys import find_digests
from tenants.models import Team
from tenants.permissions import Area, Reach
from tenants.rest.authentication import caller_of
from tenants.rest.client_departure import departure_of
from tenants.rest.fields import read_query
from tenants.rest.views import ManagementView

MAX_ROWS = 20_000
#: `group_by` → the dimension, and the name of a day's members.
GROUPS: Mapping[str, tuple[str, str]] = {
    "team": ("team", "teams"),
    "customer": ("end_user", "customers"),
    "api_key": ("key", "api_keys"),
}
NO_TEAM = "Unassigned Team"  # LiteLLM's words
#: Parameter → the column of a row.
FILTERS: Mapping[str, str] = {"internal_user_id": "user_id", "team_id": "team_id", "customer_id": "end_user"}
#: Parameters that choose rows by what no series of the rollups has.
NOT_OF_SERIES = frozenset({"api_key", "customer_id"})
DATES = frozenset({"start_date", "end_date"})
ALL = Q()
REQUESTS = COUNTERS.index("requests")


class SpendReportView(ManagementView):
    area = Area.SPEND
    least_reach = Reach.OWN
    renderer_classes = [RowsRenderer]

    def report(self, request: Request, query: Mapping[str, str], group_by: Sequence[str], condition: Q = ALL) -> Report:
        """Raises BadRequest where a date is missing or wrong."""
        for name in sorted(DATES):
            if name not in query:
                raise BadRequest("Please provide start_date and end_date", param=name)
        days = {name: query[name] for name in DATES}
        period = ReportQuery.read({**days, "group_by": "day"}).period
        rows = self.rows(SpendLog.objects.filter(condition))
        has_series = NOT_OF_SERIES.isdisjoint(query)
        series = self.rows(UsageSeries.objects.filter(condition)) if has_series else None
        with guard_report(caller_of(request).organization_id, departure_of(request)):
            by = ReportQuery(period, tuple(group_by))
            return report_spend(rows, by, series=series, max_rows=MAX_ROWS, param="end_date")


class GlobalSpendReport(SpendReportView):
    """Days of teams or customers, each with its models and keys; or keys with their models, the dearest first."""

    def get(self, request: Request) -> Response:
        query = read_query(request, known={*DATES, "group_by", "api_key", *FILTERS})
        group_by = query.get("group_by", "team")
        if group_by not in GROUPS:
            raise BadRequest(f"'group_by' must be one of {', '.join(GROUPS)}.", param="group_by")
        condition = Q(**{column: query[name] for name, column in FILTERS.items() if name in query})
        if "api_key" in query:
            condition &= Q(key_digest__in=find_digests(query["api_key"]))
        if group_by == "api_key" or "api_key" in query or "internal_user_id" in query:
            return Response(render_keys(self.report(request, query, ("key", "upstream_model"), condition)))
        dimension, _ = GROUPS[group_by]
        report = self.report(request, query, ("day", dimension, "upstream_model", "key"), condition)
        return Response(render_days(report, group_by))


class GlobalActivity(SpendReportView):
    """Requests and tokens of each day."""

    def get(self, request: Request) -> Response:
        report = self.report(request, read_query(request, known=DATES), ("day",))
        return Response(_render_activity([(day, sums) for (day,), sums in report.rows]))


class GlobalModelActivity(SpendReportView):
    """The same of each model group, the most used first."""

    def get(self, request: Request) -> Response:
        report = self.report(request, read_query(request, known=DATES), ("model_group", "day"))
        models: dict[str, list[tuple[str, Sums]]] = defaultdict(list)
        for (model, day), sums in report.rows:
            models[model].append((day, sums))
        rows = [{"model": model, **_render_activity(days)} for model, days in models.items()]
        return Response(sorted(rows, key=itemgetter("sum_api_requests"), reverse=True))


class SpendTags(SpendReportView):
    """Without dates the longest period that a report may have, until today, as far as there are sums."""

    def get(self, request: Request) -> Response:
        today = timezone.now().date()
        first = today - timedelta(days=MAX_DAYS - 1)
        first = max(first, find_first_day(ZoneInfo("UTC")) or first)
        longest = {"start_date": str(first), "end_date": str(today)}
        given = read_query(request, known=DATES)
        report = self.report(request, given or longest, ("tag",))
        return Response(
            [
                {
                    "individual_request_tag": tag,
                    "log_count": sums.counts[REQUESTS],
                    "total_spend": sums.cost_pusd / PUSD,
                }
                for (tag,), sums in sorted(report.rows, key=lambda row: -row[1].cost_pusd)
                if tag
            ]
        )


def render_days(report: Report, group_by: str) -> list[JsonObject]:
    """`report` is by day, team or end user, upstream model and key."""
    _, name = GROUPS[group_by]
    digests = {key_id: key.digest for key_id, key in find_key_names(report).items()}
    teams = _find_team_names(report) if group_by == "team" else None
    days: dict[str, dict[str, list[tuple[str, str, Sums]]]] = defaultdict(lambda: defaultdict(list))
    for (day, member, model, key_id), sums in report.rows:
        days[day][member].append((model, digests.get(key_id, key_id), sums))
    return [
        {
            "group_by_day": f"{day}T00:00:00+00:00",
            name: [
                {
                    **_name_member(member, teams),
                    "total_spend": sum(sums.cost_pusd for _, _, sums in rows) / PUSD,
                    "metadata": [
                        {
                            "model": model,
                            "spend": sums.cost_pusd / PUSD,
                            "total_tokens": sum(sums.tokens),
                            "api_key": digest,
                        }
                        for model, digest, sums in rows
                    ],
                }
                for member, rows in members.items()
            ],
        }
        for day, members in days.items()
    ]


def _name_member(member: str, teams: Mapping[str, str] | None) -> JsonObject:
    """`teams`: id → name; None for customers."""
    if teams is None:
        return {"customer": member}
    return {"team_name": teams.get(member, member or NO_TEAM), "team_id": member or None}


def _find_team_names(report: Report) -> Mapping[str, str]:
    ids = {members[1] for members, _ in report.rows}
    teams = Team.objects.filter(id__in=ids).values_list("id", "alias")
    return {team_id: alias or team_id for team_id, alias in teams}


def render_keys(report: Report) -> list[JsonObject]:
    """`report` is by key and upstream model."""
    digests = {key_id: key.digest for key_id, key in find_key_names(report).items()}
    keys: dict[str, list[tuple[str, Sums]]] = defaultdict(list)
    for (key_id, model), sums in report.rows:
        keys[key_id].append((model, sums))
    rows = [
        {
            "api_key": digests.get(key_id, key_id),
            **_render_costs([sums for _, sums in models]),
            "model_details": [{"model": model, **_render_costs([sums])} for model, sums in models],
        }
        for key_id, models in keys.items()
    ]
    return sorted(rows, key=itemgetter("total_cost"), reverse=True)


def _render_costs(sums: Sequence[Sums]) -> JsonObject:
    return {
        "total_cost": sum(each.cost_pusd for each in sums) / PUSD,
        "total_input_tokens": sum(sum(each.tokens[:INPUTS]) for each in sums),
        "total_output_tokens": sum(sum(each.tokens[INPUTS:]) for each in sums),
    }


def _render_activity(days: Sequence[tuple[str, Sums]]) -> JsonObject:
    return {
        "daily_data": [
            {"date": day, "api_requests": sums.counts[REQUESTS], "total_tokens": sum(sums.tokens)} for day, sums in days
        ],
        "sum_api_requests": sum(sums.counts[REQUESTS] for _, sums in days),
        "sum_total_tokens": sum(sum(sums.tokens) for _, sums in days),
    }
