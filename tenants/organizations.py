"""Organizations: the one way to create, change and block them."""

from collections.abc import Iterable

from django.db import transaction

from tenants.invalid import ArgumentInvalid
from tenants.models import Organization
from tenants.revision import bump_revision

MAX_RETENTION_DAYS = 36_500


class OrganizationInvalid(ArgumentInvalid):
    """An argument that no organization can have."""


def create_organization(*, name: str, blocked: bool = False, retention_days: int | None = None) -> Organization:
    """Create an organization. Raises OrganizationInvalid."""
    _check_retention(retention_days)
    with transaction.atomic():
        organization = Organization.objects.create(name=name, blocked=blocked, retention_days=retention_days)
        bump_revision()
    return organization


def update_organization(
    organization: Organization, *, name: str, blocked: bool, retention_days: int | None
) -> Organization:
    """Change the organization. Responses that are stored already keep their expiry. Raises OrganizationInvalid."""
    _check_retention(retention_days)
    organization.name, organization.blocked, organization.retention_days = name, blocked, retention_days
    with transaction.atomic():
        organization.save()
        bump_revision()
    return organization


def set_organizations_blocked(organizations: Iterable[Organization], *, blocked: bool) -> int:
    """Block or unblock the organizations; a blocked one has all of its keys refused. Returns the number of rows."""
    ids = [organization.pk for organization in organizations]
    with transaction.atomic():
        count = Organization.objects.filter(pk__in=ids).update(blocked=blocked)
        bump_revision()
    return count


def _check_retention(days: int | None) -> None:
    if days is not None and not 1 <= days <= MAX_RETENTION_DAYS:
        raise OrganizationInvalid("retention_days", f"must be between 1 and {MAX_RETENTION_DAYS:,} days")
