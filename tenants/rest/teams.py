"""The management API of teams: /team/*, with the names of LiteLLM's routes and fields."""

from django.db import transaction
from rest_framework.request import Request
from rest_framework.response import Response

from gateway.protocol.errors import BadRequest, NotFound
from tenants.keys import find_organization, merge_tags
from tenants.models import Team, VirtualKey
from tenants.rest.fields import read_flag, read_query, read_text, render_instant
from tenants.rest.keys import render_key
from tenants.rest.unenforced_fields import read_fields, unenforced_in
from tenants.rest.views import ManagementView
from tenants.teams import create_team, set_team_blocked

TEAM_FIELDS = frozenset({"team_id", "team_alias", "models", "metadata", "organization_id", "tags", "blocked"})
#: The names of arguments of `tenants.teams` → the names of fields.
TEAM_NAMES = {
    "alias": "team_alias",
    "allowed_models": "models",
    "organization": "organization_id",
}


class TeamView(ManagementView):
    wire_names = TEAM_NAMES


class NewTeam(TeamView):
    def post(self, request: Request) -> Response:
        body = read_fields(request, known=TEAM_FIELDS)
        metadata = body.get("metadata")
        with transaction.atomic():
            team = create_team(
                organization=find_organization(read_text(body, "organization_id")),
                team_id=read_text(body, "team_id"),
                alias=read_text(body, "team_alias") or "",
                allowed_models=body.get("models"),
                metadata=merge_tags(metadata, body["tags"]) if body.get("tags") is not None else metadata,
            )
            if read_flag(body, "blocked"):
                team = set_team_blocked(team, blocked=True)
        return Response({**unenforced_in(body), **render_team(team)})


class TeamInfo(TeamView):
    def get(self, request: Request) -> Response:
        query = read_query(request, known={"team_id"})
        if "team_id" not in query:
            raise BadRequest("Name the team with ?team_id=.", param="team_id")
        team: Team | None = Team.objects.filter(id=query["team_id"]).first()
        if team is None:
            raise NotFound("Team not found.", param="team_id")
        keys = VirtualKey.objects.filter(team=team).select_related("user")
        return Response(
            {
                "team_id": team.id,
                "team_info": render_team(team),
                "keys": [render_key(key) for key in keys],
                "team_memberships": [],
            }
        )


class ListTeams(TeamView):
    def get(self, request: Request) -> Response:
        query = read_query(request, known={"organization_id"})
        teams = Team.objects.filter(**query).prefetch_related("virtual_keys__user")
        return Response(
            [
                {
                    **render_team(team),
                    "keys": [render_key(key) for key in team.virtual_keys.all()],
                    "team_memberships": [],
                }
                for team in teams
            ]
        )


def render_team(team: Team) -> dict[str, object]:
    return {
        "team_id": team.id,
        "team_alias": team.alias or None,
        "organization_id": team.organization_id,
        "models": team.allowed_models,
        "metadata": team.metadata,
        "tags": team.metadata.get("tags", []),
        "blocked": team.blocked,
        "members_with_roles": [],
        "created_at": render_instant(team.created_at),
        "updated_at": render_instant(team.updated_at),
    }
