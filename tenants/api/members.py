"""/api/teams/{team_id}/members: the users of a team, with their roles and limits there."""

from collections.abc import Sequence
from typing import Any

from django.db.models import QuerySet
from rest_framework import serializers

from gateway.protocol.errors import NotFound
from gateway.protocol.json.types import JsonObject
from tenants.api.fields import Body, Choice, Limits, Spend, Text, texts
from tenants.api.resource import Filter, Operation, Resource
from tenants.api.spending import render_spenders
from tenants.budget_usage import Spender
from tenants.invalid import KeyInvalid
from tenants.memberships import MemberName, add_members, remove_members, update_member
from tenants.models import Membership, Scope, Team
from tenants.permissions import Area, Caller, Reach, visible_rows, writable_rows
from tenants.rest.authentication import caller_of
from tenants.rest.fields import render_instant
from tenants.rules import member_scope_id

MAX_EMAIL_CHARS = 254


class MemberChange(Body):
    role = Choice(Membership.Role.choices, required=False)
    allowed_models = texts(required=False, help_text="Model groups; empty: all that the team may call.")
    budget_template_id = Text(required=False, allow_null=True)
    limits = Limits(required=False)


class NewMember(MemberChange):
    user_id = Text(required=False, allow_null=True, help_text="A user that is unknown is created.")
    email = Text(required=False, allow_null=True, max_length=MAX_EMAIL_CHARS)


class Member(MemberChange):
    user_id = serializers.CharField()
    team_id = serializers.CharField()
    email = serializers.CharField(allow_null=True)
    created_at = serializers.DateTimeField()
    spend = Spend()


class Members(Resource[Membership]):
    area = Area.MEMBERS
    least_reach = Reach.TEAMS
    noun = "member"
    id_name = "user_id"
    lookup_column = "user__username"
    wire_names = {**Resource.wire_names, "member": "user_id"}
    operations = {
        "list_rows": Operation("List the members of a team", answer=Member),
        "create": Operation("Add a member to a team", 201, Member, NewMember),
        "show": Operation("Show a member of a team", answer=Member),
        "update": Operation("Change a member of a team", answer=Member, body=MemberChange),
        "delete_one": Operation("Remove a member with its keys of the team", 204),
    }
    filters = {"role": Filter("role", choices=Membership.Role.values)}

    def find_team(self) -> Team:
        """The team of the path. Raises NotFound."""
        reached = writable_rows if self.is_write(self.request) else visible_rows
        rows = reached(caller_of(self.request), Area.TEAMS, Team.objects.select_related("organization"))
        team = rows.filter(pk=self.kwargs["team_id"]).first() if "\0" not in self.kwargs["team_id"] else None
        if team is None:
            raise NotFound("Team not found.", param="team_id")
        return team

    def queryset(self) -> QuerySet[Membership]:
        rows = Membership.objects.filter(team=self.find_team())
        return rows.select_related("team", "organization", "user")

    def render(self, rows: Sequence[Membership]) -> list[JsonObject]:
        spenders = [
            Spender(
                row.organization,
                Scope.MEMBER,
                member_scope_id(row.team_id, row.user.username),
                row.budget_template_id or row.team.member_template_id,
            )
            for row in rows
        ]
        return [
            {
                "user_id": row.user.username,
                "team_id": row.team_id,
                "email": row.user.email or None,
                "role": row.role,
                "allowed_models": row.allowed_models,
                "budget_template_id": row.budget_template_id,
                "created_at": render_instant(row.created_at),
                **more,
            }
            for row, more in zip(rows, render_spenders(spenders), strict=True)
        ]

    def make(self, caller: Caller, body: dict[str, Any]) -> Membership:
        name = MemberName(body.get("user_id", ""), body.get("email", ""), body.get("role", ""))
        if not name.text:
            raise KeyInvalid("user", "or 'email' must name the member")
        limits = {field: value for field, value in body.get("limits", {}).items() if value is not None}
        [row] = add_members(
            self.find_team(),
            members=[name],
            limits=limits,
            template_id=body.get("budget_template_id") or None,
            allowed_models=body.get("allowed_models"),
        )
        return row

    def change(self, caller: Caller, row: Membership, body: dict[str, Any]) -> Membership:
        changes: dict[str, object] = {name: body[name] for name in ("role", "allowed_models") if name in body}
        if "budget_template_id" in body:
            changes["budget_id"] = body["budget_template_id"]
        return update_member(row, changes={**changes, **body.get("limits", {})})

    def delete_row(self, caller: Caller, row: Membership) -> None:
        remove_members(row.team, members=[row])
