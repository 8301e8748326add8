"""/api/audit-entries: who changed what, the newest first."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from django.db.models import QuerySet
from rest_framework import serializers

from gateway.protocol.json.types import JsonObject
from tenants.api.fields import Object
from tenants.api.resource import Filter, Operation, Resource
from tenants.models import AuditEntry
from tenants.permissions import Area, Reach
from tenants.rest.fields import render_instant


class AuditRow(serializers.Serializer[Any]):
    id = serializers.IntegerField()
    at = serializers.DateTimeField()
    organization_id = serializers.CharField(allow_null=True)
    actor = serializers.CharField(help_text="A user id, the id of a key, `master key` or `system`.")
    changed_by = serializers.CharField(help_text="For whom the caller says to act (litellm-changed-by).")
    action = serializers.CharField()
    object_type = serializers.CharField()
    object_id = serializers.CharField()
    before = Object(allow_null=True)
    after = Object(allow_null=True)
    previous_digest = serializers.CharField()
    digest = serializers.CharField()


class AuditEntries(Resource[AuditEntry]):
    area = Area.AUDIT
    least_reach = Reach.OWN
    noun = "audit entry"
    id_name = "audit_entry_id"
    operations = {
        "list_rows": Operation("List audit entries", answer=AuditRow),
        "show": Operation("Show an audit entry", answer=AuditRow),
    }
    filters = {
        "organization_id": Filter("organization_id"),
        "actor": Filter("actor"),
        "changed_by": Filter("changed_by"),
        "action": Filter("action"),
        "object_type": Filter("object_type"),
        "object_id": Filter("object_id"),
        "from": Filter("at__gte", schema_type=datetime),
        "before": Filter("at__lt", schema_type=datetime),
    }

    def queryset(self) -> QuerySet[AuditEntry]:
        return AuditEntry.objects.all()

    def render(self, rows: Sequence[AuditEntry]) -> list[JsonObject]:
        return [
            {
                "id": row.id,
                "at": render_instant(row.at),
                "organization_id": row.organization_id,
                "actor": row.actor,
                "changed_by": row.changed_by,
                "action": row.action,
                "object_type": row.object_type,
                "object_id": row.object_id,
                "before": row.before,
                "after": row.after,
                "previous_digest": row.previous_digest,
                "digest": row.digest,
            }
            for row in rows
        ]
