"""/spend/logs?summarize=true: the spend of each day, with that of its users and models, as LiteLLM tells it."""

from collections import defaultdict
from collections.abc import Mapping
from datetime import timedelta

from django.db.models import QuerySet

from billing.models import SpendLog, UsageSeries
from billing.reports.query import ReportQuery
from billing.reports.spend import report_spend
from gateway.protocol.amounts import PUSD
from gateway.protocol.errors import BadRequest
from gateway.protocol.json.types import JsonObject

MAX_ROWS = 20_000


def summarize(
    rows: QuerySet[SpendLog], series: QuerySet[UsageSeries] | None, query: Mapping[str, str]
) -> list[JsonObject]:
    """From the first day with spend to `end_date`, in UTC. `rows` and `series`: see `report_spend`. Raises BadRequest
    without two days."""
    for name in ("start_date", "end_date"):
        if name not in query:
            raise BadRequest("A summary needs 'start_date' and 'end_date'.", param=name)
    days = {name: query[name] for name in ("start_date", "end_date")}
    period = ReportQuery.read({**days, "group_by": "day"}).period
    by = ("day", "user", "provider", "upstream_model")
    users: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    models: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    report = report_spend(rows, ReportQuery(period, by), series=series, max_rows=MAX_ROWS, param="end_date")
    for (day, user, provider, model), sums in report.rows:
        users[day][user] += sums.cost_pusd
        models[day][f"{provider}/{model}"] += sums.cost_pusd
    count = (period.end - period.start).days + 1
    names = [(period.start + timedelta(days=place)).isoformat() for place in range(count)]
    return [
        {
            "startTime": day,
            "spend": sum(users[day].values()) / PUSD,
            "users": {user: pusd / PUSD for user, pusd in users[day].items()},
            "models": {model: pusd / PUSD for model, pusd in models[day].items()},
        }
        for day in names
        if day >= min(users, default="~")
    ]
