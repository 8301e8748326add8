"""Anthropic's usage and costs: the answers of the Admin API, and the console's exports to CSV.

Sources: platform.claude.com/docs/en/api/admin/cost_report/retrieve (`amount` is a decimal text in cents; `token_type`,
`model` and `service_tier` with `group_by[]=description`) and …/usage_report/messages with `group_by[]=model`; the CSV
of platform.claude.com/usage (`usage_input_tokens_no_cache`, …) and of its cost page (`token_type`, `cost_usd`).
"""

import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal

from billing.reconciliation.lines import (
    Component,
    InvoiceLine,
    InvoiceUnreadable,
    check_currency,
    read_day,
    read_number,
)
from billing.reconciliation.records import Record, fold_name
from billing.reconciliation.source import InvoiceSource, RecordFormat, find_buckets

CENTS = Decimal("0.01")
#: Name of a count or of a type of token → its component, in the API and in the CSV.
_COMPONENTS = {
    "uncachedinputtokens": Component.INPUT,
    "cachereadinputtokens": Component.CACHE_READ,
    "cachecreationephemeral5minputtokens": Component.CACHE_WRITE,
    "cachecreationephemeral1hinputtokens": Component.CACHE_WRITE,
    "outputtokens": Component.OUTPUT,
    "inputnocache": Component.INPUT,
    "inputcacheread": Component.CACHE_READ,
    "inputcachewrite5m": Component.CACHE_WRITE,
    "inputcachewrite1h": Component.CACHE_WRITE,
    "output": Component.OUTPUT,
}
_CSV_COUNTS = {
    "usageinputtokensnocache": Component.INPUT,
    "usageinputtokenscacheread": Component.CACHE_READ,
    "usageinputtokenscachewrite5m": Component.CACHE_WRITE,
    "usageinputtokenscachewrite1h": Component.CACHE_WRITE,
    "usageoutputtokens": Component.OUTPUT,
}
_API_COUNTS = {name: component for name, component in _COMPONENTS.items() if name.endswith("tokens")}
_STANDARD = ("", "standard", "message", "notavailable")


def _read_api_cost(record: Record) -> Iterator[InvoiceLine]:
    cents = read_number(record["amount"], "amount")
    if cents:
        check_currency(record["currency"])
    amount = None if cents is None else cents * CENTS
    _check_bucket(record)
    yield _cost_line(record, record["startingat"], amount)


def _read_csv_cost(record: Record) -> Iterator[InvoiceLine]:
    yield _cost_line(record, record["usagedateutc"], read_number(record["costusd"], "cost_usd"))


def _cost_line(record: Record, day: str, amount: Decimal | None) -> InvoiceLine:
    model = record.get("model", "").strip()
    token_type = record.get("tokentype", "").strip()
    sku = record.get("description", "").strip() or " ".join(filter(None, (model, token_type)))
    if amount and not sku:
        raise InvoiceUnreadable("description is empty: ask for the costs with group_by[]=description")
    component = _COMPONENTS.get(fold_name(token_type), Component.OTHER)
    return InvoiceLine(
        read_day(day, "the day"),
        model if component is not Component.OTHER or model else sku,
        sku,
        component,
        None,
        amount,
        tier=_tier_of(record),
        region=_region_of(record),
    )


def _read_usage(record: Record, counts: dict[str, Component], model: str, day: str) -> Iterator[InvoiceLine]:
    for name, component in counts.items():
        count = read_number(record.get(name, ""), name)
        if not count:
            continue
        if not model:
            raise InvoiceUnreadable("model is empty: ask for the usage with group_by[]=model")
        tier, region = _tier_of(record), _region_of(record)
        yield InvoiceLine(
            read_day(day, "the day"), model, model, component, count, None, tier=tier, region=region, is_usage=True
        )


def _read_api_usage(record: Record) -> Iterator[InvoiceLine]:
    _check_bucket(record)
    return _read_usage(record, _API_COUNTS, record.get("model", "").strip(), record["startingat"])


def _read_csv_usage(record: Record) -> Iterator[InvoiceLine]:
    return _read_usage(record, _CSV_COUNTS, record["modelversion"].strip(), record["usagedateutc"])


def _check_bucket(record: Record) -> None:
    try:
        begin, end = (datetime.fromisoformat(record.get(name, "")) for name in ("startingat", "endingat"))
        is_long = end - begin > timedelta(days=1)
    except (ValueError, TypeError):
        raise InvoiceUnreadable("starting_at and ending_at must be instants") from None
    if is_long:
        raise InvoiceUnreadable("a bucket spans several days: ask for bucket_width=1d")


def _tier_of(record: Record) -> str:
    """The tier, and the long context, which has a price of its own."""
    tier = (record.get("servicetier", "") or record.get("usagetype", "")).strip().lower()
    context = record.get("contextwindow", "").strip().lower()
    is_long = re.fullmatch(r"200k-1m|> ?200k", context) is not None
    names = ["" if fold_name(tier) in _STANDARD else tier, "long context" if is_long else ""]
    return ", ".join(filter(None, names))


def _region_of(record: Record) -> str:
    region = record.get("inferencegeo", "").strip().lower()
    return "" if region in {"not_available", "global"} else region


INVOICES = InvoiceSource(
    name="anthropic",
    title="Anthropic",
    providers=("anthropic",),
    formats=(
        RecordFormat(frozenset({"startingat", "endingat", "amount", "currency"}), _read_api_cost),
        RecordFormat(frozenset({"startingat", "endingat", "uncachedinputtokens", "outputtokens"}), _read_api_usage),
        RecordFormat(frozenset({"usagedateutc", "model", "tokentype", "costusd"}), _read_csv_cost),
        RecordFormat(
            frozenset({"usagedateutc", "modelversion", "usageinputtokensnocache", "usageoutputtokens"}), _read_csv_usage
        ),
    ),
    find_rows=lambda document: find_buckets(document, "starting_at", "ending_at"),
)
