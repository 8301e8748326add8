"""The measurements of spend_log.py. Imported once Django is set up."""

import random
import resource
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from django.core.management import call_command
from django.db import connection, transaction
from django.db.models import Q
from django_scopes import scopes_disabled
from report_work import measure_reports
from sql_rows import insert_rollups, insert_rows

from billing.bookkeeping import price_pending
from billing.log_search import LogSearch, find_page
from billing.models import Price, SpendLog
from billing.retention import purge_spend_logs
from billing.tag_index import index_tags
from tenants.models import Organization
from tenants.permissions import MASTER

DAYS = 30
BATCH = 10_000
PRICED_ROWS = 3_000
USAGE = '{"prompt_tokens": 1200, "completion_tokens": 180, "prompt_tokens_details": {"cached_tokens": 400}}'
#: Filters that a list may have; the values of "old" callers are those of the first hundredth of the rows alone.
FILTERS: dict[str, dict[str, Any]] = {
    "none": {},
    "organization": {"organization_id": "default"},
    "small organization": {"organization_id": "org-3"},
    "key": {"key_id": "key-1"},
    "old key": {"key_id": "key-old"},
    "key digest": {"key_digest": "0" * 63 + "1"},
    "team": {"team_id": "team-1"},
    "old team": {"team_id": "team-old"},
    "user": {"user_id": "user-1"},
    "old user": {"user_id": "user-old"},
    "end user": {"end_user": "customer-1"},
    "old end user": {"end_user": "customer-old"},
    "model group": {"model_group": "model-1"},
    "old model group": {"model_group": "model-old"},
    "deployment": {"deployment_id": "deployment-1"},
    "old deployment": {"deployment_id": "deployment-old"},
    "provider": {"provider": "anthropic"},
    "old provider": {"provider": "old"},
    "error code": {"error_code": "rate_limit_exceeded"},
    "rare error code": {"error_code": "content_filter"},
    "source": {"source": "probe"},
    "state priced": {"state": "priced"},
    "state unpriced": {"state": "unpriced"},
    "state lost": {"state": "lost"},
    "state aborted": {"state": "aborted"},
    "state open": {"state": "open"},
    "status failure": {"status": "failure"},
    "tag": {"tag": "batch"},
    "old tag": {"tag": "old"},
    "upstream id": {"request": "up-77"},
    "team and error": {"team_id": "team-1", "error_code": "rate_limit_exceeded"},
    "team and old model": {"team_id": "team-1", "model_group": "model-old"},
    "organization, key, model": {"organization_id": "default", "key_id": "key-1", "model_group": "model-1"},
    "day 3": {"days": (3, 4)},
    "day 3 of a team": {"team_id": "team-1", "days": (3, 4)},
}


def make_rows(count: int, *, now: datetime, state: str | None = None) -> Iterator[dict[str, Any]]:
    """Column → value, the oldest row first; `state` of all of them, else priced, mostly."""
    chance = random.Random(7)
    begin = now - timedelta(days=DAYS)
    step = timedelta(days=DAYS) / max(1, count)
    for number in range(count):
        at = begin + step * number
        is_old = number < count // 100 and number % 10 == 0
        group = "old" if is_old else str(min(int(chance.expovariate(0.3)), 19))
        person = "old" if is_old else str(min(int(chance.expovariate(0.02)), 999))
        draw = chance.random()
        error = "content_filter" if draw < 0.00005 else "rate_limit_exceeded" if draw < 0.02 else ""
        row_id = UUID(int=(int(at.timestamp() * 1000) << 80) | 7 << 76 | chance.getrandbits(12) << 64 | number)
        yield {
            "id": row_id,
            "request_id": UUID(int=row_id.int ^ 1 << 100),
            "state": state or ("unpriced" if draw > 0.999 else "lost" if draw > 0.9988 else "priced"),
            "organization_id": "default" if chance.random() < 0.9 else f"org-{chance.randrange(1, 6)}",
            "writer_id": "w",
            "team_id": f"team-{'old' if is_old else int(person) % 50}",
            "user_id": f"user-{person}",
            "key_id": f"key-{person}",
            "key_digest": (person if person.isdigit() else "f").rjust(64, "0"),
            "key_alias": f"key of {person}",
            "end_user": f"customer-{'old' if is_old else chance.randrange(20_000)}" if draw > 0.5 else "",
            "tags": '["old", "x"]' if is_old else '["batch", "nightly"]' if chance.random() < 0.05 else "[]",
            "source": "probe" if draw > 0.995 else "",
            "operation": "chat",
            "model_group": f"model-{group}",
            "deployment_id": f"deployment-{group}",
            "provider": "old" if is_old else "openai" if chance.random() < 0.8 else "anthropic",
            "upstream_model": f"up-{group}",
            "served_model": f"up-{group}",
            "upstream_id": f"up-{number}",
            "status_code": 429 if error else 200,
            "error_code": error,
            "finish": "upstream_error" if error else "complete",
            "usage": "" if error else USAGE,
            "usage_source": "none" if error else "provider",
            "input_tokens": 0 if error else 800,
            "cache_read_tokens": 0 if error else 400,
            "output_tokens": 0 if error else chance.randrange(1, 2_000),
            "started_at": at,
            "first_token_at": at + timedelta(seconds=0.4),
            "ended_at": at + timedelta(seconds=3),
            "cost_pusd": None if state else chance.randrange(10**10),
            "priced_at": None if state else at + timedelta(seconds=4),
        }


def fill(rows: Iterator[dict[str, Any]]) -> None:
    """Writes rows and their tags, past the ORM."""
    fields = SpendLog._meta.concrete_fields
    columns = ", ".join(f'"{each.column}"' for each in fields)
    is_postgres = connection.vendor == "postgresql"
    done = False
    while not done:
        batch = [row for _, row in zip(range(BATCH), rows, strict=False)]
        done = len(batch) < BATCH
        values = [
            [
                each.get_db_prep_save(row.get(each.attname, each.get_default()), connection)
                if not is_postgres
                else row.get(each.attname, each.get_default())
                for each in fields
            ]
            for row in batch
        ]
        with transaction.atomic(), connection.cursor() as cursor:
            if is_postgres:
                with cursor.copy(f"COPY billing_spendlog ({columns}) FROM STDIN") as copy:
                    for line in values:
                        copy.write_row(line)
            else:
                marks = ", ".join(["%s"] * len(fields))
                cursor.executemany(f"INSERT INTO billing_spendlog ({columns}) VALUES ({marks})", values)
            index_tags(
                (row["organization_id"], row["id"] if is_postgres else row["id"].hex, row["tags"])
                for row in batch
                if row["state"] not in ("open", "metered")
            )


def page_times(search: dict[str, Any], now: datetime) -> tuple[int, int, list[float]]:
    """(rows of the first page, pages until it had rows, milliseconds of each page) of the folded list."""
    equal = {name: [value] for name, value in search.items() if name not in ("tag", "status", "request", "days")}
    request = SpendLog.match_upstream_id(search["request"]) if "request" in search else None
    days = search.get("days")
    found = LogSearch(
        equal=equal,
        request=request,
        tag=search.get("tag", ""),
        status=search.get("status", ""),
        starts_at=now - timedelta(days=DAYS - days[0]) if days else None,
        ends_before=now - timedelta(days=DAYS - days[1]) if days else None,
    )
    times, after, rows = [], None, 0
    for _ in range(40):
        began = time.perf_counter()
        page = find_page(MASTER, SpendLog.objects.all(), found, size=50, after=after, is_folded=True)
        if page.ids:
            list(SpendLog.objects.filter(Q(pk__in=page.ids)).order_by("-id"))
        times.append((time.perf_counter() - began) * 1000)
        rows = len(page.ids)
        if rows or page.next_after is None:
            break
        after = page.next_after
    return rows, len(times), times


def price_all(count: int, now: datetime) -> float:
    """Rows a second that one process prices."""
    price = Price.objects.create(
        deployment_id="bench", lines={"input": "0.000001", "output": "0.000002", "cache_read": "0.0000001"}
    )
    fill({**row, "price_id": price.id, "end_user": ""} for row in make_rows(count, now=now, state="metered"))
    began = time.perf_counter()
    priced = 0
    while done := price_pending():
        priced += done
    return priced / (time.perf_counter() - began)


def weigh(report: Callable[[str], None]) -> None:
    """The size of the log by table and index, in MB a million rows."""
    millions = SpendLog.objects.count() / 1e6
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(
                "SELECT relname, pg_relation_size(oid) FROM pg_class "
                "WHERE relname LIKE 'billing_spendlog%%' OR relname LIKE 'spend_log%%' ORDER BY 2 DESC"
            )
            sizes = cursor.fetchall()
        else:
            cursor.execute("PRAGMA page_count")
            pages = cursor.fetchone()[0]
            cursor.execute("PRAGMA page_size")
            sizes = [("file", pages * cursor.fetchone()[0])]
    report(f"{sum(size for _, size in sizes) / millions / 2**20:,.0f} MB a million rows")
    for name, size in sizes:
        report(f"  {name:32} {size / millions / 2**20:7.0f} MB")


def purge(report: Callable[[str], None], keep_days: int) -> None:
    """Deletes rows older than so many days, and says how long the longest batch held its locks."""
    spans: list[float] = []
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    began, rows = time.perf_counter(), 0
    while True:
        start = time.perf_counter()
        purged = purge_spend_logs(keep_days, busy_s=0)
        spans.append(time.perf_counter() - start)
        rows += purged.rows
        if purged.is_done:
            break
    took = time.perf_counter() - began
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    report(
        f"{rows:,} rows deleted in {took:.0f} s, {rows / took:,.0f} a second; "
        f"longest batch {max(spans) * 1000:.0f} ms; "
        f"peak memory {memory:.0f} MB, {memory - before:.0f} MB more than before"
    )


def make_log(rows: int, now: datetime) -> None:
    if connection.vendor == "postgresql":
        insert_rows(rows, begin=now - timedelta(days=DAYS), span=timedelta(days=DAYS))
        insert_rollups()
    else:
        fill(make_rows(rows, now=now))


def run(rows: int, report: Callable[[str], None], keep_days: int = DAYS // 2) -> None:
    call_command("migrate", verbosity=0)
    now = datetime.now(UTC)
    with scopes_disabled():
        if not SpendLog.objects.exists():
            for number in range(1, 6):
                Organization.objects.get_or_create(id=f"org-{number}", defaults={"name": f"Org {number}"})
            report(f"pricing: {price_all(PRICED_ROWS, now + timedelta(hours=1)):,.0f} rows/s on an empty log")
            began = time.perf_counter()
            make_log(rows, now)
            report(f"{rows:,} rows written in {time.perf_counter() - began:.0f} s")
            report(f"pricing: {price_all(PRICED_ROWS, now + timedelta(hours=2)):,.0f} rows/s beside them")
        for name, search in FILTERS.items():
            found, pages, times = page_times(search, now)
            again = page_times(search, now)[2]
            report(f"{name:28} {found:3} rows, page {pages:2}, first {max(times):7.1f} ms, again {max(again):7.1f} ms")
        weigh(report)
        if connection.vendor == "postgresql":
            measure_reports(False, (now - timedelta(days=1)).date())
        purge(report, keep_days)
