"""GET /api/reports/spend: exact sums of the rows that the caller may see, by its own days."""

import csv
import io
import random
from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from django_scopes import scopes_disabled
from openpyxl import load_workbook
from uuid_utils import uuid7

from billing.bookkeeping import price_pending
from billing.models import PriceAdjustment, SpendLog, UsageCoverage
from billing.models.constraints import MAX_SUM
from billing.pricing import COUNTS
from billing.reports.query import FILTERS, ReportQuery
from billing.reports.spend import report_spend
from billing.rollup_rebuild import FIRST_DAY, rebuild_day
from gateway.protocol.amounts import PUSD, usd_text
from gateway.protocol.errors import BadRequest
from gateway.protocol.json.types import JsonObject
from tenants.models import Role
from tests.contract.bookkeeping import make_rows
from tests.contract.management import Api, People, issue_role_key
from tests.contract.own_api import ask, problem, send

pytestmark = pytest.mark.django_db
ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Asia/Kathmandu"]
YEAR = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(params=["rows", "rollups"], autouse=True)
def source(request: pytest.FixtureRequest) -> str:
    """The tables that reports are read from."""
    begin = FIRST_DAY if request.param == "rollups" else date(2030, 1, 1)
    UsageCoverage.objects.update_or_create(id=1, defaults={"complete_from": begin})
    return str(request.param)


def roll_up() -> None:
    """Builds the rollups of rows that no pricing has settled, where reports are read from rollups."""
    with scopes_disabled():
        if UsageCoverage.objects.filter(complete_from=FIRST_DAY).exists():
            for day in {instant.date() for instant in SpendLog.objects.values_list("started_at", flat=True)}:
                rebuild_day(day)


def at(instant: str) -> datetime:
    return datetime.fromisoformat(instant).astimezone(UTC)


def row_id(started_at: datetime) -> UUID:
    """A UUIDv7 of the instant at which the call began."""
    fresh = UUID(str(uuid7())).int & ((1 << 80) - 1)
    return UUID(int=int(started_at.timestamp() * 1000) << 80 | fresh)


def make(**fields: Any) -> SpendLog:
    started_at = fields.pop("started_at", at("2026-11-20T10:30+00:00"))
    values = {"state": "priced", "cost_pusd": 1, "finish": "complete", "usage_source": "provider", "status_code": 200}
    values |= {"id": row_id(started_at), "started_at": started_at, "user_id": "", "input_tokens": 10}
    with scopes_disabled():
        [row] = make_rows(1, random.Random(1), **(values | fields))
    return row


def path_of(**query: str) -> str:
    return "reports/spend?" + urlencode({"start_date": "2026-01-01", "end_date": "2026-12-31"} | query)


def report(api: Api, by: str = "", **query: str) -> Any:
    roll_up()
    return ask(api, "GET", path_of(**query), **({"by": by} if by else {}))


def costs(answer: JsonObject, *names: str) -> dict[Any, str]:
    rows: Iterable[Any] = answer["rows"]  # type: ignore[assignment]
    return {row[names[0]] if len(names) == 1 else tuple(row[name] for name in names): row["cost"] for row in rows}


def add(rows: Iterable[Any]) -> int:
    return sum(int(row["cost"].replace(".", "")) for row in rows)


def test_costs_are_exact_beyond_64_bits(api: Api) -> None:
    for number in range(12):
        make(cost_pusd=MAX_SUM - 1, model_group="dear", key_id=f"key-{number}")
    make(cost_pusd=1, model_group="cheap")
    answer = report(api, group_by="model_group")
    assert costs(answer, "model_group") == {"cheap": "0.000000000001", "dear": usd_text(12 * (MAX_SUM - 1))}
    assert answer["total"]["cost"] == usd_text(12 * (MAX_SUM - 1) + 1)


def test_a_repriced_row_costs_its_first_cost_and_its_adjustments(api: Api) -> None:
    row, _ = make(cost_pusd=500, key_id="a"), make(cost_pusd=7, key_id="b")
    with scopes_disabled():
        for price, delta in (("2", -100), ("3", 30)):
            PriceAdjustment.objects.create(
                spend_id=row.id, organization_id="home", job_id=price, new_price_id=price, cost_pusd=0, delta_pusd=delta
            )
    assert costs(report(api, group_by="key"), "key") == {"a": usd_text(430), "b": usd_text(7)}


def test_only_rows_that_the_sums_count_are_in_the_report(api: Api) -> None:
    make(state="priced", cost_pusd=1, end_user="priced")
    make(state="unpriced", cost_pusd=None, end_user="unpriced")
    make(state="lost", cost_pusd=2, end_user="lost", finish="gateway_crash", usage_source="estimated")
    make(state="late", cost_pusd=3, end_user="late", lost_tokens=4, output_tokens=1000)
    make(state="parked", cost_pusd=5, end_user="parked, once lost", lost_tokens=6)
    for state in ("open", "metered", "aborted", "parked"):
        make(state=state, cost_pusd=None, end_user=state)
    answer = report(api, group_by="end_user")
    rows = {row["end_user"]: row for row in answer["rows"]}
    assert set(rows) == {"priced", "unpriced", "lost", "late", "parked, once lost"}
    assert (rows["unpriced"]["unpriced"], rows["priced"]["unpriced"]) == (1, 0)
    assert (rows["late"]["input_tokens"], rows["late"]["output_tokens"]) == (4, 0)
    assert (answer["total"]["attempts"], answer["total"]["unpriced"]) == (5, 1)
    assert (answer["total"]["estimated"], answer["total"]["failures"]) == (3, 3)
    assert answer["total"]["cost"] == usd_text(11)


def test_a_request_counts_once_where_it_ended_and_every_attempt_its_cost(api: Api) -> None:
    request = UUID(str(uuid7()))
    failed = {"finish": "upstream_error", "status_code": 200, "error_code": "upstream_error", "cost_pusd": 5}
    make(request_id=request, attempt=0, deployment_id="a", **failed)
    make(request_id=request, attempt=1, deployment_id="b", cost_pusd=7)
    make(request_id=request, attempt=2, deployment_id="c", error_code="hedge_lost", finish="client_gone", cost_pusd=1)
    make(request_id=request, attempt=3, deployment_id="d", state="aborted", cost_pusd=None)
    make(deployment_id="a", **{**failed, "cost_pusd": 100})
    answer = report(api, group_by="deployment")
    names = ("requests", "failures", "attempts", "failed_attempts")
    counts = {row["deployment"]: tuple(row[name] for name in names) for row in answer["rows"]}
    assert counts == {"a": (1, 1, 2, 2), "b": (1, 0, 1, 0), "c": (0, 0, 1, 1)}
    assert tuple(answer["total"][name] for name in names) == (2, 1, 4, 3)
    assert answer["total"]["cost"] == usd_text(113)
    assert costs(report(api, group_by="status"), "status") == {"failure": usd_text(106), "success": usd_text(7)}


def test_a_request_that_ends_after_midnight_counts_on_the_day_of_its_end(api: Api) -> None:
    request = UUID(str(uuid7()))
    make(request_id=request, attempt=0, started_at=at("2026-11-19T23:59:59.999999+00:00"), finish="upstream_error")
    make(request_id=request, attempt=1, started_at=at("2026-11-20T00:00+00:00"))
    answer = report(api, group_by="day")
    assert [(row["day"], row["requests"], row["attempts"]) for row in answer["rows"]] == [
        ("2026-11-19", 0, 1),
        ("2026-11-20", 1, 1),
    ]
    first = report(api, group_by="day", end_date="2026-11-19")["total"]
    assert (first["requests"], first["attempts"], first["failures"]) == (0, 1, 0)


def test_a_row_with_two_tags_counts_under_both_and_once_in_total(api: Api) -> None:
    make(cost_pusd=5, tags='["red", "blue", "red"]')
    make(cost_pusd=7, tags='["blue"]')
    make(cost_pusd=11)
    answer = report(api, group_by="tag")
    assert costs(answer, "tag") == {"": usd_text(11), "red": usd_text(5), "blue": usd_text(12)}
    assert (answer["total"]["cost"], answer["total"]["requests"]) == (usd_text(23), 3)
    both = report(api, group_by="tag,endpoint")
    assert costs(both, "tag", "endpoint")["red", "chat"] == usd_text(5)


@pytest.mark.parametrize(
    ("zone", "day", "first", "last"),
    [
        ("Europe/Berlin", "2026-03-29", "2026-03-28T23:00:00+00:00", "2026-03-29T21:59:59.999999+00:00"),
        ("Europe/Berlin", "2026-10-25", "2026-10-24T22:00:00+00:00", "2026-10-25T22:59:59.999999+00:00"),
        ("America/New_York", "2026-03-08", "2026-03-08T05:00:00+00:00", "2026-03-09T03:59:59.999999+00:00"),
        ("America/New_York", "2026-11-01", "2026-11-01T04:00:00+00:00", "2026-11-02T04:59:59.999999+00:00"),
        ("Asia/Kolkata", "2026-02-28", "2026-02-27T18:30:00+00:00", "2026-02-28T18:29:59.999999+00:00"),
        ("Asia/Kathmandu", "2026-12-31", "2026-12-30T18:15:00+00:00", "2026-12-31T18:14:59.999999+00:00"),
    ],
)
def test_a_day_of_a_zone_has_its_first_and_its_last_instant(
    api: Api, zone: str, day: str, first: str, last: str
) -> None:
    instants = [at(first) - timedelta(microseconds=1), at(first), at(last), at(last) + timedelta(microseconds=1)]
    for place, instant in enumerate(instants):
        make(started_at=instant, cost_pusd=10**place)
    answer = report(api, group_by="day", tz=zone, start_date=day, end_date=day)
    assert costs(answer, "day") == {day: usd_text(110)}
    assert report(api, group_by="month", tz=zone, start_date=day, end_date=day)["total"] == answer["total"]
    spread = report(api, group_by="day", tz=zone, start_date="2026-02-01", end_date="2027-01-02")
    assert costs(spread, "day")[day] == usd_text(110)
    assert len(spread["rows"]) == 3


def test_the_hour_that_comes_twice_is_two_hours(api: Api) -> None:
    for minute in ("00:30", "01:30", "02:30"):
        make(started_at=at(f"2026-10-25T{minute}+00:00"), cost_pusd=1)
    answer = report(api, group_by="hour", tz="Europe/Berlin")
    assert [row["hour"] for row in answer["rows"]] == [
        "2026-10-25T02:00:00+02:00",
        "2026-10-25T02:00:00+01:00",
        "2026-10-25T03:00:00+01:00",
    ]


@pytest.mark.parametrize("zone", ZONES)
def test_every_report_sums_to_what_its_rows_sum_to(api: Api, zone: str) -> None:
    rng, days = random.Random(zone), defaultdict(int)
    for _ in range(60):
        started_at = YEAR + timedelta(minutes=rng.randrange(364 * 24 * 60) + 12 * 60)
        row = make(started_at=started_at, cost_pusd=rng.randrange(PUSD), team_id=rng.choice("abc"))
        days[started_at.astimezone(ZoneInfo(zone)).date().isoformat()] += row.cost_pusd or 0
    answer = report(api, group_by="day", tz=zone)
    assert costs(answer, "day") == {day: usd_text(pusd) for day, pusd in sorted(days.items())}
    for group_by in ("hour", "week,team", "month,day", "team,user"):
        other = report(api, group_by=group_by, tz=zone)
        assert other["total"] == answer["total"]
        assert add(other["rows"]) == sum(days.values())
        assert sum(row["requests"] for row in other["rows"]) == 60


def test_csv_has_the_rows_of_json_and_no_formula(api: Api) -> None:
    make(end_user='=HYPERLINK("http://evil")', cost_pusd=3)
    make(end_user="plain, with a comma", cost_pusd=4)
    answer = report(api, group_by="end_user,day")
    response = send(api, "GET", path_of(group_by="end_user,day", format="csv"))
    assert response["Content-Type"] == "text/csv; charset=utf-8"
    assert response["Content-Disposition"] == 'attachment; filename="spend-2026-01-01-2026-12-31.csv"'
    assert response["Cache-Control"] == "no-store"
    lines = list(csv.DictReader(io.StringIO(b"".join(response.streaming_content).decode(), newline="")))
    assert [line["end_user"] for line in lines] == ['\'=HYPERLINK("http://evil")', "plain, with a comma"]
    for line, row in zip(lines, answer["rows"], strict=True):
        assert list(line) == list(row)
        assert [line[name] for name in list(row)[1:]] == [str(row[name]) for name in list(row)[1:]]


def test_a_workbook_has_the_rows_of_json(api: Api) -> None:
    make(end_user="=1+1", cost_pusd=3)
    make(end_user="plain", cost_pusd=4)
    answer = report(api, group_by="end_user,day")
    response = send(api, "GET", path_of(group_by="end_user,day", format="xlsx"))
    assert response["Content-Type"] == "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
    assert response["Content-Disposition"] == 'attachment; filename="spend-2026-01-01-2026-12-31.xlsx"'
    names, *lines = load_workbook(io.BytesIO(b"".join(response.streaming_content)))["Spend"].iter_rows(values_only=True)
    for line, row in zip(lines, answer["rows"], strict=True):
        cells = dict(zip(names, line, strict=True))
        for name in ("cost", "cache_savings"):
            cells[name] = cells.pop(f"{name}_exact")
        assert cells == row


def test_charges_of_focus_cost_what_the_report_does(api: Api, people: People) -> None:
    for place, model in enumerate(("gpt-4o", "gpt-4o", "claude")):
        make(organization_id="acme", upstream_model=model, key_id="k", team_id=f"t{place}", cost_pusd=10**place)
    make(organization_id="umbrella", cost_pusd=1000, started_at=at("2026-11-20T23:30+00:00"))
    roll_up()
    response = send(api, "GET", path_of(group_by="key", format="focus", tz="Europe/Berlin"))
    assert response["Content-Disposition"] == 'attachment; filename="spend-2026-01-01-2026-12-31-focus.csv"'
    lines = list(csv.DictReader(io.StringIO(b"".join(response.streaming_content).decode(), newline="")))
    total = report(api, group_by="key", tz="Europe/Berlin")["total"]
    assert sum(Decimal(line["BilledCost"]) for line in lines) == Decimal(total["cost"])
    assert sum(int(line["x_Requests"]) for line in lines) == total["requests"] == 4
    assert len(lines) == 3
    assert {line["BillingAccountName"] for line in lines} == {"Acme", "Umbrella"}
    by_day = [line["ChargePeriodStart"] for line in lines if line["BillingAccountId"] == "umbrella"]
    assert by_day == ["2026-11-20T23:00:00Z"]
    own = send(api, "GET", path_of(group_by="key", format="focus"), by=issue_role_key(people.home, Role.BILLING_VIEWER))
    text = b"".join(own.streaming_content).decode()
    assert "umbrella" not in text
    assert "Umbrella" not in text


def test_a_report_is_compared_to_the_period_before(api: Api) -> None:
    make(started_at=at("2026-10-31T22:59:59+00:00"), team_id="a", cost_pusd=100)  # the last second of October there
    make(started_at=at("2026-10-31T23:00:00+00:00"), team_id="a", cost_pusd=1)
    make(started_at=at("2026-09-30T22:00:00+00:00"), team_id="b", cost_pusd=1000)
    make(started_at=at("2026-09-30T21:59:59+00:00"), team_id="c", cost_pusd=10_000)  # in September
    november = {"start_date": "2026-11-01", "end_date": "2026-11-30", "tz": "Europe/Berlin", "compare": "previous"}
    answer = report(api, group_by="team", **november)
    assert answer["previous"] == {"start_date": "2026-10-01", "end_date": "2026-10-31"}
    assert [(row["team"], row["cost"], row["previous_cost"], row["previous_requests"]) for row in answer["rows"]] == [
        ("a", usd_text(1), usd_text(100), 1),
        ("b", usd_text(0), usd_text(1000), 1),
    ]
    assert (answer["total"]["cost"], answer["total"]["previous_cost"]) == (usd_text(1), usd_text(1100))
    assert "previous" not in report(api, group_by="team")
    lines = b"".join(send(api, "GET", path_of(group_by="team", format="csv", **november)).streaming_content)
    assert lines.decode().splitlines()[0].endswith(",previous_cost,previous_requests")


def test_a_caller_sees_its_own_part_only(api: Api, people: People) -> None:
    for organization, user, pusd in (("acme", "owner", 1), ("acme", "mate", 10), ("umbrella", "stranger", 100)):
        make(organization_id=organization, user_id=user, cost_pusd=pusd, team_id="t")
    admin = issue_role_key(people.home, Role.ORGANIZATION_ADMIN)
    accountant = issue_role_key(people.home, Role.BILLING_VIEWER, "accountant")
    for key, pusd in ((admin, 11), (accountant, 11), (people.owner, 0), ("", 111)):
        answer = report(api, by=key, group_by="organization,user")
        assert answer["total"]["cost"] == usd_text(pusd)
        assert add(answer["rows"]) == pusd
    assert send(api, "GET", path_of(group_by="day"), by=None).status_code == 401


def test_a_filter_leaves_the_rows_of_one_member(api: Api) -> None:
    rng = random.Random(5)
    for _ in range(12):
        request = UUID(str(uuid7()))
        for attempt in range(rng.choice([1, 2])):
            make(
                request_id=request,
                attempt=attempt,
                started_at=YEAR + timedelta(hours=rng.randrange(24 * 4)),
                cost_pusd=rng.randrange(PUSD),
                tags=rng.choice(['["red"]', '["red","blue"]', "[]"]),
                error_code=rng.choice(["", "upstream_error"]),
                **{
                    name: rng.choice(["one", "two"])
                    for name in ("team_id", "user_id", "deployment_id", "provider", "upstream_model", "end_user")
                },
                application=rng.choice(["codex", "other"]),
                operation=rng.choice(["chat", "response"]),
                organization_id=rng.choice(["home", "abroad"]),
            )
    roll_up()
    for name in FILTERS:
        for row in ask(api, "GET", path_of(group_by=name))["rows"]:
            if row[name]:
                told = ask(api, "GET", path_of(**{"group_by": "month", name: row[name]}))
                assert {name: row[name], **told["total"]} == row
                assert add(told["rows"]) == int(row["cost"].replace(".", ""))
    both = ask(api, "GET", path_of(group_by="team", team="one", tag="red", status="success"))
    assert costs(both, "team") == {"one": both["total"]["cost"]}
    assert ask(api, "GET", path_of(group_by="team", team="three"))["rows"] == []


def test_a_filter_shows_no_other_organization(api: Api, people: People) -> None:
    make(organization_id="acme", team_id="t", cost_pusd=1)
    make(organization_id="umbrella", team_id="t", cost_pusd=10)
    admin = issue_role_key(people.home, Role.ORGANIZATION_ADMIN)
    assert report(api, by=admin, group_by="organization", team="t")["total"]["cost"] == usd_text(1)
    assert report(api, by=admin, group_by="day", organization="umbrella")["rows"] == []


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"start_date": "2026-13-01"}, "start_date"),
        ({"start_date": "0000-00-00"}, "start_date"),
        ({"end_date": "2025-12-31"}, "end_date"),
        ({"tz": "../../etc/passwd"}, "tz"),
        ({"group_by": "day,team,user"}, "group_by"),
        ({"group_by": "region"}, "group_by"),
        ({"format": "xml"}, "format"),
        ({"format": "focus", "group_by": "tag"}, "group_by"),
        ({"compare": "last"}, "compare"),
        ({"region": "eu"}, "region"),
        ({"status": "ok"}, "status"),
        ({"team": "x" * 256}, "team"),
    ],
)
def test_what_cannot_be_is_refused_with_its_param(api: Api, change: dict[str, str], param: str) -> None:
    problem(send(api, "GET", path_of(**{"group_by": "day", **change})), 400, param)


def test_more_rows_than_an_answer_may_have_are_refused() -> None:
    for place in range(3):
        make(end_user=f"user-{place}")
    fields = {"start_date": "2026-01-01", "end_date": "2026-12-31"}
    with scopes_disabled():
        rows = SpendLog.objects.all()
        with pytest.raises(BadRequest, match="more than 2 rows") as refusal:
            report_spend(rows, ReportQuery.read({**fields, "group_by": "end_user"}), max_rows=2)
        assert len(report_spend(rows, ReportQuery.read({**fields, "group_by": "team"}), max_rows=2).rows) == 1
    assert refusal.value.param == "group_by"


def test_rows_that_pricing_settled_are_in_the_report(api: Api) -> None:
    now = datetime.now(UTC)  # when their ids are made too
    days = {"start_date": str((now - timedelta(days=1)).date()), "end_date": str((now + timedelta(days=1)).date())}
    with scopes_disabled():
        make_rows(40, random.Random(2), started_at=now, ended_at=now)
        while price_pending():
            pass
        rows = list(SpendLog.objects.all())
    total = report(api, group_by="provider", **days)["total"]
    assert {name: total[name] for name in COUNTS} == {name: sum(getattr(row, name) for row in rows) for name in COUNTS}
    assert (total["requests"], total["unpriced"]) == (40, 40)
