"""/api/end-users: the customers whom requests name. `external_id` is the name in requests, `id` that of the row."""

from collections.abc import Sequence
from typing import Any

from django.db.models import QuerySet
from rest_framework import serializers

from gateway.protocol.json.types import JsonObject
from tenants.api.fields import Body, Flag, Limits, Spend, Text, texts
from tenants.api.resource import Filter, Operation, Resource
from tenants.api.spending import render_spenders
from tenants.budget_usage import Spender
from tenants.end_users import create_end_user, delete_end_users, update_end_user
from tenants.keys import find_organization
from tenants.models import EndUser, Scope
from tenants.permissions import Area, Caller, Reach
from tenants.rest.fields import render_instant

COLUMNS = ("alias", "blocked", "allowed_models")


class EndUserChange(Body):
    alias = Text(required=False, allow_null=True)
    blocked = Flag(required=False)
    allowed_models = texts(required=False, help_text="Model groups; empty: all.")
    budget_template_id = Text(required=False, allow_null=True, help_text="Takes the place of an own budget.")
    limits = Limits(required=False)


class NewEndUser(EndUserChange):
    external_id = Text(allow_blank=False)
    organization_id = Text(required=False, allow_null=True, help_text="Else the caller's, or the default one.")


class EndUserRow(EndUserChange):
    id = serializers.IntegerField()
    external_id = serializers.CharField()
    organization_id = serializers.CharField()
    created_at = serializers.DateTimeField()
    updated_at = serializers.DateTimeField()
    spend = Spend()


class EndUsers(Resource[EndUser]):
    area = Area.END_USERS
    least_reach = Reach.ORGANIZATION
    noun = "end user"
    id_name = "end_user_id"
    wire_names = {**Resource.wire_names, "user_id": "external_id", "name": "external_id"}
    operations = {
        "list_rows": Operation("List end users", answer=EndUserRow),
        "create": Operation("Create an end user", 201, EndUserRow, NewEndUser),
        "show": Operation("Show an end user", answer=EndUserRow),
        "update": Operation("Change an end user", answer=EndUserRow, body=EndUserChange),
        "delete_one": Operation("Delete an end user with its limits", 204),
    }
    filters = {
        "organization_id": Filter("organization_id"),
        "external_id": Filter("external_id"),
        "blocked": Filter("blocked", schema_type=bool),
    }

    def queryset(self) -> QuerySet[EndUser]:
        return EndUser.objects.select_related("organization", "budget_template")

    def render(self, rows: Sequence[EndUser]) -> list[JsonObject]:
        spenders = [Spender(row.organization, Scope.END_USER, row.external_id, row.budget_template_id) for row in rows]
        return [
            {
                "id": row.pk,
                "external_id": row.external_id,
                "organization_id": row.organization_id,
                "alias": row.alias or None,
                "blocked": row.blocked,
                "allowed_models": row.allowed_models,
                "budget_template_id": row.budget_template_id,
                "created_at": render_instant(row.created_at),
                "updated_at": render_instant(row.updated_at),
                **more,
            }
            for row, more in zip(rows, render_spenders(spenders), strict=True)
        ]

    def make(self, caller: Caller, body: dict[str, Any]) -> EndUser:
        return create_end_user(
            organization=find_organization(body.get("organization_id")),
            name=body["external_id"],
            changes=read_changes(body),
            limits=body.get("limits", {}),
        )

    def change(self, caller: Caller, row: EndUser, body: dict[str, Any]) -> EndUser:
        return update_end_user(row, changes=read_changes(body), limits=body.get("limits", {}))

    def delete_row(self, caller: Caller, row: EndUser) -> None:
        delete_end_users([row])


def read_changes(body: dict[str, Any]) -> dict[str, object]:
    """The fields of a body under the names of `update_end_user`."""
    changes: dict[str, object] = {name: body[name] for name in COLUMNS if name in body}
    if "budget_template_id" in body:
        changes["budget_id"] = body["budget_template_id"]
    return changes
