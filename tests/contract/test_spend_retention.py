"""Retention of spend logs: old rows go, nothing that is still waited for goes, and the ledger goes on agreeing."""

import random
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from django.db import connection
from django.test import override_settings
from django.utils import timezone
from django_scopes import scopes_disabled

from billing.bookkeeping import price_pending
from billing.log_search import LogSearch, find_page
from billing.models import (
    Price,
    PriceAdjustment,
    RetiredSpend,
    SpendLog,
    SpendLogTag,
    SpendRetention,
    UsageCoverage,
    UsageHour,
)
from billing.repricing import Scope as RepriceScope
from billing.repricing import run_step, start_job
from billing.retention import Purged, find_horizon, purge_spend_logs, rows_complete_from
from billing.row_ids import first_id
from billing.tasks import purge_spend_logs as purge_task
from billing.verification import verify_ledger
from tenants.budget_windows import ALL_TIME
from tenants.models import Budget, BudgetWindow, Organization, Scope, SpendTotal
from tenants.permissions import MASTER
from tests.contract.bookkeeping import LINES, make_rows
from tests.contract.test_verify_ledger import DEARER

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("sound_ledger")]
DAYS = 30
NOON = timezone.now().astimezone(UTC).replace(hour=12, minute=0, second=0, microsecond=0)
OLD, RECENT = NOON - timedelta(days=45), NOON - timedelta(days=20)


@pytest.fixture(autouse=True)
def book_keeper() -> Iterator[None]:
    with scopes_disabled():
        Organization.objects.get_or_create(id="home", defaults={"name": "Home"})
        yield


def make(at: datetime, count: int = 20, **fields: object) -> list[UUID]:
    """Metered rows of calls that began about then."""
    price, _ = Price.objects.get_or_create(id="a-price", defaults={"deployment_id": "first", "lines": LINES})
    named = {"team_id": "team", "user_id": "user", "end_user": "customer", "price_id": price.id, "tags": '["x"]'}
    made = make_rows(count, random.Random(4), **(named | fields))
    ids = []
    for number, row in enumerate(made):
        begin = at + timedelta(seconds=number)
        row_id = UUID(int=first_id(begin).int | 7 << 76 | row.id.int & (1 << 64) - 1)
        SpendLog.objects.filter(pk=row.pk).update(id=row_id, started_at=begin, ended_at=begin)
        ids.append(row_id)
    return ids


def price_all() -> None:
    while price_pending():
        pass


def make_window(starts_at: datetime, ends_at: datetime | None) -> BudgetWindow:
    budget, _ = Budget.objects.get_or_create(
        organization_id="home", scope=Scope.TEAM, scope_id="team", defaults={"limit_pusd": 10**18}
    )
    return BudgetWindow.objects.create(
        budget=budget, scope=Scope.TEAM, scope_id="team", starts_at=starts_at, ends_at=ends_at
    )


def left() -> set[UUID]:
    return set(SpendLog.objects.values_list("id", flat=True))


def test_old_rows_go_with_their_tags_and_adjustments_and_the_ledger_agrees() -> None:
    ended = make_window(OLD - timedelta(days=1), OLD + timedelta(days=1))
    forever = make_window(ALL_TIME.starts_at, None)
    make(OLD, budget_windows=f"{ended.id},{forever.id},deleted")
    make(OLD, 5, end_user="gone", tags="[]")
    recent = make(RECENT, 7, budget_windows=forever.id)
    price_all()
    version = Price.objects.create(deployment_id="first", lines=DEARER)
    job = start_job(RepriceScope("first", False, None, timezone.now()), actor="test")
    while run_step(job.id, lambda _deployment, _organization, _started_at, _upstream_model: version.id):
        pass
    assert PriceAdjustment.objects.filter(spend_id__in=recent).exists()
    assert list(verify_ledger()) == []
    before = sum(UsageHour.objects.values_list("cost_pusd", flat=True))

    assert purge_spend_logs(DAYS, batch_rows=4) == Purged(25, is_done=True)

    assert left() == set(recent)
    assert set(SpendLogTag.objects.values_list("spend_id", flat=True)) == set(recent)
    assert set(PriceAdjustment.objects.values_list("spend_id", flat=True)) <= set(recent)
    assert sum(UsageHour.objects.values_list("cost_pusd", flat=True)) == before
    assert list(verify_ledger()) == []
    page = find_page(MASTER, SpendLog.objects.all(), LogSearch(tag="x"), size=50)
    assert page.ids == sorted(recent, reverse=True)
    assert purge_spend_logs(DAYS) == Purged(0, is_done=True)


@pytest.mark.parametrize("kind", ["end_user", "window"])
@pytest.mark.rows_by_hand
def test_the_ledger_still_finds_what_disagrees_after_rows_have_gone(kind: str) -> None:
    window = make_window(OLD - timedelta(days=1), OLD + timedelta(days=1))
    make(OLD, budget_windows=window.id)
    make(RECENT, 3)
    price_all()
    assert purge_spend_logs(DAYS).rows == 20
    assert list(verify_ledger()) == []
    retired = RetiredSpend.objects.get(kind=kind)
    RetiredSpend.objects.filter(kind=kind, holder=retired.holder).update(pusd=retired.pusd - 1)
    (wrong,) = verify_ledger()
    assert (wrong.found - wrong.expected, wrong.name) == (1, "pusd" if kind == "end_user" else "settled_pusd")


@pytest.mark.rows_by_hand
def test_an_end_user_whose_rows_have_all_gone_is_still_checked() -> None:
    make(OLD, end_user="gone")
    price_all()
    assert purge_spend_logs(DAYS).rows == 20
    assert list(verify_ledger()) == []
    SpendTotal.objects.filter(scope=Scope.END_USER).update(pusd=5)
    assert [wrong.found for wrong in verify_ledger()] == [5]


@pytest.mark.parametrize("state", ["open", "metered", "late", "parked", "unpriced"])
def test_a_row_that_waits_for_something_stays(state: str) -> None:
    waiting = make(OLD, 3)
    SpendLog.objects.filter(id__in=waiting).update(state=state)
    lost = make(OLD, 2)
    SpendLog.objects.filter(id__in=lost).update(state="lost", cost_pusd=None)
    gone = make(OLD, 2)
    SpendLog.objects.filter(id__in=gone).update(state="aborted")
    assert purge_spend_logs(DAYS, batch_rows=2).rows == 2
    assert left() == {*waiting, *lost}


def test_rows_of_a_budget_window_that_has_not_ended_stay() -> None:
    make(OLD - timedelta(days=30), 3)
    kept = make(OLD, 3)
    price_all()
    make_window(OLD - timedelta(days=1), timezone.now() + timedelta(days=1))
    assert purge_spend_logs(DAYS).rows == 3
    assert left() == set(kept)


def test_rows_within_a_rolling_window_stay() -> None:
    kept = make(OLD, 3)
    price_all()
    make_window(ALL_TIME.starts_at + timedelta(days=60), None)
    assert purge_spend_logs(DAYS).rows == 0
    assert left() == set(kept)


def test_rows_stay_while_their_rollups_are_not_built() -> None:
    make(OLD, 3)
    price_all()
    UsageCoverage.objects.update_or_create(id=1, defaults={"complete_from": RECENT.date()})
    assert find_horizon(timezone.now() - timedelta(days=DAYS)) is None
    assert purge_spend_logs(DAYS) == Purged(0, is_done=True)
    UsageCoverage.objects.update(complete_from=OLD.date())
    assert purge_spend_logs(DAYS).rows == 3


def test_rows_are_complete_from_a_midnight_that_never_goes_back() -> None:
    assert rows_complete_from() is None
    make(OLD, 3)
    price_all()
    purge_spend_logs(DAYS)
    first = rows_complete_from()
    assert first is not None
    assert first.astimezone(UTC).time().isoformat() == "00:00:00"
    make(OLD - timedelta(days=30), 1)
    price_all()
    purge_spend_logs(DAYS + 20)
    assert rows_complete_from() == first


def test_while_one_process_deletes_another_one_leaves_it_alone() -> None:
    make(OLD, 3)
    price_all()
    other = {"runner_id": "other", "lease_ends_at": timezone.now() + timedelta(seconds=30)}
    SpendRetention.objects.update_or_create(id=1, defaults=other)
    assert purge_spend_logs(DAYS) == Purged(0, is_done=True)
    SpendRetention.objects.update(lease_ends_at=timezone.now() - timedelta(seconds=1))
    assert purge_spend_logs(DAYS).rows == 3
    assert SpendRetention.objects.get().runner_id == ""


def test_several_processes_delete_each_row_once() -> None:
    window = make_window(OLD - timedelta(days=1), OLD + timedelta(days=1))
    make(OLD, 60, budget_windows=window.id)
    price_all()
    purged: list[int] = []

    def work() -> None:
        try:
            with scopes_disabled():
                purged.extend(purge_spend_logs(DAYS, busy_s=0, batch_rows=7).rows for _ in range(8))
        finally:
            connection.close()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    while (rest := purge_spend_logs(DAYS)).rows:
        purged.append(rest.rows)
    assert sum(purged) == 60
    assert left() == set()
    assert list(verify_ledger()) == []


def test_by_default_rows_are_kept_for_ever() -> None:
    make(OLD, 3)
    price_all()
    purge_task()
    assert len(left()) == 3
    with override_settings(TOLLGATE_SPEND_LOG_RETENTION_DAYS=DAYS):
        purge_task()
    assert left() == set()
