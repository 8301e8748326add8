"""Google's Cloud Billing export to BigQuery, as JSON lines or CSV: the charges of Gemini and of Vertex AI.

Source: docs.cloud.google.com/billing/docs/how-to/export-data-bigquery-tables/standard-usage (`service.description`,
`sku.description`, `usage_start_time`, `usage.amount`, `usage.unit`, `cost`, `currency`, `cost_type`, `credits`). A
query that exports to CSV names the columns with `_` or `.`. A SKU is named like `Gemini 2.5 Flash GA Text Input -
Predictions`. Credits are negative amounts beside the cost.
"""

import re
from collections.abc import Iterator
from decimal import Decimal

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
from gateway.protocol.json.types import Json, JsonMapping

_SERVICES = frozenset({"vertex ai", "gemini api", "vertex ai generative ai", "generative language api"})
_SKU = re.compile(
    r"(?P<model>(?:Gemini|Claude|Imagen|Veo) .+?)(?P<place> Global)?(?P<tier> Batch| Flex| Priority)?"
    r"(?: Thinking)? (?P<kind>(?:Text|Image|Video|Audio) (?:Input|Output)|Input (?:Text|Image|Video|Audio))"
    r"(?P<caching> Caching)?(?P<late> Batch| Flex| Priority)?(?: - .+)?",
    re.IGNORECASE,
)
#: Units of `usage.unit` in which one is one token.
_UNITS = frozenset({"count", "requests", "tokens", "token"})


def _read_line(record: Record) -> Iterator[InvoiceLine]:
    if record["servicedescription"].strip().lower() not in _SERVICES:
        return
    day, sku = read_day(record["usagestarttime"], "usage_start_time"), record["skudescription"].strip()
    amount = read_number(record["cost"], "cost")
    credit = read_number(record.get("creditsamount", ""), "credits.amount")
    if amount or credit:
        check_currency(record["currency"])
    if credit:
        yield InvoiceLine(day, "credit", sku, Component.CREDIT, None, credit)
    cost_type = record.get("costtype", "").strip().lower()
    if cost_type in {"tax", "adjustment", "rounding_error"}:
        component = Component.TAX if cost_type == "tax" else Component.CREDIT
        yield InvoiceLine(day, cost_type, sku, component, None, amount)
        return
    parts = match_name(_SKU, sku)
    quantity = read_number(record["usageamount"], "usage.amount")
    if parts is None or record["usageunit"].strip().lower() not in _UNITS:
        yield InvoiceLine(day, sku, sku, Component.OTHER, None, amount)
        return
    tier = (parts["tier"] or parts["late"] or "").strip().lower()
    region = (parts["place"] or "").strip().lower()
    yield InvoiceLine(day, parts["model"], sku, _component_of(parts), quantity, amount, tier=tier, region=region)


def _component_of(parts: re.Match[str]) -> Component:
    kind = parts["kind"].lower()
    if parts["caching"]:
        return Component.CACHE_READ
    if "output" in kind:
        return Component.OUTPUT_AUDIO if "audio" in kind else Component.OUTPUT
    return Component.INPUT_AUDIO if "audio" in kind else Component.INPUT


def _find_rows(document: Json) -> Iterator[JsonMapping]:
    """Rows with the sum of their credits in one number."""
    for row in find_rows_of_table(document):
        found = row.get("credits") or []
        if not isinstance(found, list) or any(not isinstance(credit, dict) for credit in found):
            raise InvoiceUnreadable("credits must be a list of objects")
        amounts = [read_number(str(credit.get("amount") or ""), "credits.amount") for credit in found]
        total = sum((amount for amount in amounts if amount is not None), Decimal(0))
        yield {**row, "credits.amount": total} if found else row


_COLUMNS = ("servicedescription", "skudescription", "usagestarttime", "usageamount", "usageunit", "cost", "currency")
INVOICES = InvoiceSource(
    name="google",
    title="Google Cloud",
    providers=("vertex_ai", "gemini"),
    formats=(RecordFormat(frozenset(_COLUMNS), _read_line),),
    find_rows=_find_rows,
)
