"""The life of a row, from the ledger to the hourly sums, in either database.

Every promise is about what other processes see, so nothing here runs inside a test's transaction.
"""

import asyncio
import json
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from celery.fixups.django import DjangoWorkerFixup
from django.db import IntegrityError, OperationalError, connection, transaction
from django.db.models import Sum
from django.test import RequestFactory
from django.utils import timezone
from django_scopes import scopes_disabled
from uuid_utils import uuid7

from billing.bookkeeping import STALE, correct_lost, price_pending, sweep_open
from billing.ledger import HEARTBEAT, HEARTBEAT_S, MAX_CALL_TOKENS, STATEMENTS, SpendLedger
from billing.models import Price, SpendLog, UsageHour, Writer
from billing.models.constraints import MAX_SUM
from billing.pricing import PriceLines, cost
from billing.spend_rows import BUCKET, SUMS, TOKENS
from gateway.celery import app
from gateway.console.dashboard import dashboard
from gateway.pipeline.ports import Attempt, Principal
from gateway.protocol.amounts import usd_exact
from gateway.protocol.call import Finish
from gateway.protocol.errors import ConnectFault, GatewayFault
from gateway.protocol.usage import NO_USAGE, Usage, UsageSource, from_openai
from gateway.state.group_commit import Backend, GroupCommit
from gateway.state.spool import Spool
from gateway.state.statement import DatabaseAway, Operation, Statement
from gateway.state.unit_of_work import UnitOfWork
from gateway.upstream.client import IDLE_CLOSED
from tenants.database import OutageLog
from tenants.models import Scope, SpendTotal, User
from tests.contract.replica import backend
from tests.fakes.memory import (
    JSON_ANSWER,
    USAGE,
    WHOLE_ANSWER,
    MemoryLedger,
    MemoryReply,
    Script,
    ScriptedClient,
    bind,
    chat,
    exchange_plan,
    services,
    target,
)

LINES = {"input": "0.00000015", "output": "0.0000006", "cache_read": "0.000000075"}
PRICE = PriceLines.read(LINES)
WHEN = datetime(2026, 11, 20, 10, 30, tzinfo=UTC)
PATIENCE_S = 20


# Only the ledger's tables are emptied after a test: the default organization stays.
pytestmark = pytest.mark.django_db(transaction=True, available_apps=["billing"])


@pytest.fixture(autouse=True)
def book_keeper() -> Iterator[None]:
    """Stands above the organizations, as Celery's worker does."""
    with scopes_disabled():
        yield
        SpendTotal.objects.all().delete()  # not among the ledger's tables


@pytest.fixture
def price() -> str:
    return Price.objects.create(deployment_id="first", lines=LINES).id


def keep_books(
    act: Callable[[SpendLedger, GroupCommit], Any],
    folder: Path,
    *,
    writer_id: str = "writer",
    to: Backend | None = None,
) -> None:
    """Runs `act` with a ledger over group commit."""

    spool = Spool(folder / "spool", writer_id, STATEMENTS)

    async def story() -> None:
        commits = GroupCommit(to or backend(), spool, retry_s=0.05)
        await commits.open()
        ledger = SpendLedger(commits, writer_id=writer_id, find_price=lambda _: PRICE, on_metered=lambda: None)
        try:
            await asyncio.wait_for(act(ledger, commits), PATIENCE_S)
        finally:
            await asyncio.wait_for(commits.close(), PATIENCE_S)
            spool.release()  # as the end of the process does

    asyncio.run(story())


def attempt(price_id: str = "", **changes: Any) -> Attempt:
    fields = {
        "id": str(uuid7()),
        "request_id": str(uuid7()),
        "number": 0,
        "principal": Principal(organization_id="home", key_digest="d" * 64, key_id="key-1", team_id="team"),
        "call": chat(),
        "target": target(price_id=price_id),
        "is_sent": True,
        "started_at": WHEN.timestamp(),
    }
    return Attempt(**(fields | changes))


def make_rows(count: int, rng: random.Random | None = None, **fields: Any) -> list[SpendLog]:
    """Metered rows, of a few keys and hours."""
    rng = rng or random.Random(7)
    rows = [
        SpendLog(
            **{
                "id": UUID(str(uuid7())),
                "request_id": UUID(str(uuid7())),
                "state": "metered",
                "writer_id": "writer",
                "organization_id": "home",
                "key_id": f"key-{rng.randrange(3)}",
                "operation": "chat",
                "model_group": rng.choice(["a", "b"]),
                "deployment_id": "first",
                "provider": "openai_compatible",
                "upstream_model": "private",
                "finish": rng.choice(["complete", "complete", "client_gone"]),
                "usage_source": rng.choice(["provider", "estimated"]),
                "input_tokens": rng.randrange(10_000),
                "cache_read_tokens": rng.randrange(10_000),
                "output_tokens": rng.randrange(10_000),
                "reasoning_tokens": rng.randrange(100),
                "started_at": WHEN + timedelta(minutes=rng.randrange(180)),
                "ended_at": WHEN + timedelta(hours=4),
                **fields,
            }
        )
        for _ in range(count)
    ]
    SpendLog.objects.bulk_create(rows)
    return rows


def make_open(count: int, **fields: Any) -> list[SpendLog]:
    """Rows of requests under way, which have an estimate and no outcome."""
    blank = {"state": "open", "finish": "", "usage_source": "none", "output_tokens": 0, "ended_at": None}
    blank |= {"cache_read_tokens": 0, "reasoning_tokens": 0}
    return make_rows(count, **(blank | fields))


def usage_of(row: SpendLog) -> Usage:
    return Usage(**{name: getattr(row, name) for name in TOKENS})


def only() -> SpendLog:
    return SpendLog.objects.get()


def all_rows() -> Sequence[SpendLog]:
    return list(SpendLog.objects.all())


def price_all() -> int:
    total = 0
    while count := price_pending():
        total += count
    return total


def assert_sums_are_right() -> None:
    """Every rollup is the sum of its rows, and no row is outside of them, to the last picodollar."""
    expected: dict[tuple[Any, ...], list[int]] = {}
    for row in SpendLog.objects.filter(state__in=["priced", "unpriced", "lost"]):
        hour = row.started_at.replace(minute=0, second=0, microsecond=0)
        sums = expected.setdefault((hour, *(getattr(row, name) for name in BUCKET)), [0] * len(SUMS))
        values = [
            1,
            row.finish != "complete",
            row.usage_source == "estimated",
            row.cost_pusd is None,
            *(getattr(row, name) for name in TOKENS),
            row.cost_pusd or 0,
        ]
        sums[:] = [total + value for total, value in zip(sums, values, strict=True)]
    buckets = {
        (bucket.hour, *(getattr(bucket, name) for name in BUCKET)): [getattr(bucket, name) for name in SUMS]
        for bucket in UsageHour.objects.all()
    }
    assert buckets == expected
    totals = [table.objects.aggregate(total=Sum("cost_pusd"))["total"] or 0 for table in (SpendLog, UsageHour)]
    assert totals[0] == totals[1]


# The ledger


def test_a_row_is_open_then_metered_then_priced_and_says_everything(price: str, tmp_path: Path) -> None:
    one = attempt(price)

    async def act(ledger: SpendLedger, commits: GroupCommit) -> None:
        await ledger.open(one)
        one.usage, one.usage_source, one.raw_usage = Usage(input_tokens=7, output_tokens=3), UsageSource.PROVIDER, USAGE
        one.upstream_id, one.served_model, one.service_tier = "chatcmpl-1", "private-0613", "flex"
        one.first_token_at, one.ended_at = one.started_at + 0.25, one.started_at + 1.5
        await ledger.close(one)

    keep_books(act, tmp_path)
    row = only()
    assert (row.state, row.cost_pusd, row.priced_at) == ("metered", None, None)
    assert (str(row.id), str(row.request_id), row.attempt, row.writer_id) == (one.id, one.request_id, 0, "writer")
    assert (row.organization_id, row.team_id, row.key_id, row.key_digest) == ("home", "team", "key-1", "d" * 64)
    assert (row.operation, row.stream, row.model_group, row.upstream_model) == ("chat", False, "public", "private")
    assert (row.upstream_id, row.served_model, row.service_tier) == ("chatcmpl-1", "private-0613", "flex")
    assert (row.finish, row.status_code, row.usage_source) == ("complete", 200, "provider")
    assert row.usage == '{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}'
    assert row.started_at == WHEN
    assert row.first_token_at == WHEN + timedelta(seconds=0.25)
    assert row.ended_at == WHEN + timedelta(seconds=1.5)
    assert price_pending() == 1
    row = only()
    assert (row.state, row.cost_pusd, row.price_error) == ("priced", one.cost_pusd, "")
    assert row.cost_pusd == 7 * 150_000 + 3 * 600_000
    assert row.priced_at is not None
    assert_sums_are_right()


def test_a_cached_answer_has_one_row_with_its_tokens_and_costs_nothing(price: str, tmp_path: Path) -> None:
    """Neither its deployment's price nor the lack of one says anything about it."""
    usage = Usage(input_tokens=7, cache_read_tokens=5, output_tokens=3)
    one = attempt(
        price, is_sent=False, is_cached=True, usage=usage, usage_source=UsageSource.PROVIDER, ended_at=WHEN.timestamp()
    )

    async def act(ledger: SpendLedger, commits: GroupCommit) -> None:
        await ledger.record(one)
        await ledger.record(one)  # as a replay of the spool does

    keep_books(act, tmp_path)
    row = only()
    assert (row.state, row.cache_hit, row.price_id, row.finish, row.status_code) == (
        "metered",
        True,
        "",
        "complete",
        200,
    )
    assert (row.input_tokens, row.cache_read_tokens, row.output_tokens) == (7, 5, 3)
    assert (row.model_group, row.deployment_id, row.key_id) == ("public", "first", "key-1")
    assert one.cost_pusd == 0
    assert price_pending() == 1
    row = only()
    assert (row.state, row.cost_pusd, row.price_error) == ("priced", 0, "")
    assert_sums_are_right()


def test_what_a_user_spends_in_a_team_counts_apart(price: str) -> None:
    for team, user in (("team", "ann"), ("team", "ben"), ("", "ann"), ("team", "")):
        make_rows(2, organization_id="apart", price_id=price, team_id=team, user_id=user)
    price_all()
    costs = {
        name: sum(row.cost_pusd or 0 for row in all_rows() if (row.team_id, row.user_id) == tuple(name.split(":")))
        for name in ("team:ann", "team:ben")
    }
    totals = SpendTotal.objects.filter(organization_id="apart", scope=Scope.MEMBER)
    try:
        assert dict(totals.values_list("scope_id", "pusd")) == costs
    finally:
        SpendTotal.objects.filter(organization_id="apart").delete()


def test_an_open_row_holds_its_estimate_and_is_not_priced(price: str, tmp_path: Path) -> None:
    one = attempt(price, call=replace(chat(), application="codex"))
    keep_books(lambda ledger, commits: ledger.open(one), tmp_path)
    row = only()
    assert row.application == "codex"
    assert (row.state, row.input_tokens, row.output_tokens) == ("open", one.call.input_estimate, 0)
    assert (row.ended_at, row.first_token_at, row.usage) == (None, None, "")
    assert price_pending() == 0


def test_an_aborted_row_is_no_cost_and_no_request(price: str, tmp_path: Path) -> None:
    one = attempt(price, is_sent=False, finish=Finish.UPSTREAM_ERROR, status_code=502, ended_at=WHEN.timestamp())

    async def act(ledger: SpendLedger, commits: GroupCommit) -> None:
        await ledger.open(one)
        await ledger.close(one)

    keep_books(act, tmp_path)
    assert price_pending() == 0
    assert (only().state, only().cost_pusd, UsageHour.objects.count()) == ("aborted", None, 0)


def test_both_attempts_of_a_call_on_a_cut_idle_connection_have_their_rows(price: str, tmp_path: Path) -> None:
    """The first was cut before the upstream could work on it: it is aborted and costs nothing. The second is paid."""
    cut = ConnectFault("cut", code=IDLE_CLOSED, is_retryable=True)
    client = ScriptedClient([cut, Script([WHOLE_ANSWER], headers=JSON_ANSWER)])
    request_id = str(uuid7())

    async def act(ledger: SpendLedger, commits: GroupCommit) -> None:
        await exchange_plan(
            bind(chat()),
            (target(price_id=price),),
            Principal(organization_id="home", key_digest="d" * 64, key_id="key-1", team_id="team"),
            replace(services(client, MemoryLedger()), ledger=ledger, new_id=lambda: str(uuid7())),
            MemoryReply(),
            request_id=request_id,
            timeout_s=None,
        )

    keep_books(act, tmp_path)
    assert price_pending() == 1
    first, second = SpendLog.objects.filter(request_id=request_id).order_by("attempt")
    assert (first.state, first.status_code, first.finish, first.error_code) == (
        "aborted",
        502,
        "upstream_error",
        IDLE_CLOSED,
    )
    assert (first.cost_pusd, first.input_tokens, first.output_tokens) == (None, 0, 0)
    assert (second.state, second.status_code, second.finish, second.error_code) == ("priced", 200, "complete", "")
    assert second.cost_pusd
    assert second.input_tokens + second.cache_read_tokens == USAGE["prompt_tokens"]
    assert_sums_are_right()


def test_text_of_every_kind_is_kept(price: str, tmp_path: Path) -> None:
    """NUL, which PostgreSQL refuses, quotes, emoji: clients and upstreams send all of them."""
    one = attempt(price, served_model="模型 '\"\\ \0 \N{GRINNING FACE}", ended_at=WHEN.timestamp())
    one.usage_source, one.raw_usage = UsageSource.PROVIDER, {"note\0": "\0 \N{GRINNING FACE} %s ? :x {}"}

    async def act(ledger: SpendLedger, commits: GroupCommit) -> None:
        await ledger.open(one)
        await ledger.close(one)

    keep_books(act, tmp_path)
    assert only().served_model == "模型 '\"\\  \N{GRINNING FACE}"
    assert only().usage == '{"note\\u0000":"\\u0000 \N{GRINNING FACE} %s ? :x {}"}'


def test_many_requests_at_once_have_one_row_each_and_the_sums_are_exact(price: str, tmp_path: Path) -> None:
    rng = random.Random(11)
    attempts = [attempt(price, started_at=WHEN.timestamp() + rng.randrange(7200)) for _ in range(300)]

    async def one_request(ledger: SpendLedger, one: Attempt) -> None:
        await ledger.open(one)
        await asyncio.sleep(rng.random() / 20)
        one.usage = Usage(input_tokens=rng.randrange(10**6), output_tokens=rng.randrange(10**6))
        one.ended_at = one.started_at + 1
        one.finish = rng.choice(list(Finish))
        await ledger.close(one)

    async def act(ledger: SpendLedger, commits: GroupCommit) -> None:
        await asyncio.gather(*[one_request(ledger, one) for one in attempts])

    keep_books(act, tmp_path)
    assert price_all() == 300
    costs = {str(row.id): row.cost_pusd for row in SpendLog.objects.all()}
    assert costs == {one.id: one.cost_pusd for one in attempts}
    assert_sums_are_right()


def test_opening_or_closing_twice_changes_nothing(price: str, tmp_path: Path) -> None:
    one = attempt(price, ended_at=WHEN.timestamp() + 1, usage=Usage(input_tokens=5))

    async def act(ledger: SpendLedger, commits: GroupCommit) -> None:
        await ledger.open(one)
        await ledger.close(one)
        await ledger.open(one)
        one.usage = Usage(input_tokens=999)
        await ledger.close(one)

    keep_books(act, tmp_path)
    price_all()
    keep_books(act, tmp_path)
    assert (only().state, only().input_tokens) == ("priced", 5)
    assert price_pending() == 0
    assert_sums_are_right()


# Exactly once


class RolledBack(Exception):
    pass


def run_workers(count: int, work: Callable[[random.Random], None]) -> None:
    failures: list[BaseException] = []

    def run(seed: int) -> None:
        try:
            with scopes_disabled():
                work(random.Random(seed))
        except BaseException as error:
            failures.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures, failures


def test_workers_that_compete_and_fail_price_each_row_once(price: str) -> None:
    rows = make_rows(240, price_id=price)

    def work(rng: random.Random) -> None:
        idle = 0
        while idle < 3:
            try:
                with transaction.atomic():
                    idle = 0 if price_pending(batch_rows=rng.choice([1, 7, 30])) else idle + 1
                    if rng.random() < 0.3:
                        raise RolledBack  # as a worker that is killed
            except RolledBack:
                idle = 0

    run_workers(4, work)
    price_all()
    costs = {row.id: row.cost_pusd for row in SpendLog.objects.filter(state="priced")}
    assert costs == {row.id: cost(usage_of(row), PRICE) for row in rows}
    assert_sums_are_right()


def test_a_late_or_doubled_wake_up_changes_nothing(price: str) -> None:
    make_rows(5, price_id=price)
    assert [price_pending(), price_pending(), price_pending()] == [5, 0, 0]
    assert_sums_are_right()


def test_a_batch_is_bounded_and_the_oldest_come_first(price: str) -> None:
    rows = make_rows(5, price_id=price)
    assert price_pending(batch_rows=2) == 2
    assert {row.id for row in SpendLog.objects.filter(state="priced")} == {row.id for row in rows[:2]}


POISON = Statement(
    name="poison",
    types=("text",),
    sqlite="INSERT INTO billing_writer (id, seen_at) VALUES (?, NULL)",
    postgres="INSERT INTO billing_writer (id, seen_at) SELECT id, NULL FROM unnest(%b::text[]) AS v(id)",
    is_durable=True,
)


@pytest.mark.parametrize(("is_begun", "status"), [(False, 500), (True, 200)])
def test_a_row_whose_response_is_refused_has_the_status_that_the_client_gets(
    price: str, tmp_path: Path, is_begun: bool, status: int
) -> None:
    def respond(_: Attempt, unit: UnitOfWork) -> None:
        unit.add(POISON, ("poison",))

    one = attempt(price, steps=(respond,), is_begun=is_begun, usage=Usage(input_tokens=7))
    one.ended_at = one.started_at + 1

    async def act(ledger: SpendLedger, commits: GroupCommit) -> None:
        await ledger.open(one)
        with pytest.raises(GatewayFault):
            await ledger.close(one)

    keep_books(act, tmp_path)
    row = only()
    assert (row.state, row.input_tokens) == ("metered", 7)
    assert (row.status_code, row.error_code) == (status, "gateway_unavailable")


# What becomes of a row

UNREADABLE = {"input": "cheap", "output": "0.1"}


@pytest.mark.parametrize(
    ("lines", "tokens", "state", "pusd", "error"),
    [
        (LINES, {"input_tokens": 1}, "priced", 150_000, ""),
        ({"input": "0", "output": "0"}, {"input_tokens": 9}, "priced", 0, ""),
        ({"input": "0"}, {"output_tokens": 9}, "unpriced", None, "no price"),
        (None, {"input_tokens": 9}, "unpriced", None, "no price"),
        (None, {}, "priced", 0, ""),
        (
            {"input": "0.000001", "cache_write_5m": "0.00000125"},
            {"cache_write_1h_tokens": 4},
            "priced",
            5_000_000,
            "no price of its own: cache_write_1h at the price of cache_write_5m",
        ),
        (UNREADABLE, {"input_tokens": 9}, "unpriced", None, "cannot be read"),
        ({"input": "1"}, {"input_tokens": 10**12}, "unpriced", None, "out of range"),
    ],
)
def test_a_row_is_priced_or_says_why_not(
    lines: dict[str, str] | None, tokens: dict[str, int], state: str, pusd: int | None, error: str
) -> None:
    price_id = "" if lines is None else Price.objects.create(deployment_id="x", lines=lines).id
    blank = dict.fromkeys(TOKENS, 0)
    make_rows(1, price_id=price_id, **(blank | tokens))
    assert price_pending() == 1
    row = only()
    assert (row.state, row.cost_pusd) == (state, pusd)
    assert error in row.price_error
    assert bool(row.price_error) is bool(error)
    assert_sums_are_right()


def test_a_row_that_cannot_be_priced_does_not_hold_up_the_others(price: str) -> None:
    broken = Price.objects.create(deployment_id="x", lines=UNREADABLE).id
    make_rows(3, price_id=price)
    make_rows(2, price_id=broken)
    make_rows(3, price_id=price)
    assert price_all() == 8
    assert SpendLog.objects.filter(state="priced").count() == 6
    assert_sums_are_right()


def test_a_row_belongs_to_the_utc_hour_of_its_start(price: str) -> None:
    edge = datetime(2026, 10, 25, 1, 0, tzinfo=UTC)  # a night in which clocks elsewhere repeat an hour
    for started_at in (edge - timedelta(microseconds=1), edge, edge + timedelta(minutes=59, seconds=59)):
        make_rows(1, price_id=price, started_at=started_at, key_id="k", model_group="a")
    price_all()
    buckets = UsageHour.objects.order_by("hour").values_list("hour", "requests")
    assert list(buckets) == [(edge - timedelta(hours=1), 1), (edge, 2)]


def test_sums_are_exact_where_floats_are_not() -> None:
    thirds = Price.objects.create(deployment_id="x", lines={"input": "0.000000333333333333"}).id
    zeros = dict.fromkeys(TOKENS, 0) | {"key_id": "k", "model_group": "a", "started_at": WHEN}
    for tokens in (10**12, 1, 1, 10**11 + 7):
        make_rows(1, price_id=thirds, **(zeros | {"input_tokens": tokens}))
    price_all()
    exact = sum(int(Decimal("333333.333333") * tokens) for tokens in (10**12, 10**11 + 7)) + 2 * 333_333
    assert UsageHour.objects.get().cost_pusd == exact
    assert_sums_are_right()


# Poison: what an upstream reports must not stop the pricing of others


def test_sums_that_leave_their_range_park_one_row_and_stop_no_other(
    price: str, caplog: pytest.LogCaptureFixture
) -> None:
    free = Price.objects.create(deployment_id="x", lines={"input": "0", "output": "0"}).id
    zeros = dict.fromkeys(TOKENS, 0) | {"key_id": "k", "model_group": "a", "started_at": WHEN, "finish": "complete"}
    make_rows(3, price_id=free, **(zeros | {"output_tokens": 2**59}))  # the third one leaves the range
    make_rows(1, price_id=free, **(zeros | {"reasoning_tokens": 2**63 - 1}))
    make_rows(20, price_id=price)
    assert price_pending() == 24
    assert sorted(states()) == ["parked"] * 2 + ["priced"] * 22
    assert price_pending() == 0
    parked = SpendLog.objects.filter(state="parked")
    assert {row.cost_pusd for row in parked} == {None}
    assert all("hourly sums" in row.price_error for row in parked)
    alarms = [record for record in caplog.records if record.name == "billing.bookkeeping"]
    assert [record.levelname for record in alarms] == ["ERROR"] * 2
    assert {vars(record)["spend_id"].replace("-", "") for record in alarms} == {row.id.hex for row in parked}
    assert_sums_are_right()


def test_the_counts_of_a_call_are_bounded_and_the_row_says_so(price: str, tmp_path: Path) -> None:
    """Four calls of 10^12 tokens stopped the pricing of every tenant."""
    raw = {"prompt_tokens": 10**12, "completion_tokens": 3}
    attempts = [attempt(price, ended_at=WHEN.timestamp() + 1) for _ in range(4)]

    async def act(ledger: SpendLedger, commits: GroupCommit) -> None:
        for one in attempts:
            await ledger.open(one)
            one.usage, one.usage_source, one.raw_usage = from_openai(raw) or NO_USAGE, UsageSource.PROVIDER, raw
            await ledger.close(one)

    keep_books(act, tmp_path)
    assert price_all() == 4
    for row in SpendLog.objects.all():
        assert (row.state, row.input_tokens, row.output_tokens) == ("priced", MAX_CALL_TOKENS, 3)
        assert row.usage_inconsistent
        assert json.loads(row.usage) == raw
        assert row.cost_pusd == attempts[0].cost_pusd
    assert_sums_are_right()


def test_the_dashboard_adds_up_costs_that_are_as_large_as_they_can_be(price: str, rf: RequestFactory) -> None:
    request = rf.get("/console/")
    request.user = User(username="root", is_superuser=True)
    for number in range(10):
        now = {"id": UUID(str(uuid7())), "started_at": timezone.now(), "finish": "complete"}
        make_rows(1, price_id=price, state="priced", cost_pusd=MAX_SUM - number, **now)
    cards = {str(card.title): card for card in dashboard(request, {})["cards"]}
    assert cards["Spend"].exact == usd_exact(10 * MAX_SUM - 45)


@pytest.mark.only_on("sqlite")
@pytest.mark.parametrize("table", [SpendLog, UsageHour])
def test_money_is_never_a_real(price: str, table: Any) -> None:
    make_rows(1, price_id=price)
    price_all()
    for value in ("cost_pusd + 0.5", "9223372036854775807 + 1", "'much'"):
        with pytest.raises(IntegrityError), connection.cursor() as cursor:
            cursor.execute(f"UPDATE {table._meta.db_table} SET cost_pusd = {value}")
    assert_sums_are_right()


# Rows whose process is gone


def age(writer: str, *, seen: timedelta, suspected: timedelta | None = None) -> None:
    """Lets time pass for a writer."""
    now = timezone.now()
    Writer.objects.update_or_create(
        id=writer,
        defaults={"seen_at": now - seen, "suspected_at": None if suspected is None else now - suspected},
    )


def states() -> list[str]:
    return list(SpendLog.objects.order_by("id").values_list("state", flat=True))


LONG, SHORT = STALE * 3, STALE / 6


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


def lose(one: Attempt, folder: Path) -> None:
    """The process opens the row, and is taken for dead."""
    keep_books(lambda ledger, commits: ledger.open(one), folder)
    age("writer", seen=LONG, suspected=LONG)
    assert sweep_open() == 1
    assert states() == ["lost"]
    assert_sums_are_right()


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


class CutOff:
    """The backend of a process that no longer reaches the database."""

    async def write(self, operations: Sequence[Operation]) -> None:
        raise DatabaseAway("cut off")

    def write_now(self, operation: Operation) -> bool:
        return False

    async def close(self) -> None:
        pass


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


def test_rows_of_each_organization_are_summed_apart(price: str) -> None:
    make_rows(4, price_id=price, organization_id="home")
    make_rows(4, price_id=price, organization_id="abroad")
    price_all()
    sums: Sequence[Any] = UsageHour.objects.values("organization_id").annotate(total=Sum("requests"))
    assert sorted((row["organization_id"], row["total"]) for row in sums) == [("abroad", 4), ("home", 4)]
    assert_sums_are_right()


@pytest.mark.only_on("postgres")
def test_a_worker_keeps_its_connection_between_tasks_and_drops_one_that_failed() -> None:
    connection.ensure_connection()
    first = connection.connection
    DjangoWorkerFixup(app).close_database()  # before and after each task
    assert connection.connection is first
    with OutageLog().note_outage():
        raise OperationalError("server closed the connection unexpectedly")
    assert connection.connection is None
