"""The walls between organizations: every table of a tenant is scoped, and who leaves the scope says why."""

import ast
from pathlib import Path

import pytest
from django.apps import apps
from django.db import models
from django_scopes import ScopeError, scope, scopes_disabled

from tests.architecture.test_house import SOURCES, nodes

#: {file: why it reads or writes rows of more than one organization}.
UNSCOPED = {
    "billing/backlog.py": "the counts of the bookkeeping's work for the platform span all organizations",
    "gateway/metrics/access.py": "the key was found by its text",
    "billing/alerts/delivery.py": "the worker sends the alerts of all organizations",
    "billing/alerts/find.py": "the worker looks at the budgets and the spend of all organizations",
    "billing/alerts/record.py": "the worker writes the alerts of all organizations",
    "billing/report_schedules/runs.py": "the worker makes the reports of all organizations, each from its own rows",
    "billing/bookkeeping.py": "the worker prices and sweeps the rows of all organizations",
    "billing/management/commands/report.py": "a user of this shell is the platform admin",
    "billing/management/commands/reconcile.py": "a user of this shell is the platform admin",
    "gateway/config/load.py": "config.yaml is the platform's",
    "gateway/console/site.py": "the sessions of platform admins; their role says what they see",
    "gateway/deployments.py": "a deployment may be shared by all organizations, and its row is at hand",
    "gateway/management/commands/explain.py": "a user of this shell is the platform admin",
    "gateway/explanation/call.py": "the deployments that a key can reach, shared ones included",
    "gateway/explanation/walls.py": "a template may be the platform's; the rules are those of a key that is seen",
    "gateway/management/commands/purge.py": "a user of this shell is the platform admin",
    "gateway/management/commands/prices.py": "a user of this shell is the platform admin",
    "gateway/server/bootstrap.py": "the first start, before any tenant",
    "billing/log_search.py": "the later attempts of a row that is seen, among which those count that are seen too",
    "billing/unpriced.py": "a platform admin sees the models without a price of all organizations",
    "billing/rollup_rebuild.py": "the rollups of a day are those of all organizations",
    "billing/verification.py": "the check of the ledger spans all organizations",
    "billing/rollup_retention.py": "the retention of rollups spans all organizations",
    "billing/retention.py": "the retention of spend logs spans all organizations",
    "billing/repricing.py": "a platform admin prices the rows of all organizations again",
    "gateway/stores/deployment_prices.py": "a spend row names its deployment, whatever its organization",
    "gateway/stores/catalog.py": "the catalog itself keeps organizations apart",
    "gateway/stores/deployment_health.py": "the worker probes the deployments of all organizations",
    "gateway/stores/idempotency.py": "the worker erases expired claims of all organizations",
    "gateway/stores/retention.py": "retention spans all organizations",
    "gateway/stores/router_settings.py": "the settings are for the model groups of all organizations",
    "gateway/stores/runs.py": "a worker serves every organization",
    "gateway/stores/storage_quota.py": "the worker counts the stored bytes of all organizations",
    "gateway/admin/stored_response.py": "names the manager of its table; the console's session sets the scope",
    "tenants/admin/console.py": "names the manager of its table; the console's session sets the scope",
    "tenants/admin/organization.py": "names the manager of its table; the console's session sets the scope",
    "tenants/audit.py": "records the rows that a service changes, whatever its scope",
    "tenants/budget_store.py": "windows are found by the ids of budgets that a scoped query gave",
    "tenants/budget_templates.py": "counts what a template binds; templates of the default organization bind others",
    "tenants/directory.py": "the key tells its organization",
    "tenants/end_users.py": "the organization is the principal's, and part of the row",
    "tenants/budget_usage.py": "a template may be the default organization's; the spenders come from scoped queries",
    "tenants/key_rotation.py": "the worker names due keys of all organizations",
    "tenants/key_status.py": "the key was found by its text",
    "tenants/key_spend.py": "a process answers calls of all organizations",
    "tenants/key_use.py": "a process answers calls of all organizations",
    "tenants/rest/key_list.py": "names of teams and sums, joined to keys that are scoped",
    "tenants/keys.py": "digests and aliases are unique across organizations; deletion by ids that a scoped query gave",
    "tenants/limits.py": "templates of the default organization serve all",
    "tenants/management/commands/migrate.py": "a migration changes the rows of all organizations",
    "tenants/management/commands/verify_audit.py": "a user of this shell is the platform admin",
    "tenants/management/commands/create_key.py": "a user of this shell is the platform admin",
    "tenants/admin/limits.py": "the platform's templates, beside those that the filters of roles leave",
    "tenants/permissions.py": "the memberships of one user; and rows that the filters of roles narrow",
    "tenants/rest/authentication.py": "the key tells its organization; the platform's roles reach all",
    "tenants/revision.py": "the id of a scope is unique across organizations",
    "tenants/scope_rules.py": "the organization is the principal's",
    "tenants/teams.py": "ids of teams are unique across organizations",
    "tenants/users.py": "ids of users are unique across organizations; a platform admin may have keys in several",
    "tenants/grants.py": "a template of the default organization may bind any organization",
    "tenants/memberships.py": "ids of users are unique across organizations",
    "tenants/organizations.py": "the platform admins of an organization that is deleted leave it",
    "gateway/rest/model_info.py": "the deployments that the caller's organization can reach, shared ones included",
}
WAYS_OUT = {"scopes_disabled", "_base_manager", "_default_manager"}


def leaves_the_scope(path: Path) -> bool:
    for node in nodes(path, ast.Name, ast.Attribute):
        name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
        if name in WAYS_OUT:
            return True
    return False


def test_only_named_files_leave_the_scope_of_an_organization():
    leaving = {str(path) for path in SOURCES if leaves_the_scope(path)}
    assert leaving <= set(UNSCOPED), "name the file and its reason"


#: Tables with an organization that no scope guards.
PLATFORM_TABLES = {
    "User": "signing in comes before any organization; filters of roles narrow the lists",
    "AuditEntry": "one chain for the platform; the filter of its area narrows what a role sees",
}


def tenant_tables() -> list[type[models.Model]]:
    tables = [model for name in ("tenants", "billing", "gateway") for model in apps.get_app_config(name).get_models()]
    return [model for model in tables if any(field.name == "organization" for field in model._meta.get_fields())]


@pytest.mark.parametrize("model", tenant_tables(), ids=lambda model: model.__name__)
def test_a_forgotten_scope_raises(model: type[models.Model]):
    if model.__name__ in PLATFORM_TABLES:
        return
    with pytest.raises(ScopeError):
        model.objects.filter(pk=None)  # type: ignore[attr-defined]
    with scope(organization="acme"):
        assert "acme" in str(model.objects.all().query)  # type: ignore[attr-defined]
    with scopes_disabled():
        assert "acme" not in str(model.objects.all().query)  # type: ignore[attr-defined]
