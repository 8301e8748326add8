"""Idempotency-Key: who is to answer, who waits, and who is refused."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from gateway.pipeline.ports import Attempt, CloseStep
from gateway.pipeline.responses.close import TurnClose
from gateway.pipeline.responses.idempotency import (
    DEAD_S,
    POLL_S,
    Claim,
    Settlement,
    claim_or_result,
    read_key,
)
from gateway.pipeline.responses.turn import Continuation, ResponseTurn
from gateway.protocol.call import Finish
from gateway.protocol.dialect import Hints
from gateway.protocol.dialects.responses.client_request import decode
from gateway.protocol.dialects.responses.stored import Owner, StoredResponse
from gateway.protocol.errors import BadRequest, ClientFault, GatewayFault
from gateway.protocol.ids import Ids
from gateway.state.unit_of_work import UnitOfWork
from tests.fakes.background import OWNER, stored
from tests.fakes.conversations import PlainSeal
from tests.fakes.memory import PRINCIPAL, MemoryLedger, chat, play, target


class MemoryClaims:
    """One claim, or none."""

    def __init__(self, claim: Claim | None = None) -> None:
        self.now = claim
        self.claim_count = 0
        self.settled: list[tuple[Claim, bool]] = []

    async def claim(self, owner: Owner, key: str, body: str, response_id: str) -> Claim:
        self.claim_count += 1
        if self.now is None:
            self.now = Claim(owner, key, body, response_id, "me")
            return replace(self.now, is_own=True)
        return self.now

    async def take_over(self, claim: Claim, response_id: str) -> bool:
        if claim != self.now:
            return False
        self.now = replace(claim, response_id=response_id, writer_id="me")
        return True

    async def settle(self, claim: Claim, *, is_kept: bool) -> None:
        await asyncio.sleep(1)
        self.settled.append((claim, is_kept))


class MemoryResponses:
    def __init__(self, *rows: StoredResponse) -> None:
        self.rows = {row.id: row for row in rows}

    async def find(self, owner: Owner, response_id: str) -> StoredResponse | None:
        return self.rows.get(response_id)


THEIRS = Claim(OWNER, "k", "b", "resp_theirs", "they")
PATIENCE_S = 300.0


async def ask(claims: MemoryClaims, *rows: StoredResponse, **changes: Any) -> Claim | StoredResponse:
    responses: Any = MemoryResponses(*rows)
    fields: dict[str, Any] = {
        "key": "k",
        "body": "b",
        "response_id": "resp_mine",
        "is_stored": True,
        "patience_s": PATIENCE_S,
    }
    fields |= changes
    return await claim_or_result(claims, responses, OWNER, **fields)


def is_mine(result: Claim | StoredResponse) -> bool:
    return isinstance(result, Claim) and result.is_own and result.response_id == "resp_mine"


def test_the_first_is_to_answer() -> None:
    assert is_mine(play(ask(MemoryClaims())))


def test_the_second_gets_what_is_stored() -> None:
    response = stored("resp_theirs", "completed", is_background=False)
    assert play(ask(MemoryClaims(THEIRS), response)) is response


def test_the_second_waits_for_the_first() -> None:
    async def story() -> None:
        claims, responses = MemoryClaims(THEIRS), MemoryResponses()
        store: Any = responses
        asking = asyncio.create_task(
            claim_or_result(
                claims, store, OWNER, key="k", body="b", response_id="resp_mine", is_stored=True, patience_s=PATIENCE_S
            )
        )
        await asyncio.sleep(100)
        assert not asking.done()
        assert claims.claim_count <= 100 / POLL_S + 2
        responses.rows["resp_theirs"] = response = stored("resp_theirs", "completed", is_background=False)
        assert await asking is response

    play(story())


def test_nobody_waits_without_end() -> None:
    async def story() -> float:
        with pytest.raises(ClientFault) as refused:
            await ask(MemoryClaims(THEIRS))
        assert (refused.value.status, refused.value.code) == (409, "idempotency_conflict")
        assert (b"x-should-retry", b"true") in refused.value.headers
        return asyncio.get_running_loop().time()

    assert PATIENCE_S <= play(story()) <= PATIENCE_S + POLL_S


def test_where_the_first_failed_the_second_is_to_answer() -> None:
    async def story() -> None:
        claims = MemoryClaims(THEIRS)
        asking = asyncio.create_task(ask(claims))
        await asyncio.sleep(1)
        claims.now = None  # it left nothing
        assert is_mine(await asking)

    play(story())


def test_another_body_is_refused_whatever_became_of_the_first() -> None:
    for claim in (THEIRS, replace(THEIRS, is_answered=True), replace(THEIRS, is_alive=False)):
        with pytest.raises(ClientFault) as refused:
            play(ask(MemoryClaims(claim), body="another"))
        assert (refused.value.status, refused.value.code) == (422, "idempotency_key_mismatch")


def test_a_dead_process_is_given_a_moment_and_then_replaced() -> None:
    async def story() -> None:
        claims = MemoryClaims(replace(THEIRS, is_alive=False))
        asking = asyncio.create_task(ask(claims))
        await asyncio.sleep(DEAD_S - 0.5)
        claims.now = THEIRS  # its heart beats again
        await asyncio.sleep(100)
        assert not asking.done()
        claims.now = replace(THEIRS, is_alive=False)
        await asyncio.sleep(DEAD_S + 1)
        assert is_mine(await asking)

    play(story())


@pytest.mark.parametrize("is_background", [True, False])
def test_what_was_cut_off_with_its_client_is_made_anew_and_what_was_cancelled_is_not(is_background: bool) -> None:
    response = stored("resp_theirs", "cancelled", is_background=is_background)
    result = play(ask(MemoryClaims(THEIRS), response))
    assert result is response if is_background else is_mine(result)


def test_a_result_that_is_gone_is_made_anew() -> None:
    assert is_mine(play(ask(MemoryClaims(replace(THEIRS, is_answered=True)))))


def test_what_is_not_stored_is_refused_while_it_is_made() -> None:
    with pytest.raises(ClientFault) as refused:
        play(ask(MemoryClaims(THEIRS), is_stored=False))
    assert (refused.value.status, refused.value.code) == (409, "idempotency_conflict")
    assert is_mine(play(ask(MemoryClaims(replace(THEIRS, is_alive=False)), is_stored=False)))


def test_a_claim_goes_where_nothing_was_kept() -> None:
    async def story() -> None:
        claims = MemoryClaims()
        async with Settlement(claims, THEIRS):
            pass
        with pytest.raises(BadRequest):
            async with Settlement(claims, THEIRS):
                raise BadRequest("no")

        async def answer() -> None:
            async with Settlement(claims, THEIRS):
                await asyncio.sleep(100)

        answering = asyncio.create_task(answer())
        await asyncio.sleep(1)
        answering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await answering
        await asyncio.sleep(2)
        assert claims.settled == [(THEIRS, False)] * 3

    play(story())


class Commits:
    """Group commit that takes a second for a unit, or `fails` then."""

    def __init__(self, fails: Exception | None = None) -> None:
        self.fails = fails
        self.units: list[UnitOfWork] = []

    def submit(self, unit: UnitOfWork) -> None:
        unit.done = asyncio.ensure_future(self._write(unit))

    async def commit(self, unit: UnitOfWork) -> None:
        self.submit(unit)
        assert unit.done is not None
        await asyncio.shield(unit.done)
        for follow_up in unit.follow_ups:
            await follow_up()

    async def _write(self, unit: UnitOfWork) -> None:
        await asyncio.sleep(1)
        if self.fails is not None:
            raise self.fails
        self.units.append(unit)


def unit_for(settlement: Settlement) -> UnitOfWork:
    unit = UnitOfWork()
    settlement.stand_for(unit)
    return unit


def test_a_claim_stands_for_what_was_kept_before_the_client_is_told() -> None:
    async def story() -> None:
        claims = MemoryClaims()
        for count in (1, 2):
            async with Settlement(claims, THEIRS) as settlement:
                await Commits().commit(unit_for(settlement))
                assert claims.settled == [(THEIRS, True)] * count
        assert len(claims.settled) == 2

    play(story())


@pytest.mark.parametrize("fails", [GatewayFault("away"), None])
def test_what_became_of_a_response_is_waited_for(fails: Exception | None) -> None:
    """Also when the request no longer waits: its answer failed meanwhile, or its client has left."""

    async def story() -> None:
        claims = MemoryClaims()
        async with Settlement(claims, THEIRS) as settlement:
            Commits(fails).submit(unit_for(settlement))

        async def answer() -> None:
            async with Settlement(claims, THEIRS) as settlement:
                await Commits(fails).commit(unit_for(settlement))

        for cut_s in (0.5, 1.5):  # while the unit is written, and while the claim is settled
            answering = asyncio.create_task(answer())
            await asyncio.sleep(cut_s)
            answering.cancel()
            await asyncio.wait([answering])
            assert answering.cancelled()
            await asyncio.sleep(3)
        assert claims.settled == [(THEIRS, fails is None)] * 3

    play(story())


def test_a_run_is_queued_and_its_claim_stands_also_when_the_client_left_meanwhile() -> None:
    async def story() -> None:
        claims, commits = MemoryClaims(), Commits()

        async def create() -> None:
            async with Settlement(claims, THEIRS) as settlement:
                await commits.commit(unit_for(settlement))

        creating = asyncio.create_task(create())
        await asyncio.sleep(0.5)
        creating.cancel()
        await asyncio.sleep(3)
        assert (len(commits.units), claims.settled) == (1, [(THEIRS, True)])

    play(story())


def test_a_claim_goes_where_its_unit_was_never_queued() -> None:
    async def story() -> None:
        claims = MemoryClaims()
        async with Settlement(claims, THEIRS) as settlement:
            unit_for(settlement)
        assert claims.settled == [(THEIRS, False)]

    play(story())


@pytest.mark.parametrize(("finish", "count"), [(Finish.COMPLETE, 1), (Finish.UPSTREAM_ERROR, 0)])
def test_it_is_settled_before_the_last_byte_where_nothing_is_stored(finish: Finish, count: int) -> None:
    async def story() -> None:
        claims, ledger, close = MemoryClaims(), MemoryLedger(), a_close()
        async with Settlement(claims, THEIRS) as settlement:
            await ledger.close(an_attempt(finish, settlement.step(close, is_stored=False)))
            assert (ledger.log, claims.settled) == ([("close", "first")], [(THEIRS, False)] * count)
        assert claims.settled == [(THEIRS, False)]

    play(story())


@pytest.mark.parametrize(("is_answered", "count"), [(True, 1), (False, 0)])
def test_it_is_settled_with_the_attempt_whose_response_is_stored(is_answered: bool, count: int) -> None:
    async def story() -> None:
        claims, ledger, close = MemoryClaims(), MemoryLedger(), a_close()
        close.response = stored("resp_theirs", "completed") if is_answered else None
        async with Settlement(claims, THEIRS) as settlement:
            await ledger.close(an_attempt(Finish.COMPLETE, settlement.step(close, is_stored=True)))
            assert claims.settled == [(THEIRS, True)] * count
        assert claims.settled == [(THEIRS, is_answered)]

    play(story())


def a_close() -> TurnClose:
    request = decode(b'{"model": "public", "input": "hi"}', Hints(), Ids("a" * 48))
    turn = ResponseTurn(request, OWNER, Continuation(), PlainSeal(), created_s=1.0, retention_s=1.0)
    return TurnClose(turn, lambda: 1.0)


def an_attempt(finish: Finish, *steps: CloseStep) -> Attempt:
    return Attempt("a", "r", 0, PRINCIPAL, chat(), target(), 1.0, finish=finish, steps=steps)


def test_a_key_is_printable_and_bounded() -> None:
    assert read_key({}) == ""
    assert read_key({b"idempotency-key": b"x" * 255}) == "x" * 255
    for bad in (b"", b"x" * 256, b"a\tb", "schlüssel".encode()):
        with pytest.raises(BadRequest) as refused:
            read_key({b"idempotency-key": bad})
        assert refused.value.param == "Idempotency-Key"
