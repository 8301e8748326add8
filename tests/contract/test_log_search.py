"""Lists of the spend log: every filter finds its rows and no other, page by page, and reads an index."""

import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django_scopes import scopes_disabled

from billing.bookkeeping import price_pending
from billing.log_search import LogSearch, find_page
from billing.models import SpendLog, SpendLogTag
from billing.row_ids import first_id
from billing.tag_index import index_tags
from tenants.models import DEFAULT_ORGANIZATION, Organization, Role, User
from tenants.permissions import MASTER, Area, Caller, CallerRole, caller_of_user, visible_rows
from tests.contract.management import Api

pytestmark = pytest.mark.django_db(transaction=True)

BEGIN = datetime(2026, 3, 1, tzinfo=UTC)
STATES = SpendLog.State.values
#: A name, the search, and the condition that its rows fulfil.
Case = tuple[LogSearch, Callable[[SpendLog], bool]]


def is_failure(row: SpendLog) -> bool:
    return (row.finish, row.error_code, row.status_code) != ("complete", "", 200)


def of(**values: str) -> Case:
    search = LogSearch(equal={name: [value] for name, value in values.items()})
    return search, lambda row: all(getattr(row, name) == value for name, value in values.items())


DAY_2, DAY_4 = BEGIN + timedelta(days=2), BEGIN + timedelta(days=4)
CASES: dict[str, Case] = {
    "nothing": of(),
    "organization": of(organization_id="other"),
    "key": of(key_id="key-1"),
    "without a key": of(key_id=""),
    "digest": of(key_digest="digest-1"),
    "team": of(team_id="team-1"),
    "user": of(user_id="user-1"),
    "end user": of(end_user="customer-1"),
    "application": of(application="codex"),
    "model group": of(model_group="model-1"),
    "deployment": of(deployment_id="deployment-1"),
    "provider": of(provider="anthropic"),
    "error": of(error_code="overloaded"),
    "source": of(source="probe"),
    "operation": of(operation="embedding"),
    **{state: of(state=state) for state in STATES},
    "team and model": of(team_id="team-1", model_group="model-1"),
    "organization and state": of(organization_id="other", state="unpriced"),
    "several keys": (LogSearch(equal={"key_id": ["key-1", "key-2"]}), lambda row: row.key_id in ("key-1", "key-2")),
    "tag": (LogSearch(tag="nightly"), lambda row: '"nightly"' in row.tags),
    "tag with quotes": (LogSearch(tag='a "b", c'), lambda row: 'a \\"b' in row.tags),
    "absent tag": (LogSearch(tag="b"), lambda row: False),
    "tag and team": (
        LogSearch(equal={"team_id": ["team-1"]}, tag="nightly"),
        lambda row: row.team_id == "team-1" and "nightly" in row.tags,
    ),
    "failure": (LogSearch(status="failure"), lambda row: row.state != "open" and is_failure(row)),
    "success": (LogSearch(status="success"), lambda row: row.state != "open" and not is_failure(row)),
    "days": (LogSearch(starts_at=DAY_2, ends_before=DAY_4), lambda row: DAY_2 <= row.started_at < DAY_4),
    "days of a key": (
        LogSearch(equal={"key_id": ["key-1"]}, starts_at=DAY_2),
        lambda row: row.key_id == "key-1" and row.started_at >= DAY_2,
    ),
    "all time": (
        LogSearch(starts_at=datetime.min.replace(tzinfo=UTC), ends_before=datetime.max.replace(tzinfo=UTC)),
        lambda row: True,
    ),
}
#: Case → the index that reads its settled rows; those that are not named read the rows of all by the primary key.
INDEXES = {
    "organization": "spend_log_organization",
    "key": "spend_log_key_id",
    "several keys": "spend_log_key_id",
    "days of a key": "spend_log_key_id",
    "digest": "spend_log_key",
    "team": "spend_log_team",
    "team and model": "spend_log_team",
    "tag and team": "spend_log_team",
    "user": "spend_log_user",
    "end user": "spend_log_end_user",
    "application": "spend_log_application",
    "model group": "spend_log_model_group",
    "deployment": "spend_log_deployment",
    "error": "spend_log_error",
    "source": "spend_log_source",
    "failure": "spend_log_failure",
    "metered": "spend_log_metered",
    "late": "spend_log_late",
    "unpriced": "spend_log_uncosted",
    "organization and state": "spend_log_uncosted",
    **dict.fromkeys(("aborted", "lost", "parked"), "spend_log_odd_state"),
}


@pytest.fixture(autouse=True)
def no_scope() -> Iterator[None]:
    with scopes_disabled():
        yield


@pytest.fixture
def rows() -> list[SpendLog]:
    """Rows of a week, the newest first, with attempts of one request and all states."""
    chance = random.Random(11)
    Organization.objects.get_or_create(id="other", defaults={"name": "Other"})
    made: list[SpendLog] = []
    for number in range(160):
        at = BEGIN + timedelta(hours=number)
        is_retry = number % 4 == 3
        fails = chance.random() < 0.3
        made.append(
            SpendLog(
                id=UUID(int=first_id(at).int | 7 << 76 | 2 << 62 | number),
                request_id=made[-1].request_id if is_retry else UUID(int=1000 + number),
                attempt=1 if is_retry else 0,
                state=STATES[number % 11] if number % 11 < len(STATES) else "priced",
                organization_id=made[-1].organization_id
                if is_retry
                else chance.choice([DEFAULT_ORGANIZATION, "other"]),
                writer_id="w",
                team_id=chance.choice(["", "team-1", "team-2"]),
                user_id=chance.choice(["", "user-1", "user-2"]),
                key_id=(key := chance.choice(["", "key-1", "key-2"])),
                key_digest=key.replace("key", "digest"),
                end_user=chance.choice(["", "customer-1"]),
                tags=chance.choice(["[]", '["nightly"]', '["x","nightly"]', '["a \\"b\\", c"]']),
                application=chance.choice(["", "codex"]),
                source=chance.choice(["", "", "probe"]),
                operation=chance.choice(["chat", "embedding"]),
                model_group=chance.choice(["model-1", "model-2"]),
                deployment_id=chance.choice(["deployment-1", "deployment-2"]),
                provider=chance.choice(["openai", "anthropic"]),
                upstream_model="up",
                upstream_id=f"up-{number}",
                error_code="overloaded" if fails else "",
                status_code=529 if fails else 200,
                finish="upstream_error" if fails else "complete",
                usage_source="provider",
                started_at=at,
                cost_pusd=7,
            )
        )
    SpendLog.objects.bulk_create(made)
    is_postgres = connection.vendor == "postgresql"
    index_tags(
        (row.organization_id, row.id if is_postgres else row.id.hex, row.tags)
        for row in made
        if row.state not in ("open", "metered", "aborted", "parked")
    )
    return made[::-1]


def walk(search: LogSearch, caller: Caller = MASTER, **options: Any) -> list[UUID]:
    """The rows of all pages."""
    found: list[UUID] = []
    after = None
    for _ in range(400):
        seen = visible_rows(caller, Area.SPEND, SpendLog.objects.all())
        page = find_page(caller, seen, search, after=after, **({"size": 7} | options))
        assert len(page.ids) <= options.get("size", 7)
        found += page.ids
        if page.next_after is None:
            return found
        assert after is None or page.next_after < after
        after = page.next_after
    raise AssertionError("the pages have no end")


@pytest.mark.parametrize("windows", [(1000,), (3, 5), (1,)])
def test_every_filter_finds_its_rows_page_by_page(rows: list[SpendLog], windows: tuple[int, ...]) -> None:
    for name, (search, fits) in CASES.items():
        assert walk(search, windows=windows) == [row.id for row in rows if fits(row)], name


def test_a_folded_list_has_the_last_fitting_attempt_of_each_request(rows: list[SpendLog]) -> None:
    for name, (search, fits) in CASES.items():
        last: dict[UUID, SpendLog] = {}
        for row in rows[::-1]:
            if fits(row):
                last[row.request_id] = row
        expected = sorted((row.id for row in last.values()), reverse=True)
        for windows in ((1000,), (3,)):
            assert walk(search, is_folded=True, windows=windows) == expected, name


def test_no_reader_finds_more_than_may_be_read_or_misses_any(rows: list[SpendLog]) -> None:
    home = Organization.objects.get(id=DEFAULT_ORGANIZATION)
    admin = User.objects.create(username="ruler", organization=home, role=Role.ORGANIZATION_ADMIN)
    member = User.objects.create(username="user-1", organization=home, role=Role.MEMBER)
    stranger = User.objects.create(username="user-9", organization=home, role=Role.MEMBER)
    leader = Caller(caller_of_user(member).roles | {CallerRole.TEAM_ADMIN}, None, member, frozenset({"team-2"}))
    for caller in map(caller_of_user, (admin, member, stranger)):
        may_see = set(visible_rows(caller, Area.SPEND, SpendLog.objects.all()).values_list("id", flat=True))
        for name, (search, fits) in CASES.items():
            expected = [row.id for row in rows if row.id in may_see and fits(row)]
            assert walk(search, caller, windows=(20,)) == expected, (caller.name, name)
    teams = [
        row.id
        for row in rows
        if row.organization_id == home.pk and (row.team_id == "team-2" or row.user_id == "user-1")
    ]
    assert walk(LogSearch(), leader) == teams


def plans_of(search: LogSearch, *, is_folded: bool) -> list[tuple[str, str]]:
    """Query and plan of all that a page asks of the spend log."""
    with CaptureQueriesContext(connection) as captured:
        find_page(MASTER, SpendLog.objects.all(), search, size=5, is_folded=is_folded)
    plans = []
    with connection.cursor() as cursor:
        for query in captured:
            if "spendlog" in query["sql"]:
                explain = "EXPLAIN " if connection.vendor == "postgresql" else "EXPLAIN QUERY PLAN "
                cursor.execute(explain + query["sql"].replace("%", "%%"))
                plans.append((query["sql"], "\n".join(str(line[-1]) for line in cursor.fetchall())))
    return plans


@pytest.mark.parametrize("is_folded", [False, True])
def test_every_filter_reads_an_index_in_its_order(rows: list[SpendLog], is_folded: bool) -> None:
    """On PostgreSQL a table of so few rows is read as a whole, where the planner may."""
    names = ("seqscan", "bitmapscan", "mergejoin", "hashjoin", "sort", "incremental_sort")
    is_postgres = connection.vendor == "postgresql"
    with connection.cursor() as cursor:
        for name in names if is_postgres else ():
            cursor.execute(f"SET enable_{name} = off")
    try:
        for case, (search, _) in CASES.items():
            plans = plans_of(search, is_folded=is_folded)
            if case in INDEXES:
                assert INDEXES[case] in plans[0][1], (case, plans[0])
            for query, plan in plans:
                is_small = "'open'" in query.split("ORDER BY")[0].rpartition("state")[2]  # as many as calls are running
                assert "Seq Scan" not in plan, (case, plan)
                assert "SCAN billing_spendlog" not in plan.replace("SCAN billing_spendlog USING", ""), (case, plan)
                assert is_small or ("TEMP B-TREE" not in plan and "Sort" not in plan), (case, query, plan)
    finally:
        with connection.cursor() as cursor:
            for name in names if is_postgres else ():
                cursor.execute(f"RESET enable_{name}")


def test_tags_are_indexed_when_a_row_is_priced_and_once(rows: list[SpendLog]) -> None:
    names = [f"t{number}" for number in range(SpendLogTag.MOST + 5)]
    tags = "[" + ",".join(f'"{name}"' for name in [*names, "t0"]) + "]"
    SpendLog.objects.filter(state="metered").update(state="priced")
    row = rows[0]
    SpendLog.objects.filter(pk=row.pk).update(state="metered", tags=tags, organization=DEFAULT_ORGANIZATION)
    assert walk(LogSearch(tag="t0")) == [row.pk]
    assert price_pending() == 1
    found = SpendLogTag.objects.filter(spend_id=row.pk, tag__startswith="t")
    assert found.count() == SpendLogTag.MOST
    SpendLog.objects.filter(pk=row.pk).update(state="metered")
    assert price_pending() == 1
    assert found.count() == SpendLogTag.MOST
    assert walk(LogSearch(tag="t1")) == [row.pk]


@pytest.mark.parametrize("text", ["{broken", "{}", "7", "null", '[1, {"a": 2}]', '["\\ud800", "a\\u0000b"]', '[""]'])
def test_tags_that_are_no_list_of_texts_never_stop_pricing(rows: list[SpendLog], text: str) -> None:
    SpendLog.objects.filter(pk=rows[0].pk).update(state="metered", tags=text)
    while price_pending():
        pass
    assert not SpendLog.objects.filter(state__in=["metered", "parked"], pk=rows[0].pk).exists()


def test_the_api_pages_through_a_filter(api: Api, rows: list[SpendLog]) -> None:
    seen: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        query = {"team_id": "team-1", "status": "failure", "page_size": "4", **({"cursor": cursor} if cursor else {})}
        answer = api.get("/api/spend-logs", query)
        assert answer.status_code == 200, answer.content
        seen += [row["id"] for row in answer.json()["data"]]
        cursor = answer.json()["next_cursor"]
    fits = [row for row in rows if row.team_id == "team-1" and row.state != "open" and is_failure(row)]
    assert seen == [str(row.id) for row in fits]
    wrong = api.get("/api/spend-logs", {"status": "good"})
    assert (wrong.status_code, wrong.json()["param"]) == (400, "status")
