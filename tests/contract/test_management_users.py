"""/user/* as its callers see it."""

from uuid import UUID

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django_scopes import scopes_disabled

from gateway.protocol.amounts import PUSD
from tenants.budget_store import add_spend
from tenants.directory import load_principal
from tenants.models import Budget, Membership, RateLimit, Role, User
from tests.contract.management import Api, People, issue_role_key, key_count, key_row, refused

pytestmark = pytest.mark.django_db

#: The members of LiteLLM's row of a user.
LITELLMS = {
    "user_id", "max_budget", "spend", "model_max_budget", "model_spend", "user_email", "user_alias", "models",
    "tpm_limit", "rpm_limit", "user_role", "organization_memberships", "teams", "sso_user_id", "budget_duration",
    "budget_reset_at", "metadata", "created_at", "updated_at",
}  # fmt: skip


def user_row(user_id: str) -> User:
    return User.objects.get(username=user_id)


def test_a_user_is_created_with_a_key_and_limits(api: Api, people: People):
    fields = {
        "user_id": "ishaan",
        "user_email": "ishaan@example.org",
        "user_alias": "Ishaan 工",
        "user_role": "internal_user",
        "models": ["gpt"],
        "max_budget": 5.5,
        "budget_duration": "30d",
        "rpm_limit": 10,
        "metadata": {"cost_center": "7"},
        "teams": ["research"],
    }
    extras = {"send_invite_email": False, "sso_user_id": None, "key_alias": "first", "duration": "30d"}
    answer = api.post("/user/new", {**fields, **extras}).json()
    assert {name: answer[name] for name in fields} == fields
    assert answer.keys() >= LITELLMS | {"key", "token", "token_id", "key_name", "key_alias", "expires", "duration"}
    assert (answer["organization_id"], answer["key_alias"]) == ("acme", "first")
    principal = load_principal(key_row(answer["key"]).digest)
    assert principal is not None
    assert principal.user_id == "ishaan"
    assert principal.allowed_models == (frozenset({"gpt"}),)
    assert [(rule.owner, rule.limit) for rule in principal.rules.limits] == [("user", 10)]
    assert [rule.owner for rule in principal.rules.budgets] == ["user"]
    assert not user_row("ishaan").has_usable_password()


def test_a_user_without_a_key(api: Api):
    before = key_count()
    answer = api.post("/user/new", {"auto_create_key": False}).json()
    assert (answer["key"], key_count()) == (None, before)
    assert UUID(answer["user_id"]).version == 7
    assert (answer["user_role"], answer["teams"], answer["organization_id"]) == ("internal_user", [], "default")


@pytest.mark.parametrize(
    ("name", "role", "is_superuser"),
    [
        ("proxy_admin", Role.MEMBER, True),
        ("proxy_admin_viewer", Role.PLATFORM_VIEWER, False),
        ("org_admin", Role.ORGANIZATION_ADMIN, False),
        ("internal_user", Role.MEMBER, False),
        ("internal_user_viewer", Role.MEMBER_VIEWER, False),
        ("billing_viewer", Role.BILLING_VIEWER, False),
    ],
)
def test_litellms_roles_are_roles_of_ours(api: Api, name: str, role: Role, is_superuser: bool):
    answer = api.post("/user/new", {"user_id": "x", "user_role": name, "auto_create_key": False}).json()
    row = user_row("x")
    assert (row.role, row.is_superuser, answer["user_role"]) == (role, is_superuser, name)


def test_a_user_that_cannot_be_is_refused(api: Api, people: People):
    before = User.objects.count()
    refused(api.post("/user/new", {"user_id": "owner"}), 409, "user_id", "user_exists")
    api.post("/user/update", {"user_id": "owner", "user_email": "owner@example.org"})
    twice = {"user_email": "OWNER@example.org", "organization_id": "acme"}
    refused(api.post("/user/new", twice), 409, "user_email", "user_exists")
    refused(api.post("/user/new", {"password": "hunter2"}), 422, "password")
    refused(api.post("/user/new", {"send_invite_email": True}), 400, "send_invite_email", "unsupported_parameter")
    refused(api.post("/user/new", {"sso_user_id": "x"}), 400, "sso_user_id", "unsupported_parameter")
    refused(api.post("/user/new", {"user_role": "king"}), 400, "user_role")
    refused(api.post("/user/new", {"user_role": "team_admin"}), 400, "user_role")
    refused(api.post("/user/new", {"teams": ["none"]}), 400, "teams")
    refused(api.post("/user/new", {"teams": ["research", "raccoon"]}), 400, "teams")
    refused(api.post("/user/new", {"organizations": ["acme", "umbrella"]}), 400, "organizations")
    refused(api.post("/user/new", {"max_budget": -1}), 400, "max_budget")
    refused(api.post("/user/new", {"key_alias": "owner"}), 400, "key_alias")
    refused(api.post("/user/new", {"is_superuser": True}), 400, "is_superuser")
    refused(api.post("/user/new", {"budget_id": "none"}), 400, "budget_id")
    assert User.objects.count() == before


def test_teams_are_named_with_a_role_and_a_budget(api: Api, people: People):
    team = {"team_id": "research", "user_role": "admin", "max_budget_in_team": 3}
    answer = api.post("/user/new", {"user_id": "x", "teams": [team], "auto_create_key": False}).json()
    assert answer["teams"] == ["research"]
    with scopes_disabled():
        assert Membership.objects.get(user__username="x").role == Membership.Role.ADMIN
        assert Budget.objects.get(scope_id="research:x").limit_pusd == 3 * PUSD


def test_the_info_of_a_user_has_its_keys_and_teams(api: Api, people: People):
    api.post("/user/new", {"user_id": "x", "teams": ["research"], "organization_id": "acme"})
    api.issue(user_id="x", team_id="research")
    add_spend({("acme", "user", "x"): PUSD // 2})
    answer = api.get("/user/info", {"user_id": "x"}).json()
    assert set(answer) == {"user_id", "user_info", "keys", "teams"}
    assert answer["user_info"].keys() >= LITELLMS
    assert answer["user_info"]["spend"] == 0.5
    assert len(answer["keys"]) == 2
    assert [team["team_id"] for team in answer["teams"]] == ["research"]
    assert len(api.get("/user/info", {"user_id": "x", "page_size": "1", "page": "2"}).json()["keys"]) == 1
    assert api.get("/v2/user/info", {"user_id": "x"}).json() == answer["user_info"]
    refused(api.get("/user/info", {"user_id": "none"}), 404, "user_id")
    refused(api.get("/user/info"), 400, "user_id")


def test_a_key_of_a_user_reads_its_user_alone(api: Api, people: People):
    assert api.get("/user/info", by=people.owner).json()["user_id"] == "owner"
    assert api.get("/v2/user/info", {"user_id": "owner"}, by=people.owner).json()["user_id"] == "owner"
    for other in ("mate", "stranger", "none"):
        refused(api.get("/user/info", {"user_id": other}, by=people.owner), 404, "user_id")
    assert [row["user_id"] for row in api.get("/user/list", by=people.owner).json()["users"]] == ["owner"]
    refused(api.post("/user/update", {"user_id": "owner", "max_budget": 9}, by=people.owner), 403)
    refused(api.post("/user/new", by=people.owner), 403)
    refused(api.post("/user/delete", {"user_ids": ["mate"]}, by=people.owner), 403)


def test_a_user_is_changed_by_its_id_or_address(api: Api, people: People):
    api.post("/budget/new", {"budget_id": "gold", "max_budget": 4})
    changes = {"user_alias": "Boss", "user_role": "org_admin", "models": ["a"], "rpm_limit": 5, "budget_id": "gold"}
    answer = api.post("/user/update", {"user_id": "owner", "user_email": "o@example.org", **changes}).json()
    assert set(answer) == {"user_id", "data"}
    assert {name: answer["data"][name] for name in changes} == changes
    answer = api.post("/user/update", {"user_email": "O@example.org", "rpm_limit": None, "models": None}).json()
    assert (answer["user_id"], answer["data"]["rpm_limit"], answer["data"]["models"]) == ("owner", None, [])
    assert answer["data"]["user_email"] == "o@example.org"
    assert answer["data"]["budget_id"] == "gold"
    refused(api.post("/user/update", {"user_id": "none"}), 404, "user_id")
    refused(api.post("/user/update", {"user_email": "none@example.org"}), 404, "user_email")
    refused(api.post("/user/update", {"models": []}), 400, "user_id")
    refused(api.post("/user/update", {"user_id": "owner", "password": "x"}), 422, "password")
    refused(api.post("/user/update", {"user_id": "owner", "organization_id": "umbrella"}), 400, "organization_id")
    refused(api.post("/user/update", {"user_id": "mate", "user_email": "o@example.org"}), 409, "user_email")


def test_many_users_are_changed_each_for_itself(api: Api, people: People):
    entries = [
        {"user_id": "owner", "max_budget": 3},
        {"user_id": "none", "max_budget": 3},
        {"user_id": "mate", "max_budget": -3},
        {"user_id": "mate", "is_superuser": True},
        "mate",
    ]
    answer = api.post("/user/bulk_update", {"users": entries}).json()
    assert [result["success"] for result in answer["results"]] == [True, False, False, False, False]
    assert answer["results"][0]["updated_user"]["max_budget"] == 3
    assert answer["results"][1]["error"] == "User not found."
    assert "max_budget" in answer["results"][2]["error"]
    assert [answer[name] for name in ("total_requested", "successful_updates", "failed_updates")] == [5, 1, 4]
    refused(api.post("/user/bulk_update", {"users": []}), 400, "users")
    refused(api.post("/user/bulk_update", {"all_users": True}), 400, "all_users")


def test_users_are_listed_filtered_and_sorted(api: Api, people: People):
    api.post("/user/new", {"user_id": "boss", "user_role": "org_admin", "organization_id": "acme"})
    api.post("/user/update", {"user_id": "owner", "user_email": "o@example.org"})
    api.post("/team/member_add", {"team_id": "research", "member": {"user_id": "owner", "role": "user"}})
    add_spend({("acme", "user", "mate"): PUSD})

    def ids(**query: str) -> list[str]:
        return [row["user_id"] for row in api.get("/user/list", query).json()["users"]]

    page = api.get("/user/list", {"page_size": "3", "sort_by": "user_id", "sort_order": "asc"}).json()
    assert [row["user_id"] for row in page["users"]] == ["boss", "mate", "owner"]
    assert [page[name] for name in ("total", "page", "page_size", "total_pages")] == [4, 1, 3, 2]
    assert page["users"][0].keys() >= LITELLMS | {"key_count"}
    assert [row["key_count"] for row in page["users"]] == [1, 1, 1]
    assert ids(page_size="3", page="2", sort_by="user_id", sort_order="asc") == ["stranger"]
    assert ids(role="org_admin") == ["boss"]
    assert set(ids(user_ids="mate, stranger")) == {"mate", "stranger"}
    assert ids(user_email="@EXAMPLE") == ["owner"]
    assert set(ids(organization_id="umbrella")) == {"stranger"}
    assert api.get("/user/list", {"sort_by": "spend"}).status_code == 200
    refused(api.get("/user/list", {"sort_by": "password"}), 400, "sort_by")
    refused(api.get("/user/list", {"role": "king"}), 400, "role")
    refused(api.get("/user/list", {"page_size": "101"}), 400, "page_size")


def test_listing_users_takes_the_same_queries_for_many(api: Api, people: People):
    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            assert api.get("/user/list").status_code == 200
        return len(captured)

    api.post("/user/new", {"user_id": "first", "max_budget": 3, "organization_id": "acme"})
    few = queries()
    for number in range(5):
        api.post("/user/new", {"user_id": f"n-{number}", "max_budget": 3, "organization_id": "acme"})
    assert queries() == few


def test_a_deleted_user_leaves_no_keys_and_limits(api: Api, people: People):
    api.post("/user/new", {"user_id": "x", "rpm_limit": 3, "max_budget": 1, "teams": ["research"]})
    api.issue(user_id="x", team_id="research", rpm_limit=4)
    before = key_count()
    refused(api.post("/user/delete", {"user_ids": ["x", "none"]}), 404, "user_ids")
    assert [row["user_id"] for row in api.post("/user/delete", {"user_ids": ["x"]}).json()] == ["x"]
    assert key_count() == before - 2
    with scopes_disabled():
        assert not RateLimit.objects.exists()
        assert not Budget.objects.exists()


def test_the_last_platform_admin_stays(api: Api):
    for name in ("first", "second"):
        api.post("/user/new", {"user_id": name, "user_role": "proxy_admin", "auto_create_key": False})
    both = {"user_ids": ["first", "second"]}
    refused(api.post("/user/delete", both), 409, "user_ids", "last_platform_admin")
    assert api.post("/user/delete", {"user_ids": ["first"]}).status_code == 200
    refused(api.post("/user/delete", {"user_ids": ["second"]}), 409, "user_ids", "last_platform_admin")
    demoted = {"user_id": "second", "user_role": "internal_user"}
    refused(api.post("/user/update", demoted), 409, "user_role", "last_platform_admin")
    assert user_row("second").is_superuser


def test_an_organization_admin_manages_the_users_of_the_organization_alone(api: Api, people: People):
    admin = issue_role_key(people.home, Role.ORGANIZATION_ADMIN)
    assert api.post("/user/new", {"user_id": "new"}, by=admin).json()["organization_id"] == "acme"
    assert api.post("/user/update", {"user_id": "mate", "rpm_limit": 3}, by=admin).status_code == 200
    listed = {row["user_id"] for row in api.get("/user/list", by=admin).json()["users"]}
    assert listed == {"owner", "mate", "ruler", "new"}
    refused(api.post("/user/update", {"user_id": "stranger", "rpm_limit": 3}, by=admin), 404, "user_id")
    refused(api.post("/user/delete", {"user_ids": ["stranger"]}, by=admin), 404, "user_ids")
    refused(api.get("/user/info", {"user_id": "stranger"}, by=admin), 404, "user_id")
    refused(api.post("/user/new", {"organization_id": "umbrella"}, by=admin), 400, "organization_id")
    refused(api.post("/user/new", {"teams": ["raccoon"]}, by=admin), 400, "teams")
    for role in ("proxy_admin", "proxy_admin_viewer"):
        refused(api.post("/user/new", {"user_id": "king", "user_role": role}, by=admin), 403, "user_role")
        refused(api.post("/user/update", {"user_id": "mate", "user_role": role}, by=admin), 403, "user_role")
    assert not User.objects.filter(username="king").exists()
    assert user_row("mate").role == Role.MEMBER
