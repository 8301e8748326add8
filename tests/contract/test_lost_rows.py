"""Rows of processes that died: found, charged by their estimate, and corrected by what arrives later.

Every promise is about what other processes see, so nothing here runs inside a test's transaction.
"""

import asyncio
import itertools
import random
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from django.db import transaction
from django.utils import timezone

from billing.bookkeeping import STALE, correct_lost, price_pending, sweep_open
from billing.ledger import HEARTBEAT, HEARTBEAT_S, SpendLedger
from billing.models import Price, SpendLog, UsageHour, Writer
from billing.pricing import cost
from billing.spend_rows import BUCKET
from gateway.celery import app
from gateway.protocol.call import Finish
from gateway.protocol.usage import Usage, UsageSource
from gateway.state.group_commit import GroupCommit
from gateway.state.statement import DatabaseAway, Operation
from tests.contract.bookkeeping import (
    LINES,
    LONG,
    PRICE,
    SHORT,
    UNREADABLE,
    WHEN,
    RolledBack,
    age,
    all_rows,
    assert_sums_are_right,
    attempt,
    keep_books,
    lose,
    make_open,
    make_rows,
    only,
    price_all,
    run_workers,
    states,
    usage_of,
)


class CutOff:
    """The backend of a process that no longer reaches the database."""

    async def write(self, operations: Sequence[Operation]) -> None:
        raise DatabaseAway("cut off")

    def write_now(self, operation: Operation) -> bool:
        return False

    async def close(self) -> None:
        pass


# Only the ledger's tables are emptied after a test: the default organization stays.
pytestmark = [
    pytest.mark.django_db(transaction=True, available_apps=["billing"]),
    pytest.mark.usefixtures("above_organizations", "sound_ledger"),
]


def test_a_row_of_a_dead_process_is_lost_charged_by_its_estimate_and_in_the_sums(price: str) -> None:
    make_open(3, price_id=price, writer_id="dead")
    make_rows(1, price_id=price, writer_id="dead")
    age("dead", seen=LONG, suspected=LONG)
    assert sweep_open() == 3
    assert states() == ["lost", "lost", "lost", "metered"]
    for row in SpendLog.objects.filter(state="lost"):
        assert row.cost_pusd == cost(usage_of(row), PRICE)
        assert (row.finish, row.usage_source) == ("gateway_crash", "estimated")
        assert row.ended_at is not None
    price_all()
    assert sweep_open() == 0
    assert_sums_are_right()


@pytest.mark.parametrize(
    ("seen", "suspected", "is_lost"),
    [
        (SHORT, None, False),
        (LONG, None, False),  # stale, but not suspected for long enough
        (LONG, SHORT, False),
        (LONG, LONG, True),
        (SHORT, LONG, False),
    ],
)
def test_a_process_is_dead_only_when_its_heart_stays_still_under_watch(
    price: str, seen: timedelta, suspected: timedelta | None, is_lost: bool
) -> None:
    make_open(1, price_id=price)
    age("writer", seen=seen, suspected=suspected)
    sweep_open()
    assert states() == ["lost" if is_lost else "open"]


def test_the_open_rows_of_a_killed_process_are_settled_within_ten_seconds() -> None:
    """It is stale, a sweep suspects it, it is stale for as long again, and another sweep settles its rows."""
    sweep_s = app.conf.beat_schedule["sweep-open"]["schedule"]
    stale_s = STALE.total_seconds()
    assert 2 * (stale_s + sweep_s) < 10
    assert stale_s >= 3 * HEARTBEAT_S


@pytest.mark.parametrize("phase_s", [0.0, 0.5, 0.9])
def test_a_stall_of_five_seconds_is_no_death(price: str, phase_s: float) -> None:
    """The sweeps of each second see the heart still, and then beating."""
    make_open(1, price_id=price)
    for second in range(6):
        passed = timedelta(seconds=second + phase_s)
        seen_late = max(passed - STALE, timedelta(0))  # a sweep a second has suspected it since
        age("writer", seen=passed, suspected=seen_late if passed > STALE else None)
        sweep_open()
    assert states() == ["open"]


def test_after_an_outage_of_the_database_the_living_have_time_to_beat(price: str, tmp_path: Path) -> None:
    make_open(1, price_id=price)
    age("writer", seen=timedelta(minutes=10))
    sweep_open()
    sweep_open()
    assert states() == ["open"]
    assert Writer.objects.get(id="writer").suspected_at is not None
    keep_books(lambda ledger, commits: commits.submit(HEARTBEAT, ("writer",)), tmp_path)
    beating = Writer.objects.get(id="writer")
    assert beating.suspected_at is None
    assert timezone.now() - beating.seen_at < timedelta(seconds=5)
    sweep_open()
    assert states() == ["open"]


def test_a_writer_that_nobody_knows_is_watched_before_it_is_given_up(price: str) -> None:
    """It died before its first heartbeat was written."""
    make_open(1, price_id=price, writer_id="unknown")
    sweep_open()
    assert states() == ["open"]
    assert Writer.objects.filter(id="unknown").exists()
    age("unknown", seen=LONG, suspected=LONG)
    sweep_open()
    assert states() == ["lost"]


@pytest.mark.parametrize("lines", [LINES, {}], ids=["priced as lost", "unpriced as lost"])
def test_a_close_that_comes_after_all_replaces_the_estimate_of_a_lost_row(
    lines: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = attempt(Price.objects.create(deployment_id="first", lines=lines).id, ended_at=WHEN.timestamp() + 1)
    lose(one, tmp_path)
    charged = only().cost_pusd
    one.usage, one.usage_source = Usage(input_tokens=999, output_tokens=5), UsageSource.PROVIDER
    keep_books(lambda ledger, commits: ledger.close(one), tmp_path)
    assert price_all() == 0
    assert (only().state, only().lost_tokens) == ("late", one.call.input_estimate)
    assert correct_lost() == 1
    row = only()
    assert (row.state, row.finish, row.usage_source) == ("priced" if lines else "unpriced", "complete", "provider")
    assert (row.input_tokens, row.output_tokens, row.cost_pusd) == (999, 5, cost(one.usage, PRICE) if lines else None)
    assert_sums_are_right()
    [correction, total] = [record for record in caplog.records if record.name == "billing.bookkeeping"]
    assert vars(correction) | {"charged_pusd": charged, "cost_pusd": row.cost_pusd} == vars(correction)
    assert vars(total)["rows"] == 1


def test_a_replacement_counts_once_however_often_it_is_replayed(price: str, tmp_path: Path) -> None:
    one = attempt(price, ended_at=WHEN.timestamp() + 1, usage=Usage(input_tokens=999))
    lose(one, tmp_path)
    for _ in range(2):  # before and after it is corrected
        for _ in range(2):
            keep_books(lambda ledger, commits: ledger.open(one), tmp_path)
            keep_books(lambda ledger, commits: ledger.close(one), tmp_path)
        price_all()
        correct_lost()
        assert (states(), only().input_tokens) == (["priced"], 999)
        assert_sums_are_right()
    assert (price_pending(), correct_lost(), sweep_open()) == (0, 0, 0)


def test_a_lost_row_of_which_nothing_was_sent_costs_nothing(price: str, tmp_path: Path) -> None:
    one = attempt(price, is_sent=False, finish=Finish.UPSTREAM_ERROR, status_code=502, ended_at=WHEN.timestamp() + 1)
    lose(one, tmp_path)
    keep_books(lambda ledger, commits: ledger.close(one), tmp_path)
    correct_lost()
    assert (only().cost_pusd, only().status_code, UsageHour.objects.get().cost_pusd) == (0, 502, 0)
    assert_sums_are_right()


@pytest.mark.parametrize("replayer", ["writer", "another"], ids=["the process itself", "another process"])
def test_the_spool_of_a_process_that_was_cut_off_replaces_what_was_settled_as_lost(
    price: str, tmp_path: Path, replayer: str
) -> None:
    """40 streams are answered while their process is cut off from the database and the worker is not."""
    usage = Usage(input_tokens=7, output_tokens=1_000)
    attempts = [attempt(price, ended_at=WHEN.timestamp() + 60, usage=usage) for _ in range(40)]

    async def open_all(ledger: SpendLedger, commits: GroupCommit) -> None:
        await asyncio.gather(*map(ledger.open, attempts))

    async def close_all(ledger: SpendLedger, commits: GroupCommit) -> None:
        await asyncio.gather(*map(ledger.close, attempts))

    keep_books(open_all, tmp_path)
    age("writer", seen=LONG, suspected=LONG)
    keep_books(close_all, tmp_path, to=CutOff())
    assert sweep_open() == 40
    assert set(states()) == {"lost"}
    keep_books(lambda ledger, commits: ledger.start(), tmp_path, writer_id=replayer)
    assert correct_lost() == 40
    assert {row.cost_pusd for row in SpendLog.objects.all()} == {cost(usage, PRICE)}
    assert_sums_are_right()


def test_usage_that_comes_while_sweepers_and_workers_are_at_work_is_counted_once(price: str, tmp_path: Path) -> None:
    """A process that seemed dead closes its rows, some before they are lost, some while, some after."""
    usage = Usage(input_tokens=7, output_tokens=1_000)
    attempts = [attempt(price, ended_at=WHEN.timestamp() + 60, usage=usage) for _ in range(60)]

    async def open_all(ledger: SpendLedger, commits: GroupCommit) -> None:
        await asyncio.gather(*map(ledger.open, attempts))

    async def close_some(ledger: SpendLedger, commits: GroupCommit) -> None:
        for one in attempts:
            await ledger.close(one)

    keep_books(open_all, tmp_path)
    age("writer", seen=LONG, suspected=LONG)
    numbers = itertools.count()

    def work(rng: random.Random) -> None:
        if next(numbers) == 0:
            keep_books(close_some, tmp_path, writer_id="writer")
            return
        for _ in range(40):
            for step in rng.sample([sweep_open, price_pending, correct_lost], 3):
                step(batch_rows=7)

    run_workers(3, work)
    while sweep_open() + price_pending() + correct_lost():
        pass
    assert set(states()) == {"priced"}
    assert {row.cost_pusd for row in SpendLog.objects.all()} == {cost(usage, PRICE)}
    assert_sums_are_right()


def test_of_two_processes_that_close_one_lost_row_the_first_counts(price: str, tmp_path: Path) -> None:
    one = attempt(price, ended_at=WHEN.timestamp() + 1, usage=Usage(input_tokens=999))
    lose(one, tmp_path)
    keep_books(lambda ledger, commits: ledger.close(one), tmp_path / "one", writer_id="one")
    one.usage = Usage(input_tokens=5, output_tokens=7)
    keep_books(lambda ledger, commits: ledger.close(one), tmp_path / "two", writer_id="two")
    assert correct_lost() == 1
    keep_books(lambda ledger, commits: ledger.close(one), tmp_path / "three", writer_id="three")
    assert (price_all(), correct_lost(), sweep_open()) == (0, 0, 0)
    assert (states(), only().input_tokens, only().output_tokens) == (["priced"], 999, 0)
    assert_sums_are_right()


@pytest.mark.rows_by_hand
def test_workers_that_compete_and_fail_correct_each_lost_row_once(price: str) -> None:
    make_rows(120, price_id=price, state="late", lost_tokens=5, cost_pusd=5 * 150_000)
    hours = {(row.started_at.replace(minute=0), *(getattr(row, name) for name in BUCKET)): 0 for row in all_rows()}
    for row in all_rows():
        hours[(row.started_at.replace(minute=0), *(getattr(row, name) for name in BUCKET))] += 1
    for key, count in hours.items():  # as the sweeper has charged them
        sums = {"requests": count, "failures": count, "estimated": count, "input_tokens": 5 * count}
        fields = dict(zip(("hour", *BUCKET), key, strict=True))
        UsageHour.objects.create(**fields, **sums, cost_pusd=5 * 150_000 * count)

    def work(rng: random.Random) -> None:
        for _ in range(30):
            try:
                with transaction.atomic():
                    correct_lost(batch_rows=7)
                    if rng.random() < 0.3:
                        raise RolledBack
            except RolledBack:
                pass

    run_workers(3, work)
    while correct_lost():
        pass
    assert set(states()) == {"priced"}
    assert_sums_are_right()


def test_sweepers_that_compete_lose_each_row_once(price: str) -> None:
    make_open(90, price_id=price)
    age("writer", seen=LONG, suspected=LONG)

    def work(rng: random.Random) -> None:
        for _ in range(30):
            try:
                with transaction.atomic():
                    sweep_open(batch_rows=7)
                    if rng.random() < 0.3:
                        raise RolledBack
            except RolledBack:
                pass

    run_workers(3, work)
    while sweep_open():
        pass
    assert set(states()) == {"lost"}
    assert_sums_are_right()


@pytest.mark.parametrize("lines", [UNREADABLE, {"input": "1"}], ids=["an unreadable price", "a cost out of range"])
def test_a_lost_row_that_cannot_be_priced_does_not_hold_up_the_others(price: str, lines: dict[str, str]) -> None:
    broken = Price.objects.create(deployment_id="x", lines=lines).id
    make_open(1, price_id=broken, input_tokens=10**12)
    make_open(2, price_id=price)
    age("writer", seen=LONG, suspected=LONG)
    sweep_open()
    assert states() == ["lost", "lost", "lost"]
    assert SpendLog.objects.filter(cost_pusd=None).count() == 1
    assert_sums_are_right()


def test_writers_of_long_ago_are_forgotten_and_the_living_kept() -> None:
    age("old", seen=timedelta(days=3))
    age("young", seen=timedelta(hours=1))
    assert sweep_open() == 0
    assert list(Writer.objects.values_list("id", flat=True)) == ["young"]


def test_a_busy_gateway_forgets_writers_too_but_none_with_an_open_row(price: str) -> None:
    make_open(1, price_id=price, writer_id="busy")
    make_open(1, price_id=price, writer_id="dying")
    age("busy", seen=SHORT)
    age("dying", seen=timedelta(days=3))
    age("old", seen=timedelta(days=3))
    assert sweep_open() == 0
    assert set(Writer.objects.values_list("id", flat=True)) == {"busy", "dying"}
    age("dying", seen=timedelta(days=3), suspected=LONG)
    assert sweep_open() == 1
    assert sweep_open() == 0
    assert list(Writer.objects.values_list("id", flat=True)) == ["busy"]
