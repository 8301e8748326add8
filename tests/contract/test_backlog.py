"""The backlog of bookkeeping, in either database: what waits for a price, for how long, and what has none."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django_scopes import scopes_disabled
from uuid_utils import uuid7

from billing import backlog
from billing.backlog import read_backlog
from billing.models import SpendLog
from tenants.models import DEFAULT_ORGANIZATION

pytestmark = pytest.mark.django_db


def insert(state: SpendLog.State, *, age_s: float = 0) -> None:
    ended_at = datetime.now(UTC) - timedelta(seconds=age_s)
    with scopes_disabled():
        SpendLog.objects.create(
            id=UUID(str(uuid7())),
            request_id=UUID(str(uuid7())),
            state=state,
            organization_id=DEFAULT_ORGANIZATION,
            operation="chat",
            started_at=ended_at,
            ended_at=ended_at,
        )


def test_nothing_to_do_is_zero() -> None:
    assert read_backlog() == backlog.Backlog(0, 0.0, 0)


def test_rows_that_wait_and_rows_without_a_price_are_counted_apart() -> None:
    insert(SpendLog.State.METERED, age_s=100)
    insert(SpendLog.State.METERED, age_s=50)
    for state in (SpendLog.State.UNPRICED, SpendLog.State.LOST, SpendLog.State.PRICED, SpendLog.State.OPEN):
        insert(state)
    found = read_backlog()
    assert (found.waiting, found.unpriced) == (2, 1)
    assert 100 <= found.lag_s < 200


def test_a_long_backlog_is_not_read_to_its_end() -> None:
    insert(SpendLog.State.METERED)
    with CaptureQueriesContext(
        connection,
    ) as queries:
        read_backlog()
    counts = [query["sql"] for query in queries if "COUNT" in query["sql"]]
    assert len(counts) == 2
    assert all(f"LIMIT {backlog.MOST_ROWS}" in sql for sql in counts)
