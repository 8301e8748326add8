"""Rows of calls by the ledger and by hand, the means to price them, and the check of the hourly sums."""

import asyncio
import random
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from django.db import connection
from django.db.models import Sum
from django.utils import timezone
from django_scopes import scopes_disabled
from uuid_utils import uuid7

from billing.bookkeeping import STALE, price_pending, sweep_open
from billing.ledger import STATEMENTS, SpendLedger
from billing.models import SpendLog, UsageHour, Writer
from billing.pricing import PriceLines
from billing.spend_rows import BUCKET, SUMS, TOKENS
from gateway.pipeline.ports import Attempt, Principal
from gateway.protocol.usage import Usage
from gateway.state.group_commit import Backend, GroupCommit
from gateway.state.spool import Spool
from tests.contract.replica import backend
from tests.fakes.memory import (
    chat,
    target,
)

LINES = {"input": "0.00000015", "output": "0.0000006", "cache_read": "0.000000075"}
PRICE = PriceLines.read(LINES)
WHEN = datetime(2026, 11, 20, 10, 30, tzinfo=UTC)
PATIENCE_S = 20


class RolledBack(Exception):
    pass


UNREADABLE = {"input": "cheap", "output": "0.1"}
LONG, SHORT = STALE * 3, STALE / 6


def keep_books(
    act: Callable[[SpendLedger, GroupCommit], Any],
    folder: Path,
    *,
    writer_id: str = "writer",
    to: Backend | None = None,
) -> None:
    """Runs `act` with a ledger over group commit."""

    spool = Spool(folder / "spool", writer_id, STATEMENTS)

    async def story() -> None:
        commits = GroupCommit(to or backend(), spool, retry_s=0.05)
        await commits.open()
        ledger = SpendLedger(commits, writer_id=writer_id, find_price=lambda _: PRICE, on_metered=lambda: None)
        try:
            await asyncio.wait_for(act(ledger, commits), PATIENCE_S)
        finally:
            await asyncio.wait_for(commits.close(), PATIENCE_S)
            spool.release()  # as the end of the process does

    asyncio.run(story())


def attempt(price_id: str = "", **changes: Any) -> Attempt:
    fields = {
        "id": str(uuid7()),
        "request_id": str(uuid7()),
        "number": 0,
        "principal": Principal(organization_id="home", key_digest="d" * 64, key_id="key-1", team_id="team"),
        "call": chat(),
        "target": target(price_id=price_id),
        "is_sent": True,
        "started_at": WHEN.timestamp(),
    }
    return Attempt(**(fields | changes))


def make_rows(count: int, rng: random.Random | None = None, **fields: Any) -> list[SpendLog]:
    """Metered rows, of a few keys and hours."""
    rng = rng or random.Random(7)
    rows = [
        SpendLog(
            **{
                "id": UUID(str(uuid7())),
                "request_id": UUID(str(uuid7())),
                "state": "metered",
                "writer_id": "writer",
                "organization_id": "home",
                "key_id": f"key-{rng.randrange(3)}",
                "operation": "chat",
                "model_group": rng.choice(["a", "b"]),
                "deployment_id": "first",
                "provider": "openai_compatible",
                "upstream_model": "private",
                "finish": rng.choice(["complete", "complete", "client_gone"]),
                "usage_source": rng.choice(["provider", "estimated"]),
                "input_tokens": rng.randrange(10_000),
                "cache_read_tokens": rng.randrange(10_000),
                "output_tokens": rng.randrange(10_000),
                "reasoning_tokens": rng.randrange(100),
                "started_at": WHEN + timedelta(minutes=rng.randrange(180)),
                "ended_at": WHEN + timedelta(hours=4),
                **fields,
            }
        )
        for _ in range(count)
    ]
    SpendLog.objects.bulk_create(rows)
    return rows


def make_open(count: int, **fields: Any) -> list[SpendLog]:
    """Rows of requests under way, which have an estimate and no outcome."""
    blank = {"state": "open", "finish": "", "usage_source": "none", "output_tokens": 0, "ended_at": None}
    blank |= {"cache_read_tokens": 0, "reasoning_tokens": 0}
    return make_rows(count, **(blank | fields))


def usage_of(row: SpendLog) -> Usage:
    return Usage(**{name: getattr(row, name) for name in TOKENS})


def only() -> SpendLog:
    return SpendLog.objects.get()


def all_rows() -> Sequence[SpendLog]:
    return list(SpendLog.objects.all())


def price_all() -> int:
    total = 0
    while count := price_pending():
        total += count
    return total


def assert_sums_are_right() -> None:
    """Every rollup is the sum of its rows, and no row is outside of them, to the last picodollar."""
    expected: dict[tuple[Any, ...], list[int]] = {}
    for row in SpendLog.objects.filter(state__in=["priced", "unpriced", "lost"]):
        hour = row.started_at.replace(minute=0, second=0, microsecond=0)
        sums = expected.setdefault((hour, *(getattr(row, name) for name in BUCKET)), [0] * len(SUMS))
        values = [
            1,
            row.finish != "complete",
            row.usage_source == "estimated",
            row.cost_pusd is None,
            *(getattr(row, name) for name in TOKENS),
            row.cost_pusd or 0,
        ]
        sums[:] = [total + value for total, value in zip(sums, values, strict=True)]
    buckets = {
        (bucket.hour, *(getattr(bucket, name) for name in BUCKET)): [getattr(bucket, name) for name in SUMS]
        for bucket in UsageHour.objects.all()
    }
    assert buckets == expected
    totals = [table.objects.aggregate(total=Sum("cost_pusd"))["total"] or 0 for table in (SpendLog, UsageHour)]
    assert totals[0] == totals[1]


def run_workers(count: int, work: Callable[[random.Random], None]) -> None:
    failures: list[BaseException] = []

    def run(seed: int) -> None:
        try:
            with scopes_disabled():
                work(random.Random(seed))
        except BaseException as error:
            failures.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures, failures


def age(writer: str, *, seen: timedelta, suspected: timedelta | None = None) -> None:
    """Lets time pass for a writer."""
    now = timezone.now()
    Writer.objects.update_or_create(
        id=writer,
        defaults={"seen_at": now - seen, "suspected_at": None if suspected is None else now - suspected},
    )


def states() -> list[str]:
    return list(SpendLog.objects.order_by("id").values_list("state", flat=True))


def lose(one: Attempt, folder: Path) -> None:
    """The process opens the row, and is taken for dead."""
    keep_books(lambda ledger, commits: ledger.open(one), folder)
    age("writer", seen=LONG, suspected=LONG)
    assert sweep_open() == 1
    assert states() == ["lost"]
    assert_sums_are_right()
