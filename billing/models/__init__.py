"""The database models of prices, spend logs and rollups."""

from billing.models.price import LINES, Price
from billing.models.rollup import UsageHour
from billing.models.spend_log import SpendLog, Writer

__all__ = ["LINES", "Price", "SpendLog", "UsageHour", "Writer"]
