"""/api/budget-templates: limits and budgets that many scopes share."""

from collections.abc import Sequence
from typing import Any

from django.db.models import QuerySet
from rest_framework import serializers

from gateway.protocol.errors import ClientFault
from gateway.protocol.json.types import JsonObject
from tenants.api.fields import Body, Flag, Limits, Text
from tenants.api.resource import Filter, Operation, Resource
from tenants.budget_templates import TemplateInUse, count_users, create_template, delete_template, update_template
from tenants.grants import check_template
from tenants.keys import find_organization
from tenants.limits import render_scopes, usd_or_none
from tenants.models import BudgetTemplate, Scope
from tenants.permissions import Area, Caller, Reach
from tenants.rest.fields import render_instant


class TemplateChange(Body):
    limits = Limits(required=False)
    is_end_user_default = Flag(required=False, help_text="Binds every end user without a budget of its own.")


class NewTemplate(TemplateChange):
    id = Text(required=False, allow_null=True)
    organization_id = Text(required=False, allow_null=True, help_text="Else the caller's, or the default one.")


class TemplateRow(TemplateChange):
    id = serializers.CharField()
    organization_id = serializers.CharField()
    used_by = serializers.DictField(child=serializers.IntegerField(), help_text="Kind of scopes → their number.")
    created_by = serializers.CharField()
    created_at = serializers.DateTimeField()
    updated_at = serializers.DateTimeField()


class BudgetTemplates(Resource[BudgetTemplate]):
    area = Area.BUDGETS
    least_reach = Reach.ORGANIZATION
    noun = "budget template"
    id_name = "budget_template_id"
    wire_names = {**Resource.wire_names, "budget_id": "id"}
    operations = {
        "list_rows": Operation("List budget templates", answer=TemplateRow),
        "create": Operation("Create a budget template", 201, TemplateRow, NewTemplate),
        "show": Operation("Show a budget template", answer=TemplateRow),
        "update": Operation("Change a budget template", answer=TemplateRow, body=TemplateChange),
        "delete_one": Operation("Delete a budget template that binds nothing", 204),
    }
    filters = {
        "organization_id": Filter("organization_id"),
        "is_end_user_default": Filter("is_end_user_default", schema_type=bool),
    }

    def queryset(self) -> QuerySet[BudgetTemplate]:
        return BudgetTemplate.objects.select_related("organization")

    def render(self, rows: Sequence[BudgetTemplate]) -> list[JsonObject]:
        places = [(row.organization_id, row.id) for row in rows]
        limits = render_scopes(Scope.TEMPLATE, places, amount=usd_or_none)
        used_by = count_users([row.id for row in rows])
        return [
            {
                "id": row.id,
                "organization_id": row.organization_id,
                "is_end_user_default": row.is_end_user_default,
                "limits": limits[row.organization_id, row.id],
                "used_by": used_by.get(row.id, {}),
                "created_by": row.created_by,
                "created_at": render_instant(row.created_at),
                "updated_at": render_instant(row.updated_at),
            }
            for row in rows
        ]

    def make(self, caller: Caller, body: dict[str, Any]) -> BudgetTemplate:
        return create_template(
            organization=find_organization(body.get("organization_id")),
            template_id=body.get("id"),
            limits=body.get("limits", {}),
            is_end_user_default=body.get("is_end_user_default", False),
            created_by=caller.name,
        )

    def change(self, caller: Caller, row: BudgetTemplate, body: dict[str, Any]) -> BudgetTemplate:
        check_template(caller, row)
        return update_template(row, limits=body.get("limits", {}), is_end_user_default=body.get("is_end_user_default"))

    def delete_row(self, caller: Caller, row: BudgetTemplate) -> None:
        check_template(caller, row)
        try:
            delete_template(row)
        except TemplateInUse as problem:
            message = f"The budget template {row.id!r} is in use: {problem}. Give them another one first."
            raise ClientFault(message, status=409, code="budget_in_use", param="budget_template_id") from None
