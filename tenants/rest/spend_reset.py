"""The reset of spend: /key/{key}/reset_spend and /team/{team_id}/reset_spend."""

from django.db import transaction
from rest_framework.request import Request
from rest_framework.response import Response

from gateway.protocol.errors import BadRequest
from gateway.protocol.json.types import JsonMapping, JsonObject
from tenants.budget_fields import read_usd
from tenants.limits import read_spend, render_limits, reset_spend
from tenants.models import Organization, Scope
from tenants.permissions import Reach
from tenants.rest.fields import read_body
from tenants.rest.key_views import KeyView
from tenants.rest.teams import TeamView


class ResetKeySpend(KeyView):
    least_reach = Reach.TEAMS

    def post(self, request: Request, reference: str) -> Response:
        body = read_body(request, known={"reset_to"})
        with transaction.atomic():
            key = self.find(reference)
            row = _reset(key.organization, Scope.KEY, key.id, key.budget_template_id, body)
        return Response({"key_hash": key.digest, **row})


class ResetTeamSpend(TeamView):
    """The organization gives a team its budget, so an admin of the team does not reset it."""

    least_reach = Reach.ORGANIZATION

    def post(self, request: Request, team_id: str) -> Response:
        body = read_body(request, known={"reset_to"})
        with transaction.atomic():
            team = self.find_team(team_id)
            row = _reset(team.organization, Scope.TEAM, team.id, team.budget_template_id, body)
        return Response({"team_id": team.id, **row})


def _reset(
    organization: Organization, scope: Scope, scope_id: str, template_id: str | None, body: JsonMapping
) -> JsonObject:
    """Raises BadRequest for more than the current spend."""
    if body.get("reset_to") is None:
        raise BadRequest("'reset_to' must be an amount in USD.", param="reset_to")
    pusd = read_usd(body["reset_to"], "reset_to")
    before = read_spend(organization, scope, scope_id, template_id=template_id)
    if pusd > read_usd(before["spend"], "reset_to"):
        raise BadRequest("'reset_to' must not be more than the current spend.", param="reset_to")
    reset_spend(organization, scope, scope_id, pusd)
    after = read_spend(organization, scope, scope_id, template_id=template_id)
    return {
        "spend": after["spend"],
        "previous_spend": before["spend"],
        "max_budget": render_limits(organization, scope, scope_id)["max_budget"],
        "budget_reset_at": after["budget_reset_at"],
    }
