"""Budget windows in the database: leased, settled, returned and shown, in either database."""

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.db import connection, transaction
from django.utils import timezone
from django_scopes import scopes_disabled

from gateway.protocol.amounts import PUSD
from tenants.budget_store import (
    LeaseRefused,
    LeaseRequest,
    WindowCost,
    add_spend,
    delete_budgets,
    give_back,
    lease,
    return_leases_of,
    settle_costs,
)
from tenants.budget_windows import find_window
from tenants.limits import change_limits, read_spend, read_spends, reset_spend
from tenants.models import (
    DEFAULT_ORGANIZATION,
    Budget,
    BudgetLease,
    BudgetTemplate,
    BudgetWindow,
    Organization,
    Scope,
    Team,
)
from tenants.rules import spender_id
from tenants.teams import delete_teams

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def above_organizations() -> Iterator[None]:
    with scopes_disabled():
        yield


@pytest.fixture
def home() -> Organization:
    """Emptying `tenants` after a test takes the default organization with it."""
    Organization.objects.get_or_create(id=DEFAULT_ORGANIZATION, defaults={"name": "Default"})
    return Organization.objects.create(id="home", name="Home")


def request(budget: Budget, scope_id: str, pusd: int, zone: str = "UTC", scope: Scope = Scope.KEY) -> LeaseRequest:
    span = find_window(budget.duration, ZoneInfo(zone), datetime.now(UTC))
    return LeaseRequest(budget.id, budget.organization_id, scope, scope_id, span.starts_at, span.ends_at, pusd)


def lease_all(*requests: LeaseRequest, writer_id: str = "writer") -> list[Any]:
    result = lease(requests, writer_id)
    assert isinstance(result, list), result
    return result


def settle(budget: Budget, pusd: int, scope_id: str, **kwargs: Any) -> None:
    """A call of this cost, from its lease to its pricing."""
    (leased,) = lease_all(request(budget, scope_id, pusd, **kwargs))
    with transaction.atomic():
        settle_costs([WindowCost(leased.window_id, "writer", datetime.now(UTC), pusd)])


def test_spend_is_that_of_the_main_budgets_window(home: Organization) -> None:
    change_limits(home, Scope.KEY, "key", {"max_budget": 2, "budget_duration": "30d", "model_max_budget": {"m": 1}})
    main = Budget.objects.get(scope=Scope.KEY, scope_id="key", model="")
    settle(main, PUSD // 2, "key")
    add_spend({("home", Scope.KEY, "key"): 7 * PUSD})
    spend = read_spend(home, Scope.KEY, "key")
    window = BudgetWindow.objects.get(budget=main)
    assert (spend["spend"], spend["total_spend"]) == (0.5, 7.0)
    assert spend["held"] == window.leased_pusd / PUSD
    assert window.ends_at is not None
    assert spend["budget_reset_at"] == window.ends_at.isoformat()
    assert [(entry["model"], entry["max_budget"], entry["spend"]) for entry in spend["budgets"]] == [
        (None, 2.0, 0.5),
        ("m", 1.0, 0.0),
    ]


def test_spend_without_a_duration_is_that_of_all_time(home: Organization) -> None:
    change_limits(home, Scope.TEAM, "team", {"max_budget": 2})
    add_spend({("home", Scope.TEAM, "team"): 7 * PUSD})
    spend = read_spend(home, Scope.TEAM, "team")
    assert (spend["spend"], spend["total_spend"], spend["budget_reset_at"]) == (7.0, 7.0, None)
    assert [(entry["spend"], entry["remaining"]) for entry in spend["budgets"]] == [(7.0, 0.0)]
    assert read_spend(home, Scope.TEAM, "other") == {
        "spend": 0.0,
        "total_spend": 0.0,
        "held": 0.0,
        "budget_reset_at": None,
        "budgets": [],
    }


def test_spends_of_a_page_are_read_with_three_queries(home: Organization, django_assert_num_queries: Any) -> None:
    template = BudgetTemplate.objects.create(organization=home)
    change_limits(home, Scope.TEMPLATE, template.id, {"max_budget": 3, "budget_duration": "1d"})
    shared = Budget.objects.get(scope=Scope.TEMPLATE)
    settle(shared, PUSD, "key-2")
    with django_assert_num_queries(3):
        spends = read_spends(home, Scope.KEY, {f"key-{number}": template.id for number in range(100)})
    assert {key: spend["spend"] for key, spend in spends.items() if spend["spend"]} == {"key-2": 1.0}


def test_end_users_of_two_organizations_do_not_share_the_platforms_template(home: Organization) -> None:
    platform = Organization.objects.get(id=DEFAULT_ORGANIZATION)
    template = BudgetTemplate.objects.create(organization=platform)
    change_limits(platform, Scope.TEMPLATE, template.id, {"max_budget": 3, "budget_duration": "1d"})
    shared = Budget.objects.get(scope=Scope.TEMPLATE)
    settle(shared, PUSD, spender_id("home", Scope.END_USER, "ann"), scope=Scope.END_USER)
    assert read_spend(home, Scope.END_USER, "ann", template.id)["spend"] == 1.0
    assert read_spend(platform, Scope.END_USER, "ann", template.id)["spend"] == 0.0


def test_a_reset_counts_from_now_and_keeps_the_windows_sum(home: Organization) -> None:
    change_limits(home, Scope.KEY, "key", {"max_budget": 2, "budget_duration": "1d"})
    budget = Budget.objects.get()
    settle(budget, PUSD, "key")
    add_spend({("home", Scope.KEY, "key"): PUSD})
    reset_spend(home, Scope.KEY, "key", 0)
    settle(budget, PUSD // 4, "key")
    spend = read_spend(home, Scope.KEY, "key")
    assert (spend["spend"], spend["total_spend"]) == (0.25, 0.0)
    assert BudgetWindow.objects.get().settled_pusd == PUSD * 5 // 4


# Many processes at once


LIMIT = 1_000_000


def make_budgets(home: Organization, count: int, limit_pusd: int = LIMIT) -> list[Budget]:
    return [
        Budget.objects.create(organization=home, scope=Scope.KEY, scope_id=f"key-{number}", limit_pusd=limit_pusd)
        for number in range(count)
    ]


def run_threads(count: int, act: Callable[[int], None]) -> None:
    """Runs `act` in threads, each with a connection of its own, and raises the first error of them."""

    def run(number: int) -> None:
        try:
            with scopes_disabled():
                act(number)
        finally:
            connection.close()

    with ThreadPoolExecutor(count) as pool:
        for future in [pool.submit(run, number) for number in range(count)]:
            future.result(timeout=120)


def sample_until(is_over: threading.Event, limit_pusd: int) -> list[tuple[int, int]]:
    """Samples all windows; fails where one is over its limit, or negative."""
    samples = []
    while not is_over.wait(0.005):
        for settled, leased in BudgetWindow.objects.values_list("settled_pusd", "leased_pusd"):
            assert settled + leased <= limit_pusd, (settled, leased)
            assert min(settled, leased) >= 0
            samples.append((settled, leased))
    return samples


def verify_windows() -> None:
    """Each window's leased amount is the sum of its leases."""
    for window in BudgetWindow.objects.all():
        leases = BudgetLease.objects.filter(window=window).values_list("amount_pusd", flat=True)
        assert window.leased_pusd == sum(max(0, amount) for amount in leases), window


def test_sixteen_processes_never_pass_a_limit_and_settle_every_call(home: Organization) -> None:
    """Each call leases several windows, costs at most what it leased, is priced, and what is over goes back."""
    budgets = make_budgets(home, 6)
    spent: Counter[str] = Counter()
    lock = threading.Lock()
    is_over = threading.Event()

    def act(number: int) -> None:
        if number == 0:
            samples = sample_until(is_over, LIMIT)
            assert samples
            return
        rng = random.Random(number)
        try:
            for _ in range(40):
                chosen = rng.sample(budgets, 3)
                wanted = rng.randrange(1, LIMIT // 50)
                result = lease([request(budget, budget.scope_id, wanted) for budget in chosen], f"w{number}")
                if not isinstance(result, list):
                    continue
                costs = []
                for budget, leased in zip(chosen, result, strict=True):
                    assert leased.amount_pusd is not None
                    cost = rng.randrange(wanted + 1)
                    costs.append(WindowCost(leased.window_id, f"w{number}", datetime.now(UTC), cost))
                    with lock:
                        spent[budget.id] += cost
                    unused = leased.amount_pusd - cost
                    give_back({leased.lease_id: unused})
                with transaction.atomic():
                    settle_costs(costs)
        finally:
            with lock:
                done.append(number)
                if len(done) == 15:
                    is_over.set()

    done: list[int] = []
    run_threads(16, act)
    for window in BudgetWindow.objects.all():
        assert window.settled_pusd == spent[window.budget_id]
        assert window.leased_pusd == 0
    verify_windows()
    assert max(spent.values()) > LIMIT // 2


def test_budgets_that_are_deleted_amid_leases_and_pricing_stop_nothing(home: Organization) -> None:
    budgets = make_budgets(home, 8)

    def act(number: int) -> None:
        rng = random.Random(number)
        for turn in range(15):
            if number < 2:
                victim = budgets[(2 * turn + number) % 8]
                delete_budgets(Budget.objects.filter(id=victim.id))
                Budget.objects.get_or_create(
                    id=victim.id,
                    defaults={
                        "organization": home,
                        "scope": Scope.KEY,
                        "scope_id": victim.scope_id,
                        "limit_pusd": LIMIT,
                    },
                )
                continue
            chosen = rng.sample(budgets, 4)
            result = lease([request(budget, budget.scope_id, 10) for budget in chosen], f"w{number}")
            assert isinstance(result, list)
            with transaction.atomic():
                settle_costs(
                    [
                        WindowCost(leased.window_id, f"w{number}", datetime.now(UTC), 10)
                        for leased in result
                        if leased.window_id
                    ]
                )
            give_back({leased.lease_id: 0 for leased in result})

    run_threads(8, act)
    verify_windows()


def test_limits_are_changed_and_deleted_amid_leases_of_all_their_budgets(home: Organization) -> None:
    """One write deletes several budgets of a key and of its team; a call leases of all of them."""
    scopes = [(Scope.KEY, "key"), (Scope.TEAM, "team")]
    full = {
        "max_budget": 10,
        "model_max_budget": {"m": 5},
        "budget_limits": [{"budget_duration": "1d", "max_budget": 5}, {"budget_duration": "7d", "max_budget": 5}],
    }
    cleared = {"max_budget": None, "model_max_budget": {}, "budget_limits": []}
    is_over = threading.Event()

    def write() -> None:
        for turn in range(24):
            body = full if turn % 2 else cleared
            with transaction.atomic():
                change_limits(home, *scopes[turn // 2 % 2], body)
            if turn % 8 == 7:
                delete_teams(Team.objects.filter(id="team"))

    def act(number: int) -> None:
        if number == 0:
            try:
                write()
            finally:
                is_over.set()
            return
        while not is_over.is_set():
            rows = list(Budget.objects.order_by("-id"))
            requests = [request(row, row.scope_id, 10, scope=Scope(row.scope)) for row in rows]
            for part in (*([one] for one in requests), requests):  # the newest budget gets the oldest window
                result = lease(part, f"w{number}")
                assert isinstance(result, list)
            give_back({leased.lease_id: leased.amount_pusd or 0 for leased in result})

    Team.objects.create(id="team", organization=home, alias="Team")
    for scope, scope_id in scopes:
        change_limits(home, scope, scope_id, full)
    run_threads(5, act)
    verify_windows()


def test_a_limit_that_is_lowered_holds_from_the_next_lease_on(home: Organization) -> None:
    (budget,) = make_budgets(home, 1)
    (leased,) = lease_all(request(budget, "key-0", 600_000))
    Budget.objects.filter(id=budget.id).update(limit_pusd=500_000)
    refusal = lease([request(budget, "key-0", 1)], "other")
    assert isinstance(refusal, LeaseRefused)
    assert refusal.state.limit_pusd == 500_000
    give_back({leased.lease_id: 600_000})
    lease_all(request(budget, "key-0", 500_000), writer_id="other")


def test_a_temporary_increase_ends_by_itself(home: Organization) -> None:
    (budget,) = make_budgets(home, 1, limit_pusd=100)
    budgets = Budget.objects.filter(id=budget.id)
    budgets.update(increase_pusd=50, increase_ends_at=timezone.now() + timedelta(hours=1))
    lease_all(request(budget, "key-0", 150))
    assert isinstance(lease([request(budget, "key-0", 1)], "writer"), LeaseRefused)
    budgets.update(increase_ends_at=timezone.now() - timedelta(seconds=1))
    refusal = lease([request(budget, "key-0", 1)], "writer")
    assert isinstance(refusal, LeaseRefused)
    assert refusal.state.limit_pusd == 100


def test_a_call_that_costs_more_than_was_leased_leaves_nothing_leased(home: Organization) -> None:
    """In either order: priced before the process accounts for it, or afterwards."""
    for budget, is_priced_first in zip(make_budgets(home, 2), (True, False), strict=True):
        (leased,) = lease_all(request(budget, budget.scope_id, 20_000))
        cost = [WindowCost(leased.window_id, "writer", datetime.now(UTC), 50_000)]
        if is_priced_first:
            with transaction.atomic():
                settle_costs(cost)
            assert BudgetWindow.objects.get(budget=budget).leased_pusd == 0
            give_back({leased.lease_id: -30_000})
        else:
            give_back({leased.lease_id: -30_000})
            assert BudgetWindow.objects.get(budget=budget).leased_pusd == 50_000
            with transaction.atomic():
                settle_costs(cost)
        window = BudgetWindow.objects.get(budget=budget)
        assert (window.settled_pusd, window.leased_pusd) == (50_000, 0)


def test_a_lease_that_its_process_gave_up_waiting_for_is_not_made(home: Organization) -> None:
    (budget,) = make_budgets(home, 1)
    lease([request(budget, "key-0", 10)], "writer", lambda: False)
    assert not BudgetLease.objects.exists()
    assert not BudgetWindow.objects.exists()


def test_a_call_from_before_a_lapse_takes_nothing_of_the_new_lease(home: Organization) -> None:
    (budget,) = make_budgets(home, 1)
    (first,) = lease_all(request(budget, "key-0", 100))
    return_leases_of(["writer"], lambda writers: writers)
    assert BudgetWindow.objects.get().leased_pusd == 0
    (second,) = lease_all(request(budget, "key-0", 20_000))
    assert second.lease_id != first.lease_id
    with transaction.atomic():
        settle_costs([WindowCost(first.window_id, "writer", datetime.now(UTC) - timedelta(seconds=7), 60)])
    give_back({first.lease_id: 40})
    window = BudgetWindow.objects.get()
    assert (window.settled_pusd, window.leased_pusd) == (60, 20_000)


def test_a_process_that_is_back_keeps_its_leases(home: Organization) -> None:
    (budget,) = make_budgets(home, 1)
    lease_all(request(budget, "key-0", 20_000))
    return_leases_of(["writer"], lambda writers: [])
    assert BudgetWindow.objects.get().leased_pusd == 20_000


def test_a_correction_gives_back_to_the_lease_what_was_taken_too_much(home: Organization) -> None:
    (budget,) = make_budgets(home, 1)
    (leased,) = lease_all(request(budget, "key-0", 20_000))
    with transaction.atomic():
        settle_costs([WindowCost(leased.window_id, "writer", datetime.now(UTC), 9_000)])
    with transaction.atomic():
        settle_costs([WindowCost(leased.window_id, "writer", datetime.now(UTC), -5_000)])
    window = BudgetWindow.objects.get()
    assert (window.settled_pusd, window.leased_pusd) == (4_000, 16_000)
    verify_windows()


def test_a_budget_of_all_time_begins_with_what_was_spent_before(home: Organization) -> None:
    add_spend({("home", Scope.KEY, "key-0"): 70, ("home", Scope.END_USER, "ann"): 30})
    (budget,) = make_budgets(home, 1, limit_pusd=100)
    refusal = lease([request(budget, "key-0", 31)], "writer")
    assert isinstance(refusal, LeaseRefused)
    assert refusal.state.spent_pusd == 70
    lease_all(request(budget, "key-0", 30))
    reset_spend(home, Scope.KEY, "key-0", 0)
    lease_all(request(budget, "key-0", 70))
    user = Budget.objects.create(organization=home, scope=Scope.END_USER, scope_id="ann", limit_pusd=100)
    spender = spender_id("home", Scope.END_USER, "ann")
    refusal = lease([request(user, spender, 71, scope=Scope.END_USER)], "writer")
    assert isinstance(refusal, LeaseRefused)


def test_each_threshold_is_reported_once(home: Organization, caplog: pytest.LogCaptureFixture) -> None:
    (budget,) = make_budgets(home, 1, limit_pusd=100)
    Budget.objects.update(soft_limit_pusd=50)
    for _ in range(10):
        settle(budget, 10, "key-0")
    reports = [
        (vars(entry)["kind"], vars(entry)["percent"]) for entry in caplog.records if "threshold" in entry.message
    ]
    assert reports == [("soft", 80), ("soft", 100), ("hard", 80), ("hard", 100)]
