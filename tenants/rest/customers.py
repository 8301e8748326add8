"""The management API of end users: /customer/* and /end_user/*, with the names of LiteLLM's routes and fields."""

from collections.abc import Collection, Mapping

from django.db import transaction
from django.db.models import QuerySet
from rest_framework.request import Request
from rest_framework.response import Response

from gateway.protocol.errors import BadRequest, NotFound
from gateway.protocol.json.types import Json, JsonMapping, JsonObject
from tenants.budget_usage import Spender, read_usages
from tenants.end_users import (
    block_end_users,
    create_end_user,
    delete_end_users,
    set_end_users_blocked,
    update_end_user,
)
from tenants.keys import find_organization
from tenants.limits import LIMIT_FIELDS, render_scopes, render_spend
from tenants.models import EndUser, Organization, Scope
from tenants.permissions import Area, Reach
from tenants.rest.budgets import read_ids
from tenants.rest.fields import read_body, read_count, read_flag, read_query, read_text, render_instant
from tenants.rest.unenforced_fields import read_fields
from tenants.rest.views import ManagementView

FIELDS = frozenset({"user_id", "organization_id", "alias", "blocked", "models", "budget_id"})
NAMES = {"alias": "alias", "allowed_models": "models", "organization": "organization_id"}
PAGE = 1000
NOTHING: tuple[Json, ...] = (None, [], {})


class CustomerView(ManagementView):
    area = Area.END_USERS
    least_reach = Reach.ORGANIZATION
    wire_names = NAMES


class NewCustomer(CustomerView):
    def post(self, request: Request) -> Response:
        body = read_fields(request, known=FIELDS | LIMIT_FIELDS)
        name = _read_name(body)
        with transaction.atomic():
            end_user = create_end_user(
                organization=find_organization(read_text(body, "organization_id")),
                name=name,
                changes=_read_changes(body),
                limits=body,
            )
        return Response(render_customers([end_user])[0])


class CustomerInfo(CustomerView):
    def get(self, request: Request) -> Response:
        query = read_query(request, known={"end_user_id", "organization_id"})
        if "end_user_id" not in query:
            raise BadRequest("Name the customer with ?end_user_id=.", param="end_user_id")
        organization = find_organization(query.get("organization_id"))
        return Response(render_customers([_find(organization, query["end_user_id"], "end_user_id")])[0])


class ListCustomers(CustomerView):
    def get(self, request: Request) -> Response:
        query = read_query(request, known={"page", "page_size", "organization_id"})
        page = read_count(query, "page", default=1, maximum=10**9 - 1)
        size = read_count(query, "page_size", default=PAGE, maximum=PAGE)
        rows: QuerySet[EndUser] = EndUser.objects.select_related("organization", "budget_template").order_by("-id")
        if "organization_id" in query:
            rows = rows.filter(organization_id=query["organization_id"])
        return Response(render_customers(list(rows[(page - 1) * size : page * size])))


class UpdateCustomer(CustomerView):
    def post(self, request: Request) -> Response:
        body = read_fields(request, known=FIELDS | LIMIT_FIELDS)
        name = _read_name(body)
        organization = find_organization(read_text(body, "organization_id"))
        with transaction.atomic():
            end_user = _find(organization, name, "user_id")
            end_user = update_end_user(end_user, changes=_read_changes(body), limits=body)
        return Response(render_customers([end_user])[0])


class DeleteCustomers(CustomerView):
    def post(self, request: Request) -> Response:
        names, organization = _read_names(request)
        with transaction.atomic():
            end_users = _find_all(organization, names)
            delete_end_users(end_users)
        return Response(
            {"deleted_customers": len(end_users), "message": f"Successfully deleted customers with ids: {names}"}
        )


class BlockCustomers(CustomerView):
    def post(self, request: Request) -> Response:
        names, organization = _read_names(request)
        return Response({"blocked_users": render_customers(block_end_users(organization, names))})


class UnblockCustomers(CustomerView):
    def post(self, request: Request) -> Response:
        names, organization = _read_names(request)
        with transaction.atomic():
            end_users = set_end_users_blocked(_find_all(organization, names), blocked=False)
        return Response({"blocked_users": [], "unblocked_users": render_customers(end_users)})


def render_customers(end_users: Collection[EndUser]) -> list[JsonObject]:
    """End users in LiteLLM's shape, all with the same number of queries. `litellm_budget_table` is what binds them: the
    values of their own before those of the template."""
    own = render_scopes(Scope.END_USER, [(row.organization_id, row.external_id) for row in end_users])
    spenders = [Spender(row.organization, Scope.END_USER, row.external_id, row.budget_template_id) for row in end_users]
    templates = {row.budget_template_id: row.budget_template for row in end_users if row.budget_template is not None}
    shared = render_scopes(Scope.TEMPLATE, [(template.organization_id, template.id) for template in templates.values()])
    rows: list[JsonObject] = []
    for row, usage in zip(end_users, read_usages(spenders), strict=True):
        limits = own[row.organization_id, row.external_id]
        template = row.budget_template
        inherited = shared[template.organization_id, template.id] if template is not None else {}
        effective = {
            name: value if value not in (None, [], {}) else inherited.get(name) for name, value in limits.items()
        }
        has_budget = any(value not in (None, [], {}) for value in effective.values())
        rows.append(
            {
                "user_id": row.external_id,
                "alias": row.alias or None,
                "blocked": row.blocked,
                "models": row.allowed_models,
                "allowed_model_region": None,
                "default_model": None,
                "organization_id": row.organization_id,
                "budget_id": row.budget_template_id,
                **limits,
                **render_spend(usage),
                "litellm_budget_table": (
                    {"budget_id": row.budget_template_id, **limits, **effective} if has_budget else None
                ),
                "created_at": render_instant(row.created_at),
                "updated_at": render_instant(row.updated_at),
            }
        )
    return rows


def _read_name(body: JsonMapping) -> str:
    name = read_text(body, "user_id")
    if name is None:
        raise BadRequest("Name the customer with 'user_id'.", param="user_id")
    return name


def _read_names(request: Request) -> tuple[list[str], Organization]:
    body = read_body(request, known={"user_ids", "organization_id"})
    return read_ids(body, "user_ids"), find_organization(read_text(body, "organization_id"))


def _read_changes(body: JsonMapping) -> Mapping[str, object]:
    """The fields of the body under the names of `update_end_user`."""
    changes: dict[str, object] = {}
    if "alias" in body:
        changes["alias"] = read_text(body, "alias")
    if "blocked" in body:
        changes["blocked"] = read_flag(body, "blocked")
    if "models" in body:
        changes["allowed_models"] = body["models"]
    if "budget_id" in body:
        changes["budget_id"] = read_text(body, "budget_id")
    return changes


def _find(organization: Organization, name: str, param: str) -> EndUser:
    rows = EndUser.objects.select_related("organization", "budget_template")
    end_user: EndUser | None = rows.filter(organization=organization, external_id=name).first()
    if end_user is None:
        raise NotFound("Customer not found.", param=param)
    return end_user


def _find_all(organization: Organization, names: Collection[str]) -> list[EndUser]:
    rows = EndUser.objects.filter(organization=organization, external_id__in=names)
    end_users = list(rows.select_related("organization", "budget_template").order_by("id"))
    if len(end_users) < len(names):
        raise NotFound(
            f"{len(names) - len(end_users)} of {len(names)} customers do not exist; none was changed.", param="user_ids"
        )
    return end_users
