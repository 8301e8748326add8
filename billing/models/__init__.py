"""The database models of prices, spend logs and rollups."""

from billing.models.adjustment import PriceAdjustment, RepriceJob
from billing.models.alert import Alert, AlertChannel, AlertDelivery, AlertKind
from billing.models.invoice import InvoiceImport, InvoiceLine, InvoiceName
from billing.models.price import Price, PriceBook
from billing.models.report_schedule import ReportFile, ReportSchedule
from billing.models.retention import RetiredSpend, SpendRetention
from billing.models.rollup import UsageHour
from billing.models.spend_log import SpendLog, SpendLogTag, Writer
from billing.models.usage import (
    FIRST_DAY,
    UsageCoverage,
    UsageDay,
    UsageMember,
    UsageMemberDay,
    UsageQuarter,
    UsageSeries,
)

__all__ = [
    "FIRST_DAY",
    "Alert",
    "AlertChannel",
    "AlertDelivery",
    "AlertKind",
    "InvoiceImport",
    "InvoiceLine",
    "InvoiceName",
    "Price",
    "PriceAdjustment",
    "PriceBook",
    "ReportFile",
    "ReportSchedule",
    "RepriceJob",
    "RetiredSpend",
    "SpendLog",
    "SpendLogTag",
    "SpendRetention",
    "UsageCoverage",
    "UsageDay",
    "UsageHour",
    "UsageMember",
    "UsageMemberDay",
    "UsageQuarter",
    "UsageSeries",
    "Writer",
]
