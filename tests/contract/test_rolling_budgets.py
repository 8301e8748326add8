"""Rolling budgets in the database: no span of their length has more spend than the limit, in either database."""

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from django.db import transaction
from django.db.models import F, Sum
from django_scopes import scopes_disabled

from gateway.protocol.amounts import PUSD
from tenants.budget_store import LeaseRefused, LeaseRequest, WindowCost, give_back, lease, settle_costs
from tenants.budget_windows import BUCKETS, find_window
from tenants.invalid import KeyInvalid
from tenants.limits import change_limits, read_spend, render_limits, reset_spend
from tenants.models import DEFAULT_ORGANIZATION, Budget, BudgetLease, BudgetWindow, Organization, RollingSpend, Scope

pytestmark = pytest.mark.django_db(transaction=True)

HOUR = timedelta(hours=1)


@pytest.fixture(autouse=True)
def above_organizations() -> Iterator[None]:
    with scopes_disabled():
        yield


@pytest.fixture
def home() -> Organization:
    Organization.objects.get_or_create(id=DEFAULT_ORGANIZATION, defaults={"name": "Default"})
    return Organization.objects.create(id="home", name="Home")


@pytest.fixture
def budget(home: Organization) -> Budget:
    change_limits(home, Scope.KEY, "key", {"max_budget": 1, "budget_duration": "rolling 1h"})
    return Budget.objects.get()


def request(budget: Budget, pusd: int) -> LeaseRequest:
    span = find_window(budget.duration, ZoneInfo("UTC"), datetime.now(UTC))
    return LeaseRequest(budget.id, "home", Scope.KEY, "key", span.starts_at, span.ends_at, pusd)


def call(budget: Budget, pusd: int, *, cost_pusd: int | None = None) -> bool:
    """A call from its lease to its pricing; what it did not need goes back. False where it is refused."""
    leased = lease([request(budget, pusd)], "writer")
    if isinstance(leased, LeaseRefused):
        return False
    price(leased[0].window_id, pusd if cost_pusd is None else cost_pusd)
    give_all_back()
    return True


def price(window_id: str, pusd: int, ago: timedelta = timedelta()) -> None:
    with transaction.atomic():
        settle_costs([WindowCost(window_id, "writer", datetime.now(UTC) - ago, pusd)])


def give_all_back() -> None:
    give_back(dict(BudgetLease.objects.values_list("id", "amount_pusd")))


def pass_time(span: timedelta) -> None:
    """Everything that was spent is so much older."""
    # Away and back, because a bucket may not take another's place in passing
    RollingSpend.objects.update(ends_at=F("ends_at") - timedelta(days=9999))
    RollingSpend.objects.update(ends_at=F("ends_at") + timedelta(days=9999) - span)


def test_an_amount_leaves_when_its_bucket_is_older_than_the_window(budget: Budget) -> None:
    assert call(budget, PUSD)
    assert not call(budget, 1)
    pass_time(HOUR - timedelta(minutes=1))
    assert not call(budget, 1)  # on a calendar the window might be another one by now
    pass_time(timedelta(minutes=2, seconds=1))
    assert call(budget, PUSD)
    window = BudgetWindow.objects.get()
    assert (window.settled_pusd, window.credit_pusd, window.leased_pusd) == (PUSD, 0, 0)


def test_a_refusal_names_the_instant_at_which_the_oldest_amount_leaves(budget: Budget) -> None:
    call(budget, PUSD)
    refused = lease([request(budget, 1)], "writer")
    assert isinstance(refused, LeaseRefused)
    state = refused.state
    assert state.is_rolling
    assert state.ends_at is not None
    assert HOUR <= state.ends_at - datetime.now(UTC) + timedelta(seconds=30) <= HOUR + timedelta(seconds=90)


def test_what_is_leased_counts_until_it_is_priced_or_returned(budget: Budget) -> None:
    leased = lease([request(budget, PUSD)], "writer")
    assert isinstance(leased, list)
    pass_time(10 * HOUR)
    assert not call(budget, 1)
    give_all_back()
    assert call(budget, PUSD)


def test_a_late_cost_counts_from_the_begin_of_its_call(budget: Budget) -> None:
    leased = lease([request(budget, PUSD)], "writer")
    assert isinstance(leased, list)
    price(leased[0].window_id, PUSD, ago=3 * HOUR)
    give_all_back()
    assert call(budget, PUSD)


def test_a_correction_of_an_expired_cost_frees_nothing(home: Organization, budget: Budget) -> None:
    call(budget, PUSD)
    window_id = BudgetWindow.objects.get().id
    pass_time(3 * HOUR)
    assert call(budget, PUSD)
    price(window_id, -PUSD // 2, ago=3 * HOUR)
    assert not call(budget, 1)
    assert read_spend(home, Scope.KEY, "key")["spend"] == 1.0


def test_the_shown_spend_is_current_without_a_write(home: Organization, budget: Budget) -> None:
    call(budget, PUSD // 4)
    spend = read_spend(home, Scope.KEY, "key")
    assert spend["spend"] == 0.25
    assert spend["budget_reset_at"] > datetime.now(UTC).isoformat()
    pass_time(2 * HOUR)
    assert read_spend(home, Scope.KEY, "key")["spend"] == 0.0
    assert BudgetWindow.objects.get().settled_pusd == PUSD // 4


@pytest.mark.parametrize("reset_to", [0, PUSD // 4, PUSD])
def test_a_reset_counts_once(home: Organization, budget: Budget, reset_to: int) -> None:
    call(budget, PUSD // 2)
    pass_time(HOUR / 2)
    call(budget, PUSD // 2)
    reset_spend(home, Scope.KEY, "key", reset_to)
    assert read_spend(home, Scope.KEY, "key")["spend"] == reset_to / PUSD
    pass_time(HOUR / 2 + timedelta(minutes=2))  # the first half leaves; what was forgiven is the oldest
    assert read_spend(home, Scope.KEY, "key")["spend"] == min(reset_to, PUSD // 2) / PUSD
    pass_time(HOUR)
    assert call(budget, PUSD)
    assert not call(budget, 1)


def test_another_length_is_another_window(home: Organization, budget: Budget) -> None:
    call(budget, PUSD)
    change_limits(home, Scope.KEY, "key", {"budget_duration": "rolling 2 hours"})
    changed = Budget.objects.get()
    assert (changed.id, changed.duration) == (budget.id, "rolling 2h")
    assert call(changed, PUSD)
    change_limits(home, Scope.KEY, "key", {"budget_duration": "rolling 1h"})
    assert not call(Budget.objects.get(), 1)


def test_rolling_windows_stand_beside_those_of_the_calendar(home: Organization) -> None:
    limits = [
        {"budget_duration": "1d", "max_budget": 2.0},
        {"budget_duration": "rolling 1d", "max_budget": 1.0},
    ]
    models = {"m": {"budget_limit": 1.0, "time_period": "rolling 7d"}}
    change_limits(home, Scope.KEY, "key", {"budget_limits": limits, "model_max_budget": models})
    shown = render_limits(home, Scope.KEY, "key")
    assert shown["budget_limits"] == limits
    assert shown["model_max_budget"] == models


@pytest.mark.parametrize("text", ["rolling", "rolling 30s", "rolling 1mo", "rolling 367d", "rolling rolling 1h"])
def test_a_rolling_window_that_cannot_be_is_refused(home: Organization, text: str) -> None:
    with pytest.raises(KeyInvalid):
        change_limits(home, Scope.KEY, "key", {"max_budget": 1, "budget_duration": text})


def test_deleting_a_budget_deletes_its_buckets(home: Organization, budget: Budget) -> None:
    call(budget, PUSD)
    change_limits(home, Scope.KEY, "key", {"max_budget": None, "budget_duration": None})
    assert not RollingSpend.objects.exists()


@pytest.mark.parametrize("seed", range(4))
def test_no_span_has_more_than_the_limit(budget: Budget, seed: int) -> None:
    """Random calls and times against a model that knows every call. What the model has room for with a bucket to spare
    is admitted, and the number of rows is bounded."""
    rng = random.Random(seed)
    bucket = HOUR / BUCKETS
    now, spent = timedelta(), list[tuple[timedelta, int]]()
    admitted = 0
    for _ in range(150):
        step = rng.choice([timedelta(0), timedelta(seconds=20), bucket, 7 * bucket, HOUR / 2])
        now += step
        pass_time(step)
        estimate = rng.randrange(1, PUSD // 2)
        cost = rng.choice([0, estimate // 3, estimate])
        # A bucket's width and the seconds that the test itself takes
        counted = sum(pusd for at, pusd in spent if at > now - HOUR - 2 * bucket)
        if call(budget, estimate, cost_pusd=cost):
            admitted += 1
            spent.append((now, cost))
        else:
            assert counted + estimate > PUSD
        assert sum(pusd for at, pusd in spent if at > now - HOUR) <= PUSD
        assert RollingSpend.objects.count() <= BUCKETS + 2
    assert admitted > 10
    window = BudgetWindow.objects.get()
    kept = RollingSpend.objects.aggregate(sum=Sum("settled_pusd"))["sum"] or 0
    assert window.settled_pusd == kept
    assert window.leased_pusd == 0
