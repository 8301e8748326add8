"""Permissions: which rows of each area a role reads and writes. The REST APIs and the console ask this module alone.

`TABLE` is the whole policy. A caller has the roles of its user; the type of its key may narrow them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import TypeVar

from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import AnonymousUser
from django.db.models import Model, Q, QuerySet
from django_scopes import scopes_disabled

from gateway.protocol.errors import Forbidden, NotFound
from tenants.models import KeyType, Membership, Role, User, VirtualKey

MASTER_NAME = "master key"
Row = TypeVar("Row", bound=Model)


class Area(StrEnum):
    """A kind of things that a role reads or writes."""

    KEYS = "keys"
    TEAMS = "teams"
    MEMBERS = "members"
    USERS = "users"
    END_USERS = "end_users"
    BUDGETS = "budgets"  # templates; the limits of a key, team or user belong to its own area
    ORGANIZATIONS = "organizations"
    MODELS = "models"
    PRICES = "prices"
    SPEND = "spend"
    AUDIT = "audit"
    CONTENT = "content"  # prompts and answers; more than one's own needs `User.may_view_content` as well
    RESPONSES = "responses"  # stored responses and conversations, without their content
    SETTINGS = "settings"
    ALERTS = "alerts"


class Reach(IntEnum):
    """The distance that a right goes. A wider reach includes the narrower ones."""

    NONE = 0
    OWN = 1  # the user's own rows
    TEAMS = 2  # rows of the teams that the user administers
    ORGANIZATION = 3
    PLATFORM = 4


class CallerRole(StrEnum):
    """The roles of `User.role`, and the two that stand elsewhere: a superuser and the admin of a team."""

    PLATFORM_ADMIN = "platform_admin"
    PLATFORM_VIEWER = Role.PLATFORM_VIEWER.value
    ORGANIZATION_ADMIN = Role.ORGANIZATION_ADMIN.value
    TEAM_ADMIN = "team_admin"  # beside the user's other role
    MEMBER = Role.MEMBER.value
    MEMBER_VIEWER = Role.MEMBER_VIEWER.value
    BILLING_VIEWER = Role.BILLING_VIEWER.value


_REACHES = {"-": Reach.NONE, "own": Reach.OWN, "teams": Reach.TEAMS, "org": Reach.ORGANIZATION, "all": Reach.PLATFORM}
# "reads/writes" of each role, in the order of CallerRole.
_ROWS = {
    #                     platform  platform  organization  team          member     member   billing
    #                     admin     viewer    admin         admin                    viewer   viewer
    Area.KEYS:          ("all/all", "all/-", "org/org",    "teams/teams", "own/own", "own/-", "-/-"),
    Area.TEAMS:         ("all/all", "all/-", "org/org",    "teams/teams", "-/-",     "-/-",   "-/-"),
    Area.MEMBERS:       ("all/all", "all/-", "org/org",    "teams/teams", "-/-",     "-/-",   "-/-"),
    Area.USERS:         ("all/all", "all/-", "org/org",    "teams/-",     "own/-",   "own/-", "own/-"),
    Area.END_USERS:     ("all/all", "all/-", "org/org",    "-/-",         "-/-",     "-/-",   "-/-"),
    Area.BUDGETS:       ("all/all", "all/-", "org/org",    "org/-",       "-/-",     "-/-",   "org/-"),
    Area.ORGANIZATIONS: ("all/all", "all/-", "org/-",      "-/-",         "-/-",     "-/-",   "-/-"),
    Area.MODELS:        ("all/all", "all/-", "org/org",    "own/-",       "own/-",   "own/-", "-/-"),
    Area.PRICES:        ("all/all", "all/-", "all/-",      "all/-",       "all/-",   "all/-", "all/-"),
    Area.SPEND:         ("all/all", "all/-", "org/-",      "teams/-",     "own/-",   "own/-", "org/-"),
    Area.AUDIT:         ("all/-",   "all/-", "org/-",      "own/-",       "own/-",   "own/-", "-/-"),
    Area.CONTENT:       ("all/all", "-/-",   "org/-",      "teams/-",     "own/-",   "own/-", "-/-"),
    Area.RESPONSES:     ("all/all", "all/-", "org/-",      "-/-",         "-/-",     "-/-",   "-/-"),
    Area.SETTINGS:      ("all/all", "all/-", "-/-",        "-/-",         "-/-",     "-/-",   "-/-"),
    Area.ALERTS:        ("all/all", "all/-", "org/org",    "-/-",         "-/-",     "-/-",   "org/-"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Right:
    """The right of one role in one area."""

    read: Reach
    write: Reach


def _read_right(text: str) -> Right:
    read, write = text.split("/")
    return Right(_REACHES[read], _REACHES[write])


#: Role → area → right.
TABLE: Mapping[CallerRole, Mapping[Area, Right]] = {
    role: {area: _read_right(rights[column]) for area, rights in _ROWS.items()}
    for column, role in enumerate(CallerRole)
}

#: LiteLLM's names of the roles that it has too.
LITELLM_ROLES: Mapping[CallerRole, str] = {
    CallerRole.PLATFORM_ADMIN: "proxy_admin",
    CallerRole.PLATFORM_VIEWER: "proxy_admin_viewer",
    CallerRole.ORGANIZATION_ADMIN: "org_admin",
    CallerRole.MEMBER: "internal_user",
    CallerRole.MEMBER_VIEWER: "internal_user_viewer",
}
_ROLE_OF_NAME = {name: role for role, name in LITELLM_ROLES.items()} | {
    role.value: role for role in CallerRole if role is not CallerRole.TEAM_ADMIN
}


def find_role(name: str) -> CallerRole | None:
    """The role of a user by our name or LiteLLM's."""
    return _ROLE_OF_NAME.get(name)


def litellm_role(user: User) -> str:
    """The user's role by LiteLLM's name; by ours where LiteLLM has none."""
    role = CallerRole.PLATFORM_ADMIN if user.is_superuser else CallerRole(user.role)
    return LITELLM_ROLES.get(role, role.value)


@dataclass(frozen=True, slots=True)
class Caller:
    """The holder of a key, or the user of a session. Neither key nor user: the master key."""

    roles: frozenset[CallerRole]
    key: VirtualKey | None = None  # None for the master key and for a session
    user: User | None = None  # None for the master key and for a key without a user
    admin_teams: frozenset[str] = frozenset()

    @property
    def is_master(self) -> bool:
        return self.key is None and self.user is None

    @property
    def is_authenticated(self) -> bool:
        return True

    @property
    def organization_id(self) -> str | None:
        """None for the master key and a platform admin outside organizations."""
        if self.key is not None:
            return self.key.organization_id
        return self.user.organization_id if self.user is not None else None

    @property
    def username(self) -> str:
        return self.user.username if self.user is not None else ""

    @property
    def name(self) -> str:
        """The value of `created_by`; never the text of a key."""
        if self.key is not None:
            return self.key.id
        return self.username or MASTER_NAME


MASTER = Caller(frozenset({CallerRole.PLATFORM_ADMIN}))


def caller_of_user(user: User, key: VirtualKey | None = None) -> Caller:
    """The caller with all rights of the user. A key only narrows them, see `reach_of`. A platform admin has every right
    without its teams, which would cost a query."""
    if user.is_superuser:
        return Caller(frozenset({CallerRole.PLATFORM_ADMIN}), key, user)
    with scopes_disabled():  # the memberships of this user alone
        memberships = Membership.objects.filter(user=user, role=Membership.Role.ADMIN)
        admin_teams = frozenset(memberships.values_list("team_id", flat=True))
    roles = {CallerRole(user.role)}
    if admin_teams:
        roles.add(CallerRole.TEAM_ADMIN)
    return Caller(frozenset(roles), key, user, admin_teams)


def caller_of_key(key: VirtualKey) -> Caller:
    """A key without a user and one of type `llm_api` have no roles: they see themselves alone."""
    if key.user is None or key.type == KeyType.LLM_API:
        return Caller(frozenset(), key, key.user)
    return caller_of_user(key.user, key)


def reach_of(caller: Caller, area: Area, *, write: bool = False) -> Reach:
    """The reach of the caller's right in the area."""
    reach = max((_reach_of_role(role, area, write=write) for role in caller.roles), default=Reach.NONE)
    if caller.key is not None:
        if write and caller.key.type == KeyType.READ_ONLY:
            return Reach.NONE
        if caller.key.type == KeyType.DEFAULT:
            reach = min(reach, _reach_of_role(CallerRole.MEMBER, area, write=write))
    if area is Area.CONTENT and caller.user is not None and not caller.user.may_view_content:
        reach = min(reach, Reach.OWN)
    return reach


def _reach_of_role(role: CallerRole, area: Area, *, write: bool) -> Reach:
    right = TABLE[role][area]
    return right.write if write else right.read


def may(user: AbstractBaseUser | AnonymousUser, area: Area, *, write: bool = False) -> bool:
    """True if the user of a session may read or write anything in the area."""
    if not isinstance(user, User) or not user.is_active:
        return False
    return reach_of(caller_of_user(user), area, write=write) > Reach.NONE


# Rows

Filter = Callable[[Caller, Reach], Q]
_NO_ROWS = Q(pk__in=())


def _filter_by_columns(*, team: str = "", user: str = "", organization: str = "organization") -> Filter:
    """The filter of rows that name their team and user; `user` is the column of the user id."""

    def find(caller: Caller, reach: Reach) -> Q:
        if reach == Reach.ORGANIZATION:
            return Q(**{organization: caller.organization_id})
        rows = Q(**{user: caller.username}) if user and caller.username else _NO_ROWS
        if reach == Reach.TEAMS and team:
            rows |= Q(**{f"{team}__in": caller.admin_teams})
        return rows & Q(**{organization: caller.organization_id})

    return find


def _filter_teams(caller: Caller, reach: Reach) -> Q:
    rows = Q(organization=caller.organization_id)
    return rows if reach == Reach.ORGANIZATION else rows & Q(pk__in=caller.admin_teams)


def _filter_users(caller: Caller, reach: Reach) -> Q:
    if reach == Reach.ORGANIZATION:
        return Q(organization=caller.organization_id)
    own = Q(username=caller.username) if caller.username else _NO_ROWS
    if reach == Reach.TEAMS:
        members = Membership._base_manager.filter(team__in=caller.admin_teams)
        return own | Q(pk__in=members.values("user"), organization=caller.organization_id)
    return own


def _filter_audit(caller: Caller, reach: Reach) -> Q:
    """One's own acts: those in the console, and those of one's keys."""
    within = Q(organization=caller.organization_id)
    if reach == Reach.ORGANIZATION:
        return within
    if not caller.username:
        return _NO_ROWS
    keys = VirtualKey._base_manager.filter(user__username=caller.username)
    return within & (Q(actor=caller.username) | Q(actor__in=keys.values("id")))


def _filter_models(caller: Caller, reach: Reach) -> Q:
    """The organization's own deployments and the shared ones. A view of one's own models narrows this further."""
    return Q(organization=caller.organization_id) | Q(organization=None)


FILTERS: Mapping[Area, Filter] = {
    Area.KEYS: _filter_by_columns(team="team_id", user="user__username"),
    Area.TEAMS: _filter_teams,
    Area.MEMBERS: _filter_by_columns(team="team_id", user="user__username"),
    Area.USERS: _filter_users,
    Area.END_USERS: _filter_by_columns(),
    Area.BUDGETS: _filter_by_columns(),
    Area.ORGANIZATIONS: _filter_by_columns(organization="pk"),
    Area.MODELS: _filter_models,
    Area.SPEND: _filter_by_columns(team="team_id", user="user_id"),
    Area.AUDIT: _filter_audit,
    Area.CONTENT: _filter_by_columns(team="team_id", user="user_id"),
    Area.RESPONSES: _filter_by_columns(),
    Area.ALERTS: _filter_by_columns(),
}


#: Areas whose rows name a team.
_OF_TEAMS = frozenset({Area.KEYS, Area.MEMBERS, Area.SPEND, Area.CONTENT})


def _filter(caller: Caller, area: Area, rows: QuerySet[Row], *, write: bool) -> QuerySet[Row]:
    reach = reach_of(caller, area, write=write)
    if reach == Reach.PLATFORM:
        return rows
    condition = _NO_ROWS
    if reach > Reach.NONE and area in FILTERS:
        condition = FILTERS[area](caller, reach)
    if write and area is Area.MODELS:
        condition &= Q(organization=caller.organization_id)  # shared deployments are the platform's
    if caller.key is not None and caller.key.type == KeyType.DEFAULT and caller.key.team_id and area in _OF_TEAMS:
        condition &= Q(team_id=caller.key.team_id)  # the key's user may have more in other teams
    if not write and caller.key is not None:  # every key sees itself
        if area is Area.KEYS:
            condition |= Q(pk=caller.key.pk)
        if area is Area.SPEND:
            condition |= Q(key_id=caller.key.id, organization=caller.organization_id)
    return rows.filter(condition)


def visible_rows(caller: Caller, area: Area, rows: QuerySet[Row]) -> QuerySet[Row]:
    """The rows that the caller may read."""
    return _filter(caller, area, rows, write=False)


def writable_rows(caller: Caller, area: Area, rows: QuerySet[Row]) -> QuerySet[Row]:
    """The rows that the caller may change."""
    return _filter(caller, area, rows, write=True)


def check_write(caller: Caller, area: Area, row: Model, *, param: str | None = None, is_new: bool = False) -> None:
    """Raises NotFound for a stored row that the caller does not see, and Forbidden for one it only reads.

    A view that creates a row calls it with `is_new` inside the transaction: Forbidden takes the row back.
    """
    stored = type(row)._base_manager.filter(pk=row.pk)
    if writable_rows(caller, area, stored).exists():
        return
    if is_new or visible_rows(caller, area, stored).exists():
        raise refuse()
    raise NotFound("Not found.", param=param)


def refuse(message: str = "Your role does not allow this.", *, param: str | None = None) -> Forbidden:
    return Forbidden(message, code="insufficient_permissions", param=param)
