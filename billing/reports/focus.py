"""A report as charges of the FinOps Open Cost and Usage Specification (FOCUS) 1.2.

Source: the columns of github.com/FinOps-Open-Cost-and-Usage-Spec/FOCUS_Spec at v1.2: its 21 mandatory columns, those
conditional ones that a gateway can fill, and our own, which begin with `x_`. A row is the charge of one period, billing
account (organization), provider and upstream model, and of the dimensions that the report is grouped by.

Billed, effective and contracted cost are what the tenant pays. The list cost is the same, unless the report has the
margin: then it is what the provider is paid, which only the platform may know. A call's tokens have several prices, so
there is no unit price and no price id. An empty cell is NULL.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import orjson

from billing.pricing import COUNTS
from billing.reports.period import UNITS, Period
from billing.reports.query import MARGIN
from billing.reports.render import make_inert, write_csv
from billing.reports.spend import MEASURES, Report, Sums
from gateway.protocol.amounts import usd_text

#: The dimensions that every charge has.
ALWAYS = ("organization", "provider", "upstream_model")
#: Dimensions with a column of their own; any other is a key of `Tags`.
OWN_COLUMN = frozenset({*ALWAYS, "team", "deployment"})
#: FOCUS has no empty provider; a call that no provider took has none.
UNKNOWN = "unknown"
HOUR = timedelta(hours=1)
ONE_DAY = timedelta(days=1)
MORE_THAN_A_MONTH = timedelta(days=31)
#: Column → whether the specification calls it mandatory.
COLUMNS: Mapping[str, bool] = {
    "BilledCost": True,
    "BillingAccountId": True,
    "BillingAccountName": True,
    "BillingCurrency": True,
    "BillingPeriodEnd": True,
    "BillingPeriodStart": True,
    "ChargeCategory": True,
    "ChargeClass": True,
    "ChargeDescription": True,
    "ChargeFrequency": False,
    "ChargePeriodEnd": True,
    "ChargePeriodStart": True,
    "ConsumedQuantity": False,
    "ConsumedUnit": False,
    "ContractedCost": True,
    "EffectiveCost": True,
    "InvoiceIssuerName": True,
    "ListCost": True,
    "PricingCategory": False,
    "PricingQuantity": True,
    "PricingUnit": True,
    "ProviderName": True,
    "PublisherName": True,
    "ResourceId": False,
    "ResourceType": False,
    "ServiceCategory": True,
    "ServiceName": True,
    "ServiceSubcategory": False,
    "SkuId": False,
    "SubAccountId": False,
    "SubAccountType": False,
    "Tags": False,
}


def _name_own(measure: str) -> str:
    return "x_" + measure.title().replace("_", "")


#: Our own column → the measure of a report.
OWN_COLUMNS: Mapping[str, str] = {
    "x_Requests": "requests",
    "x_FailedRequests": "failures",
    "x_UnpricedAttempts": "unpriced",
    "x_EstimatedAttempts": "estimated",
    **{_name_own(name): name for name in (*COUNTS, "cache_hits", "cache_savings")},
}


@dataclass(frozen=True, slots=True)
class Charges:
    """`names`: organization → its name."""

    report: Report
    period: Period
    names: Mapping[str, str]


def expand_dimensions(group_by: Sequence[str]) -> tuple[str, ...]:
    """The dimensions of the charges of a report that is grouped by these: by day unless another unit is named."""
    units = [name for name in group_by if name in UNITS] or ["day"]
    return tuple(dict.fromkeys((*units, *ALWAYS, *group_by)))


def render_focus(charges: Charges) -> Iterator[bytes]:
    own = {**OWN_COLUMNS, **_more_columns(charges.report)}
    lines = (_render_charge(charges, members, sums, own.values()) for members, sums in charges.report.rows)
    return write_csv([*COLUMNS, *own], lines)


def _more_columns(report: Report) -> Mapping[str, str]:
    """Column → measure, of those measures that the report has beside the usual ones."""
    return {_name_own(name): name for name in report.total.render(report.measures) if name not in MEASURES}


def _render_charge(
    charges: Charges, members: Sequence[str], sums: Sums, own: Collection[str]
) -> Sequence[str | int | None]:
    member = dict(zip(charges.report.group_by, members, strict=True))
    measures = sums.render(charges.report.measures)
    cells: dict[str, str | int | None] = {
        **_render_account(member, charges.names),
        **_render_period(charges.period, member),
        **_render_service(member),
        **_render_amounts(sums),
    }
    if MARGIN in charges.report.measures:  # a contract's base price is the catalogue's
        cells["ListCost"] = measures["provider_cost"]
    return [*(cells.get(name, "") for name in COLUMNS), *(measures[name] for name in own)]


def _render_account(member: Mapping[str, str], names: Mapping[str, str]) -> Mapping[str, str]:
    team = member.get("team", "")
    return {
        "BillingAccountId": make_inert(member["organization"]),
        "BillingAccountName": make_inert(names.get(member["organization"], "")),
        "SubAccountId": make_inert(team),
        "SubAccountType": "Team" if team else "",
        "Tags": _render_tags(member),
    }


def _render_tags(member: Mapping[str, str]) -> str:
    """A JSON object, which no spreadsheet computes; at a semicolon some would split it. A dimension that has a column
    is no tag."""
    tags = {name: value for name, value in member.items() if name not in OWN_COLUMN and name not in UNITS and value}
    return orjson.dumps(tags).decode().replace(";", "\\u003b") if tags else ""


def _render_period(period: Period, member: Mapping[str, str]) -> Mapping[str, str]:
    starts_at, ends_at, month = _find_charge_period(period, member)
    return {
        "BillingPeriodStart": _render_instant(month.starts_at),
        "BillingPeriodEnd": _render_instant(month.ends_at),
        "ChargePeriodStart": _render_instant(starts_at),
        "ChargePeriodEnd": _render_instant(ends_at),
    }


def _find_charge_period(period: Period, member: Mapping[str, str]) -> tuple[datetime, datetime, Period]:
    """(begin, end) of the charge, and the billing period, which is the month of the zone that the charge is in."""
    unit = next(name for name in member if name in UNITS)
    if unit == "hour":
        starts_at = datetime.fromisoformat(member[unit])
        return starts_at, starts_at + HOUR, _month_of(starts_at.date(), period)
    if unit == "month":
        month = _month_of(date.fromisoformat(f"{member[unit]}-01"), period)
        charged = Period(max(month.start, period.start), min(month.end, period.end), period.zone)
        return charged.starts_at, charged.ends_at, month
    day = date.fromisoformat(member[unit])
    charged = Period(day, day, period.zone)
    return charged.starts_at, charged.ends_at, _month_of(day, period)


def _month_of(day: date, period: Period) -> Period:
    first = day.replace(day=1)
    return Period(first, (first + MORE_THAN_A_MONTH).replace(day=1) - ONE_DAY, period.zone)


def _render_service(member: Mapping[str, str]) -> Mapping[str, str]:
    provider, model = member["provider"] or UNKNOWN, member["upstream_model"]
    deployment = member.get("deployment", "")
    return {
        **dict.fromkeys(("InvoiceIssuerName", "ProviderName", "PublisherName", "ServiceName"), make_inert(provider)),
        "ServiceCategory": "AI and Machine Learning",
        "ServiceSubcategory": "Generative AI",
        "SkuId": make_inert(f"{provider}/{model}") if model else "",
        "ResourceId": make_inert(deployment),
        "ResourceType": "Deployment" if deployment else "",
        "ChargeCategory": "Usage",
        "ChargeFrequency": "Usage-Based",
        "ChargeDescription": make_inert(f"Calls of {model or UNKNOWN} at {provider}"),
        "PricingCategory": "Standard",
    }


def _render_amounts(sums: Sums) -> Mapping[str, str | int]:
    return {
        **dict.fromkeys(("BilledCost", "ContractedCost", "EffectiveCost", "ListCost"), usd_text(sums.cost_pusd)),
        "BillingCurrency": "USD",
        **dict.fromkeys(("ConsumedQuantity", "PricingQuantity"), sum(sums.tokens)),
        **dict.fromkeys(("ConsumedUnit", "PricingUnit"), "Tokens"),
    }


def _render_instant(instant: datetime) -> str:
    return f"{instant.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
