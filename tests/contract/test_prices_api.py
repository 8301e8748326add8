"""/api/prices, /api/unpriced-models and /api/reprice-jobs, end to end and refused."""

import random
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone
from django_scopes import scopes_disabled

from billing import repricing
from billing.bookkeeping import price_pending
from billing.models import Price, RepriceJob, SpendLog
from gateway.deployments import save_deployment
from gateway.models import Deployment
from gateway.protocol.json.types import JsonObject
from gateway.rest import prices
from gateway.rest.prices import PAGE_ROWS
from gateway.stores.catalog import load_snapshot
from gateway.tasks import continue_repricing
from tests.contract.bookkeeping import make_rows
from tests.contract.management import Api
from tests.contract.own_api import ask, problem, send

#: Lines with too many combinations of conditions.
MANY = {f"input@tier-{number}": "0" for number in range(50)} | {f"input>{1 + number}": "0" for number in range(50)}

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("sound_ledger")]


@pytest.fixture(autouse=True)
def deployment() -> Deployment:
    with scopes_disabled():
        row = Deployment(id="mine", model_group="group", provider="openai", upstream_model="new")
        return save_deployment(row)


def call(count: int, **fields: Any) -> None:
    values = {"deployment_id": "mine", "model_group": "group", "provider": "openai", "upstream_model": "new"}
    tokens = {"input_tokens": 1_000_000, "cache_read_tokens": 0, "output_tokens": 0, "reasoning_tokens": 0}
    with scopes_disabled():
        make_rows(count, random.Random(5), **(values | tokens | fields))
        while price_pending():
            pass


def test_a_model_without_a_price_is_priced_end_to_end(api: Api) -> None:
    call(3)
    [row] = ask(api, "GET", "unpriced-models")["data"]
    assert (row["model_group"], row["deployment_id"]) == ("group", "mine")
    assert (row["requests"], row["input_tokens"]) == (3, 3_000_000)
    answer = ask(api, "POST", "prices", {"model": "group", "lines": {"input": "0.0000025"}}, status=201)
    assert answer == {"deployments": ["mine"]}
    body: JsonObject = {"model": "group", "unpriced": True}
    preview = ask(api, "POST", "reprice-jobs", {**body, "dry_run": True})
    assert (preview["rows"], preview["changed"], preview["cost_change"]) == (3, 3, "7.500000000000")
    assert (preview["id"], preview["state"], preview["is_complete"]) == (None, "preview", True)
    with scopes_disabled():
        assert SpendLog.objects.filter(state="unpriced").count() == 3
    job = ask(api, "POST", "reprice-jobs", {**body, "reason": "at last"}, status=201)
    assert (job["state"], job["rows"], job["reason"], job["is_complete"]) == ("running", 0, "at last", False)
    continue_repricing()
    job = ask(api, "GET", f"reprice-jobs/{job['id']}")
    assert (job["state"], job["rows"], job["cost_change"], job["is_complete"]) == ("done", 3, "7.500000000000", True)
    assert ask(api, "GET", "reprice-jobs")["data"] == [job]
    assert ask(api, "GET", "unpriced-models")["data"] == []


def test_a_job_is_cancelled(api: Api) -> None:
    call(1)
    ask(api, "POST", "prices", {"model": "group", "lines": {"input": "0.0000025"}}, status=201)
    job = ask(api, "POST", "reprice-jobs", {"model": "mine", "since": "2026-11-01"}, status=201)
    assert ask(api, "POST", f"reprice-jobs/{job['id']}/cancel")["state"] == "cancelled"
    continue_repricing()
    assert ask(api, "GET", f"reprice-jobs/{job['id']}")["changed"] == 0


def test_prices_in_force_are_listed(api: Api) -> None:
    for provider, model in [("openai", "gpt-a"), ("openai", "gpt-b"), ("azure", "gpt-a")]:
        Price.objects.create(provider=provider, model=model, deployment_id="", lines={"input": "1"}, origin="book")
    rows = ask(api, "GET", "prices?model=GPT-A")["data"]
    assert [(row["provider"], row["model"], row["lines"]) for row in rows] == [
        ("azure", "gpt-a", {"input": "1"}),
        ("openai", "gpt-a", {"input": "1"}),
    ]
    answer = ask(api, "GET", "prices?provider=openai")
    assert ([row["model"] for row in answer["data"]], answer["next_page"]) == (["gpt-a", "gpt-b"], None)
    assert ask(api, "GET", "prices?page=2")["data"] == []


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("prices", {"model": "absent", "lines": {"input": "1"}}, "model"),
        ("prices", {"model": "group"}, "lines"),
        ("prices", {"model": "group", "lines": {"input": "1"}, "base_model": "x"}, "lines"),
        ("prices", {"model": "group", "lines": {"inputs": "1"}}, "inputs"),
        ("prices", {"model": "group", "lines": {"input": "-1"}}, "input"),
        ("prices", {"model": "group", "lines": {"input": "cheap"}}, "input"),
        ("prices", {"model": "group", "lines": {"input": "1e-9999999"}}, "input"),
        ("prices", {"model": "group", "lines": MANY}, "price_lines"),
        ("reprice-jobs", {"model": "absent", "unpriced": True}, "model"),
        ("reprice-jobs", {"model": "group"}, "unpriced"),
        ("reprice-jobs", {"model": "group", "unpriced": True, "since": "2026-11-01"}, "unpriced"),
        ("reprice-jobs", {"model": "group", "since": "yesterday"}, "since"),
    ],
)
def test_what_cannot_be_is_refused_with_its_param(api: Api, path: str, body: JsonObject, param: str) -> None:
    problem(send(api, "POST", path, body), 400, param)
    assert not RepriceJob.objects.exists()


def test_an_unknown_job_is_not_found(api: Api) -> None:
    problem(send(api, "GET", "reprice-jobs/absent"), 404, "reprice_job_id")
    problem(send(api, "POST", "reprice-jobs/absent/cancel"), 404, "reprice_job_id")


def test_the_catalogue_is_listed_in_pages_that_miss_nothing(api: Api) -> None:
    later = timezone.now() + timedelta(days=1)
    Price.objects.bulk_create(
        Price(origin="book", provider="openai", model=f"gpt-{number:04d}", lines={"input": "1"})
        for number in range(PAGE_ROWS + 3)
    )
    Price.objects.create(origin="book", provider="openai", model="gpt-0001", lines={"input": "2"})
    Price.objects.create(origin="book", provider="openai", model="gpt-0002", lines={"input": "3"}, effective_from=later)
    Price.objects.create(origin="contract", provider="openai", model="gpt-0003", organization_id="home", lines={})
    first, second = (ask(api, "GET", f"prices?page={page}") for page in (1, 2))
    assert (first["next_page"], second["next_page"]) == (2, None)
    models = [row["model"] for row in (*first["data"], *second["data"])]
    assert models == sorted([f"gpt-{number:04d}" for number in range(PAGE_ROWS + 3)] + ["gpt-0003"])
    assert [row["lines"]["input"] for row in first["data"][:3]] == ["1", "2", "1"]
    assert ask(api, "GET", "prices?model=%25")["data"] == []
    assert len(ask(api, "GET", "prices?model=GPT-000")["data"]) == 11


def draft(model: str, usd: str) -> Price:
    return Price.objects.create(
        origin="book", status="draft", deployment_id="", provider="openai", model=model, lines={"input": usd}
    )


def test_drafts_are_accepted_and_rejected_one_by_one_and_all_at_once(api: Api) -> None:
    Price.objects.create(origin="book", deployment_id="", provider="openai", model="new", lines={"input": "0.000001"})
    first, second, third = draft("new", "0.000002"), draft("other", "0.000003"), draft("third", "0.000004")
    rows = ask(api, "GET", "price-drafts?provider=openai")["data"]
    assert [(row["id"], row["lines_in_force"]) for row in rows] == [
        (first.id, {"input": "0.000001"}),
        (second.id, {}),
        (third.id, {}),
    ]
    assert ask(api, "POST", "price-drafts/accept", {"ids": [first.id, "absent"]}) == {"prices": 1}
    assert ask(api, "POST", "price-drafts/accept", {"ids": [first.id]}) == {"prices": 0}
    assert ask(api, "POST", "price-drafts/reject", {"ids": [second.id]}) == {"prices": 1}
    assert ask(api, "POST", "price-drafts/reject", {"all": True}) == {"prices": 1}
    assert ask(api, "GET", "price-drafts") == {
        "data": [],
        "next_page": None,
        "newest": None,
    }
    assert [row["lines"] for row in ask(api, "GET", "prices?model=new")["data"]] == [{"input": "0.000002"}]
    for body in ({}, {"ids": []}, {"ids": [first.id], "all": True}, {"all": False}):
        problem(send(api, "POST", "price-drafts/accept", body), 400, "ids")
    problem(send(api, "POST", "price-drafts/accept", {"ids": "all"}), 400, "ids")
    problem(send(api, "POST", "price-drafts/accept", {"ids": [first.id], "newest": first.id}), 400, "newest")


@pytest.mark.parametrize("decision", ["accept", "reject"])
def test_all_drafts_may_be_those_of_the_list_that_was_looked_at(api: Api, decision: str) -> None:
    rows = [draft("one", "0.000001"), draft("two", "0.000002")]
    seen = ask(api, "GET", "price-drafts")["newest"]
    assert seen == rows[1].id
    late = draft("late", "0.000003")
    assert ask(api, "POST", f"price-drafts/{decision}", {"all": True, "newest": seen}) == {"prices": 2}
    assert [row["id"] for row in ask(api, "GET", "price-drafts")["data"]] == [late.id]
    for newest in ("", "a\0b", 1, None):
        problem(send(api, "POST", f"price-drafts/{decision}", {"all": True, "newest": newest}), 400, "newest")


@pytest.mark.django_db(transaction=True)
def test_a_preview_takes_place_outside_of_the_transaction_of_its_key(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """On SQLite a transaction keeps all other writers waiting. A job is written within it."""
    seen: list[tuple[str, bool]] = []

    def watch(name: str, function: Callable[..., Any]) -> None:
        def call(*arguments: Any, **options: Any) -> Any:
            seen.append((name, connection.in_atomic_block))
            return function(*arguments, **options)

        monkeypatch.setattr(prices, name, call)

    watch("preview", repricing.preview)
    watch("start_job", repricing.start_job)
    call(1)
    body: JsonObject = {"model": "group", "unpriced": True}
    for place, one in enumerate([{**body, "dry_run": True}, body]):
        for _ in range(2):
            answer = send(api, "POST", "reprice-jobs", one, **{"Idempotency-Key": f"once-{place}"})
            assert answer.status_code == 200 + place
        assert answer["idempotent-replayed"] == "true"
    assert seen == [("preview", False), ("start_job", True)]


def test_a_price_of_the_catalogue_with_a_date_changes_the_calls_since_then(api: Api) -> None:
    Price.objects.create(origin="book", deployment_id="", provider="openai", model="new", lines={"input": "0.000001"})
    with scopes_disabled():
        [target] = load_snapshot().catalog.find("home", "group")
    call(2, price_id=target.price_id)
    body = {"provider": "openai", "model": "new", "lines": {"input": "0.000003"}, "effective_from": "2020-01-01"}
    assert ask(api, "POST", "prices", body, status=201) == {"deployments": ["mine"]}
    preview = ask(api, "POST", "reprice-jobs", {"model": "group", "since": "2020-01-01", "dry_run": True})
    assert (preview["changed"], preview["cost_change"]) == (2, "4.000000000000")
    later = {**body, "lines": {"input": "0.000009"}, "effective_from": "2099-01-01T00:00:00Z"}
    ask(api, "POST", "prices", later, status=201)
    [row] = ask(api, "GET", "prices?model=new")["data"]
    assert row["lines"] == {"input": "0.000003"}
    problem(send(api, "POST", "prices", {**body, "provider": "absent"}), 400, "provider")
    problem(send(api, "POST", "prices", {**body, "lines": {}}), 400, "lines")
    problem(send(api, "POST", "prices", {**body, "model": "a\0b"}), 400, "model")
    problem(send(api, "POST", "prices", {**body, "effective_from": "9999-12-31"}), 400, "effective_from")
    own = {"model": "group", "lines": {"input": "0.000003"}, "effective_from": "2020-01-01"}
    problem(send(api, "POST", "prices", {**own, "provider": "openai", "base_model": "x"}), 400, "lines")
