"""/customer/* and /end_user/* as their callers see them."""

import asyncio

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django_scopes import scopes_disabled

from gateway.pipeline.ports import Principal, Rules
from gateway.protocol.amounts import PUSD
from gateway.protocol.errors import Forbidden
from tenants.budget_store import add_spend
from tenants.directory import load_principal
from tenants.end_users import FirstSights
from tenants.models import Budget, EndUser, RateLimit, Role
from tenants.revision import changed_end_user
from tenants.scope_rules import ScopeRulesDirectory
from tests.contract.management import Api, People, issue_role_key, key_row, refused
from tests.contract.replica import in_thread

pytestmark = pytest.mark.django_db

LITELLMS = {
    "user_id", "alias", "spend", "blocked", "allowed_model_region", "default_model", "budget_id",
    "litellm_budget_table",
}  # fmt: skip


@pytest.mark.parametrize("prefix", ["/customer", "/end_user"])
def test_a_customer_is_created_read_changed_and_deleted(api: Api, prefix: str):
    fields = {"user_id": "ishaan", "alias": "客户", "max_budget": 0.5, "budget_duration": "1d", "rpm_limit": 3}
    row = api.post(f"{prefix}/new", {**fields, "budget_id": None, "default_model": "", "spend": 0}).json()
    assert {name: row[name] for name in fields} == fields
    assert row.keys() >= LITELLMS
    assert (row["spend"], row["blocked"], row["budget_id"], row["organization_id"]) == (0.0, False, None, "default")
    assert (row["litellm_budget_table"]["max_budget"], row["litellm_budget_table"]["rpm_limit"]) == (0.5, 3)
    assert api.get(f"{prefix}/info", {"end_user_id": "ishaan"}).json() == row
    assert api.get(f"{prefix}/list").json() == [row]
    changed = api.post(f"{prefix}/update", {"user_id": "ishaan", "max_budget": None, "models": ["gpt"]}).json()
    assert (changed["max_budget"], changed["models"], changed["rpm_limit"]) == (None, ["gpt"], 3)
    answer = api.post(f"{prefix}/delete", {"user_ids": ["ishaan"]}).json()
    assert answer["deleted_customers"] == 1
    refused(api.get(f"{prefix}/info", {"end_user_id": "ishaan"}), 404, "end_user_id")
    refused(api.post(f"{prefix}/update", {"user_id": "ishaan"}), 404, "user_id")
    refused(api.post(f"{prefix}/delete", {"user_ids": ["ishaan"]}), 404, "user_ids")
    with scopes_disabled():
        assert not RateLimit.objects.exists()
        assert not Budget.objects.exists()


def test_a_customer_that_cannot_be_is_refused(api: Api):
    api.post("/budget/new", {"budget_id": "gold", "max_budget": 1})
    api.post("/customer/new", {"user_id": "ishaan"})
    refused(api.post("/customer/new", {"user_id": "ishaan"}), 400, "user_id")
    refused(api.post("/customer/new"), 400, "user_id")
    refused(api.post("/customer/new", {"user_id": "x" * 256}), 400, "user_id")
    refused(api.post("/customer/new", {"user_id": "a\0b"}), 400, "user_id")
    refused(api.post("/customer/new", {"user_id": "b", "max_budget": 1, "budget_id": "gold"}), 400, "budget_id")
    refused(api.post("/customer/new", {"user_id": "b", "budget_id": "none"}), 400, "budget_id")
    refused(api.post("/customer/new", {"user_id": "b", "organization_id": "none"}), 400, "organization_id")
    for field in ("default_model", "allowed_model_region"):
        refused(api.post("/customer/new", {"user_id": "b", field: "eu"}), 400, field, "unsupported_parameter")
    refused(api.post("/customer/new", {"user_id": "b", "spend": 3}), 400, "spend", "unsupported_parameter")
    assert [row["user_id"] for row in api.get("/customer/list").json()] == ["ishaan"]


def test_a_shared_budget_takes_the_place_of_the_customers_own(api: Api):
    api.post("/budget/new", {"budget_id": "gold", "max_budget": 2, "tpm_limit": 9})
    api.post("/customer/new", {"user_id": "ishaan", "max_budget": 1, "rpm_limit": 3})
    row = api.post("/customer/update", {"user_id": "ishaan", "budget_id": "gold"}).json()
    table = row["litellm_budget_table"]
    assert (row["max_budget"], row["budget_id"], row["rpm_limit"]) == (None, "gold", 3)
    assert (table["budget_id"], table["max_budget"], table["tpm_limit"], table["rpm_limit"]) == ("gold", 2, 9, 3)
    assert api.post("/budget/info", {"budgets": ["gold"]}).json()[0]["used_by"] == {"end_users": 1}


def test_the_same_name_is_another_customer_in_another_organization(api: Api, people: People):
    for organization in ("acme", "umbrella"):
        api.post("/customer/new", {"user_id": "ada", "alias": organization, "organization_id": organization})
    refused(api.get("/customer/info", {"end_user_id": "ada"}), 404, "end_user_id")
    answer = api.get("/customer/info", {"end_user_id": "ada", "organization_id": "acme"}).json()
    assert answer["alias"] == "acme"
    api.post("/customer/delete", {"user_ids": ["ada"], "organization_id": "umbrella"})
    assert [row["organization_id"] for row in api.get("/customer/list").json()] == ["acme"]
    assert api.get("/customer/list", {"organization_id": "umbrella"}).json() == []


def test_listing_customers_takes_the_same_queries_for_many(api: Api, people: People):
    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            assert api.get("/customer/list").status_code == 200
        return len(captured)

    api.post("/budget/new", {"budget_id": "gold", "max_budget": 2})
    api.post("/customer/new", {"user_id": "first", "budget_id": "gold", "organization_id": "acme"})
    few = queries()
    for number in range(5):
        api.post("/customer/new", {"user_id": f"n-{number}", "budget_id": "gold", "organization_id": "acme"})
    assert queries() == few
    names = [row["user_id"] for row in api.get("/customer/list", {"page": "2", "page_size": "2"}).json()]
    assert names == ["n-2", "n-1"]
    refused(api.get("/customer/list", {"page_size": "1001"}), 400, "page_size")


def test_the_spend_of_a_customer_is_shown(api: Api):
    api.post("/customer/new", {"user_id": "ishaan"})
    add_spend({("default", "end_user", "ishaan"): PUSD // 4})
    assert api.get("/customer/info", {"end_user_id": "ishaan"}).json()["spend"] == 0.25


def test_customers_are_blocked_before_they_are_seen(api: Api):
    api.post("/customer/new", {"user_id": "known"})
    rows = api.post("/customer/block", {"user_ids": ["known", "unseen"]}).json()["blocked_users"]
    assert {row["user_id"]: row["blocked"] for row in rows} == {"known": True, "unseen": True}
    answer = api.post("/customer/unblock", {"user_ids": ["known"]}).json()
    assert answer["blocked_users"] == []
    assert [row["blocked"] for row in answer["unblocked_users"]] == [False]
    refused(api.post("/customer/unblock", {"user_ids": ["known", "absent"]}), 404, "user_ids")
    refused(api.post("/customer/block", {"user_ids": []}), 400, "user_ids")


def test_a_virtual_key_manages_no_customers(api: Api, people: People):
    for method, path in (("post", "new"), ("get", "list"), ("post", "block"), ("post", "delete")):
        answer = getattr(api, method)(f"/customer/{path}", by=people.owner)
        refused(answer, 403, None, "insufficient_permissions")


def test_an_organization_admin_manages_the_customers_of_the_organization_alone(api: Api, people: People):
    admin = issue_role_key(people.home, Role.ORGANIZATION_ADMIN)
    for organization in ("acme", "umbrella"):
        api.post("/customer/new", {"user_id": organization, "organization_id": organization})
    assert api.post("/customer/new", {"user_id": "ada"}, by=admin).json()["organization_id"] == "acme"
    assert {row["user_id"] for row in api.get("/customer/list", by=admin).json()} == {"acme", "ada"}
    refused(api.get("/customer/info", {"end_user_id": "umbrella"}, by=admin), 404, "end_user_id")
    abroad = {"organization_id": "umbrella"}
    refused(api.get("/customer/info", {"end_user_id": "umbrella", **abroad}, by=admin), 400, "organization_id")
    refused(api.post("/customer/new", {"user_id": "spy", **abroad}, by=admin), 400, "organization_id")
    refused(api.post("/customer/block", {"user_ids": ["umbrella"], **abroad}, by=admin), 400, "organization_id")
    refused(api.post("/customer/delete", {"user_ids": ["umbrella"]}, by=admin), 404, "user_ids")
    assert api.get("/customer/list", abroad, by=admin).json() == []


# What binds the calls that name a customer


class Caller:
    """The rules that the data plane reads for a call of a key that names an end user."""

    def __init__(self, key: str) -> None:
        principal = load_principal(key_row(key).digest)
        assert principal is not None
        self.principal: Principal = principal
        self.directory = ScopeRulesDirectory(in_thread=in_thread)

    def find(self, name: str, model: str = "gpt") -> Rules:
        call = type("Named", (), {"end_user": name, "tags": (), "model": model})()
        return asyncio.run(self.directory.find(self.principal, call))


@pytest.mark.django_db(transaction=True)
def test_a_block_is_seen_by_a_process_that_knows_the_customer(api: Api, people: People):
    caller = Caller(people.owner)
    assert not caller.find("ada")
    api.post("/customer/block", {"user_ids": ["ada"], "organization_id": "acme"})
    caller.directory.forget([changed_end_user("acme", "ada")])
    with pytest.raises(Forbidden, match="The end user 'ada' is blocked") as raised:
        caller.find("ada")
    assert raised.value.code == "end_user_blocked"
    assert not Caller(people.stranger).find("ada")
    assert not caller.find("bob")


@pytest.mark.django_db(transaction=True)
def test_a_customers_models_and_limits_bind(api: Api, people: People):
    api.post(
        "/customer/new",
        {"user_id": "ada", "organization_id": "acme", "models": ["gpt"], "rpm_limit": 2, "max_budget": 1},
    )
    rules = Caller(people.owner).find("ada")
    assert [(rule.owner, rule.limit) for rule in rules.limits] == [("end user", 2)]
    assert [(rule.owner, rule.scope_id) for rule in rules.budgets] == [("end user", "acme:ada")]
    with pytest.raises(Forbidden, match="not available"):
        Caller(people.owner).find("ada", "claude")
    api.post("/customer/update", {"user_id": "ada", "organization_id": "acme", "models": ["openai/*"]})
    assert Caller(people.owner).find("ada", "openai/gpt-4o")
    with pytest.raises(Forbidden, match="not available"):
        Caller(people.owner).find("ada", "gpt")


@pytest.mark.django_db(transaction=True)
def test_the_default_budget_binds_customers_without_one_of_their_own(api: Api, people: People):
    api.post(
        "/budget/new", {"budget_id": "free", "max_budget": 1, "is_end_user_default": True, "organization_id": "acme"}
    )
    api.post("/budget/new", {"budget_id": "gold", "rpm_limit": 7, "organization_id": "acme"})
    api.post("/customer/new", {"user_id": "golden", "budget_id": "gold", "organization_id": "acme"})
    caller = Caller(people.owner)
    assert [rule.is_hard for rule in caller.find("never seen").budgets] == [True]
    assert not caller.find("golden").budgets
    assert [rule.limit for rule in caller.find("golden").limits] == [7]
    assert not Caller(people.stranger).find("never seen")


# First sight


def test_a_name_that_calls_use_gets_a_row_once(people: People):
    sights = FirstSights()
    names = [("acme", "ada"), ("acme", "ada"), ("acme", ""), ("umbrella", "ada"), ("gone", "ada")]
    sights.create_rows(names)
    sights.create_rows(names)
    with scopes_disabled():
        rows = EndUser.objects.order_by("organization_id").values_list("organization_id", "external_id", "blocked")
        assert list(rows) == [("acme", "ada", False), ("umbrella", "ada", False)]


def test_a_row_that_exists_stays_as_it_is(api: Api, people: People):
    api.post("/customer/block", {"user_ids": ["ada"], "organization_id": "acme"})
    FirstSights().create_rows([("acme", "ada")])
    with scopes_disabled():
        assert EndUser.objects.get().blocked


def test_a_flood_of_names_is_bounded_for_each_organization(people: People):
    sights = FirstSights(max_new=5)
    for batch in range(4):
        sights.create_rows([("acme", f"{batch}-{number}") for number in range(3)] + [("umbrella", f"{batch}")])
    with scopes_disabled():
        assert EndUser.objects.filter(organization="acme").count() == 5
        assert EndUser.objects.filter(organization="umbrella").count() == 4
