"""/api/organizations: the tenants of the platform."""

from collections.abc import Sequence
from typing import Any

from django.db.models import QuerySet
from rest_framework import serializers

from gateway.protocol.json.types import JsonObject
from tenants.api.fields import Body, Choice, Flag, Limits, Object, Spend, Text, Whole, tags_of, texts
from tenants.api.resource import Filter, Operation, Resource
from tenants.api.spending import render_spenders
from tenants.budget_usage import Spender
from tenants.keys import merge_tags
from tenants.models import Organization, Scope, UnpricedPolicy
from tenants.organizations import (
    MAX_RETENTION_DAYS,
    create_organization,
    delete_organizations,
    update_organization,
)
from tenants.permissions import Area, Caller, Reach
from tenants.rest.fields import render_instant

COLUMNS = (
    "name",
    "blocked",
    "retention_days",
    "allowed_models",
    "metadata",
    "tags",
    "time_zone",
    "unpriced_policy",
)


class OrganizationChange(Body):
    name = Text(required=False, allow_blank=False)
    blocked = Flag(required=False, help_text="Refuses every key of the organization.")
    retention_days = Whole(
        required=False, allow_null=True, min_value=1, max_value=MAX_RETENTION_DAYS, help_text="Of stored responses."
    )
    allowed_models = texts(required=False, help_text="Model groups; empty: all.")
    time_zone = Text(required=False, help_text="Where the days and months of its budgets begin.")
    unpriced_policy = Choice(
        UnpricedPolicy.choices, required=False, help_text="Calls of models without a price, under a hard budget."
    )
    tags = texts(required=False, help_text="A part of the metadata.")
    metadata = Object(required=False)
    budget_template_id = Text(required=False, allow_null=True)
    limits = Limits(required=False)


class NewOrganization(OrganizationChange):
    id = Text(required=False, allow_null=True)
    name = Text(allow_blank=False)


class OrganizationRow(OrganizationChange):
    id = serializers.CharField()
    stored_bytes = serializers.IntegerField(help_text="Of stored responses, as the worker counted them last.")
    created_at = serializers.DateTimeField()
    spend = Spend()


class Organizations(Resource[Organization]):
    area = Area.ORGANIZATIONS
    least_reach = Reach.PLATFORM
    noun = "organization"
    id_name = "organization_id"
    wire_names = {**Resource.wire_names, "organization_id": "id"}
    operations = {
        "list_rows": Operation("List organizations", answer=OrganizationRow, least_reach=Reach.ORGANIZATION),
        "create": Operation("Create an organization", 201, OrganizationRow, NewOrganization),
        "show": Operation("Show an organization", answer=OrganizationRow, least_reach=Reach.ORGANIZATION),
        "update": Operation("Change an organization", answer=OrganizationRow, body=OrganizationChange),
        "delete_one": Operation("Delete an organization with all that belongs to it", 204),
    }
    filters = {"name": Filter("name"), "blocked": Filter("blocked", schema_type=bool)}

    def queryset(self) -> QuerySet[Organization]:
        return Organization.objects.all()

    def render(self, rows: Sequence[Organization]) -> list[JsonObject]:
        spenders = [Spender(row, Scope.ORGANIZATION, row.id, row.budget_template_id) for row in rows]
        return [
            {
                "id": row.id,
                "name": row.name,
                "blocked": row.blocked,
                "retention_days": row.retention_days,
                "allowed_models": row.allowed_models,
                "time_zone": row.time_zone,
                "unpriced_policy": row.unpriced_policy,
                "tags": tags_of(row.metadata),
                "metadata": row.metadata,
                "budget_template_id": row.budget_template_id,
                "stored_bytes": row.stored_bytes,
                "created_at": render_instant(row.created_at),
                **more,
            }
            for row, more in zip(rows, render_spenders(spenders), strict=True)
        ]

    def make(self, caller: Caller, body: dict[str, Any]) -> Organization:
        metadata = body.get("metadata")
        return create_organization(
            name=body["name"],
            organization_id=body.get("id"),
            blocked=body.get("blocked", False),
            retention_days=body.get("retention_days"),
            allowed_models=body.get("allowed_models"),
            metadata=merge_tags(metadata, body["tags"]) if "tags" in body else metadata,
            time_zone=body.get("time_zone"),
            unpriced_policy=body.get("unpriced_policy"),
            template_id=body.get("budget_template_id") or None,
            limits=body.get("limits"),
        )

    def change(self, caller: Caller, row: Organization, body: dict[str, Any]) -> Organization:
        changes: dict[str, object] = {name: body[name] for name in COLUMNS if name in body}
        if "budget_template_id" in body:
            changes["budget_id"] = body["budget_template_id"]
        return update_organization(row, changes={**changes, **body.get("limits", {})})

    def delete_row(self, caller: Caller, row: Organization) -> None:
        delete_organizations([row])
