"""/budget/* as its callers see it."""

from datetime import datetime, timedelta
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from django.utils import timezone
from django_scopes import scopes_disabled

from gateway.pipeline.ports import BudgetRule, Principal
from gateway.protocol.amounts import PUSD
from tenants.budget_store import LeaseRefused, LeaseRequest, lease
from tenants.budget_windows import find_window
from tenants.directory import load_principal
from tenants.models import BudgetTemplate, Organization, Role, Scope, Team, VirtualKey
from tenants.rules import Holder, load_rules
from tests.contract.management import Api, People, issue_role_key, key_row, refused

pytestmark = pytest.mark.django_db

ROW = {
    "budget_id", "max_budget", "soft_budget", "budget_duration", "budget_limits", "model_max_budget",
    "temp_budget_increase", "temp_budget_expiry", "rpm_limit", "tpm_limit", "itpm_limit", "otpm_limit", "rpd_limit",
    "tpd_limit", "max_parallel_requests", "model_rpm_limit", "model_tpm_limit", "model_itpm_limit", "model_otpm_limit",
    "organization_id", "is_end_user_default", "used_by", "budget_reset_at", "allowed_models", "created_at",
    "created_by", "updated_at", "updated_by",
}  # fmt: skip


def test_a_budget_is_created_read_changed_and_deleted(api: Api):
    fields = {"budget_id": "gold", "max_budget": 12.5, "budget_duration": "30d", "rpm_limit": 10, "soft_budget": 10}
    row = api.post("/budget/new", {**fields, "tpm_limit": None, "model_max_budget": None}).json()
    assert set(row) == ROW
    assert {name: row[name] for name in fields} == fields
    assert (row["organization_id"], row["used_by"], row["tpm_limit"]) == ("default", {}, None)
    assert api.post("/budget/info", {"budgets": ["gold", "none"]}).json() == [row]
    assert api.get("/budget/list").json() == [row]
    changed = api.post("/budget/update", {"budget_id": "gold", "max_budget": None, "tpm_limit": 7}).json()
    assert (changed["max_budget"], changed["soft_budget"], changed["tpm_limit"]) == (None, 10, 7)
    assert api.post("/budget/delete", {"id": "gold"}).json()["budget_id"] == "gold"
    assert api.get("/budget/list").json() == []
    refused(api.post("/budget/delete", {"id": "gold"}), 404, "id")
    refused(api.post("/budget/update", {"budget_id": "gold"}), 404, "budget_id")
    refused(api.get("/budget/settings", {"budget_id": "gold"}), 404, "budget_id")


def test_a_budget_gets_an_id(api: Api):
    assert UUID(api.post("/budget/new").json()["budget_id"]).version == 7


def test_the_settings_of_a_budget_have_litellms_shape(api: Api):
    api.post("/budget/new", {"budget_id": "gold", "max_budget": 1})
    fields = {field["field_name"]: field for field in api.get("/budget/settings", {"budget_id": "gold"}).json()}
    assert list(fields) == [
        "max_budget", "soft_budget", "max_parallel_requests", "tpm_limit", "rpm_limit", "budget_duration",
    ]  # fmt: skip
    assert fields["max_budget"] == {
        "field_name": "max_budget",
        "field_type": "Float",
        "field_description": "",
        "field_value": 1.0,
        "stored_in_db": True,
        "field_default_value": None,
        "premium_field": False,
        "nested_fields": None,
    }
    assert (fields["rpm_limit"]["field_value"], fields["rpm_limit"]["stored_in_db"]) == (None, False)


def test_the_next_reset_is_that_of_the_calendar(api: Api):
    made = api.post("/budget/new", {"budget_id": "gold", "max_budget": 1, "budget_duration": "7d"}).json()
    reset_at = datetime.fromisoformat(made["budget_reset_at"])
    for days in (0, -7, -70):  # what a client remembers from an earlier week asks for nothing
        text = (reset_at + timedelta(days=days)).isoformat()
        answer = api.post("/budget/update", {"budget_id": "gold", "soft_budget": 1, "budget_reset_at": text})
        assert answer.status_code == 200, answer.content
    for text in ((reset_at + timedelta(days=7)).isoformat(), "2026-01-01T00:00:01Z", "0001-01-01T00:00:00Z", "soon", 7):
        body = {"budget_id": "gold", "soft_budget": 2, "budget_reset_at": text}
        refused(api.post("/budget/update", body), 400, "budget_reset_at")
    assert api.post("/budget/update", {"budget_id": "gold", "budget_reset_at": None}).json()["soft_budget"] == 1
    for duration in (None, "rolling 7d"):
        fields = {"budget_id": f"without {duration}", "max_budget": 1, "budget_duration": duration}
        refused(api.post("/budget/new", fields | {"budget_reset_at": made["budget_reset_at"]}), 400, "budget_reset_at")
        assert api.post("/budget/new", fields).json()["budget_reset_at"] is None


def test_a_budget_that_cannot_be_is_refused(api: Api):
    api.post("/budget/new", {"budget_id": "gold"})
    refused(api.post("/budget/new", {"budget_id": "gold"}), 400, "budget_id")
    refused(api.post("/budget/new", {"max_budget": -1}), 400, "max_budget")
    refused(api.post("/budget/new", {"rpm_limit": 1.5}), 400, "rpm_limit")
    refused(api.post("/budget/new", {"allowed_models": ["gpt"]}), 400, "allowed_models", "unsupported_parameter")
    refused(api.post("/budget/new", {"organization_id": "none"}), 400, "organization_id")
    refused(api.post("/budget/new", {"created_at": "2020-01-01"}), 400, "created_at")
    refused(api.post("/budget/info", {"budgets": []}), 400, "budgets")
    refused(api.post("/budget/update", {"max_budget": 1}), 400, "budget_id")
    assert [row["budget_id"] for row in api.get("/budget/list").json()] == ["gold"]


def test_a_budget_in_use_says_by_what_and_is_not_deleted(api: Api, people: People):
    """A scope whose budget vanished would have no limit."""
    api.post("/budget/new", {"budget_id": "gold", "max_budget": 1})
    with scopes_disabled():
        key = key_row(people.owner)
        VirtualKey.objects.filter(pk=key.pk).update(budget_template="gold")
        Team.objects.update(budget_template="gold")
        Organization.objects.filter(id="acme").update(budget_template="gold")
    used_by = {"keys": 1, "teams": 2, "organizations": 1}
    assert api.post("/budget/info", {"budgets": ["gold"]}).json()[0]["used_by"] == used_by
    error = refused(api.post("/budget/delete", {"id": "gold"}), 409, "id", "budget_in_use")
    assert "1 keys, 2 teams, 1 organizations" in error["message"]
    assert len(api.get("/budget/list").json()) == 1


def test_one_budget_is_the_default_of_an_organizations_end_users(api: Api, people: People):
    for name in ("first", "second"):
        row = api.post("/budget/new", {"budget_id": name, "is_end_user_default": True, "organization_id": "acme"})
        assert row.json()["is_end_user_default"] is True
    api.post("/budget/new", {"budget_id": "abroad", "is_end_user_default": True, "organization_id": "umbrella"})

    def defaults() -> set[str]:
        with scopes_disabled():
            return set(BudgetTemplate.objects.filter(is_end_user_default=True).values_list("id", flat=True))

    assert defaults() == {"second", "abroad"}
    assert api.post("/budget/update", {"budget_id": "first", "is_end_user_default": True}).status_code == 200
    assert defaults() == {"first", "abroad"}
    api.post("/budget/update", {"budget_id": "first", "is_end_user_default": False})
    assert defaults() == {"abroad"}


def test_budgets_are_listed_in_pages_by_organization(api: Api, people: People):
    for number in range(3):
        api.post("/budget/new", {"budget_id": f"b-{number}", "organization_id": "acme"})
    api.post("/budget/new", {"budget_id": "abroad", "organization_id": "umbrella"})
    first = api.get("/budget/list", {"page_size": "3"}).json()
    second = api.get("/budget/list", {"page_size": "3", "page": "2"}).json()
    assert [row["budget_id"] for row in first + second] == ["abroad", "b-2", "b-1", "b-0"]
    assert len(api.get("/budget/list", {"organization_id": "acme"}).json()) == 3
    refused(api.get("/budget/list", {"page_size": "1001"}), 400, "page_size")


def test_a_virtual_key_manages_no_budgets(api: Api, people: People):
    refused(api.post("/budget/new", {"max_budget": 10}, by=people.owner), 403, None, "insufficient_permissions")
    refused(api.get("/budget/list", by=people.owner), 403, None, "insufficient_permissions")


def test_an_organization_admin_manages_the_budgets_of_the_organization_alone(api: Api, people: People):
    admin = issue_role_key(people.home, Role.ORGANIZATION_ADMIN)
    api.post("/budget/new", {"budget_id": "abroad", "organization_id": "umbrella"})
    api.post("/budget/new", {"budget_id": "platform"})
    assert api.post("/budget/new", {"budget_id": "home"}, by=admin).json()["organization_id"] == "acme"
    assert [row["budget_id"] for row in api.get("/budget/list", by=admin).json()] == ["home"]
    assert api.post("/budget/info", {"budgets": ["abroad", "platform"]}, by=admin).json() == []
    for budget_id in ("abroad", "platform"):
        refused(api.post("/budget/update", {"budget_id": budget_id, "max_budget": 9}, by=admin), 404, "budget_id")
        refused(api.post("/budget/delete", {"id": budget_id}, by=admin), 404, "id")
        refused(api.post("/budget/new", {"budget_id": budget_id}, by=admin), 400, "budget_id")
    refused(api.post("/budget/new", {"organization_id": "umbrella"}, by=admin), 400, "organization_id")


def test_a_billing_viewer_only_reads_budgets(api: Api, people: People):
    viewer = issue_role_key(people.home, Role.BILLING_VIEWER)
    api.post("/budget/new", {"budget_id": "home", "organization_id": "acme"})
    assert api.post("/budget/info", {"budgets": ["home"]}, by=viewer).json()[0]["budget_id"] == "home"
    refused(api.post("/budget/update", {"budget_id": "home"}, by=viewer), 403, None, "insufficient_permissions")


# What a template binds


def lease_from(principal: Principal, owner: str, pusd: int) -> bool:
    """True if this much of the holder's budget could be leased."""
    (rule,) = [rule for rule in principal.rules.budgets if rule.owner == owner]
    return lease_rule(rule, pusd)


def lease_rule(rule: BudgetRule, pusd: int) -> bool:
    span = find_window(rule.duration, ZoneInfo(rule.time_zone), timezone.now())
    place = (rule.budget_id, rule.organization_id, rule.scope, rule.scope_id)
    request = LeaseRequest(*place, span.starts_at, span.ends_at, pusd)
    return not isinstance(lease([request], "w"), LeaseRefused)


def principal_of(text: str) -> Principal:
    principal = load_principal(key_row(text).digest)
    assert principal is not None
    return principal


def test_a_template_binds_keys_members_and_customers_each_with_its_own_spend(api: Api, people: People):
    api.post("/budget/new", {"budget_id": "gold", "max_budget": 1, "budget_duration": "1d", "rpm_limit": 5})
    keys = [api.issue(team_id="research", budget_id="gold")["key"] for _ in range(2)]
    for name in ("owner", "mate"):
        member = {"team_id": "research", "member": {"user_id": name, "role": "user"}}
        assert api.post("/team/member_add", member).status_code == 200
        answer = api.post("/team/member_update", {"team_id": "research", "user_id": name, "budget_id": "gold"})
        assert answer.status_code == 200, answer.content
        api.post("/customer/new", {"user_id": name, "budget_id": "gold", "organization_id": "acme"})
    used_by = {"keys": 2, "members": 2, "end_users": 2}
    assert api.post("/budget/info", {"budgets": ["gold"]}).json()[0]["used_by"] == used_by
    for text in keys:
        principal = principal_of(text)
        assert [(rule.owner, rule.limit) for rule in principal.rules.limits] == [("key", 5)]
        assert lease_from(principal, "key", PUSD)
        assert not lease_from(principal, "key", PUSD)
    for text in (people.owner, people.mate):
        principal = principal_of(text)
        assert [(rule.owner, rule.limit) for rule in principal.rules.limits] == [("team member", 5)]
        assert lease_from(principal, "team member", PUSD)
        assert not lease_from(principal, "team member", PUSD)
    for name in ("owner", "mate"):
        with scopes_disabled():
            rules = load_rules(people.home, [Holder(Scope.END_USER, name, "gold")])
        assert [(rule.owner, rule.limit) for rule in rules.limits] == [("end user", 5)]
        assert lease_rule(rules.budgets[0], PUSD)
        assert not lease_rule(rules.budgets[0], PUSD)


def test_a_value_of_its_own_comes_before_the_templates(api: Api, people: People):
    api.post("/budget/new", {"budget_id": "gold", "max_budget": 1, "rpm_limit": 5, "tpm_limit": 100})
    text = api.issue(budget_id="gold", max_budget=2, rpm_limit=7)["key"]
    principal = principal_of(text)
    limits = {rule.dimension.value: rule.limit for rule in principal.rules.limits}
    assert limits == {"requests": 7, "tokens": 100}
    assert len(principal.rules.budgets) == 1
    assert lease_from(principal, "key", 2 * PUSD)
    assert not lease_from(principal, "key", 1)


def test_an_organization_admin_sees_what_the_platforms_budget_gives(api: Api, people: People):
    """The admin's scope has no row of the default organization."""
    admin = issue_role_key(people.home, Role.ORGANIZATION_ADMIN)
    api.post("/budget/new", {"budget_id": "gold", "max_budget": 4, "rpm_limit": 5})
    row = api.post("/customer/new", {"user_id": "ada", "budget_id": "gold"}, by=admin).json()
    table = row["litellm_budget_table"]
    assert (table["max_budget"], table["rpm_limit"]) == (4, 5)
    assert [budget["max_budget"] for budget in row["budgets"]] == [4]
    api.post("/budget/new", {"budget_id": "abroad", "max_budget": 4, "organization_id": "umbrella"})
    refused(api.post("/customer/new", {"user_id": "eve", "budget_id": "abroad"}, by=admin), 400, "budget_id")
