"""/api/spend-logs: one row for each attempt of a call that could cost money, the newest first."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from django.db.models import QuerySet
from rest_framework import serializers

from billing.models import SpendLog
from billing.rest.spend_logs import read_json
from gateway.protocol.amounts import usd_text
from gateway.protocol.json.types import JsonObject
from tenants.api.fields import Amount
from tenants.api.resource import Filter, Operation, Resource
from tenants.permissions import Area, Reach
from tenants.rest.fields import render_instant

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
        "organization_id": Filter("organization_id"),
        "team_id": Filter("team_id"),
        "user_id": Filter("user_id"),
        "key_id": Filter("key_id"),
        "key_digest": Filter("key_digest"),
        "end_user": Filter("end_user"),
        "model_group": Filter("model_group"),
        "deployment_id": Filter("deployment_id"),
        "source": Filter("source", choices=("probe",)),
        "state": Filter("state", choices=SpendLog.State.values),
        "from": Filter("started_at__gte", schema_type=datetime),
        "before": Filter("started_at__lt", schema_type=datetime),
    }

    def queryset(self) -> QuerySet[SpendLog]:
        return SpendLog.objects.all()

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
