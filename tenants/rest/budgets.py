"""The management API of budget templates: /budget/*, with the names of LiteLLM's routes and fields."""

from collections.abc import Collection

from django.db import transaction
from rest_framework.request import Request
from rest_framework.response import Response

from gateway.protocol.errors import BadRequest, ClientFault, NotFound
from gateway.protocol.json.types import JsonObject
from tenants.budget_templates import (
    TemplateInUse,
    check_reset_at,
    count_users,
    create_template,
    delete_template,
    next_reset,
    update_template,
)
from tenants.grants import check_template
from tenants.keys import find_organization
from tenants.limits import LIMIT_FIELDS, render_scopes
from tenants.models import BudgetTemplate, Scope
from tenants.permissions import Area, Reach
from tenants.rest.authentication import caller_of
from tenants.rest.fields import read_body, read_count, read_flag, read_query, read_text, render_instant
from tenants.rest.unenforced_fields import read_fields
from tenants.rest.views import ManagementView

UPDATE_FIELDS = LIMIT_FIELDS | {"budget_id", "is_end_user_default", "budget_reset_at"}
NEW_FIELDS = UPDATE_FIELDS | {"organization_id"}
MAX_NAMED = 1000
PAGE = 1000
#: The fields of /budget/settings, with the names of their types.
SETTINGS = {
    "max_budget": "Float",
    "soft_budget": "Float",
    "max_parallel_requests": "Integer",
    "tpm_limit": "Integer",
    "rpm_limit": "Integer",
    "budget_duration": "String",
}


class BudgetView(ManagementView):
    wire_names = {"organization": "organization_id"}
    area = Area.BUDGETS
    least_reach = Reach.ORGANIZATION


class NewBudget(BudgetView):
    def post(self, request: Request) -> Response:
        body = read_fields(request, known=NEW_FIELDS)
        with transaction.atomic():
            template = create_template(
                organization=find_organization(read_text(body, "organization_id")),
                template_id=read_text(body, "budget_id"),
                limits=body,
                is_end_user_default=read_flag(body, "is_end_user_default"),
                created_by=caller_of(request).name,
            )
            check_reset_at(template, body.get("budget_reset_at"))
        return Response(render_templates([template])[0])


class UpdateBudget(BudgetView):
    def post(self, request: Request) -> Response:
        body = read_fields(request, known=UPDATE_FIELDS)
        is_default = read_flag(body, "is_end_user_default") if "is_end_user_default" in body else None
        with transaction.atomic():
            template = _find_template(read_text(body, "budget_id"), "budget_id")
            check_template(caller_of(request), template)
            template = update_template(template, limits=body, is_end_user_default=is_default)
            check_reset_at(template, body.get("budget_reset_at"))
        return Response(render_templates([template])[0])


class DeleteBudget(BudgetView):
    def post(self, request: Request) -> Response:
        body = read_body(request, known={"id"})
        with transaction.atomic():
            template = _find_template(read_text(body, "id"), "id")
            check_template(caller_of(request), template)
            row = render_templates([template])[0]
            try:
                delete_template(template)
            except TemplateInUse as problem:
                raise ClientFault(
                    f"The budget {template.id!r} is in use: {problem}. Give them another budget first.",
                    status=409,
                    code="budget_in_use",
                    param="id",
                ) from None
        return Response(row)


class BudgetInfo(BudgetView):
    is_read = True

    def post(self, request: Request) -> Response:
        body = read_body(request, known={"budgets"})
        ids = read_ids(body, "budgets")
        templates = list(BudgetTemplate.objects.filter(id__in=ids).select_related("organization"))
        return Response(render_templates(templates))


class ListBudgets(BudgetView):
    def get(self, request: Request) -> Response:
        query = read_query(request, known={"page", "page_size", "organization_id"})
        page = read_count(query, "page", default=1, maximum=10**9 - 1)
        size = read_count(query, "page_size", default=PAGE, maximum=PAGE)
        rows = BudgetTemplate.objects.select_related("organization").order_by("-created_at", "-id")
        if "organization_id" in query:
            rows = rows.filter(organization_id=query["organization_id"])
        return Response(render_templates(list(rows[(page - 1) * size : page * size])))


class BudgetSettings(BudgetView):
    def get(self, request: Request) -> Response:
        query = read_query(request, known={"budget_id"})
        row = render_templates([_find_template(query.get("budget_id"), "budget_id")])[0]
        return Response(
            [
                {
                    "field_name": name,
                    "field_type": kind,
                    "field_description": "",
                    "field_value": row[name],
                    "stored_in_db": row[name] is not None,
                    "field_default_value": None,
                    "premium_field": False,
                    "nested_fields": None,
                }
                for name, kind in SETTINGS.items()
            ]
        )


def render_templates(templates: Collection[BudgetTemplate]) -> list[JsonObject]:
    """Templates in LiteLLM's shape, with two queries for the limits of all and one for each kind of what they bind."""
    limits = render_scopes(Scope.TEMPLATE, [(template.organization_id, template.id) for template in templates])
    used_by = count_users([template.id for template in templates])
    return [
        {
            "budget_id": template.id,
            **fields,
            "organization_id": template.organization_id,
            "is_end_user_default": template.is_end_user_default,
            "used_by": used_by.get(template.id, {}),
            "budget_reset_at": render_instant(next_reset(template, fields["budget_duration"] or "")),
            "allowed_models": [],
            "created_at": render_instant(template.created_at),
            "created_by": template.created_by,
            "updated_at": render_instant(template.updated_at),
            "updated_by": template.created_by,
        }
        for template in templates
        for fields in (limits[template.organization_id, template.id],)
    ]


def read_ids(body: JsonObject, name: str) -> list[str]:
    """The ids that a body lists. Raises BadRequest."""
    values = body.get(name)
    if (
        not isinstance(values, list)
        or not 1 <= len(values) <= MAX_NAMED
        or not all(isinstance(value, str) and value and "\0" not in value for value in values)
    ):
        raise BadRequest(f"{name!r} must be a list of 1 to {MAX_NAMED} texts.", param=name)
    return list(dict.fromkeys(values))


def _find_template(template_id: str | None, param: str) -> BudgetTemplate:
    if template_id is None:
        raise BadRequest(f"Name the budget with {param!r}.", param=param)
    template = BudgetTemplate.objects.filter(id=template_id).select_related("organization").first()
    if template is None:
        raise NotFound("Budget not found.", param=param)
    return template
