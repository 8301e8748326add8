"""SOURCES: every source of invoices of the folder `formats`, by its name."""

from billing.reconciliation import formats
from billing.reconciliation.source import InvoiceSource
from gateway.protocol.registry import scan

SOURCES: dict[str, InvoiceSource] = scan(formats, "INVOICES")
