"""Pricing by workers that compete, fail and come late: each row once, and exact sums.

Every promise is about what other processes see, so nothing here runs inside a test's transaction.
"""

import random
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from celery.fixups.django import DjangoWorkerFixup
from django.db import IntegrityError, OperationalError, connection, transaction
from django.db.models import Sum
from django.test import RequestFactory
from django.utils import timezone
from uuid_utils import uuid7

from billing.bookkeeping import price_pending
from billing.models import Price, SpendLog, UsageCoverage, UsageHour
from billing.models.constraints import MAX_SUM
from billing.pricing import cost
from billing.spend_rows import TOKENS
from gateway.celery import app
from gateway.console.dashboard import dashboard
from gateway.protocol.amounts import usd_exact
from tenants.database import OutageLog
from tenants.models import Scope, SpendTotal, User
from tests.contract.bookkeeping import (
    LINES,
    PRICE,
    UNREADABLE,
    WHEN,
    RolledBack,
    all_rows,
    assert_sums_are_right,
    make_rows,
    only,
    price_all,
    run_workers,
    states,
    usage_of,
)

# Only the ledger's tables are emptied after a test: the default organization stays.
pytestmark = [
    pytest.mark.django_db(transaction=True, available_apps=["billing"]),
    pytest.mark.usefixtures("above_organizations", "sound_ledger"),
]


def test_what_a_user_spends_in_a_team_counts_apart(price: str) -> None:
    for team, user in (("team", "ann"), ("team", "ben"), ("", "ann"), ("team", "")):
        make_rows(2, organization_id="apart", price_id=price, team_id=team, user_id=user)
    price_all()
    costs = {
        name: sum(row.cost_pusd or 0 for row in all_rows() if (row.team_id, row.user_id) == tuple(name.split(":")))
        for name in ("team:ann", "team:ben")
    }
    totals = SpendTotal.objects.filter(organization_id="apart", scope=Scope.MEMBER)
    try:
        assert dict(totals.values_list("scope_id", "pusd")) == costs
    finally:
        SpendTotal.objects.filter(organization_id="apart").delete()


def test_workers_that_compete_and_fail_price_each_row_once(price: str) -> None:
    rows = make_rows(240, price_id=price)

    def work(rng: random.Random) -> None:
        idle = 0
        while idle < 3:
            try:
                with transaction.atomic():
                    idle = 0 if price_pending(batch_rows=rng.choice([1, 7, 30])) else idle + 1
                    if rng.random() < 0.3:
                        raise RolledBack  # as a worker that is killed
            except RolledBack:
                idle = 0

    run_workers(4, work)
    price_all()
    costs = {row.id: row.cost_pusd for row in SpendLog.objects.filter(state="priced")}
    assert costs == {row.id: cost(usage_of(row), PRICE) for row in rows}
    assert_sums_are_right()


def test_a_late_or_doubled_wake_up_changes_nothing(price: str) -> None:
    make_rows(5, price_id=price)
    assert [price_pending(), price_pending(), price_pending()] == [5, 0, 0]
    assert_sums_are_right()


def test_a_batch_is_bounded_and_the_oldest_come_first(price: str) -> None:
    rows = make_rows(5, price_id=price)
    assert price_pending(batch_rows=2) == 2
    assert {row.id for row in SpendLog.objects.filter(state="priced")} == {row.id for row in rows[:2]}


@pytest.mark.parametrize(
    ("lines", "tokens", "state", "pusd", "error"),
    [
        (LINES, {"input_tokens": 1}, "priced", 150_000, ""),
        ({"input": "0", "output": "0"}, {"input_tokens": 9}, "priced", 0, ""),
        ({"input": "0"}, {"output_tokens": 9}, "unpriced", None, "no price"),
        (None, {"input_tokens": 9}, "unpriced", None, "no price"),
        (None, {}, "priced", 0, ""),
        (
            {"input": "0.000001", "cache_write_5m": "0.00000125"},
            {"cache_write_1h_tokens": 4},
            "priced",
            5_000_000,
            "no price of its own: cache_write_1h at the price of cache_write_5m",
        ),
        (UNREADABLE, {"input_tokens": 9}, "unpriced", None, "cannot be read"),
        ({"input": "1"}, {"input_tokens": 10**12}, "unpriced", None, "out of range"),
    ],
)
def test_a_row_is_priced_or_says_why_not(
    lines: dict[str, str] | None, tokens: dict[str, int], state: str, pusd: int | None, error: str
) -> None:
    price_id = "" if lines is None else Price.objects.create(deployment_id="x", lines=lines).id
    blank = dict.fromkeys(TOKENS, 0)
    make_rows(1, price_id=price_id, **(blank | tokens))
    assert price_pending() == 1
    row = only()
    assert (row.state, row.cost_pusd) == (state, pusd)
    assert error in row.price_error
    assert bool(row.price_error) is bool(error)
    assert_sums_are_right()


def test_a_row_that_cannot_be_priced_does_not_hold_up_the_others(price: str) -> None:
    broken = Price.objects.create(deployment_id="x", lines=UNREADABLE).id
    make_rows(3, price_id=price)
    make_rows(2, price_id=broken)
    make_rows(3, price_id=price)
    assert price_all() == 8
    assert SpendLog.objects.filter(state="priced").count() == 6
    assert_sums_are_right()


def test_a_row_belongs_to_the_utc_hour_of_its_start(price: str) -> None:
    edge = datetime(2026, 10, 25, 1, 0, tzinfo=UTC)  # a night in which clocks elsewhere repeat an hour
    for started_at in (edge - timedelta(microseconds=1), edge, edge + timedelta(minutes=59, seconds=59)):
        make_rows(1, price_id=price, started_at=started_at, key_id="k", model_group="a")
    price_all()
    buckets = UsageHour.objects.order_by("hour").values_list("hour", "requests")
    assert list(buckets) == [(edge - timedelta(hours=1), 1), (edge, 2)]


def test_sums_are_exact_where_floats_are_not() -> None:
    thirds = Price.objects.create(deployment_id="x", lines={"input": "0.000000333333333333"}).id
    zeros = dict.fromkeys(TOKENS, 0) | {"key_id": "k", "model_group": "a", "started_at": WHEN}
    for tokens in (10**12, 1, 1, 10**11 + 7):
        make_rows(1, price_id=thirds, **(zeros | {"input_tokens": tokens}))
    price_all()
    exact = sum(int(Decimal("333333.333333") * tokens) for tokens in (10**12, 10**11 + 7)) + 2 * 333_333
    assert UsageHour.objects.get().cost_pusd == exact
    assert_sums_are_right()


def test_sums_that_leave_their_range_park_one_row_and_stop_no_other(
    price: str, caplog: pytest.LogCaptureFixture
) -> None:
    free = Price.objects.create(deployment_id="x", lines={"input": "0", "output": "0"}).id
    zeros = dict.fromkeys(TOKENS, 0) | {"key_id": "k", "model_group": "a", "started_at": WHEN, "finish": "complete"}
    make_rows(3, price_id=free, **(zeros | {"output_tokens": 2**59}))  # the third one leaves the range
    make_rows(1, price_id=free, **(zeros | {"reasoning_tokens": 2**63 - 1}))
    make_rows(20, price_id=price)
    assert price_pending() == 24
    assert sorted(states()) == ["parked"] * 2 + ["priced"] * 22
    assert price_pending() == 0
    parked = SpendLog.objects.filter(state="parked")
    assert {row.cost_pusd for row in parked} == {None}
    assert all("hourly sums" in row.price_error for row in parked)
    alarms = [record for record in caplog.records if record.name == "billing.bookkeeping"]
    assert [record.levelname for record in alarms] == ["ERROR"] * 2
    assert {vars(record)["spend_id"].replace("-", "") for record in alarms} == {row.id.hex for row in parked}
    assert_sums_are_right()


@pytest.mark.only_on("postgres")
def test_the_parts_of_a_refused_batch_have_transactions_of_their_own(price: str) -> None:
    """In one they would lock sums in another order than other workers."""
    free = Price.objects.create(deployment_id="x", lines={"input": "0", "output": "0"}).id
    zeros = dict.fromkeys(TOKENS, 0) | {"key_id": "k", "model_group": "a", "finish": "complete"}
    full = zeros | {"price_id": free, "output_tokens": 2**59, "started_at": WHEN}
    late = zeros | {"price_id": price, "key_id": "late", "started_at": WHEN + timedelta(hours=2)}
    make_rows(2, **full)
    make_rows(1, **late)
    price_all()
    [odd] = make_rows(1, **full)
    others = make_rows(3, **(zeros | {"price_id": price, "started_at": WHEN + timedelta(hours=1)}))
    make_rows(1, **late)

    def price_them() -> int:
        try:
            return price_pending()
        finally:
            connection.close()

    def states_of_parts() -> list[str]:
        return [SpendLog.objects.get(pk=row.pk).state for row in (odd, others[0])]

    with ThreadPoolExecutor(1) as pool:
        with transaction.atomic():
            assert UsageHour.objects.select_for_update().get(key_id="late")
            pricing = pool.submit(price_them)
            end = time.monotonic() + 60
            while states_of_parts() != ["parked", "priced"] and time.monotonic() < end:
                time.sleep(0.02)
            assert states_of_parts() == ["parked", "priced"]
            assert not pricing.done()
        assert pricing.result(timeout=60) == 5
    assert sorted(states()) == ["parked"] + ["priced"] * 7
    assert_sums_are_right()


@pytest.mark.rows_by_hand
def test_the_dashboard_adds_up_costs_that_are_as_large_as_they_can_be(price: str, rf: RequestFactory) -> None:
    request = rf.get("/console/")
    request.user = User(username="root", is_superuser=True)
    UsageCoverage.objects.all().delete()  # these rows have no rollups
    for number in range(10):
        now = {"id": UUID(str(uuid7())), "started_at": timezone.now(), "finish": "complete"}
        make_rows(1, price_id=price, state="priced", cost_pusd=MAX_SUM - number, **now)
    cards = {str(card.title): card for card in dashboard(request, {})["cards"]}
    assert cards["Spend"].exact == usd_exact(10 * MAX_SUM - 45)


@pytest.mark.only_on("sqlite")
@pytest.mark.parametrize("table", [SpendLog, UsageHour])
def test_money_is_never_a_real(price: str, table: Any) -> None:
    make_rows(1, price_id=price)
    price_all()
    for value in ("cost_pusd + 0.5", "9223372036854775807 + 1", "'much'"):
        with pytest.raises(IntegrityError), connection.cursor() as cursor:
            cursor.execute(f"UPDATE {table._meta.db_table} SET cost_pusd = {value}")
    assert_sums_are_right()


def test_rows_of_each_organization_are_summed_apart(price: str) -> None:
    make_rows(4, price_id=price, organization_id="home")
    make_rows(4, price_id=price, organization_id="abroad")
    price_all()
    sums: Sequence[Any] = UsageHour.objects.values("organization_id").annotate(total=Sum("requests"))
    assert sorted((row["organization_id"], row["total"]) for row in sums) == [("abroad", 4), ("home", 4)]
    assert_sums_are_right()


@pytest.mark.only_on("postgres")
def test_a_worker_keeps_its_connection_between_tasks_and_drops_one_that_failed() -> None:
    connection.ensure_connection()
    first = connection.connection
    DjangoWorkerFixup(app).close_database()  # before and after each task
    assert connection.connection is first
    with OutageLog().note_outage():
        raise OperationalError("server closed the connection unexpectedly")
    assert connection.connection is None
