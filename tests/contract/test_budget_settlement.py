"""Every row of the spend log settles exactly once in the windows of its budgets, in either database."""

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from django.db.models import Sum
from django.utils import timezone
from django_scopes import scopes_disabled

from billing.bookkeeping import STALE, correct_lost, price_pending, return_dead_leases, sweep_open
from billing.models import Price, SpendLog, UsageHour, Writer
from billing.models.constraints import MAX_SUM
from tenants.budget_store import LeaseRequest, lease
from tenants.budget_windows import ALL_TIME
from tenants.models import Budget, BudgetLease, BudgetWindow, Organization, Scope, SpendTotal
from tests.contract.bookkeeping import LINES, make_open, make_rows

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("sound_ledger")]

LIMIT = 10**13
MUCH = 10**12  # more than the rows of a test cost


@pytest.fixture(autouse=True)
def above_organizations() -> Iterator[None]:
    with scopes_disabled():
        yield


@pytest.fixture
def price() -> str:
    return Price.objects.create(deployment_id="first", lines=LINES).id


@pytest.fixture
def budgets() -> list[Budget]:
    home = Organization.objects.create(id="home", name="Home")
    return [
        Budget.objects.create(organization=home, scope=Scope.KEY, scope_id=f"key-{number}", limit_pusd=LIMIT)
        for number in range(3)
    ]


def lease_windows(budgets: list[Budget], writer_id: str = "writer") -> list[str]:
    """The ids of the budgets' windows, after a process has leased more of them than its calls cost."""
    Writer.objects.get_or_create(id=writer_id, defaults={"seen_at": timezone.now()})
    requests = [
        LeaseRequest(budget.id, "home", budget.scope, budget.scope_id, ALL_TIME.starts_at, None, MUCH)
        for budget in budgets
    ]
    leased = lease(requests, writer_id)
    assert isinstance(leased, list)
    return [entry.window_id for entry in leased]


def verify_windows() -> None:
    """The settled amount of each window is the sum of its rows' costs; what is leased is the sum of its leases."""
    for window in BudgetWindow.objects.all():
        rows = SpendLog.objects.filter(budget_windows__contains=window.id).exclude(state="parked")
        assert window.settled_pusd == (rows.aggregate(sum=Sum("cost_pusd"))["sum"] or 0)
        leases = BudgetLease.objects.filter(window=window).values_list("amount_pusd", flat=True)
        assert window.leased_pusd == sum(max(0, amount) for amount in leases)


def now() -> datetime:
    return datetime.now(UTC)


def test_each_row_settles_in_all_of_its_windows(budgets: list[Budget], price: str) -> None:
    rng = random.Random(3)
    windows = lease_windows(budgets)
    for _ in range(30):
        chosen = ",".join(rng.sample(windows, 2))
        make_rows(5, rng, price_id=price, started_at=now(), budget_windows=chosen)
    while price_pending():
        pass
    verify_windows()
    total = SpendTotal.objects.get(scope=Scope.ORGANIZATION, scope_id="home").pusd
    assert total == SpendLog.objects.aggregate(sum=Sum("cost_pusd"))["sum"]
    settled = BudgetWindow.objects.aggregate(sum=Sum("settled_pusd"))["sum"]
    leased = BudgetWindow.objects.aggregate(sum=Sum("leased_pusd"))["sum"]
    assert settled == 2 * total  # each row has two windows
    assert settled + leased == 3 * MUCH  # costs moved from leased to settled


def test_a_row_without_a_price_settles_nothing(budgets: list[Budget]) -> None:
    windows = lease_windows(budgets)
    make_rows(5, started_at=now(), budget_windows=",".join(windows))
    assert price_pending() == 5
    verify_windows()
    assert {window.settled_pusd for window in BudgetWindow.objects.all()} == {0}


@pytest.mark.rows_by_hand
def test_a_parked_row_settles_nothing_and_stops_no_other(budgets: list[Budget], price: str) -> None:
    windows = lease_windows(budgets)
    rows = make_rows(5, price_id=price, started_at=now(), budget_windows=windows[0])
    odd = rows[2]
    SpendLog.objects.filter(id=odd.id).update(key_id="overflows")
    hour = odd.started_at.replace(minute=0, second=0, microsecond=0)
    bucket = {name: getattr(odd, name) for name in ("organization_id", "team_id", "user_id", "model_group")}
    bucket |= {"provider": odd.provider, "deployment_id": odd.deployment_id, "key_id": "overflows"}
    UsageHour.objects.create(hour=hour, cost_pusd=MAX_SUM, **bucket)
    price_pending()
    assert SpendLog.objects.get(id=odd.id).state == "parked"
    verify_windows()


def test_lost_and_late_rows_settle_once(budgets: list[Budget], price: str) -> None:
    """Lost by their estimate, then late by their usage; then nothing that was leased is left."""
    windows = lease_windows(budgets, "dead")
    rows = make_open(8, price_id=price, writer_id="dead", started_at=now(), budget_windows=",".join(windows))
    stale = timezone.now() - 3 * STALE
    Writer.objects.filter(id="dead").update(seen_at=stale, suspected_at=stale)
    assert return_dead_leases() == 0  # its calls are not settled
    assert sweep_open() == 8
    verify_windows()
    late = [row.id for row in rows[:5]]
    SpendLog.objects.filter(id__in=late).update(
        state="late", output_tokens=500, usage_source="provider", finish="complete", lost_tokens=rows[0].input_tokens
    )
    for row in rows[:5]:
        SpendLog.objects.filter(id=row.id).update(lost_tokens=row.input_tokens, input_tokens=row.input_tokens // 2)
    assert correct_lost() == 5
    verify_windows()
    assert return_dead_leases() == 1
    assert not BudgetLease.objects.exists()
    assert {window.leased_pusd for window in BudgetWindow.objects.all()} == {0}
    verify_windows()
    assert SpendLog.objects.filter(state="priced").count() == 5


def test_a_process_that_was_taken_for_dead_and_is_back_settles_once(budgets: list[Budget], price: str) -> None:
    windows = lease_windows(budgets, "back")
    started_at = now() - timedelta(seconds=30)
    BudgetLease.objects.update(created_at=started_at - timedelta(seconds=1))
    (row,) = make_open(1, price_id=price, writer_id="back", started_at=started_at, budget_windows=windows[0])
    stale = timezone.now() - 3 * STALE
    Writer.objects.filter(id="back").update(seen_at=stale, suspected_at=stale)
    sweep_open()
    return_dead_leases()
    Writer.objects.filter(id="back").update(seen_at=timezone.now(), suspected_at=None)
    again = lease_windows(budgets, "back")
    assert again == windows
    before = BudgetLease.objects.get(window_id=windows[0]).amount_pusd
    SpendLog.objects.filter(id=row.id).update(
        state="late", output_tokens=500, usage_source="provider", finish="complete", lost_tokens=row.input_tokens
    )
    assert correct_lost() == 1
    verify_windows()
    assert BudgetLease.objects.get(window_id=windows[0]).amount_pusd == before
