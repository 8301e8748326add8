"""/organization/* as its callers see it."""

import json
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django_scopes import scopes_disabled

from tenants.directory import load_principal
from tenants.limits import render_limits
from tenants.models import Budget, EndUser, Membership, Organization, RateLimit, Role, Scope, Team, User, VirtualKey
from tests.contract.management import MASTER, Api, People, key_row, refused

pytestmark = pytest.mark.django_db

#: The fields of LiteLLM's organization row that its clients read.
ROW = {
    *("organization_id", "organization_alias", "budget_id", "spend", "metadata", "models", "model_spend", "created_by"),
    *("updated_by", "created_at", "updated_at", "members", "teams", "litellm_budget_table"),
}


def send(api: Api, method: str, path: str, body: Any, *, by: str = MASTER) -> Any:
    return api.client.generic(method, path, json.dumps(body), "application/json", headers=api.headers(by))


def info(api: Api, organization_id: str) -> Any:
    response = api.get("/organization/info", {"organization_id": organization_id})
    assert response.status_code == 200, response.content
    return response.json()


def test_an_organization_is_created_read_and_listed(api: Api, people: People):
    api.post("/budget/new", {"budget_id": "shared", "tpm_limit": 99})
    fields = {
        "organization_id": "wayne",
        "organization_alias": "Wayne",
        "models": ["gpt"],
        "metadata": {"x": 1, "tags": ["a"]},
        "max_budget": 100.0,
        "budget_duration": "30d",
        "rpm_limit": 10,
        "budget_id": "shared",
        "time_zone": "Europe/Vienna",
        "unpriced_policy": "allow",
        "retention_days": 7,
    }
    made = api.post("/organization/new", fields).json()
    assert set(made) >= ROW
    assert {name: made[name] for name in fields} == fields
    table = made["litellm_budget_table"]
    assert (table["max_budget"], table["rpm_limit"], table["tpm_limit"]) == (100.0, 10, 99)
    assert (made["spend"], made["members"], made["teams"]) == (0.0, [], [])
    assert info(api, "wayne") == made
    assert api.post("/organization/info", {"organizations": ["wayne", "none"]}).json() == [made]
    listed = api.get("/organization/list")
    assert [row["organization_id"] for row in listed.json()] == ["acme", "default", "umbrella", "wayne"]
    assert listed["X-Total-Count"] == "4"
    assert api.get("/organization/list", {"org_alias": "WAY"}).json() == [made]
    assert api.get("/organization/list", {"org_id": "wayne"}).json() == [made]
    page = api.get("/organization/list", {"page": "2", "page_size": "3"}).json()
    assert page == [made]


def test_an_organization_shows_its_members_and_teams(api: Api, people: People):
    row = info(api, "acme")
    assert [member["user_id"] for member in row["members"]] == ["owner", "mate"]
    assert [member["user_role"] for member in row["members"]] == ["internal_user"] * 2
    assert [team["team_id"] for team in row["teams"]] == ["research"]
    assert (row["members_count"], row["teams_count"]) == (2, 1)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("organization_alias", ""),
        ("organization_alias", "Acme"),
        ("organization_alias", 7),
        ("organization_id", "acme"),
        ("models", "gpt"),
        ("max_budget", -1),
        ("budget_id", "none"),
        ("time_zone", "Mars/Olympus"),
        ("time_zone", "../etc/passwd"),
        ("unpriced_policy", "maybe"),
        ("retention_days", 0),
        ("retention_days", "7"),
        ("is_superuser", True),
        ("object_permission", {"mcp": []}),
    ],
)
def test_what_no_organization_can_have_is_refused(api: Api, people: People, field: str, value: Any):
    refused(api.post("/organization/new", {"organization_alias": "New", field: value}), 400, field)
    assert Organization.objects.count() == 3


def test_an_update_changes_what_it_names_and_null_clears(api: Api, people: People):
    body = {"organization_id": "acme", "max_budget": 5, "rpm_limit": 3, "models": ["gpt"], "tags": ["a"]}
    row = send(api, "PATCH", "/organization/update", body).json()
    assert (row["max_budget"], row["rpm_limit"], row["models"], row["tags"]) == (5.0, 3, ["gpt"], ["a"])
    cleared = {"organization_id": "acme", "max_budget": None, "organization_alias": None, "blocked": None}
    row = send(api, "PATCH", "/organization/update", cleared).json()
    assert (row["max_budget"], row["rpm_limit"], row["organization_alias"]) == (None, 3, "Acme")
    refused(send(api, "PATCH", "/organization/update", {"organization_id": "none"}), 404, "organization_id")
    refused(send(api, "PATCH", "/organization/update", {"rpm_limit": 1}), 400, "organization_id")
    taken = {"organization_id": "acme", "organization_alias": "Umbrella"}
    refused(send(api, "PATCH", "/organization/update", taken), 400, "organization_alias")
    assert info(api, "acme") == row


def test_the_models_and_budget_of_an_organization_bind_all_below(api: Api, people: People):
    body = {"organization_id": "acme", "models": ["gpt"], "max_budget": 5, "rpm_limit": 3}
    send(api, "PATCH", "/organization/update", body)
    for key in (people.owner, people.mate, api.issue(organization_id="acme")["key"]):
        principal = load_principal(key_row(key).digest)
        assert principal is not None
        assert frozenset({"gpt"}) in principal.allowed_models
        assert [(rule.scope, rule.scope_id) for rule in principal.rules.budgets] == [(Scope.ORGANIZATION, "acme")]
        assert [(rule.owner, rule.limit) for rule in principal.rules.limits] == [("organization", 3)]
    stranger = load_principal(key_row(people.stranger).digest)
    assert stranger is not None
    assert (stranger.allowed_models, stranger.rules.budgets) == ((), ())
    send(api, "PATCH", "/organization/update", {"organization_id": "acme", "blocked": True})
    assert load_principal(key_row(people.owner).digest) is None


# Members


def test_members_are_added_with_a_role_and_a_budget(api: Api, people: People):
    body = {
        "organization_id": "acme",
        "member": [{"role": "org_admin", "user_id": "owner"}, {"role": "internal_user_viewer", "user_email": "n@x.at"}],
        "max_budget_in_organization": 7,
    }
    answer = api.post("/organization/member_add", body).json()
    assert set(answer) == {"organization_id", "updated_users", "updated_organization_memberships"}
    assert [user["user_role"] for user in answer["updated_users"]] == ["org_admin", "internal_user_viewer"]
    memberships = answer["updated_organization_memberships"]
    assert [row["litellm_budget_table"]["max_budget"] for row in memberships] == [7.0, 7.0]
    assert User.objects.get(username="owner").role == Role.ORGANIZATION_ADMIN
    assert User.objects.get(email="n@x.at").organization_id == "acme"
    principal = load_principal(key_row(people.owner).digest)
    assert principal is not None
    assert [(rule.scope, rule.scope_id) for rule in principal.rules.budgets] == [(Scope.USER, "owner")]


@pytest.mark.parametrize("role", ["proxy_admin", "proxy_admin_viewer", "admin", "", None, 7])
def test_no_role_of_the_platform_is_given(api: Api, people: People, role: Any):
    member = {"role": role, "user_id": "owner"}
    assert api.post("/organization/member_add", {"organization_id": "acme", "member": member}).status_code == 400
    owner = User.objects.get(username="owner")
    assert (owner.role, owner.is_superuser) == (Role.MEMBER, False)


def test_a_user_of_another_organization_and_a_platform_admin_are_refused(api: Api, people: People):
    User.objects.create(username="root", is_superuser=True, organization=people.home)
    for name in ("stranger", "root"):
        member = {"role": "internal_user", "user_id": name}
        refused(api.post("/organization/member_add", {"organization_id": "acme", "member": member}), 400, "member")
        body = {"organization_id": "acme", "user_id": name}
        refused(send(api, "PATCH", "/organization/member_update", {**body, "role": "org_admin"}), 400, "user_id")
        refused(send(api, "DELETE", "/organization/member_delete", body), 400, "user_id")
    assert User.objects.filter(username__in=["stranger", "root"]).count() == 2


def test_a_member_is_changed_and_removed(api: Api, people: People):
    api.post(
        "/team/member_add", {"team_id": "research", "member": {"role": "user", "user_id": "owner"}, "rpm_limit": 1}
    )
    body = {"organization_id": "acme", "user_id": "owner"}
    changes = {"role": "org_admin", "max_budget_in_organization": 3}
    row = send(api, "PATCH", "/organization/member_update", {**body, **changes}).json()
    assert (row["user_id"], row["organization_id"], row["user_role"]) == ("owner", "acme", "org_admin")
    assert row["litellm_budget_table"]["max_budget"] == 3.0
    assert send(api, "DELETE", "/organization/member_delete", body).json()["user_id"] == "owner"
    assert not User.objects.filter(username="owner").exists()
    with scopes_disabled():
        assert VirtualKey.objects.filter(organization="acme").count() == 1
        assert [*Membership.objects.all(), *RateLimit.objects.all(), *Budget.objects.all()] == []
    refused(send(api, "DELETE", "/organization/member_delete", body), 400, "user_id")


# Deletion


def test_a_deleted_organization_takes_everything_along_and_nothing_of_others(api: Api, people: People):
    send(api, "PATCH", "/organization/update", {"organization_id": "acme", "max_budget": 5})
    send(api, "PATCH", "/organization/update", {"organization_id": "umbrella", "max_budget": 6})
    api.post("/team/update", {"team_id": "research", "rpm_limit": 5, "team_member_budget": 1})
    api.issue(organization_id="acme", rpm_limit=2)
    with scopes_disabled():
        EndUser.objects.create(organization=people.home, external_id="customer")
    refused(
        send(api, "DELETE", "/organization/delete", {"organization_ids": ["acme", "none"]}), 404, "organization_ids"
    )
    default = {"organization_ids": ["default"]}
    refused(send(api, "DELETE", "/organization/delete", default), 400, "organization_id")
    [row] = send(api, "DELETE", "/organization/delete", {"organization_ids": ["acme"]}).json()
    assert row["organization_id"] == "acme"
    assert [team["team_id"] for team in row["teams"]] == ["research"]
    with scopes_disabled():
        for model in (Team, VirtualKey, EndUser, RateLimit, Budget):
            assert not model._default_manager.filter(organization="acme").exists()
        assert not User.objects.filter(organization="acme").exists()
        assert render_limits(people.abroad, Scope.ORGANIZATION, "umbrella")["max_budget"] == 6.0
        assert VirtualKey.objects.count() == 1
    assert load_principal(key_row(people.stranger).digest) is not None


def test_a_page_of_organizations_takes_as_many_queries_as_one(api: Api, people: People):
    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            assert api.get("/organization/list").status_code == 200
        return len(captured)

    api.post("/organization/new", {"organization_alias": "first", "max_budget": 1})
    few = queries()
    for number in range(5):
        made = api.post("/organization/new", {"organization_alias": f"more {number}", "max_budget": 1}).json()
        api.post("/team/new", {"organization_id": made["organization_id"]})
    assert queries() == few <= 14


def test_a_virtual_key_without_a_role_reaches_no_organization(api: Api, people: People):
    for path in ("info?organization_id=acme", "list"):
        assert api.get(f"/organization/{path}", by=people.owner).status_code == 403
    body = {"organization_id": "acme", "organization_ids": ["acme"], "organization_alias": "x"}
    for method, path in (("POST", "new"), ("PATCH", "update"), ("DELETE", "delete")):
        assert send(api, method, f"/organization/{path}", body, by=people.owner).status_code == 403
    assert Organization.objects.count() == 3
