"""AWS Data Exports (CUR 2.0) and the earlier Cost and Usage Report, as CSV: the charges of Amazon Bedrock.

Sources: docs.aws.amazon.com/cur/latest/userguide/table-dictionary-cur2-line-item.html; AWS, "Understanding your Amazon
Bedrock Cost and Usage Report data" (usage types end with `-input-tokens`, `-output-tokens`,
`-cache-read-input-token-count`, `-cache-write-input-token-count`, and name the tier and the routing behind that). The
earlier report's `lineItem/UsageType` is the same column. Models of the Marketplace are Bedrock's by their product name.
"""

import re
from collections.abc import Iterator
from datetime import date, timedelta

from billing.reconciliation.lines import (
    Component,
    InvoiceLine,
    InvoiceUnreadable,
    check_currency,
    match_name,
    read_day,
    read_number,
)
from billing.reconciliation.records import Record
from billing.reconciliation.source import InvoiceSource, RecordFormat, find_rows_of_table

_SERVICE = re.compile(r"amazon ?bedrock", re.IGNORECASE)
_USAGE_TYPE = re.compile(
    r"(?:(?P<region>[A-Z]{2,4}\d?)-)?(?P<model>[A-Za-z0-9][\w.:-]*?)-(?:mantle-)?"
    r"(?P<kind>input-tokens|output-tokens|cache-read-input-token-count|cache-write-input-token-count)"
    r"(?P<variant>(?:-[a-z0-9]+)*)"
)
_KINDS = {
    "input-tokens": Component.INPUT,
    "output-tokens": Component.OUTPUT,
    "cache-read-input-token-count": Component.CACHE_READ,
    "cache-write-input-token-count": Component.CACHE_WRITE,
}
_TIERS = ("batch", "flex", "priority", "latency-optimized", "reserved")
#: Unit of the amounts → tokens; the report counts in thousands where it names none.
_UNITS = {"": 1000, "1k tokens": 1000, "1000 tokens": 1000, "tokens": 1, "token": 1, "1m tokens": 10**6}
_CHARGES = {"tax": Component.TAX}
_CREDITS = ("credit", "refund", "discount")
_TOKEN_LINES = frozenset({"", "usage", "discountedusage", "savingsplancoveredusage"})


def _read_line(record: Record) -> Iterator[InvoiceLine]:
    names = (
        "lineitemproductcode",
        "productservicecode",
        "productproductname",
        "product",
        "lineitemlineitemdescription",
    )
    if not any(_SERVICE.search(record.get(name, "")) for name in names):
        return
    amount = read_number(record["lineitemunblendedcost"], "line_item_unblended_cost")
    if amount:
        check_currency(record["lineitemcurrencycode"])
    day = read_day(record["lineitemusagestartdate"], "line_item_usage_start_date")
    usage_type = record["lineitemusagetype"].strip()
    kind = record.get("lineitemlineitemtype", "").strip().lower()
    if kind not in _TOKEN_LINES:
        is_credit = any(name in kind for name in _CREDITS)
        component = _CHARGES.get(kind, Component.CREDIT if is_credit else Component.OTHER)
        yield InvoiceLine(day, kind, usage_type or kind, component, None, amount)
        return
    parts = match_name(_USAGE_TYPE, usage_type)
    scale = _UNITS.get(record.get("pricingunit", "").strip().lower())
    if parts is None or scale is None:
        yield InvoiceLine(day, usage_type, usage_type, Component.OTHER, None, amount)
        return
    _check_span(record, day)
    quantity = read_number(record["lineitemusageamount"], "line_item_usage_amount")
    tier = next((name for name in _TIERS if name in parts["variant"]), "")
    routing = parts["variant"].replace(f"-{tier}", "") if tier else parts["variant"]
    yield InvoiceLine(
        day,
        parts["model"],
        usage_type,
        _KINDS[parts["kind"]],
        None if quantity is None else quantity * scale,
        amount,
        tier=tier,
        region="".join(filter(None, (parts["region"], routing))),
    )


def _check_span(record: Record, day: date) -> None:
    """Raises InvoiceUnreadable for the tokens of several days, as a report by months has them."""
    end = record.get("lineitemusageenddate", "")
    if end.strip() and read_day(end, "line_item_usage_end_date") - day > timedelta(days=1):
        raise InvoiceUnreadable("a line spans several days: export by hours or days")


INVOICES = InvoiceSource(
    name="aws",
    title="AWS",
    providers=("bedrock",),
    formats=(
        RecordFormat(
            frozenset(
                {
                    "lineitemusagestartdate",
                    "lineitemusagetype",
                    "lineitemusageamount",
                    "lineitemunblendedcost",
                    "lineitemcurrencycode",
                    "lineitemproductcode",
                }
            ),
            _read_line,
        ),
    ),
    find_rows=find_rows_of_table,
)
