"""The management API of teams: /team/*, with the names of LiteLLM's routes and fields."""

from collections.abc import Mapping

from django.db import transaction
from django.db.models import Q, QuerySet
from rest_framework.request import Request
from rest_framework.response import Response

from gateway.protocol.errors import BadRequest, NotFound
from gateway.protocol.json.types import JsonMapping, JsonObject
from tenants.grants import check_team_limits
from tenants.invalid import KeyInvalid
from tenants.keys import find_organization, merge_tags, read_metadata
from tenants.limits import LIMIT_FIELDS, check_limits
from tenants.memberships import (
    MAX_MEMBERS,
    MemberName,
    add_members,
    find_member,
    read_member_names,
    remove_members,
    update_member,
)
from tenants.models import Membership, Team
from tenants.permissions import Area, Caller, Reach, visible_rows, writable_rows
from tenants.rest.authentication import caller_of
from tenants.rest.budgets import read_ids
from tenants.rest.fields import read_body, read_count, read_flag, read_query, read_text
from tenants.rest.team_rows import (
    Span,
    load_members,
    render_keys,
    render_memberships,
    render_team,
    render_teams,
    render_user,
)
from tenants.rest.unenforced_fields import read_fields, unenforced_in
from tenants.rest.views import ManagementView
from tenants.revision import write_transaction
from tenants.teams import add_models, create_team, delete_teams, remove_models, set_team_blocked, update_team

#: Field → the argument of `tenants.teams`.
TEAM_ARGUMENTS: Mapping[str, str] = {
    "team_alias": "alias",
    "models": "allowed_models",
    "metadata": "metadata",
    "tags": "tags",
    "blocked": "blocked",
    "model_aliases": "model_aliases",
    "budget_id": "budget_id",
}
#: Field → the limit of each member that has none of its own.
MEMBER_DEFAULTS: Mapping[str, str] = {
    "team_member_budget": "max_budget",
    "team_member_budget_duration": "budget_duration",
    "team_member_rpm_limit": "rpm_limit",
    "team_member_tpm_limit": "tpm_limit",
}
TEAM_FIELDS = TEAM_ARGUMENTS.keys() | MEMBER_DEFAULTS.keys() | LIMIT_FIELDS | {"team_id", "organization_id"}
#: Fields of a new team that name its members.
MEMBER_LISTS = ("members_with_roles", "admins", "members")
#: Field → the limit of one member.
MEMBER_LIMITS: Mapping[str, str] = {
    "max_budget_in_team": "max_budget",
    "budget_duration": "budget_duration",
    "rpm_limit": "rpm_limit",
    "tpm_limit": "tpm_limit",
    "tpd_limit": "tpd_limit",
    "max_parallel_requests": "max_parallel_requests",
    "temp_budget_increase": "temp_budget_increase",
    "temp_budget_expiry": "temp_budget_expiry",
}
SORTED_BY = {"team_id": "id", "team_alias": "alias", "created_at": "created_at", "updated_at": "updated_at"}
PAGE = 100
MAX_PAGE = 1000  # of a team's keys and members
#: What every member of a team may do with its keys; no list of LiteLLM's widens or narrows it.
MEMBER_PERMISSIONS = ["/key/info"]


class TeamRoute(ManagementView):
    def teams(self) -> QuerySet[Team]:
        """The teams that the caller may change here, or may read where the route only reads."""
        reached = writable_rows if self.is_write(self.request) else visible_rows
        return reached(caller_of(self.request), Area.TEAMS, Team.objects.all())

    def find_team(self, team_id: str | None) -> Team:
        """Raises NotFound."""
        if team_id is None:
            raise BadRequest("Name the team with 'team_id'.", param="team_id")
        team: Team | None = self.teams().filter(id=team_id).select_related("organization").first()
        if team is None:
            raise NotFound("Team not found.", param="team_id")
        return team


class TeamView(TeamRoute):
    area = Area.TEAMS
    least_reach = Reach.TEAMS
    wire_names = {
        "alias": "team_alias",
        "allowed_models": "models",
        "organization": "organization_id",
        "user": "user_id",
    }


class MemberView(TeamRoute):
    area = Area.MEMBERS
    least_reach = Reach.TEAMS
    wire_names = {"max_budget": "max_budget_in_team", "user": "user_id"}


class NewTeam(TeamView):
    least_reach = Reach.ORGANIZATION

    def post(self, request: Request) -> Response:
        sent = read_fields(request, known={*TEAM_FIELDS, *MEMBER_LISTS})
        body = {name: value for name, value in sent.items() if value is not None}
        check_limits(body)
        metadata = body.get("metadata")
        with transaction.atomic():
            team = create_team(
                organization=find_organization(read_text(body, "organization_id")),
                team_id=read_text(body, "team_id"),
                alias=read_text(body, "team_alias") or "",
                allowed_models=body.get("models"),
                metadata=merge_tags(metadata, body["tags"]) if "tags" in body else metadata,
                model_aliases=body.get("model_aliases"),
                template_id=read_text(body, "budget_id"),
                blocked=read_flag(body, "blocked"),
                limits=body,
                member_limits=_translate(body, MEMBER_DEFAULTS),
                members=_read_member_lists(body),
            )
        return Response({**unenforced_in(sent), **render_team(team)})


class TeamInfo(TeamView):
    def get(self, request: Request) -> Response:
        query = read_query(request, known={"team_id", "page", "page_size"})
        if "team_id" not in query:
            raise BadRequest("Name the team with ?team_id=.", param="team_id")
        team = self.find_team(query["team_id"])
        page = read_count(query, "page", default=1, maximum=10**6)
        size = read_count(query, "page_size", default=500, maximum=MAX_PAGE)
        span = Span((page - 1) * size, size)
        members = load_members([team], span=span)
        row = render_teams([team], members=members)[0]
        return Response(
            {
                "team_id": team.id,
                "team_info": row,
                "keys": render_keys([team], span=span)[team.id],
                "keys_total": row["keys_count"],
                "team_memberships": render_memberships(members[team.id]),
                "team_memberships_total": row["members_count"],
                "page": page,
                "page_size": size,
                "total_pages": -(-max(row["keys_count"], row["members_count"]) // size),
            }
        )


class UpdateTeam(TeamView):
    def post(self, request: Request) -> Response:
        body = read_fields(request, known=TEAM_FIELDS)
        with transaction.atomic():
            team = _change_team(caller_of(request), self.find_team(read_text(body, "team_id")), body)
        return Response({"team_id": team.id, "data": {**unenforced_in(body), **render_team(team)}})


class PatchTeam(TeamView):
    """PATCH merges the metadata (RFC 7386); other fields are those of /team/update."""

    def patch(self, request: Request, team_id: str) -> Response:
        body = read_fields(request, known=TEAM_FIELDS)
        if read_text(body, "team_id") not in {None, team_id}:
            raise BadRequest("The body names another team than the path.", param="team_id")
        with transaction.atomic():
            team = self.find_team(team_id)
            if body.get("metadata") is not None:
                body["metadata"] = _merge(team.metadata, read_metadata(body["metadata"]))
            team = _change_team(caller_of(request), team, body)
        return Response({**unenforced_in(body), **render_team(team)})


class DeleteTeams(TeamView):
    least_reach = Reach.ORGANIZATION

    def post(self, request: Request) -> Response:
        ids = read_ids(read_body(request, known={"team_ids"}), "team_ids")
        with write_transaction():
            rows = self.teams().select_for_update().filter(id__in=ids)
            missing = set(ids) - {team.id for team in rows}
            if missing:
                raise NotFound(f"{len(missing)} of {len(ids)} teams do not exist; none was deleted.", param="team_ids")
            delete_teams(Team.objects.filter(id__in=ids))
        return Response({"deleted_teams": ids})


class ListTeams(TeamView):
    """LiteLLM's array, one page of it; the header X-Total-Count has the number of teams."""

    def get(self, request: Request) -> Response:
        query = read_query(request, known={"user_id", "organization_id", "team_id", "page", "page_size"})
        rows = _filter_teams(query, self.teams()).select_related("organization").order_by("alias", "id")
        total, page, size = rows.count(), *_read_page(query, default=PAGE)
        teams = list(rows[(page - 1) * size : page * size])
        members, keys = load_members(teams), render_keys(teams)
        memberships: dict[str, list[JsonObject]] = {team.id: [] for team in teams}
        for membership in render_memberships([member for team in teams for member in members[team.id]]):
            memberships[membership["team_id"]].append(membership)
        return Response(
            [
                {**row, "keys": keys[row["team_id"]], "team_memberships": memberships[row["team_id"]]}
                for row in render_teams(teams, members=members)
            ],
            headers={"X-Total-Count": str(total)},
        )


class ListTeamsPaged(TeamView):
    def get(self, request: Request) -> Response:
        filters = {"user_id", "organization_id", "team_id", "team_alias", "search", "search_team_id_match", "status"}
        query = read_query(request, known={"page", "page_size", "sort_by", "sort_order", *filters})
        column, order = SORTED_BY.get(query.get("sort_by", "created_at")), query.get("sort_order", "asc").lower()
        if column is None:
            raise BadRequest(f"'sort_by' must be one of {', '.join(SORTED_BY)}.", param="sort_by")
        if order not in {"asc", "desc"}:
            raise BadRequest("'sort_order' must be asc or desc.", param="sort_order")
        if "status" in query:
            raise BadRequest("Deleted teams are not kept; leave 'status' out.", param="status")
        sign = "-" if order == "desc" else ""
        rows = _filter_teams(query, self.teams()).select_related("organization")
        rows = rows.order_by(f"{sign}{column}", f"{sign}id")
        total, page, size = rows.count(), *_read_page(query, default=10)
        return Response(
            {
                "teams": render_teams(list(rows[(page - 1) * size : page * size])),
                "total": total,
                "page": page,
                "page_size": size,
                "total_pages": -(-total // size),
            }
        )


class AddTeamMember(MemberView):
    def post(self, request: Request) -> Response:
        body = _read_member_fields(request, {"team_id", "member"})
        with transaction.atomic():
            team = self.find_team(read_text(body, "team_id"))
            members = _add_members(team, read_member_names(body.get("member")), body)
        return Response(
            {
                **render_team(team),
                "updated_users": [render_user(member.user) for member in members],
                "updated_team_memberships": render_memberships(members),
            }
        )


class AddTeamMembers(MemberView):
    """/team/bulk_member_add: all or none are added."""

    def post(self, request: Request) -> Response:
        body = _read_member_fields(request, {"team_id", "members", "all_users"})
        if read_flag(body, "all_users"):
            raise BadRequest(
                f"This version does not add all users; name at most {MAX_MEMBERS} in 'members'.", param="all_users"
            )
        names = read_member_names(body.get("members") or [], "members")
        with transaction.atomic():
            team = self.find_team(read_text(body, "team_id"))
            members = _add_members(team, names, body)
        return Response(
            {
                "team_id": team.id,
                "results": [
                    {
                        "user_id": row["user_id"],
                        "user_email": row["user_email"],
                        "success": True,
                        "error": None,
                        "updated_user": render_user(member.user),
                        "updated_team_membership": row,
                    }
                    for member, row in zip(members, render_memberships(members), strict=True)
                ],
                "total_requested": len(names),
                "successful_additions": len(members),
                "failed_additions": 0,
                "updated_team": render_team(team),
            }
        )


class UpdateTeamMember(MemberView):
    def post(self, request: Request) -> Response:
        body = _read_member_fields(request, {"team_id", "user_id", "user_email", "role"})
        with transaction.atomic():
            member = _find_member(self.find_team(read_text(body, "team_id")), body)
            changes: JsonObject = _translate(body, MEMBER_LIMITS)
            if body.get("role") is not None:
                changes["role"] = body["role"]
            for name in ("allowed_models", "budget_id"):
                if name in body:
                    changes[name] = body[name]
            member = update_member(member, changes=changes)
        row = render_memberships([member])[0]
        table = row["litellm_budget_table"] or {}
        return Response({**row, **{field: table.get(name) for field, name in MEMBER_LIMITS.items()}})


class DeleteTeamMember(MemberView):
    def post(self, request: Request) -> Response:
        body = read_body(request, known={"team_id", "user_id", "user_email"})
        with transaction.atomic():
            member = _find_member(self.find_team(read_text(body, "team_id")), body)
            remove_members(member.team, members=[member])
        return Response(render_team(member.team))


class BlockTeam(TeamView):
    least_reach = Reach.ORGANIZATION
    blocked = True

    def post(self, request: Request) -> Response:
        body = read_body(request, known={"team_id"})
        with transaction.atomic():
            team = set_team_blocked(self.find_team(read_text(body, "team_id")), blocked=self.blocked)
        return Response(render_team(team))


class UnblockTeam(BlockTeam):
    blocked = False


class AddTeamModels(TeamView):
    least_reach = Reach.ORGANIZATION

    def post(self, request: Request) -> Response:
        body = read_body(request, known={"team_id", "models"})
        with transaction.atomic():
            team = add_models(self.find_team(read_text(body, "team_id")), models=body.get("models"))
        return Response(render_team(team))


class RemoveTeamModels(TeamView):
    least_reach = Reach.ORGANIZATION

    def post(self, request: Request) -> Response:
        body = read_body(request, known={"team_id", "models"})
        with transaction.atomic():
            team = remove_models(self.find_team(read_text(body, "team_id")), models=body.get("models"))
        return Response(render_team(team))


class ListTeamPermissions(TeamView):
    def get(self, request: Request) -> Response:
        query = read_query(request, known={"team_id"})
        return Response(_render_permissions(self.find_team(query.get("team_id"))))


class UpdateTeamPermissions(TeamView):
    def post(self, request: Request) -> Response:
        body = read_body(request, known={"team_id", "team_member_permissions"})
        team = self.find_team(read_text(body, "team_id"))
        if body.get("team_member_permissions") != MEMBER_PERMISSIONS:
            raise BadRequest(
                f"The permissions of members are {MEMBER_PERMISSIONS}; make a member an admin of the team for more.",
                code="unsupported_parameter",
                param="team_member_permissions",
            )
        return Response(_render_permissions(team))


def _change_team(caller: Caller, team: Team, body: JsonMapping) -> Team:
    """Changes the fields that the body has. A team stays in its organization."""
    if read_text(body, "organization_id") not in {None, team.organization_id}:
        raise BadRequest("A team cannot change its organization; create a new one.", param="organization_id")
    changes: dict[str, object] = {name: body[name] for name in LIMIT_FIELDS if name in body}
    for field, argument in TEAM_ARGUMENTS.items():
        if field in body:
            changes[argument] = body[field]
    if body.get("blocked") is None:  # null does not unblock
        changes.pop("blocked", None)
    else:
        changes["blocked"] = read_flag(body, "blocked")
    defaults = _translate(body, MEMBER_DEFAULTS)
    if defaults:
        changes["member_limits"] = defaults
    return write_team(caller, team, changes)


def write_team(caller: Caller, team: Team, changes: Mapping[str, object]) -> Team:
    """Changes a team, for both faces of the management API, within the transaction of the caller. `changes` are those
    of `update_team`. Raises KeyInvalid and Forbidden."""
    before = render_team(team)
    team = update_team(team, changes=changes)
    check_team_limits(caller, _bounds(before), _bounds(render_team(team)))
    return team


def _bounds(row: JsonMapping) -> JsonObject:
    """The rights that the organization gives a team."""
    names = {"models", "blocked", "budget_id", *MEMBER_DEFAULTS, *LIMIT_FIELDS}
    return {name: value for name, value in row.items() if name in names}


def _read_member_lists(body: JsonMapping) -> list[MemberName]:
    """The members of a new team; `admins` and `members` list ids of users."""
    names: list[MemberName] = []
    if body.get("members_with_roles"):
        names += read_member_names(body["members_with_roles"], "members_with_roles")
    for field, role in (("admins", Membership.Role.ADMIN), ("members", Membership.Role.USER)):
        if body.get(field):
            names += [MemberName(user_id=user_id, role=role) for user_id in read_ids(dict(body), field)]
    if len(names) > MAX_MEMBERS:
        raise KeyInvalid("members_with_roles", f"must not hold more than {MAX_MEMBERS} members")
    return list({(name.user_id, name.email): name for name in reversed(names)}.values())[::-1]


def _read_member_fields(request: Request, names: set[str]) -> JsonObject:
    return read_fields(request, known={*MEMBER_LIMITS, "allowed_models", "budget_id", *names})


def _add_members(team: Team, names: list[MemberName], body: JsonMapping) -> list[Membership]:
    """Adds members with the limits of the body, where null is no limit."""
    limits = {name: value for name, value in _translate(body, MEMBER_LIMITS).items() if value is not None}
    return add_members(
        team,
        members=names,
        limits=limits,
        template_id=read_text(body, "budget_id"),
        allowed_models=body.get("allowed_models"),
    )


def _find_member(team: Team, body: JsonMapping) -> Membership:
    member = find_member(team, user_id=read_text(body, "user_id"), email=read_text(body, "user_email"))
    member.team = team
    return member


def _filter_teams(query: Mapping[str, str], rows: QuerySet[Team]) -> QuerySet[Team]:
    if "organization_id" in query:
        rows = rows.filter(organization_id=query["organization_id"])
    if "team_id" in query:
        rows = rows.filter(id=query["team_id"])
    if "team_alias" in query:
        rows = rows.filter(alias__icontains=query["team_alias"])
    if "user_id" in query:
        rows = rows.filter(memberships__user__username=query["user_id"])
    match = query.get("search_team_id_match", "exact")
    if match not in {"exact", "prefix"}:
        raise BadRequest("'search_team_id_match' must be exact or prefix.", param="search_team_id_match")
    if "search" in query:
        of_id = Q(id__startswith=query["search"]) if match == "prefix" else Q(id=query["search"])
        rows = rows.filter(of_id | Q(alias__icontains=query["search"]))
    return rows


def _read_page(query: Mapping[str, str], *, default: int) -> tuple[int, int]:
    return (
        read_count(query, "page", default=1, maximum=10**6),
        read_count(query, "page_size", default=default, maximum=PAGE),
    )


def _render_permissions(team: Team) -> JsonObject:
    return {
        "team_id": team.id,
        "team_member_permissions": MEMBER_PERMISSIONS,
        "all_available_permissions": MEMBER_PERMISSIONS,
    }


def _translate(body: JsonMapping, names: Mapping[str, str]) -> JsonObject:
    """The limits that the body sets by other names. Raises KeyInvalid."""
    limits = {name: body[field] for field, name in names.items() if field in body}
    try:
        check_limits(limits)
    except KeyInvalid as problem:
        field = next((field for field, name in names.items() if name == problem.param), problem.param)
        raise KeyInvalid(field, problem.message) from None
    return limits


def _merge(target: JsonMapping, patch: JsonMapping) -> JsonObject:
    """RFC 7386: null removes a member, an object is merged, any other value replaces."""
    merged = {name: value for name, value in target.items() if name not in patch or patch[name] is not None}
    for name, value in patch.items():
        if isinstance(value, dict):
            old = merged.get(name)
            merged[name] = _merge(old if isinstance(old, dict) else {}, value)
        elif value is not None:
            merged[name] = value
    return merged
