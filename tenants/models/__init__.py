"""The database models of organizations, teams, users and virtual keys."""

from tenants.models.access import LoginAttempts, LoginLink, MasterKey, Revision
from tenants.models.organization import DEFAULT_ORGANIZATION, Organization
from tenants.models.team import Team
from tenants.models.user import User
from tenants.models.virtual_key import VirtualKey

__all__ = [
    "DEFAULT_ORGANIZATION",
    "LoginAttempts",
    "LoginLink",
    "MasterKey",
    "Organization",
    "Revision",
    "Team",
    "User",
    "VirtualKey",
]
