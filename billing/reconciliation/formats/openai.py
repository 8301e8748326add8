"""OpenAI's costs and usage: the answers of the Admin API, and the dashboard's exports to CSV.

Sources: openai-python, types/admin/organization/usage_costs_response.py (`/v1/organization/costs`, one result a
`line_item` with `group_by=line_item`; `/v1/organization/usage/completions` and `…/embeddings` with `group_by=model`).
`input_tokens` include the cached ones, those written to the cache and the audio. The CSV has the same names with `_`.
A line item is `gpt-4o-2024-08-06, cached input`; in other tiers `priority | ` stands before, `, long context` behind.
"""

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal

from billing.reconciliation.lines import (
    Component,
    InvoiceLine,
    InvoiceUnreadable,
    check_currency,
    check_day,
    match_name,
    read_number,
)
from billing.reconciliation.records import Record
from billing.reconciliation.source import InvoiceSource, RecordFormat, find_buckets, subtract

DAY_S = 86_400
_LINE_ITEM = re.compile(
    r"(?:(?P<tier>[\w -]+) \| )?(?P<model>[^,|\s]+)(?: (?P<modality>text|audio|image))?, "
    r"(?P<kind>cached input|cache write|input|output)(?:, (?P<variant>.+))?"
)
_KINDS = {
    ("", "input"): Component.INPUT,
    ("", "cached input"): Component.CACHE_READ,
    ("", "cache write"): Component.CACHE_WRITE,
    ("", "output"): Component.OUTPUT,
    ("audio", "input"): Component.INPUT_AUDIO,
    ("audio", "cached input"): Component.CACHE_READ,
    ("audio", "output"): Component.OUTPUT_AUDIO,
}
#: Unit of a quantity → tokens.
_UNITS = {"": 1, "tokens": 1, "1000_tokens": 1000}
_STANDARD = ("", "default", "auto", "standard")


def _read_cost(record: Record) -> Iterator[InvoiceLine]:
    text = record["lineitem"].strip()
    if not text:
        raise InvoiceUnreadable("line_item is empty: ask for the costs with group_by=line_item")
    amount = read_number(record["amountvalue"], "amount.value")
    if amount:
        check_currency(record["amountcurrency"])
    parts = match_name(_LINE_ITEM, text)
    modality = (parts["modality"] or "") if parts else ""
    kind = _KINDS.get(("" if modality in {"text", "image"} else modality, parts["kind"])) if parts else None
    if parts is None or kind is None:
        yield InvoiceLine(_read_day(record), text, text, Component.OTHER, None, amount)
        return
    scale = _UNITS.get(record.get("quantityunit", "").strip().lower())
    quantity = read_number(record.get("quantity", ""), "quantity")
    tier = ", ".join(part.strip() for part in (parts["tier"], parts["variant"]) if part)
    tokens = quantity * scale if quantity is not None and scale else None
    yield InvoiceLine(_read_day(record), parts["model"], text, kind, tokens, amount, tier=tier)


def _read_usage(record: Record) -> Iterator[InvoiceLine]:
    model = record["model"].strip()
    day, counts = _read_day(record), {name: read_number(record.get(name, ""), name) for name in _COUNTS}
    if not model:
        if any(counts.values()):
            raise InvoiceUnreadable("model is empty: ask for the usage with group_by=model")
        return
    cached, written = counts["inputcachedtokens"], counts["inputcachewritetokens"]
    audio = subtract(counts["inputaudiotokens"], counts["inputcachedaudiotokens"])
    tokens: dict[Component, Decimal | None] = {
        Component.INPUT: subtract(counts["inputtokens"], cached, written, audio),
        Component.INPUT_AUDIO: audio,
        Component.CACHE_READ: cached,
        Component.CACHE_WRITE: written,
        Component.OUTPUT: subtract(counts["outputtokens"], counts["outputaudiotokens"]),
        Component.OUTPUT_AUDIO: counts["outputaudiotokens"],
    }
    is_batch = record.get("batch", "").strip().lower() in {"true", "1", "batch"}
    tier = "batch" if is_batch else record.get("servicetier", "").strip().lower()
    for component, count in tokens.items():
        if count:
            yield InvoiceLine(
                day, model, model, component, count, None, tier="" if tier in _STANDARD else tier, is_usage=True
            )


_COUNTS = (
    *("inputtokens", "inputcachedtokens", "inputcachewritetokens", "inputaudiotokens", "inputcachedaudiotokens"),
    *("outputtokens", "outputaudiotokens"),
)


def _read_day(record: Record) -> date:
    begin, end = (read_number(record.get(name, ""), name) for name in ("starttime", "endtime"))
    if begin is None or end is None or not 0 <= begin < end < 10**11:
        raise InvoiceUnreadable("start_time and end_time must be seconds since 1970")
    if int(begin) // DAY_S != (int(end) - 1) // DAY_S:
        raise InvoiceUnreadable("a bucket spans several days of UTC: ask for bucket_width=1d")
    return check_day(datetime.fromtimestamp(int(begin), UTC).date(), "start_time")


INVOICES = InvoiceSource(
    name="openai",
    title="OpenAI",
    providers=("openai",),
    formats=(
        RecordFormat(frozenset({"starttime", "endtime", "amountvalue", "amountcurrency", "lineitem"}), _read_cost),
        RecordFormat(frozenset({"starttime", "endtime", "model", "inputtokens"}), _read_usage),
    ),
    find_rows=lambda document: find_buckets(document, "start_time", "end_time"),
)
