"""The rollups of end users and tags: a day names the first ones of each organization, and no call is missing."""

import json
import random
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.db.models import F, Sum
from django.test import override_settings
from django.test.utils import CaptureQueriesContext
from django_scopes import scopes_disabled

from billing.bookkeeping import correct_lost, price_pending, sweep_open
from billing.models import FIRST_DAY, SpendLog, SpendRetention, UsageCoverage, UsageMember, UsageMemberDay, Writer
from billing.reports.plan import MEMBERS
from billing.reports.query import DIMENSIONS
from billing.rollup_rebuild import rebuild_day
from billing.usage_members import Member, find_members
from billing.verification import verify_ledger
from tests.contract.bookkeeping import make_open, make_rows
from tests.contract.test_rollups import make_world, report, settle
from tests.contract.test_spend_report import row_id

pytestmark = pytest.mark.django_db
NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def book_keeper() -> Iterator[None]:
    with scopes_disabled():
        UsageCoverage.objects.update_or_create(id=1, defaults={"complete_from": FIRST_DAY})
        yield


def make(end_user: str = "", *tags: str, started_at: datetime = NOON, **fields: Any) -> SpendLog:
    started_at += timedelta(seconds=SpendLog.objects.count())  # rows are priced in the order of their ids
    named = {"end_user": end_user, "tags": json.dumps(tags), "id": row_id(started_at), "started_at": started_at}
    [row] = make_rows(1, random.Random(1), **(named | {"cache_hit": True} | fields))
    return row


def price_all() -> None:
    while price_pending(3):
        pass


def requests(dimension: str, **where: Any) -> dict[str, int]:
    """Name → requests."""
    sums = UsageMemberDay.objects.filter(member__dimension=dimension, **where).values("member__name").order_by()
    return {row["member__name"]: row["count"] for row in sums.annotate(count=Sum("requests"))}


def test_a_call_counts_under_its_end_user_and_each_of_its_tags() -> None:
    make("ann", "red", "blue", "red")
    make("ann", "red")
    make("bob")
    make()
    price_all()
    assert requests("end_user") == {"ann": 2, "bob": 1}
    assert requests("tag") == {"red": 2, "blue": 1}
    assert requests("tagged") == {"": 2}
    assert list(verify_ledger()) == []


@override_settings(TOLLGATE_ROLLUP_NAMES=3)
def test_a_flood_of_names_is_one_member_and_those_that_came_first_stay_whole() -> None:
    for name in ("ann", "bob", "other", *(f"random-{place}" for place in range(20)), "ann", "other"):
        make(name, f"{name}-1", f"{name}-2")
    price_all()
    assert requests("end_user") == {"ann": 2, "bob": 1, "other": 2, "": 20}
    assert requests("tag") == {"ann-1": 2, "ann-2": 2, "bob-1": 1, "": 1 + 20 * 2 + 2 * 2}
    assert UsageMember.objects.count() == 4 + 4 + 1
    assert list(verify_ledger()) == []


def test_a_full_day_stays_full_where_the_limit_grows() -> None:
    with override_settings(TOLLGATE_ROLLUP_NAMES=1):
        for name in ("ann", "bob"):
            make(name)
        price_all()
    with override_settings(TOLLGATE_ROLLUP_NAMES=100):
        for name in ("bob", "carl", "ann"):
            make(name)
        make("bob", started_at=NOON + timedelta(days=1))
        price_all()
        assert requests("end_user", starts_at__day=10) == {"ann": 2, "": 3}
        assert requests("end_user", starts_at__day=11) == {"bob": 1}
        assert list(verify_ledger()) == []
        rebuild_day(NOON.date())
        assert requests("end_user", starts_at__day=10) == {"ann": 2, "bob": 2, "carl": 1}
        assert list(verify_ledger()) == []


@override_settings(TOLLGATE_ROLLUP_NAMES=0)
def test_no_names_at_all_may_be_kept() -> None:
    make("ann", "red")
    price_all()
    assert (requests("end_user"), requests("tag"), requests("tagged")) == ({"": 1}, {"": 1}, {"": 1})
    assert list(verify_ledger()) == []


@override_settings(TOLLGATE_ROLLUP_NAMES=2)
def test_each_organization_has_its_own_limit() -> None:
    for organization_id in ("home", "abroad"):
        for place in range(4):
            make(f"user-{place}", organization_id=organization_id)
    price_all()
    for organization_id in ("home", "abroad"):
        assert requests("end_user", organization=organization_id) == {"user-0": 1, "user-1": 1, "": 2}


@override_settings(TOLLGATE_ROLLUP_NAMES=1)
def test_a_row_that_was_lost_is_corrected_where_it_was_counted() -> None:
    Writer.objects.create(id="dead", seen_at=LONG_AGO, suspected_at=LONG_AGO)
    make("ann")
    price_all()
    named = {"end_user": "bob", "tags": '["red"]', "writer_id": "dead", "started_at": NOON, "id": row_id(NOON)}
    make_open(1, **named)
    while sweep_open():
        pass
    row = SpendLog.objects.get(state="lost")
    row.lost_tokens, row.output_tokens, row.finish, row.state = row.input_tokens, 77, "complete", "late"
    row.save()
    assert list(verify_ledger()) == []
    correct_lost()
    assert requests("end_user") == {"ann": 1, "": 1}
    bobs = UsageMemberDay.objects.filter(member__name="", member__dimension="end_user")
    assert bobs.aggregate(Sum("output_tokens"))["output_tokens__sum"] == 77
    assert list(verify_ledger()) == []


@pytest.mark.parametrize("name", ["requests", "cost_pusd", "output_tokens"])
@pytest.mark.parametrize("dimension", UsageMember.Dimension.values)
def test_a_sum_that_differs_is_found_and_built_again(dimension: str, name: str) -> None:
    make("ann", "red")
    price_all()
    day = UsageMemberDay.objects.get(member__dimension=dimension)
    UsageMemberDay.objects.filter(starts_at=day.starts_at, member=day.member_id).update(**{name: F(name) + 1})
    assert [(each.name, each.found - each.expected) for each in verify_ledger()] == [(name, 1)]
    rebuild_day(date(2026, 3, 10))
    assert list(verify_ledger()) == []


def test_sums_without_any_row_are_found() -> None:
    make("ann")
    price_all()
    SpendLog.objects.all().delete()
    assert "end_user/ann" in " ".join(each.where for each in verify_ledger())


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata", "Europe/Berlin"])
def test_a_report_by_end_user_or_tag_is_the_one_by_rows(zone: str) -> None:
    rng = random.Random(zone)
    make_world(rng)
    settle(rng)
    correct_lost(2)
    assert list(verify_ledger()) == []
    for member in sorted(MEMBERS):
        for group_by in [(member,), *((name, member) for name in DIMENSIONS if name != member)]:
            assert report(zone, *group_by) == report(zone, *group_by, by_rows=True), group_by


def test_a_report_by_four_dimensions_has_a_tag_too() -> None:
    make_world(random.Random(7))
    while price_pending():
        pass
    by = ("day", "tag", "upstream_model", "key")
    assert report("UTC", *by) == report("UTC", *by, by_rows=True)


def test_the_names_that_a_day_has_no_room_for_are_one_row_of_the_report() -> None:
    with override_settings(TOLLGATE_ROLLUP_NAMES=2):
        for name in ("ann", "bob", "carl", "dora", "ann"):
            make(name, name, "all")
        make()
        price_all()
    rows = {members: sums.counts[0] for members, sums in report("UTC", "end_user").rows}
    assert rows == {("",): 1, ("ann",): 2, ("bob",): 1, ("other",): 2}
    rows = {members: sums.counts[0] for members, sums in report("UTC", "tag").rows}
    assert rows == {("",): 1, ("ann",): 2, ("all",): 5, ("other",): 3}
    for dimension in MEMBERS:
        total = report("UTC", dimension).total
        assert (total, total.counts[0]) == (report("UTC", "team").total, 6)


def test_a_report_by_end_user_has_the_days_whose_rows_are_deleted() -> None:
    make("ann", "red")
    price_all()
    before = [report("UTC", member) for member in MEMBERS]
    SpendLog.objects.all().delete()
    assert [report("UTC", member) for member in MEMBERS] == before


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata"])
def test_what_was_deleted_without_sums_of_its_end_users_is_other(zone: str) -> None:
    begins = [datetime(2026, 3, day, hour, tzinfo=UTC) for day in (8, 9, 10) for hour in (1, 20)]
    for started_at in begins:
        make("ann", "red", started_at=started_at)
        make(started_at=started_at)
    price_all()
    UsageCoverage.objects.update(members_complete_from=date(2026, 3, 9))
    kept_from = datetime(2026, 3, 10, tzinfo=UTC)
    SpendRetention.objects.create(id=1, complete_from=kept_from)
    SpendLog.objects.filter(started_at__lt=kept_from).delete()
    by_day = {members: sums.counts[0] for members, sums in report(zone, "end_user", "day").rows}
    if zone == "UTC":
        assert by_day == {
            ("other", "2026-03-08"): 4,
            **{(name, f"2026-03-{day}"): 2 for name in ("", "ann") for day in ("09", "10")},
        }
    for group_by in (("team", "end_user"), ("tag",), ("tag", "end_user"), ("hour", "tag"), ("tag", "week")):
        assert report(zone, *group_by).total == report(zone, "key").total
    assert list(verify_ledger()) == []


@pytest.mark.only_on("sqlite")
def test_members_are_found_by_an_index() -> None:
    with CaptureQueriesContext(connection) as queries:
        find_members([Member(datetime(2026, 3, 10), "home", "end_user", name) for name in ("ann", "bob")])
    looked_up = [query["sql"] for query in queries if query["sql"].startswith("SELECT starts_at")]
    assert looked_up
    for text in looked_up:
        with connection.cursor() as cursor:
            cursor.execute(f"EXPLAIN QUERY PLAN {text}")
            plan = " ".join(row[3] for row in cursor.fetchall())
        assert "SEARCH billing_usagemember USING" in plan
        assert "SCAN billing_usagemember" not in plan
