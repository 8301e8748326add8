"""A caller and its teams: /team/{id}/members/me and /team/available."""

from rest_framework.request import Request
from rest_framework.response import Response

from gateway.protocol.errors import BadRequest, NotFound
from tenants.models import Membership
from tenants.permissions import Area
from tenants.rest.authentication import IsKnown, caller_of
from tenants.rest.fields import read_query
from tenants.rest.team_rows import render_memberships
from tenants.rest.views import ManagementView


class OwnMembership(ManagementView):
    """The caller's own membership, with what it may spend in the team and has spent. A platform admin has none either,
    unless it is a member."""

    area = Area.MEMBERS
    permission_classes = [IsKnown]

    def get(self, request: Request, team_id: str) -> Response:
        read_query(request, known=set())
        user = caller_of(request).user
        if user is None:
            raise BadRequest("This key belongs to no user, so it is a member of no team.", param="user_id")
        rows = Membership.objects.filter(team=team_id, user=user)
        member = rows.select_related("user", "team", "team__organization").first()
        if member is None:
            raise NotFound("You are not a member of this team.", param="team_id")
        row = render_memberships([member])[0]
        return Response({**row, "team_alias": member.team.alias or None})


class AvailableTeams(ManagementView):
    """The teams that a user may join by itself. Here an admin adds the members, so the list is empty."""

    area = Area.TEAMS
    permission_classes = [IsKnown]

    def get(self, request: Request) -> Response:
        read_query(request, known={"response_model"})
        return Response([])
