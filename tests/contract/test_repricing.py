"""Repricing: every row once by each version, its difference in sums and budgets, the row itself as it was."""

import random
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

import pytest
from django.db import connection, transaction
from django.db.models import Sum
from django.utils import timezone

from billing.bookkeeping import correct_lost, price_pending, sweep_open
from billing.models import Price, PriceAdjustment, RepriceJob, SpendLog, UsageHour
from billing.models.constraints import MAX_SUM
from billing.pricing import PriceLines, cost
from billing.repricing import FindPrice, Scope, Totals, cancel_job, preview, run_step, start_job
from gateway.protocol.usage import Usage
from tests.contract.bookkeeping import LONG, WHEN, age, make_open, make_rows, usage_of

pytestmark = [
    pytest.mark.django_db(transaction=True, available_apps=["billing"]),
    pytest.mark.usefixtures("above_organizations", "sound_ledger"),
]

OLD = {"input": "0.00000015", "output": "0.0000006", "cache_read": "0.000000075"}
NEW = {"input": "0.0000002", "output": "0.0000006", "cache_read": "0.00000002"}
ROWS = 250  # more than two batches


def version(lines: dict[str, str]) -> str:
    return Price.objects.create(deployment_id="first", lines=lines).id


def always(price_id: str) -> FindPrice:
    return lambda _deployment, _organization, _started_at, _upstream_model: price_id


def make_priced(price_id: str = "", count: int = ROWS) -> list[SpendLog]:
    rows = make_rows(count, random.Random(3), model_group="a", price_id=price_id)
    while price_pending():
        pass
    return rows


def everything(*, is_unpriced: bool = False, model: str = "a", since: datetime | None = None) -> Scope:
    return Scope(model, is_unpriced, since, timezone.now() + timedelta(days=1))


def run(scope: Scope, find_price: FindPrice) -> RepriceJob:
    job = start_job(scope, actor="test")
    while run_step(job.id, find_price):
        pass
    job.refresh_from_db()
    return job


def sums(*fields: str) -> tuple[int, ...]:
    totals = UsageHour.objects.aggregate(**{field: Sum(field) for field in fields})
    return tuple(totals[field] or 0 for field in fields)


def total(rows: list[SpendLog], lines: dict[str, str]) -> int:
    price = PriceLines.read(lines)
    return sum(cost(usage_of(row), price) or 0 for row in rows)


def test_unpriced_rows_get_their_first_cost_in_the_row() -> None:
    rows = make_priced()
    assert sums("unpriced", "cost_pusd") == (ROWS, 0)
    price_id = version(NEW)
    job = run(everything(is_unpriced=True), always(price_id))
    assert (job.state, job.rows, job.changed, job.delta_pusd) == ("done", ROWS, ROWS, total(rows, NEW))
    assert sums("requests", "unpriced", "cost_pusd") == (ROWS, 0, total(rows, NEW))
    assert not PriceAdjustment.objects.exists()
    for row in SpendLog.objects.all():
        assert (row.state, row.price_id) == ("priced", price_id)
        assert row.cost_pusd == cost(usage_of(row), PriceLines.read(NEW))


def test_priced_rows_keep_their_cost_and_get_an_adjustment() -> None:
    old, new = version(OLD), version(NEW)
    rows = make_priced(old)
    before = {row.id: (row.cost_pusd, row.price_id, row.priced_at) for row in SpendLog.objects.all()}
    job = run(everything(), always(new))
    assert {row.id: (row.cost_pusd, row.price_id, row.priced_at) for row in SpendLog.objects.all()} == before
    assert job.delta_pusd == total(rows, NEW) - total(rows, OLD)
    assert sums("requests", "unpriced", "cost_pusd") == (ROWS, 0, total(rows, NEW))
    for adjustment in PriceAdjustment.objects.all():
        own, _, _ = before[adjustment.spend_id]
        assert own is not None
        assert (adjustment.cost_pusd, adjustment.old_price_id) == (own + adjustment.delta_pusd, old)


def test_a_second_job_with_the_same_price_changes_nothing() -> None:
    old, new = version(OLD), version(NEW)
    rows = make_priced(old)
    run(everything(), always(new))
    job = run(everything(), always(new))
    assert (job.rows, job.changed, job.delta_pusd) == (ROWS, 0, 0)
    assert sums("cost_pusd") == (total(rows, NEW),)


def test_a_third_price_adjusts_from_the_second() -> None:
    rows = make_priced(version(OLD))
    run(everything(), always(version(NEW)))
    third = {"input": "0.000001", "output": "0"}
    run(everything(), always(version(third)))
    assert sums("cost_pusd") == (total(rows, third),)
    run(everything(), always(version(OLD)))
    assert sums("cost_pusd") == (total(rows, OLD),)


def test_a_price_that_comes_back_adjusts_its_rows_again() -> None:
    first, second = version(OLD), version(NEW)
    rows = make_priced(version({"input": "0.000003", "output": "0", "cache_read": "0"}))
    for price_id, lines in ((first, OLD), (second, NEW), (first, OLD), (second, NEW), (first, OLD)):
        totals = preview(everything(), always(price_id))
        job = run(everything(), always(price_id))
        assert (totals.changed, totals.delta_pusd) == (job.changed, job.delta_pusd)
        assert job.changed > ROWS // 2
        assert sums("cost_pusd") == (total(rows, lines),)
        assert run(everything(), always(price_id)).changed == 0
    spend_id = PriceAdjustment.objects.values_list("spend_id", flat=True)[0]
    steps = PriceAdjustment.objects.filter(spend_id=spend_id).order_by("id").values_list("old_price_id", "new_price_id")
    assert list(steps)[1:] == [(first, second), (second, first), (first, second), (second, first)]


def test_a_row_that_no_price_covers_stays_unpriced() -> None:
    make_priced()
    job = run(everything(is_unpriced=True), always(version({"output": "1"})))
    assert (job.state, job.rows, job.changed) == ("done", ROWS, 0)
    assert sums("unpriced", "cost_pusd") == (ROWS, 0)
    assert run(everything(is_unpriced=True), always("")).changed == 0


@pytest.mark.parametrize("is_unpriced", [True, False])
def test_a_preview_tells_what_the_job_then_does_and_changes_nothing(is_unpriced: bool) -> None:
    make_priced("" if is_unpriced else version(OLD))
    find_price = always(version(NEW))
    totals = preview(everything(is_unpriced=is_unpriced), find_price)
    assert not PriceAdjustment.objects.exists()
    assert not RepriceJob.objects.exists()
    job = run(everything(is_unpriced=is_unpriced), find_price)
    assert totals == Totals(job.rows, job.changed, 0, job.delta_pusd)
    assert job.changed > 0


def test_only_rows_of_the_model_within_the_time_are_priced() -> None:
    make_rows(3, model_group="a", started_at=WHEN - timedelta(days=1))
    make_rows(5, model_group="a", started_at=WHEN)
    make_rows(7, model_group="b", deployment_id="second", started_at=WHEN)
    while price_pending():
        pass
    find_price = always(version(NEW))
    assert preview(everything(since=WHEN), find_price).rows == 5
    assert preview(everything(), find_price).rows == 8
    assert preview(everything(model="second"), find_price).rows == 7
    assert preview(Scope("a", False, None, WHEN), find_price).rows == 3


def test_each_row_gets_the_price_of_its_own_start() -> None:
    make_rows(1, model_group="a", started_at=WHEN, input_tokens=10)
    make_rows(1, model_group="a", started_at=WHEN + timedelta(hours=1), input_tokens=10)
    while price_pending():
        pass
    first, second = version({"input": "1", "output": "0"}), version({"input": "2", "output": "0"})

    def find_price(deployment_id: str, organization_id: str, started_at: datetime, upstream_model: str) -> str:
        assert (deployment_id, organization_id) == ("first", "home")
        return first if started_at == WHEN else second

    run(everything(is_unpriced=True), find_price)
    assert [row.price_id for row in SpendLog.objects.order_by("started_at")] == [first, second]


def test_a_job_that_is_interrupted_continues_behind_its_last_row() -> None:
    rows = make_priced(version(OLD))
    job, find_price = start_job(everything(), actor="test"), always(version(NEW))

    class Killed(Exception):
        pass

    def dies(deployment_id: str, organization_id: str, started_at: datetime, upstream_model: str) -> str:
        raise Killed

    assert run_step(job.id, find_price)
    with pytest.raises(Killed):
        run_step(job.id, dies)
    while run_step(job.id, find_price):
        pass
    job.refresh_from_db()
    assert (job.state, job.rows) == ("done", ROWS)
    assert sums("cost_pusd") == (total(rows, NEW),)


def test_a_cancelled_job_stops_and_keeps_what_it_has_done() -> None:
    rows = make_priced(version(OLD))
    job, find_price = start_job(everything(), actor="test"), always(version(NEW))
    run_step(job.id, find_price)
    assert cancel_job(job.id)
    assert not run_step(job.id, find_price)
    assert not cancel_job(job.id)
    job.refresh_from_db()
    assert (job.state, job.rows) == ("cancelled", 100)
    assert PriceAdjustment.objects.count() == job.changed
    assert sums("cost_pusd") == (total(rows, OLD) + job.delta_pusd,)


@pytest.mark.rows_by_hand
def test_a_row_that_the_sums_cannot_take_keeps_its_cost_and_stops_no_other() -> None:
    free = version({"input": "0", "output": "0"})
    for key_id in ("before", "full", "behind"):
        make_rows(1, model_group="a", key_id=key_id, price_id=free, input_tokens=10)
    while price_pending():
        pass
    UsageHour.objects.filter(key_id="full").update(cost_pusd=MAX_SUM - 1)
    job = run(everything(), always(version(NEW)))
    assert (job.state, job.rows, job.changed) == ("done", 3, 2)
    adjusted = SpendLog.objects.filter(id__in=PriceAdjustment.objects.values("spend_id"))
    assert {row.key_id for row in adjusted} == {"before", "behind"}
    assert UsageHour.objects.get(key_id="full").cost_pusd == MAX_SUM - 1
    assert job.delta_pusd == sum(row.delta_pusd for row in PriceAdjustment.objects.all())


@pytest.mark.only_on("postgres")
@pytest.mark.rows_by_hand
def test_the_parts_of_refused_rows_have_transactions_of_their_own() -> None:
    """In one they would lock sums in another order than pricing does."""
    free, new = version({"input": "0", "output": "0"}), version(NEW)
    for key_id, hours in (("other", 0), ("full", 0), ("late", 2)):
        started_at = WHEN + timedelta(hours=hours)
        make_rows(1, model_group="a", key_id=key_id, price_id=free, input_tokens=10, started_at=started_at)
    while price_pending():
        pass
    UsageHour.objects.filter(key_id="full").update(cost_pusd=MAX_SUM - 1)
    job = start_job(everything(), actor="test")

    def work() -> None:
        try:
            while run_step(job.id, always(new)):
                pass
        finally:
            connection.close()

    with ThreadPoolExecutor(1) as pool:
        with transaction.atomic():
            assert UsageHour.objects.select_for_update().get(key_id="late")
            working = pool.submit(work)
            end = time.monotonic() + 60
            while RepriceJob.objects.get(id=job.id).rows < 2 and time.monotonic() < end:
                time.sleep(0.02)
            job.refresh_from_db()
            assert (job.state, job.rows, job.changed) == ("running", 2, 1)
            assert not working.done()
        working.result(timeout=60)
    job.refresh_from_db()
    assert (job.state, job.rows, job.changed) == ("done", 3, 2)
    adjusted = SpendLog.objects.filter(id__in=PriceAdjustment.objects.values("spend_id"))
    assert {row.key_id for row in adjusted} == {"other", "late"}


def test_calls_of_the_groups_deployments_are_priced_whatever_they_are_called() -> None:
    make_rows(2, model_group="from elsewhere", deployment_id="of a")
    make_rows(3, model_group="from elsewhere", deployment_id="of b")
    while price_pending():
        pass
    job, find_price = start_job(everything(), actor="test"), always(version(NEW))
    while run_step(job.id, find_price, lambda model: [f"of {model}"]):
        pass
    assert SpendLog.objects.filter(state="priced", deployment_id="of a").count() == 2
    assert SpendLog.objects.filter(state="unpriced", deployment_id="of b").count() == 3


@pytest.mark.rows_by_hand
def test_a_lost_row_without_a_cost_stays_lost() -> None:
    make_rows(1, model_group="a", state="lost", cost_pusd=None)
    run(everything(is_unpriced=True), always(version(NEW)))
    row = SpendLog.objects.get()
    assert (row.state, row.cost_pusd is not None) == ("lost", True)


def test_an_answer_of_the_response_cache_costs_nothing_by_any_price() -> None:
    make_rows(3, model_group="a", input_tokens=10, cache_hit=True)
    make_rows(1, model_group="a", input_tokens=10, price_id=version(OLD))
    while price_pending():
        pass
    (before,) = sums("cost_pusd")
    find_price = always(version(NEW))
    totals = preview(everything(), find_price)
    job = run(everything(), find_price)
    assert (totals.changed, job.changed, totals.delta_pusd) == (1, 1, job.delta_pusd)
    assert sums("cost_pusd") == (before + job.delta_pusd,)
    hits = SpendLog.objects.filter(cache_hit=True)
    assert {row.cost_pusd for row in hits} == {0}
    assert not PriceAdjustment.objects.filter(spend_id__in=[row.id for row in hits]).exists()


def test_usage_that_comes_after_a_lost_row_was_repriced_replaces_that_cost_once() -> None:
    rows = make_open(3, price_id="", model_group="a")
    age("writer", seen=LONG, suspected=LONG)
    assert sweep_open() == 3
    run(everything(is_unpriced=True), always(version(NEW)))
    estimate = total(list(SpendLog.objects.all()), NEW)
    assert sums("requests", "unpriced", "cost_pusd") == (3, 0, estimate)
    for row in rows:  # as CLOSE does it
        SpendLog.objects.filter(id=row.id).update(
            state="late", lost_tokens=row.input_tokens, input_tokens=11, output_tokens=5, usage_source="provider"
        )
    assert (correct_lost(), correct_lost()) == (3, 0)
    known = cost(Usage(input_tokens=11, output_tokens=5), PriceLines.read(NEW)) or 0
    assert sums("requests", "unpriced", "input_tokens", "cost_pusd") == (3, 0, 33, 3 * known)
    assert {row.cost_pusd for row in SpendLog.objects.all()} == {known}
    assert run(everything(), always(version(NEW))).delta_pusd == 0
