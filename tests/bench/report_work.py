"""The rows and the measurements of `reports.py`, which prepares Django and then imports this module."""

import argparse
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from functools import partial
from statistics import median
from zoneinfo import ZoneInfo

from django.core.management import call_command
from django.db import connection
from django_scopes import scopes_disabled

from billing.bookkeeping import price_pending
from billing.models import Price, SpendLog, UsageCoverage, UsageDay, UsageQuarter, UsageSeries
from billing.reports.period import Period
from billing.reports.query import ReportQuery
from billing.reports.spend import report_spend
from billing.rollup_rebuild import complete_coverage

DAYS = 30
END = date(2026, 11, 20)
TIMES = 5
REPORTS = (
    ("UTC", "team"),
    ("UTC", "day,model_group"),
    ("UTC", "key,model_group"),
    ("Asia/Kolkata", "team,model_group"),
    ("Europe/Berlin", "day,team"),
    ("Europe/Berlin", "hour"),
    ("Asia/Kathmandu", "day,key"),
    ("UTC", "status,application"),
)
PICK = "(({place}) % 100003) * 7919 % {count}"
KEY = PICK.format(place="(i * {quarters} / {rows}) * 60 + (i * 7 + i / 13) % 60", count=2000)
COLUMNS = {
    "id": "{id}",
    "request_id": "{id}",
    "attempt": "0",
    "state": "'{state}'",
    "writer_id": "'bench'",
    "organization_id": "'home'",
    "team_id": "'team-' || k % 50",
    "user_id": "'user-' || k",
    "key_id": "'018f7a30-0000-7000-8000-' || (100000000000 + k)",
    "key_digest": "'digest-' || k",
    "key_alias": "''",
    "end_user": "''",
    "tags": "'[]'",
    "metadata": "'{{}}'",
    "operation": "CASE WHEN k % 2 = 0 THEN 'chat' ELSE 'response' END",
    "stream": "{true}",
    "model_group": "'model-' || (k + i % 2) % 10",
    "deployment_id": "'018f7a30-0000-7000-9000-' || (100000000000 + (k + i % 2) % 10)",
    "provider": "'openai'",
    "upstream_model": "'upstream-model-' || (k + i % 2) % 10",
    "price_id": "'{price}'",
    "served_model": "''",
    "upstream_id": "''",
    "service_tier": "''",
    "finish": "CASE WHEN i % 37 = 0 THEN 'upstream_error' ELSE 'complete' END",
    "status_code": "200",
    "error_code": "''",
    "error_message": "''",
    "usage": "''",
    "usage_source": "'provider'",
    "usage_inconsistent": "{false}",
    "input_tokens": "100 + i % 5000",
    "input_audio_tokens": "0",
    "cache_read_tokens": "i % 3 * 1000",
    "cache_write_5m_tokens": "0",
    "cache_write_1h_tokens": "0",
    "output_tokens": "i % 900",
    "output_audio_tokens": "0",
    "reasoning_tokens": "0",
    "started_at": "{started_at}",
    "first_token_at": "{first_token_at}",
    "ended_at": "{ended_at}",
    "cost_pusd": "{cost}",
    "price_error": "''",
}
POSTGRES = {
    "id": "(lpad(to_hex({ms}), 12, '0') || '7' || substr(md5('{seed}' || i), 1, 3) "
    "|| '8' || substr(md5('{seed}' || i), 4, 15))::uuid",
    "started_at": "to_timestamp({ms} / 1000.0)",
    "first_token_at": "to_timestamp(({ms} + 200 + i % 700) / 1000.0)",
    "ended_at": "to_timestamp(({ms} + 900 + i % 9000) / 1000.0)",
    "true": "true",
    "false": "false",
    "series": "generate_series({first}::bigint, {last}) AS g(i)",
}
SQLITE = {
    "id": "printf('%012x', {ms}) || '7' || printf('%03x', i % 4096) || '8' || lower(substr(hex(randomblob(8)), 2))",
    "started_at": "strftime('%Y-%m-%d %H:%M:%f', ({ms}) / 1000.0, 'unixepoch')",
    "first_token_at": "strftime('%Y-%m-%d %H:%M:%f', ({ms} + 200 + i % 700) / 1000.0, 'unixepoch')",
    "ended_at": "strftime('%Y-%m-%d %H:%M:%f', ({ms} + 900 + i % 9000) / 1000.0, 'unixepoch')",
    "true": "1",
    "false": "0",
    "series": "(WITH RECURSIVE g(i) AS (SELECT {first} UNION ALL SELECT i + 1 FROM g WHERE i < {last}) "
    "SELECT i FROM g) AS g",
}


def insert_rows(rows: int, *, state: str, price: str = "", cost: str = "NULL", hour: datetime | None = None) -> None:
    """Rows of 30 days, or of one hour, made in parts: no statement makes more than 200,000."""
    words = POSTGRES if connection.vendor == "postgresql" else SQLITE
    begin = hour or datetime.combine(END - timedelta(days=DAYS - 1), datetime.min.time(), UTC)
    span_ms = DAYS * 86_400_000 if hour is None else 3_600_000
    ms = f"({int(begin.timestamp() * 1000)} + i * {span_ms} / {rows})"
    key = KEY.format(quarters=span_ms // 900_000, rows=rows)
    for first in range(0, rows, 200_000):
        parts = {"first": first, "last": min(first + 200_000, rows) - 1, "ms": ms, "seed": state}
        filled = {name: text.format(**parts) for name, text in words.items()}
        values = ", ".join(text.format(**filled, state=state, price=price, cost=cost) for text in COLUMNS.values())
        text = "INSERT INTO billing_spendlog ({columns}) SELECT {values} FROM (SELECT i, {key} AS k FROM {series}) AS r"
        with connection.cursor() as cursor:
            cursor.execute(text.format(columns=", ".join(COLUMNS), values=values, key=key, series=filled["series"]))


def measure(name: str, work: Callable[[], object], times: int = TIMES) -> None:
    took: list[float] = []
    for _ in range(times):
        begin = time.perf_counter()
        work()
        took.append(time.perf_counter() - begin)
    best, middle, worst = (value * 1000 for value in (min(took), median(took), max(took)))
    print(f"{name:40s} best {best:9.1f} ms   median {middle:9.1f} ms   worst {worst:9.1f} ms", flush=True)


def measure_pricing(rows: int) -> None:
    """Rows of one hour, priced by one process."""
    lines = {"input": "0.0000005", "output": "0.0000015", "cache_read": "0.0000001"}
    price = Price.objects.create(deployment_id="bench", lines=lines)
    insert_rows(rows, state="metered", price=price.id, hour=datetime(2026, 11, 21, tzinfo=UTC))
    steps: list[float] = []
    begin = end = time.perf_counter()
    while price_pending():
        steps.append(time.perf_counter() - end)
        end += steps[-1]
    speed = rows / (end - begin)
    print(f"pricing, one process: {speed:,.0f} rows/s; a batch takes {median(steps) * 1000:.1f} ms", flush=True)


def measure_reports(by_rows: bool, end: date = END) -> None:
    first = end - timedelta(days=DAYS - 1)
    for zone, group_by in REPORTS:
        query = ReportQuery(Period(first, end, ZoneInfo(zone)), tuple(group_by.split(",")))
        series = UsageSeries.objects.all()
        measure(f"{zone}: {group_by}", partial(report_spend, SpendLog.objects.all(), query, series=series))
        if by_rows:
            measure("… from the rows", partial(report_spend, SpendLog.objects.all(), query), 1)


def build_rollups() -> None:
    UsageCoverage.objects.update(complete_from=END + timedelta(days=1))
    begin = time.perf_counter()
    rows = sum(count for _, count in complete_coverage())
    print(f"rollups built, {rows / (time.perf_counter() - begin):,.0f} rows/s")
    for table in (UsageSeries, UsageQuarter, UsageDay):
        print(f"{table.__name__}: {table.objects.count():,}")


def show_sizes() -> None:
    if connection.vendor != "postgresql":
        return
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE")
        for table in ("billing_spendlog", "billing_usagequarter", "billing_usageday", "billing_usageseries"):
            cursor.execute("SELECT pg_size_pretty(pg_total_relation_size(%s))", [table])
            print(f"{table}: {cursor.fetchone()[0]}")


def run(chosen: argparse.Namespace) -> None:
    call_command("migrate", verbosity=0)
    with scopes_disabled():
        measure_pricing(chosen.pricing_rows)
        begin = time.perf_counter()
        insert_rows(chosen.rows, state="priced", cost="1 + i % 100000007")
        print(f"{chosen.rows:,} rows made in {time.perf_counter() - begin:.0f} s", flush=True)
        if chosen.rows:
            build_rollups()
            show_sizes()
            measure_reports(chosen.by_rows)
    connection.close()
