"""Routes of /api/, each with and without a trailing slash. Ids that clients chose may hold a slash."""

from typing import Any

from django.urls import URLPattern, re_path

from tenants.api.audit_entries import AuditEntries
from tenants.api.budget_templates import BudgetTemplates
from tenants.api.end_users import EndUsers
from tenants.api.keys import Keys
from tenants.api.members import Members
from tenants.api.organizations import Organizations
from tenants.api.resource import Resource
from tenants.api.teams import Teams
from tenants.api.users import Users

Actions = dict[str, Any]

COLLECTION: Actions = {"get": "list_rows", "post": "create"}
ITEM: Actions = {"get": "show", "patch": "update", "delete": "delete_one"}

READ_COLLECTION: Actions = {"get": "list_rows"}
READ_ITEM: Actions = {"get": "show"}


def routes_of(
    path: str, resource: type[Resource[Any]], *, collection: Actions = COLLECTION, item: Actions = ITEM
) -> list[URLPattern]:
    """The routes of the rows and of one row."""
    return [
        re_path(rf"^{path}/?$", resource.as_view(collection)),
        re_path(rf"^{path}/(?P<{resource.id_name}>.+?)/?$", resource.as_view(item)),
    ]


urlpatterns = [
    re_path(r"^api/keys/(?P<key_id>[^/]+)/rotate/?$", Keys.as_view({"post": "rotate"})),
    re_path(r"^api/keys/(?P<key_id>[^/]+)/block/?$", Keys.as_view({"post": "block"})),
    re_path(r"^api/keys/(?P<key_id>[^/]+)/unblock/?$", Keys.as_view({"post": "unblock"})),
    *routes_of("api/keys", Keys),
    *routes_of(r"api/teams/(?P<team_id>.+?)/members", Members),
    *routes_of("api/teams", Teams),
    *routes_of("api/users", Users),
    *routes_of("api/organizations", Organizations),
    *routes_of("api/end-users", EndUsers),
    *routes_of("api/budget-templates", BudgetTemplates),
    *routes_of("api/audit-entries", AuditEntries, collection=READ_COLLECTION, item=READ_ITEM),
]
