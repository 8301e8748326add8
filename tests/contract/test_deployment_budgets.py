"""Budgets of deployments: set by /model/* and config.yaml, read by the data path, settled once, and deleted."""

import random
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from django.db.models import Sum
from django.test import Client
from django_scopes import scopes_disabled

from billing.bookkeeping import price_pending
from billing.models import Price, SpendLog
from gateway.config import read_config
from gateway.config.load import load_config
from gateway.deployments import save_deployment
from gateway.protocol.json.types import JsonObject
from gateway.stores.catalog import load_snapshot, reload_snapshot
from tenants.budget_store import LeaseRequest, lease
from tenants.budget_windows import ALL_TIME
from tenants.models import DEFAULT_ORGANIZATION, AuditEntry, Budget, BudgetWindow, Organization, Scope
from tenants.revision import current_revision
from tests.contract.bookkeeping import LINES, make_rows
from tests.contract.models import LOCAL, Api, answer_of, refused, row_of, watched

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("sound_ledger")]

BUDGET = {"max_budget": 12.5, "budget_duration": "1d"}


@pytest.fixture
def api(client: Client) -> Iterator[Api]:
    yield from watched(client)


def stored(deployment_id: str) -> list[tuple[str, int | None, str]]:
    """(organization, limit, duration) of its budgets."""
    with scopes_disabled():
        rows = Budget.objects.filter(scope=Scope.DEPLOYMENT, scope_id=deployment_id)
        return [(row.organization_id, row.limit_pusd, row.duration) for row in rows]


def shown(model: JsonObject) -> JsonObject:
    return {name: value for name, value in model["litellm_params"].items() if name in BUDGET}


def test_a_new_model_has_its_budget(api: Api) -> None:
    answer = api.new(LOCAL | BUDGET)
    name = answer["model_id"]
    assert shown(answer) == shown(api.info(name)) == BUDGET
    assert stored(name) == [(DEFAULT_ORGANIZATION, 12_500_000_000_000, "1d")]
    (rule,) = load_snapshot().budgets[name]
    assert (rule.scope, rule.scope_id, rule.is_hard, rule.duration) == ("deployment", name, True, "1d")
    assert "max_budget" not in row_of(name).parameters


def test_an_update_changes_what_it_names(api: Api) -> None:
    name = api.new(LOCAL | BUDGET)["model_id"]
    before = current_revision()
    assert shown(api.update(name, litellm_params={"max_budget": "0.000000000001"}))["budget_duration"] == "1d"
    assert current_revision() > before
    assert stored(name) == [(DEFAULT_ORGANIZATION, 1, "1d")]
    api.update(name, litellm_params={"budget_duration": "30d"})
    assert stored(name) == [(DEFAULT_ORGANIZATION, 1, "30d")]
    api.update(name, litellm_params={"budget_duration": ""})
    assert stored(name) == [(DEFAULT_ORGANIZATION, 1, "")]
    api.update(name, litellm_params={"rpm": 5, "max_budget": None})
    assert stored(name) == [(DEFAULT_ORGANIZATION, 1, "")]
    assert shown(api.update(name, litellm_params={"max_budget": ""})) == {}
    assert stored(name) == []
    assert load_snapshot().budgets == {}
    with scopes_disabled():
        assert AuditEntry.objects.filter(action="limits", object_id=name).count() == 5


@pytest.mark.parametrize(
    ("params", "param"),
    [
        ({"max_budget": -1}, "max_budget"),
        ({"max_budget": "1e30"}, "max_budget"),
        ({"max_budget": "much"}, "max_budget"),
        ({"max_budget": True}, "max_budget"),
        ({"max_budget": 1, "budget_duration": "soon"}, "budget_duration"),
        ({"budget_duration": "1d"}, "budget_duration"),
    ],
)
def test_a_wrong_budget_stores_nothing(api: Api, params: JsonObject, param: str) -> None:
    body = {"model_name": "m", "litellm_params": LOCAL | params, "model_info": {"id": "wrong"}}
    refused(api.post("/model/new", body), 400, f"litellm_params.{param}")
    assert stored("wrong") == []


def test_a_deleted_model_takes_its_budget_along(api: Api) -> None:
    name = api.new(LOCAL | BUDGET)["model_id"]
    answer_of(api.post("/model/delete", {"id": name}))
    assert stored(name) == []


def test_a_deployment_that_another_organization_gets_takes_its_budget_along(api: Api) -> None:
    name = api.new(LOCAL | BUDGET)["model_id"]
    with scopes_disabled():
        home = Organization.objects.create(id="home", name="Home", time_zone="Asia/Tokyo")
        row = row_of(name)
        row.organization = home
        save_deployment(row)
    assert [owner for owner, _, _ in stored(name)] == ["home"]
    (rule,) = load_snapshot().budgets[name]
    assert (rule.organization_id, rule.time_zone) == ("home", "Asia/Tokyo")


def test_a_row_of_another_organization_does_not_bind(api: Api) -> None:
    name = api.new(LOCAL)["model_id"]
    with scopes_disabled():
        other = Organization.objects.create(id="other", name="Other")
        Budget.objects.create(organization=other, scope=Scope.DEPLOYMENT, scope_id=name, limit_pusd=0)
    assert load_snapshot().budgets == {}


def test_a_reload_reads_the_budgets_of_the_changed_alone(api: Api) -> None:
    first, second = (api.new(LOCAL | BUDGET)["model_id"] for _ in range(2))
    before = load_snapshot()
    api.update(first, litellm_params={"max_budget": ""})
    after = reload_snapshot(before, {first})
    assert after.budgets == {second: before.budgets[second]}
    assert after.budgets[second] is before.budgets[second]


def test_a_file_sets_and_removes_the_budget(tmp_path: Any) -> None:
    def load(*lines: str) -> Any:
        params = {"model": "ollama/m", "api_base": "http://up.test"}
        text = "\n".join(f"      {name}: {value}" for name, value in params.items())
        more = "".join(f"\n      {line}" for line in lines)
        path = tmp_path / "config.yaml"
        path.write_text(
            f"model_list:\n  - model_name: m\n    litellm_params:\n{text}{more}\n    model_info: {{id: filed}}\n"
        )
        return load_config(read_config(path, {}))

    load("max_budget: 0.1", "budget_duration: daily")
    assert stored("filed") == [(DEFAULT_ORGANIZATION, 100_000_000_000, "1d")]
    with scopes_disabled():
        budget = Budget.objects.get()
    assert load("max_budget: 1e-1", "budget_duration: 1d").unchanged == ("filed",)
    assert load("max_budget: 0.2", "budget_duration: 1d").changed == ("filed",)
    with scopes_disabled():
        assert Budget.objects.get().id == budget.id  # with its windows
    assert load().changed == ("filed",)
    assert stored("filed") == []


def test_attempts_settle_once_in_the_window_of_their_own_deployment(api: Api) -> None:
    names = [api.new(LOCAL | BUDGET)["model_id"] for _ in range(2)]
    with scopes_disabled():
        price = Price.objects.create(deployment_id=names[0], lines=LINES).id
        key = Budget.objects.create(
            organization_id=DEFAULT_ORGANIZATION, scope=Scope.KEY, scope_id="k", limit_pusd=10**13
        )
        budgets = [key, *(Budget.objects.get(scope=Scope.DEPLOYMENT, scope_id=name) for name in names)]
        requests = [
            LeaseRequest(row.id, DEFAULT_ORGANIZATION, row.scope, row.scope_id, ALL_TIME.starts_at, None, 10**12)
            for row in budgets
        ]
        leased = lease(requests, "writer")
        assert isinstance(leased, list)
        of_key, *own = [entry.window_id for entry in leased]
        for window in own:  # the key's window is that of both attempts
            make_rows(
                5, random.Random(1), price_id=price, started_at=datetime.now(UTC), budget_windows=f"{of_key},{window}"
            )
        while price_pending():
            pass
        for window in (of_key, *own):
            rows = SpendLog.objects.filter(budget_windows__contains=window)
            cost = rows.aggregate(sum=Sum("cost_pusd"))["sum"]
            state = BudgetWindow.objects.get(id=window)
            assert cost > 0
            assert (state.settled_pusd, state.settled_pusd + state.leased_pusd) == (cost, 10**12)
