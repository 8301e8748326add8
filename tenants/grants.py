"""Grants: a caller gives, or takes over, no more rights than it has."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from ipaddress import IPv4Network, IPv6Network, ip_network

from django_scopes import scopes_disabled

from gateway.pipeline.allowed_routes import compile_routes
from gateway.protocol.json.types import Json
from tenants.invalid import KeyInvalid
from tenants.keys import allowed_names
from tenants.models import Budget, BudgetTemplate, KeyType, Organization, RateLimit, Scope, User, VirtualKey
from tenants.permissions import (
    Area,
    Caller,
    Reach,
    caller_of_user,
    check_write,
    reach_of,
    refuse,
    visible_rows,
)

#: Types of keys that act with all rights of their user.
WHOLE_RIGHTS = frozenset({KeyType.MANAGEMENT, KeyType.READ_ONLY})
#: The types that a key of each type may give.
GIVEN_TYPES: Mapping[str, frozenset[str]] = {
    KeyType.MANAGEMENT: frozenset(KeyType),
    KeyType.DEFAULT: frozenset({KeyType.DEFAULT, KeyType.LLM_API}),
    KeyType.LLM_API: frozenset(),
    KeyType.READ_ONLY: frozenset(),
}


@dataclass(frozen=True, slots=True)
class KeyRights:
    """The rights of a key's holder. An empty collection narrows nothing."""

    type: str
    team_id: str = ""
    models: tuple[frozenset[str], ...] = ()  # each list narrows what the key may call
    routes: frozenset[str] = frozenset()
    networks: tuple[str, ...] = ()
    expires_at: datetime | None = None
    has_limits: bool = False  # limits or budgets of the key alone


def find_excess(giver: KeyRights, given: KeyRights) -> str:
    """The argument by which the key that is given exceeds the key that gives it; empty for none."""
    if giver.has_limits:
        return "key"  # its limits would not bind the other key
    if given.type not in GIVEN_TYPES[giver.type]:
        return "type"
    if giver.team_id and given.team_id != giver.team_id:
        return "team"
    if not all(any(own and covers(limit, own) for own in given.models) for limit in giver.models if limit):
        return "allowed_models"
    if giver.routes and not (given.routes and compile_routes(giver.routes).covers(compile_routes(given.routes))):
        return "allowed_routes"
    if giver.networks and not (given.networks and _contain(giver.networks, given.networks)):
        return "allowed_networks"
    if giver.expires_at is not None and (given.expires_at is None or given.expires_at > giver.expires_at):
        return "expires_at"
    return ""


def covers(patterns: Collection[str], names: Iterable[str]) -> bool:
    """True if every name, which may itself end in `*`, falls under a pattern."""
    prefixes = tuple(pattern[:-1] for pattern in patterns if pattern.endswith("*"))
    return all(name in patterns or name.startswith(prefixes) for name in names)


def _contain(networks: Iterable[str], others: Iterable[str]) -> bool:
    outer = [ip_network(network, strict=False) for network in networks]
    return all(any(_is_inside(ip_network(other, strict=False), network) for network in outer) for other in others)


def _is_inside(inner: IPv4Network | IPv6Network, outer: IPv4Network | IPv6Network) -> bool:
    if isinstance(inner, IPv4Network) and isinstance(outer, IPv4Network):
        return inner.subnet_of(outer)
    return isinstance(inner, IPv6Network) and isinstance(outer, IPv6Network) and inner.subnet_of(outer)


def read_key_rights(key: VirtualKey, *, with_user: bool = True) -> KeyRights:
    holders = [key.organization, key.team, key.user if with_user else None]
    lists = [key.allowed_models, *(holder.allowed_models for holder in holders if holder is not None)]
    scope = {"organization": key.organization_id, "scope": Scope.KEY, "scope_id": key.id}
    return KeyRights(
        type=key.type,
        team_id=key.team_id or "",
        models=tuple(names for names in map(allowed_names, lists) if names),
        routes=frozenset(key.allowed_routes),
        networks=tuple(key.allowed_networks),
        expires_at=key.expires_at,
        has_limits=key.budget_template_id is not None
        or RateLimit.objects.filter(**scope).exists()
        or Budget.objects.filter(**scope).exists(),
    )


def complete_owner(caller: Caller, *, team_id: str | None, user_id: str | None) -> tuple[str | None, str | None]:
    """The team and the user of a new key whose body leaves them out: a person's key is the caller's own."""
    reach = reach_of(caller, Area.KEYS, write=True)
    if reach == Reach.OWN and caller.key is not None:
        team_id = team_id or caller.key.team_id
    if reach == Reach.OWN or (reach == Reach.TEAMS and not team_id):
        user_id = user_id or caller.username
    return team_id, user_id


def check_owner(caller: Caller, *, team_id: str | None, user_id: str | None) -> None:
    """Raises KeyInvalid for a team or user that the caller cannot give a key to. One that it does not reach is as good
    as unknown."""
    reach = reach_of(caller, Area.KEYS, write=True)
    if reach >= Reach.ORGANIZATION:
        return
    own_team = {caller.key.team_id} if caller.key is not None else set()
    if team_id and team_id not in (caller.admin_teams if reach == Reach.TEAMS else own_team):
        raise KeyInvalid("team", f"the team {team_id!r} does not exist")
    if user_id and reach == Reach.OWN and user_id != caller.username:
        raise KeyInvalid("user", "you can issue keys of your own only")


def check_key(caller: Caller, key: VirtualKey, *, is_new: bool = False) -> None:
    """Raises NotFound or Forbidden unless the caller may issue this key or take it over.

    Call it for a new key, and before and after a change or a rotation, within the transaction.
    """
    check_write(caller, Area.KEYS, key, param="key", is_new=is_new)
    reach = reach_of(caller, Area.KEYS, write=True)
    if key.user is not None and key.user != caller.user and reach < Reach.PLATFORM:
        if not visible_rows(caller, Area.USERS, User.objects.filter(pk=key.user.pk)).exists():
            raise refuse("The user of this key is outside your reach.", param="user_id")
        if key.type in WHOLE_RIGHTS and not includes_rights_of(caller, caller_of_user(key.user)):
            raise refuse("The user of this key has rights that you do not have.", param="key_type")
    if caller.key is None:
        return
    giver = read_key_rights(caller.key, with_user=reach == Reach.OWN)
    excess = find_excess(giver, read_key_rights(key))
    if excess == "key":
        raise refuse("A key with limits of its own cannot issue or change keys.")
    if excess:
        raise refuse(f"A key cannot give more rights than it has: {excess.replace('_', ' ')}.")


def check_key_limits(caller: Caller, before: Mapping[str, Json], after: Mapping[str, Json]) -> None:
    """Raises Forbidden where a caller raises a limit of its own key. `before` and `after` have LiteLLM's names."""
    if reach_of(caller, Area.KEYS, write=True) == Reach.OWN:
        _refuse_wider(before, after, "A limit of your own key can only be lowered")


def check_user(caller: Caller, user: User, *, is_new: bool = False) -> None:
    """Raises NotFound or Forbidden unless the caller may create or change this user. Call it as `check_key`."""
    check_write(caller, Area.USERS, user, param="user_id", is_new=is_new)
    if not includes_rights_of(caller, caller_of_user(user)):
        raise refuse("This user has rights that you do not have.", param="user_role")


def check_template(caller: Caller, template: BudgetTemplate) -> None:
    """Raises NotFound or Forbidden unless the caller may change the template. One that binds an organization is the
    platform's to change."""
    check_write(caller, Area.BUDGETS, template, param="budget_id")
    with scopes_disabled():  # a template of the default organization may bind any
        binds_organization = Organization.objects.filter(budget_template=template).exists()
    if binds_organization and reach_of(caller, Area.ORGANIZATIONS, write=True) < Reach.PLATFORM:
        raise refuse("This budget binds your organization; the platform's admin can change it.", param="budget_id")


def check_team_limits(caller: Caller, before: Mapping[str, Json], after: Mapping[str, Json]) -> None:
    """Raises Forbidden where the admin of a team widens what the organization gave the team.

    `before` and `after` are the team's models and limits under LiteLLM's names.
    """
    if reach_of(caller, Area.TEAMS, write=True) == Reach.TEAMS:
        _refuse_wider(before, after, "The admin of a team cannot widen its limits")


def _refuse_wider(before: Mapping[str, Json], after: Mapping[str, Json], message: str) -> None:
    for name, value in before.items():
        if value not in (None, [], {}, "") and not _is_narrower(after.get(name), value, is_list=name == "models"):
            raise refuse(f"{message}: {name}.", param=name)


def _is_narrower(after: Json, before: Json, *, is_list: bool) -> bool:
    if is_list and isinstance(before, list) and isinstance(after, list):
        return bool(after) and covers([str(name) for name in before], [str(name) for name in after])
    if isinstance(before, dict) and isinstance(after, dict):
        return all(_is_narrower(after.get(name), value, is_list=False) for name, value in before.items())
    try:
        return after == before or (after is not None and float(str(after)) <= float(str(before)))
    except ValueError:
        return False


def includes_rights_of(caller: Caller, other: Caller) -> bool:
    """True if the caller may do everything that the other may."""
    if reach_of(caller, Area.SETTINGS, write=True) == Reach.PLATFORM:
        return True
    if caller.organization_id != other.organization_id:
        return False
    for area in Area:
        for write in (False, True):
            mine, theirs = reach_of(caller, area, write=write), reach_of(other, area, write=write)
            if theirs > mine:
                return False
            if theirs == mine == Reach.TEAMS and not other.admin_teams <= caller.admin_teams:
                return False
            if theirs == mine == Reach.OWN and caller.user != other.user and area is not Area.CONTENT:
                return False
    return True
