"""Mass assignment: every field of every model, injected into every write route, changes no right."""

import json
from typing import Any

import pytest
from django.apps import apps
from django.db import transaction
from django.http import HttpResponse
from django.test import Client
from django_scopes import scopes_disabled

from gateway.models import Deployment
from tenants.models import KeyType, Membership, Organization, Role, Team, User, VirtualKey
from tests.contract.isolation_table import ROUTES
from tests.contract.isolation_world import World

pytestmark = pytest.mark.django_db
Rights = dict[str, list[Any]]
MODELS = [model for name in ("tenants", "billing", "gateway") for model in apps.get_app_config(name).get_models()]
FIELDS = sorted(
    {name for model in MODELS for field in model._meta.fields for name in (field.name, field.attname)}
    | {"is_superuser", "is_staff", "pk", "groups", "user_permissions", "__class__", "_state", "objects"}
)
#: What an attacker would like them to be.
VALUES: dict[str, Any] = {
    "role": Role.PLATFORM_VIEWER,
    "user_role": "proxy_admin",
    "type": KeyType.MANAGEMENT,
    "organization": "umbrella",
    "organization_id": "umbrella",
    "team": "raccoon",
    "team_id": "raccoon",
    "user": "root",
    "user_id": "root",
}
WRITES = [name for name in ROUTES if not name.startswith("GET")]
AT_ONCE = 16
#: Fields of LiteLLM that name the object of a route and so cannot be injected beside it.
OWN_FIELDS = {"id", "team_id", "user_id", "organization_id"}
#: An admin's key of type management may give a key of this type, under the name that /api/keys has for it.
ALLOWED = {("org_admin", "type")}


def rights() -> Rights:
    """Everything that says who may do what, in all organizations."""
    with scopes_disabled():
        return {
            "users": list(
                User.objects.order_by("pk").values_list(
                    "username", "is_superuser", "is_staff", "role", "may_view_content", "organization_id", "password"
                )
            ),
            "keys": list(
                VirtualKey.objects.order_by("pk").values_list(
                    "digest", "organization_id", "user_id", "team_id", "type", "created_by", "allowed_routes"
                )
            ),
            "memberships": list(Membership.objects.order_by("pk").values_list("team_id", "user_id", "role")),
            "teams": list(Team.objects.order_by("pk").values_list("id", "organization_id")),
            "organizations": list(Organization.objects.order_by("pk").values_list("id", "blocked", "allowed_models")),
            "deployments": list(Deployment.objects.order_by("pk").values_list("id", "organization_id", "credential")),
        }


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("name", WRITES)
def test_no_field_of_a_model_changes_a_right(client: Client, world: World, name: str):
    """Several fields at once. Where that is refused, without those that the refusal names as unknown, else fewer."""
    route = ROUTES[name]
    object_id = world.objects[route.kind]["own"] if route.kind else "own"
    path = route.path(name, object_id)
    fields = route.fields(object_id)
    before = rights()
    injected = [field for field in FIELDS if field not in fields and field not in OWN_FIELDS]

    def inject(names: list[str]) -> None:
        body = fields | {field: VALUES.get(field, True) for field in names}
        answer, changes = try_call(client, world.keys[actor], name, path, body, before)
        assert answer.status_code < 500, (actor, names)
        if not answer.status_code >= 400 > plain.status_code:
            assert changes in ({}, plain_changes), (actor, names)
        elif unknown := find_unknown(answer).intersection(names):
            if rest := [field for field in names if field not in unknown]:
                inject(rest)
        elif len(names) > 1:
            middle = len(names) // 2
            inject(names[:middle])
            inject(names[middle:])

    for actor in ("member", "org_admin"):
        plain, plain_changes = try_call(client, world.keys[actor], name, path, fields, before)
        allowed = [field for field in injected if (actor, field) not in ALLOWED]
        for start in range(0, len(allowed), AT_ONCE):
            inject(allowed[start : start + AT_ONCE])
    assert rights() == before


def find_unknown(answer: HttpResponse) -> set[str]:
    """The fields that a refusal calls unknown: it names them whatever stands beside them."""
    body = json.loads(answer.content)
    if "error" in body:
        error = body["error"]
        return {error["param"]} if error["message"].startswith("Unknown field") else set()
    return {error["param"] for error in body.get("errors", ()) if error["detail"] == "Unknown field."}


def try_call(
    client: Client, key: str, name: str, path: str, body: dict[str, Any], before: Rights
) -> tuple[HttpResponse, Rights]:
    """The answer, and the rows of rights that the call added or changed. What it wrote is taken back."""
    headers = {"authorization": f"Bearer {key}"}
    with transaction.atomic():
        response = client.generic(
            name.partition(" ")[0], path, json.dumps(body), content_type="application/json", headers=headers
        )
        if response.status_code >= 400:
            return response, {}  # the end of the test sees whether it wrote
        after = rights()
        transaction.set_rollback(True)
    changes = {table: [row for row in rows if row not in before[table]] for table, rows in after.items()}
    for table in ("keys", "teams"):
        changes[table] = [row[1:] for row in changes[table]]  # a new text or id is random
    known = {row[0] for row in before["users"]}
    changes["users"] = [row if row[0] in known else row[1:-1] for row in changes["users"]]
    return response, {table: rows for table, rows in changes.items() if rows}
