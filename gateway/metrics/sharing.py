"""MetricsSharing: writes the numbers of this process to its home every second, and adds up those of all processes."""

import asyncio
import contextlib
import logging
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from django.db import Error as DatabaseError

from billing.backlog import Backlog, read_backlog
from gateway.metrics.definitions import (
    DATABASE_UP,
    OPEN_REQUESTS,
    PRICING_BACKLOG,
    PRICING_LAG,
    PROCESSES,
    RETRY_BUDGET_REFUSALS,
    SPOOL,
    UNPRICED,
    WRITE_QUEUE,
)
from gateway.metrics.numbers import Numbers
from gateway.metrics.process_files import ProcessFiles, ProcessReport
from gateway.metrics.recorder import Recorder
from gateway.protocol.provider import Target, split_circuit
from gateway.routing.walk import Routing
from gateway.state.group_commit import GroupCommit

logger = logging.getLogger(__name__)

WRITE_S = 1.0
PAGE_S = 0.5
IN, HALF_OPEN, OUT = 0, 1, 2
#: Gauges that are added up; DATABASE_UP is the least of all processes.
SUMMED = (OPEN_REQUESTS, WRITE_QUEUE, SPOOL)

ReadBacklog = Callable[[Callable[[], Backlog]], Awaitable[Backlog]]


@dataclass(frozen=True, slots=True)
class Totals:
    """The numbers of all processes of the home. `targets`: the deployments; `states` and `refused` name the others than
    healthy ones."""

    numbers: Numbers
    gauges: Mapping[str, float]
    targets: Mapping[str, Target]
    states: Mapping[str, int]
    refused: frozenset[str]


class MetricsSharing:
    """`find_targets`: the deployments; `is_database_up`: as this process sees it; `in_thread` runs a query; `now`: the
    clock of the breaker.
    Closes: the owner, with `stop()`. A disk that fails costs the other processes' numbers, and no call."""

    def __init__(
        self,
        files: ProcessFiles,
        recorder: Recorder,
        routing: Routing,
        commits: GroupCommit,
        *,
        find_targets: Callable[[], Mapping[str, Target]],
        is_database_up: Callable[[], bool],
        in_thread: ReadBacklog,
        now: Callable[[], float],
    ) -> None:
        self._files = files
        self._recorder = recorder
        self._routing = routing
        self._commits = commits
        self._find_targets = find_targets
        self._is_database_up = is_database_up
        self._in_thread = in_thread
        self._now = now
        self._written: ProcessReport | None = None
        self._rendering = asyncio.Lock()
        self._pages: dict[str, tuple[float, bytes]] = {}  # by their kind, which are few
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="metrics")
        self._task: asyncio.Task[None] | None = None
        self._has_failed = False

    async def start(self) -> None:
        await self._try(self._files.open)
        self._task = asyncio.create_task(self._write_often(), name="metrics")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self._write()
        await self._try(self._files.close)
        self._thread.shutdown()

    async def render(self, kind: str, make_page: Callable[[Totals], bytes]) -> bytes:
        """The page of this kind, with numbers of this process of at most PAGE_S ago, and of the others of a second
        before. However many ask, one page is made at a time, and in a thread: it may be long."""
        async with self._rendering:
            loop = asyncio.get_running_loop()
            made_at, page = self._pages.get(kind, (-math.inf, b""))
            if loop.time() - made_at >= PAGE_S:
                page = await self._render(make_page)
                self._pages[kind] = loop.time(), page
            return page

    async def _render(self, make_page: Callable[[Totals], bytes]) -> bytes:
        backlog = await self._read_backlog()
        own, targets = self._report(), self._find_targets()

        def make() -> bytes:
            living, ended = self._read_others()
            return make_page(add_up([own, *living], ended, backlog, targets))

        return await asyncio.get_running_loop().run_in_executor(self._thread, make)

    async def _read_backlog(self) -> Mapping[str, float]:
        """Empty while the database does not answer; a page does not wait for one that is known to be away."""
        if not self._is_database_up():
            return {}
        try:
            backlog = await self._in_thread(read_backlog)
        except DatabaseError:
            return {}
        return {
            PRICING_BACKLOG.name: backlog.waiting,
            PRICING_LAG.name: backlog.lag_s,
            UNPRICED.name: backlog.unpriced,
        }

    def _report(self) -> ProcessReport:
        numbers = self._recorder.numbers.copy()
        numbers.counters[RETRY_BUDGET_REFUSALS.name,] = self._routing.budget.refusals
        is_up = self._is_database_up() and self._commits.is_writable
        return ProcessReport(
            numbers,
            {
                OPEN_REQUESTS.name: self._recorder.open_requests,
                WRITE_QUEUE.name: self._commits.queue_length,
                SPOOL.name: self._commits.spool_bytes,
                DATABASE_UP.name: int(is_up),
            },
            self._states(),
            tuple(self._routing.breaker.refused),
        )

    def _states(self) -> Mapping[str, int]:
        """Those of deployments that are not in their group; a single model of one that serves many is not told."""
        now = self._now()
        ejections = self._routing.breaker.ejections.items()
        return {
            name: OUT if now < ejection.until_s else HALF_OPEN
            for name, ejection in ejections
            if not split_circuit(name)[1]
        }

    async def _write_often(self) -> None:
        while True:
            await asyncio.sleep(WRITE_S)
            await self._write()

    async def _write(self) -> None:
        report = self._report()
        if report != self._written and await self._try(lambda: self._files.write(report)):
            self._written = report

    async def _try(self, action: Callable[[], None]) -> bool:
        """False where the disk refuses, which the log tells once."""
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, action)
        except OSError as error:
            self._note_failure(error)
            return False
        self._has_failed = False
        return True

    def _note_failure(self, error: OSError) -> None:
        if not self._has_failed:
            self._has_failed = True
            logger.error("the metrics of this home cannot be shared", extra={"why": type(error).__name__})

    def _read_others(self) -> tuple[list[ProcessReport], Numbers]:
        try:
            return self._files.read_others()
        except OSError as error:
            self._note_failure(error)
            return [], Numbers()


def add_up(
    reports: Sequence[ProcessReport], ended: Numbers, backlog: Mapping[str, float], targets: Mapping[str, Target]
) -> Totals:
    """The totals of the living processes' `reports` and of what the `ended` ones have counted, which it changes."""
    for report in reports:
        ended.merge(report.numbers)
    states: dict[str, int] = {}
    for report in reports:
        for name, value in report.states.items():
            states[name] = max(value, states.get(name, IN))
    gauges = {metric.name: sum(report.gauges.get(metric.name, 0) for report in reports) for metric in SUMMED}
    gauges[DATABASE_UP.name] = min(report.gauges.get(DATABASE_UP.name, 1) for report in reports)
    gauges[PROCESSES.name] = len(reports)
    refused = frozenset(name for report in reports for name in report.refused)
    return Totals(ended, {**gauges, **backlog}, targets, states, refused)
