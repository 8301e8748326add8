"""`manage.py verify_ledger` finds every number that differs, and nothing where all agree."""

import io
import random
from collections.abc import Iterator
from datetime import date, timedelta

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.db.models import F
from django.utils import timezone
from django_scopes import scopes_disabled

from billing.bookkeeping import price_pending
from billing.models import Price, PriceAdjustment, SpendLog, UsageCoverage, UsageHour
from billing.repricing import Scope as RepriceScope
from billing.repricing import run_step, start_job
from billing.verification import Disagreement, verify_ledger
from tenants.budget_windows import ALL_TIME
from tenants.models import Budget, BudgetWindow, Organization, RollingSpend, Scope, SpendTotal
from tests.contract.bookkeeping import LINES, WHEN, make_rows

pytestmark = pytest.mark.django_db
DEARER = {"input": "0.000001", "output": "0.000002", "cache_read": "0.000001"}


@pytest.fixture(autouse=True)
def book_keeper() -> Iterator[None]:
    with scopes_disabled():
        # the migration's row, which the flush after a test with transactions of its own takes away
        UsageCoverage.objects.update_or_create(id=1, defaults={"complete_from": date(2000, 1, 1)})
        yield


def make_priced(count: int = 120, **fields: object) -> list[SpendLog]:
    price = Price.objects.create(deployment_id="first", lines=LINES)
    named = {"team_id": "team", "user_id": "user", "end_user": "customer", "price_id": price.id}
    rows = make_rows(count, random.Random(4), **(named | fields))
    while price_pending():
        pass
    return rows


def make_window(**fields: object) -> BudgetWindow:
    organization, _ = Organization.objects.get_or_create(id="home", defaults={"name": "Home"})
    budget = Budget.objects.create(organization=organization, scope=Scope.TEAM, scope_id="team", limit_pusd=10**18)
    span = {"starts_at": WHEN - timedelta(hours=1), "ends_at": WHEN + timedelta(days=1)}
    return BudgetWindow.objects.create(budget=budget, scope=Scope.TEAM, scope_id="team", **(span | fields))


def reprice() -> None:
    version = Price.objects.create(deployment_id="first", lines=DEARER)
    job = start_job(RepriceScope("first", False, None, timezone.now() + timedelta(days=1)), actor="test")
    while run_step(job.id, lambda _deployment, _organization, _started_at, _upstream_model: version.id):
        pass


def found() -> set[tuple[str, str, int]]:
    """The beginning of where, the name and the difference."""
    return {(each.where.partition(" of ")[0][:16], each.name, each.found - each.expected) for each in verify_ledger()}


def test_a_ledger_that_was_priced_and_priced_again_agrees() -> None:
    window = make_window()
    make_priced(budget_windows=f"{window.id},deleted")
    make_priced(30, price_id="", key_id="", end_user="")
    make_rows(3, state="open")
    make_rows(3, state="aborted")
    assert list(verify_ledger()) == []
    reprice()
    assert PriceAdjustment.objects.exists()
    window.refresh_from_db()
    assert window.settled_pusd > 0
    out = io.StringIO()
    call_command("verify_ledger", stdout=out)
    assert out.getvalue().startswith("150 rows, ")


def test_an_empty_ledger_agrees() -> None:
    assert list(verify_ledger()) == []


@pytest.mark.parametrize("name", ["cost_pusd", "requests", "failures", "estimated", "unpriced", "reasoning_tokens"])
def test_an_hour_that_differs_is_found_with_its_number(name: str) -> None:
    make_priced()
    hour = UsageHour.objects.order_by("id").first()
    assert hour is not None
    UsageHour.objects.filter(pk=hour.pk).update(**{name: F(name) + 1})
    wrong = [each for each in verify_ledger() if each.where.startswith("hour")]
    assert [(each.name, each.found - each.expected) for each in wrong] == [(name, 1)]
    assert f"{hour.hour:%Y-%m-%dT%H}Z" in wrong[0].where
    assert hour.key_id in wrong[0].where


def test_an_hour_that_is_missing_and_one_without_rows_are_found() -> None:
    make_priced()
    first, last = UsageHour.objects.order_by("hour").first(), UsageHour.objects.order_by("-hour").first()
    assert first is not None
    assert last is not None
    requests = first.requests
    first.delete()
    UsageHour.objects.filter(pk=last.pk).update(hour=last.hour + timedelta(days=400))
    names = [(each.where[:18], each.found - each.expected) for each in verify_ledger() if each.name == "requests"]
    assert names == [
        (f"hour {first.hour:%Y-%m-%dT%H}", -requests),
        (f"hour {last.hour:%Y-%m-%dT%H}", -last.requests),
        (f"hour {last.hour + timedelta(days=400):%Y-%m-%dT%H}", last.requests),
    ]


def test_a_row_that_was_changed_is_found() -> None:
    rows = make_priced()
    SpendLog.objects.filter(pk=rows[0].pk).update(cost_pusd=F("cost_pusd") + 1)
    assert {(where.split()[0], off) for where, name, off in found() if name == "cost_pusd"} == {
        ("hour", -1),
        ("quarter", -1),
        ("day", -1),  # of its end user
    }


def test_a_lost_adjustment_is_found() -> None:
    make_priced()
    reprice()
    one = PriceAdjustment.objects.order_by("id").first()
    assert one is not None
    one.delete()
    assert ("cost_pusd", one.delta_pusd) in {(name, off) for _, name, off in found()}


@pytest.mark.parametrize("scope", [Scope.ORGANIZATION, Scope.TEAM, Scope.USER, Scope.KEY, Scope.END_USER])
def test_spend_in_all_that_differs_is_found(scope: Scope) -> None:
    make_priced()
    row = SpendTotal.objects.filter(scope=scope).order_by("scope_id").first()
    assert row is not None
    SpendTotal.objects.filter(pk=row.pk).update(pusd=row.pusd - 1)
    [wrong] = verify_ledger()
    assert wrong == Disagreement(f"spend in all of {scope} {row.scope_id}", "pusd", row.pusd, row.pusd - 1)


def test_spend_in_all_that_no_row_explains_is_found() -> None:
    make_priced()
    SpendTotal.objects.create(organization_id="home", scope=Scope.KEY, scope_id="nowhere", pusd=5)
    assert [each.found - each.expected for each in verify_ledger()] == [5]


def test_a_scope_that_was_deleted_has_no_total_and_agrees() -> None:
    make_priced()
    SpendTotal.objects.filter(scope=Scope.KEY, scope_id="key-1").delete()
    assert list(verify_ledger()) == []


def test_a_window_that_differs_is_found() -> None:
    window = make_window()
    make_priced(budget_windows=window.id)
    BudgetWindow.objects.filter(pk=window.pk).update(settled_pusd=F("settled_pusd") + 1)
    [wrong] = verify_ledger()
    assert (wrong.where, wrong.found - wrong.expected) == (f"window {window.id} of team team", 1)


def test_a_window_for_all_time_may_have_begun_with_more_and_never_with_less() -> None:
    window = make_window(starts_at=ALL_TIME.starts_at, ends_at=None)
    make_priced(budget_windows=window.id)
    BudgetWindow.objects.filter(pk=window.pk).update(settled_pusd=F("settled_pusd") + 100)
    assert list(verify_ledger()) == []
    BudgetWindow.objects.filter(pk=window.pk).update(settled_pusd=F("settled_pusd") - 101)
    assert [each.found - each.expected for each in verify_ledger()] == [-1]


def test_a_rolling_window_that_differs_from_its_parts_is_found() -> None:
    window = make_window(starts_at=ALL_TIME.starts_at + timedelta(days=30), ends_at=None)
    make_priced(budget_windows=window.id, started_at=timezone.now())
    assert RollingSpend.objects.filter(window=window, settled_pusd__gt=0).exists()
    assert list(verify_ledger()) == []
    RollingSpend.objects.filter(window=window).update(settled_pusd=F("settled_pusd") + 1)
    assert [each.found - each.expected for each in verify_ledger()] == [-1]


def test_the_command_says_what_differs_and_fails() -> None:
    make_priced()
    UsageHour.objects.update(cost_pusd=F("cost_pusd") + 1)
    out = io.StringIO()
    with pytest.raises(CommandError, match="disagrees in") as failure:
        call_command("verify_ledger", stdout=out)
    assert failure.value.returncode == 1
    assert "cost_pusd is" in out.getvalue()


@pytest.mark.django_db(transaction=True, available_apps=["billing"])
def test_it_reads_one_state_and_leaves_no_transaction() -> None:
    make_priced(20, team_id="", user_id="", end_user="", key_id="")
    SpendTotal.objects.filter(organization_id="home").delete()
    UsageHour.objects.update(cost_pusd=F("cost_pusd") + 1)
    disagreements = verify_ledger()
    first = next(disagreements)
    assert first.name == "cost_pusd"
    disagreements.close()
    assert connection.get_autocommit()
    assert not connection.in_atomic_block
    UsageHour.objects.update(cost_pusd=F("cost_pusd") - 1)
    assert list(verify_ledger()) == []
