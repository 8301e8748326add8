"""Users: the one way to create, change and delete them.

`keys.find_or_create_user` creates the owner of a key, `access.ensure_platform_admin` the first platform admin.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping

from django.db import IntegrityError, transaction
from django_scopes import scopes_disabled

from gateway.protocol.json.types import JsonMapping
from tenants.audit import audited
from tenants.ids import new_id
from tenants.invalid import KeyInvalid
from tenants.keys import merge_tags, read_metadata, read_models, read_name
from tenants.limits import LIMIT_FIELDS, change_limits, find_template
from tenants.memberships import remove_keys, remove_limits
from tenants.models import Membership, Organization, Role, Scope, User, VirtualKey
from tenants.permissions import CallerRole, find_role
from tenants.revision import bump_revision, changed_user
from tenants.rules import member_scope_id

MAX_EMAIL_CHARS = 254


class UserExists(KeyInvalid):
    """Another user has this id, or within the organization this address."""


class LastAdmin(KeyInvalid):
    """The change would leave the platform without an admin who can sign in."""

    def __init__(self) -> None:
        super().__init__("username", "is the last platform admin")


def create_user(
    *,
    username: str | None = None,
    email: str = "",
    organization: Organization | None = None,
    is_superuser: bool = False,
    password: str = "",
    changes: Mapping[str, object] | None = None,
    limits: JsonMapping | None = None,
) -> User:
    """Create a user; without an id, one is generated. Only a platform admin may have no organization. Without a
    password, only a login link signs in. `changes` and `limits` as for `update_user`. Raises KeyInvalid, UserExists."""
    user = User(
        username=read_name(username, "username") or new_id(),
        email=_read_email(email),
        organization=organization,
        is_superuser=is_superuser,
        is_staff=is_superuser,
    )
    user.set_password(password or None)  # before the transaction: hashing is slow
    _apply(user, changes or {})
    with audited("create", user):
        _check_email(user)
        try:
            with transaction.atomic():
                user.save(force_insert=True)
        except IntegrityError:
            with scopes_disabled():  # ids are unique across all organizations
                exists = User.objects.filter(username=user.username).exists()
            if exists:
                raise UserExists("username", f"the user {user.username!r} exists already") from None
            raise
        _change_limits(user, limits or {})
        bump_revision(changed_user(user.username))
    return user


def update_user(user: User, *, changes: Mapping[str, object], limits: JsonMapping | None = None) -> User:
    """Change the named fields; None clears. Raises KeyInvalid, UserExists, LastAdmin.

    Names: alias, email, first_name, last_name, organization, is_superuser, is_active, role (by our name or LiteLLM's),
    may_view_content, allowed_models, metadata, tags, budget_id. One who is not active cannot sign in, and their keys
    are refused. `limits` has the fields of tenants.limits.
    """
    with audited("update", user):
        _apply(user, changes)
        if "email" in changes:
            _check_email(user)
        if not (user.is_superuser and user.is_active):
            _check_admins([user])
        user.save()
        _change_limits(user, limits or {})
        bump_revision(changed_user(user.username))
    return user


def delete_users(users: Collection[User]) -> None:
    """Delete the users with their keys, memberships, limits and budgets. Spend logs stay. Raises LastAdmin."""
    ids = [user.pk for user in users]
    # A platform admin may have keys in several organizations.
    with scopes_disabled(), audited("delete", *users):
        _check_admins(users)
        remove_keys(list(VirtualKey.objects.filter(user__in=ids)))
        members = Membership.objects.filter(user__in=ids).values_list("organization_id", "team_id", "user__username")
        scopes: dict[tuple[str, Scope], list[str]] = defaultdict(list)
        for organization_id, team_id, username in members:
            scopes[organization_id, Scope.MEMBER].append(member_scope_id(team_id, username))
        for user in users:
            if user.organization_id is not None:
                scopes[user.organization_id, Scope.USER].append(user.username)
        for (organization_id, kind), names in scopes.items():
            remove_limits(organization_id, kind, names)
        User.objects.filter(pk__in=ids).delete()
        bump_revision(*(changed_user(user.username) for user in users))


def _apply(user: User, changes: Mapping[str, object]) -> None:
    for name, value in changes.items():
        match name:
            case "alias" | "first_name" | "last_name":
                setattr(user, name, read_name(value, name))
            case "email":
                user.email = _read_email(value)
            case "organization":
                user.organization = value if isinstance(value, Organization) else None
            case "is_superuser":
                user.is_superuser = user.is_staff = bool(value)
            case "is_active" | "may_view_content":
                setattr(user, name, bool(value))
            case "role":
                _set_role(user, value)
            case "allowed_models":
                user.allowed_models = read_models(value)
            case "metadata":
                user.metadata = read_metadata(value)
            case "tags":
                continue  # merged below, because the metadata may change too
            case "budget_id":
                user.budget_template = find_template(read_name(value, name), _home_of(user, name)) if value else None
            case _:
                raise KeyInvalid(name, "cannot be changed")
    if changes.get("tags") is not None:
        user.metadata = merge_tags(user.metadata, changes["tags"])


def _set_role(user: User, value: object) -> None:
    role = find_role(read_name(value, "role"))
    if role is None:
        raise KeyInvalid(
            "role", "must be proxy_admin, proxy_admin_viewer, org_admin, internal_user, … or billing_viewer"
        )
    user.is_superuser = user.is_staff = role is CallerRole.PLATFORM_ADMIN
    user.role = Role.MEMBER if user.is_superuser else Role(role.value)


def _change_limits(user: User, limits: JsonMapping) -> None:
    fields = {name: value for name, value in limits.items() if name in LIMIT_FIELDS}
    if any(value is not None for value in fields.values()) or (fields and user.organization is not None):
        change_limits(_home_of(user, min(fields)), Scope.USER, user.username, fields)


def _home_of(user: User, param: str) -> Organization:
    if user.organization is None:
        raise KeyInvalid(param, "a user outside organizations has no limits")
    return user.organization


def _check_admins(users: Collection[User]) -> None:
    """Raises LastAdmin where no active platform admin is left without these users. The caller's transaction locks the
    admins, so that two changes cannot each leave it to the other."""
    with scopes_disabled():  # a platform admin may be in any organization, or in none
        admins = User.objects.select_for_update().filter(is_superuser=True, is_active=True).order_by("pk")
        ids = {admin.pk for admin in admins}
    if ids and ids <= {user.pk for user in users}:
        raise LastAdmin


def _read_email(value: object) -> str:
    email = read_name(value, "email")
    if len(email) > MAX_EMAIL_CHARS:
        raise KeyInvalid("email", f"must not be longer than {MAX_EMAIL_CHARS} characters")
    return email


def _check_email(user: User) -> None:
    """Addresses name users in /team/member_add, so an organization has each once."""
    same = User.objects.filter(organization=user.organization, email__iexact=user.email).exclude(pk=user.pk)
    if user.email and same.exists():
        raise UserExists("email", f"another user has the address {user.email!r}")
