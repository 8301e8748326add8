"""/api/teams: teams, without their members, which have routes of their own."""

from collections.abc import Sequence
from typing import Any

from django.db.models import QuerySet
from rest_framework import serializers

from gateway.protocol.json.types import JsonObject
from tenants.api.fields import Body, Flag, Limits, Object, Spend, Text, tags_of, texts
from tenants.api.resource import Filter, Operation, Resource
from tenants.api.spending import render_spenders
from tenants.budget_usage import Spender
from tenants.keys import find_organization, merge_tags
from tenants.limits import render_rows, render_scopes, usd_or_none
from tenants.models import BudgetTemplate, Scope, Team
from tenants.permissions import Area, Caller, Reach
from tenants.rest.fields import render_instant
from tenants.rest.teams import write_team
from tenants.teams import create_team, delete_teams

COLUMNS = ("alias", "allowed_models", "metadata", "tags", "model_aliases", "blocked", "member_limits")


class TeamChange(Body):
    alias = Text(required=False, allow_null=True)
    allowed_models = texts(required=False, help_text="Model groups; empty: all that its organization may call.")
    model_aliases = Object(required=False, help_text="Name that clients ask for → model group.")
    tags = texts(required=False, help_text="A part of the metadata.")
    metadata = Object(required=False)
    budget_template_id = Text(required=False, allow_null=True)
    blocked = Flag(required=False)
    limits = Limits(required=False, help_text="Of the team as a whole.")
    member_limits = Limits(required=False, help_text="Of each member that has none of its own.")


class NewTeam(TeamChange):
    id = Text(required=False, allow_null=True)
    organization_id = Text(required=False, allow_null=True, help_text="Else the caller's, or the default one.")


class TeamRow(TeamChange):
    id = serializers.CharField()
    organization_id = serializers.CharField()
    created_at = serializers.DateTimeField()
    updated_at = serializers.DateTimeField()
    spend = Spend()


class Teams(Resource[Team]):
    area = Area.TEAMS
    least_reach = Reach.TEAMS
    noun = "team"
    id_name = "team_id"
    wire_names = {**Resource.wire_names, "team_id": "id"}
    operations = {
        "list_rows": Operation("List teams", answer=TeamRow),
        "create": Operation("Create a team", 201, TeamRow, NewTeam, least_reach=Reach.ORGANIZATION),
        "show": Operation("Show a team", answer=TeamRow),
        "update": Operation("Change a team", answer=TeamRow, body=TeamChange),
        "delete_one": Operation("Delete a team with its keys and memberships", 204, least_reach=Reach.ORGANIZATION),
    }
    filters = {
        "organization_id": Filter("organization_id"),
        "alias": Filter("alias"),
        "blocked": Filter("blocked", schema_type=bool),
    }

    def queryset(self) -> QuerySet[Team]:
        return Team.objects.select_related("organization")

    def render(self, rows: Sequence[Team]) -> list[JsonObject]:
        spenders = [Spender(row.organization, Scope.TEAM, row.id, row.budget_template_id) for row in rows]
        templates = {row.member_template_id for row in rows if row.member_template_id}
        places = BudgetTemplate.objects.filter(id__in=templates).values_list("organization_id", "id")
        shared = {name: fields for (_, name), fields in _render_templates(list(places)).items()}
        nothing = render_rows([], [], amount=usd_or_none)
        return [
            {
                "id": row.id,
                "organization_id": row.organization_id,
                "alias": row.alias or None,
                "allowed_models": row.allowed_models,
                "model_aliases": row.model_aliases,
                "tags": tags_of(row.metadata),
                "metadata": row.metadata,
                "budget_template_id": row.budget_template_id,
                "blocked": row.blocked,
                "member_limits": shared.get(row.member_template_id or "", nothing),
                "created_at": render_instant(row.created_at),
                "updated_at": render_instant(row.updated_at),
                **more,
            }
            for row, more in zip(rows, render_spenders(spenders), strict=True)
        ]

    def make(self, caller: Caller, body: dict[str, Any]) -> Team:
        metadata = body.get("metadata")
        return create_team(
            organization=find_organization(body.get("organization_id")),
            team_id=body.get("id"),
            alias=body.get("alias", ""),
            allowed_models=body.get("allowed_models"),
            metadata=merge_tags(metadata, body["tags"]) if "tags" in body else metadata,
            model_aliases=body.get("model_aliases"),
            template_id=body.get("budget_template_id") or None,
            blocked=body.get("blocked", False),
            limits=body.get("limits"),
            member_limits=body.get("member_limits"),
        )

    def change(self, caller: Caller, row: Team, body: dict[str, Any]) -> Team:
        changes: dict[str, object] = {name: body[name] for name in COLUMNS if name in body}
        if "budget_template_id" in body:
            changes["budget_id"] = body["budget_template_id"]
        return write_team(caller, row, {**changes, **body.get("limits", {})})

    def delete_row(self, caller: Caller, row: Team) -> None:
        delete_teams(Team.objects.filter(pk=row.pk))


def _render_templates(places: Sequence[tuple[str, str]]) -> dict[tuple[str, str], JsonObject]:
    return render_scopes(Scope.TEMPLATE, places, amount=usd_or_none)
