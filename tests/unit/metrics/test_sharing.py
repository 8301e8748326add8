"""MetricsSharing: the sum of all processes, while the disk fails and while the database is away."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.db.utils import OperationalError

from billing.backlog import Backlog
from gateway.metrics.definitions import DATABASE_UP, PRICING_BACKLOG, PROCESSES, REQUESTS
from gateway.metrics.process_files import ProcessFiles
from gateway.metrics.recorder import Recorder
from gateway.metrics.sharing import PAGE_S, MetricsSharing, Totals
from tests.fakes.memory import routing, target

SERIES = (REQUESTS.name, "chat", "public", "200")


@dataclass(slots=True)
class Process:
    recorder: Recorder
    sharing: MetricsSharing

    def count(self) -> None:
        self.recorder.begin("r", "chat")
        self.recorder.note_group("r", target())
        self.recorder.end("r", 200)


def make(
    folder: Path, name: str, *, is_database_up: bool = True, read: Callable[[], Backlog] = lambda: Backlog(3, 1.5, 2)
) -> Process:
    async def in_thread(_: Callable[[], Backlog]) -> Backlog:
        return read()

    commits: Any = SimpleNamespace(queue_length=0, spool_bytes=0, is_writable=True)
    recorder = Recorder(lambda: 1000.0)
    sharing = MetricsSharing(
        ProcessFiles(folder, name),
        recorder,
        routing(clock=lambda: 1000.0),
        commits,
        find_targets=lambda: {"first": target("first")},
        is_database_up=lambda: is_database_up,
        in_thread=in_thread,
        now=lambda: 1000.0,
    )
    return Process(recorder, sharing)


async def totals(process: Process) -> Totals:
    seen: list[Totals] = []
    await process.sharing.render(str(id(seen)), lambda read: (seen.append(read), b"")[1])
    return seen[0]


async def test_a_process_that_has_ended_is_in_the_sum_of_the_others(tmp_path: Path) -> None:
    first, second = make(tmp_path, "first"), make(tmp_path, "second")
    await first.sharing.start()
    await second.sharing.start()
    first.count()
    second.count()
    await second.sharing.stop()
    read = await totals(first)
    assert read.numbers.counters[SERIES] == 2
    assert read.gauges[PROCESSES.name] == 1
    assert read.gauges[PRICING_BACKLOG.name] == 3
    await first.sharing.stop()


async def test_a_disk_that_fails_costs_the_others_numbers_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "taken").write_text("a file stands where the folder should be")
    process = make(tmp_path / "taken" / "metrics", "first")
    await process.sharing.start()
    process.count()
    read = await totals(process)
    assert (read.numbers.counters[SERIES], read.gauges[PROCESSES.name]) == (1, 1)
    await process.sharing.stop()
    assert [record.getMessage() for record in caplog.records] == ["the metrics of this home cannot be shared"]


def refuse() -> Backlog:
    raise OperationalError("the database does not answer")


def must_not_ask() -> Backlog:
    raise AssertionError("a database that is known to be away is not waited for")


@pytest.mark.parametrize(("is_up", "read"), [(True, refuse), (False, must_not_ask)], ids=["fails", "known to be away"])
async def test_metrics_are_shown_while_the_database_is_away(
    tmp_path: Path, is_up: bool, read: Callable[[], Backlog]
) -> None:
    process = make(tmp_path, "first", is_database_up=is_up, read=read)
    await process.sharing.start()
    found = await totals(process)
    assert PRICING_BACKLOG.name not in found.gauges
    assert found.gauges[DATABASE_UP.name] == is_up
    await process.sharing.stop()


async def test_however_many_ask_one_page_is_made_at_a_time(tmp_path: Path) -> None:
    process = make(tmp_path, "first")
    await process.sharing.start()
    made: list[Totals] = []

    def make_page(read: Totals) -> bytes:
        made.append(read)
        return b"page"

    pages = await asyncio.gather(*[process.sharing.render("text", make_page) for _ in range(50)])
    assert set(pages) == {b"page"}
    assert len(made) <= 50 / 2, f"one serves all that ask within {PAGE_S} s"
    await process.sharing.stop()
