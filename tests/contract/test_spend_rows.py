"""The life of a row in the ledger, from its opening to its price, in either database.

Every promise is about what other processes see, so nothing here runs inside a test's transaction.
"""

import asyncio
import json
import random
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from uuid_utils import uuid7

from billing.bookkeeping import price_pending
from billing.ledger import MAX_CALL_TOKENS, SpendLedger
from billing.models import SpendLog, UsageHour
from gateway.pipeline.ports import Attempt, Principal
from gateway.protocol.call import Finish
from gateway.protocol.errors import ConnectFault, GatewayFault
from gateway.protocol.usage import NO_USAGE, Usage, UsageSource, from_openai
from gateway.state.group_commit import GroupCommit
from gateway.state.statement import Statement
from gateway.state.unit_of_work import UnitOfWork
from gateway.upstream.client import IDLE_CLOSED
from tests.contract.bookkeeping import (
    WHEN,
    assert_sums_are_right,
    attempt,
    keep_books,
    only,
    price_all,
)
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

POISON = Statement(
    name="poison",
    types=("text",),
    sqlite="INSERT INTO billing_writer (id, seen_at) VALUES (?, NULL)",
    postgres="INSERT INTO billing_writer (id, seen_at) SELECT id, NULL FROM unnest(%b::text[]) AS v(id)",
    is_durable=True,
)


# Only the ledger's tables are emptied after a test: the default organization stays.
pytestmark = [
    pytest.mark.django_db(transaction=True, available_apps=["billing"]),
    pytest.mark.usefixtures("above_organizations", "sound_ledger"),
]


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
