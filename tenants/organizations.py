"""Organizations: the one way to create, change and block them."""

from collections.abc import Iterable

from django.db import transaction

from tenants.models import Organization
from tenants.revision import bump_revision


def create_organization(*, name: str, blocked: bool = False) -> Organization:
    with transaction.atomic():
        organization = Organization.objects.create(name=name, blocked=blocked)
        bump_revision()
    return organization


def update_organization(organization: Organization, *, name: str, blocked: bool) -> Organization:
    organization.name, organization.blocked = name, blocked
    with transaction.atomic():
        organization.save()
        bump_revision()
    return organization


def set_organizations_blocked(organizations: Iterable[Organization], *, blocked: bool) -> int:
    """Blocking an organization refuses all of its keys. Returns how many rows were found."""
    ids = [organization.pk for organization in organizations]
    with transaction.atomic():
        count = Organization.objects.filter(pk__in=ids).update(blocked=blocked)
        bump_revision()
    return count
