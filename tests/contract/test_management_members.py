"""The members of teams as their callers see them: /team/member_add, member_update, member_delete, bulk_member_add."""

from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django_scopes import scopes_disabled

from gateway.protocol.amounts import PUSD
from tenants.budget_store import add_spend
from tenants.directory import load_principal
from tenants.invalid import KeyInvalid
from tenants.memberships import MemberName, add_members
from tenants.models import Budget, Membership, Organization, RateLimit, Scope, User
from tests.contract.management import Api, People, key_count, key_row, refused

pytestmark = pytest.mark.django_db


def add(api: Api, member: Any, team_id: str = "research", **fields: Any) -> Any:
    return api.post("/team/member_add", {"team_id": team_id, "member": member, **fields})


def members(api: Api, team_id: str = "research") -> dict[str, Any]:
    answer = api.get("/team/info", {"team_id": team_id}).json()
    return {row["user_id"]: row for row in answer["team_memberships"]}


def test_a_member_is_added_by_id_or_address(api: Api, people: People):
    User.objects.filter(username="mate").update(email="Mate@Acme.test")
    answer = add(api, {"role": "admin", "user_id": "owner"}).json()
    assert answer["team_id"] == "research"
    assert [(row["user_id"], row["role"]) for row in answer["members_with_roles"]] == [("owner", "admin")]
    assert [user["user_id"] for user in answer["updated_users"]] == ["owner"]
    [row] = answer["updated_team_memberships"]
    assert (row["user_id"], row["team_id"], row["budget_id"], row["litellm_budget_table"]) == (
        "owner", "research", None, None,
    )  # fmt: skip
    assert add(api, {"role": "user", "user_email": "mate@acme.test"}).json()["updated_users"][0]["user_id"] == "mate"
    assert set(members(api)) == {"owner", "mate"}


def test_an_unknown_user_is_created_in_the_teams_organization(api: Api, people: People):
    answer = add(api, [{"role": "user", "user_id": "ann"}, {"role": "user", "user_email": "bob@acme.test"}]).json()
    assert len(answer["updated_users"]) == 2
    created = User.objects.filter(email="bob@acme.test").get()
    for user in (created, User.objects.get(username="ann")):
        assert user.organization_id == "acme"
        assert not user.has_usable_password()
        assert not user.is_staff
        assert not user.is_superuser
    assert answer["updated_users"][1]["user_id"] == created.username


def test_a_user_of_another_organization_is_refused(api: Api, people: People):
    error = refused(add(api, {"role": "user", "user_id": "stranger"}), 400, "member")
    assert "belongs to another organization" in error["message"]
    refused(add(api, [{"role": "user", "user_id": "new"}, {"role": "user", "user_id": "stranger"}]), 400, "member")
    assert not User.objects.filter(username="new").exists()
    User.objects.create(username="root", is_superuser=True, email="root@acme.test")
    refused(add(api, {"role": "user", "user_id": "root"}), 400, "member")
    assert members(api) == {}
    # An address is looked up within the organization alone
    User.objects.filter(username="stranger").update(email="s@umbrella.test")
    assert (
        add(api, {"role": "user", "user_email": "s@umbrella.test"}).json()["updated_users"][0]["user_id"] != "stranger"
    )


def test_who_is_in_the_team_already_is_refused_alone_and_skipped_among_others(api: Api, people: People):
    add(api, {"role": "admin", "user_id": "owner"})
    refused(add(api, {"role": "user", "user_id": "owner"}), 400, "member", "team_member_already_in_team")
    both = add(api, [{"role": "user", "user_id": "owner"}, {"role": "user", "user_id": "mate"}]).json()
    assert [user["user_id"] for user in both["updated_users"]] == ["mate"]
    assert members(api)["owner"]["role"] == "admin"


@pytest.mark.parametrize(
    "member",
    [
        None,
        [],
        "owner",
        {},
        {"role": "user"},
        {"role": "owner", "user_id": "owner"},
        {"role": "user", "user_id": "a\0b"},
        {"role": "user", "user_id": 7},
        {"role": "user", "user_id": "owner", "is_superuser": True},
        [{"role": "user", "user_id": f"u{number}"} for number in range(501)],
    ],
)
def test_what_is_no_member_is_refused(api: Api, people: People, member: Any):
    assert add(api, member).status_code == 400
    assert members(api) == {}


def test_an_address_of_several_users_is_refused(api: Api, people: People):
    User.objects.filter(username__in=["owner", "mate"]).update(email="same@acme.test")
    refused(add(api, {"role": "user", "user_email": "same@acme.test"}), 400, "member")


def test_a_member_has_limits_of_its_own_in_the_team(api: Api, people: People):
    limits = {"max_budget_in_team": 2.5, "budget_duration": "7d", "rpm_limit": 4, "tpm_limit": None}
    [row] = add(api, {"role": "user", "user_id": "owner"}, **limits).json()["updated_team_memberships"]
    table = row["litellm_budget_table"]
    assert (table["max_budget"], table["budget_duration"], table["rpm_limit"], table["tpm_limit"]) == (
        2.5,
        "7d",
        4,
        None,
    )
    assert (row["spend"], row["budget_source"]) == (0.0, "custom")
    assert row["budget_reset_at"] is not None
    principal = load_principal(key_row(people.owner).digest)
    assert principal is not None
    assert [(rule.scope, rule.scope_id) for rule in principal.rules.budgets] == [(Scope.MEMBER, "research:owner")]
    assert [(rule.owner, rule.limit) for rule in principal.rules.limits] == [("team member", 4)]
    other = load_principal(key_row(people.mate).digest)
    assert other is not None
    assert not other.rules.budgets
    refused(add(api, {"role": "user", "user_id": "x"}, max_budget_in_team=-1), 400, "max_budget_in_team")


def test_a_member_may_be_restricted_to_models(api: Api, people: People):
    add(api, {"role": "user", "user_id": "owner"}, allowed_models=["gpt"])
    principal = load_principal(key_row(people.owner).digest)
    assert principal is not None
    assert principal.allowed_models == (frozenset({"gpt"}),)
    body = {"team_id": "research", "user_id": "owner", "allowed_models": []}
    assert api.post("/team/member_update", body).json()["allowed_models"] == []
    principal = load_principal(key_row(people.owner).digest)
    assert principal is not None
    assert principal.allowed_models == ()


def test_the_spend_of_a_member_is_that_of_its_team_alone(api: Api, people: People):
    add(api, [{"role": "user", "user_id": "owner"}, {"role": "user", "user_id": "mate"}])
    add_spend({("acme", Scope.MEMBER, "research:owner"): 3 * PUSD, ("acme", Scope.USER, "owner"): 5 * PUSD})
    assert {name: row["spend"] for name, row in members(api).items()} == {"owner": 3.0, "mate": 0.0}


def test_an_update_changes_what_it_names_and_null_clears(api: Api, people: People):
    add(api, {"role": "user", "user_id": "owner"}, max_budget_in_team=2, rpm_limit=4)
    body = {"team_id": "research", "user_id": "owner"}
    answer = api.post("/team/member_update", {**body, "role": "admin", "max_budget_in_team": None}).json()
    assert (answer["user_id"], answer["team_id"]) == ("owner", "research")
    assert (answer["max_budget_in_team"], answer["rpm_limit"], answer["tpm_limit"]) == (None, 4, None)
    assert members(api)["owner"]["role"] == "admin"
    raised = {"temp_budget_increase": 1, "temp_budget_expiry": "2999-01-01T00:00:00Z", "max_budget_in_team": 1}
    assert api.post("/team/member_update", {**body, **raised}).json()["temp_budget_increase"] == 1.0
    refused(api.post("/team/member_update", {**body, "role": "owner"}), 400, "role")
    refused(api.post("/team/member_update", {**body, "user_id": "mate"}), 400, "user_id")
    refused(api.post("/team/member_update", {"team_id": "research", "role": "user"}), 400, "user_id")
    refused(api.post("/team/member_update", {**body, "team_id": "none"}), 404, "team_id")


def test_a_removed_member_loses_its_limits_and_its_keys_of_the_team(api: Api, people: People):
    add(
        api,
        [{"role": "user", "user_id": "owner"}, {"role": "user", "user_id": "mate"}],
        max_budget_in_team=2,
        rpm_limit=4,
    )
    before = key_count()
    answer = api.post("/team/member_delete", {"team_id": "research", "user_id": "owner"}).json()
    assert [row["user_id"] for row in answer["members_with_roles"]] == ["mate"]
    assert key_count() == before - 1
    assert load_principal(key_row(people.mate).digest) is not None
    with scopes_disabled():
        for model in (Budget, RateLimit):
            assert [row.scope_id for row in model._default_manager.all()] == ["research:mate"]
    assert User.objects.filter(username="owner").exists()
    refused(api.post("/team/member_delete", {"team_id": "research", "user_id": "owner"}), 400, "user_id")


def test_members_are_added_in_bulk_with_few_queries(api: Api, people: People):
    names = [{"role": "user", "user_id": f"u{number}"} for number in range(100)]
    with CaptureQueriesContext(connection) as captured:
        answer = api.post("/team/bulk_member_add", {"team_id": "research", "members": names}).json()
    assert len(captured) <= 40
    assert {name: answer[name] for name in ("total_requested", "successful_additions", "failed_additions")} == {
        "total_requested": 100, "successful_additions": 100, "failed_additions": 0,
    }  # fmt: skip
    assert all(result["success"] and result["error"] is None for result in answer["results"])
    assert answer["updated_team"]["members_count"] == 100
    refused(api.post("/team/bulk_member_add", {"team_id": "research", "all_users": True}), 400, "all_users")
    refused(api.post("/team/bulk_member_add", {"team_id": "research"}), 400, "members")


def test_a_virtual_key_without_a_role_changes_no_members(api: Api, people: People):
    for path in ("member_add", "member_update", "member_delete", "bulk_member_add"):
        body = {"team_id": "research", "member": {"role": "admin", "user_id": "owner"}, "user_id": "owner"}
        assert api.post(f"/team/{path}", body, by=people.owner).status_code in {400, 403}
    assert members(api) == {}


def test_a_service_call_within_another_organization_finds_no_member(people: People):
    with scopes_disabled():
        add_members(people.team, members=[MemberName(user_id="owner")])
        assert Membership.objects.get().organization == Organization.objects.get(id="acme")
        with pytest.raises(KeyInvalid):
            add_members(people.team, members=[MemberName(user_id="stranger")])


def test_the_calls_of_the_terraform_provider(api: Api, people: People):
    """Source: ncecere/terraform-provider-litellm, resource_team.go and resource_team_member.go, as of November 2026."""
    team = {"team_id": "tf", "team_alias": "Terraform", "organization_id": "acme", "models": ["gpt"], "tags": ["a"]}
    limits = {"max_budget": 10.0, "budget_duration": "30d", "rpm_limit": 10, "team_member_budget": 2.0}
    assert api.post("/team/new", {**team, **limits, "blocked": False, "metadata": {"k": "v"}}).status_code == 200
    read = api.get("/team/info", {"team_id": "tf"}).json()["team_info"]
    assert {name: read[name] for name in (*team, "max_budget", "rpm_limit", "budget_duration")} == {
        **team, "max_budget": 10.0, "rpm_limit": 10, "budget_duration": "30d",
    }  # fmt: skip
    member = {"role": "user", "user_id": "tf-user", "user_email": "tf@acme.test"}
    body = {"team_id": "tf", "member": [member], "max_budget_in_team": 1.5}
    assert api.post("/team/member_add", body).status_code == 200
    assert "team_member_already_in_team" in api.post("/team/member_add", body).content.decode()
    [row] = api.get("/team/info", {"team_id": "tf"}).json()["team_memberships"]
    assert (row["user_id"], row["user_email"]) == ("tf-user", "tf@acme.test")
    named = {"team_id": "tf", "user_id": "tf-user", "user_email": "tf@acme.test"}
    assert api.post("/team/member_update", {**named, "max_budget_in_team": None}).status_code == 200
    cleared = api.post("/team/update", {**team, "max_budget": None, "tpm_limit": None}).json()["data"]
    assert (cleared["max_budget"], cleared["rpm_limit"]) == (None, 10)
    assert api.post("/team/member_delete", named).status_code == 200
    assert api.post("/team/delete", {"team_ids": ["tf"]}).status_code == 200
    refused(api.get("/team/info", {"team_id": "tf"}), 404, "team_id")
    refused(api.post("/team/delete", {"team_ids": ["tf"]}), 404, "team_ids")
