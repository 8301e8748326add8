"""/team/* as its callers see it."""

from typing import Any
from uuid import UUID

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django_scopes import scopes_disabled

from tenants.directory import load_principal
from tenants.models import (
    AuditEntry,
    Budget,
    BudgetTemplate,
    Membership,
    RateLimit,
    Scope,
    SpendTotal,
    Team,
    VirtualKey,
)
from tests.contract.management import Api, People, key_count, key_row, refused

pytestmark = pytest.mark.django_db

# Teams


def test_teams_are_created_read_and_listed(api: Api, people: People):
    fields = {
        "team_id": "litellm-team",
        "team_alias": "数据组",
        "models": ["gpt"],
        "metadata": {"cost_center": "7"},
        "organization_id": "umbrella",
    }
    response = api.post("/team/new", fields)
    assert response.status_code == 200
    assert {name: response.json()[name] for name in fields} == fields
    refused(api.post("/team/new", fields), 400, "team_id")
    key = api.issue(team_id="litellm-team")
    assert key["organization_id"] == "umbrella"
    team = api.get("/team/info", {"team_id": "litellm-team"}).json()
    assert set(team) == {
        *("team_id", "team_info", "keys", "keys_total", "team_memberships", "team_memberships_total"),
        *("page", "page_size", "total_pages"),
    }
    assert team["team_info"]["team_alias"] == "数据组"
    assert [row["token"] for row in team["keys"]] == [key["token"]]
    listed = {row["team_id"]: row for row in api.get("/team/list").json()}
    assert set(listed) == {"research", "raccoon", "litellm-team"}
    assert len(listed["research"]["keys"]) == 2
    abroad = api.get("/team/list", {"organization_id": "acme"}).json()
    assert [row["team_id"] for row in abroad] == ["research"]
    refused(api.get("/team/info", {"team_id": "no-such-team"}), 404, "team_id")


def test_a_team_gets_an_id_and_the_default_organization(api: Api):
    team = api.post("/team/new").json()
    assert UUID(team["team_id"]).version == 7
    assert (team["organization_id"], team["team_alias"], team["models"]) == ("default", None, [])
    assert api.post("/team/new", {"blocked": True}).json()["blocked"] is True


def test_listing_teams_takes_the_same_queries_for_many_keys(api: Api, people: People):
    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            assert api.get("/team/list").status_code == 200
        return len(captured)

    few = queries()
    for number in range(5):
        api.issue(team_id="research", user_id=f"user-{number}")
    assert queries() == few


def test_a_page_of_teams_takes_as_many_queries_as_one_team(api: Api, people: People):
    def queries(path: str) -> int:
        with CaptureQueriesContext(connection) as captured:
            assert api.get(path).status_code == 200
        return len(captured)

    def create(number: int) -> None:
        home = "acme" if number % 2 else "umbrella"
        team = {"team_id": f"team-{number}", "organization_id": home, "max_budget": number, "team_member_budget": 1}
        members = [{"role": "user", "user_id": f"{number}-{member}"} for member in range(3)]
        assert api.post("/team/new", {**team, "members_with_roles": members}).status_code == 200
        api.issue(team_id=f"team-{number}")

    create(0)
    few = queries("/team/list"), queries("/v2/team/list?page_size=100")
    for number in range(1, 6):
        create(number)
    assert (queries("/team/list"), queries("/v2/team/list?page_size=100")) == few
    assert few <= (25, 15)


# Fields

#: The fields of LiteLLM's team row that its clients read.
TEAM_ROW = {
    *("team_id", "team_alias", "organization_id", "admins", "members", "members_with_roles", "metadata", "tpm_limit"),
    *("rpm_limit", "tpd_limit", "max_budget", "soft_budget", "budget_duration", "budget_limits", "budget_reset_at"),
    *("models", "blocked", "spend", "max_parallel_requests", "model_spend", "model_max_budget"),
    *("team_member_permissions", "litellm_model_table", "team_member_budget_table", "default_team_member_models"),
    *("created_at", "updated_at"),
}  # fmt: skip


def team_of(api: Api, team_id: str) -> Any:
    response = api.get("/team/info", {"team_id": team_id})
    assert response.status_code == 200, response.content
    return response.json()


def test_a_team_has_every_field_of_litellm(api: Api, people: People):
    made = api.post("/team/new", {"team_alias": "a"}).json()
    assert set(made) >= TEAM_ROW
    assert made["spend"] == 0.0
    info = team_of(api, made["team_id"])["team_info"]
    assert info == made
    assert api.get("/v2/team/list", {"team_id": made["team_id"]}).json()["teams"] == [made]
    listed = api.get("/team/list", {"team_id": made["team_id"]}).json()
    assert listed == [{**made, "keys": [], "team_memberships": []}]


def test_a_new_team_has_limits_members_aliases_and_tags(api: Api, people: People):
    api.post("/budget/new", {"budget_id": "shared", "tpm_limit": 99})
    fields = {
        "team_id": "full",
        "organization_id": "acme",
        "max_budget": 10.5,
        "soft_budget": 5,
        "budget_duration": "30d",
        "rpm_limit": 7,
        "tpm_limit": 70,
        "max_parallel_requests": 3,
        "model_rpm_limit": {"gpt": 2},
        "model_max_budget": {"gpt": {"budget_limit": 1, "time_period": "1d"}},
        "model_aliases": {"fast": "gpt"},
        "budget_id": "shared",
        "tags": ["red"],
    }
    members = {"members_with_roles": [{"role": "admin", "user_id": "owner"}, {"role": "user", "user_email": "n@x.at"}]}
    made = api.post("/team/new", {**fields, **members, "members": ["mate"]}).json()
    assert {name: made[name] for name in fields} == fields
    assert made["budget_reset_at"] is not None
    roles = [(member["user_id"], member["user_email"], member["role"]) for member in made["members_with_roles"]]
    assert sorted(role for _, _, role in roles) == ["admin", "user", "user"]
    assert ("owner", None, "admin") in roles
    assert ("mate", None, "user") in roles
    assert any(email == "n@x.at" and user_id for user_id, email, _ in roles)


def test_an_update_changes_what_it_names_and_null_clears(api: Api, people: People):
    api.post("/team/new", {"team_id": "t", "max_budget": 1, "rpm_limit": 5, "tags": ["a"], "metadata": {"x": 1}})
    answer = api.post("/team/update", {"team_id": "t", "max_budget": None, "team_alias": "new", "blocked": None}).json()
    assert set(answer) == {"team_id", "data"}
    assert answer["team_id"] == "t"
    row = answer["data"]
    assert (row["max_budget"], row["rpm_limit"], row["team_alias"], row["tags"]) == (None, 5, "new", ["a"])
    patched = api.client.patch(
        "/team/t",
        {"metadata": {"y": {"z": 2}, "x": None}, "models": ["gpt"]},
        content_type="application/json",
        headers=api.headers("sk-master-of-the-contract-suite"),
    ).json()
    assert patched["metadata"] == {"y": {"z": 2}, "tags": ["a"]}
    assert (patched["models"], patched["rpm_limit"]) == (["gpt"], 5)
    refused(api.post("/team/update", {"team_id": "t", "organization_id": "acme"}), 400, "organization_id")
    refused(api.post("/team/update", {"team_id": "none", "team_alias": "x"}), 404, "team_id")
    refused(api.post("/team/update", {"team_id": "t", "rpm_limit": -1}), 400, "rpm_limit")
    refused(api.post("/team/update", {"team_id": "t", "budget_id": "none"}), 400, "budget_id")
    refused(api.post("/team/update", {"team_id": "t", "guardrails": ["pii"]}), 400, "guardrails")
    assert team_of(api, "t")["team_info"] == patched


@pytest.mark.parametrize("field", ["is_superuser", "created_at", "organization", "id", "spend", "keys"])
def test_a_team_has_no_other_field_to_write(api: Api, people: People, field: str):
    before = team_of(api, "research")
    assert api.post("/team/update", {"team_id": "research", field: "x"}).status_code == 400
    assert team_of(api, "research") == before


def test_models_are_added_and_removed_but_never_to_all(api: Api, people: People):
    body = {"team_id": "research", "models": ["gpt", "claude"]}
    assert api.post("/team/model/add", body).json()["models"] == ["gpt", "claude"]
    assert api.post("/team/model/delete", {**body, "models": ["gpt"]}).json()["models"] == ["claude"]
    refused(api.post("/team/model/delete", {**body, "models": ["claude"]}), 400, "models")
    refused(api.post("/team/model/add", {**body, "models": []}), 400, "models")


def test_a_blocked_team_has_its_keys_refused(api: Api, people: People):
    assert api.post("/team/block", {"team_id": "research"}).json()["blocked"] is True
    assert load_principal(key_row(people.owner).digest) is None
    assert api.post("/team/unblock", {"team_id": "research"}).json()["blocked"] is False
    assert load_principal(key_row(people.owner).digest) is not None


def test_permissions_of_members_are_those_that_are_enforced(api: Api, people: People):
    listed = api.get("/team/permissions_list", {"team_id": "research"}).json()
    assert listed == {
        "team_id": "research",
        "team_member_permissions": ["/key/info"],
        "all_available_permissions": ["/key/info"],
    }
    same = {"team_id": "research", "team_member_permissions": ["/key/info"]}
    assert api.post("/team/permissions_update", same).json() == listed
    more = {**same, "team_member_permissions": ["/key/generate"]}
    refused(api.post("/team/permissions_update", more), 400, "team_member_permissions", "unsupported_parameter")


# Lists


def test_lists_are_paged_filtered_and_sorted(api: Api, people: People):
    for number in range(12):
        api.post("/team/new", {"team_id": f"t{number:02}", "team_alias": f"Alias {number}", "organization_id": "acme"})
    api.post("/team/member_add", {"team_id": "t03", "member": {"role": "user", "user_id": "owner"}})
    page = api.get("/v2/team/list", {"sort_by": "team_id", "sort_order": "desc", "team_alias": "alias 1"}).json()
    assert [team["team_id"] for team in page["teams"]] == ["t11", "t10", "t01"]
    assert {name: page[name] for name in ("total", "page", "page_size", "total_pages")} == {
        "total": 3, "page": 1, "page_size": 10, "total_pages": 1,
    }  # fmt: skip
    last = api.get("/v2/team/list", {"page": "2", "organization_id": "acme", "sort_by": "team_id"}).json()
    assert [team["team_id"] for team in last["teams"]] == ["t09", "t10", "t11"]  # "research" is the first
    assert (last["total"], last["total_pages"]) == (13, 2)
    of_user = api.get("/v2/team/list", {"user_id": "owner"}).json()
    assert [(team["team_id"], team["members_count"]) for team in of_user["teams"]] == [("t03", 1)]
    found = api.get("/v2/team/list", {"search": "t0", "search_team_id_match": "prefix"}).json()
    assert found["total"] == 10
    array = api.get("/team/list", {"page": "2", "page_size": "5"})
    assert len(array.json()) == 5
    assert array["X-Total-Count"] == "14"
    refused(api.get("/v2/team/list", {"sort_by": "spend"}), 400, "sort_by")
    refused(api.get("/v2/team/list", {"page_size": "101"}), 400, "page_size")


def test_the_info_of_a_large_team_is_a_page(api: Api, people: People):
    for number in range(3):
        api.issue(team_id="research", user_id=f"user-{number}")
    members = [{"role": "user", "user_id": f"user-{number}"} for number in range(5)]
    api.post("/team/member_add", {"team_id": "research", "member": members})
    first, second = (
        api.get("/team/info", {"team_id": "research", "page": page, "page_size": "3"}).json() for page in "12"
    )
    assert (first["keys_total"], first["team_memberships_total"], first["total_pages"]) == (5, 5, 2)
    assert [len(page["keys"]) for page in (first, second)] == [3, 2]
    names = [[row["user_id"] for row in page["team_memberships"]] for page in (first, second)]
    assert names == [["user-0", "user-1", "user-2"], ["user-3", "user-4"]]
    assert [row["user_id"] for row in second["team_info"]["members_with_roles"]] == ["user-3", "user-4"]
    with CaptureQueriesContext(connection) as captured:
        team_of(api, "research")
    assert len(captured) <= 20


# Deletion


def test_a_deleted_team_takes_its_keys_members_and_limits_along(api: Api, people: People):
    fields = {"max_budget": 1, "rpm_limit": 5, "team_member_budget": 2, "members": ["ann"]}
    api.post("/team/new", {"team_id": "gone", "organization_id": "acme", **fields})
    api.post("/team/member_update", {"team_id": "gone", "user_id": "ann", "max_budget_in_team": 1})
    api.issue(team_id="gone", max_budget=1, rpm_limit=1)
    kept = key_count() - 1
    refused(api.post("/team/delete", {"team_ids": ["gone", "none"]}), 404, "team_ids")
    assert api.post("/team/delete", {"team_ids": ["gone"]}).json() == {"deleted_teams": ["gone"]}
    refused(api.get("/team/info", {"team_id": "gone"}), 404, "team_id")
    assert key_count() == kept
    with scopes_disabled():
        assert not Team.objects.filter(id="gone").exists()
        assert not Membership.objects.filter(team_id="gone").exists()
        rows = [*RateLimit.objects.all(), *Budget.objects.all(), *BudgetTemplate.objects.all()]
        assert rows == []


# The data path


def budgets_of(key: str) -> dict[str, str]:
    principal = load_principal(key_row(key).digest)
    assert principal is not None
    return {rule.scope: rule.scope_id for rule in principal.rules.budgets}


def test_the_budget_of_a_team_binds_its_keys(api: Api, people: People):
    assert budgets_of(people.owner) == {}
    api.post("/team/update", {"team_id": "research", "team_member_budget": None})
    with scopes_disabled():
        assert not BudgetTemplate.objects.exists()
    api.post("/team/update", {"team_id": "research", "max_budget": 3, "rpm_limit": 2})
    assert budgets_of(people.owner) == budgets_of(people.mate) == {Scope.TEAM: "research"}
    assert budgets_of(people.stranger) == {}
    principal = load_principal(key_row(people.owner).digest)
    assert principal is not None
    assert [(rule.owner, rule.limit) for rule in principal.rules.limits] == [("team", 2)]


def test_the_spend_of_a_team_is_reset_by_those_who_gave_it_its_budget(api: Api, people: People):
    api.post("/team/update", {"team_id": "research", "max_budget": 5})
    with scopes_disabled():
        SpendTotal.objects.create(organization_id="acme", scope="team", scope_id="research", pusd=3 * 10**12)
    path = "/team/research/reset_spend"
    refused(api.post(path, {}), 400, "reset_to")
    refused(api.post(path, {"reset_to": 4}), 400, "reset_to")
    answer = {"team_id": "research", "spend": 1.0, "previous_spend": 3.0, "max_budget": 5.0, "budget_reset_at": None}
    assert api.post(path, {"reset_to": 1}).json() == answer
    assert api.get("/team/info", {"team_id": "research"}).json()["team_info"]["spend"] == 1.0
    assert AuditEntry.objects.order_by("-id").values_list("action", "object_id")[0] == ("reset_spend", "research")
    refused(api.post("/team/none/reset_spend", {"reset_to": 0}), 404, "team_id")


def test_a_budget_for_members_binds_each_that_has_none_of_its_own(api: Api, people: People):
    api.post("/team/update", {"team_id": "research", "team_member_budget": 3, "team_member_rpm_limit": 9})
    assert budgets_of(people.owner) == {Scope.MEMBER: "research:owner"}
    assert budgets_of(people.mate) == {Scope.MEMBER: "research:mate"}
    table = team_of(api, "research")["team_info"]["team_member_budget_table"]
    assert (table["max_budget"], table["rpm_limit"]) == (3.0, 9)
    with scopes_disabled():
        [default] = Budget.objects.filter(scope=Scope.TEMPLATE)
        api.post("/team/member_add", {"team_id": "research", "member": {"role": "user", "user_id": "owner"}})
        api.post("/team/member_update", {"team_id": "research", "user_id": "owner", "max_budget_in_team": 1})
        [own] = Budget.objects.filter(scope=Scope.MEMBER)
    rules = {}
    for name, key in (("owner", people.owner), ("mate", people.mate)):
        principal = load_principal(key_row(key).digest)
        assert principal is not None
        rules[name] = [rule.budget_id for rule in principal.rules.budgets]
    assert rules == {"owner": [own.id], "mate": [default.id]}
    [row] = team_of(api, "research")["team_memberships"]
    assert row["budget_source"] == "custom"
    assert (row["litellm_budget_table"]["max_budget"], row["litellm_budget_table"]["rpm_limit"]) == (1.0, 9)


def test_the_keys_of_a_team_stay_where_they_are(api: Api, people: People):
    with scopes_disabled():
        keys = set(VirtualKey.objects.filter(team="research").values_list("id", flat=True))
    api.post("/team/update", {"team_id": "research", "team_alias": "Other"})
    with scopes_disabled():
        assert set(VirtualKey.objects.filter(team="research").values_list("id", flat=True)) == keys
