"""The management API of users: /user/*, with the names of LiteLLM's routes and fields."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

from django.db import transaction
from django.db.models import Count, OuterRef, QuerySet, Subquery
from django.utils import timezone
from rest_framework.request import Request
from rest_framework.response import Response

from gateway.protocol.errors import BadRequest, ClientFault, Fault, NotFound
from gateway.protocol.json.types import Json, JsonMapping, JsonObject
from tenants.budget_usage import Spender, SpenderUsage, read_usages
from tenants.durations import read_duration
from tenants.grants import check_key, check_user
from tenants.invalid import KeyInvalid
from tenants.keys import IssuedKey, find_organization, issue_key
from tenants.limits import LIMIT_FIELDS, render_rows, render_scopes, render_spend
from tenants.memberships import MemberName, add_members
from tenants.models import Membership, Organization, Scope, SpendTotal, Team, User, VirtualKey
from tenants.permissions import Area, CallerRole, Reach, find_role, litellm_role, visible_rows
from tenants.rest.authentication import caller_of
from tenants.rest.budgets import read_ids
from tenants.rest.fields import (
    read_body,
    read_count,
    read_flag,
    read_query,
    read_text,
    render_instant,
)
from tenants.rest.keys import render_key
from tenants.rest.team_rows import render_teams
from tenants.rest.unenforced_fields import check_fields, read_fields, unenforced_in
from tenants.rest.views import ManagementView
from tenants.users import LastAdmin, UserExists, create_user, delete_users, update_user

#: The names of arguments of `tenants.users` → the names of fields.
NAMES = {
    "username": "user_id",
    "email": "user_email",
    "alias": "user_alias",
    "role": "user_role",
    "allowed_models": "models",
    "organization": "organization_id",
    "expires_at": "duration",
    "member": "teams",
}
CHANGES = ("email", "alias", "role", "allowed_models", "metadata", "tags", "budget_id")
FIELDS = frozenset({NAMES.get(name, name) for name in CHANGES}) | {"user_id", "password"} | LIMIT_FIELDS
NEW_FIELDS = FIELDS | {"teams", "organizations", "organization_id", "auto_create_key", "key_alias", "duration"}
SORTED_BY = {
    "user_id": "username",
    "user_email": "email",
    "user_alias": "alias",
    "user_role": "role",
    "created_at": "date_joined",
    "spend": "lifetime_pusd",
}
PAGE = 100
MAX_UPDATES = 500
MAX_FILTERED = 1000
MAX_TEAMS = 100


class UserView(ManagementView):
    wire_names = NAMES
    area = Area.USERS
    least_reach = Reach.ORGANIZATION


class NewUser(UserView):
    def post(self, request: Request) -> Response:
        body = read_fields(request, known=NEW_FIELDS)
        _refuse_password(body)
        caller = caller_of(request)
        makes_key = body.get("auto_create_key") is None or read_flag(body, "auto_create_key")
        duration = body.get("duration")
        expires_at = timezone.now() + read_duration(duration) if duration else None
        text = None
        with transaction.atomic():
            teams = _read_teams(body.get("teams"))
            organization = _read_organization(body, [team for team, _, _ in teams])
            try:
                user = create_user(
                    username=read_text(body, "user_id"),
                    organization=organization,
                    changes=_read_changes(body),
                    limits=body,
                )
            except UserExists as problem:
                raise _conflict(problem) from None
            check_user(caller, user)
            for team, role, limits in teams:
                add_members(team, members=[MemberName(user_id=user.username, role=role)], limits=limits)
            key = None
            if makes_key:
                issued = _issue_key(user, organization, read_text(body, "key_alias"), expires_at, caller.name)
                key, text = issued.key, issued.text
                check_key(caller, key)
        row = render_users([user])[0]
        answer: JsonObject = {**unenforced_in(body), **(render_key(key) if key is not None else {}), **row}
        answer |= {"key": text, "token_id": key.digest if key is not None else None, "duration": duration}
        return Response({**answer, "expires": render_instant(expires_at) if key is not None else None})


class UserInfo(UserView):
    least_reach = Reach.OWN

    def get(self, request: Request) -> Response:
        query = read_query(request, known={"user_id", "page", "page_size"})
        page = read_count(query, "page", default=1, maximum=10**9 - 1)
        size = read_count(query, "page_size", default=PAGE, maximum=PAGE)
        caller, user = caller_of(request), _find_named(request, query)
        part = slice((page - 1) * size, page * size)
        keys = visible_rows(caller, Area.KEYS, VirtualKey.objects.filter(user=user)).order_by("-created_at", "-id")
        teams = visible_rows(caller, Area.TEAMS, Team.objects.filter(memberships__user=user)).order_by("alias", "id")
        return Response(
            {
                "user_id": user.username,
                "user_info": render_users([user])[0],
                "keys": [render_key(key) for key in keys.select_related("user")[part]],
                "teams": render_teams(list(teams.select_related("organization")[part])),
            }
        )


class UserRow(UserView):
    """/v2/user/info: the user alone."""

    least_reach = Reach.OWN

    def get(self, request: Request) -> Response:
        return Response(render_users([_find_named(request, read_query(request, known={"user_id"}))])[0])


class ListUsers(UserView):
    least_reach = Reach.OWN

    def get(self, request: Request) -> Response:
        filters = {"role", "user_ids", "user_email", "team", "organization_id"}
        query = read_query(request, known={*filters, "page", "page_size", "sort_by", "sort_order"})
        page = read_count(query, "page", default=1, maximum=10**9 - 1)
        size = read_count(query, "page_size", default=25, maximum=PAGE)
        column, order = SORTED_BY.get(query.get("sort_by", "created_at")), query.get("sort_order", "desc")
        if column is None:
            raise BadRequest(f"'sort_by' must be one of {', '.join(SORTED_BY)}.", param="sort_by")
        if order not in {"asc", "desc"}:
            raise BadRequest("'sort_order' must be asc or desc.", param="sort_order")
        sign = "-" if order == "desc" else ""
        rows = visible_rows(caller_of(request), Area.USERS, _filter(User.objects.all(), query))
        total = rows.count()
        if column == "lifetime_pusd":
            rows = rows.annotate(lifetime_pusd=lifetime_spend())
        rows = rows.order_by(f"{sign}{column}", f"{sign}pk")[(page - 1) * size : page * size]
        users = list(rows.select_related("organization"))
        keys = visible_rows(caller_of(request), Area.KEYS, VirtualKey.objects.filter(user__in=users)).order_by()
        counts = dict(keys.values_list("user").annotate(Count("pk")))
        return Response(
            {
                "users": [
                    {**row, "key_count": counts.get(user.pk, 0)}
                    for user, row in zip(users, render_users(users), strict=True)
                ],
                "total": total,
                "page": page,
                "page_size": size,
                "total_pages": -(-total // size),
            }
        )


class UpdateUser(UserView):
    """Terraform repeats what it made the user with: `auto_create_key`, which no update reads, and `teams`."""

    def post(self, request: Request) -> Response:
        body = read_fields(request, known=FIELDS | {"auto_create_key", "teams"})
        read_flag(body, "auto_create_key")
        with transaction.atomic():
            user = _change(request, body)
            _check_teams(user, body.get("teams"))
        return Response({"user_id": user.username, "data": render_users([user])[0]})


class UpdateUsers(UserView):
    """Each user for itself: one that cannot be changed leaves the others as they are asked to be."""

    def post(self, request: Request) -> Response:
        body = read_body(request, known={"users"})
        entries = body.get("users")
        if not isinstance(entries, list) or not 1 <= len(entries) <= MAX_UPDATES:
            raise BadRequest(f"'users' must be a list of 1 to {MAX_UPDATES} objects.", param="users")
        results = [self._update(request, entry) for entry in entries]
        successes = sum(result["success"] is True for result in results)
        return Response(
            {
                "results": results,
                "total_requested": len(results),
                "successful_updates": successes,
                "failed_updates": len(results) - successes,
            }
        )

    def _update(self, request: Request, entry: Json) -> JsonObject:
        result: JsonObject = {"user_id": None, "user_email": None, "success": False, "error": None}
        result["updated_user"] = None
        try:
            if not isinstance(entry, dict):
                raise BadRequest("Each of 'users' must be an object.", param="users")
            result |= {name: entry.get(name) for name in ("user_id", "user_email")}
            check_fields(entry, known=FIELDS)
            with transaction.atomic():
                user = _change(request, entry)
        except KeyInvalid as problem:
            return {**result, "error": f"Invalid {NAMES.get(problem.param, problem.param)}: {problem.message}."}
        except Fault as fault:
            return {**result, "error": fault.message}
        return {**result, "success": True, "updated_user": render_users([user])[0]}


class DeleteUsers(UserView):
    def post(self, request: Request) -> Response:
        body = read_body(request, known={"user_ids"})
        ids = read_ids(body, "user_ids")
        caller = caller_of(request)
        with transaction.atomic():
            rows = User.objects.select_related("organization").filter(username__in=ids)
            users = list(visible_rows(caller, Area.USERS, rows))
            if len(users) < len(ids):
                raise NotFound(
                    f"{len(ids) - len(users)} of {len(ids)} users do not exist; none was deleted.", param="user_ids"
                )
            for user in users:
                check_user(caller, user)
            answer = render_users(users)
            try:
                delete_users(users)
            except LastAdmin:
                raise _last_admin("user_ids") from None
        return Response(answer)


def _issue_key(
    user: User, organization: Organization, alias: str | None, expires_at: datetime | None, created_by: str
) -> IssuedKey:
    try:
        return issue_key(
            organization=organization, user=user, alias=alias or "", expires_at=expires_at, created_by=created_by
        )
    except KeyInvalid as problem:
        raise KeyInvalid("key_alias" if problem.param == "alias" else problem.param, problem.message) from None


def render_users(users: Collection[User]) -> list[JsonObject]:
    """Users in LiteLLM's shape, all with the same number of queries."""
    homes = {user.pk: user.organization for user in users if user.organization is not None}
    members: dict[object, list[str]] = {}
    memberships = Membership.objects.filter(user__in=[user.pk for user in users]).order_by("created_at", "pk")
    for user_pk, team_id in memberships.values_list("user", "team"):
        members.setdefault(user_pk, []).append(team_id)
    limits = render_scopes(Scope.USER, [(homes[user.pk].id, user.username) for user in users if user.pk in homes])
    spenders = [
        Spender(homes[user.pk], Scope.USER, user.username, user.budget_template_id)
        for user in users
        if user.pk in homes
    ]
    usages = dict(zip([spender.scope_id for spender in spenders], read_usages(spenders), strict=True))
    return [
        {
            "user_id": user.username,
            "user_email": user.email or None,
            "user_alias": user.alias or None,
            "user_role": litellm_role(user),
            "sso_user_id": None,
            "models": user.allowed_models,
            "teams": members.get(user.pk, []),
            "organization_id": user.organization_id,
            "organization_memberships": _render_homes(user),
            "metadata": user.metadata,
            "budget_id": user.budget_template_id,
            **(limits[user.organization_id, user.username] if user.organization_id else render_rows([], [])),
            **render_spend(usages.get(user.username, SpenderUsage((), 0))),
            "model_spend": {},
            "created_at": render_instant(user.date_joined),
            "updated_at": None,
        }
        for user in users
    ]


def _render_homes(user: User) -> list[JsonObject]:
    """LiteLLM's memberships in organizations: a user of ours belongs to one."""
    if user.organization_id is None:
        return []
    return [{"user_id": user.username, "organization_id": user.organization_id, "user_role": litellm_role(user)}]


def lifetime_spend() -> Subquery:
    totals = SpendTotal.objects.filter(
        organization=OuterRef("organization"), scope=Scope.USER, scope_id=OuterRef("username")
    )
    return Subquery(totals.values("pusd")[:1])


def _filter(users: QuerySet[User], query: Mapping[str, str]) -> QuerySet[User]:
    if "role" in query:
        role = find_role(query["role"])
        if role is None:
            raise BadRequest("'role' must be a role of LiteLLM's or ours.", param="role")
        is_admin = role is CallerRole.PLATFORM_ADMIN
        users = users.filter(is_superuser=True) if is_admin else users.filter(is_superuser=False, role=role.value)
    if "user_ids" in query:
        ids = [text.strip() for text in query["user_ids"].split(",")]
        if len(ids) > MAX_FILTERED:
            raise BadRequest(f"'user_ids' must name at most {MAX_FILTERED} users.", param="user_ids")
        users = users.filter(username__in=ids)
    if "user_email" in query:
        users = users.filter(email__icontains=query["user_email"])
    if "team" in query:
        users = users.filter(pk__in=Membership.objects.filter(team=query["team"]).values("user"))
    if "organization_id" in query:
        users = users.filter(organization=query["organization_id"])
    return users


def _find_named(request: Request, query: Mapping[str, str]) -> User:
    """The user whom the query names; without a name, the caller's own."""
    caller = caller_of(request)
    user_id = query.get("user_id") or caller.username
    if not user_id:
        raise BadRequest("Name the user with ?user_id=.", param="user_id")
    return _find(request, username=user_id, param="user_id")


def _find(request: Request, *, param: str, **columns: str) -> User:
    users = User.objects.select_related("organization").filter(**columns)
    rows = list(visible_rows(caller_of(request), Area.USERS, users)[:2])
    if not rows:
        raise NotFound("User not found.", param=param)
    if len(rows) > 1:
        raise BadRequest("Several users have this address; name one by its id.", param=param)
    return rows[0]


def _change(request: Request, body: JsonMapping) -> User:
    """Changes the user whom the body names by its id, else by its address."""
    _refuse_password(body)
    caller, user_id, email = caller_of(request), read_text(body, "user_id"), read_text(body, "user_email")
    if user_id is not None:
        user = _find(request, username=user_id, param="user_id")
    elif email is not None:
        user = _find(request, email__iexact=email, param="user_email")
        body = {name: value for name, value in body.items() if name != "user_email"}  # it is no new address
    else:
        raise BadRequest("Name the user with 'user_id' or 'user_email'.", param="user_id")
    check_user(caller, user)
    try:
        user = update_user(user, changes=_read_changes(body), limits=body)
    except UserExists as problem:
        raise _conflict(problem) from None
    except LastAdmin:
        raise _last_admin("user_role") from None
    check_user(caller, user)
    return user


def _read_changes(body: JsonMapping) -> dict[str, object]:
    """The fields of the body under the names of `update_user`. A role that is null stays."""
    changes: dict[str, object] = {name: body[field] for name in CHANGES if (field := NAMES.get(name, name)) in body}
    if not changes.get("role"):
        changes.pop("role", None)
    return changes


def _check_teams(user: User, value: Json) -> None:
    """Raises BadRequest for teams that the user is not in: an update changes no membership."""
    named = set(value) if isinstance(value, list) and all(isinstance(name, str) for name in value) else None
    if value is not None and (named is None or named - set(_team_ids(user))):
        raise BadRequest("'teams' can only repeat the user's teams; use /team/member_add.", param="teams")


def _team_ids(user: User) -> QuerySet[Membership, str]:
    return Membership.objects.filter(user=user).values_list("team_id", flat=True)


def _read_teams(value: Json) -> list[tuple[Team, str, JsonObject]]:
    """The teams of a new user, each with the role and the limits there. Shape: ids, or objects of `team_id`,
    `user_role` and `max_budget_in_team`."""
    if value is None:
        return []
    if not isinstance(value, list) or len(value) > MAX_TEAMS:
        raise BadRequest(f"'teams' must be a list of at most {MAX_TEAMS} teams.", param="teams")
    entries: dict[str, tuple[str, JsonObject]] = {}
    for entry in value:
        fields = {"team_id": entry} if isinstance(entry, str) else entry
        if not isinstance(fields, dict) or fields.keys() - {"team_id", "user_role", "max_budget_in_team"}:
            raise BadRequest(
                "'teams' must hold ids, or objects of team_id, user_role and max_budget_in_team.", param="teams"
            )
        budget = fields.get("max_budget_in_team")
        entries[read_text(fields, "team_id") or ""] = (
            read_text(fields, "user_role") or "",
            {"max_budget": budget} if budget is not None else {},
        )
    teams = {team.id: team for team in Team.objects.select_related("organization").filter(id__in=entries)}
    for team_id in entries:
        if team_id not in teams:
            raise KeyInvalid("teams", f"the team {team_id!r} does not exist")
    return [(teams[team_id], *entry) for team_id, entry in entries.items()]


def _read_organization(body: JsonMapping, teams: Sequence[Team]) -> Organization:
    """The organization of a new user: the named one, else that of its teams, else the caller's or the default one."""
    named = read_text(body, "organization_id")
    organizations = body.get("organizations")
    if organizations is not None and organizations != []:
        if not isinstance(organizations, list) or len(organizations) != 1 or not isinstance(organizations[0], str):
            raise BadRequest("A user belongs to one organization: name one.", param="organizations")
        if named not in {None, organizations[0]}:
            raise BadRequest("A user belongs to one organization: name one.", param="organizations")
        named = organizations[0]
    if named is None and teams:
        return teams[0].organization
    return find_organization(named)


def _refuse_password(body: JsonMapping) -> None:
    if body.get("password"):
        raise ClientFault(
            "A password is not set here: the user signs in with a link from the console.",
            status=422,
            code="unsupported_parameter",
            param="password",
        )


def _conflict(problem: KeyInvalid) -> ClientFault:
    param = NAMES.get(problem.param, problem.param)
    return ClientFault(f"Invalid {param}: {problem.message}.", status=409, code="user_exists", param=param)


def _last_admin(param: str) -> ClientFault:
    return ClientFault(
        "The platform needs an admin who can sign in: this is the last one.",
        status=409,
        code="last_platform_admin",
        param=param,
    )
