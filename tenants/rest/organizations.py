"""The management API of organizations: /organization/*, with the names of LiteLLM's routes and fields."""

from collections.abc import Mapping, Sequence

from django.db import transaction
from django.db.models import Count, QuerySet
from rest_framework.request import Request
from rest_framework.response import Response

from gateway.protocol.errors import BadRequest, NotFound
from gateway.protocol.json.types import JsonMapping, JsonObject
from tenants.budget_usage import Spender, read_usages
from tenants.grants import check_user
from tenants.keys import merge_tags
from tenants.limits import LIMIT_FIELDS, check_limits, render_scopes, render_spend
from tenants.memberships import (
    add_organization_members,
    find_organization_member,
    find_users,
    read_member_names,
    update_organization_member,
)
from tenants.models import Organization, Scope, Team, User
from tenants.organizations import create_organization, delete_organizations, update_organization
from tenants.permissions import Area, Reach, visible_rows
from tenants.rest.authentication import caller_of
from tenants.rest.budgets import read_ids
from tenants.rest.fields import read_body, read_count, read_flag, read_query, read_text, render_instant
from tenants.rest.team_rows import BUDGET_FIELDS, Row, Span, read_parts, render_templates, render_user
from tenants.rest.unenforced_fields import read_fields, unenforced_in
from tenants.rest.views import ManagementView
from tenants.revision import write_transaction
from tenants.users import delete_users

#: Field → the argument of `tenants.organizations`.
ARGUMENTS: Mapping[str, str] = {
    "organization_alias": "name",
    "models": "allowed_models",
    "metadata": "metadata",
    "tags": "tags",
    "blocked": "blocked",
    "budget_id": "budget_id",
    "retention_days": "retention_days",
    "time_zone": "time_zone",
    "unpriced_policy": "unpriced_policy",
}
FIELDS = ARGUMENTS.keys() | LIMIT_FIELDS | {"organization_id"}
PAGE = 100
#: The fields that name a member and its role.
MEMBER_NAMES = ("user_id", "user_email", "role")


class OrganizationRoute(ManagementView):
    def find_organization(self, organization_id: str | None) -> Organization:
        """Raises NotFound."""
        if organization_id is None:
            raise BadRequest("Name the organization with 'organization_id'.", param="organization_id")
        rows = visible_rows(caller_of(self.request), Area.ORGANIZATIONS, Organization.objects.all())
        organization = rows.filter(id=organization_id).first()
        if organization is None:
            raise NotFound("Organization not found.", param="organization_id")
        return organization


class OrganizationView(OrganizationRoute):
    area = Area.ORGANIZATIONS
    wire_names = {"name": "organization_alias", "allowed_models": "models"}

    def change(self, organization_id: str | None, body: JsonObject) -> Response:
        changes: dict[str, object] = {name: body[name] for name in LIMIT_FIELDS if name in body}
        for field, argument in ARGUMENTS.items():
            if field in body:
                changes[argument] = body[field]
        for field in ("organization_alias", "blocked"):  # null is no name, and does not unblock
            if body.get(field) is None:
                changes.pop(ARGUMENTS[field], None)
        if "blocked" in changes:
            changes["blocked"] = read_flag(body, "blocked")
        with transaction.atomic():
            organization = update_organization(self.find_organization(organization_id), changes=changes)
        return Response({**unenforced_in(body), **render_organizations([organization])[0]})


class OrganizationMemberView(OrganizationRoute):
    area = Area.USERS
    least_reach = Reach.ORGANIZATION
    wire_names = {"user": "user_id", "max_budget": "max_budget_in_organization"}


class NewOrganization(OrganizationView):
    def post(self, request: Request) -> Response:
        sent = read_fields(request, known=FIELDS)
        body = {name: value for name, value in sent.items() if value is not None}
        check_limits(body)
        metadata = body.get("metadata")
        name = read_text(body, "organization_alias")
        if name is None:
            raise BadRequest("Name the organization with 'organization_alias'.", param="organization_alias")
        with transaction.atomic():
            organization = create_organization(
                name=name,
                organization_id=read_text(body, "organization_id"),
                blocked=read_flag(body, "blocked"),
                retention_days=body.get("retention_days"),
                allowed_models=body.get("models"),
                metadata=merge_tags(metadata, body["tags"]) if "tags" in body else metadata,
                time_zone=body.get("time_zone"),
                unpriced_policy=body.get("unpriced_policy"),
                template_id=read_text(body, "budget_id"),
                limits=body,
            )
        return Response({**unenforced_in(sent), **render_organizations([organization])[0]})


class UpdateOrganization(OrganizationView):
    def patch(self, request: Request) -> Response:
        body = read_fields(request, known=FIELDS)
        return self.change(read_text(body, "organization_id"), body)


class PatchOrganization(OrganizationView):
    """/v2/organization/{id}: the same for the organization that the path names; null clears, but not the name."""

    def patch(self, request: Request, organization_id: str) -> Response:
        body = read_fields(request, known=FIELDS)
        if read_text(body, "organization_id") not in {None, organization_id}:
            raise BadRequest("The body names another organization than the path.", param="organization_id")
        if "organization_alias" in body and read_text(body, "organization_alias") is None:
            raise BadRequest("An organization needs a name.", param="organization_alias")
        return self.change(organization_id, body)


class DeleteOrganizations(OrganizationView):
    def delete(self, request: Request) -> Response:
        ids = read_ids(read_body(request, known={"organization_ids"}), "organization_ids")
        with write_transaction():
            rows = list(Organization.objects.select_for_update(of=("self",)).filter(id__in=ids))
            if len(rows) != len(ids):
                raise NotFound(
                    f"{len(ids) - len(rows)} of {len(ids)} organizations do not exist; none was deleted.",
                    param="organization_ids",
                )
            answer = render_organizations(rows)
            delete_organizations(rows)
        return Response(answer)


class OrganizationInfo(OrganizationView):
    least_reach = Reach.ORGANIZATION
    is_read = True  # its POST too

    def get(self, request: Request) -> Response:
        query = read_query(request, known={"organization_id"})
        return Response(render_organizations([self.find_organization(query.get("organization_id"))])[0])

    def post(self, request: Request) -> Response:
        ids = read_ids(read_body(request, known={"organizations"}), "organizations")
        if len(ids) > PAGE:
            raise BadRequest(f"'organizations' must not name more than {PAGE}.", param="organizations")
        return Response(render_organizations(list(self.rows(Organization.objects.filter(id__in=ids)))))


class ListOrganizations(OrganizationView):
    """LiteLLM's array, one page of it; the header X-Total-Count has the number of organizations."""

    least_reach = Reach.ORGANIZATION

    def get(self, request: Request) -> Response:
        query = read_query(request, known={"org_id", "org_alias", "page", "page_size"})
        page = read_count(query, "page", default=1, maximum=10**6)
        size = read_count(query, "page_size", default=PAGE, maximum=PAGE)
        rows = self.rows(Organization.objects.order_by("name", "id"))
        if "org_id" in query:
            rows = rows.filter(id=query["org_id"])
        if "org_alias" in query:
            rows = rows.filter(name__icontains=query["org_alias"])
        total = rows.count()
        answer = render_organizations(list(rows[(page - 1) * size : page * size]))
        return Response(answer, headers={"X-Total-Count": str(total)})


class AddOrganizationMember(OrganizationMemberView):
    def post(self, request: Request) -> Response:
        body = read_fields(request, known={"organization_id", "member", "max_budget_in_organization"})
        names = read_member_names(body.get("member"))
        limits = _read_limits(body)
        with transaction.atomic():
            organization = self.find_organization(read_text(body, "organization_id"))
            for user in find_users(organization, names):
                check_user(caller_of(request), user)
            users = add_organization_members(organization, members=names)
            if limits.get("max_budget") is not None:
                for user in users:
                    update_organization_member(user, limits=limits)
        return Response(
            {
                "organization_id": organization.id,
                "updated_users": [render_user(user) for user in users],
                "updated_organization_memberships": render_members(organization, users),
            }
        )


class UpdateOrganizationMember(OrganizationMemberView):
    def patch(self, request: Request) -> Response:
        known = {"organization_id", "member", *MEMBER_NAMES, "max_budget_in_organization"}
        body = read_fields(request, known=known)
        body |= _read_nested_member(body)
        with transaction.atomic():
            organization = self.find_organization(read_text(body, "organization_id"))
            user = _find_member(organization, body)
            check_user(caller_of(request), user)
            user = update_organization_member(user, role=body.get("role"), limits=_read_limits(body))
        return Response(render_members(organization, [user])[0])


class DeleteOrganizationMember(OrganizationMemberView):
    """Deletes the user with its keys: a user belongs to exactly one organization."""

    def delete(self, request: Request) -> Response:
        body = read_body(request, known={"organization_id", "user_id", "user_email"})
        with transaction.atomic():
            organization = self.find_organization(read_text(body, "organization_id"))
            user = _find_member(organization, body)
            check_user(caller_of(request), user)
            answer = render_members(organization, [user])[0]
            delete_users([user])
        return Response(answer)


def render_organizations(organizations: Sequence[Organization]) -> list[JsonObject]:
    """Organizations in LiteLLM's shape, each with its first members and teams; the queries are as many as for one."""
    all_users = User.objects.filter(organization__in=organizations)
    all_teams = Team.objects.filter(organization__in=organizations)
    users = read_parts(all_users, "organization_id", ["date_joined", "pk"], Span())
    teams = read_parts(all_teams, "organization_id", ["alias", "pk"], Span())
    limits = render_scopes(Scope.ORGANIZATION, [(row.id, row.id) for row in organizations])
    spenders = [Spender(row, Scope.ORGANIZATION, row.id, row.budget_template_id) for row in organizations]
    spends = [render_spend(usage) for usage in read_usages(spenders)]
    templates = render_templates({row.budget_template_id for row in organizations})
    member_counts, team_counts = _count(all_users), _count(all_teams)
    answers: list[JsonObject] = []
    for row, spend in zip(organizations, spends, strict=True):
        own = limits[row.id, row.id]
        template = templates.get(row.budget_template_id or "", {})
        table = {name: template.get(name) if own[name] in (None, {}) else own[name] for name in BUDGET_FIELDS}
        table |= {"budget_id": row.budget_template_id, "budget_reset_at": spend["budget_reset_at"]}
        answers.append(
            {
                "organization_id": row.id,
                "organization_alias": row.name,
                "models": row.allowed_models,
                "metadata": row.metadata,
                "tags": row.metadata.get("tags", []),
                "blocked": row.blocked,
                "retention_days": row.retention_days,
                "time_zone": row.time_zone,
                "unpriced_policy": row.unpriced_policy,
                **own,
                **spend,
                "model_spend": {},
                "budget_id": row.budget_template_id,
                "litellm_budget_table": table,
                "members": [_render_member(user) for user in users[row.id]],
                "members_count": member_counts.get(row.id, 0),
                "teams": [_render_team(team) for team in teams[row.id]],
                "teams_count": team_counts.get(row.id, 0),
                "created_at": render_instant(row.created_at),
                "created_by": "",
                "updated_at": render_instant(row.created_at),
                "updated_by": "",
            }
        )
    return answers


def render_members(organization: Organization, users: Sequence[User]) -> list[JsonObject]:
    """Users as members of their organization, with what they may spend and have spent."""
    limits = render_scopes(Scope.USER, [(organization.id, user.username) for user in users])
    spenders = [Spender(organization, Scope.USER, user.username, user.budget_template_id) for user in users]
    rows: list[JsonObject] = []
    for user, usage in zip(users, read_usages(spenders), strict=True):
        spend, own = render_spend(usage), limits[organization.id, user.username]
        table = {name: own[name] for name in BUDGET_FIELDS}
        rows.append(
            {
                **_render_member(user),
                "spend": spend["spend"],
                "budget_id": user.budget_template_id,
                "budget_reset_at": spend["budget_reset_at"],
                "litellm_budget_table": {**table, "budget_id": user.budget_template_id},
                "user": render_user(user),
            }
        )
    return rows


def _render_member(user: User) -> JsonObject:
    row = render_user(user)
    return {
        "organization_id": user.organization_id,
        "user_id": row["user_id"],
        "user_email": row["user_email"],
        "user_role": row["user_role"],
        "created_at": row["created_at"],
        "updated_at": row["created_at"],
    }


def _render_team(team: Team) -> JsonObject:
    return {
        "team_id": team.id,
        "team_alias": team.alias or None,
        "organization_id": team.organization_id,
        "models": team.allowed_models,
        "blocked": team.blocked,
        "metadata": team.metadata,
        "created_at": render_instant(team.created_at),
        "updated_at": render_instant(team.updated_at),
    }


def _count(rows: QuerySet[Row]) -> dict[str, int]:
    return dict(rows.order_by().values_list("organization_id").annotate(rows=Count("pk")))


def _read_limits(body: JsonMapping) -> JsonObject:
    if "max_budget_in_organization" not in body:
        return {}
    limits = {"max_budget": body["max_budget_in_organization"]}
    check_limits(limits)
    return limits


def _read_nested_member(body: JsonMapping) -> JsonObject:
    """The fields of `member`: a Terraform provider names the member there, as it does when it adds one."""
    member = body.get("member")
    if member is None:
        return {}
    if not isinstance(member, dict) or not member.keys() <= set(MEMBER_NAMES):
        raise BadRequest(f"'member' must be an object of {', '.join(MEMBER_NAMES)}.", param="member")
    if any(body.get(name) not in (None, value) for name, value in member.items()):
        raise BadRequest("'member' and the fields beside it name two members or roles.", param="member")
    return member


def _find_member(organization: Organization, body: JsonMapping) -> User:
    email, user_id = read_text(body, "user_email"), read_text(body, "user_id")
    return find_organization_member(organization, user_id=user_id, email=email)
