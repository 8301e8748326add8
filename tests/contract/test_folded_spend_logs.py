"""The console's spend log: one row for each request, with all its attempts and none of another tenant's."""

import json
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django_scopes import scopes_disabled
from uuid_utils import uuid7

from billing.log_search import keep_last
from billing.models import SpendLog
from tenants.models import DEFAULT_ORGANIZATION, Role, User
from tests.contract.management import People, key_row

pytestmark = pytest.mark.django_db(transaction=True)

LIST = "/console/billing/spendlog/"
QUERIES = 12


def log_request(*attempts: dict[str, Any], organization: str = DEFAULT_ORGANIZATION) -> list[SpendLog]:
    """One request with these attempts, a second each, newer than those before."""
    request_id, began = UUID(int=uuid7().int), timezone.now()
    rows = [
        SpendLog(
            **{
                "id": UUID(int=uuid7().int),
                "request_id": request_id,
                "attempt": number,
                "state": "priced",
                "writer_id": "w",
                "organization_id": organization,
                "operation": "chat",
                "model_group": "m",
                "deployment_id": f"d{number}",
                "provider": "openai",
                "upstream_model": f"up-{number}",
                "usage_source": "provider",
                "status_code": 200,
                "input_tokens": 10,
                "output_tokens": 1,
                "cost_pusd": 1_000_000_000_000,
                "finish": "complete",
                "started_at": began + timedelta(seconds=number),
                "ended_at": began + timedelta(seconds=number + 1),
                **fields,
            }
        )
        for number, fields in enumerate(attempts)
    ]
    with scopes_disabled():
        SpendLog.objects.bulk_create(rows)
    return rows


def failed(status: int, code: str, **routing: Any) -> dict[str, Any]:
    return {
        "state": "priced",
        "cost_pusd": 0,
        "input_tokens": 0,
        "output_tokens": 0,
        "usage_source": "none",
        "status_code": status,
        "finish": "upstream_error",
        "error_code": code,
        "error_message": f"text of {code}",
        "routing": json.dumps({"reason": "first", "class": "server", "upstream_status": status, **routing}),
    }


ANSWERED: dict[str, Any] = {"routing": json.dumps({"reason": "fallback"})}


@pytest.fixture
def console(client: Client) -> Client:
    client.force_login(User.objects.create_superuser("root", password="correct horse battery"))
    return client


def listed(console: Client, query: str = "") -> list[SpendLog]:
    answer = console.get(LIST + query)
    assert answer.status_code == 200
    return list(answer.context["cl"].result_list)


def cells(console: Client, query: str = "") -> str:
    return str(console.get(LIST + query).content.decode())


def test_a_request_is_one_row_with_the_sums_of_its_attempts(console: Client) -> None:
    log_request({})
    tried = log_request(failed(503, "overloaded"), {"input_tokens": 5}, {**ANSWERED, "cost_pusd": 500_000_000_000})
    page = cells(console)
    rows = listed(console)
    assert [row.attempt for row in rows] == [2, 0]
    assert rows[0].pk == tried[2].pk
    (row, _) = page.split('<tbody class="tg-rows"')[1:]
    assert ">$1.50<" in row
    assert 'tg-number">15 → ' in row
    assert ">3.00 s<" in row
    assert 'aria-label="3 attempts"' in row
    for text in ("text of overloaded", "server · HTTP 503", "a group that stands in", "openai/up-1"):
        assert text in row


def test_a_filter_finds_the_requests_of_which_any_attempt_matches(console: Client) -> None:
    log_request({})
    tried = log_request({**failed(503, "overloaded"), "provider": "anthropic"}, ANSWERED)
    for query in ("?provider=anthropic", f"?q={tried[0].pk}", f"?q={tried[0].request_id}", "?provider=openai&when=1h"):
        assert listed(console, query)[0].pk == tried[1].pk, query
    assert len(listed(console, "?provider=anthropic")) == 1
    assert len(listed(console, "?provider=openai")) == 2
    assert listed(console, "?state__exact=lost") == []


def test_the_page_of_an_attempt_shows_all_of_its_request_in_order(console: Client) -> None:
    out = [{"id": "x", "name": "openai/slow", "reason": "is cooling down after server errors, 4 s left"}]
    tried = log_request(failed(503, "overloaded", dropped=out, more=2), failed(429, "slow_down", wait_s=0.5), ANSWERED)
    log_request(failed(500, "foreign"))
    answer = console.get(f"{LIST}{tried[1].pk}/change/")
    lines = answer.context["attempts"]
    assert [(line.number, line.is_current, line.wait) for line in lines] == [
        (1, False, ""),
        (2, True, "500 ms"),
        (3, False, ""),
    ]
    page = answer.content.decode()
    for text in ("text of overloaded", "text of slow_down", "openai/slow", "4 s left", "and 2 more", "$1.00"):
        assert text in page
    assert "foreign" not in page


def test_an_attempt_that_was_outrun_is_not_the_end_of_its_request(console: Client) -> None:
    outrun = {**failed(499, "hedge_lost", reason="hedge"), "finish": "client_gone", "cost_pusd": 1}
    won = log_request({}, outrun)[0]
    (row,) = listed(console)
    assert row.pk == won.pk
    page = cells(console).split('<tbody class="tg-rows"')[1]
    assert ">$1.000000000001<" in page
    assert "asked beside one that was slow" in page


@pytest.mark.parametrize("state", ["unpriced", "lost", "parked"])
def test_a_sum_does_not_hide_an_attempt_without_a_price(console: Client, state: str) -> None:
    log_request({"state": state, "cost_pusd": None}, ANSWERED)
    page = cells(console).split('<tbody class="tg-rows"')[1]
    assert f">{state}<" in page
    assert ">$1.00<" in page


def test_pages_have_whole_requests_and_no_request_twice(console: Client) -> None:
    requests = [log_request(failed(500, "e"), ANSWERED, ANSWERED)[0].request_id for _ in range(60)]
    first = console.get(LIST + "?provider=openai").context["cl"]
    second = console.get(LIST + first.older_link).context["cl"]
    rows = [*first.result_list, *second.result_list]
    assert [row.request_id for row in rows] == requests[::-1]
    assert {row.attempt for row in rows} == {2}
    assert (first.newest_link, second.newest_link, second.older_link) == ("", "?provider=openai", "")


@pytest.mark.parametrize("query", ["?after=7", "?from=yesterday", "?usage__contains=x", "?p=2", "?key_id=%00"])
def test_an_address_that_no_filter_makes_shows_no_error(console: Client, query: str) -> None:
    log_request({})
    assert console.get(LIST + query).status_code in (200, 302)


def test_keys_and_teams_are_found_by_their_names(console: Client, people: People) -> None:
    home = people.home.pk
    key = key_row(people.owner)
    row = log_request({"key_id": key.pk, "team_id": "research"}, organization=home)[0]
    log_request({"key_id": "another"}, organization=home)
    for query in (f"?key_id={key.pk}", f"?key_id={key.alias}", "?team_id=research", "?state=priced&team_id=research"):
        assert [each.pk for each in listed(console, query)] == [row.pk], query


def test_a_page_costs_the_same_queries_whatever_it_lists(console: Client) -> None:
    def count(query: str) -> int:
        with CaptureQueriesContext(
            connection,
        ) as captured:
            cells(console, query)
        return len(captured)

    log_request({})
    few = count("")
    for _ in range(50):
        log_request(*[failed(500, "e")] * 4, ANSWERED)
    assert count("") == few <= QUERIES
    assert count("?provider=openai&when=24h") <= QUERIES


def test_the_admin_of_an_organization_sees_its_requests_alone(client: Client, people: People) -> None:
    abroad = log_request(failed(500, "theirs"), ANSWERED, organization=people.abroad.pk)
    home = log_request(failed(500, "ours"), ANSWERED, organization=people.home.pk)
    admin = User.objects.create(username="ruler", organization=people.home, role=Role.ORGANIZATION_ADMIN)
    client.force_login(admin)
    assert [row.pk for row in listed(client)] == [home[1].pk]
    assert "theirs" not in cells(client)
    assert client.get(f"{LIST}{home[0].pk}/change/").context["attempts"][0].message == "text of ours"
    for row in abroad:
        assert client.get(f"{LIST}{row.pk}/change/").status_code == 302
    assert listed(client, f"?q={abroad[0].request_id}") == []


def test_attempts_of_one_request_that_stand_in_two_organizations_stay_apart(client: Client, people: People) -> None:
    """No gateway writes such rows; should one, the page of a tenant still shows its own alone."""
    ours = log_request(failed(500, "ours"), organization=people.home.pk)[0]
    theirs = log_request({}, failed(500, "theirs"), organization=people.abroad.pk)[1]
    with scopes_disabled():
        SpendLog.objects.filter(pk=theirs.pk).update(request_id=ours.request_id)
    client.force_login(User.objects.create(username="ruler", organization=people.home, role=Role.ORGANIZATION_ADMIN))
    assert [row.pk for row in listed(client)] == [ours.pk]
    assert "theirs" not in client.get(f"{LIST}{ours.pk}/change/").content.decode()


def test_the_dashboard_folds_too(console: Client) -> None:
    log_request(failed(500, "e"), {**ANSWERED, "cost_pusd": 2_000_000_000_000})
    latest = console.get("/console/").context["latest"]
    assert [str(row["cost"]) for row in latest] == ['<span class="tg-number">$2.00</span>']


def test_the_attempts_that_follow_are_found_in_the_index_of_requests() -> None:
    """Otherwise a page reads the whole table, which may have a million rows."""
    log_request({}, ANSWERED)
    with scopes_disabled():
        rows = keep_last(SpendLog.objects.all()).order_by("-id")[:51]
        with connection.cursor() as cursor:
            if connection.vendor == "postgresql":  # which would read an empty table as a whole
                for name in ("seqscan", "mergejoin", "hashjoin"):
                    cursor.execute(f"SET enable_{name} = off")
            plan = rows.explain()
            if connection.vendor == "postgresql":
                for name in ("seqscan", "mergejoin", "hashjoin"):
                    cursor.execute(f"RESET enable_{name}")
    assert "spend_log_attempt_is_unique" in plan or "sqlite_autoindex_billing_spendlog" in plan, plan
    assert "TEMP B-TREE" not in plan
    assert "Sort" not in plan


@pytest.mark.only_on("postgres")
def test_a_value_that_seems_rare_does_not_lead_to_the_attempts_that_follow() -> None:
    """For each row of the page all rows of the value would be read."""
    log_request({}, ANSWERED)
    with scopes_disabled(), connection.cursor() as cursor:
        rows = keep_last(SpendLog.objects.filter(state="aborted")).order_by("state", "-id")[:51]
        for name in ("seqscan", "mergejoin", "hashjoin"):
            cursor.execute(f"SET enable_{name} = off")
        plan = rows.explain()
        for name in ("seqscan", "mergejoin", "hashjoin"):
            cursor.execute(f"RESET enable_{name}")
    assert "spend_log_attempt_is_unique" in plan, plan
