"""The policies on the tables of tenants: their SQL, and the statements that put them on and take them off."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from django.apps import apps
from django.db import connection, transaction
from django.db.models import Model

from tenants.models import DEFAULT_ORGANIZATION, Organization, User
from tenants.row_security.settings import ALL_ORGANIZATIONS, ONE_ORGANIZATION

OWN, SHARED = "tollgate_own", "tollgate_shared"
LOCK_TIMEOUT = "5s"  # then the command fails instead of holding up every call behind its lock
# As subqueries: PostgreSQL reads each setting once a statement, not once a row
_SCOPE = "(SELECT current_setting('tollgate.scope', true))"
# Without an organization the setting is empty, and so is the organization of the catalogue's prices: null matches none
_ORGANIZATION = "(SELECT nullif(current_setting('tollgate.organization', true), ''))"
#: Tables that are read before any organization is known, as by signing in. They are walled within a scope only.
OPEN_WITHOUT_SCOPE: frozenset[type[Model]] = frozenset({Organization, User})
#: Label of a model → rows of others that a scope may read and not change.
READABLE: Mapping[str, str] = {
    "tenants.budgettemplate": f"organization_id = '{DEFAULT_ORGANIZATION}'",  # everything may be bound by one
    "tenants.user": "organization_id IS NULL",  # platform admins may be members of teams
    "billing.price": "organization_id = ''",  # those of the catalogue and of deployments; contracts are walled
}


@dataclass(frozen=True, slots=True)
class TablePolicy:
    """`own`: the condition of rows that the scope reads and writes. `shared`: of those that it reads; empty: none."""

    table: str
    own: str
    shared: str = ""

    @property
    def digest(self) -> str:
        """Noted in the database, so that a later version replaces a policy that differs."""
        return hashlib.sha256(f"{self.own};{self.shared}".encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class RowSecurityStatus:
    """The state of the wall in the database."""

    missing: tuple[str, ...]  # tables without the policy of this version
    present: tuple[str, ...]  # tables with a policy of ours, current or not
    role: str
    is_role_exempt: bool  # superusers and roles with BYPASSRLS pass every policy


def table_policies() -> list[TablePolicy]:
    """The policy of each table whose rows name an organization, and of the organizations themselves."""
    return [_policy_of(model) for model in apps.get_models() if model is Organization or _names_organization(model)]


def _names_organization(model: type[Model]) -> bool:
    return any(field.attname == "organization_id" for field in model._meta.concrete_fields)


def _policy_of(model: type[Model]) -> TablePolicy:
    column = "id" if model is Organization else "organization_id"
    own = f"{column} = {_ORGANIZATION} OR {_SCOPE} = '{ALL_ORGANIZATIONS}'"
    if model in OPEN_WITHOUT_SCOPE:
        own += f" OR coalesce({_SCOPE}, '') NOT IN ('{ONE_ORGANIZATION}', '{ALL_ORGANIZATIONS}')"
    shared = READABLE.get(model._meta.label_lower, "")
    if shared:
        shared = f"{shared} AND {_SCOPE} = '{ONE_ORGANIZATION}'"
    return TablePolicy(model._meta.db_table, own, shared)


def put_on() -> list[str]:
    """Puts the policies of this version on; returns the tables that it changed. Harmless when it runs again."""
    missing = set(read_status().missing)
    changed = [policy for policy in table_policies() if policy.table in missing]
    for policy in changed:
        _run(
            *_drop_statements(policy.table),
            f'CREATE POLICY {OWN} ON "{policy.table}" USING ({policy.own}) WITH CHECK ({policy.own})',
            *([f'CREATE POLICY {SHARED} ON "{policy.table}" FOR SELECT USING ({policy.shared})'] * bool(policy.shared)),
            f"COMMENT ON POLICY {OWN} ON \"{policy.table}\" IS '{policy.digest}'",
            f'ALTER TABLE "{policy.table}" ENABLE ROW LEVEL SECURITY',
            f'ALTER TABLE "{policy.table}" FORCE ROW LEVEL SECURITY',  # the owner of the table is the gateway's role
        )
    return [policy.table for policy in changed]


def take_off() -> list[str]:
    """Takes the policies off; returns the tables that had them."""
    present = list(read_status().present)
    for table in present:
        _run(
            *_drop_statements(table),
            f'ALTER TABLE "{table}" NO FORCE ROW LEVEL SECURITY',
            f'ALTER TABLE "{table}" DISABLE ROW LEVEL SECURITY',
        )
    return present


def read_status() -> RowSecurityStatus:
    with connection.cursor() as cursor:
        cursor.execute(_READ_POLICIES, [OWN])
        found = {table: (digest, is_forced) for table, digest, is_forced in cursor.fetchall()}
        cursor.execute("SELECT rolname, rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user")
        role, is_exempt = cursor.fetchone()
        tables = set(connection.introspection.table_names(cursor))
    missing = [
        policy.table
        for policy in table_policies()
        if policy.table in tables and found.get(policy.table) != (policy.digest, True)
    ]
    return RowSecurityStatus(tuple(sorted(missing)), tuple(sorted(found)), role, is_exempt)


_READ_POLICIES = (
    "SELECT c.relname, obj_description(p.oid, 'pg_policy'), c.relrowsecurity AND c.relforcerowsecurity "
    "FROM pg_policy AS p JOIN pg_class AS c ON c.oid = p.polrelid "
    "WHERE p.polname = %s AND pg_table_is_visible(c.oid)"
)


def _drop_statements(table: str) -> list[str]:
    return [f'DROP POLICY IF EXISTS {name} ON "{table}"' for name in (OWN, SHARED)]


def _run(*statements: str) -> None:
    """One table at a time: a transaction over all of them would lock them all until its end."""
    with transaction.atomic(), connection.cursor() as cursor:
        for statement in (f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'", *statements):
            cursor.execute(statement)
