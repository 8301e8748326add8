"""The measures of reports beside cost and counts: what the prompt cache saved, percentiles of latency, and what
providers are paid, which only the platform may know."""

import csv
import io
import random
from collections.abc import Iterator, Mapping
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django_scopes import scopes_disabled
from openpyxl import load_workbook

from billing.bookkeeping import price_pending
from billing.latency import BOUNDS_MS
from billing.models import Price, PriceAdjustment, SpendLog, UsageCoverage, UsageDay
from billing.repricing import Scope, run_step, start_job
from billing.rollup_rebuild import FIRST_DAY
from billing.verification import verify_ledger
from gateway.protocol.amounts import PUSD, usd_text
from tenants.models import Role
from tests.contract.management import Api, People, issue_role_key
from tests.contract.own_api import ask, problem, send
from tests.contract.test_spend_report import ZONES, at, make, path_of, roll_up

pytestmark = pytest.mark.django_db
LINES = {"input": "0.0000025", "cache_read": "0.00000025", "cache_write_5m": "0.000003125", "output": "0.00001"}
PAID = {"input": "0.000002", "cache_read": "0.0000002", "cache_write_5m": "0.000002", "output": "0.000007654321"}
NAMES = ("cost", "cache_savings", "provider_cost", "margin")


@pytest.fixture(params=["rows", "rollups"], autouse=True)
def source(request: pytest.FixtureRequest) -> Iterator[None]:
    """The tables that reports are read from."""
    begin = FIRST_DAY if request.param == "rollups" else date(2030, 1, 1)
    UsageCoverage.objects.update_or_create(id=1, defaults={"complete_from": begin})
    with scopes_disabled():
        yield


def price(lines: Mapping[str, str] = LINES, base: str = "") -> str:
    return Price.objects.create(deployment_id="first", lines=dict(lines), base_price_id=base).id


def contract() -> str:
    """A price of the tenant beside which the provider is paid another one."""
    return price(base=price(PAID))


def call(price_id: str = "", **fields: Any) -> SpendLog:
    """A call that pricing has settled."""
    counts = dict.fromkeys(("input_tokens", "cache_read_tokens", "output_tokens", "reasoning_tokens"), 0)
    row = make(state="metered", cost_pusd=None, **{**counts, "price_id": price_id, **fields})
    while price_pending():
        pass
    row.refresh_from_db()
    return row


def report(api: Api, **query: str) -> Any:
    return ask(api, "GET", path_of(**query))


def pusd(usd: str) -> int:
    return int(Decimal(usd) * PUSD)


def text_of(response: Any) -> str:
    assert response.status_code == 200, response.content
    return b"".join(response.streaming_content if response.streaming else [response.content]).decode("latin-1")


def test_the_cache_saved_the_full_price_less_what_reads_and_writes_cost(api: Api) -> None:
    paid = price()
    call(paid, team_id="reader", input_tokens=50, cache_read_tokens=1000, cache_write_5m_tokens=200, output_tokens=7)
    call(paid, team_id="writer", cache_write_5m_tokens=100)
    call(paid, team_id="plain", input_tokens=1000)
    call(paid, team_id="answered", input_tokens=40, cache_read_tokens=1000, cache_hit=True)
    call(team_id="unpriced", cache_read_tokens=1000)
    answer = report(api, group_by="team")
    savings = {row["team"]: (row["cache_savings"], row["cache_hits"]) for row in answer["rows"]}
    # 1000 × (2.5 − 0.25) − 200 × (3.125 − 2.5) millionths of a USD
    assert savings == {
        "reader": ("0.002125000000", 0),
        "writer": ("-0.000062500000", 0),
        "plain": ("0.000000000000", 0),
        "answered": ("0.000000000000", 1),
        "unpriced": ("0.000000000000", 0),
    }
    assert (answer["total"]["cache_savings"], answer["total"]["cache_hits"]) == ("0.002062500000", 1)


def test_a_saving_that_no_call_can_have_is_none(api: Api) -> None:
    row = call(price({"input": "1", "cache_read": "0"}), cache_read_tokens=10**3)
    assert (row.state, row.cost_pusd, row.cache_saving_pusd) == ("priced", 0, None)


@pytest.mark.parametrize("zone", ZONES[:3])
def test_every_format_has_the_sums_of_the_rows(api: Api, zone: str) -> None:
    rng, by_contract, plain = random.Random(zone), contract(), price()
    rows = [
        call(
            rng.choice([by_contract, plain]),
            started_at=at(f"2026-11-{rng.randrange(10, 28)}T00:00+00:00") + timedelta(minutes=rng.randrange(1440)),
            team_id=rng.choice("ab"),
            input_tokens=rng.randrange(1000),
            cache_read_tokens=rng.randrange(1000),
            output_tokens=rng.randrange(1000),
        )
        for _ in range(12)
    ]
    paid = [row.cost_pusd if row.provider_cost_pusd is None else row.provider_cost_pusd for row in rows]
    expected = {
        "cost": sum(row.cost_pusd or 0 for row in rows),
        "cache_savings": sum(row.cache_saving_pusd or 0 for row in rows),
        "provider_cost": sum(each or 0 for each in paid),
    }
    expected["margin"] = expected["cost"] - expected["provider_cost"]
    assert all(expected.values())
    asked = {"group_by": "day,team", "tz": zone, "measures": "margin,latency"}
    answer = report(api, **asked)
    lines = [*csv.DictReader(io.StringIO(text_of(send(api, "GET", path_of(**asked, format="csv"))), newline=""))]
    charges = [*csv.DictReader(io.StringIO(text_of(send(api, "GET", path_of(**asked, format="focus"))), newline=""))]
    file = b"".join(send(api, "GET", path_of(**asked, format="xlsx")).streaming_content)
    names, *cells = load_workbook(io.BytesIO(file))["Spend"].iter_rows(values_only=True)
    workbook = [dict(zip(names, line, strict=True)) for line in cells]
    for name, sum_of in expected.items():
        assert answer["total"][name] == usd_text(sum_of)
        assert sum(pusd(row[name]) for row in answer["rows"]) == sum_of
        assert sum(pusd(line[name]) for line in lines) == sum_of
        assert sum(pusd(str(line[f"{name}_exact"])) for line in workbook) == sum_of
    columns = {"BilledCost": "cost", "x_CacheSavings": "cache_savings", "x_ProviderCost": "provider_cost"}
    columns |= {"ListCost": "provider_cost", "ContractedCost": "cost", "x_Margin": "margin"}
    for column, name in columns.items():
        assert sum(pusd(charge[column]) for charge in charges) == expected[name], column


def test_repricing_moves_what_the_provider_is_paid_and_what_the_cache_saved(api: Api) -> None:
    first = contract()
    for place in range(3):
        call(first, team_id=f"t{place}", input_tokens=100, cache_read_tokens=1000 * place, output_tokens=3)
    call(team_id="unpriced", input_tokens=10, cache_read_tokens=5)
    # the tenant pays what it did; the provider is paid more, and the cache saves less
    second = price(base=price(PAID | {"input": "0.0000021"}))
    for version in (second, price(LINES | {"input": "0.000003"}), first):
        job = start_job(Scope("first", False, None, at("2027-01-01T00:00+00:00")), actor="test")
        while run_step(job.id, lambda *_, version=version: version):
            pass
        assert [*verify_ledger()] == []
        answer = report(api, group_by="team", measures="margin")
        wanted = [{"team": f"t{place}", **_amounts(version, 100, 1000 * place, 3)} for place in range(3)] + [
            {"team": "unpriced", **_amounts(version, 10, 5, 0)}
        ]
        assert [{name: row[name] for name in ("team", *NAMES)} for row in answer["rows"]] == wanted
    assert PriceAdjustment.objects.exclude(margin_delta_pusd=0).exists()


def _amounts(price_id: str, plain: int, cached: int, output: int) -> dict[str, str]:
    own = Price.objects.get(id=price_id)
    base = Price.objects.get(id=own.base_price_id) if own.base_price_id else own

    def cost(lines: Mapping[str, str]) -> int:
        return plain * pusd(lines["input"]) + cached * pusd(lines["cache_read"]) + output * pusd(lines["output"])

    saving = cached * (pusd(own.lines["input"]) - pusd(own.lines["cache_read"]))
    sums = (cost(own.lines), saving, cost(base.lines), cost(own.lines) - cost(base.lines))
    return dict(zip(NAMES, map(usd_text, sums), strict=True))


def test_a_change_of_the_base_price_alone_is_an_adjustment_of_nothing_that_the_tenant_pays(api: Api) -> None:
    row = call(price(base=price(PAID)), input_tokens=100)
    again = price(base=price(PAID | {"input": "0.0000011"}))
    job = start_job(Scope("first", False, None, at("2027-01-01T00:00+00:00")), actor="test")
    while run_step(job.id, lambda *_: again):
        pass
    job.refresh_from_db()
    assert (job.changed, job.delta_pusd) == (1, 0)
    total = report(api, group_by="day", measures="margin")["total"]
    assert (pusd(total["cost"]), pusd(total["provider_cost"])) == (row.cost_pusd, 100 * 1_100_000)


def test_the_margin_is_told_to_the_platform_alone(api: Api, people: People) -> None:
    row = call(
        contract(), organization_id=people.home.id, user_id="owner", input_tokens=123, output_tokens=7, end_user="eve"
    )
    assert row.provider_cost_pusd is not None
    secrets = {usd_text(row.provider_cost_pusd), usd_text((row.cost_pusd or 0) - row.provider_cost_pusd)}
    viewer = issue_role_key(people.home, Role.PLATFORM_VIEWER, "viewer")
    for by in (None, viewer):
        told = send(api, "GET", path_of(group_by="day", measures="margin"), **({"by": by} if by else {}))
        assert secrets <= {told.json()["total"][name] for name in ("provider_cost", "margin")}
    admin = issue_role_key(people.home, Role.ORGANIZATION_ADMIN, "ruler")
    accountant = issue_role_key(people.home, Role.BILLING_VIEWER, "accountant")
    for by in (admin, accountant, people.owner):
        for extension in ({}, {"format": "csv"}, {"format": "xlsx"}, {"format": "focus"}, {"compare": "previous"}):
            asked = {"group_by": "day,end_user", "measures": "latency,margin", **extension}
            problem(send(api, "GET", path_of(**asked), by=by), 403, "measures")
            plain = send(api, "GET", path_of(**{**asked, "measures": "latency"}), by=by)
            assert not _told(text_of(plain), secrets)
        for path in _litellm_routes():
            answer = api.get(path, by=by)
            assert not _told(answer.content.decode(), secrets), path
        logs = send(api, "GET", "spend-logs", by=by)
        assert not _told(text_of(logs), secrets)
        assert "provider_cost" not in text_of(logs)


def _litellm_routes() -> list[str]:
    days = "start_date=2026-11-01&end_date=2026-11-30"
    routes = [f"/{who}/daily/activity?{days}" for who in ("user", "team", "tag", "customer", "organization")]
    return [*routes, f"/global/spend/report?{days}", f"/spend/logs?{days}", f"/spend/logs/v2?{days}", "/spend/keys"]


def _told(text: str, secrets: set[str]) -> bool:
    """Also as a JSON number."""
    return any(secret.strip("0") in text or repr(float(secret)) in text for secret in secrets)


def test_percentiles_of_latency_are_points_of_their_slots(api: Api) -> None:
    begin = at("2026-11-20T10:00+00:00")
    for number in range(100):  # 1 of 100 s, 9 of 10 s, 90 of 300 ms
        seconds = 100 if number == 0 else 10 if number < 10 else 0.3
        make_timed(begin, seconds, 0.05, team_id="a", cost_pusd=1)
    make_timed(begin, 200, 50, team_id="a", finish="upstream_error", error_code="upstream_error")
    make(started_at=begin, team_id="none", ended_at=None)
    roll_up()
    answer = report(api, group_by="team", measures="latency")
    told = {row["team"]: row for row in answer["rows"]}
    assert told["none"]["duration_p50_ms"] is told["none"]["ttft_p99_ms"] is None
    for row in (told["a"], answer["total"]):
        assert 283 < row["duration_p50_ms"] <= 400
        assert 9051 < row["duration_p95_ms"] <= 12_800
        assert 9051 < row["duration_p99_ms"] <= 12_800
        assert 35 < row["ttft_p95_ms"] <= 50
    assert "duration_p50_ms" not in report(api, group_by="team")["total"]


def make_timed(begin: Any, seconds: float, first_s: float, **fields: Any) -> SpendLog:
    ended_at, first_token_at = (begin + timedelta(seconds=each) for each in (seconds, first_s))
    return make(started_at=begin, ended_at=ended_at, first_token_at=first_token_at, **fields)


def test_a_time_at_a_bound_is_in_the_slot_of_the_rollups(api: Api) -> None:
    begin = at("2026-11-20T10:00:00.123456+00:00")
    for place, bound in enumerate(BOUNDS_MS["duration"]):
        for name, us in (("at", 0), ("over", 999), ("above", 1000)):
            ended_at = begin + timedelta(milliseconds=bound, microseconds=us)
            call(started_at=begin, ended_at=ended_at, cache_hit=True, end_user=name, team_id=f"{name}-{place:02d}")
    by_rows = report(api, group_by="end_user,team", measures="latency")["rows"]
    rows = report(api, group_by="team", measures="latency")["rows"]
    assert {row["team"]: row["duration_p50_ms"] for row in by_rows} == {
        row["team"]: row["duration_p50_ms"] for row in rows
    }
    bounds = BOUNDS_MS["duration"]
    for row in rows:
        name, _, place = row["team"].partition("-")
        at_least = min(int(place) + (name == "above"), len(bounds) - 1)
        assert row["duration_p50_ms"] == bounds[at_least]
    assert UsageDay.objects.count() == len(rows)


@pytest.mark.parametrize("wrong", ["speed", "latency,speed", "latency;margin", "MARGIN"])
def test_a_measure_that_is_none_is_refused(api: Api, wrong: str) -> None:
    problem(send(api, "GET", path_of(group_by="day", measures=wrong)), 400, "measures")
