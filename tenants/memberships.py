"""Memberships: the one way to add users to teams and organizations, to change them there, and to remove them.

A user belongs to exactly one organization, and to any number of its teams. Limits of a member within a team are those
of the scope MEMBER.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from django.db.models import Q
from django.db.models.functions import Lower
from django_scopes import scope, scopes_disabled

from gateway.protocol.json.types import JsonMapping
from tenants.audit import audited
from tenants.ids import new_id
from tenants.invalid import KeyInvalid
from tenants.keys import delete_keys, read_models, read_name
from tenants.limits import LIMIT_FIELDS, change_limits, delete_limits, find_template
from tenants.models import Membership, Organization, Role, Scope, Team, User, VirtualKey
from tenants.revision import bump_revision, changed_user, write_transaction
from tenants.rules import member_scope_id

MAX_MEMBERS = 500  # of one call
BATCH = 500  # rows of one statement

T = TypeVar("T")

#: The roles of an organization's members under LiteLLM's names.
ORGANIZATION_ROLES: Mapping[str, Role] = {
    "org_admin": Role.ORGANIZATION_ADMIN,
    "internal_user": Role.MEMBER,
    "internal_user_viewer": Role.MEMBER_VIEWER,
}


class MemberExists(KeyInvalid):
    """All users that were to be added are in the team. Terraform's provider looks for the code."""

    code = "team_member_already_in_team"


@dataclass(frozen=True, slots=True)
class MemberName:
    """A user by its id or its e-mail address, and its role."""

    user_id: str = ""
    email: str = ""
    role: str = ""

    @property
    def text(self) -> str:
        return self.user_id or self.email


def read_member_name(value: object, param: str = "member") -> MemberName:
    """Shape: {"user_id" or "user_email", "role"}. Raises KeyInvalid."""
    if not isinstance(value, Mapping):
        raise KeyInvalid(param, "must be an object with 'user_id' or 'user_email', and 'role'")
    unknown = sorted(str(name)[:100] for name in value.keys() - {"user_id", "user_email", "role", "user_alias"})
    if unknown:
        raise KeyInvalid(param, f"does not know {unknown[0]!r}")
    name = MemberName(
        read_name(value.get("user_id"), param),
        read_name(value.get("user_email"), param),
        read_name(value.get("role"), param),
    )
    if not name.text:
        raise KeyInvalid(param, "must name a user by 'user_id' or 'user_email'")
    return name


def read_member_names(value: object, param: str = "member") -> list[MemberName]:
    """One member or a list of them, without repetitions. Raises KeyInvalid."""
    values = value if isinstance(value, list | tuple) else [value]
    if not 1 <= len(values) <= MAX_MEMBERS:
        raise KeyInvalid(param, f"must hold 1 to {MAX_MEMBERS} members")
    names = [read_member_name(each, param) for each in values]
    return list({(name.user_id, name.email.lower()): name for name in names}.values())


def find_users(organization: Organization, names: Sequence[MemberName]) -> list[User]:
    """The users that the organization has already, by their ids and addresses."""
    rows = User.objects.alias(address=Lower("email")).filter(organization=organization)
    addresses = {name.email.lower() for name in names if name.email}
    return list(rows.filter(Q(username__in={name.user_id for name in names}) | Q(address__in=addresses)))


def find_or_create_users(organization: Organization, names: Sequence[MemberName], param: str = "member") -> list[User]:
    """The user of each name: with this id, else with this address. Unknown ones are created in the organization.

    Within the transaction of the caller. Raises KeyInvalid for a user of another organization, and for an address that
    several users have.
    """
    with scopes_disabled():  # ids are unique across all organizations
        by_id = {user.username: user for user in User.objects.filter(username__in={name.user_id for name in names})}
    addresses = {name.email.lower() for name in names if name.email and name.user_id not in by_id}
    by_address: dict[str, User] = {}
    rows = User.objects.alias(address=Lower("email")).filter(organization=organization, address__in=addresses)
    for row in rows:
        if by_address.setdefault(row.email.lower(), row) is not row:
            raise KeyInvalid(param, f"several users have the address {row.email!r}; name one by its id")
    users: list[User] = []
    new: list[User] = []
    for name in names:
        user = by_id.get(name.user_id) or by_address.get(name.email.lower())
        if user is None:
            user = User(username=name.user_id or new_id(), email=name.email, organization=organization)
            user.set_unusable_password()
            by_id[user.username] = user
            if user.email:
                by_address[user.email.lower()] = user
            new.append(user)
        elif user.organization_id != organization.id:
            raise KeyInvalid(param, f"the user {name.text!r} belongs to another organization")
        users.append(user)
    with audited("create", *new):
        User.objects.bulk_create(new)
    return users


def add_members(
    team: Team,
    *,
    members: Sequence[MemberName],
    limits: JsonMapping | None = None,
    template_id: str | None = None,
    allowed_models: object = None,
) -> list[Membership]:
    """Adds users to the team; those that are in it already stay as they are. Returns the new memberships.

    `limits` are fields of LIMIT_FIELDS for each of them. Raises KeyInvalid, also where all are in the team already.
    """
    roles = [_read_role(name.role or Membership.Role.USER) for name in members]
    models = read_models(allowed_models)
    with scope(organization=team.organization_id), write_transaction():
        organization = team.organization
        template = find_template(template_id, organization) if template_id else None
        wanted = dict(zip(find_or_create_users(organization, members), roles, strict=True))
        present = set(Membership.objects.filter(team=team, user__in=wanted).values_list("user_id", flat=True))
        rows = [
            Membership(
                organization=organization,
                team=team,
                user=user,
                role=role,
                budget_template=template,
                allowed_models=models,
            )
            for user, role in wanted.items()
            if user.pk not in present
        ]
        if not rows:
            raise MemberExists("member", f"{members[0].text!r} is in the team already")
        with audited("create", *rows):
            Membership.objects.bulk_create(rows)
        if limits:
            for row in rows:
                change_limits(organization, Scope.MEMBER, member_scope_id(team.id, row.user.username), limits)
        bump_revision(*(changed_user(row.user.username) for row in rows))
    return rows


def find_member(team: Team, *, user_id: str | None = None, email: str | None = None) -> Membership:
    """The membership of a user by its id, else by its address. Raises KeyInvalid."""
    if not (user_id or email):
        raise KeyInvalid("user", "must name the member, or 'user_email' must")
    rows = Membership.objects.filter(team=team).select_related("user")
    rows = rows.filter(user__username=user_id) if user_id else rows.filter(user__email__iexact=email)
    matches = list(rows[:2])
    if len(matches) != 1:
        problem = "names several members; use the user's id" if matches else "is not a member of the team"
        raise KeyInvalid("user", problem)
    return matches[0]


def update_member(member: Membership, *, changes: Mapping[str, object]) -> Membership:
    """Changes the named fields of a member; None clears. Raises KeyInvalid.

    Names: role, allowed_models, budget_id, and those of LIMIT_FIELDS.
    """
    organization, team = member.organization, member.team
    with scope(organization=organization), write_transaction():
        row = Membership.objects.select_for_update(of=("self",)).select_related("user").get(pk=member.pk)
        for name, value in changes.items():
            match name:
                case "role":
                    row.role = _read_role(value)
                case "allowed_models":
                    row.allowed_models = read_models(value)
                case "budget_id":
                    row.budget_template = find_template(read_name(value, name), organization) if value else None
                case _ if name not in LIMIT_FIELDS:
                    raise KeyInvalid(name, "cannot be changed")
        with audited("update", row):
            row.save()
        limits = {name: value for name, value in changes.items() if name in LIMIT_FIELDS}
        if limits:
            change_limits(organization, Scope.MEMBER, member_scope_id(team.id, row.user.username), limits)
        bump_revision(changed_user(row.user.username))
    return row


def remove_members(team: Team, *, members: Collection[Membership]) -> None:
    """Removes members with their limits, and deletes the keys of the team that are theirs. Spend logs stay."""
    users = [member.user for member in members]
    with scope(organization=team.organization_id), write_transaction():
        remove_keys(list(VirtualKey.objects.filter(team=team, user__in=users)))
        names = [member_scope_id(team.id, user.username) for user in users]
        remove_limits(team.organization_id, Scope.MEMBER, names)
        with audited("delete", *members):
            Membership.objects.filter(pk__in=[member.pk for member in members]).delete()
        bump_revision(*(changed_user(user.username) for user in users))


def remove_keys(keys: Sequence[VirtualKey]) -> None:
    """Deletes keys of any number with their limits. The caller's transaction."""
    for batch in _batches(keys):
        for organization_id in {key.organization_id for key in batch}:
            ids = [key.id for key in batch if key.organization_id == organization_id]
            delete_limits(organization_id, Scope.KEY, ids)
        delete_keys(batch)


def remove_limits(organization_id: str, kind: Scope, scope_ids: Sequence[str]) -> None:
    """Deletes the limits of scopes of any number."""
    for batch in _batches(scope_ids):
        delete_limits(organization_id, kind, batch)


def add_organization_members(organization: Organization, *, members: Sequence[MemberName]) -> list[User]:
    """Creates users in the organization, or sets the role of those that it has. Raises KeyInvalid."""
    roles = [_read_organization_role(name.role) for name in members]
    with write_transaction():
        wanted = dict(zip(find_or_create_users(organization, members), roles, strict=True))
        for user, role in wanted.items():
            if user.is_superuser:
                raise KeyInvalid("member", f"the user {user.username!r} is a platform admin")
            user.role = role
        with audited("update", *wanted):
            User.objects.bulk_update(wanted, ["role"])
        bump_revision(*(changed_user(user.username) for user in wanted))
    return list(wanted)


def find_organization_member(
    organization: Organization, *, user_id: str | None = None, email: str | None = None
) -> User:
    """A user of the organization by its id, else by its address. Raises KeyInvalid."""
    if not (user_id or email):
        raise KeyInvalid("user", "must name the member, or 'user_email' must")
    rows = User.objects.filter(organization=organization, is_superuser=False)
    matches = list((rows.filter(username=user_id) if user_id else rows.filter(email__iexact=email))[:2])
    if len(matches) != 1:
        problem = "names several members; use the user's id" if matches else "is not a member of the organization"
        raise KeyInvalid("user", problem)
    return matches[0]


def update_organization_member(user: User, *, role: object = None, limits: JsonMapping | None = None) -> User:
    """Changes the role and the limits of a user of an organization. Raises KeyInvalid."""
    with write_transaction():
        if role is not None:
            user.role = _read_organization_role(role)
            with audited("update", user):
                user.save(update_fields=["role"])
        if limits and user.organization is not None:
            change_limits(user.organization, Scope.USER, user.username, limits)
        bump_revision(changed_user(user.username))
    return user


def _batches(rows: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(rows), BATCH):
        yield rows[start : start + BATCH]


def _read_role(value: object) -> Membership.Role:
    if value not in set(Membership.Role.values):
        raise KeyInvalid("role", "must be admin or user")
    return Membership.Role(value)


def _read_organization_role(value: object) -> Role:
    role = ORGANIZATION_ROLES.get(value) if isinstance(value, str) else None
    if role is None:
        raise KeyInvalid("role", f"must be one of {', '.join(ORGANIZATION_ROLES)}")
    return role
