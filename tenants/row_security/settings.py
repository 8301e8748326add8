"""The two settings of a connection that the policies compare with each row, and their values in the active scope."""

from typing import NamedTuple

from django.db.models import Model
from django_scopes import get_scope
from psycopg.errors import InsufficientPrivilege

#: Without a scope the policies show no row of a tenant. `all` is what leaves the scope: the gateway's own work.
NO_SCOPE, ONE_ORGANIZATION, ALL_ORGANIZATIONS = "none", "organization", "all"
#: For connections that only do the gateway's own work: an option of their start.
ALL_ORGANIZATIONS_OPTION = f"-c tollgate.scope={ALL_ORGANIZATIONS}"
SET = "SELECT set_config('tollgate.scope', %s, false), set_config('tollgate.organization', %s, false)"


def is_row_refused(error: Exception) -> bool:
    """True for the error of a row that a policy refuses to insert, or to move to another organization."""
    return isinstance(error.__cause__, InsufficientPrivilege) and "row-level security" in str(error.__cause__)


class Wall(NamedTuple):
    """The values of `tollgate.scope` and `tollgate.organization`."""

    scope: str
    organization_id: str = ""


def active_wall() -> Wall:
    """The wall of the scope that django-scopes has active here. A scope of anything but one organization sees none."""
    scope = get_scope()
    if not scope.get("_enabled", True):
        return Wall(ALL_ORGANIZATIONS)
    if "organization" not in scope:
        return Wall(NO_SCOPE)
    organization = scope["organization"]
    if isinstance(organization, Model):
        organization = organization.pk
    return Wall(ONE_ORGANIZATION, organization if isinstance(organization, str) else "")
