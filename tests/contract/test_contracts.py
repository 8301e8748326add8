"""Contracts: what an organization pays, what its provider is paid, and who may see which."""

import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.core.management import CommandError
from django.utils import timezone
from django_scopes import scopes_disabled

from billing.bookkeeping import price_pending
from billing.catalogue.seed import Book, BookPrice
from billing.contracts import end_contract, set_lines, set_percent
from billing.models import Price, PriceBook, SpendLog
from billing.price_terms import PriceInvalid
from billing.prices import set_catalogue_price, sync_book
from gateway.models import Deployment
from gateway.stores.catalog import load_snapshot
from gateway.stores.deployment_prices import RowPrices
from tenants.models import Organization
from tests.contract.bookkeeping import make_rows
from tests.contract.management import Api
from tests.contract.own_api import ask, problem, send
from tests.contract.test_prices import book, deploy, target, version
from tests.contract.test_prices_command import prices

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("sound_ledger")]
SEED = PriceBook.Source.SEED


@pytest.fixture(autouse=True)
def home() -> Iterator[Organization]:
    with scopes_disabled():
        yield Organization.objects.get_or_create(id="acme", defaults={"name": "Acme"})[0]


def lines_of(organization: str = "acme", group: str = "public") -> Any:
    price_id = target(load_snapshot(), organization, group).price_id
    return Price.objects.get(id=price_id).lines if price_id else None


def charge(price_id: str, **fields: Any) -> SpendLog:
    counts = {"input_tokens": 0, "cache_read_tokens": 0, "output_tokens": 0, "reasoning_tokens": 0}
    [row] = make_rows(1, random.Random(1), organization_id="acme", price_id=price_id, **(counts | fields))
    while price_pending():
        pass
    row.refresh_from_db()
    return row


def test_a_discount_scales_every_line_exactly_and_for_its_organization_alone() -> None:
    version("0.0000025", lines={"input": "0.0000025", "input>200000": "0.000005", "output@flex": "0.0000000000003"})
    deploy()
    set_percent("acme", "openai", "gpt-new", Decimal("-12.5"))
    assert lines_of() == {"input": "0.0000021875", "input>200000": "0.000004375", "output@flex": "0.0000000000002625"}
    assert lines_of("other") == {"input": "0.0000025", "input>200000": "0.000005", "output@flex": "0.0000000000003"}


def test_a_row_has_the_price_of_the_tenant_and_the_cost_of_the_provider() -> None:
    public = version("0.0000025")
    deploy()
    set_percent("acme", "openai", "gpt-new", Decimal(20))
    row = charge(target(load_snapshot(), "acme").price_id, input_tokens=1_000, output_tokens=10)
    assert (row.cost_pusd, row.provider_cost_pusd) == (1_010 * 3_000_000, 1_010 * 2_500_000)
    plain = charge(public.id, input_tokens=7)
    assert (plain.cost_pusd, plain.provider_cost_pusd) == (7 * 2_500_000, None)


def test_own_lines_keep_what_the_provider_is_paid() -> None:
    version("0.0000025")
    deploy("*", model_group="openai/*")
    set_lines("acme", "openai", "gpt-new", {"input": "0.000001", "output": "0.000001"})
    row = charge(target(load_snapshot(), "acme", "openai/gpt-new").price_id, input_tokens=100)
    assert (row.cost_pusd, row.provider_cost_pusd) == (100 * 10**6, 100 * 2_500_000)


def test_a_provider_cost_out_of_range_stops_no_pricing() -> None:
    version(lines={"input": "0.000001", "output": "0.000001", "web_search": "0.01"})
    deploy()
    set_lines("acme", "openai", "gpt-new", {"input": "0.000001", "output": "0.000001"})
    usage = json.dumps({"server_tool_use": {"web_search_requests": 10**12}})
    row = charge(target(load_snapshot(), "acme").price_id, input_tokens=5, usage=usage)
    assert (row.state, row.cost_pusd, row.provider_cost_pusd) == ("priced", 5 * 10**6, None)


def test_a_new_price_of_the_catalogue_brings_the_contract_along() -> None:
    sync_book(book(("gpt-new", "0.000001")), SEED)
    deploy()
    set_percent("acme", "openai", "", Decimal(-50))
    assert lines_of() == {"input": "0.0000005"}
    sync_book(book(("gpt-new", "0.000003"), ("gpt-next", "0.000004"), sha256="2"), SEED)
    deploy("gpt-next", model_group="next")
    assert (lines_of(), lines_of(group="next")) == ({"input": "0.0000015"}, {"input": "0.000002"})
    assert lines_of("other") == {"input": "0.000003"}


def test_a_version_of_the_past_does_not_come_back_by_a_contract() -> None:
    yesterday = timezone.now() - timedelta(days=1)

    def history(first: str, sha256: str) -> Book:
        versions = ((None, first), (yesterday, "0.000002"))
        return Book(
            "a book", "MIT", sha256, tuple(BookPrice("openai", "gpt-new", day, {"input": usd}) for day, usd in versions)
        )

    sync_book(history("0.000001", "1"), SEED)
    deploy()
    set_percent("acme", "openai", "gpt-new", Decimal(-50))
    assert sync_book(history("0.000009", "2"), SEED) == 1
    assert (lines_of(), lines_of("other")) == ({"input": "0.000001"}, {"input": "0.000002"})


def test_a_contract_that_ended_stays_ended_beside_one_of_all_models() -> None:
    sync_book(book(("gpt-new", "0.000001")), SEED)
    deploy()
    set_percent("acme", "openai", "", Decimal(-50))
    end_contract("acme", "openai", "gpt-new")
    sync_book(book(("gpt-new", "0.000003"), ("gpt-next", "0.000004"), sha256="2"), SEED)
    deploy("gpt-next", model_group="next")
    assert (lines_of(), lines_of(group="next")) == ({"input": "0.000003"}, {"input": "0.000002"})


def test_a_later_version_of_the_catalogue_has_its_discount_from_its_own_instant() -> None:
    version("0.000001")
    later = version("0.000002", effective_from=timezone.now() + timedelta(days=1))
    deploy()
    set_percent("acme", "openai", "gpt-new", Decimal(-50))
    assert lines_of()["input"] == "0.0000005"
    contract = Price.objects.get(organization_id="acme", base_price_id=later.id)
    assert (contract.effective_from, contract.lines["input"]) == (later.effective_from, "0.000001")


def test_a_contract_ends_and_its_rows_keep_their_cost() -> None:
    version("0.000002")
    deploy()
    set_percent("acme", "openai", "gpt-new", Decimal(-50))
    row = charge(target(load_snapshot(), "acme").price_id, input_tokens=5)
    assert end_contract("acme", "openai", "gpt-new") == 1
    assert lines_of()["input"] == "0.000002"
    row.refresh_from_db()
    assert row.cost_pusd == 5 * 10**6
    assert end_contract("acme", "openai", "gpt-new") == 0


@pytest.mark.parametrize(
    ("organization", "provider", "percent", "param"),
    [
        ("absent", "openai", "-10", "organization_id"),
        ("acme", "absent", "-10", "model"),
        ("acme", "openai", "-100.1", "percent"),
        ("acme", "openai", "1e999999", "percent"),
        ("acme", "openai", "1e-999999", "percent"),
        ("acme", "openai", "NaN", "percent"),
        ("acme", "openai", "10001", "percent"),
    ],
)
def test_a_percentage_that_cannot_be_is_refused(organization: str, provider: str, percent: str, param: str) -> None:
    version()
    with pytest.raises(PriceInvalid) as refused:
        set_percent(organization, provider, "gpt-new", Decimal(percent))
    assert refused.value.param == param
    assert not Price.objects.exclude(organization_id="").exists()


@pytest.mark.parametrize("lines", [{}, {"inputs": "1"}, {"input": "-1"}, {"input": "1e-9999999"}, {"input": "1001"}])
def test_lines_that_cannot_be_are_refused(lines: dict[str, str]) -> None:
    with pytest.raises(PriceInvalid):
        set_lines("acme", "openai", "gpt-new", lines)


@pytest.mark.parametrize("provider", ["open-ai", "x" * 41])
def test_lines_of_an_unknown_provider_are_refused(provider: str) -> None:
    with pytest.raises(PriceInvalid) as refused:
        set_lines("acme", provider, "gpt-new", {"input": "0.000001"})
    assert refused.value.param == "provider"


def test_contracts_by_api(api: Api) -> None:
    version("0.000002")
    body = {"organization_id": "acme", "provider": "openai", "model": "gpt-new"}
    assert ask(api, "POST", "contracts", {**body, "percent": "-10"}, status=201) == {"prices": 1}
    [row] = ask(api, "GET", "contracts?organization_id=acme")["data"]
    assert (row["organization_id"], row["percent"], row["lines"]["input"]) == ("acme", "-10", "0.0000018")
    assert ask(api, "GET", "contracts?organization_id=other")["data"] == []
    assert ask(api, "POST", f"contracts/{row['id']}/end") == {"prices": 1}
    problem(send(api, "POST", f"contracts/{row['id']}/end"), 404, "price_id")
    assert ask(api, "GET", "contracts")["data"] == []
    problem(send(api, "POST", "contracts", body), 400, "lines")
    problem(send(api, "POST", "contracts", {**body, "percent": "much"}), 400, "percent")
    problem(send(api, "POST", "contracts", {**body, "lines": {"input": "cheap"}}), 400, "lines")
    problem(
        send(api, "POST", "contracts", {**body, "organization_id": "absent", "percent": "1"}), 400, "organization_id"
    )


def test_contracts_by_command() -> None:
    version("0.000002")
    deploy()
    place = ("set", "--organization", "acme", "--model")
    assert "1 prices of the contract are in force" in prices(*place, "openai/*", "--percent", "-25")
    assert lines_of()["input"] == "0.0000015"
    prices(*place, "openai/gpt-new", "--input", "1", "--output", "2")
    assert lines_of() == {"input": "0.000001", "output": "0.000002"}
    prices(*place, "openai/*", "--remove")
    assert lines_of()["input"] == "0.000002"
    for wrong in (("gpt-new", "--percent", "1"), ("openai/*",), ("openai/*", "--percent", "x")):
        with pytest.raises(CommandError):
            prices(*place, *wrong)
    with pytest.raises(CommandError):
        prices("set", "--model", "public", "--percent", "1")


# Contracts with a date


def lines_at(when: datetime, organization: str = "acme", upstream_model: str = "gpt-new") -> Any:
    """The lines that a call of this instant is priced by when it is priced again."""
    price_id = RowPrices()(Deployment.objects.get().id, organization, when, upstream_model)
    return Price.objects.get(id=price_id).lines if price_id else None


def test_a_contract_of_the_future_leaves_the_one_in_force_until_then() -> None:
    now, tomorrow = timezone.now(), timezone.now() + timedelta(days=1)
    version("0.000002")
    deploy()
    set_percent("acme", "openai", "gpt-new", Decimal(-50))
    set_lines("acme", "openai", "gpt-new", {"input": "0.0000005"}, tomorrow)
    assert lines_of() == lines_at(now) == {"input": "0.000001", "output": "0.000001"}
    assert lines_at(tomorrow) == {"input": "0.0000005"}
    assert lines_at(tomorrow, "other") == {"input": "0.000002", "output": "0.000002"}
    set_percent("acme", "openai", "", Decimal(100), tomorrow)
    assert lines_at(tomorrow)["input"] == "0.000004"
    assert lines_at(now)["input"] == "0.000001"
    assert end_contract("acme", "openai", "") == 3
    assert lines_at(tomorrow) == lines_at(now) == {"input": "0.000002", "output": "0.000002"}


def test_a_contract_of_the_past_prices_the_calls_since_then_again() -> None:
    version("0.000002")
    deploy()
    before, since = timezone.now() - timedelta(days=9), timezone.now() - timedelta(days=3)
    set_percent("acme", "openai", "gpt-new", Decimal(-50), since)
    assert lines_at(before)["input"] == "0.000002"
    assert lines_at(since)["input"] == lines_of()["input"] == "0.000001"


def test_lines_with_a_date_go_before_a_former_contract_of_the_region() -> None:
    now, tomorrow = timezone.now(), timezone.now() + timedelta(days=1)
    version("0.000002")
    version("0.000003", region="eu")
    deploy(parameters={"aws_region_name": "eu"})
    set_percent("acme", "openai", "gpt-new", Decimal(100))
    set_lines("acme", "openai", "gpt-new", {"input": "0.0000005"}, tomorrow)
    assert (lines_at(now)["input"], lines_at(tomorrow)) == ("0.000006", {"input": "0.0000005"})


def test_a_new_price_of_the_catalogue_is_followed_by_each_percentage_in_its_time() -> None:
    now, later = timezone.now(), timezone.now() + timedelta(days=5)
    sync_book(book(("gpt-new", "0.000001")), SEED)
    deploy()
    set_percent("acme", "openai", "", Decimal(-50))
    set_percent("acme", "openai", "", Decimal(100), later)
    row = set_catalogue_price("openai", "gpt-new", {"input": "0.000003"})
    assert row.effective_from is not None
    assert lines_at(row.effective_from) == {"input": "0.0000015"}
    assert lines_at(later) == {"input": "0.000006"}
    set_catalogue_price("openai", "gpt-new", {"input": "0.000005"}, later + timedelta(days=1))
    assert lines_at(later) == {"input": "0.000006"}
    assert lines_at(later + timedelta(days=1)) == {"input": "0.00001"}
    assert lines_at(now - timedelta(days=1), "other") == {"input": "0.000001"}


def test_a_price_of_the_past_that_another_followed_changes_no_contract_of_today() -> None:
    now = timezone.now()
    version("0.000001")
    version("0.000002", effective_from=now - timedelta(days=2))
    deploy()
    set_percent("acme", "openai", "gpt-new", Decimal(100), now - timedelta(days=9))
    set_catalogue_price("openai", "gpt-new", {"input": "0.000009"}, now - timedelta(days=5))
    assert (lines_of()["input"], lines_of("other")["input"]) == ("0.000004", "0.000002")
    assert lines_at(now - timedelta(days=3), "other") == {"input": "0.000009"}
    assert lines_at(now - timedelta(days=3)) == {"input": "0.000018"}


@pytest.mark.parametrize("year", [1999, 2101, 9999])
def test_a_date_out_of_bounds_is_refused(year: int) -> None:
    version()
    instant = datetime(year, 1, 1, tzinfo=UTC)
    for change in (
        lambda: set_lines("acme", "openai", "gpt-new", {"input": "0"}, instant),
        lambda: set_percent("acme", "openai", "", Decimal(1), instant),
        lambda: set_catalogue_price("openai", "gpt-new", {"input": "0"}, instant),
    ):
        with pytest.raises(PriceInvalid) as refused:
            change()
        assert refused.value.param == "effective_from"


def test_a_contract_for_all_models_is_listed_and_ended_by_api(api: Api) -> None:
    version("0.000002")
    deploy()
    body = {"organization_id": "acme", "provider": "openai", "percent": "-10", "effective_from": "2026-01-01"}
    assert ask(api, "POST", "contracts", body, status=201) == {"prices": 1}
    rows = ask(api, "GET", "contracts?organization_id=acme")["data"]
    assert [(row["model"], row["percent"]) for row in rows] == [(None, "-10"), ("gpt-new", "-10")]
    assert rows[0]["effective_from"].startswith("2026-01-01T00:00:00")
    assert ask(api, "POST", f"contracts/{rows[0]['id']}/end") == {"prices": 2}
    assert ask(api, "GET", "contracts")["data"] == []
    assert lines_of()["input"] == "0.000002"
    problem(send(api, "POST", "contracts", {**body, "effective_from": "soon"}), 400, "effective_from")
    problem(send(api, "POST", "contracts", {**body, "effective_from": "1900-01-01"}), 400, "effective_from")


def test_prices_and_contracts_with_a_date_by_command() -> None:
    version("0.000002")
    deploy()
    text = prices("set", "--catalogue", "--model", "openai/gpt-new", "--input", "3", "--from", "2026-01-01")
    assert "openai/gpt-new since 2026-01-01 00:00:00+00:00" in text
    assert lines_of() == {"input": "0.000003"}
    place = ("set", "--organization", "acme", "--model", "openai/gpt-new")
    assert "begin later" in prices(*place, "--percent", "-50", "--from", "2099-01-01")
    assert lines_of() == {"input": "0.000003"}
    for wrong in (
        ("set", "--model", "public", "--base-model", "gpt-new", "--from", "2026-01-01"),
        ("set", "--catalogue", "--model", "openai/gpt-new", "--remove"),
        ("set", "--catalogue", "--model", "openai/*", "--input", "1"),
        ("set", "--catalogue", "--model", "gpt-new", "--input", "1"),
        (*place, "--catalogue", "--input", "1"),
        (*place, "--remove", "--from", "2026-01-01"),
    ):
        with pytest.raises(CommandError):
            prices(*wrong)
