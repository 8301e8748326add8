"""Retention of rollups: old sums go after their rows, no half of a day stays or comes back, and a report of the time
before is refused instead of being smaller."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from django.core.management import call_command
from django.db import connection, transaction
from django.test import override_settings
from django.utils import timezone
from django_scopes import scopes_disabled

from billing import rollup_retention
from billing.bookkeeping import price_pending
from billing.models import (
    FIRST_DAY,
    Price,
    SpendLog,
    SpendRetention,
    UsageCoverage,
    UsageDay,
    UsageHour,
    UsageMember,
    UsageMemberDay,
    UsageQuarter,
    UsageSeries,
)
from billing.reports.formats import make_report
from billing.reports.period import Period
from billing.reports.query import ReportQuery
from billing.reports.spend import Report, report_spend
from billing.repricing import Scope as RepriceScope
from billing.repricing import run_step, start_job
from billing.retention import Purged, purge_spend_logs
from billing.rollup_retention import purge_rollups
from billing.tasks import purge_rollups as purge_task
from billing.verification import repair_rollups, verify_ledger
from gateway.protocol.errors import BadRequest
from tenants.models import Organization
from tests.contract.bookkeeping import LINES
from tests.contract.management import Api
from tests.contract.test_rollup_locks import wait_for_a_lock
from tests.contract.test_spend_retention import make, price_all

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("sound_ledger")]
Kind = SpendRetention.Kind
UTC_ZONE, BERLIN = ZoneInfo("UTC"), ZoneInfo("Europe/Berlin")
NOON = timezone.now().astimezone(UTC).replace(hour=12, minute=0, second=0, microsecond=0)
OLD, MIDDLE, RECENT = (NOON - timedelta(days=days) for days in (90, 50, 20))
KEEP_ROWS, KEEP_QUARTERS, KEEP_DAYS = 30, 40, 60
TABLES = (UsageQuarter, UsageDay, UsageMember, UsageMemberDay)


@pytest.fixture(autouse=True)
def book_keeper() -> Iterator[None]:
    with scopes_disabled():
        Organization.objects.get_or_create(id="home", defaults={"name": "Home"})
        UsageCoverage.objects.update_or_create(
            id=1, defaults={"complete_from": FIRST_DAY, "members_complete_from": FIRST_DAY}
        )
        yield


def make_three_times() -> None:
    """Priced rows of three times, of which only the newest ones stand. An organization has been deleted."""
    make(OLD, 9)
    make(OLD, 2, organization_id="gone")
    make(MIDDLE, 7)
    make(RECENT, 5)
    price_all()
    assert purge_spend_logs(KEEP_ROWS).rows == 18


def days_of(table: type[UsageDay | UsageQuarter | UsageMember | UsageMemberDay]) -> set[date]:
    return {at.astimezone(UTC).date() for at in table.objects.values_list("starts_at", flat=True)}


def report(
    start: datetime, end: datetime, group_by: str = "day", zone: ZoneInfo = UTC_ZONE, compare: str = ""
) -> Report:
    period = Period(start.astimezone(zone).date(), end.astimezone(zone).date(), zone)
    query = ReportQuery(period, tuple(group_by.split(",")), compare=compare)
    found = make_report(SpendLog.objects.all(), query, series=UsageSeries.objects.all())
    return found if isinstance(found, Report) else Report(found.group_by, (), found.total.sums)


def requests_of(found: Report) -> int:
    return found.total.counts[0]


def test_sums_of_old_days_go_and_the_ledger_agrees() -> None:
    make_three_times()
    spent = sum(UsageHour.objects.values_list("cost_pusd", flat=True))
    middle = report(MIDDLE, NOON, "team")
    members = report(MIDDLE, NOON, "end_user")

    assert purge_rollups(KEEP_DAYS, batch_rows=2).is_done

    for table in TABLES:
        assert days_of(table) == {MIDDLE.date(), RECENT.date()}
    assert report(MIDDLE, NOON, "team") == middle
    assert report(MIDDLE, NOON, "end_user") == members
    assert sum(UsageHour.objects.values_list("cost_pusd", flat=True)) == spent
    assert list(verify_ledger()) == []
    assert list(repair_rollups()) == []
    assert days_of(UsageDay) == {MIDDLE.date(), RECENT.date()}
    assert purge_rollups(KEEP_DAYS) == Purged(0, is_done=True)


def test_a_report_of_deleted_days_is_refused_and_says_from_when_on_there_are_sums() -> None:
    make_three_times()
    purge_rollups(KEEP_DAYS)
    kept_from = SpendRetention.objects.get(id=Kind.DAYS).complete_from
    assert kept_from is not None
    first = kept_from.astimezone(UTC).date()
    for group_by in ("day", "hour", "end_user", "team,tag"):
        with pytest.raises(BadRequest, match=f"on {first} or later") as refused:
            report(OLD, NOON, group_by)
        assert refused.value.param == "start_date"
    before = datetime.combine(first, time.min, UTC) - timedelta(seconds=1)
    with pytest.raises(BadRequest):
        report(before, before)
    assert requests_of(report(before + timedelta(days=1), NOON)) == 12


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Pacific/Kiritimati"])
def test_the_first_day_of_a_zone_is_whole(zone: str) -> None:
    make_three_times()
    purge_rollups(KEEP_DAYS)
    at = SpendRetention.objects.get(id=Kind.DAYS).complete_from
    assert at is not None
    days = [at.astimezone(UTC).date() + timedelta(days=number) for number in range(-2, 3)]
    for day in days:
        period = Period(day, day, ZoneInfo(zone))
        query = ReportQuery(period, ("team",))
        if period.starts_at >= at:
            report_spend(SpendLog.objects.all(), query, series=UsageSeries.objects.all())
        else:
            with pytest.raises(BadRequest, match="deleted"):
                report_spend(SpendLog.objects.all(), query, series=UsageSeries.objects.all())


@pytest.mark.rows_by_hand
def test_a_change_of_the_clock_at_the_horizon_moves_no_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    """In Berlin 25 October 2026 has 25 hours, and begins two hours before the day of UTC."""
    first = datetime(2026, 10, 25, tzinfo=UTC)
    for day in range(-3, 4):
        for hour in (0, 1, 2, 21, 22, 23):
            make(first + timedelta(days=day, hours=hour), 1)
    price_all()
    expected = report(first + timedelta(days=1), first + timedelta(days=3), "day", BERLIN)
    SpendRetention.objects.create(id=Kind.ROWS, complete_from=first + timedelta(days=8))
    SpendLog.objects.all().delete()
    monkeypatch.setattr(rollup_retention.timezone, "now", lambda: first + timedelta(days=KEEP_DAYS, hours=3))
    assert purge_rollups(KEEP_DAYS).rows
    with pytest.raises(BadRequest, match="2026-10-26 or later"):
        report(first, first + timedelta(days=3), "day", BERLIN)
    assert report(first + timedelta(days=1), first + timedelta(days=3), "day", BERLIN) == expected
    assert [members for members, _ in expected.rows] == [("2026-10-26",), ("2026-10-27",), ("2026-10-28",)]
    assert all(sums.counts[0] == 6 for _, sums in expected.rows)


def test_quarters_may_go_before_their_days() -> None:
    make_three_times()
    expected = report(OLD, NOON, "day")
    by_hour = report(RECENT, NOON, "hour")
    in_berlin = report(RECENT, NOON, "day", BERLIN)
    assert purge_rollups(0, KEEP_QUARTERS).is_done
    assert days_of(UsageQuarter) == {RECENT.date()}
    assert days_of(UsageDay) == days_of(UsageMemberDay) == {OLD.date(), MIDDLE.date(), RECENT.date()}
    assert report(OLD, NOON, "day") == expected
    assert report(RECENT, NOON, "hour") == by_hour
    assert report(RECENT, NOON, "day", BERLIN) == in_berlin
    for group_by, zone in (("hour", UTC_ZONE), ("day", BERLIN), ("team", BERLIN), ("hour,end_user", UTC_ZONE)):
        with pytest.raises(BadRequest, match="hours before") as refused:
            report(OLD, NOON, group_by, zone)
        assert refused.value.param == "start_date"
    assert list(verify_ledger()) == []
    assert list(repair_rollups()) == []


def test_sums_of_days_whose_rows_stand_stay() -> None:
    make(OLD, 9)
    price_all()
    assert purge_rollups(KEEP_DAYS, KEEP_QUARTERS) == Purged(0, is_done=True)
    assert requests_of(report(OLD, OLD)) == 9
    SpendRetention.objects.create(id=Kind.ROWS, complete_from=OLD - timedelta(hours=12))
    assert purge_rollups(KEEP_DAYS) == Purged(0, is_done=True)
    assert days_of(UsageDay) == {OLD.date()}


def test_a_row_that_is_priced_after_its_day_has_gone_makes_no_half_day() -> None:
    make_three_times()
    waiting = make(OLD, 3, price_id="")
    price_all()
    assert set(SpendLog.objects.filter(id__in=waiting).values_list("state", flat=True)) == {"unpriced"}
    purge_rollups(KEEP_DAYS, KEEP_QUARTERS)
    metered = make(OLD + timedelta(hours=1), 4)
    price_all()
    version = Price.objects.create(deployment_id="first", lines=LINES)
    job = start_job(RepriceScope("first", True, None, timezone.now()), actor="test")
    while run_step(job.id, lambda _deployment, _organization, _started_at, _upstream_model: version.id):
        pass
    rows = SpendLog.objects.filter(id__in=[*waiting, *metered])
    assert set(rows.values_list("state", flat=True)) == {"priced"}
    for table in (UsageDay, UsageMember, UsageMemberDay):
        assert days_of(table) == {MIDDLE.date(), RECENT.date()}
    assert days_of(UsageQuarter) == {RECENT.date()}
    assert sum(UsageHour.objects.filter(hour__lt=MIDDLE).values_list("requests", flat=True)) == 18
    assert list(verify_ledger()) == []


def test_a_fault_of_what_stands_is_found_and_mended() -> None:
    make_three_times()
    purge_rollups(KEEP_DAYS, KEEP_QUARTERS)
    UsageDay.objects.filter(starts_at__date=RECENT.date()).update(cost_pusd=1)
    assert {wrong.name for wrong in verify_ledger()} == {"cost_pusd"}
    assert list(repair_rollups()) == [(RECENT.date(), 5)]
    assert list(verify_ledger()) == []


def test_what_a_killed_process_has_left_is_never_reported_and_goes_next() -> None:
    make_three_times()
    while not SpendRetention.objects.filter(id=Kind.DAYS).exists():
        assert not purge_rollups(KEEP_DAYS, busy_s=0, batch_rows=1).is_done
    assert OLD.date() not in days_of(UsageQuarter)
    assert OLD.date() in days_of(UsageDay)
    with pytest.raises(BadRequest):
        report(OLD, NOON, "day")
    SpendRetention.objects.update(runner_id="killed", lease_ends_at=timezone.now() + timedelta(seconds=30))
    assert purge_rollups(KEEP_DAYS) == Purged(0, is_done=True)
    SpendRetention.objects.update(lease_ends_at=timezone.now() - timedelta(seconds=1))
    assert purge_rollups(KEEP_DAYS).is_done
    for table in TABLES:
        assert days_of(table) == {MIDDLE.date(), RECENT.date()}
    assert SpendRetention.objects.get(id=Kind.DAYS).runner_id == ""


def test_several_processes_delete_each_sum_once() -> None:
    make_three_times()
    count = sum(table.objects.filter(starts_at__lt=MIDDLE - timedelta(days=1)).count() for table in TABLES)
    purged: list[int] = []

    def work() -> None:
        try:
            with scopes_disabled():
                purged.extend(purge_rollups(KEEP_DAYS, busy_s=0, batch_rows=1).rows for _ in range(6))
        finally:
            connection.close()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    while (rest := purge_rollups(KEEP_DAYS)).rows:
        purged.append(rest.rows)
    assert sum(purged) == count
    assert days_of(UsageDay) == {MIDDLE.date(), RECENT.date()}


@pytest.mark.only_on("postgres")
def test_no_sum_of_a_batch_that_began_before_is_left_behind() -> None:
    make_three_times()
    make(OLD + timedelta(hours=3), 2)

    def purge() -> Purged:
        try:
            return purge_rollups(KEEP_DAYS)
        finally:
            connection.close()

    with ThreadPoolExecutor(1) as pool:
        with transaction.atomic():
            while price_pending():
                pass
            purging = pool.submit(purge)
            wait_for_a_lock()
            assert OLD.date() in days_of(UsageDay)
        assert purging.result(timeout=60).is_done
    for table in TABLES:
        assert days_of(table) == {MIDDLE.date(), RECENT.date()}


def test_a_comparison_with_deleted_days_is_refused_by_its_name() -> None:
    make_three_times()
    purge_rollups(KEEP_DAYS)
    assert requests_of(report(RECENT, NOON, compare="previous")) == 5
    with pytest.raises(BadRequest, match="Leave 'compare' out") as refused:
        report(MIDDLE, NOON, compare="previous")
    assert refused.value.param == "compare"


@pytest.mark.parametrize(
    ("path", "more"),
    [
        ("/api/reports/spend", {"group_by": "team"}),
        ("/user/daily/activity", {"page_size": "1"}),
        ("/global/spend/report", {}),
        ("/global/activity", {}),
        ("/spend/tags", {}),
        ("/spend/logs", {"summarize": "true"}),
    ],
)
def test_each_report_refuses_deleted_days(api: Api, path: str, more: dict[str, str]) -> None:
    make_three_times()
    purge_rollups(KEEP_DAYS)
    days = {"start_date": str(OLD.date()), "end_date": str(NOON.date())}
    refused = api.get(path, {**days, **more})
    assert refused.status_code == 400
    assert "have been deleted" in refused.content.decode()
    days["start_date"] = str(MIDDLE.date())
    assert api.get(path, {**days, **more}).status_code == 200


def test_tags_without_dates_are_those_of_the_days_that_have_sums(api: Api) -> None:
    make_three_times()
    purge_rollups(KEEP_DAYS)
    [tag] = api.get("/spend/tags").json()
    assert tag["log_count"] == 12


def test_by_default_sums_are_kept_for_ever() -> None:
    make_three_times()
    purge_task()
    assert days_of(UsageDay) == {OLD.date(), MIDDLE.date(), RECENT.date()}
    with override_settings(
        TOLLGATE_ROLLUP_RETENTION_DAYS=KEEP_DAYS, TOLLGATE_QUARTER_HOUR_RETENTION_DAYS=KEEP_QUARTERS
    ):
        purge_task()
    assert days_of(UsageDay) == {MIDDLE.date(), RECENT.date()}
    assert days_of(UsageQuarter) == {RECENT.date()}
    call_command("verify_ledger")
