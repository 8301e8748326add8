"""Charges have the columns that FOCUS 1.2 demands, and cost what the report says."""

import csv
import io
import json
import re
from datetime import date, datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest

from billing.pricing import COUNTS
from billing.reports.focus import COLUMNS, OWN_COLUMNS, Charges, expand_dimensions, render_focus
from billing.reports.period import Period
from billing.reports.spend import COUNTERS, NOTHING, Report, Sums

#: The specification's mandatory columns that may not be NULL, and those that may.
NEVER_NULL = {
    "BilledCost",
    "BillingAccountId",
    "BillingCurrency",
    "BillingPeriodEnd",
    "BillingPeriodStart",
    "ChargeCategory",
    "ChargePeriodEnd",
    "ChargePeriodStart",
    "ContractedCost",
    "EffectiveCost",
    "InvoiceIssuerName",
    "ListCost",
    "ProviderName",
    "PublisherName",
    "ServiceCategory",
    "ServiceName",
}
NULLABLE = {"BillingAccountName", "ChargeClass", "ChargeDescription", "PricingQuantity", "PricingUnit"}
INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
BERLIN = ZoneInfo("Europe/Berlin")
ONE = Sums(-3, tuple(range(len(COUNTERS))), tuple(range(len(COUNTS))))


def charge(group_by: str, members: str, period: Period | None = None) -> dict[str, str]:
    period = period or Period(date(2026, 10, 20), date(2026, 11, 5), BERLIN)
    names = expand_dimensions(group_by.split(","))
    report = Report(names, [(tuple(members.split("|")), ONE)], NOTHING)
    text = b"".join(render_focus(Charges(report, period, {"acme": "=Acme"}))).decode()
    [line] = csv.DictReader(io.StringIO(text, newline=""))
    return line


def test_the_mandatory_columns_are_there_and_filled():
    line = charge("key", "2026-10-25|acme|openai|gpt-4o|k-1")
    assert {name for name, is_mandatory in COLUMNS.items() if is_mandatory} == NEVER_NULL | NULLABLE
    assert [*line] == [*COLUMNS, *OWN_COLUMNS]
    assert [name for name in NEVER_NULL if not line[name]] == []
    for name in line:
        if name.endswith(("PeriodStart", "PeriodEnd")):
            assert INSTANT.fullmatch(line[name]), name


def test_a_charge_without_a_provider_has_no_null():
    line = charge("team", "2026-10-25|acme|||")
    assert [name for name in NEVER_NULL if not line[name]] == []
    assert (line["ProviderName"], line["SkuId"], line["SubAccountId"], line["Tags"]) == ("unknown", "", "", "")


def test_the_costs_are_one_and_exact():
    line = charge("key", "2026-10-25|acme|openai|gpt-4o|k-1")
    costs = {line[name] for name in ("BilledCost", "EffectiveCost", "ListCost", "ContractedCost")}
    assert costs == {"-0.000000000003"}
    assert Decimal(costs.pop()) == Decimal(-3).scaleb(-12)
    assert (line["BillingCurrency"], line["PricingUnit"], line["ConsumedUnit"]) == ("USD", "Tokens", "Tokens")
    assert line["ConsumedQuantity"] == line["PricingQuantity"] == str(sum(range(len(COUNTS))))
    assert line["x_Requests"] == str(COUNTERS.index("requests"))
    assert line["x_CacheWrite5MTokens"] == str(COUNTS.index("cache_write_5m_tokens"))


@pytest.mark.parametrize(
    ("group_by", "unit", "charged", "billed"),
    [
        ("day", "2026-10-25", ("2026-10-24T22:00", "2026-10-25T23:00"), ("2026-09-30T22:00", "2026-10-31T23:00")),
        ("month", "2026-10", ("2026-10-19T22:00", "2026-10-31T23:00"), ("2026-09-30T22:00", "2026-10-31T23:00")),
        ("month", "2026-11", ("2026-10-31T23:00", "2026-11-05T23:00"), ("2026-10-31T23:00", "2026-11-30T23:00")),
        (
            "hour",
            "2026-10-25T02:00:00+01:00",
            ("2026-10-25T01:00", "2026-10-25T02:00"),
            ("2026-09-30T22:00", "2026-10-31T23:00"),
        ),
    ],
)
def test_the_periods_are_those_of_the_zone(group_by: str, unit: str, charged: tuple[str, str], billed: tuple[str, str]):
    line = charge(group_by, f"{unit}|acme|openai|gpt-4o")
    for name, days in (("Charge", charged), ("Billing", billed)):
        found = tuple(datetime.fromisoformat(line[f"{name}Period{edge}"]) for edge in ("Start", "End"))
        assert found == tuple(datetime.fromisoformat(f"{day}:00+00:00") for day in days)


def test_every_dimension_has_its_place():
    assert expand_dimensions(("team", "user")) == ("day", "organization", "provider", "upstream_model", "team", "user")
    assert expand_dimensions(("hour", "provider")) == ("hour", "organization", "provider", "upstream_model")
    line = charge("team,user", '2026-10-25|acme|openai|gpt-4o|search|"quoted"')
    assert (line["SubAccountId"], line["SubAccountType"]) == ("search", "Team")
    assert json.loads(line["Tags"]) == {"user": '"quoted"'}
    assert line["SkuId"] == "openai/gpt-4o"
    line = charge("deployment,model_group", "2026-10-25|acme|openai|gpt-4o|d-1|fast")
    assert (line["ResourceId"], line["ResourceType"]) == ("d-1", "Deployment")
    assert json.loads(line["Tags"]) == {"model_group": "fast"}


def test_no_name_is_a_formula():
    line = charge("team", "2026-10-25|acme|=cmd|=1+1|@team")
    assert (line["BillingAccountName"], line["SubAccountId"], line["ProviderName"]) == ("'=Acme", "'@team", "'=cmd")
    assert [value for name, value in line.items() if value.startswith(("=", "+", "@"))] == []


def test_no_part_of_a_name_behind_a_semicolon_is_a_formula():
    line = charge("user", "2026-10-25|acme|openai|m;=1|me;=cmd;")
    assert json.loads(line["Tags"]) == {"user": "me;=cmd;"}
    assert [value for value in line.values() if ";=" in value] == []
