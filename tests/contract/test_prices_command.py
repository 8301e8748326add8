"""`manage.py prices`, end to end: an unpriced model is found, priced, and its rows are priced again."""

import io
import json
import random
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection
from django.db.models import Sum
from django.utils import timezone
from django_scopes import scopes_disabled

from billing.bookkeeping import price_pending
from billing.models import Price, PriceAdjustment, RepriceJob, SpendLog, UsageHour
from billing.repricing import WITHOUT_COST, Scope, run_step, start_job
from billing.unpriced import reduce_name
from gateway.deployments import save_deployment
from gateway.models import Deployment
from gateway.protocol.json.types import JsonObject
from gateway.stores.catalog import load_snapshot
from gateway.stores.deployment_prices import RowPrices
from gateway.tasks import continue_repricing
from tenants.models import AuditEntry
from tests.contract.bookkeeping import make_rows

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("sound_ledger")]


@pytest.fixture(autouse=True)
def above_organizations() -> Iterator[None]:
    with scopes_disabled():
        yield


def prices(*arguments: str) -> str:
    output = io.StringIO()
    call_command("prices", *arguments, stdout=output)
    return output.getvalue()


def deploy(name: str = "mine", **fields: Any) -> Deployment:
    values: dict[str, Any] = {"provider": "openai", "api_base": "http://up.test/v1", "upstream_model": "gpt-new-2026"}
    price_lines = fields.pop("price_lines", None)
    return save_deployment(Deployment(id=name, model_group="group", **(values | fields)), price_lines=price_lines)


def call(count: int = 3, **fields: Any) -> list[SpendLog]:
    values = {"deployment_id": "mine", "model_group": "group", "provider": "openai", "upstream_model": "gpt-new-2026"}
    tokens = {"input_tokens": 1_000_000, "cache_read_tokens": 0, "output_tokens": 500_000, "reasoning_tokens": 0}
    rows = make_rows(count, random.Random(5), **(values | tokens | fields))
    while price_pending():
        pass
    return rows


def spent() -> Decimal:
    return Decimal(UsageHour.objects.aggregate(total=Sum("cost_pusd"))["total"] or 0) / 10**12


def test_a_model_without_a_price_is_priced_end_to_end() -> None:
    deploy()
    call(3)
    [row] = json.loads(prices("unpriced", "--json"))
    assert (row["model_group"], row["deployment_id"], row["requests"]) == ("group", "mine", 3)
    assert (row["input_tokens"], row["output_tokens"]) == (3_000_000, 1_500_000)
    assert "group (mine) → openai/gpt-new-2026: 3 requests" in prices("unpriced")

    prices("set", "--model", "group", "--input", "2.50", "--output", "10", "--cache-read", "1.25")
    assert SpendLog.objects.filter(state="unpriced").count() == 3, "setting a price touches no row"
    price = Price.objects.get(id=Deployment.objects.get().price_id)
    assert price.lines == {"input": "0.0000025", "output": "0.00001", "cache_read": "0.00000125"}
    assert load_snapshot().targets["mine"].price_id == price.id

    preview = prices("reprice", "--model", "group", "--unpriced", "--dry-run")
    assert "3 rows, 3 of them with another cost: +22.500000000000 USD" in preview
    assert spent() == 0
    assert "Done: 3 rows" in prices("reprice", "--model", "group", "--unpriced", "--yes")
    assert spent() == Decimal("22.5")
    assert json.loads(prices("unpriced", "--json")) == []
    assert "0 rows" in prices("reprice", "--model", "group", "--unpriced", "--yes")


@pytest.mark.parametrize("is_worker", [False, True])
def test_the_calls_of_a_pattern_are_priced_again_by_its_name(is_worker: bool) -> None:
    deploy()
    Deployment.objects.update(model_group="openai/*", upstream_model="*")
    call(2, model_group="openai/new", upstream_model="new")
    assert "openai/* (mine): input 1/M, output 0/M" in prices(
        "set", "--model", "openai/*", "--input", "1", "--output", "0"
    )
    if is_worker:
        start_job(Scope("openai/*", True, None, timezone.now() + timedelta(days=365)), actor="me")
        continue_repricing()
    else:
        assert "Done: 2 rows" in prices("reprice", "--model", "openai/*", "--unpriced", "--yes")
    assert spent() == 2


def test_the_calls_of_a_wildcard_are_priced_again_by_their_models() -> None:
    deploy()
    Deployment.objects.update(model_group="openai/*", upstream_model="*")
    for model, usd in (("new", "0.000001"), ("other", "0.000002")):
        Price.objects.create(provider="openai", model=model, origin="book", lines={"input": usd, "output": "0"})
        call(1, model_group=f"openai/{model}", upstream_model=model)
    call(1, model_group="openai/unknown", upstream_model="unknown")
    text = prices("set", "--model", "openai/*", "--remove")
    assert "each model that it serves has its price of the catalogue" in text
    assert "Done: 3 rows, 2 of them changed" in prices("reprice", "--model", "openai/*", "--unpriced", "--yes")
    assert spent() == 3
    [row] = json.loads(prices("unpriced", "--json"))
    assert row["upstream_model"] == "unknown"


def test_a_price_change_is_carried_back_to_a_day() -> None:
    deploy(price_lines={"input": "0.000001", "output": "0"})
    price_id = Deployment.objects.get().price_id
    call(2, price_id=price_id)
    assert spent() == 2
    prices("set", "--model", "mine", "--input", "3", "--output", "0")
    assert "0 rows" in prices("reprice", "--model", "mine", "--from", "2026-11-21", "--yes")
    prices("reprice", "--model", "mine", "--from", "2026-11-20", "--yes", "--reason", "a wrong price")
    assert spent() == 6
    assert {row.cost_pusd for row in SpendLog.objects.all()} == {10**12}, "the rows keep their cost"
    assert {row.delta_pusd for row in PriceAdjustment.objects.all()} == {2 * 10**12}
    assert RepriceJob.objects.get(changed=2).reason == "a wrong price"
    actions = set(AuditEntry.objects.values_list("action", "object_type"))
    assert ("create", "reprice_job") in actions


def test_the_worker_continues_a_job_that_its_command_left() -> None:
    deploy(price_lines={"input": "0.000001", "output": "0"})
    call(250)
    job = start_job(Scope("group", True, None, timezone.now() + timedelta(days=365)), actor="me")
    assert run_step(job.id, RowPrices())
    continue_repricing()
    job.refresh_from_db()
    assert (job.state, job.rows, spent()) == ("done", 250, 250)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["set", "--model", "absent", "--input", "1"], "there is no model group and no deployment 'absent'"),
        (["set", "--model", "group"], "give prices"),
        (["set", "--model", "group", "--input", "cheap"], "--input: 'cheap' is not a number"),
        (["set", "--model", "group", "--input", "-1"], "--input: must be from 0"),
        (["set", "--model", "group", "--input", "1000001"], "--input: must be from 0"),
        (["set", "--model", "group", "--input", "1", "--remove"], "give prices"),
        (["set", "--model", "group", "--line", "inputs=1"], "is not a price line"),
        (["set", "--model", "group", "--line", "input"], "is not KEY=USD"),
        (["reprice", "--model", "absent", "--unpriced"], "there is no model group"),
        (["reprice", "--model", "group", "--from", "yesterday"], "--from: 'yesterday' is not a date"),
        (["sync", "--litellm", "/nonexistent"], "--litellm"),
    ],
)
def test_what_cannot_be_is_refused_with_the_option(arguments: list[str], message: str) -> None:
    deploy()
    call(1)
    with pytest.raises(CommandError, match=message):
        prices(*arguments)
    assert Deployment.objects.get().price_id == ""


def test_any_line_can_be_set_and_taken_away_again() -> None:
    deploy()
    prices("set", "--model", "mine", "--input", "1", "--line", "request=0.005", "--line", "input@priority=0.000002")
    price = Price.objects.get(id=Deployment.objects.get().price_id)
    assert price.lines == {"input": "0.000001", "input@priority": "0.000002", "request": "0.005"}
    assert price.origin == "set"
    assert "no price: its calls are unpriced" in prices("set", "--model", "mine", "--remove")
    assert Deployment.objects.get().price_id == ""
    assert Price.objects.filter(id=price.id).exists(), "rows may refer to it"


def test_a_base_model_is_proposed_and_confirmed() -> None:
    prices("sync")
    deploy(provider="azure", upstream_model="our-gpt-4o-2024-08-06")
    call(1, provider="azure", upstream_model="our-gpt-4o-2024-08-06")
    [row] = json.loads(prices("unpriced", "--json"))
    assert row["suggestion"].startswith("azure/gpt-4o")
    prices("set", "--model", "group", "--base-model", "azure/gpt-4o")
    prices("reprice", "--model", "group", "--unpriced", "--yes")
    assert spent() == Decimal("7.5")


def test_a_price_of_config_yaml_is_changed_there() -> None:
    deploy(source="config", price_lines={"input": "1"})
    with pytest.raises(CommandError, match=r"stands in config\.yaml"):
        prices("set", "--model", "group", "--input", "1")


def test_the_seed_is_synced_once_and_listed() -> None:
    assert "new prices" in prices("sync")
    assert ": 0 new prices" in prices("sync")
    assert "0 new versions" in prices("diff")
    listed = prices("list", "--model", "claude-sonnet-4-5", "--provider", "anthropic")
    assert "anthropic/claude-sonnet-4-5: " in listed
    assert "input 3/M" in listed
    rows: list[JsonObject] = json.loads(prices("list", "--model", "gpt-4o", "--provider", "openai", "--json"))
    assert {"openai/gpt-4o", "openai/gpt-4o-mini"} <= {f"{row['provider']}/{row['model']}" for row in rows}


def test_litellms_price_map_comes_in_as_drafts(tmp_path: Path) -> None:
    file = tmp_path / "prices.json"
    entry = {"litellm_provider": "openai", "input_cost_per_token": 3.0001999999999996e-07}
    strange = {"litellm_provider": "openai", "tiered_pricing": [], "input_cost_per_token": 1e-06}
    unknown = {"litellm_provider": "unknown", "input_cost_per_token": 1}
    file.write_text(json.dumps({"gpt-new-2026": entry, "openai/strange": strange, "x": unknown}))
    deploy()
    assert "openai/gpt-new-2026: new: input 0.30001999999999996/M" in prices("diff", "--litellm", str(file))
    assert not Price.objects.exists()
    assert "1 new drafts" in prices("sync", "--litellm", str(file))
    assert load_snapshot().targets["mine"].price_id == ""
    assert "1 prices are in force now" in prices("activate", "--model", "gpt-new-2026")
    assert load_snapshot().targets["mine"].price_id != ""


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", "claude-sonnet-4-5"),
        ("claude-sonnet-4-5@20250929", "claude-sonnet-4-5"),
        ("accounts/fireworks/models/kimi-k2", "kimi-k2"),
        ("gpt-4.1", "gpt-4-1"),
        ("llama3:latest", "llama3"),
    ],
)
def test_a_name_is_reduced_to_its_model(name: str, model: str) -> None:
    assert reduce_name(name) == model


def test_rows_without_a_cost_are_found_by_their_index() -> None:
    query = SpendLog.objects.filter(WITHOUT_COST).order_by("id").values("id")
    if connection.vendor == "sqlite":
        assert "spend_log_uncosted" in query.explain()
