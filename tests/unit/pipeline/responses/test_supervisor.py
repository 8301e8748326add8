"""The supervisor: claims as much as it can carry, keeps it alive, and lets go of what is not its own any more."""

import asyncio
from collections.abc import Awaitable, Callable
from itertools import pairwise

import pytest

from gateway.pipeline.responses.runs import Run, RunPostponed
from gateway.pipeline.responses.supervisor import LOOK_S, PATIENCE_S, RENEW_S, Supervisor
from gateway.protocol.errors import BadRequest, Fault, GatewayFault
from tests.fakes.background import MemoryRuns, run
from tests.fakes.memory import play


def names(count: int) -> list[str]:
    return [f"resp_{number}" for number in range(count)]


class Work:
    """`perform`: takes `takes_s`, or raises `fails`; and what it was given."""

    def __init__(self, runs: MemoryRuns, takes_s: float = 10.0, fails: Exception | None = None) -> None:
        self.runs, self.takes_s, self.fails = runs, takes_s, fails
        self.begun: list[str] = []
        self.done: list[str] = []
        self.cut: list[str] = []

    async def __call__(self, run: Run) -> None:
        self.begun.append(run.stored.id)
        try:
            await asyncio.sleep(self.takes_s)
        except asyncio.CancelledError:
            self.cut.append(run.stored.id)
            raise
        if self.fails is not None:
            raise self.fails
        self.done.append(run.stored.id)
        self.runs.holding.pop(run.stored.id, None)


def supervise(
    runs: MemoryRuns,
    work: Work,
    story: Callable[[Supervisor], Awaitable[None]],
    *,
    grace_s: float = 0,
    capacity: int = 3,
) -> None:
    async def whole() -> None:
        supervisor = Supervisor(runs, work, capacity=capacity)
        serving = asyncio.create_task(supervisor.serve())
        await story(supervisor)
        supervisor.stop(grace_s)
        await serving

    play(whole())


def test_what_is_queued_at_the_start_is_begun_without_a_wake_up() -> None:
    runs = MemoryRuns(queued=[run()])
    work = Work(runs)

    async def story(supervisor: Supervisor) -> None:
        await asyncio.sleep(11)

    supervise(runs, work, story)
    assert work.done == ["resp_1"]


def test_no_more_than_it_can_carry_is_claimed_and_the_rest_when_there_is_room() -> None:
    runs = MemoryRuns(queued=[run(name) for name in names(7)])
    work = Work(runs)

    async def story(supervisor: Supervisor) -> None:
        await asyncio.sleep(5)
        assert len(work.begun) == 3
        await asyncio.sleep(10)
        assert len(work.begun) == 6
        await asyncio.sleep(20)

    supervise(runs, work, story)
    assert sorted(work.done) == names(7)


def test_a_run_that_had_no_slot_is_claimed_when_another_has_ended() -> None:
    runs = MemoryRuns(queued=[run("resp_first")])
    work = Work(runs)

    async def story(supervisor: Supervisor) -> None:
        await asyncio.sleep(5)
        runs.queued.append(run("resp_second"))  # of a key whose slots were taken: the worker had claimed in vain
        await asyncio.sleep(6)
        assert work.begun == ["resp_first", "resp_second"]

    supervise(runs, work, story)


def test_a_wake_up_while_it_claims_is_not_lost() -> None:
    runs = MemoryRuns()
    work = Work(runs)

    async def story(supervisor: Supervisor) -> None:
        supervisor.wake()
        await asyncio.sleep(0)  # it is claiming
        runs.queued.append(run())
        supervisor.wake()
        await asyncio.sleep(LOOK_S)
        assert work.begun == ["resp_1"]

    supervise(runs, work, story)


def test_an_idle_one_asks_the_store_for_nothing() -> None:
    runs = MemoryRuns()

    async def story(supervisor: Supervisor) -> None:
        await asyncio.sleep(0.1)
        claim_count = len(runs.claims)
        loop = asyncio.get_running_loop()
        loop.call_later(1000, lambda: None)
        await asyncio.sleep(999)
        assert (len(runs.claims), runs.renewals) == (claim_count, [])

    supervise(runs, Work(runs), story)


def test_leases_are_renewed_while_something_runs_also_in_the_drain() -> None:
    runs = MemoryRuns(queued=[run()])

    async def story(supervisor: Supervisor) -> None:
        await asyncio.sleep(40)

    supervise(runs, Work(runs, takes_s=80), story, grace_s=60)
    assert len(runs.renewals) >= 80 / (RENEW_S + LOOK_S)
    times = [at_s for at_s, _ in runs.renewals]
    gaps = [late - early for early, late in pairwise(times)]
    assert max(gaps) <= RENEW_S + LOOK_S


def test_a_run_whose_failure_could_not_be_written_is_renewed_no_more() -> None:
    runs = MemoryRuns(queued=[run("resp_long"), run("resp_broken")])
    work = Work(runs, takes_s=60)

    async def answer(run: Run) -> None:
        if run.stored.id == "resp_broken":
            await asyncio.sleep(10)
            runs.away = True
            raise GatewayFault("no")
        await work(run)

    async def story() -> None:
        supervisor = Supervisor(runs, answer)
        serving = asyncio.create_task(supervisor.serve())
        await asyncio.sleep(12)
        runs.away = False
        assert runs.renewals[0][1] == {"resp_long", "resp_broken"}
        del runs.renewals[:]
        await asyncio.sleep(30)
        supervisor.stop(60)
        await serving

    play(story())
    assert work.done == ["resp_long"]
    assert runs.holding.keys() == {"resp_broken"}  # until its lease ends
    assert {names for _, names in runs.renewals} == {frozenset({"resp_long"})}


def test_a_run_that_was_let_go_of_by_mistake_is_renewed_no_more() -> None:
    runs = MemoryRuns(queued=[run("resp_long"), run("resp_hidden")])
    work = Work(runs, takes_s=60)

    async def story(supervisor: Supervisor) -> None:
        await asyncio.sleep(3)
        hidden = runs.holding.pop("resp_hidden")
        await asyncio.sleep(3)
        runs.holding["resp_hidden"] = hidden
        del runs.renewals[:]
        await asyncio.sleep(20)

    supervise(runs, work, story, grace_s=60)
    assert work.cut == ["resp_hidden"]
    assert {names for _, names in runs.renewals} == {frozenset({"resp_long"})}


def test_what_somebody_else_ended_is_let_go_of_within_two_seconds() -> None:
    runs = MemoryRuns(queued=[run("resp_a"), run("resp_b")])
    work = Work(runs)

    async def story(supervisor: Supervisor) -> None:
        await asyncio.sleep(3)
        runs.cancel("resp_a")
        await asyncio.sleep(2)
        assert work.cut == ["resp_a"]
        await asyncio.sleep(10)

    supervise(runs, work, story)
    assert work.done == ["resp_b"]
    assert runs.ended["resp_a"].status == "cancelled"
    assert runs.failed == {}


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BadRequest("no"), "invalid_prompt"),
        (Fault("slow down", status=429), "rate_limit_exceeded"),
        (GatewayFault("away"), "server_error"),
        (RuntimeError("a bug"), "server_error"),
    ],
)
def test_a_run_that_fails_is_ended_as_failed_and_the_next_one_begins(error: Exception, code: str) -> None:
    runs = MemoryRuns(queued=[run(name) for name in names(4)])
    work = Work(runs, takes_s=1, fails=error)

    async def story(supervisor: Supervisor) -> None:
        await asyncio.sleep(10)

    supervise(runs, work, story)
    assert {name: failed[0] for name, failed in runs.failed.items()} == dict.fromkeys(names(4), code)
    assert not any("a bug" in message for _, message in runs.failed.values())


def test_a_run_that_could_not_be_begun_is_put_back_and_claimed_again() -> None:
    runs = MemoryRuns(queued=[run(name) for name in names(4)])
    work = Work(runs, takes_s=0.1, fails=RunPostponed("away"))

    async def story(supervisor: Supervisor) -> None:
        await asyncio.sleep(5)
        assert work.done == []
        work.fails = None
        await asyncio.sleep(5)

    supervise(runs, work, story)
    assert sorted(work.done) == names(4)
    assert runs.failed == {}


def test_what_is_put_back_is_not_claimed_at_once() -> None:
    """Nor are others: there is more than it can carry, so that it would go round and round."""
    runs = MemoryRuns(queued=[run(name) for name in names(9)])
    work = Work(runs, takes_s=0, fails=RunPostponed("away"))

    async def story(supervisor: Supervisor) -> None:
        await asyncio.sleep(60)

    supervise(runs, work, story)
    assert 10 <= len(runs.claims) <= 60 / LOOK_S + 1


def test_a_store_that_is_away_is_asked_again_to_take_a_run_back() -> None:
    runs = MemoryRuns(queued=[run()])
    work = Work(runs, takes_s=1, fails=RunPostponed("away"))

    async def story(supervisor: Supervisor) -> None:
        await asyncio.sleep(0.5)
        runs.away = True
        await asyncio.sleep(2 * PATIENCE_S)
        assert runs.holding.keys() == {"resp_1"}
        assert len(runs.renewals) > PATIENCE_S / (RENEW_S + LOOK_S)
        runs.away, work.fails = False, None
        await asyncio.sleep(5)

    supervise(runs, work, story)
    assert (work.done, runs.failed) == (["resp_1"], {})


def test_what_can_never_be_begun_ends_as_failed() -> None:
    runs = MemoryRuns(queued=[run()])
    work = Work(runs, takes_s=0, fails=RunPostponed("away"))

    async def story(supervisor: Supervisor) -> None:
        await asyncio.sleep(PATIENCE_S - 5)
        assert runs.failed == {}
        await asyncio.sleep(10)

    supervise(runs, work, story)
    assert runs.failed == {"resp_1": ("server_error", "away")}
    assert runs.queued == []


def test_a_run_that_was_ended_by_others_meanwhile_is_not_put_back() -> None:
    runs = MemoryRuns(queued=[run()])
    work = Work(runs, takes_s=1, fails=RunPostponed("away"))

    async def story(supervisor: Supervisor) -> None:
        await asyncio.sleep(0.5)
        runs.cancel("resp_1")
        await asyncio.sleep(10)

    supervise(runs, work, story)
    assert (work.begun, runs.failed) == (["resp_1"], {})


def test_a_store_that_is_away_is_asked_again() -> None:
    runs = MemoryRuns(queued=[run()], away=True)
    work = Work(runs)

    async def story(supervisor: Supervisor) -> None:
        await asyncio.sleep(5)
        assert work.begun == []
        runs.away = False
        await asyncio.sleep(2)
        assert work.begun == ["resp_1"]
        runs.away = True
        await asyncio.sleep(3)
        assert work.cut == []  # the worker does not know that it was lost
        runs.away = False

    supervise(runs, work, story)


def test_a_stop_claims_nothing_more_waits_and_fails_what_is_left() -> None:
    runs = MemoryRuns(queued=[run("resp_short")])
    work = Work(runs)

    async def story(supervisor: Supervisor) -> None:
        await asyncio.sleep(5)
        work.takes_s = 100
        runs.queued = [run("resp_long"), run("resp_never")]
        supervisor.wake()
        await asyncio.sleep(1)
        runs.queued.append(run("resp_later"))
        supervisor.stop(20)
        supervisor.wake()

    supervise(runs, work, story)
    assert work.done == ["resp_short"]
    assert set(runs.failed) == {"resp_long", "resp_never"}
    assert [left.stored.id for left in runs.queued] == ["resp_later"]
