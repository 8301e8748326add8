"""Background responses in either database: one worker a run, one end a response, no gap in a log.

Every promise is about what other processes see, so nothing here runs inside a test's transaction.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone
from django_scopes import scopes_disabled

from gateway.models import BackgroundRun, Conversation, EventBatch
from gateway.models import StoredResponse as StoredResponseRow
from gateway.pipeline.responses.rows import STORE, row_of
from gateway.pipeline.responses.runs import Run
from gateway.protocol.dialects.responses.event_log import number_events
from gateway.protocol.dialects.responses.stored import Owner, StoredResponse
from gateway.protocol.dialects.responses.stream import usage_object
from gateway.protocol.errors import ClientFault
from gateway.protocol.json.types import JsonObject
from gateway.protocol.usage import Usage
from gateway.state.spool import Spool
from gateway.stores.run_events import LOST
from gateway.stores.run_slots import RunLimits
from gateway.stores.runs import (
    ABANDONED,
    DEFAULT_LIMITS,
    LEASE_S,
    QUEUE,
    SUSPECT,
    has_queued,
    sweep_lost,
    sweep_runs,
)
from tenants.models import DEFAULT_ORGANIZATION
from tests.contract.replica import STATEMENTS, Replica, in_thread
from tests.fakes.background import stored as stored_response
from tests.fakes.responses_grammar import check

PATIENCE_S = 30
WIDE = RunLimits(running_per_key=30, running_per_organization=30)
HOME = Owner(DEFAULT_ORGANIZATION, "team:home")
STRANGERS = (Owner(DEFAULT_ORGANIZATION, "team:other"), Owner("abroad", "team:home"))
ITEM: JsonObject = {"id": "msg_1", "type": "message", "role": "assistant", "status": "in_progress", "content": []}
PART: JsonObject = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
PLACE: JsonObject = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
SPEAKING = [
    ("response.output_item.added", {"output_index": 0, "item": ITEM}),
    ("response.content_part.added", {**PLACE, "part": PART}),
    ("response.output_text.delta", {**PLACE, "delta": "Hel", "logprobs": []}),
]

pytestmark = pytest.mark.django_db(transaction=True, available_apps=["gateway"])


@pytest.fixture(autouse=True)
def home() -> Iterator[None]:
    with scopes_disabled():
        yield


def response(response_id: str, status: str = "queued", output: list[JsonObject] | None = None) -> JsonObject:
    head = {"id": response_id, "object": "response", "created_at": 1, "model": "public", "metadata": {}}
    rest: JsonObject = {"error": None, "incomplete_details": None, "completed_at": None, "usage": None}
    return {**head, "status": status, "output": output or [], **rest}


def a_run(response_id: str = "resp_1", **changes: Any) -> Run:
    now_s = timezone.now().timestamp()
    stored = stored_response(
        response_id, owner=HOME, response=response(response_id), created_s=now_s, input=({"id": "m"},)
    )
    return Run(replace(stored, **changes), "d" * 64, "request", b'{"input": "hi"}', {"x-litellm-tags": "a"})


def opening(run: Run) -> list[JsonObject]:
    members = {"response": run.stored.response}
    return number_events([("response.created", members), ("response.queued", members)], 0)


def completed(run: Run) -> StoredResponse:
    ended = {
        **response(run.stored.id, "completed"),
        "completed_at": 2,
        "usage": usage_object(Usage(3, output_tokens=4)),
    }
    return replace(run.stored, response=ended, completed_s=2.0, deployment_id="d1", provider="p1", spend_id="s1")


def end_of(stored: StoredResponse, first: int) -> list[JsonObject]:
    return number_events([("response.completed", {"response": stored.response})], first)


@asynccontextmanager
async def replicas(folder: Path, *names: str, limits: RunLimits = DEFAULT_LIMITS) -> AsyncIterator[list[Replica]]:
    opened = [Replica(folder, name, limits) for name in names]
    for one in opened:
        await one.__aenter__()
    try:
        yield opened
    finally:
        for one in opened:
            await one.__aexit__()


def play(folder: Path, story: Callable[..., Awaitable[None]], *names: str, limits: RunLimits = DEFAULT_LIMITS) -> None:
    async def whole() -> None:
        async with asyncio.timeout(PATIENCE_S), replicas(folder, *(names or ("one", "two")), limits=limits) as opened:
            await story(*opened)

    asyncio.run(whole())


async def all_told(replica: Replica, response_id: str, owner: Owner = HOME) -> list[JsonObject]:
    events: list[JsonObject] = []
    while True:
        answer = await replica.runs.read_log(owner, response_id, events[-1]["sequence_number"] if events else -1)
        assert answer is not None
        if not answer[1]:
            return events
        events += answer[1]


async def orm(function: Callable[[], Any]) -> Any:
    def scoped() -> Any:
        with scopes_disabled():
            return function()

    return await in_thread(scoped)


def expire(seconds: float = 1) -> None:
    BackgroundRun.objects.exclude(worker_id="").update(lease_until=timezone.now() - timedelta(seconds=seconds))


def test_a_queued_run_is_claimed_whole_by_one_worker(tmp_path: Path) -> None:
    async def story(web: Replica, *workers: Replica) -> None:
        runs = [a_run(f"resp_{number:02}") for number in range(20)]
        await asyncio.gather(*(web.queue(run, opening(run)) for run in runs))
        assert await orm(has_queued)
        stored = await web.responses.find(HOME, "resp_00")
        assert stored is not None
        assert stored.status == "queued"
        claims = await asyncio.gather(*(worker.runs.claim(3) for worker in workers for _ in range(4)))
        claimed = [run for runs in claims for run in runs]
        assert sorted(run.stored.id for run in claimed) == [run.stored.id for run in runs]
        assert not await orm(has_queued)
        ids = [await worker.runs.claimed_ids() for worker in workers]
        assert ids[0] | ids[1] == {run.stored.id for run in runs}
        assert not ids[0] & ids[1]
        one = next(run for run in claimed if run.stored.id == "resp_00")
        assert (one.key_digest, one.request_id, one.request, one.headers) == (
            "d" * 64,
            "request",
            b'{"input": "hi"}',
            {"x-litellm-tags": "a"},
        )
        assert one.stored.input == ({"id": "m"},)
        stored = await web.responses.find(HOME, "resp_00")
        assert stored is not None
        assert (stored.status, stored.response["status"]) == ("in_progress", "in_progress")

    play(tmp_path, story, "web", "first", "second", limits=WIDE)


def test_the_oldest_are_claimed_first(tmp_path: Path) -> None:
    async def story(web: Replica) -> None:
        for number in (2, 0, 1):
            run = a_run(f"resp_{number}", created_s=1000.0 + number)
            await web.queue(run, opening(run))
        assert [run.stored.id for run in await web.runs.claim(2)] != ["resp_2"]
        assert await web.runs.claimed_ids() == {"resp_0", "resp_1"}

    play(tmp_path, story, "web")


def of_key(run: Run, digest: str) -> Run:
    return replace(run, key_digest=digest)


async def running(replica: Replica) -> dict[str, int]:
    """{digest of a key: its running runs}."""
    digests = await orm(lambda: list(BackgroundRun.objects.exclude(worker_id="").values_list("key_digest", flat=True)))
    return dict(Counter(digests))


def test_a_flood_of_one_key_leaves_slots_to_the_others_in_all_workers_together(tmp_path: Path) -> None:
    async def story(web: Replica, first: Replica, second: Replica) -> None:
        flood = [of_key(a_run(f"resp_{number:03}", created_s=1000.0 + number), "flood") for number in range(150)]
        await asyncio.gather(*(web.queue(run, opening(run)) for run in flood))
        claims = await asyncio.gather(*(worker.runs.claim(32) for worker in (first, second, first, second)))
        claimed = [run for runs in claims for run in runs]
        assert sorted(run.stored.id for run in claimed) == [run.stored.id for run in flood[:10]]
        other = of_key(a_run("resp_other"), "other")
        await web.queue(other, opening(other))
        assert [run.stored.id for run in await second.runs.claim(22)] == ["resp_other"]
        assert await running(web) == {"flood": 10, "other": 1}
        ended = completed(claimed[0])  # its slot is for the next one
        for worker in (first, second):
            await worker.finish(ended, end_of(ended, 3))
        assert [run.stored.id for run in await first.runs.claim(32)] == ["resp_010"]
        assert await first.runs.claim(32) == ()

    play(tmp_path, story, "web", "first", "second")


def test_an_organization_has_slots_for_all_its_keys(tmp_path: Path) -> None:
    async def story(web: Replica, worker: Replica) -> None:
        for number in range(12):
            run = of_key(a_run(f"resp_{number:02}", created_s=1000.0 + number), f"key {number % 3}")
            await web.queue(run, opening(run))
        await worker.runs.claim(32)
        assert sorted((await running(web)).values()) == [1, 2, 2]

    play(tmp_path, story, limits=RunLimits(running_per_key=2, running_per_organization=5))


def test_runs_that_cannot_be_claimed_yet_hold_up_no_other_key(tmp_path: Path) -> None:
    async def story(web: Replica, worker: Replica) -> None:
        for number in range(3):  # the oldest, and of a replay: their responses are not there yet
            await web.commits.submit(QUEUE, queue_row(a_run(f"resp_early_{number}")))
        run = of_key(a_run("resp_next"), "other")
        await web.queue(run, opening(run))
        assert [claimed.stored.id for claimed in await worker.runs.claim(1)] == ["resp_next"]

    play(tmp_path, story)


def test_a_full_queue_has_no_place_for_a_key_or_an_organization(tmp_path: Path) -> None:
    async def place(web: Replica, digest: str) -> str:
        try:
            async with web.runs.reserve_place(HOME.organization_id, digest):
                return ""
        except ClientFault as fault:
            is_told = (fault.status, fault.code) == (429, "rate_limit_exceeded") and b"retry-after" in dict(
                fault.headers
            )
            return fault.message.split(" has ")[0] if is_told else repr(fault)

    async def story(web: Replica, worker: Replica) -> None:
        for number in range(3):
            assert await place(web, "one") == ""
            run = of_key(a_run(f"resp_{number}"), "one")
            await web.queue(run, opening(run))
        assert [await place(web, digest) for digest in ("one", "two")] == ["The key", ""]
        async with web.runs.reserve_place(HOME.organization_id, "two"):  # a create that is being committed
            assert await place(web, "three") == "The organization"
            async with web.runs.reserve_place("abroad", "three"):
                pass
        assert await place(web, "three") == ""
        await worker.runs.claim(2)
        assert await place(web, "one") == ""

    play(tmp_path, story, limits=RunLimits(2, 20, queued_per_key=3, queued_per_organization=4))


def test_a_run_that_is_finished_is_one_legal_stream_and_held_by_nobody(tmp_path: Path) -> None:
    async def story(web: Replica, worker: Replica) -> None:
        run = a_run()
        await web.queue(run, opening(run))
        [claimed] = await worker.runs.claim(5)
        ended = completed(claimed)
        await worker.finish(ended, end_of(ended, 3))
        events = await all_told(web, run.stored.id)
        assert check(events)["status"] == "completed"
        assert await worker.runs.claimed_ids() == frozenset()
        assert await web.responses.find(HOME, run.stored.id) == replace(ended, is_background=True)
        row = await orm(lambda: StoredResponseRow.objects.get(pk=run.stored.id))
        assert (row.input_tokens, row.output_tokens, row.deployment_id, row.spend_id) == (3, 4, "d1", "s1")
        assert not await orm(BackgroundRun.objects.exists)

    play(tmp_path, story)


def test_only_its_owner_sees_a_log(tmp_path: Path) -> None:
    async def story(web: Replica) -> None:
        run = a_run()
        await web.queue(run, opening(run))
        assert len(await all_told(web, run.stored.id)) == 2
        for stranger in STRANGERS:
            assert await web.runs.read_log(stranger, run.stored.id, -1) is None

    play(tmp_path, story, "web")


def test_a_long_log_is_read_in_parts_from_anywhere(tmp_path: Path) -> None:
    async def story(web: Replica, worker: Replica) -> None:
        run = a_run()
        await web.queue(run, opening(run))
        [claimed] = await worker.runs.claim(1)
        for first in range(3, 603, 3):
            await worker.runs.append(claimed.stored, number_events([("delta", {"delta": "x" * 5000})] * 3, first))
        events = await all_told(web, run.stored.id)
        assert [event["sequence_number"] for event in events] == list(range(603))
        for after in (0, 3, 4, 5, 601):
            batch = await web.runs.read_log(HOME, run.stored.id, after)
            assert batch is not None
            assert batch[1][0]["sequence_number"] == after + 1
        assert await web.runs.read_log(HOME, run.stored.id, 602) == ("in_progress", [])

    play(tmp_path, story)


Ending = Callable[[Replica, Run], Awaitable[Any]]


async def cancel(web: Replica, run: Run) -> None:
    stored = await web.responses.find(HOME, run.stored.id)
    assert stored is not None
    cancelled = await web.responses.cancel(stored)
    assert cancelled is not None
    assert cancelled.status == "cancelled"


async def sweep(web: Replica, run: Run) -> None:
    await orm(expire)
    assert await orm(sweep_runs) == 0  # the living get a moment
    await orm(lambda: BackgroundRun.objects.update(suspected_at=timezone.now() - 2 * SUSPECT))
    assert await orm(sweep_runs) == 1


@pytest.mark.parametrize(("ending", "status"), [(cancel, "cancelled"), (sweep, "failed")])
def test_what_was_ended_by_others_is_ended_for_ever(tmp_path: Path, ending: Ending, status: str) -> None:
    async def story(web: Replica, worker: Replica) -> None:
        run = a_run()
        await web.queue(run, opening(run))
        [claimed] = await worker.runs.claim(1)
        await worker.runs.append(claimed.stored, number_events(SPEAKING, 3))
        await ending(web, claimed)
        events = await all_told(web, run.stored.id)
        assert check(events)["status"] == status
        before = await web.responses.find(HOME, run.stored.id)
        assert before is not None
        assert before.response["output"][0]["content"][0]["text"] == "Hel"
        assert await worker.runs.claimed_ids() == frozenset()
        # The worker does not know yet
        await worker.runs.append(claimed.stored, number_events(SPEAKING[-1:], 6))
        ended = completed(claimed)
        await worker.finish(ended, end_of(ended, 7))
        await worker.runs.fail(claimed, "server_error", "late")
        assert await all_told(web, run.stored.id) == events
        assert await web.responses.find(HOME, run.stored.id) == before

    play(tmp_path, story)


@pytest.mark.parametrize("is_early", [True, False])
def test_a_cancel_and_an_end_at_once_give_one_of_the_two(tmp_path: Path, is_early: bool) -> None:
    async def story(web: Replica, worker: Replica) -> None:
        for number in range(15):
            run = a_run(f"resp_{number}")
            await web.queue(run, opening(run))
            [claimed] = await worker.runs.claim(1)
            ended = completed(claimed)
            stored = await web.responses.find(HOME, run.stored.id)
            assert stored is not None

            async def finish(run: Run = claimed, ended: StoredResponse = ended) -> None:
                await asyncio.sleep(0.002 if is_early else 0)
                await asyncio.gather(
                    worker.runs.append(run.stored, number_events(SPEAKING, 3)),
                    worker.finish(ended, end_of(ended, 6)),
                )

            await asyncio.gather(finish(), web.responses.cancel(stored))
            events = await all_told(web, run.stored.id)
            assert [event["sequence_number"] for event in events] == list(range(len(events)))
            stored = await web.responses.find(HOME, run.stored.id)
            assert stored is not None
            assert stored.status in {"completed", "cancelled"}
            assert events[-1]["response"]["status"] == stored.status
            ends = [event for event in events if event["type"] in {"response.completed", "response.incomplete"}]
            assert len(ends) == 1

    play(tmp_path, story)


def test_a_run_that_nobody_claimed_can_be_cancelled(tmp_path: Path) -> None:
    async def story(web: Replica, worker: Replica) -> None:
        run = a_run()
        await web.queue(run, opening(run))
        await cancel(web, run)
        assert await worker.runs.claim(5) == ()
        assert check(await all_told(web, run.stored.id))["status"] == "cancelled"

    play(tmp_path, story)


def test_deleting_a_response_erases_its_run_and_its_log(tmp_path: Path) -> None:
    async def story(web: Replica, worker: Replica) -> None:
        run = a_run()
        await web.queue(run, opening(run))
        [claimed] = await worker.runs.claim(1)
        for stranger in STRANGERS:
            assert not await web.responses.delete(stranger, run.stored.id)
        assert await web.responses.delete(HOME, run.stored.id)
        ended = completed(claimed)
        await worker.runs.append(claimed.stored, number_events(SPEAKING, 3))
        await worker.finish(ended, end_of(ended, 6))
        assert await web.runs.read_log(HOME, run.stored.id, -1) is None
        assert not await orm(EventBatch.objects.exists)
        assert not await orm(StoredResponseRow.objects.exists)

    play(tmp_path, story)


def test_a_lease_that_is_renewed_is_never_swept(tmp_path: Path) -> None:
    async def story(web: Replica, worker: Replica) -> None:
        run = a_run()
        await web.queue(run, opening(run))
        await worker.runs.claim(1)
        await orm(expire)
        assert await orm(sweep_runs) == 0
        await orm(lambda: BackgroundRun.objects.update(suspected_at=timezone.now() - 2 * SUSPECT))
        worker.runs.renew([run.stored.id])
        row = await eventually_renewed()
        assert timedelta(0) < row.lease_until - timezone.now() <= timedelta(seconds=LEASE_S)
        assert await orm(sweep_runs) == 0
        assert await worker.runs.claimed_ids() == {run.stored.id}

    async def eventually_renewed() -> Any:
        while True:
            row = await orm(BackgroundRun.objects.get)
            if row.suspected_at is None:
                return row
            await asyncio.sleep(0.01)

    play(tmp_path, story)


def test_of_a_workers_runs_those_are_renewed_that_it_names_and_holds(tmp_path: Path) -> None:
    named = [f"resp_{number}" for number in range(9, 0, -1)]

    async def story(web: Replica, worker: Replica) -> None:
        for run in map(a_run, [*named, "resp_dropped", "resp_of_another"]):
            await web.queue(run, opening(run))
        await worker.runs.claim(10)
        await web.runs.claim(1)
        await orm(expire)
        worker.runs.renew([*named, "resp_of_another", "resp_gone"])
        while await orm(expired) != {"resp_dropped", "resp_of_another"}:  # noqa: ASYNC110 - written by another thread
            await asyncio.sleep(0.01)
        await orm(lambda: BackgroundRun.objects.update(suspected_at=timezone.now() - 2 * SUSPECT))
        assert await orm(sweep_runs) == 2
        assert await worker.runs.claimed_ids() == set(named)

    def expired() -> set[str]:
        return set(BackgroundRun.objects.filter(lease_until__lt=timezone.now()).values_list("pk", flat=True))

    play(tmp_path, story, limits=WIDE)


def test_what_waits_for_a_worker_is_not_swept(tmp_path: Path) -> None:
    async def story(web: Replica) -> None:
        run = a_run()
        await web.queue(run, opening(run))
        await orm(lambda: BackgroundRun.objects.update(queued_at=timezone.now() - timedelta(days=1)))
        assert await orm(sweep_runs) == 0
        assert [claimed.stored.id for claimed in await web.runs.claim(1)] == [run.stored.id]

    play(tmp_path, story, "web")


def test_what_is_written_twice_is_there_once(tmp_path: Path) -> None:
    """After an outage a batch may be replayed that had been written."""

    async def story(web: Replica, worker: Replica) -> None:
        run = a_run()
        await web.queue(run, opening(run))
        await web.queue(run, opening(run))
        [claimed] = await worker.runs.claim(5)
        for _ in range(2):
            await worker.runs.append(claimed.stored, number_events(SPEAKING, 3))
        ended = completed(claimed)
        for _ in range(2):
            await worker.finish(ended, end_of(ended, 6))
        assert [event["sequence_number"] for event in await all_told(web, run.stored.id)] == list(range(7))
        await web.queue(run, opening(run))  # a replay of its creation, when it is over
        assert await worker.runs.claim(5) == ()
        stored = await web.responses.find(HOME, run.stored.id)
        assert stored is not None
        assert stored.status == "completed"
        assert not await orm(BackgroundRun.objects.exists)

    play(tmp_path, story)


def test_ending_a_run_frees_its_conversation(tmp_path: Path) -> None:
    async def story(web: Replica) -> None:
        for holder in ("resp_1", "resp_other"):
            await orm(
                lambda holder=holder: Conversation.objects.create(
                    id=f"conv_{holder}",
                    organization_id=HOME.organization_id,
                    owner=HOME.scope,
                    created_at=timezone.now(),
                    locked_by=holder,
                    locked_until=timezone.now() + timedelta(seconds=30),
                )
            )
        run = a_run(conversation_id="conv_resp_1")
        await web.queue(run, opening(run))
        await cancel(web, run)
        rows = await orm(lambda: dict(Conversation.objects.values_list("id", "locked_by")))
        assert rows == {"conv_resp_1": "", "conv_resp_other": "resp_other"}

    play(tmp_path, story, "web")


def test_a_run_that_was_put_back_is_claimed_again_and_its_log_is_one_legal_stream(tmp_path: Path) -> None:
    async def story(web: Replica, first: Replica, second: Replica) -> None:
        run = a_run()
        await web.queue(run, opening(run))
        for _ in range(2):
            [claimed] = await first.runs.claim(1)
            assert not await second.runs.put_back(claimed)
            assert await first.runs.put_back(claimed)
            assert not await first.runs.put_back(claimed)
            assert await first.runs.claimed_ids() == frozenset()
            assert await orm(has_queued)
        [claimed] = await second.runs.claim(1)
        assert claimed.request == run.request
        first.runs.renew([run.stored.id])  # the other one's
        ended = completed(claimed)
        await second.runs.append(claimed.stored, number_events(SPEAKING, 3))
        assert not await second.runs.put_back(claimed)  # its answer is told
        await first.finish(ended, end_of(ended, 6))
        assert await second.runs.claimed_ids() == {run.stored.id}
        await second.runs.fail(claimed, "server_error", "no")
        events = await all_told(web, run.stored.id)
        assert check(events)["status"] == "failed"
        assert [event["type"] for event in events].count("response.in_progress") == 1

    play(tmp_path, story, "web", "first", "second")


def test_a_run_that_was_put_back_can_be_cancelled_and_is_not_swept(tmp_path: Path) -> None:
    async def story(web: Replica, worker: Replica) -> None:
        run = a_run()
        await web.queue(run, opening(run))
        [claimed] = await worker.runs.claim(1)
        await orm(expire)
        assert await orm(sweep_runs) == 0
        assert await worker.runs.put_back(claimed)
        assert await orm(sweep_runs) == 0
        assert await orm(BackgroundRun.objects.filter(suspected_at=None, lease_until=None).count) == 1
        await cancel(web, run)
        assert await worker.runs.claim(1) == ()
        assert check(await all_told(web, run.stored.id))["status"] == "cancelled"

    play(tmp_path, story)


def queue_row(run: Run) -> tuple[object, ...]:
    at = "2026-01-01 00:00:00"
    return (run.stored.id, HOME.organization_id, run.key_digest, run.request_id, run.request, "{}", at)


def test_a_run_whose_response_is_not_there_yet_is_left_alone(tmp_path: Path) -> None:
    """A replay goes row by row, and the queued row may be the oldest."""

    async def story(web: Replica, worker: Replica) -> None:
        run, next_one = a_run("resp_early"), a_run("resp_next")
        await web.commits.submit(QUEUE, queue_row(run))
        assert not await orm(has_queued)
        await web.queue(next_one, opening(next_one))
        assert [claimed.stored.id for claimed in await worker.runs.claim(1)] == ["resp_next"]
        for _ in range(2):
            assert await worker.runs.claim(1) == ()
            assert await orm(sweep_runs) == 0
        assert await orm(BackgroundRun.objects.filter(pk="resp_early").exists)
        await web.commits.submit(STORE, row_of(run.stored))
        assert await orm(has_queued)
        assert [claimed.stored.id for claimed in await worker.runs.claim(1)] == ["resp_early"]
        assert not await orm(BackgroundRun.objects.exclude(suspected_at=None).exists)

    play(tmp_path, story)


def test_a_run_that_stays_without_a_response_is_erased(tmp_path: Path) -> None:
    async def story(web: Replica) -> None:
        await web.commits.submit(QUEUE, queue_row(a_run()))
        await orm(sweep_runs)
        for ago, is_left in ((ABANDONED - timedelta(minutes=1), True), (ABANDONED + timedelta(minutes=1), False)):
            since = timezone.now() - ago
            assert await orm(lambda since=since: BackgroundRun.objects.update(suspected_at=since)) == 1
            await orm(sweep_runs)
            assert await orm(BackgroundRun.objects.exists) is is_left

    play(tmp_path, story, "web")


def aged(by: timedelta) -> float:
    return float((timezone.now() - by).timestamp())


OLD, YOUNG = LOST + timedelta(seconds=10), LOST - timedelta(seconds=30)


def test_a_response_that_has_lost_its_run_ends_as_failed(tmp_path: Path) -> None:
    async def story(web: Replica) -> None:
        lost, young = a_run("resp_lost", created_s=aged(OLD)), a_run("resp_young", created_s=aged(YOUNG))
        for run in (lost, young):
            await web.queue(run, opening(run))
        await orm(BackgroundRun.objects.all().delete)
        waits, runs = a_run("resp_waits", created_s=aged(OLD)), a_run("resp_runs", created_s=aged(OLD - LOST))
        for run in (runs, waits):
            await web.queue(run, opening(run))
        await web.runs.claim(1)
        await web.keep(stored_response("resp_done", "completed", owner=HOME, created_s=aged(OLD)))
        assert [await orm(sweep_lost) for _ in range(2)] == [1, 0]
        ended = check(await all_told(web, "resp_lost"))
        assert (ended["status"], ended["error"]["code"]) == ("failed", "server_error")
        statuses = await orm(lambda: dict(StoredResponseRow.objects.values_list("id", "status")))
        assert statuses["resp_lost"] == "failed"
        assert statuses["resp_young"] == "queued"
        assert statuses["resp_done"] == "completed"
        assert {statuses["resp_waits"], statuses["resp_runs"]} == {"queued", "in_progress"}
        await web.commits.submit(QUEUE, queue_row(lost))  # its run comes late
        claimed = [run.stored.id for run in await web.runs.claim(9)]
        assert "resp_lost" not in claimed
        assert check(await all_told(web, "resp_lost"))["status"] == "failed"

    play(tmp_path, story, "web")


def test_a_response_that_has_lost_its_run_can_be_cancelled(tmp_path: Path) -> None:
    async def story(web: Replica) -> None:
        lost, young = a_run("resp_lost", created_s=aged(OLD)), a_run("resp_young", created_s=aged(YOUNG))
        for run in (lost, young):
            await web.queue(run, opening(run))
        await orm(BackgroundRun.objects.all().delete)
        await asyncio.gather(*(cancel(web, lost) for _ in range(5)))
        assert check(await all_told(web, "resp_lost"))["status"] == "cancelled"
        stored = await web.responses.cancel(young.stored)
        assert stored is not None
        assert stored.status == "queued"  # its run may be on its way

    play(tmp_path, story, "web")


def test_a_spool_of_another_version_holds_nothing_up(tmp_path: Path) -> None:
    run = a_run("resp_spooled")
    dead = Spool(tmp_path / "web", "dead", STATEMENTS)
    row = row_of(run.stored)
    dead.append([("queue run", queue_row(run)), ("store response", row), ("store response", row[:-1])])
    dead.append([("store response", (*row, "more")), ("renamed", ("x",))])
    dead.release()

    async def story(web: Replica, worker: Replica) -> None:
        live = a_run("resp_live")
        await web.queue(live, opening(live))
        assert {claimed.stored.id for claimed in await worker.runs.claim(5)} == {"resp_live", "resp_spooled"}

    play(tmp_path, story, "web", "worker")
    assert [path.name for path in (tmp_path / "web").iterdir()] == ["web.refused"]
    assert len((tmp_path / "web" / "web.refused").read_bytes().splitlines()) == 3
