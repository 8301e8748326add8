"""/spend/logs/v2: spend logs in numbered pages, with LiteLLM's filters."""

from collections.abc import Mapping
from datetime import UTC, datetime, time
from decimal import Decimal, InvalidOperation
from uuid import UUID

from django.db.models import F, Q, QuerySet
from rest_framework.request import Request
from rest_framework.response import Response

from billing.models import SpendLog
from billing.pricing import COUNTS
from billing.reports.guard import guard_report
from billing.reports.spend import SLACK
from billing.rest.rows_renderer import RowsRenderer
from billing.rest.spend_logs import MAX_ANSWER_BYTES, TEXTS, match_request, render_rows
from billing.row_ids import first_id
from gateway.protocol.amounts import PUSD
from gateway.protocol.call import Finish
from gateway.protocol.errors import BadRequest
from tenants.keys import find_digests
from tenants.permissions import Area, Reach
from tenants.rest.authentication import caller_of
from tenants.rest.client_departure import departure_of
from tenants.rest.fields import read_count, read_instant, read_query
from tenants.rest.views import ManagementView

#: Rows that are counted, and that pages reach.
MAX_COUNTED = 100_000
MAX_PAGE_SIZE = 1000
MAX_USD = Decimal(10**6)  # of a row
#: Parameter → the column that has exactly its value.
FILTERS: Mapping[str, str] = {
    "user_id": "user_id",
    "team_id": "team_id",
    "model": "upstream_model",
    "model_id": "deployment_id",
    "model_group": "model_group",
    "end_user": "end_user",
    "key_alias": "key_alias",
}
SORTED_BY: Mapping[str, str] = {
    "startTime": "id",
    "endTime": "ended_at",
    "spend": "cost_pusd",
    "total_tokens": "all_tokens",
}
FIRST_INSTANT = datetime(2000, 1, 1, tzinfo=UTC)
STATES = ("success", "failure")
SUCCESS = Q(error_code="", status_code=200, finish=Finish.COMPLETE)
OTHERS = frozenset(
    {"api_key", "request_id", "start_date", "end_date", "status_filter", "error_code", "min_spend", "max_spend"}
)
PAGING = frozenset({"page", "page_size", "sort_by", "sort_order"})


class SpendLogPages(ManagementView):
    area = Area.SPEND
    least_reach = Reach.OWN
    renderer_classes = [RowsRenderer]

    def get(self, request: Request) -> Response:
        query = read_query(request, known={*FILTERS, *OTHERS, *PAGING})
        size = read_count(query, "page_size", default=50, maximum=MAX_PAGE_SIZE)
        page = read_count(query, "page", default=1, maximum=-(-MAX_COUNTED // size))
        rows = self.rows(SpendLog.objects.filter(_read_condition(query)))
        ordered = _sort(rows, query)
        with guard_report(caller_of(request).organization_id, departure_of(request)):
            total = rows.order_by()[:MAX_COUNTED].count()
            chosen = ordered[(page - 1) * size : page * size]
            if sum(text or 0 for text in chosen.values_list(TEXTS, flat=True)) > MAX_ANSWER_BYTES:
                raise BadRequest("The page would be too large. Ask for fewer rows.", param="page_size")
            data = render_rows(list(chosen))
        return Response(
            {"data": data, "total": total, "page": page, "page_size": size, "total_pages": -(-total // size)}
        )


def _read_condition(query: Mapping[str, str]) -> Q:
    condition = Q(**{column: query[name] for name, column in FILTERS.items() if name in query})
    if "api_key" in query:
        condition &= Q(key_digest__in=find_digests(query["api_key"]))
    if "request_id" in query:
        condition &= match_request(query["request_id"])
    else:
        for name in ("start_date", "end_date"):
            if name not in query:
                raise BadRequest("Start date and end date are required", param=name)
    if "start_date" in query:
        start = read_instant(query, "start_date", time.min)
        condition &= Q(started_at__gte=start, id__gte=_first_id(start))
    if "end_date" in query:
        condition &= Q(started_at__lte=read_instant(query, "end_date", time.max))
    if "status_filter" in query:
        if query["status_filter"] not in STATES:
            raise BadRequest(f"'status_filter' must be {' or '.join(STATES)}.", param="status_filter")
        is_closed = ~Q(state=SpendLog.State.OPEN)
        condition &= SUCCESS if query["status_filter"] == "success" else is_closed & ~SUCCESS
    if "error_code" in query:
        condition &= _match_error(query["error_code"])
    for name, lookup in (("min_spend", "cost_pusd__gte"), ("max_spend", "cost_pusd__lte")):
        if name in query:
            condition &= Q(**{lookup: _read_pusd(query, name)})
    return condition


def _first_id(start: datetime) -> UUID:
    """The primary key bounds the rows; an id has no instant before 1970."""
    return first_id(max(start, FIRST_INSTANT) - SLACK)


def _match_error(text: str) -> Q:
    """LiteLLM's code is the status; ours is a word."""
    is_status = text.isascii() and text.isdigit() and len(text) == len("500")
    return Q(error_code=text) | (Q(status_code=int(text)) & ~Q(error_code="") if is_status else Q(pk__in=()))


def _read_pusd(query: Mapping[str, str], name: str) -> int:
    try:
        usd = Decimal(query[name])
        is_amount = usd.is_finite() and 0 <= usd <= MAX_USD
    except InvalidOperation:
        is_amount = False
    if not is_amount:
        raise BadRequest(f"{name!r} must be an amount of USD from 0 to {MAX_USD}.", param=name)
    return int(usd * PUSD)


def _sort(rows: QuerySet[SpendLog], query: Mapping[str, str]) -> QuerySet[SpendLog]:
    name, order = query.get("sort_by", "startTime"), query.get("sort_order", "desc")
    if name not in SORTED_BY:
        raise BadRequest(f"'sort_by' must be one of {', '.join(SORTED_BY)}.", param="sort_by")
    if order not in {"asc", "desc"}:
        raise BadRequest("'sort_order' must be asc or desc.", param="sort_order")
    if name == "total_tokens":
        rows = rows.annotate(all_tokens=sum((F(count) for count in COUNTS[1:]), F(COUNTS[0])))
    column, is_first = F(SORTED_BY[name]), order == "asc"
    ordered = column.asc(nulls_last=True) if is_first else column.desc(nulls_last=True)
    return rows.order_by(ordered, "id" if is_first else "-id")
