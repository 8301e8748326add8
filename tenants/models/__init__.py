"""The database models of organizations, teams, users, virtual keys, end users, and their limits."""

from tenants.models.access import Change, LoginAttempts, LoginLink, MasterKey, Revision
from tenants.models.audit import AuditEntry
from tenants.models.end_user import EndUser
from tenants.models.idempotent_write import IdempotentWrite
from tenants.models.limits import (
    Budget,
    BudgetLease,
    BudgetTemplate,
    BudgetWindow,
    RateLimit,
    RollingSpend,
    Scope,
    SpendTotal,
)
from tenants.models.membership import Membership
from tenants.models.organization import DEFAULT_ORGANIZATION, Organization, UnpricedPolicy
from tenants.models.team import Team
from tenants.models.user import Role, User
from tenants.models.virtual_key import FormerKey, KeyType, VirtualKey

__all__ = [
    "DEFAULT_ORGANIZATION",
    "AuditEntry",
    "Budget",
    "BudgetLease",
    "BudgetTemplate",
    "BudgetWindow",
    "Change",
    "EndUser",
    "FormerKey",
    "IdempotentWrite",
    "KeyType",
    "LoginAttempts",
    "LoginLink",
    "MasterKey",
    "Membership",
    "Organization",
    "RateLimit",
    "Revision",
    "Role",
    "RollingSpend",
    "Scope",
    "SpendTotal",
    "Team",
    "UnpricedPolicy",
    "User",
    "VirtualKey",
]
