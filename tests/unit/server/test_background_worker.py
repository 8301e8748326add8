"""The wake-ups and the end of the part of a worker that makes background responses."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.pipeline.responses.runs import Run, RunPostponed
from gateway.pipeline.responses.supervisor import Supervisor
from gateway.protocol.errors import Forbidden
from gateway.server.background_worker import MARGIN_S, BackgroundRunner, answer_with
from gateway.stores.catalog import NOT_LOADED, Snapshot
from tests.fakes.background import MemoryRuns, run
from tests.fakes.memory import MemoryLedger, ScriptedClient, play, services

PATIENCE_S = 20


class BrokenRuns(MemoryRuns):
    """Raises an error that no supervisor expects while `breaks` is set."""

    breaks = False

    async def claim(self, limit: int) -> tuple[Run, ...]:
        if self.breaks:
            raise RuntimeError("a bug")
        return await super().claim(limit)


class RecordingSupervisor(Supervisor):
    """Records the grace that it is stopped with."""

    grace_s: float | None = None

    def stop(self, grace_s: float) -> None:
        self.grace_s = grace_s
        super().stop(grace_s)


class Scene:
    """A runner over a store in memory. It waits until `may_begin` and `may_end` are set."""

    def __init__(self, grace_s: float = 0) -> None:
        self.runs = BrokenRuns()
        self.runner = BackgroundRunner(self._begin, grace_s=grace_s)
        self.supervisors: list[RecordingSupervisor] = []
        self.beginning, self.ending = threading.Event(), threading.Event()
        self.may_begin, self.may_end = threading.Event(), threading.Event()
        self.may_begin.set()
        self.may_end.set()
        self.answered = threading.Event()

    @asynccontextmanager
    async def _begin(self) -> AsyncIterator[Supervisor]:
        self.beginning.set()
        await asyncio.to_thread(self.may_begin.wait, PATIENCE_S)
        supervisor = RecordingSupervisor(self.runs, self._answer)
        self.supervisors.append(supervisor)
        try:
            yield supervisor
        finally:
            self.ending.set()
            await asyncio.to_thread(self.may_end.wait, PATIENCE_S)

    async def _answer(self, run: Run) -> None:
        self.runs.holding.pop(run.stored.id)
        self.answered.set()

    def wake_for(self, response_id: str) -> None:
        self.answered.clear()
        self.runs.queued.append(run(response_id))
        self.runner.wake()

    def is_answered(self) -> bool:
        return self.answered.wait(PATIENCE_S)


def test_each_wake_up_brings_what_is_queued() -> None:
    scene = Scene()
    for response_id in ("resp_1", "resp_2"):
        scene.wake_for(response_id)
        assert scene.is_answered()
    scene.runner.stop()
    assert len(scene.supervisors) == 1


def test_a_wake_up_before_it_has_begun_is_not_lost() -> None:
    scene = Scene()
    scene.may_begin.clear()
    scene.runner.wake()
    assert scene.beginning.wait(PATIENCE_S)
    scene.wake_for("resp_1")
    scene.may_begin.set()
    assert scene.is_answered()
    scene.runner.stop()
    assert len(scene.supervisors) == 1


def test_a_wake_up_while_it_comes_to_a_halt_is_not_lost(caplog: pytest.LogCaptureFixture) -> None:
    scene = Scene()
    scene.may_end.clear()
    scene.runs.breaks = True
    scene.runner.wake()
    assert scene.ending.wait(PATIENCE_S)
    scene.runs.breaks = False
    scene.wake_for("resp_1")
    scene.may_end.set()
    assert scene.is_answered()
    scene.runner.stop()
    assert [record.message for record in caplog.records] == ["background responses came to a halt"]


@pytest.mark.parametrize("is_during_claim", [True, False])
def test_a_wake_up_that_meets_a_supervisor_at_its_end_is_not_lost(is_during_claim: bool) -> None:
    """The wake-up comes during a claim, or is on its way into the event loop."""
    scene = Scene()

    class Halting(BrokenRuns):
        async def claim(self, limit: int) -> tuple[Run, ...]:
            if len(scene.supervisors) > 1:
                return await super().claim(limit)
            if is_during_claim:
                await asyncio.to_thread(scene.wake_for, "resp_1")
            else:
                scene.wake_for("resp_1")
            raise RuntimeError("a bug")

    scene.runs = Halting()
    scene.runner.wake()
    assert scene.is_answered()
    scene.runner.stop()
    assert len(scene.supervisors) == 2


def test_after_a_halt_the_next_wake_up_begins_anew_and_nothing_before_it() -> None:
    scene = Scene()
    scene.runs.breaks = True
    scene.runner.wake()
    assert scene.ending.wait(PATIENCE_S)
    thread = scene.runner._thread
    if thread is not None:
        thread.join(PATIENCE_S)
    assert len(scene.supervisors) == 1
    scene.runs.breaks = False
    scene.wake_for("resp_1")
    assert scene.is_answered()
    scene.runner.stop()
    assert len(scene.supervisors) == 2


def test_what_has_come_to_a_halt_can_be_stopped_and_is_woken_no_more() -> None:
    scene = Scene()
    scene.runs.breaks = True
    scene.runner.wake()
    assert scene.ending.wait(PATIENCE_S)
    scene.runner.stop()
    scene.runner.wake()
    scene.runner.stop()
    assert len(scene.supervisors) == 1


def test_a_stop_before_it_has_begun_is_during_claim() -> None:
    scene = Scene()
    scene.may_begin.clear()
    scene.runner.wake()
    assert scene.beginning.wait(PATIENCE_S)
    scene.runner.begin_stop()
    scene.may_begin.set()
    scene.runner.stop()
    assert scene.runs.claims == []
    assert scene.ending.is_set()


@pytest.mark.parametrize(("kill_s", "grace_s"), [(None, 300), (30, 30 - MARGIN_S), (1000, 300)])
def test_only_a_process_that_will_be_killed_cuts_its_grace_short(kill_s: float | None, grace_s: float) -> None:
    scene = Scene(grace_s=300)
    if kill_s is not None:
        scene.runner.end_within(kill_s)
    scene.wake_for("resp_1")
    assert scene.is_answered()
    scene.runner.stop()
    assert [supervisor.grace_s for supervisor in scene.supervisors] == [grace_s]


def test_no_run_fails_because_the_models_are_not_known_yet() -> None:
    """The database may be away when a worker starts."""

    async def story() -> None:
        fakes = services(ScriptedClient(()), MemoryLedger())
        runs = MemoryRuns(principal=None)
        runtime: Any = SimpleNamespace(
            runs=runs, snapshot=NOT_LOADED, services=fakes, response_services=None, draw=None
        )
        answer = answer_with(runtime)
        with pytest.raises(RunPostponed):
            await answer(run())
        runtime.snapshot = Snapshot()  # loaded, without a model
        with pytest.raises(Forbidden):
            await answer(run())

    play(story())
