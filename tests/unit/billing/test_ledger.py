"""The ledger: what a row says, and a heartbeat that outlives a refusal."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.bookkeeping import STALE
from billing.ledger import (
    CLOSE,
    HEARTBEAT,
    HEARTBEAT_S,
    IDENTITY,
    LAPSE_S,
    NOTE_ERROR,
    NOTE_ROUTING,
    NOTE_SOURCE,
    OPEN,
    OUTCOME,
    SpendLedger,
    instant,
)
from billing.pricing import PriceLines
from gateway.pipeline.ports import Attempt
from gateway.protocol.errors import GatewayFault
from gateway.protocol.usage import Usage, UsageSource
from gateway.state.statement import DatabaseAway, Row, Statement
from gateway.state.unit_of_work import UnitOfWork
from tests.fakes.memory import EPOCH, PRINCIPAL, USAGE, chat, insert, play, target

ATTEMPT = "0190f0f0-0000-7000-8000-000000000001"


class Commits:
    """Group commit, writing to a list; `refusals` are raised, one a submit, where the database is away later."""

    def __init__(self, *refusals: Exception | None) -> None:
        self.row_of: list[tuple[Statement, Row]] = []
        self.units: list[list[str]] = []
        self.refusals = list(refusals)

    def submit(self, statement: Statement, row: Row) -> asyncio.Future[None]:
        future = asyncio.get_running_loop().create_future()
        refusal = self.refusals.pop(0) if self.refusals else None
        if isinstance(refusal, DatabaseAway):
            future.set_exception(refusal)
            return future
        if refusal is not None:
            raise refusal
        self.row_of.append((statement, row))
        future.set_result(None)
        return future

    async def commit(self, unit: UnitOfWork) -> None:
        self.units.append([statement.name for statement, _ in unit.operations])
        for statement, row in unit.operations:
            await self.submit(statement, row)
        for follow_up in unit.follow_ups:
            await follow_up()


def ledger_over(
    commits: Commits, prices: dict[str, PriceLines] | None = None, woken: list[int] | None = None
) -> SpendLedger:
    return SpendLedger(
        commits,  # type: ignore[arg-type]
        writer_id="writer",
        find_price=(prices or {}).get,
        on_metered=lambda: (woken if woken is not None else []).append(1),
    )


def attempt(**changes: Any) -> Attempt:
    fields = {
        "id": ATTEMPT,
        "request_id": "0190f0f0-0000-7000-8000-000000000002",
        "number": 0,
        "principal": PRINCIPAL,
        "call": chat(),
        "target": target(price_id="p1"),
        "is_sent": True,
        "started_at": EPOCH,
    }
    return Attempt(**(fields | changes))


def row_of(statement: Statement, one: Attempt, prices: dict[str, PriceLines] | None = None) -> dict[str, Any]:
    commits = Commits()
    ledger = ledger_over(commits, prices)
    asyncio.run(ledger.open(one) if statement is OPEN else ledger.close(one))
    [(used, row)] = commits.row_of
    assert used is statement
    columns = IDENTITY if statement is OPEN else {"id": "uuid", **OUTCOME}
    assert len(row) == len(columns) == len(statement.types)
    return dict(zip(columns, row, strict=True))


def test_an_open_row_says_who_asked_for_what() -> None:
    call = replace(chat(), end_user="ann", tags=("a", "b"), metadata={"k": 1})
    row = row_of(OPEN, attempt(call=call))
    assert (row["id"], row["writer_id"]) == (ATTEMPT.replace("-", ""), "writer")
    assert (row["end_user"], row["tags"], row["metadata"]) == ("ann", '["a","b"]', '{"k":1}')
    assert (row["model_group"], row["upstream_model"], row["provider"]) == ("public", "private", "openai_compatible")
    assert row["input_tokens"] == call.input_estimate
    assert row["price_id"] == "p1"


def test_the_source_of_a_call_is_written_with_its_open_row_and_costs_clients_nothing() -> None:
    commits = Commits()
    asyncio.run(ledger_over(commits).open(attempt(principal=replace(PRINCIPAL, source="probe"))))
    assert commits.units == [[OPEN.name, NOTE_SOURCE.name]]
    assert commits.row_of[1] == (NOTE_SOURCE, (ATTEMPT.replace("-", ""), "probe"))
    commits = Commits()
    asyncio.run(ledger_over(commits).open(attempt()))
    assert commits.units == []


def test_a_closed_row_says_what_came_of_it_and_wakes_the_book_keeper() -> None:
    one = attempt(
        ended_at=EPOCH + 1,
        first_token_at=EPOCH + 0.5,
        usage=Usage(input_tokens=7, output_tokens=3),
        usage_source=UsageSource.PROVIDER,
        raw_usage=USAGE,
        upstream_id="chatcmpl-1",
    )
    row = row_of(CLOSE, one, {"p1": PriceLines.read({"input": "0.000001", "output": "0.000002"})})
    assert (row["state"], row["finish"], row["status_code"]) == ("metered", "complete", 200)
    assert row["usage"] == '{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}'
    assert one.cost_pusd == 13_000_000
    woken: list[int] = []
    asyncio.run(ledger_over(Commits(), woken=woken).close(one))
    assert woken == [1]


def test_a_row_that_was_never_sent_is_aborted() -> None:
    assert row_of(CLOSE, attempt(is_sent=False, ended_at=EPOCH))["state"] == "aborted"


def test_the_text_of_an_error_is_written_beside_the_row_and_bounded() -> None:
    commits = Commits()
    asyncio.run(ledger_over(commits).close(attempt(ended_at=EPOCH, error_message="GPU\0 lost" * 500)))
    assert commits.units == [[CLOSE.name, NOTE_ERROR.name]]
    assert commits.row_of[1][1] == (ATTEMPT.replace("-", ""), ("GPU lost" * 500)[:1000])
    commits = Commits()
    asyncio.run(ledger_over(commits).close(attempt(ended_at=EPOCH)))
    assert commits.units == [[CLOSE.name]]  # a success costs nothing more


def test_whatever_an_upstream_says_fits_its_column() -> None:
    long = "x\0" * 1000
    row = row_of(
        CLOSE, attempt(served_model=long, upstream_id=long, service_tier=long, error_code=long, ended_at=EPOCH)
    )
    for name, size in {"served_model": 255, "upstream_id": 255, "service_tier": 40, "error_code": 64}.items():
        assert row[name] == "x" * size


@pytest.mark.parametrize(
    ("source", "raw", "text"),
    [
        (UsageSource.ESTIMATED, {"a": 1}, ""),
        (UsageSource.PROVIDER, None, ""),
        (UsageSource.PROVIDER, {"a": "\0"}, '{"a":"\\u0000"}'),
        (UsageSource.PROVIDER, {"a": "x" * 10_000}, ""),
        (UsageSource.PROVIDER, orjson.loads('{"a":' * 300 + "1" + "}" * 300), ""),  # its row would stay open for ever
    ],
)
def test_the_raw_usage_is_kept_where_it_is_the_providers(source: UsageSource, raw: Any, text: str) -> None:
    assert row_of(CLOSE, attempt(usage_source=source, raw_usage=raw, ended_at=EPOCH))["usage"] == text


@given(st.integers(0, 4_000_000_000 * 10**6))
def test_an_instant_is_written_to_the_microsecond(micros: int) -> None:
    seconds = micros / 1e6
    written_at = datetime.strptime(str(instant(seconds)), "%Y-%m-%d %H:%M:%S.%f").replace(tzinfo=UTC)
    assert abs(written_at.timestamp() - seconds) < 2e-6


def test_an_absent_instant_is_null() -> None:
    assert instant(None) is None
    assert instant(0.9999999) == "1970-01-01 00:00:01.000000"


def test_the_heart_beats_on_after_a_refusal() -> None:
    """A process whose heart has stopped is taken for dead, and its open rows for lost."""

    async def story() -> list[str]:
        commits = Commits(None, None, GatewayFault("The ledger is overloaded."), GatewayFault("again"))
        ledger = ledger_over(commits)
        await ledger.start()
        await asyncio.sleep(HEARTBEAT_S * 6.5)
        await ledger.stop()
        return [statement.name for statement, _ in commits.row_of]

    assert play(story()) == [HEARTBEAT.name] * 5


def test_the_heart_begins_to_beat_while_the_database_is_away_and_beats_on() -> None:
    async def story() -> list[str]:
        commits = Commits(DatabaseAway("away"), None, DatabaseAway("away"))
        ledger = ledger_over(commits)
        await ledger.start()
        await asyncio.sleep(HEARTBEAT_S * 6.5)
        await ledger.stop()
        return [statement.name for statement, _ in commits.row_of]

    assert play(story()) == [HEARTBEAT.name] * 5


RESPONSE, ITEM = insert("response"), insert("item")


def test_the_steps_of_an_attempt_share_the_unit_of_its_spend_row_in_their_order() -> None:
    log: list[str] = []

    def respond(attempt: Attempt, unit: UnitOfWork) -> None:
        assert attempt.cost_pusd is not None  # known to the steps
        unit.add(RESPONSE, ("r", 0))
        unit.follow_up(note)

    async def note() -> None:
        log.append("followed up")

    def extend(_: Attempt, unit: UnitOfWork) -> None:
        unit.add(ITEM, ("i", 0))

    commits = Commits()
    one = attempt(usage=Usage(input_tokens=1), usage_source=UsageSource.PROVIDER, steps=(respond, extend))
    prices = {"p1": PriceLines.read({"input": "0.000001", "output": "0.000002"})}
    asyncio.run(ledger_over(commits, prices).close(one))
    assert commits.units == [["close", "response", "item"]]
    assert log == ["followed up"]


def test_a_step_that_fails_takes_no_spend_row_along() -> None:
    def respond(_: Attempt, unit: UnitOfWork) -> None:
        unit.add(RESPONSE, ("r", 0))

    def fail(_: Attempt, unit: UnitOfWork) -> None:
        raise LookupError

    commits = Commits()
    with pytest.raises(LookupError):
        asyncio.run(ledger_over(commits).close(attempt(steps=(respond, fail))))
    assert commits.units == [["close"]]


@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [
        (LookupError(), 500, "internal_error"),
        (GatewayFault("full", code="database_away"), 503, "database_away"),
    ],
)
def test_a_row_whose_step_failed_has_the_status_that_the_client_gets(
    failure: Exception, status: int, code: str
) -> None:
    def fail(_: Attempt, unit: UnitOfWork) -> None:
        raise failure

    commits = Commits()
    with pytest.raises(type(failure)):
        asyncio.run(ledger_over(commits).close(attempt(steps=(fail,), usage=Usage(input_tokens=7))))
    [(_, row)] = commits.row_of
    fields = dict(zip({"id": "uuid", **OUTCOME}, row, strict=True))
    assert (fields["status_code"], fields["error_code"], fields["input_tokens"]) == (status, code, 7)


def test_a_stream_whose_step_failed_was_seen_as_200() -> None:
    def fail(_: Attempt, unit: UnitOfWork) -> None:
        raise GatewayFault("full", code="database_away")

    commits = Commits()
    with pytest.raises(GatewayFault):
        asyncio.run(ledger_over(commits).close(attempt(steps=(fail,), is_begun=True)))
    [(_, row)] = commits.row_of
    fields = dict(zip({"id": "uuid", **OUTCOME}, row, strict=True))
    assert (fields["status_code"], fields["error_code"]) == (200, "database_away")


@pytest.mark.parametrize(("tokens", "bounded"), [(10**12, 100_000_000), (-1, 0), (10**30, 100_000_000)])
def test_a_count_that_no_call_has_is_bounded_and_marked(tokens: int, bounded: int) -> None:
    one = attempt(usage=Usage(output_tokens=tokens, reasoning_tokens=5), ended_at=EPOCH)
    row = row_of(CLOSE, one, {"p1": PriceLines.read({"output": "0.000001"})})
    assert (row["output_tokens"], row["reasoning_tokens"], row["usage_inconsistent"]) == (bounded, 5, True)
    assert one.cost_pusd == (bounded + 5) * 1_000_000


def test_the_book_keeper_is_woken_also_where_the_rest_of_a_unit_is_refused() -> None:
    woken: list[int] = []
    with pytest.raises(GatewayFault):
        asyncio.run(ledger_over(Commits(GatewayFault("refused")), woken=woken).close(attempt()))
    assert woken == [1]


async def test_a_process_that_stood_still_counts_a_lapse() -> None:
    """Others may have taken it for dead, though its heart beats again."""
    ledger = ledger_over(Commits())
    await ledger.start()
    first = ledger.lapses
    await ledger.confirm()
    assert ledger.lapses == first
    ledger._beat_at -= LAPSE_S
    assert not ledger.is_known
    await ledger.confirm()
    assert ledger.is_known
    assert ledger.lapses == first + 1
    await ledger.stop()


async def test_a_process_whose_heartbeat_is_not_written_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("billing.ledger.CONFIRM_S", 0.04)
    ledger = ledger_over(Commits(*[DatabaseAway("away")] * 5))
    await ledger.start()
    assert not ledger.is_known
    with pytest.raises(DatabaseAway):
        await ledger.confirm()
    await ledger.stop()


def test_a_lapse_is_noticed_before_others_take_the_process_for_dead() -> None:
    assert 2 * STALE.total_seconds() > LAPSE_S


def test_the_routing_of_a_failure_is_written_beside_the_row() -> None:
    commits = Commits()
    asyncio.run(ledger_over(commits).close(attempt(ended_at=EPOCH, error_class="server", upstream_status=503)))
    assert commits.units == [[CLOSE.name, NOTE_ROUTING.name]]
    assert commits.row_of[1][1] == (ATTEMPT.replace("-", ""), '{"class":"server","upstream_status":503}')
