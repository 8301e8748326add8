"""Workers that settle attempts of one request at the same time count the request once."""

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from uuid import uuid4

import pytest
from django.db import connection, transaction
from django.db.models import Sum
from django_scopes import scopes_disabled

from billing.bookkeeping import price_pending
from billing.models import SpendLog, UsageQuarter
from billing.rollups import lock_rollups
from tests.contract.bookkeeping import make_rows

pytestmark = [
    pytest.mark.django_db(transaction=True, available_apps=["billing"]),
    pytest.mark.only_on("postgres"),
]


def price_elsewhere(pool: ThreadPoolExecutor) -> None:
    def price() -> None:
        try:
            price_pending()
        finally:
            connection.close()

    pool.submit(price).result(timeout=60)


def states() -> list[str]:
    return list(SpendLog.objects.order_by("attempt").values_list("state", flat=True))


def wait_for_a_lock() -> None:
    """Until another session waits for an advisory lock."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
            if cursor.fetchone()[0]:
                return
        time.sleep(0.02)
    pytest.fail("nothing waits for the lock")


def make_request(attempts: int) -> None:
    request_id = uuid4()
    for number in range(attempts):
        started_at = datetime(2026, 11, 20, 10, number, tzinfo=UTC)
        make_rows(1, request_id=request_id, attempt=number, cache_hit=True, started_at=started_at)


def test_an_attempt_waits_while_another_worker_has_an_earlier_one() -> None:
    with scopes_disabled(), ThreadPoolExecutor(1) as pool:
        make_request(3)
        with transaction.atomic():
            list(SpendLog.objects.select_for_update().filter(attempt=0))
            price_elsewhere(pool)
            assert states() == ["metered", "metered", "metered"]
        with transaction.atomic():
            list(SpendLog.objects.select_for_update().filter(attempt=1))
            price_elsewhere(pool)
            assert states() == ["metered", "metered", "metered"]  # attempt 0 stands in one batch with attempt 2
        while price_pending():
            pass
        assert states() == ["priced", "priced", "priced"]
        sums = UsageQuarter.objects.aggregate(requests=Sum("requests"), attempts=Sum("attempts"))
        assert sums == {"requests": 1, "attempts": 3}


def test_nothing_is_settled_while_rollups_are_built() -> None:
    with scopes_disabled(), ThreadPoolExecutor(1) as pool:
        make_request(1)

        def price() -> int:
            try:
                return price_pending()
            finally:
                connection.close()

        with transaction.atomic():
            lock_rollups()
            settled = pool.submit(price)
            wait_for_a_lock()
            assert states() == ["metered"]
        assert settled.result(timeout=60) == 1
        assert states() == ["priced"]
