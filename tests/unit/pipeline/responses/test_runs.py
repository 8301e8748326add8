"""A background response's way through a worker: its log, its end, and what is never written."""

import asyncio
from dataclasses import replace
from typing import Any

import orjson
import pytest

from gateway.pipeline.ports import Catalog, Principal, Reservation, Unlimited
from gateway.pipeline.responses.create import interpret, open_turn
from gateway.pipeline.responses.ports import ResponseServices
from gateway.pipeline.responses.runs import RUN_HEADERS, Run, RunPostponed, perform, queue
from gateway.pipeline.run import Inbound
from gateway.protocol.call import Call
from gateway.protocol.dialects.responses.event_log import LIFECYCLE
from gateway.protocol.errors import ClientFault, Fault, GatewayFault, RateLimited, UpstreamFault
from gateway.protocol.json.types import JsonObject
from gateway.protocol.provider import Target
from gateway.state.unit_of_work import UnitOfWork
from tests.fakes.background import MemoryRuns
from tests.fakes.conversations import PlainSeal
from tests.fakes.memory import (
    PRINCIPAL,
    WHOLE_STREAM,
    MemoryLedger,
    Script,
    ScriptedClient,
    chunk,
    commit,
    event,
    play,
    services,
    target,
)
from tests.fakes.responses_grammar import check

CATALOG = Catalog({(None, "public"): (target(),)})
REQUEST_ID = "00000000-0000-7000-8000-000000000001"


def response_services() -> ResponseServices:
    nothing: Any = None
    return ResponseServices(nothing, nothing, commit, lambda _: PlainSeal(), retention_days=30)


class Gateway:
    """A web process and a worker around one store."""

    def __init__(self, *answers: Script | BaseException) -> None:
        self.runs = MemoryRuns()
        self.ledger = MemoryLedger(log=self.runs.log)
        self.client = ScriptedClient(answers)
        self.services = services(self.client, self.ledger)
        self.woken = 0
        self.charges = 0
        self.refusal: ClientFault | None = None  # by a rate limit

    async def _charge(self) -> None:
        self.charges += 1
        if self.refusal is not None:
            raise self.refusal

    def _wake(self) -> None:
        self.woken += 1

    async def create(self, headers: dict[bytes, bytes] | None = None, **fields: Any) -> Run:
        body = orjson.dumps({"model": "public", "input": "say hello", "background": True, **fields})
        inbound = Inbound(REQUEST_ID, headers or {}, body)
        request = interpret(inbound)
        turn = await open_turn(request, PRINCIPAL, self.services, response_services(), is_background=True)
        await queue(
            turn, UnitOfWork(), inbound, PRINCIPAL, self.runs, self.services.now, commit, self._wake, self._charge
        )
        [claimed] = await self.runs.claim(1)
        in_progress = {**claimed.stored.response, "status": "in_progress"}
        self.events_of(claimed).append({"type": "response.in_progress", "sequence_number": 2, "response": in_progress})
        return claimed

    async def work(self, run: Run, catalog: Catalog = CATALOG) -> None:
        await perform(run, self.runs, catalog, self.services, response_services())

    def events_of(self, run: Run) -> list[JsonObject]:
        return self.runs.told_events[run.stored.id]


def test_nothing_is_queued_where_the_queue_has_no_place() -> None:
    async def story() -> None:
        gateway = Gateway()
        gateway.runs.has_no_place = True
        with pytest.raises(ClientFault) as refused:
            await gateway.create()
        assert refused.value.status == 429
        assert (gateway.runs.queued, gateway.runs.told_events, gateway.woken, gateway.charges) == ([], {}, 0, 0)

    play(story())


def test_nothing_is_queued_that_a_rate_limit_refuses() -> None:
    async def story() -> None:
        gateway = Gateway()
        gateway.refusal = RateLimited("Rate limit exceeded for key.")
        with pytest.raises(RateLimited):
            await gateway.create()
        assert (gateway.runs.queued, gateway.runs.told_events, gateway.woken) == ([], {}, 0)

    play(story())


def test_a_run_waits_for_a_slot() -> None:
    """Only slots are taken in the worker. A refusal of them has cost nothing."""

    class NoSlot(Unlimited):
        async def reserve(
            self, principal: Principal, call: Call, target: Target, *, is_repeat: bool = False
        ) -> Reservation | None:
            raise RateLimited("Rate limit exceeded for key. Limit type: parallel requests.")

    async def story() -> None:
        gateway = Gateway()
        run = await gateway.create()
        gateway.services = replace(gateway.services, admission=NoSlot())
        with pytest.raises(RunPostponed, match="parallel requests"):
            await gateway.work(run)
        assert gateway.client.requests == []

    play(story())


def test_what_is_queued_is_what_will_be_answered() -> None:
    async def story() -> None:
        gateway = Gateway(Script(WHOLE_STREAM))
        run = await gateway.create(metadata={"a": "b"})
        assert gateway.woken == 1
        assert (run.stored.status, run.stored.is_background, run.key_digest) == (
            "queued",
            True,
            PRINCIPAL.key_digest,
        )
        await gateway.work(run)
        ended = gateway.runs.ended[run.stored.id]
        assert ended.status == "completed"
        assert ended.input == run.stored.input
        assert ended.created_s == run.stored.created_s
        names = {"id", "created_at", "model", "metadata", "background"}
        assert {name: ended.response[name] for name in names} == {name: run.stored.response[name] for name in names}
        assert ended.response["background"] is True

    play(story())


def test_the_log_is_one_legal_stream_that_ends_with_what_is_stored() -> None:
    async def story() -> None:
        gateway = Gateway(Script(WHOLE_STREAM))
        run = await gateway.create(stream=True)
        await gateway.work(run)
        events = orjson.loads(orjson.dumps(gateway.events_of(run)))
        response = check(events)
        assert response == orjson.loads(orjson.dumps(gateway.runs.ended[run.stored.id].response))
        assert [one["type"] for one in events if one["type"] in LIFECYCLE] == [
            "response.created",
            "response.queued",
            "response.in_progress",
        ]

    play(story())


def test_the_end_is_queued_before_the_spend_row_is_closed_and_shares_its_transaction() -> None:
    async def story() -> None:
        gateway = Gateway(Script(WHOLE_STREAM))
        await gateway.work(await gateway.create())
        assert [entry for entry in gateway.runs.log if entry[0] in {"finish", "close"}] == [
            ("finish", "completed"),
            ("close", "first"),
        ]
        assert len(gateway.ledger.closed) == 1

    play(story())


def test_events_are_written_in_batches_while_it_is_made() -> None:
    words = [piece for number in range(40) for piece in (event(chunk(f"w{number} ")), 0.03)]

    async def story() -> None:
        gateway = Gateway(Script((*words, *WHOLE_STREAM[2:])))
        run = await gateway.create()
        await gateway.work(run)
        assert 5 <= len(gateway.runs.batches) <= 15  # 1.2 s, a batch each 0.1 s
        check(orjson.loads(orjson.dumps(gateway.events_of(run))))

    play(story())


def test_a_burst_is_written_at_once() -> None:
    burst = tuple(event(chunk(f"w{number} ")) for number in range(200))

    async def story() -> None:
        gateway = Gateway(Script((*burst, 0.01, *WHOLE_STREAM[2:])))
        run = await gateway.create()
        await gateway.work(run)
        assert max(map(len, gateway.runs.batches[:-1])) < 200
        check(orjson.loads(orjson.dumps(gateway.events_of(run))))

    play(story())


def test_it_is_always_streamed_from_the_upstream() -> None:
    async def story() -> None:
        gateway = Gateway(Script(WHOLE_STREAM))
        await gateway.work(await gateway.create(stream=False))
        [request] = gateway.client.requests
        assert orjson.loads(request.body)["stream"] is True
        assert "background" not in orjson.loads(request.body)

    play(story())


def test_what_breaks_off_after_the_first_event_is_ended_with_its_spend_row() -> None:
    async def story() -> None:
        gateway = Gateway(Script((event(chunk("Hel")), ConnectionResetError())))
        run = await gateway.create()
        with pytest.raises(UpstreamFault):
            await gateway.work(run)
        assert gateway.runs.ended[run.stored.id].status == "failed"
        assert check(orjson.loads(orjson.dumps(gateway.events_of(run))))["status"] == "failed"

    play(story())


def test_what_fails_before_the_first_event_is_left_to_be_ended() -> None:
    async def story() -> None:
        gateway = Gateway(Script((b'{"error": {"message": "no"}}',), status=400))
        run = await gateway.create()
        with pytest.raises(Fault):
            await gateway.work(run)
        assert gateway.runs.ended == {}
        assert len(gateway.ledger.closed) == 1

    play(story())


def test_what_was_cancelled_is_closed_on_the_books_and_not_ended_again() -> None:
    async def story() -> None:
        gateway = Gateway(Script((event(chunk("Hel")), 1000.0)))
        run = await gateway.create()
        working = asyncio.create_task(gateway.work(run))
        await asyncio.sleep(1)
        gateway.runs.cancel(run.stored.id)
        event_count = len(gateway.events_of(run))
        working.cancel()
        with pytest.raises(asyncio.CancelledError):
            await working
        assert len(gateway.events_of(run)) == event_count
        assert gateway.runs.ended[run.stored.id].status == "cancelled"
        [closed] = gateway.ledger.closed
        assert closed.finish == "client_gone"

    play(story())


def test_a_late_end_changes_nothing_of_what_was_cancelled() -> None:
    async def story() -> None:
        gateway = Gateway(Script((event(chunk("Hel")), 1.0, *WHOLE_STREAM[1:])))
        run = await gateway.create()
        working = asyncio.create_task(gateway.work(run))
        await asyncio.sleep(0.5)
        gateway.runs.cancel(run.stored.id)
        event_count = len(gateway.events_of(run))
        await working
        assert gateway.runs.ended[run.stored.id].status == "cancelled"
        assert len(gateway.events_of(run)) == event_count
        assert len(gateway.ledger.closed) == 1

    play(story())


def test_a_log_with_a_gap_is_never_finished() -> None:
    async def story() -> None:
        gateway = Gateway(Script((event(chunk("Hel")), 1.0, event(chunk("lo")), 1.0, *WHOLE_STREAM[2:])))
        run = await gateway.create()
        working = asyncio.create_task(gateway.work(run))
        await asyncio.sleep(0.05)
        gateway.runs.away = True
        await asyncio.sleep(0.5)
        gateway.runs.away = False
        with pytest.raises(Fault):
            await working
        assert gateway.runs.ended == {}

    play(story())


def test_events_that_found_the_queue_full_are_a_gap_too() -> None:
    """More at once than a batch holds: the sender appends them."""
    burst = tuple(event(chunk(f"w{number} ")) for number in range(200))

    async def story() -> None:
        gateway = Gateway(Script((event(chunk("Hel")), 1.0, *burst, *WHOLE_STREAM[2:])))
        run = await gateway.create()
        working = asyncio.create_task(gateway.work(run))
        await asyncio.sleep(0.5)
        gateway.runs.is_full = True
        with pytest.raises(Fault):
            await working
        assert gateway.runs.ended == {}
        assert len(gateway.ledger.closed) == 1

    play(story())


def test_events_that_found_the_queue_full_by_the_timer_are_a_gap_too() -> None:
    async def story() -> None:
        gateway = Gateway(Script((event(chunk("Hel")), 1.0, *WHOLE_STREAM[1:])))
        run = await gateway.create()
        gateway.runs.is_full = True
        working = asyncio.create_task(gateway.work(run))
        await asyncio.sleep(0.5)
        gateway.runs.is_full = False
        with pytest.raises(Fault):
            await working
        assert gateway.runs.ended == {}

    play(story())


def test_what_meets_an_outage_before_anything_was_paid_may_be_made_later() -> None:
    async def story() -> None:
        gateway = Gateway(Script(WHOLE_STREAM))
        run = await gateway.create()
        gateway.runs.away = True
        with pytest.raises(RunPostponed):
            await gateway.work(run)
        gateway.runs.away, gateway.ledger.open_fails = False, GatewayFault("neither the database nor the spool")
        with pytest.raises(RunPostponed):
            await gateway.work(run)
        assert (gateway.client.requests, gateway.ledger.opened) == ([], [])
        gateway.ledger.open_fails = None
        await gateway.work(run)
        assert check(orjson.loads(orjson.dumps(gateway.events_of(run))))["status"] == "completed"

    play(story())


def test_what_was_paid_or_is_no_matter_of_time_is_not_made_later() -> None:
    async def story() -> None:
        for fails in ("open_fails", "close_fails"):
            gateway = Gateway(Script(WHOLE_STREAM))
            run = await gateway.create()
            fault = GatewayFault("no", status=500 if fails == "open_fails" else 503)
            setattr(gateway.ledger, fails, fault)
            with pytest.raises(GatewayFault) as raised:
                await gateway.work(run)
            assert not isinstance(raised.value, RunPostponed)
            assert len(gateway.client.requests) == (fails == "close_fails")

    play(story())


OTHERS: dict[str, Principal | None] = {
    "is gone": None,
    "has expired": replace(PRINCIPAL, expires_at_s=1.0),
    "is of another team": replace(PRINCIPAL, team_id="other"),
}


@pytest.mark.parametrize("holder", OTHERS.values(), ids=OTHERS.keys())
def test_nothing_is_asked_for_a_key_that_may_not_ask(holder: Principal | None) -> None:
    async def story() -> None:
        gateway = Gateway(Script(WHOLE_STREAM))
        run = await gateway.create()
        gateway.runs.principal = holder
        with pytest.raises(Fault):
            await gateway.work(run)
        assert gateway.client.requests == []
        assert gateway.ledger.opened == []

    play(story())


def test_a_model_that_is_gone_is_a_fault() -> None:
    async def story() -> None:
        gateway = Gateway()
        run = await gateway.create()
        with pytest.raises(Fault):
            await gateway.work(run, Catalog())

    play(story())


def test_only_headers_that_say_how_it_is_answered_are_kept() -> None:
    headers = dict.fromkeys(RUN_HEADERS, b"5") | {
        b"authorization": b"Bearer sk-secret",
        b"x-api-key": b"sk-secret",
        b"x-litellm-spend-logs-metadata": b"{}",
        b"x-litellm-tags": b"blue",
    }

    async def story() -> None:
        gateway = Gateway(Script(WHOLE_STREAM))
        run = await gateway.create(headers)
        assert set(run.headers) == {name.decode() for name in RUN_HEADERS}
        assert "sk-secret" not in repr(run.headers)
        await gateway.work(run)
        [closed] = gateway.ledger.closed
        assert closed.call.tags == ("blue",)
        assert closed.request_id == REQUEST_ID

    play(story())


def test_the_answers_ids_are_none_of_the_inputs() -> None:
    async def story() -> None:
        gateway = Gateway(Script(WHOLE_STREAM))
        items = [{"role": "user", "content": f"{number}"} for number in range(5)]
        run = await gateway.create(input=items)
        await gateway.work(run)
        ended = gateway.runs.ended[run.stored.id]
        ids = [item["id"] for item in ended.items]
        assert len(set(ids)) == len(ids)

    play(story())
