"""Reports by rollups are those by rows, whatever has become of the rows and in every zone; a rollup that was lost or
changed is found, and built again from its rows."""

import io
import random
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import combinations
from typing import Any
from uuid import uuid4
from zoneinfo import ZoneInfo

import pytest
from django.core.management import CommandError, call_command
from django.db.models import F
from django_scopes import scopes_disabled

from billing.bookkeeping import correct_lost, price_pending, sweep_open
from billing.models import (
    Price,
    SpendLog,
    SpendRetention,
    UsageCoverage,
    UsageDay,
    UsageMember,
    UsageMemberDay,
    UsageQuarter,
    UsageSeries,
    Writer,
)
from billing.models.usage import UsageSums
from billing.reports.period import Period
from billing.reports.plan import MEMBERS, make_plan
from billing.reports.query import DIMENSIONS, MORE_MEASURES, ReportQuery
from billing.reports.spend import report_spend
from billing.repricing import Scope, run_step, start_job
from billing.rollup_rebuild import FIRST_DAY, complete_coverage, rebuild_day
from billing.verification import verify_ledger
from tests.contract.bookkeeping import LINES, make_rows
from tests.contract.test_spend_report import ZONES, row_id

pytestmark = pytest.mark.django_db
FIRST, LAST = date(2026, 3, 6), date(2026, 4, 3)  # with the changes of the clock in Berlin and New York
TIMED = (("day",), ("hour",), ("team",), ("model_group", "deployment"))
LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def book_keeper() -> Iterator[None]:
    with scopes_disabled():
        UsageCoverage.objects.update_or_create(id=1, defaults={"complete_from": FIRST_DAY})
        yield


def make(**fields: Any) -> SpendLog:
    started_at = fields["started_at"]
    ended_at = started_at + timedelta(milliseconds=random.Random(str(started_at)).randrange(300_000))
    values = {"id": row_id(started_at), "ended_at": ended_at, "status_code": 200, "finish": "complete"}
    [row] = make_rows(1, random.Random(1), **(values | fields))
    return row


def make_contract(usd: str = "0.000004", base: str = "0.000003") -> Price:
    """A price of a tenant whose provider is paid another one."""
    paid = Price.objects.create(lines=LINES | {"output": base})
    return Price.objects.create(organization_id="home", lines=LINES | {"output": usd}, base_price_id=paid.id)


def make_world(rng: random.Random) -> None:
    """Requests of up to three attempts around midnights and quarters of an hour: some of them hedged, lost, without a
    price, or from the cache."""
    price = Price.objects.create(deployment_id="first", lines=LINES)
    contract = make_contract()
    Writer.objects.create(id="dead", seen_at=LONG_AGO, suspected_at=LONG_AGO)
    span = (datetime.combine(LAST, datetime.min.time(), UTC) - datetime.combine(FIRST, datetime.min.time(), UTC)).days
    for _ in range(70):
        begin = datetime.combine(FIRST, datetime.min.time(), UTC) + timedelta(
            days=rng.randrange(-1, span + 2), minutes=rng.choice([0, 15, 285, 300, 1080, 1095, 1110, 1125, 1320, 1380])
        )
        begin += timedelta(microseconds=rng.choice([-1, 0, 1, 5_000_000]))
        caller = {
            "request_id": uuid4(),
            "team_id": rng.choice(["red", "blue", ""]),
            "user_id": rng.choice(["ann", "bob"]),
            "application": rng.choice(["codex", "other", ""]),
            "operation": rng.choice(["chat", "response"]),
            "organization_id": rng.choice(["home", "abroad"]),
            "end_user": rng.choice(["", "customer-1", "customer-2", "other"]),
            "tags": rng.choice(["[]", "", '["red"]', '["red", "blue", "red"]', '["", "blue"]', "broken"]),
        }
        for number in range(rng.choice([1, 1, 1, 2, 3])):
            finish, error = rng.choice([("complete", ""), ("complete", ""), ("upstream_error", "upstream_error")])
            is_open = rng.random() < 0.15
            blank = {"output_tokens": 0, "cache_read_tokens": 0, "reasoning_tokens": 0, "usage_source": "none"}
            make(
                **caller,
                **(blank if is_open else {}),
                attempt=number,
                started_at=begin + timedelta(seconds=number * rng.choice([0, 1, 900])),
                first_token_at=rng.choice([None, begin + timedelta(seconds=3)]),
                finish="" if is_open else finish,
                error_code="" if is_open else rng.choice([error, "hedge_lost"]) if number else error,
                state="open" if is_open else "metered",
                writer_id=rng.choice(["dead", "alive"]) if is_open else "alive",
                price_id=rng.choice([price.id, contract.id, ""]),
                cache_hit=rng.random() < 0.1,
                deployment_id=rng.choice(["first", "second"]),
                upstream_model=rng.choice(["gpt", "claude"]),
            )


def settle(rng: random.Random) -> None:
    """In any order and in batches of any size, rows of dead processes before their other attempts or after."""
    steps = [price_pending, sweep_open]
    for _ in range(60):
        rng.choice(steps)(rng.choice([1, 2, 7]))
    while price_pending() or sweep_open():
        pass
    for row in SpendLog.objects.filter(state="lost"):
        if rng.random() < 0.7:
            row.lost_tokens, row.output_tokens, row.finish, row.state = row.input_tokens, 77, "complete", "late"
            row.error_code = rng.choice(["", "hedge_lost"])
            row.save()


def report(zone: str, *group_by: str, by_rows: bool = False, first: date = FIRST, last: date = LAST) -> Any:
    return make_report(ReportQuery(Period(first, last, ZoneInfo(zone)), group_by), by_rows=by_rows)


def make_report(query: ReportQuery, *, by_rows: bool) -> Any:
    return report_spend(SpendLog.objects.all(), query, series=None if by_rows else UsageSeries.objects.all())


def all_pairs() -> Sequence[tuple[str, ...]]:
    names = [name for name in DIMENSIONS if name not in MEMBERS]
    return [*((name,) for name in names), *combinations(names, 2)]


def check_reports(zones: Sequence[str] = ZONES) -> None:
    for zone in zones:
        for group_by in all_pairs():
            assert report(zone, *group_by) == report(zone, *group_by, by_rows=True), (zone, group_by)
    for group_by in TIMED:
        query = ReportQuery(Period(FIRST, LAST, ZoneInfo(zones[0])), group_by, measures=MORE_MEASURES)
        assert make_report(query, by_rows=False) == make_report(query, by_rows=True), group_by


def sums_of(table: type[UsageSums]) -> list[Any]:
    """All sums without those that are zero, as a rebuild leaves them out."""
    names = [field.attname for field in table._meta.local_fields if field.attname not in ("series_id", "pk")]
    rows = table._default_manager.order_by("starts_at", "series__digest").values_list("series__digest", *names)
    return [tuple(value or 0 for value in row) for row in rows if any(row[3:])]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_report_by_rollups_is_the_one_by_rows(seed: int) -> None:
    rng = random.Random(seed)
    make_world(rng)
    settle(rng)
    assert SpendLog.objects.filter(state="late").exists()
    assert list(verify_ledger()) == []
    check_reports(["UTC", "Asia/Kathmandu"])  # a late row counts as the lost one that it was
    correct_lost()
    assert report("UTC", "day").total.margin_pusd
    assert report("UTC", "day").total.saving_pusd
    version = make_contract("0.00005", "0.00007")
    job = start_job(Scope("first", False, None, datetime.now(UTC) + timedelta(days=1)), actor="test")
    while run_step(job.id, lambda *_: version.id):
        pass
    assert list(verify_ledger()) == []
    check_reports()


def test_days_are_built_again_as_they_were_written() -> None:
    rng = random.Random(4)
    make_world(rng)
    settle(rng)
    correct_lost(5)
    written = sums_of(UsageQuarter), sums_of(UsageDay)
    UsageQuarter.objects.all().delete()
    UsageDay.objects.filter(starts_at__lt=datetime(2026, 3, 20, tzinfo=UTC)).update(cost_pusd=F("cost_pusd") + 1)
    UsageCoverage.objects.update(complete_from=date(2026, 4, 10))
    check_reports(["Europe/Berlin"])  # from the rows
    days = complete_coverage()
    while next(days)[0] > date(2026, 3, 20):
        pass
    days.close()  # interrupted
    assert UsageCoverage.objects.get().complete_from == date(2026, 3, 20)
    check_reports(["America/New_York"])  # in part from the rows
    days = complete_coverage()
    assert next(days)[0] == date(2026, 3, 19)
    assert len(list(days)) > 10
    assert (sums_of(UsageQuarter), sums_of(UsageDay)) == written
    assert UsageCoverage.objects.get().complete_from == FIRST_DAY
    assert list(verify_ledger()) == []
    assert list(complete_coverage()) == []


def test_rollups_of_the_version_before_get_end_users_and_amounts_by_repair() -> None:
    rng = random.Random(5)
    make_world(rng)
    settle(rng)
    correct_lost(5)
    written = sums_of(UsageQuarter), sums_of(UsageDay)
    for members in (UsageMemberDay, UsageMember):
        members.objects.all().delete()
    for table in (UsageQuarter, UsageDay):
        table.objects.update(cache_hits=0, cache_saving_pusd=0, margin_pusd=0)
    UsageCoverage.objects.update(members_complete_from=date(2026, 4, 10))  # as the migration leaves it
    assert report("Europe/Berlin", "day", "tag") == report("Europe/Berlin", "day", "tag", by_rows=True)
    call_command("verify_ledger", "--repair", stdout=io.StringIO())
    assert list(verify_ledger()) == []
    assert (sums_of(UsageQuarter), sums_of(UsageDay)) == written
    assert UsageMemberDay.objects.exists()
    for member in sorted(MEMBERS):
        assert report("UTC", "day", member) == report("UTC", "day", member, by_rows=True)


@pytest.mark.parametrize("table", [UsageQuarter, UsageDay])
@pytest.mark.parametrize(
    "name", ["requests", "attempts", "cost_pusd", "unpriced", "cache_hits", "cache_saving_pusd", "margin_pusd"]
)
def test_a_rollup_that_differs_is_found_and_repaired(table: type[UsageSums], name: str) -> None:
    for minute in (0, 20):
        make(started_at=datetime(2026, 3, 10, 23, minute, tzinfo=UTC), cache_hit=True)
    price_pending()
    one = table._default_manager.order_by("starts_at").first()
    assert one is not None
    table._default_manager.filter(starts_at=one.starts_at).update(**{name: F(name) + 1})
    wrong = {(each.name, abs(each.found - each.expected)) for each in verify_ledger()}
    assert wrong == {(name, 1)}
    with pytest.raises(CommandError):
        call_command("verify_ledger", stdout=io.StringIO())
    out = io.StringIO()
    call_command("verify_ledger", "--repair", stdout=out)
    assert "2026-03-10: rollups built from 2 rows" in out.getvalue()
    assert list(verify_ledger()) == []


def test_latency_that_is_missing_is_found() -> None:
    make(
        started_at=datetime(2026, 3, 10, 23, tzinfo=UTC),
        cache_hit=True,
        ended_at=datetime(2026, 3, 10, 23, 1, tzinfo=UTC),
    )
    price_pending()
    assert UsageQuarter.objects.update(duration_19=None) == 1
    assert {each.name for each in verify_ledger()} == {"timed attempts"}


def test_a_day_without_its_rows_keeps_its_rollups() -> None:
    make(started_at=datetime(2026, 3, 10, 23, tzinfo=UTC), cache_hit=True)
    make(started_at=datetime(2026, 3, 20, 23, tzinfo=UTC), cache_hit=True)
    price_pending()
    SpendLog.objects.filter(started_at__lt=datetime(2026, 3, 15, tzinfo=UTC)).delete()
    with pytest.raises(CommandError):
        call_command("verify_ledger", "--repair", stdout=io.StringIO())
    assert report("UTC", "day").total.counts[0] == 2


def test_a_day_whose_rows_are_being_deleted_is_not_built_again() -> None:
    make(started_at=datetime(2026, 3, 10, 23, tzinfo=UTC), cache_hit=True)
    price_pending()
    SpendRetention.objects.create(id=1, complete_from=datetime(2026, 3, 11, tzinfo=UTC))
    SpendLog.objects.all().delete()
    assert rebuild_day(date(2026, 3, 10)) == 0
    assert report("UTC", "day").total.counts[0] == 1


def test_a_request_whose_first_attempt_was_deleted_is_no_disagreement() -> None:
    request_id, midnight = uuid4(), datetime(2026, 3, 11, tzinfo=UTC)
    make(started_at=midnight - timedelta(seconds=1), request_id=request_id, cache_hit=True)
    make(
        started_at=midnight + timedelta(seconds=1),
        request_id=request_id,
        attempt=1,
        cache_hit=True,
        finish="client_gone",
        error_code="hedge_lost",
    )
    price_pending()
    assert list(verify_ledger()) == []
    SpendRetention.objects.create(id=1, complete_from=midnight)
    SpendLog.objects.filter(attempt=0).delete()
    assert list(verify_ledger()) == []


def test_a_series_is_one_row_whatever_its_texts() -> None:
    for key in ("a", "b", "a"):
        make(started_at=datetime(2026, 3, 10, 23, tzinfo=UTC), key_id=key, team_id="\x1f/'\"", model_group="é" * 200)
    price_pending(2)
    price_pending()
    assert UsageSeries.objects.count() == 2
    assert sorted(UsageDay.objects.values_list("series__key_id", "attempts")) == [("a", 2), ("b", 1)]


@pytest.mark.parametrize(
    ("zone", "group_by", "days", "quarters"),
    [
        ("UTC", ("day",), 29, 0),
        ("UTC", ("hour",), 0, 29 * 96),
        ("UTC", ("team",), 29, 0),
        ("Asia/Kathmandu", ("team", "key"), 28, 96),
        ("Asia/Kathmandu", ("day", "key"), 28, 96 + 28 * 23),
        ("Europe/Berlin", ("month",), 28, 92 + 8),
        ("Pacific/Kiritimati", ("day",), 28, 96 + 28 * 40),
        ("UTC", ("week", "tag"), 29, 0),
    ],
)
def test_a_report_reads_days_where_they_are_whole(
    zone: str, group_by: tuple[str, ...], days: int, quarters: int
) -> None:
    plan = make_plan(Period(FIRST, LAST, ZoneInfo(zone)), group_by, FIRST_DAY)
    assert not plan.rows
    whole = 0 if plan.days is None else (plan.days.ends_at - plan.days.starts_at).days - len(plan.cut_days)
    spans = [*plan.quarters, *plan.moved]
    assert (whole, sum((span.ends_at - span.starts_at) // timedelta(minutes=15) for span in spans)) == (days, quarters)


def test_the_last_instant_of_a_day_is_in_it() -> None:
    make(started_at=datetime(2026, 3, 10, 23, 59, 59, 999_999, tzinfo=UTC), cache_hit=True)
    price_pending()
    assert rebuild_day(date(2026, 3, 10)) == 1
    assert rebuild_day(date(2026, 3, 11)) == 0
    assert UsageQuarter.objects.get().starts_at == datetime(2026, 3, 10, 23, 45, tzinfo=UTC)


@pytest.mark.parametrize(
    ("zone", "group_by", "days", "hours_of_rows"),
    [
        ("UTC", ("end_user",), 29, 0),
        ("UTC", ("tag", "hour"), 0, 29 * 24),
        ("UTC", ("tag", "end_user"), 0, 29 * 24),
        ("Asia/Kathmandu", ("team", "tag"), 28, 24),
        ("Asia/Kathmandu", ("day", "end_user"), 0, 29 * 24),
        ("Europe/Berlin", ("week", "end_user"), 24, 5 * 24 - 1),
    ],
)
def test_a_report_by_end_user_or_tag_reads_rows_where_no_day_is_whole(
    zone: str, group_by: tuple[str, ...], days: int, hours_of_rows: int
) -> None:
    plan = make_plan(Period(FIRST, LAST, ZoneInfo(zone)), group_by, FIRST_DAY)
    assert not plan.quarters
    whole = 0 if plan.days is None else (plan.days.ends_at - plan.days.starts_at).days - len(plan.cut_days)
    hours = sum((span.ends_at - span.starts_at for span in plan.rows), timedelta()) / timedelta(hours=1)
    assert (whole, hours) == (days, hours_of_rows)
