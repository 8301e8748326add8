"""/api/users: people and service accounts. A user signs in with a link from the console, so there is no password."""

from collections.abc import Sequence
from typing import Any

from django.db.models import QuerySet
from rest_framework import serializers

from gateway.protocol.errors import ClientFault
from gateway.protocol.json.types import JsonObject
from tenants.api.fields import Body, Choice, Flag, Limits, Object, Spend, Text, tags_of, texts
from tenants.api.resource import Filter, Operation, Resource
from tenants.api.spending import render_spenders
from tenants.budget_usage import Spender
from tenants.grants import check_user
from tenants.keys import find_organization
from tenants.models import Role, Scope, User
from tenants.permissions import Area, Caller, CallerRole, Reach
from tenants.rest.fields import render_instant
from tenants.users import LastAdmin, UserExists, create_user, delete_users, update_user

MAX_EMAIL_CHARS = 254
ROLES = [role.value for role in CallerRole if role is not CallerRole.TEAM_ADMIN]
COLUMNS = ("email", "alias", "role", "is_active", "allowed_models", "metadata", "tags")


class UserChange(Body):
    email = Text(required=False, allow_null=True, max_length=MAX_EMAIL_CHARS)
    alias = Text(required=False, allow_null=True)
    role = Choice(ROLES, required=False)
    is_active = Flag(required=False, help_text="False: cannot sign in, and the user's keys are refused.")
    allowed_models = texts(required=False, help_text="Model groups; empty: all.")
    tags = texts(required=False, help_text="A part of the metadata.")
    metadata = Object(required=False)
    budget_template_id = Text(required=False, allow_null=True)
    limits = Limits(required=False)


class NewUser(UserChange):
    id = Text(required=False, allow_null=True)
    organization_id = Text(required=False, allow_null=True, help_text="Else the caller's, or the default one.")


class UserRow(UserChange):
    id = serializers.CharField()
    organization_id = serializers.CharField(allow_null=True)
    may_view_content = serializers.BooleanField(help_text="May read prompts and answers of what the role may see.")
    created_at = serializers.DateTimeField()
    spend = Spend()


class Users(Resource[User]):
    area = Area.USERS
    least_reach = Reach.ORGANIZATION
    noun = "user"
    id_name = "user_id"
    lookup_column = "username"
    wire_names = {**Resource.wire_names, "username": "id"}
    operations = {
        "list_rows": Operation("List users", answer=UserRow, least_reach=Reach.OWN),
        "create": Operation("Create a user", 201, UserRow, NewUser),
        "show": Operation("Show a user", answer=UserRow, least_reach=Reach.OWN),
        "update": Operation("Change a user", answer=UserRow, body=UserChange),
        "delete_one": Operation("Delete a user with its keys and memberships", 204),
    }
    filters = {
        "organization_id": Filter("organization_id"),
        "email": Filter("email__iexact"),
        "role": Filter("role", "Platform admins have none of these.", choices=Role.values),
        "is_platform_admin": Filter("is_superuser", schema_type=bool),
        "is_active": Filter("is_active", schema_type=bool),
    }

    def queryset(self) -> QuerySet[User]:
        return User.objects.select_related("organization")

    def render(self, rows: Sequence[User]) -> list[JsonObject]:
        spenders = [
            Spender(row.organization, Scope.USER, row.username, row.budget_template_id) if row.organization else None
            for row in rows
        ]
        return [
            {
                "id": row.username,
                "organization_id": row.organization_id,
                "email": row.email or None,
                "alias": row.alias or None,
                "role": CallerRole.PLATFORM_ADMIN.value if row.is_superuser else row.role,
                "is_active": row.is_active,
                "may_view_content": row.may_view_content,
                "allowed_models": row.allowed_models,
                "tags": tags_of(row.metadata),
                "metadata": row.metadata,
                "budget_template_id": row.budget_template_id,
                "created_at": render_instant(row.date_joined),
                **more,
            }
            for row, more in zip(rows, render_spenders(spenders), strict=True)
        ]

    def make(self, caller: Caller, body: dict[str, Any]) -> User:
        try:
            user = create_user(
                username=body.get("id"),
                organization=find_organization(body.get("organization_id")),
                changes=read_changes(body),
                limits=body.get("limits"),
            )
        except UserExists as problem:
            raise conflict(problem) from None
        check_user(caller, user, is_new=True)
        return user

    def change(self, caller: Caller, row: User, body: dict[str, Any]) -> User:
        check_user(caller, row)
        try:
            user = update_user(row, changes=read_changes(body), limits=body.get("limits"))
        except UserExists as problem:
            raise conflict(problem) from None
        except LastAdmin:
            raise last_admin() from None
        check_user(caller, user)
        return user

    def delete_row(self, caller: Caller, row: User) -> None:
        check_user(caller, row)
        try:
            delete_users([row])
        except LastAdmin:
            raise last_admin() from None


def read_changes(body: dict[str, Any]) -> dict[str, object]:
    """The fields of a body under the names of `update_user`."""
    changes: dict[str, object] = {name: body[name] for name in COLUMNS if name in body}
    if "budget_template_id" in body:
        changes["budget_id"] = body["budget_template_id"]
    return changes


def conflict(problem: UserExists) -> ClientFault:
    param = "id" if problem.param == "username" else problem.param
    return ClientFault(f"Invalid {param}: {problem.message}.", status=409, code="user_exists", param=param)


def last_admin() -> ClientFault:
    message = "The platform needs an admin who can sign in: this is the last one."
    return ClientFault(message, status=409, code="last_platform_admin", param="user_id")
