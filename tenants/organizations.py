"""Organizations: the one way to create, change, block and delete them. Limits are fields of `tenants.limits`."""

import zoneinfo
from collections.abc import Collection, Iterable, Mapping

from django.db import IntegrityError
from django_scopes import scope, scopes_disabled

from gateway.protocol.json.types import JsonMapping
from tenants.audit import audited
from tenants.budget_store import lock_budgets
from tenants.ids import new_id
from tenants.invalid import ArgumentInvalid
from tenants.keys import merge_tags, read_metadata, read_models, read_name
from tenants.limits import LIMIT_FIELDS, change_limits, find_template
from tenants.memberships import remove_keys, remove_limits
from tenants.models import DEFAULT_ORGANIZATION, Budget, Organization, Scope, Team, UnpricedPolicy, User, VirtualKey
from tenants.revision import bump_revision, changed_organization, write_transaction
from tenants.teams import delete_teams
from tenants.users import delete_users

MAX_RETENTION_DAYS = 36_500


class OrganizationInvalid(ArgumentInvalid):
    """An argument that no organization can have."""


def create_organization(
    *,
    name: str,
    organization_id: str | None = None,
    blocked: bool = False,
    retention_days: int | None = None,
    allowed_models: object = (),
    metadata: Mapping[str, object] | None = None,
    time_zone: object = None,
    unpriced_policy: object = None,
    template_id: str | None = None,
    limits: JsonMapping | None = None,
) -> Organization:
    """Create an organization. Its id and its name are unique. Raises OrganizationInvalid and KeyInvalid.

    `allowed_models` bind all its teams, users and keys; empty: all. `template_id` is one of the default organization's.
    """
    organization = Organization(
        id=read_name(organization_id, "organization_id") or new_id(),
        name=_read_title(name),
        blocked=blocked,
        retention_days=_read_retention(retention_days),
        allowed_models=read_models(allowed_models),
        metadata=read_metadata(metadata),
        time_zone=_read_time_zone(time_zone),
        unpriced_policy=_read_policy(unpriced_policy),
    )
    if template_id:
        organization.budget_template = find_template(template_id, organization)
    with write_transaction():
        _save(organization, is_new=True)
        change_limits(organization, Scope.ORGANIZATION, organization.id, limits or {})
        bump_revision(changed_organization(organization.id))
    return organization


def update_organization(organization: Organization, *, changes: Mapping[str, object]) -> Organization:
    """Change the named fields; None clears. Raises OrganizationInvalid and KeyInvalid.

    Names: name, blocked, retention_days, allowed_models, metadata, tags, time_zone, unpriced_policy, budget_id, and
    those of LIMIT_FIELDS. Responses that are stored already keep their expiry.
    """
    with write_transaction():
        row = Organization.objects.select_for_update(of=("self",)).get(pk=organization.pk)
        for field, value in changes.items():
            match field:
                case "name":
                    row.name = _read_title(value)
                case "blocked":
                    row.blocked = bool(value)
                case "retention_days":
                    row.retention_days = _read_retention(value)
                case "allowed_models":
                    row.allowed_models = read_models(value)
                case "metadata":
                    row.metadata = read_metadata(value)
                case "time_zone":
                    row.time_zone = _read_time_zone(value)
                case "unpriced_policy":
                    row.unpriced_policy = _read_policy(value)
                case "budget_id":
                    template_id = read_name(value, field)
                    row.budget_template = find_template(template_id, row) if template_id else None
                case "tags":
                    pass  # merged below, because the metadata may change too
                case _ if field not in LIMIT_FIELDS:
                    raise OrganizationInvalid(field, "cannot be changed")
        if "tags" in changes:
            row.metadata = merge_tags(row.metadata, changes["tags"])
        _save(row)
        limits = {field: value for field, value in changes.items() if field in LIMIT_FIELDS}
        change_limits(row, Scope.ORGANIZATION, row.id, limits)
        bump_revision(changed_organization(row.id))
    return row


def set_organizations_blocked(organizations: Iterable[Organization], *, blocked: bool) -> int:
    """Block or unblock the organizations; a blocked one has all of its keys refused. Returns the number of rows."""
    ids = [organization.pk for organization in organizations]
    with write_transaction():
        rows = list(Organization.objects.select_for_update().filter(pk__in=ids))
        with audited("block" if blocked else "unblock", *rows):
            count = Organization.objects.filter(pk__in=ids).update(blocked=blocked)
            for row in rows:
                row.blocked = blocked
        bump_revision(*map(changed_organization, ids))
    return count


def delete_organizations(organizations: Collection[Organization]) -> None:
    """Delete the organizations with their teams, users, keys, end users, limits and deployments. Spend logs stay, and
    stored responses stay until they expire. Raises OrganizationInvalid for the default one."""
    if any(organization.id == DEFAULT_ORGANIZATION for organization in organizations):
        raise OrganizationInvalid("organization_id", "the default organization cannot be deleted")
    with write_transaction():
        with scopes_disabled():
            lock_budgets(Budget.objects.filter(organization__in=organizations))
        for organization in organizations:
            with scope(organization=organization.id):
                delete_teams(Team.objects.filter(organization=organization))
                remove_keys(list(VirtualKey.objects.filter(organization=organization)))
                admins = User.objects.filter(organization=organization, is_superuser=True)
                with scopes_disabled():  # they leave the organization
                    admins.update(organization=None)
                delete_users(list(User.objects.filter(organization=organization)))
                remove_limits(organization.id, Scope.ORGANIZATION, [organization.id])
                with audited("delete", organization):
                    organization.delete()
        bump_revision()  # its deployments too


def _save(organization: Organization, *, is_new: bool = False) -> None:
    try:
        with audited("create" if is_new else "update", organization):
            organization.save(force_insert=is_new)
    except IntegrityError:
        others = Organization.objects.all() if is_new else Organization.objects.exclude(pk=organization.pk)
        if is_new and others.filter(pk=organization.pk).exists():
            raise OrganizationInvalid(
                "organization_id", f"the organization {organization.pk!r} exists already"
            ) from None
        if others.filter(name=organization.name).exists():
            raise OrganizationInvalid("name", f"{organization.name!r} is the name of another organization") from None
        raise


def _read_title(value: object) -> str:
    name = read_name(value, "name")
    if not name:
        raise OrganizationInvalid("name", "must not be empty")
    return name


def _read_retention(days: object) -> int | None:
    if days is None:
        return None
    if type(days) is not int or not 1 <= days <= MAX_RETENTION_DAYS:
        raise OrganizationInvalid("retention_days", f"must be between 1 and {MAX_RETENTION_DAYS:,} days")
    return days


def _read_time_zone(value: object) -> str:
    name = read_name(value, "time_zone") or "UTC"
    if name not in zoneinfo.available_timezones():
        raise OrganizationInvalid("time_zone", "must be a name of the IANA database, such as Europe/Vienna")
    return name


def _read_policy(value: object) -> UnpricedPolicy:
    if value is None:
        return UnpricedPolicy.BLOCK
    if value not in set(UnpricedPolicy.values):
        raise OrganizationInvalid("unpriced_policy", f"must be one of {', '.join(UnpricedPolicy.values)}")
    return UnpricedPolicy(value)
