"""Azure's cost and usage details, as CSV: the charges of Azure OpenAI and of the models of Azure AI Foundry.

Sources: learn.microsoft.com/azure/cost-management-billing/dataset-schema/cost-usage-details-ea and …-mca (`Date`,
`MeterCategory`, `MeterSubCategory`, `MeterName`, `UnitOfMeasure`, `Quantity`, `CostInBillingCurrency`,
`BillingCurrency(Code)`, `ChargeType`; a customer agreement has `CostInUsd` too). A meter is named like
`gpt 4o 1120 cached Inp glbl Tokens` or `5.4 opt Dz 1M Tokens`: words for the kind and for the place stand among those
of the model, abbreviated in several ways (prices.azure.com).
"""

import re
from collections.abc import Iterator
from decimal import Decimal

from billing.reconciliation.lines import (
    Component,
    InvoiceLine,
    check_currency,
    read_day,
    read_number,
)
from billing.reconciliation.records import Record
from billing.reconciliation.source import InvoiceSource, RecordFormat, find_rows_of_table

_CATEGORY = re.compile(r"azure openai|foundry models|azure ai foundry|azure \w+ models", re.IGNORECASE)
_INPUT = frozenset({"inp", "inpt", "input", "in"})
_OUTPUT = frozenset({"outp", "outpt", "output", "out", "opt", "outpu"})
_CACHED = frozenset({"cached", "cchd", "cache", "cd"})
_AUDIO = frozenset({"audio", "aud"})
_TIERS = {"batch": "batch", "btch": "batch", "pp": "priority", "prty": "priority", "priority": "priority"}
_REGIONS = {
    **dict.fromkeys(("glbl", "gl", "global"), "global"),
    **dict.fromkeys(("dzone", "dz", "dzn", "datazone"), "data zone"),
    **dict.fromkeys(("regnl", "rgnl", "regional"), "regional"),
}
_NOISE = frozenset({"tokens", "token", "1m", "1k"})
_UNITS = {"1": 1, "1 tokens": 1, "1k": 1000, "1k tokens": 1000, "1m": 10**6, "1m tokens": 10**6}


def _read_line(record: Record) -> Iterator[InvoiceLine]:
    names = ("metercategory", "metersubcategory", "productname", "product", "consumedservice")
    if not any(_CATEGORY.search(record.get(name, "")) for name in names):
        return
    day, meter = read_day(record["date"], "Date"), record["metername"].strip()
    amount = _read_amount(record)
    charge = record.get("chargetype", "").strip().lower()
    if charge in {"tax", "refund", "roundingadjustment"}:
        yield InvoiceLine(day, charge, meter, Component.TAX if charge == "tax" else Component.CREDIT, None, amount)
        return
    parts = read_meter(meter)
    scale = _UNITS.get(record["unitofmeasure"].strip().lower())
    if parts is None or scale is None:
        yield InvoiceLine(day, meter, meter, Component.OTHER, None, amount)
        return
    model, component, tier, region = parts
    quantity = read_number(record["quantity"], "Quantity")
    tokens = None if quantity is None else quantity * scale
    yield InvoiceLine(day, model, meter, component, tokens, amount, tier=tier, region=region)


def _read_amount(record: Record) -> Decimal | None:
    """The cost in USD: the column that says so, else that in the billing currency, which must be USD."""
    if record.get("costinusd", "").strip():
        return read_number(record["costinusd"], "CostInUsd")
    amount = read_number(record["costinbillingcurrency"], "CostInBillingCurrency")
    if amount:
        check_currency(record.get("billingcurrency", "") or record.get("billingcurrencycode", ""))
    return amount


def read_meter(name: str) -> tuple[str, Component, str, str] | None:
    """(the words of the model, component, tier, region); None for a meter that does not count tokens in one way."""
    words = re.split(r"[\s_-]+", name.strip())
    folded = [word.lower() for word in words]
    is_input, is_output = not _INPUT.isdisjoint(folded), not _OUTPUT.isdisjoint(folded)
    if is_input == is_output:
        return None
    is_audio = not _AUDIO.isdisjoint(folded)
    if is_output:
        component = Component.OUTPUT_AUDIO if is_audio else Component.OUTPUT
    elif not _CACHED.isdisjoint(folded):
        component = Component.CACHE_READ
    else:
        component = Component.INPUT_AUDIO if is_audio else Component.INPUT
    known = _INPUT | _OUTPUT | _CACHED | _AUDIO | _NOISE | _TIERS.keys() | _REGIONS.keys()
    model = " ".join(word for word, plain in zip(words, folded, strict=True) if plain not in known)
    tier = next((_TIERS[word] for word in folded if word in _TIERS), "")
    region = next((_REGIONS[word] for word in folded if word in _REGIONS), "")
    return (model, component, tier, region) if model else None


_COLUMNS = {"date", "metercategory", "metername", "unitofmeasure", "quantity", "costinbillingcurrency"}
INVOICES = InvoiceSource(
    name="azure",
    title="Azure",
    providers=("azure", "azure_ai"),
    formats=(
        RecordFormat(frozenset(_COLUMNS | {"billingcurrency"}), _read_line),
        RecordFormat(frozenset(_COLUMNS | {"billingcurrencycode"}), _read_line),
    ),
    find_rows=find_rows_of_table,
)
