"""/api/spend-logs: one row for each attempt of a call that could cost money, the newest first."""

from collections.abc import Mapping, Sequence
from datetime import datetime, time
from typing import Any
from uuid import UUID

from django.db.models import QuerySet
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from billing.log_search import FAILURE, SUCCESS, LogSearch, find_page
from billing.models import SpendLog
from billing.rest.spend_logs import match_request, read_json
from gateway.protocol.amounts import usd_text
from gateway.protocol.json.types import JsonObject
from tenants.api.fields import Amount
from tenants.api.paging import DEFAULT_SIZE, MAX_SIZE, PARAMETERS, make_cursor, read_cursor, read_page
from tenants.api.resource import Filter, Operation, Resource
from tenants.permissions import Area, Reach
from tenants.rest.authentication import caller_of
from tenants.rest.fields import read_count, read_instant, read_query, render_instant

TOKENS = (
    "input_tokens",
    "input_audio_tokens",
    "cache_read_tokens",
    "cache_write_5m_tokens",
    "cache_write_1h_tokens",
    "output_tokens",
    "output_audio_tokens",
    "reasoning_tokens",
)
TEXTS = (
    "organization_id",
    "team_id",
    "user_id",
    "key_id",
    "key_digest",
    "key_alias",
    "end_user",
    "application",
    "source",
    "operation",
    "model_group",
    "deployment_id",
    "provider",
    "upstream_model",
    "served_model",
    "upstream_id",
    "service_tier",
    "price_id",
    "price_error",
    "finish",
    "error_code",
    "error_message",
    "usage_source",
)
#: Filters by one value of a column.
EQUAL = (
    "organization_id",
    "team_id",
    "user_id",
    "key_id",
    "key_digest",
    "end_user",
    "application",
    "model_group",
    "deployment_id",
    "provider",
    "upstream_model",
    "operation",
    "error_code",
)


def declare_row() -> type[serializers.Serializer[Any]]:
    """The serializer of a row: its texts and tokens are the columns of the model."""
    fields: dict[str, Any] = {
        "id": serializers.UUIDField(),
        "request_id": serializers.UUIDField(),
        "attempt": serializers.IntegerField(),
        "state": serializers.ChoiceField(SpendLog.State.choices),
        "stream": serializers.BooleanField(),
        "status_code": serializers.IntegerField(help_text="The status that the client got."),
        **{name: serializers.CharField(allow_blank=True) for name in TEXTS},
        **{name: serializers.IntegerField() for name in TOKENS},
        "cost_usd": Amount(allow_null=True, help_text="Null while the row has no price."),
        "tags": serializers.JSONField(),
        "metadata": serializers.JSONField(),
        "usage": serializers.JSONField(allow_null=True, help_text="As the provider reported it."),
        "started_at": serializers.DateTimeField(),
        "first_token_at": serializers.DateTimeField(allow_null=True),
        "ended_at": serializers.DateTimeField(allow_null=True),
        "priced_at": serializers.DateTimeField(allow_null=True),
    }
    return type("SpendLogRow", (serializers.Serializer,), fields)


ROW = declare_row()


class SpendLogRows(Resource[SpendLog]):
    area = Area.SPEND
    least_reach = Reach.OWN
    noun = "spend log"
    id_name = "spend_log_id"
    operations = {
        "list_rows": Operation("List spend logs", answer=ROW),
        "show": Operation("Show a spend log", answer=ROW),
    }
    filters = {
        **{name: Filter(name) for name in EQUAL},
        "source": Filter("source", choices=("probe",)),
        "state": Filter("state", choices=SpendLog.State.values),
        "status": Filter("", "As `/spend/logs` shows it.", choices=(SUCCESS, FAILURE)),
        "tag": Filter("", "Rows that have this tag among theirs."),
        "request_id": Filter("", "The id of a request, or an upstream id."),
        "from": Filter("started_at__gte", schema_type=datetime),
        "before": Filter("started_at__lt", schema_type=datetime),
    }

    def queryset(self) -> QuerySet[SpendLog]:
        return SpendLog.objects.all()

    def list_rows(self, request: Request, **names: str) -> Response:
        """A page may have fewer rows than it could, or none, while `next_cursor` leads on: no page looks at more rows
        than a bounded number."""
        query = read_query(request, known={*self.filters, *PARAMETERS})
        size = read_count(query, "page_size", default=DEFAULT_SIZE, maximum=MAX_SIZE)
        cursor = read_cursor(SpendLog, query["cursor"]) if "cursor" in query else None
        after = cursor if isinstance(cursor, UUID) else None
        rows = self.rows(self.queryset())
        page = find_page(caller_of(request), rows, self.read_search(query), size=size, after=after)
        found = read_page(rows.filter(pk__in=page.ids), {"page_size": str(size)})
        next_cursor = make_cursor(page.next_after) if page.next_after is not None else None
        return Response({"data": self.render(found.rows), "next_cursor": found.next_cursor or next_cursor})

    def read_search(self, query: Mapping[str, str]) -> LogSearch:
        values = {name: str(each.read(query, name)) for name, each in self.filters.items() if name in query}
        return LogSearch(
            equal={name: [values[name]] for name in (*EQUAL, "source", "state") if name in values},
            request=match_request(values["request_id"]) if "request_id" in values else None,
            tag=values.get("tag", ""),
            status=values.get("status", ""),
            starts_at=read_instant(query, "from", time.min) if "from" in query else None,
            ends_before=read_instant(query, "before", time.min) if "before" in query else None,
        )

    def render(self, rows: Sequence[SpendLog]) -> list[JsonObject]:
        return [
            {
                "id": str(row.id),
                "request_id": str(row.request_id),
                **{name: getattr(row, name) for name in ("attempt", "state", "stream", "status_code", *TEXTS, *TOKENS)},
                "cost_usd": None if row.cost_pusd is None else usd_text(row.cost_pusd),
                "tags": read_json(row.tags),
                "metadata": read_json(row.metadata),
                "usage": read_json(row.usage) if row.usage else None,
                "started_at": render_instant(row.started_at),
                "first_token_at": render_instant(row.first_token_at),
                "ended_at": render_instant(row.ended_at),
                "priced_at": render_instant(row.priced_at),
            }
            for row in rows
        ]
