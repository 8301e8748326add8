"""The console's page of the spend report: the figures of the API for the rows that the user sees, and no other."""

import json
import re
from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qs, urlencode
from uuid import UUID

import pytest
from django.db import connection
from django.test import Client
from django.utils import timezone
from django.utils.html import escape
from django_scopes import scopes_disabled
from uuid_utils import uuid7

from billing.models import FIRST_DAY, SpendLog, SpendRetention, UsageCoverage
from billing.reports import guard
from billing.reports.spend import report_spend
from billing.tag_index import index_tags
from gateway.console import report_data
from gateway.protocol.amounts import PUSD, usd_exact
from tenants.models import Organization, Role, User
from tests.contract.management import Api, People, key_row
from tests.contract.test_spend_report import ZONES, at, make, report, roll_up

pytestmark = pytest.mark.django_db

PAGE = "/console/reports/spend/"
NOVEMBER = {"start_date": "2026-11-01", "end_date": "2026-11-30", "tz": "UTC"}


def enter(client: Client, role: Role | None = None, organization: str = "") -> Client:
    """Signs a user in; without a role the platform admin."""
    user = (
        User.objects.create_superuser("root", password="correct horse battery")
        if role is None
        else User.objects.create(username=role.value, role=role, organization_id=organization)
    )
    client.force_login(user)
    return client


def show(client: Client, **query: str | Sequence[str]) -> Any:
    roll_up()
    answer = client.get(PAGE, {**NOVEMBER, **query})
    assert answer.status_code == 200, answer.content
    return answer


def lines(answer: Any) -> dict[tuple[str, ...], str]:
    """Members → exact cost, of the rows that the page shows, in their order."""
    return {tuple(member.id for member in line.members): line.amounts.exact for line in answer.context["lines"]}


def pusd(amount: str) -> int:
    """`-$1,234.5` → picodollars."""
    return int(Decimal(re.sub(r"[$,]", "", amount)) * PUSD)


def spread() -> None:
    """Calls around the midnights of four zones, of several models, keys and tags; some repriced or without a price."""
    for number, hour in enumerate(("05:29", "05:31", "18:14", "18:16", "22:59", "23:01", "23:59")):
        started_at = at(f"2026-11-{19 + number % 3}T{hour}+00:00")
        cost = None if number == 2 else 1_000_000_007 * (number + 1)
        state = "unpriced" if cost is None else "priced"
        fields = {"model_group": f"m{number % 2}", "key_id": f"k{number % 3}", "tags": json.dumps([f"t{number % 2}"])}
        make(started_at=started_at, cost_pusd=cost, state=state, **fields)


@pytest.mark.parametrize("zone", ZONES[:4])
@pytest.mark.parametrize("by", ["model_group", "day", "day,model_group", "key,tag", "hour", "week,key", "status"])
def test_page_and_csv_and_api_and_rows_agree(client: Client, api: Api, zone: str, by: str) -> None:
    spread()
    period = {"start_date": "2026-11-20", "end_date": "2026-11-21", "tz": zone, "group_by": by}
    told = report(api, **period)
    answer = show(enter(client), **period, compare="none")
    names = by.split(",")
    costs = {tuple(row[name] for name in names): row["cost"] for row in told["rows"]}
    assert {members: pusd(amount) for members, amount in lines(answer).items()} == {
        members: int(Decimal(cost) * PUSD) for members, cost in costs.items()
    }
    total = answer.context["total"]
    assert pusd(total.exact) == int(Decimal(told["total"]["cost"]) * PUSD)
    assert total.requests == str(told["total"]["requests"])
    chart = answer.context["chart"]["data"]
    drawn = sum(Decimal(str(value)) for series in chart["series"] for value in series["values"])
    assert abs(drawn - Decimal(told["total"]["cost"])) < Decimal("1e-9")
    text = b"".join(client.get(PAGE, {**period, "format": "csv"})).decode()
    assert text == api.get(f"/api/reports/spend?{urlencode({**period, 'format': 'csv'})}").getvalue().decode()


def test_rows_are_sorted_by_cost_and_times_by_their_order(client: Client) -> None:
    for model, cost in (("a", 1), ("b", 3), ("c", 2)):
        make(model_group=model, cost_pusd=cost, started_at=at(f"2026-11-{10 + cost}T10:00+00:00"))
    make(model_group="c", cost_pusd=0)
    enter(client)
    assert list(lines(show(client))) == [("b",), ("c",), ("a",)]
    assert next(iter(lines(show(client, sort="requests")))) == ("c",)
    assert list(lines(show(client, sort="name"))) == [("a",), ("b",), ("c",)]
    assert list(lines(show(client, group_by="day"))) == [(f"2026-11-{day}",) for day in (11, 12, 13, 20)]
    assert next(iter(lines(show(client, group_by=["day", ""], sort="cost")))) == ("2026-11-13",)


def test_costs_are_compared_with_the_month_before(client: Client) -> None:
    make(model_group="more", cost_pusd=300)
    make(model_group="more", cost_pusd=100, started_at=at("2026-10-02T10:00+00:00"))
    make(model_group="new", cost_pusd=5)
    make(model_group="gone", cost_pusd=7, started_at=at("2026-10-01T10:00+00:00"))
    make(model_group="too old", cost_pusd=7, started_at=at("2026-09-30T10:00+00:00"))
    answer = show(enter(client))
    changes = {line.members[0].id: line.amounts.change.text for line in answer.context["lines"]}
    assert changes == {"more": "+200 %", "new": "new", "gone": "−100 %"}
    assert answer.context["total"].change.before == usd_exact(107)
    by_day = show(client, group_by="day")
    assert by_day.context["total"].change.before == usd_exact(107)
    assert {line.members[0].id: line.amounts.change.text for line in by_day.context["lines"]} == {
        "2026-11-01": "−100 %",
        "2026-11-02": "−100 %",
        "2026-11-20": "new",
    }
    assert show(client, compare="none").context["total"].change is None


def test_what_deleted_sums_were_of_is_neither_shown_nor_compared(client: Client) -> None:
    make(cost_pusd=300)
    make(cost_pusd=300, started_at=at("2026-10-02T10:00+00:00"))
    roll_up()
    SpendRetention.objects.create(id=SpendRetention.Kind.DAYS, complete_from=at("2026-10-03T00:00+00:00"))
    answer = show(enter(client))
    assert answer.context["total"].exact == usd_exact(300)
    assert answer.context["total"].change is None
    assert "the sums of the period before are deleted" in answer.content.decode()
    refused = client.get(PAGE, {**NOVEMBER, "start_date": "2026-10-02"})
    assert (refused.status_code, refused.context["error_field"]) == (400, "start_date")
    assert "Begin the report on 2026-10-03 or later" in refused.content.decode()


@pytest.mark.parametrize("group_by", ["team", "team,model_group", "end_user"])
def test_a_day_whose_hours_are_deleted_has_a_chart_of_days(client: Client, group_by: str) -> None:
    begun = {"complete_from": FIRST_DAY, "members_complete_from": FIRST_DAY}
    UsageCoverage.objects.update_or_create(id=1, defaults=begun)
    make(cost_pusd=300, started_at=at("2026-11-02T10:00+00:00"))
    roll_up()
    SpendRetention.objects.create(id=SpendRetention.Kind.QUARTERS, complete_from=at("2026-11-10T00:00+00:00"))
    day = {"start_date": "2026-11-02", "end_date": "2026-11-02"}
    answer = show(enter(client), **day, group_by=group_by)
    assert answer.context["total"].exact == usd_exact(300)
    assert answer.context["chart"] is not None
    assert client.get(PAGE, {**NOVEMBER, **day, "group_by": "hour"}).status_code == 400


def test_the_dashboard_compares_with_no_deleted_sums(client: Client) -> None:
    for days in (0, 10):
        make(started_at=timezone.now() - timedelta(days=days), cost_pusd=20 + days)
    roll_up()
    enter(client)

    def change() -> object:
        cards = client.get("/console/", {"period": "7d", "tz": "UTC"}).context["cards"]
        return next(card.change for card in cards if str(card.title) == "Spend")

    assert change() is not None
    SpendRetention.objects.create(id=SpendRetention.Kind.DAYS, complete_from=timezone.now() - timedelta(days=8))
    assert change() is None


@pytest.mark.parametrize("zone", ["UTC", "America/New_York"])
def test_a_dashboard_without_a_comparison_leads_to_the_rows_of_its_days(client: Client, zone: str) -> None:
    make(started_at=timezone.now())
    roll_up()
    enter(client)

    def link() -> str:
        cards = client.get("/console/", {"period": "30d", "tz": zone}).context["cards"]
        return str(next(card.link for card in cards if str(card.title) == "Requests"))

    compared = link()
    SpendRetention.objects.create(id=SpendRetention.Kind.DAYS, complete_from=timezone.now() - timedelta(days=32))
    assert link() == compared


def test_a_number_leads_to_its_rows_in_the_log(client: Client) -> None:
    make(model_group="m&a=b", key_id="k", started_at=at("2026-11-20T03:00+00:00"))
    answer = show(enter(client), group_by="week,model_group", tz="Asia/Kolkata", end_date="2026-11-19")
    assert not answer.context["lines"]
    answer = show(client, group_by="day,model_group", tz="Asia/Kolkata")
    [line] = answer.context["lines"]
    assert parse_qs(line.log.requests.partition("?")[2]) == {
        "model_group": ["m&a=b"],
        "from": ["2026-11-19T18:30:00+00:00"],
        "before": ["2026-11-20T18:30:00+00:00"],
        "counted": ["requests"],
    }


def settle() -> None:
    """Writes what the pricing of rows writes beside the sums: their tags; and the rows' organizations."""
    with scopes_disabled():
        rows = list(SpendLog.objects.exclude(state__in=("open", "metered", "aborted", "parked")))
        index_tags(
            (row.organization_id, row.id if connection.vendor == "postgresql" else row.id.hex, row.tags) for row in rows
        )
        for name in {row.organization_id for row in rows}:
            Organization.objects.get_or_create(id=name, defaults={"name": name})


def read_log(client: Client, link: str) -> list[Any]:
    """The rows of a link to the log, page after page."""
    rows, address = list[Any](), link
    while address:
        answer = client.get(address)
        assert answer.status_code == 200, link
        changes = answer.context["cl"]
        rows += changes.result_list
        address = f"{link.partition('?')[0]}{changes.older_link}" if changes.older_link else ""
    return rows


def retry(**fields: Any) -> None:
    """A request whose first deployment fails, on the day before the second one answers; and one that has no price."""
    request = UUID(str(uuid7()))
    midnight = at("2026-11-20T00:00+05:45")
    for attempt, (state, finish) in enumerate((("unpriced", "upstream_error"), ("priced", "complete"))):
        make(
            request_id=request,
            attempt=attempt,
            deployment_id=f"d{attempt}",
            state=state,
            cost_pusd=None if state == "unpriced" else 3,
            finish=finish,
            started_at=midnight + timedelta(seconds=attempt - 1),
            **fields,
        )


@pytest.mark.parametrize(
    ("zone", "by"),
    [
        ("UTC", "model_group,deployment"),
        ("Asia/Kathmandu", "day"),
        ("America/New_York", "hour,status"),
        ("Asia/Kathmandu", "week,key"),
        ("UTC", "tag"),
        ("America/New_York", "end_user,team"),
        ("UTC", "application,user"),
    ],
)
def test_every_number_leads_to_exactly_its_rows(client: Client, zone: str, by: str) -> None:
    spread()
    retry(tags='["t0","a \\"b\\""]', end_user="a&b", application="other")
    make(state="late", lost_tokens=4, cost_pusd=None, tags='[""]')
    make(state="parked", lost_tokens=4, cost_pusd=None, tags="")
    make(source="probe", error_code="overloaded", finish="upstream_error", status_code=529, team_id="")
    for state in ("open", "metered", "aborted", "parked"):
        make(state=state, cost_pusd=None)
    settle()
    answer = show(enter(client), group_by=by, tz=zone)
    amounts = [(line.amounts, line.log) for line in answer.context["lines"]]
    for numbers, log in [*amounts, (answer.context["total"], answer.context["total_log"])]:
        assert len(read_log(client, log.requests)) == int(numbers.requests), log.requests
        assert len(read_log(client, log.failures)) == int(numbers.failures), log.failures
        assert len(read_log(client, log.unpriced)) == int(numbers.unpriced or 0), log.unpriced
    text = answer.content.decode()
    assert all(escape(log.requests) in text for _numbers, log in amounts)


@pytest.mark.parametrize("by", ["end_user", "tag,model_group"])
def test_members_that_a_day_does_not_name_have_no_rows_to_show(client: Client, by: str) -> None:
    make(end_user="other", tags='["other"]', application="other", finish="upstream_error", error_code="overloaded")
    make(end_user="named", tags='["named"]')
    answer = show(enter(client), group_by=by)
    links = {line.members[0].id: line.log.requests for line in answer.context["lines"]}
    assert (links["other"], "named" in links["named"]) == ("", True)
    assert 'href=""' not in answer.content.decode()
    assert "application=other" in show(client, group_by="application").content.decode()


@pytest.mark.parametrize("query", [{"without": "cost_pusd"}, {"without": "tag,"}, {"counted": "all"}])
def test_what_no_link_says_shows_no_other_rows(client: Client, query: dict[str, str]) -> None:
    make(tags='["x"]')
    answer = enter(client).get("/console/billing/spendlog/", query, follow=True)
    assert answer.status_code == 200
    assert "e=1" in answer.redirect_chain[0][0] if answer.redirect_chain else not answer.context["cl"].result_list


def test_a_user_sees_its_organization_alone(client: Client, people: People) -> None:
    make(organization_id=people.home.pk, model_group="ours", cost_pusd=1)
    make(organization_id=people.abroad.pk, model_group="theirs", cost_pusd=2, key_id="abroad-key")
    for role in (Role.ORGANIZATION_ADMIN, Role.BILLING_VIEWER):
        assert list(lines(show(enter(client, role, people.home.pk)))) == [("ours",)]
        assert "theirs" not in show(client, group_by="model_group,organization").content.decode()
        assert b"theirs" not in b"".join(client.get(PAGE, {**NOVEMBER, "group_by": "model_group", "format": "csv"}))
    assert list(lines(show(enter(client, Role.PLATFORM_VIEWER, people.home.pk)))) == [("theirs",), ("ours",)]


def test_ids_have_their_names(client: Client, api: Api, people: People) -> None:
    issued = api.issue(key_alias="batch jobs")
    with scopes_disabled():
        make(key_id=key_row(issued["key"]).pk, team_id=people.team.pk)
        make(key_id="gone", team_id="")
    answer = show(enter(client), group_by="key,team")
    names = {line.members[0].name or line.members[0].id: line.members[1].name for line in answer.context["lines"]}
    assert names == {"batch jobs": people.team.alias, "gone": ""}


def test_the_zone_is_that_of_the_users_organization(client: Client, people: People) -> None:
    people.home.time_zone = "Asia/Kathmandu"
    people.home.save()
    assert enter(client, Role.BILLING_VIEWER, people.home.pk).get(PAGE).context["fields"]["tz"] == "Asia/Kathmandu"
    assert enter(client).get(PAGE).context["fields"]["tz"] == "UTC"


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"start_date": "2026-11-31"}, "start_date"),
        ({"end_date": ""}, "end_date"),
        ({"end_date": "2026-10-01"}, "end_date"),
        ({"start_date": "1999-01-01"}, "start_date"),
        ({"tz": "../../etc/passwd"}, "tz"),
        ({"tz": "Europe"}, "tz"),
        ({"tz": "\0"}, "tz"),
        ({"group_by": "user,team,key"}, "group_by"),
        ({"group_by": "key,key"}, "group_by"),
        ({"group_by": "<script>"}, "group_by"),
        ({"page": "0"}, "page"),
        ({"page": "²"}, "page"),
        ({"page": "9" * 300}, "page"),
        ({"sort": "x"}, "sort"),
        ({"compare": "x"}, "compare"),
        ({"format": "exe"}, "format"),
        ({"start_date": "", "end_date": "", "period": "x"}, "start_date"),
    ],
)
def test_what_cannot_be_is_refused_on_the_page(client: Client, change: dict[str, str], param: str) -> None:
    answer = enter(client).get(PAGE, {**NOVEMBER, **change})
    assert (answer.status_code, answer.context["error_field"]) == (400, param)
    assert "<script>'" not in answer.content.decode()


def test_a_long_report_has_pages_and_stays_small(client: Client) -> None:
    for number in range(130):
        make(end_user=f"user-{number:03}-{'x' * 200}", cost_pusd=number + 1)
    first = show(enter(client), group_by="end_user")
    assert len(first.content) < 150_000
    assert (len(first.context["lines"]), first.context["count"]) == (50, 130)
    assert len(first.context["chart"]["names"]) == 7
    second = client.get(f"{PAGE}{first.context['next_page']}")
    assert len(second.context["lines"]) == 50
    last = client.get(f"{PAGE}{second.context['next_page']}")
    assert (len(last.context["lines"]), last.context["next_page"]) == (30, "")
    assert len({*lines(first), *lines(second), *lines(last)}) == 130


@pytest.mark.parametrize("by", ["key", "key,model_group", "team,key"])
@pytest.mark.parametrize("zone", ["UTC", "Asia/Kathmandu"])
def test_the_chart_of_many_members_reads_the_dearest_alone(
    client: Client, monkeypatch: pytest.MonkeyPatch, zone: str, by: str
) -> None:
    days = 10
    for number in range(20):
        for day in range(days):
            fields = {"key_id": f"k{number:02}", "team_id": f"t{number:02}", "model_group": f"m{day % 2}"}
            make(cost_pusd=(number + 1) * PUSD, started_at=at(f"2026-11-{10 + day}T20:00+00:00"), **fields)
    sizes: list[int] = []

    def count_rows(*arguments: Any, **options: Any) -> Any:
        found = report_spend(*arguments, **options)
        sizes.append(len(found.rows))
        return found

    monkeypatch.setattr(report_data, "report_spend", count_rows)
    answer = show(enter(client), group_by=by, tz=zone, compare="none")
    first = by[0]
    chart = answer.context["chart"]
    assert [name[0:3] for name in chart["names"][:6]] == [f"{first}{number}" for number in range(19, 13, -1)]
    drawn = [sum(series["values"]) for series in chart["data"]["series"]]
    assert drawn == [*(days * (number + 1) for number in range(19, 13, -1)), days * sum(range(1, 15))]
    assert len(chart["names"]) == 7
    assert sizes[1:] == [6 * days, days]


def test_a_call_with_many_tags_is_no_dearer_in_the_chart(client: Client) -> None:
    for number in range(8):
        make(cost_pusd=(100 + number) * PUSD, key_id=f"k{number}", tags=json.dumps(["a", "b"] if number < 2 else ["a"]))
    chart = show(enter(client), group_by="key,tag").context["chart"]
    assert chart["names"][:6] == [f"k{number}" for number in range(7, 1, -1)]
    assert sum(chart["data"]["series"][6]["values"]) == 201


def test_an_unpriced_call_is_told(client: Client) -> None:
    make(state="unpriced", cost_pusd=None)
    answer = show(enter(client))
    assert answer.context["lines"][0].amounts.unpriced == "1"


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Asia/Kathmandu"])
def test_the_dashboard_agrees_with_the_report(client: Client, zone: str) -> None:
    now = timezone.now()
    for hours, cost in ((0, 1), (5, 20), (23, 300), (47, 4000), (100, 50_000), (180, 600_000), (700, 7_000_000)):
        make(
            started_at=now - timedelta(hours=hours),
            cost_pusd=cost,
            finish="upstream_error" if hours == 5 else "complete",
        )
    settle()
    roll_up()
    enter(client)
    for period in ("24h", "today", "7d", "30d", "month"):
        context = client.get("/console/", {"period": period, "tz": zone}).context
        cards = {str(card.title): card for card in context["cards"]}
        assert len(read_log(client, cards["Requests"].link)) == int(cards["Requests"].value), period
        if failed := cards["Error rate"].link:
            assert f"{len(read_log(client, failed))} failed" == cards["Error rate"].note, period
    for period in ("today", "7d", "30d", "month"):
        context = client.get("/console/", {"period": period, "tz": zone}).context
        cards = {str(card.title): card for card in context["cards"]}
        total = client.get(f"{context['report_link']}").context["total"]
        assert cards["Spend"].exact == total.exact, period
        assert cards["Requests"].value == total.requests, period
        assert (cards["Spend"].change and cards["Spend"].change.before) == (total.change and total.change.before), (
            period
        )
    context = client.get("/console/", {"tz": zone, "period": "absent"}).context
    cards = {str(card.title): card for card in context["cards"]}
    assert cards["Spend"].exact == usd_exact(321)  # the hour that runs and the 23 before it
    assert len(cards["Spend"].bars) == 24
    assert client.get("/console/", {"tz": "../x"}).context["zone"] == "UTC"


def test_the_dashboard_says_why_it_has_no_figures(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    make(started_at=timezone.now())
    roll_up()
    slots = guard.ReportSlots(1)
    monkeypatch.setattr(guard, "SLOTS", slots)
    enter(client)
    with slots.hold(None):
        answer = client.get("/console/")
    text = answer.content.decode()
    assert (answer.status_code, list(answer.context["cards"])) == (200, [])
    assert "as many reports at once as it may" in text
    assert "Latest calls" in text
    assert [card.value for card in client.get("/console/").context["cards"]][:1] == ["1"]


def test_columns_of_latency_and_of_the_margin_are_chosen(client: Client) -> None:
    begin = at("2026-11-20T10:00+00:00")
    fields = {
        "started_at": begin,
        "ended_at": begin + timedelta(seconds=2),
        "first_token_at": begin + timedelta(seconds=1),
    }
    make(model_group="m", cost_pusd=3 * PUSD, provider_cost_pusd=PUSD, cache_saving_pusd=PUSD // 2, **fields)
    make(model_group="none", cost_pusd=1, ended_at=None)
    root = enter(client)
    plain = show(root, group_by="model_group")
    assert [line.amounts.more for line in plain.context["lines"]] == [[], []]
    assert plain.context["lines"][0].amounts.savings == "$0.5000"
    answer = show(root, group_by="model_group", measures="latency,margin")
    line, other = answer.context["lines"]
    assert [str(title) for title in answer.context["more_columns"]][-2:] == ["Provider cost", "Margin"]
    *times, paid, margin = line.amounts.more
    assert (paid, margin) == ("$1.00", "$2.00")
    assert all(re.fullmatch(r"[0-9,]+ ms", time) for time in times)
    assert other.amounts.more[:4] == ["–"] * 4
    assert all("measures=latency%2Cmargin" in link for _name, link in answer.context["files"])
    told = root.get(PAGE, {**NOVEMBER, "group_by": "model_group", "measures": "margin", "format": "csv"})
    assert b"provider_cost" in b"".join(told.streaming_content)


def test_the_margin_is_on_no_page_of_an_organization(client: Client, people: People) -> None:
    make(organization_id=people.home.id, cost_pusd=3 * PUSD, provider_cost_pusd=1_234_567 * 10**6)
    admin = enter(client, Role.ORGANIZATION_ADMIN, people.home.id)
    roll_up()
    for extension in ({}, {"format": "csv"}, {"format": "xlsx"}, {"format": "focus"}):
        answer = admin.get(PAGE, {**NOVEMBER, "measures": "latency,margin", **extension})
        assert answer.status_code == 403
        assert b"1.23" not in answer.content
    page = show(admin, measures="latency")
    assert [name for name, _title in page.context["choices_of_columns"]] == ["", "latency"]
    assert b"1.23" not in page.content
    assert b"rovider cost" not in page.content
