"""Group commit's own promises, over a backend in memory; tests/contract holds them over real databases."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from gateway.protocol.errors import GatewayFault
from gateway.state.group_commit import GroupCommit
from gateway.state.spool import Spool, SpoolFull
from gateway.state.statement import (
    MAX_BATCH_BYTES,
    MAX_BATCH_ROWS,
    DatabaseAway,
    DatabaseLate,
    Operation,
    RowRefused,
    Statement,
    is_small,
    size_of,
)
from tests.fakes.memory import insert, play

WRITE = insert("write")
FLEETING = insert("fleeting", is_durable=False, is_spooled=False)
OWED = replace(insert("owed"), is_owed=True)


@dataclass(slots=True)
class MemoryBackend:
    """A table with a unique column. A commit takes a second; `is_away` refuses it, "poison" is a row it never takes."""

    is_away: bool = False
    is_closed: bool = False
    writes_now: bool = False
    rows: list[Any] = field(default_factory=list)
    batches: list[list[Any]] = field(default_factory=list)
    breaks: BaseException | None = None

    def write_now(self, operation: Operation) -> bool:
        if self.writes_now:
            self.rows.append(operation[1][0])
        return self.writes_now

    async def write(self, operations: Sequence[Operation]) -> None:
        values = [row[0] for _, row in operations]
        await asyncio.sleep(1)
        if self.breaks is not None:
            raise self.breaks
        if self.is_away:
            raise DatabaseAway("away")
        if any("poison" in str(value) for value in values):
            raise RowRefused("no")
        self.batches.append(values)
        self.rows += [value for value in values if value not in self.rows]

    async def close(self) -> None:
        self.is_closed = True


@dataclass(slots=True)
class Stage:
    backend: MemoryBackend
    commits: GroupCommit
    spool: Spool

    def submit(self, value: Any, statement: Statement = WRITE) -> asyncio.Future[None]:
        return self.commits.submit(statement, (value, 0))


def perform(act: Callable[[Stage], Any], folder: Path, *, max_queued: int = 10_000) -> Stage:
    """Runs `act` between open and close, in virtual time."""

    async def story() -> Stage:
        backend = MemoryBackend()
        spool = Spool(folder, "mine", (WRITE, FLEETING, OWED))
        stage = Stage(backend, GroupCommit(backend, spool, max_queued=max_queued), spool)
        await stage.commits.open()
        await act(stage)
        await asyncio.wait_for(stage.commits.close(), 1000)
        return stage

    return play(story())


def test_a_future_is_done_when_the_row_is_durable_and_not_before(tmp_path: Path) -> None:
    async def act(stage: Stage) -> None:
        future = stage.submit("a")
        await asyncio.sleep(0.9)
        assert not future.done()
        await future
        assert stage.backend.rows == ["a"]

    perform(act, tmp_path)


def test_a_lone_row_waits_for_one_commit_and_a_crowd_shares_the_next(tmp_path: Path) -> None:
    async def act(stage: Stage) -> None:
        loop = asyncio.get_running_loop()
        first = stage.submit("first")
        await asyncio.sleep(0.5)
        crowd = [stage.submit(number) for number in range(500)]
        await first
        assert loop.time() == pytest.approx(1)
        await asyncio.gather(*crowd)
        assert loop.time() == pytest.approx(2)

    assert [len(batch) for batch in perform(act, tmp_path).backend.batches] == [1, 500]


def test_a_waiter_that_gives_up_does_not_take_its_row_back_or_harm_the_others(tmp_path: Path) -> None:
    async def act(stage: Stage) -> None:
        given_up, other = stage.submit("a"), stage.submit("b")
        given_up.cancel()
        await other

    assert perform(act, tmp_path).backend.rows == ["a", "b"]


def test_a_poison_row_fails_alone_and_is_set_aside(tmp_path: Path) -> None:
    async def act(stage: Stage) -> None:
        futures = [stage.submit(value) for value in ("a", "poison", "b")]
        done = await asyncio.gather(*futures, return_exceptions=True)
        assert [type(result) for result in done] == [type(None), GatewayFault, type(None)]
        await stage.submit("c")

    stage = perform(act, tmp_path)
    assert stage.backend.rows == ["a", "b", "c"]
    assert b"poison" in (tmp_path / "mine.refused").read_bytes()
    assert stage.spool.is_empty


def test_while_the_database_is_away_rows_are_spooled_acknowledged_and_replayed_in_order(tmp_path: Path) -> None:
    async def act(stage: Stage) -> None:
        await stage.submit(0)
        stage.backend.is_away = True
        for number in range(1, 4):
            await stage.submit(number)
        assert not stage.commits.is_connected
        assert stage.backend.rows == [0]
        stage.backend.is_away = False
        await asyncio.sleep(5)  # without a write: the replay comes by itself
        assert stage.backend.rows == [0, 1, 2, 3]
        assert stage.commits.is_connected
        await stage.submit(4)

    stage = perform(act, tmp_path)
    assert stage.backend.rows == [0, 1, 2, 3, 4]
    assert list(tmp_path.iterdir()) == []


def test_new_rows_stay_behind_the_spooled_ones(tmp_path: Path) -> None:
    async def act(stage: Stage) -> None:
        stage.backend.is_away = True
        await stage.submit("first")
        stage.backend.is_away = False
        await stage.submit("second")
        await stage.submit("third")
        await asyncio.sleep(5)

    assert perform(act, tmp_path).backend.rows == ["first", "second", "third"]


def test_what_is_not_spooled_fails_in_an_outage_and_is_not_told_to_be_done(tmp_path: Path) -> None:
    async def act(stage: Stage) -> None:
        stage.backend.is_away = True
        with pytest.raises(DatabaseAway):
            await stage.submit("beat", FLEETING)
        assert stage.spool.is_empty
        done = await asyncio.gather(stage.submit("beat", FLEETING), stage.submit("row"), return_exceptions=True)
        assert [type(result) for result in done] == [DatabaseAway, type(None)]
        stage.backend.is_away = False

    assert perform(act, tmp_path).backend.rows == ["row"]


def test_nobody_waits_for_a_database_that_was_found_away(tmp_path: Path) -> None:
    async def act(stage: Stage) -> None:
        stage.backend.is_away = True
        await stage.submit("first")
        began = asyncio.get_running_loop().time()
        for number in range(50):
            await stage.submit(number)
        assert asyncio.get_running_loop().time() == began
        stage.backend.is_away = False

    assert perform(act, tmp_path).backend.rows == ["first", *range(50)]


def test_a_poison_row_in_the_spool_does_not_hold_up_the_others(tmp_path: Path) -> None:
    async def act(stage: Stage) -> None:
        stage.backend.is_away = True
        await asyncio.gather(*[stage.submit(value) for value in ("a", "poison", "b")])
        stage.backend.is_away = False
        await asyncio.sleep(10)

    stage = perform(act, tmp_path)
    assert stage.backend.rows == ["a", "b"]
    assert stage.spool.is_empty


def test_an_outage_in_the_middle_of_single_writes_spools_the_rest(tmp_path: Path) -> None:
    async def act(stage: Stage) -> None:
        futures = [stage.submit(value) for value in ("a", "poison", "b")]
        await asyncio.sleep(2.5)
        stage.backend.is_away = True
        await asyncio.gather(*futures, return_exceptions=True)
        stage.backend.is_away = False
        await asyncio.sleep(10)

    assert perform(act, tmp_path).backend.rows == ["a", "b"]


def test_closing_writes_what_is_queued_and_closes_the_backend(tmp_path: Path) -> None:
    async def act(stage: Stage) -> None:
        for number in range(5):
            stage.submit(number)

    stage = perform(act, tmp_path)
    assert stage.backend.rows == [0, 1, 2, 3, 4]
    assert stage.backend.is_closed


def test_a_queue_that_is_full_refuses_at_once_with_retry_after(tmp_path: Path) -> None:
    async def act(stage: Stage) -> None:
        accepted = [stage.submit(number) for number in range(3)]
        with pytest.raises(GatewayFault) as refused:
            stage.submit("too many", FLEETING)
        accepted.append(stage.submit("owed"))
        assert (refused.value.status, refused.value.headers) == (503, ((b"retry-after", b"1"),))
        await asyncio.gather(*accepted)
        await stage.submit("room again")

    assert perform(act, tmp_path, max_queued=3).backend.rows == [0, 1, 2, "owed", "room again"]


class FullDisk(Spool):
    def append(self, *units: Sequence[tuple[str, Any]]) -> None:
        raise SpoolFull("no space left")


def test_a_row_that_neither_the_database_nor_the_disk_takes_is_refused_not_acknowledged(tmp_path: Path) -> None:
    async def story() -> None:
        backend = MemoryBackend(is_away=True)
        commits = GroupCommit(backend, FullDisk(tmp_path, "mine", (WRITE,)))
        await commits.open()
        with pytest.raises(GatewayFault):
            await commits.submit(WRITE, ("a", 0))
        backend.is_away = False
        await asyncio.sleep(5)
        await commits.submit(WRITE, ("b", 0))
        await commits.close()
        assert backend.rows == ["b"]

    play(story())


def test_what_is_owed_is_kept_in_memory_within_bounds_until_somebody_takes_it(tmp_path: Path) -> None:
    async def story() -> None:
        backend = MemoryBackend(is_away=True)
        commits = GroupCommit(backend, FullDisk(tmp_path, "mine", (WRITE, OWED)), max_queued=3)
        await commits.open()
        for number in range(5):
            with pytest.raises(GatewayFault):
                await commits.submit(OWED, (number, 0))
            with pytest.raises(GatewayFault):
                await commits.submit(WRITE, (f"told to have failed {number}", 0))
        await asyncio.sleep(20)
        backend.is_away = False
        await asyncio.sleep(5)
        assert backend.rows == [0, 1, 2]
        await commits.submit(WRITE, ("next", 0))
        await commits.close()
        assert backend.rows == [0, 1, 2, "next"]

    play(story())


def test_what_is_owed_is_written_at_the_end_where_it_can_be(tmp_path: Path) -> None:
    async def story() -> None:
        backend = MemoryBackend(is_away=True)
        commits = GroupCommit(backend, FullDisk(tmp_path, "mine", (OWED,)))
        await commits.open()
        with pytest.raises(GatewayFault):
            await commits.submit(OWED, ("owed", 0))
        backend.is_away = False
        await commits.close()
        assert backend.rows == ["owed"]

    play(story())


def test_an_unforeseen_error_of_a_backend_fails_its_batch_and_not_the_gateway(tmp_path: Path) -> None:
    async def act(stage: Stage) -> None:
        stage.backend.breaks = UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed")
        with pytest.raises(GatewayFault):
            await asyncio.wait_for(stage.submit("a"), 100)
        stage.backend.breaks = None
        await asyncio.wait_for(stage.submit("b"), 100)

    assert perform(act, tmp_path).backend.rows == ["b"]
    [refused_file] = tmp_path.glob("*.refused")
    assert b'"a"' in refused_file.read_bytes()


@pytest.mark.parametrize("first", [SpoolFull("no space left"), RuntimeError()], ids=repr)
def test_what_is_owed_outlives_an_error_that_nobody_foresaw(tmp_path: Path, first: Exception) -> None:
    class Odd(Spool):
        error = first

        def append(self, *units: Sequence[tuple[str, Any]]) -> None:
            raise self.error

    async def story() -> None:
        backend = MemoryBackend(is_away=True)
        spool = Odd(tmp_path, "mine", (OWED,))
        commits = GroupCommit(backend, spool)
        await commits.open()
        with pytest.raises(GatewayFault):
            await commits.submit(OWED, ("owed", 0))
        spool.error = RuntimeError()
        await asyncio.sleep(20)
        backend.is_away = False
        await asyncio.sleep(5)
        assert backend.rows == ["owed"]
        await commits.close()

    play(story())


def test_a_row_that_comes_after_the_end_is_refused_and_not_left_waiting(tmp_path: Path) -> None:
    async def story() -> None:
        commits = GroupCommit(MemoryBackend(), Spool(tmp_path, "mine", (WRITE,)))
        await commits.open()
        await commits.close()
        with pytest.raises(GatewayFault):
            await asyncio.wait_for(commits.submit(WRITE, ("late", 0)), 100)

    play(story())


def test_a_spooled_row_of_an_unknown_statement_does_not_stop_the_ledger(tmp_path: Path) -> None:
    """An older or newer version's file, adopted after an upgrade."""

    async def story() -> None:
        older = Spool(tmp_path, "older", (WRITE,))
        older.append([("renamed", ("x",)), ("write", ("old", 0))])
        older.release()  # its process is dead, the file stays
        backend = MemoryBackend()
        commits = GroupCommit(backend, Spool(tmp_path, "mine", (WRITE,)))
        await commits.open()
        await asyncio.wait_for(commits.submit(WRITE, ("new", 0)), 100)
        await commits.close()
        assert "new" in backend.rows

    play(story())


@pytest.mark.parametrize("what", ["the file", "the folder"])
def test_a_spool_that_somebody_removed_does_not_stop_the_ledger(tmp_path: Path, what: str) -> None:
    """Whatever becomes of the rows in it, those that come after are kept."""
    folder = tmp_path / "spool"

    async def act(stage: Stage) -> None:
        stage.backend.is_away = True
        await stage.submit("removed")
        (folder / "mine.spool").unlink()
        if what == "the folder":
            folder.rmdir()
        stage.backend.is_away = False
        await asyncio.sleep(5)
        await asyncio.wait_for(stage.submit("kept"), 100)

    assert "kept" in perform(act, folder).backend.rows


def test_a_disk_that_cannot_set_a_refused_row_aside_does_not_stop_the_ledger(tmp_path: Path) -> None:
    class ReadOnly(Spool):
        def set_aside(self, name: str, row: Any) -> None:
            raise OSError("read-only file system")

    async def story() -> None:
        backend = MemoryBackend()
        commits = GroupCommit(backend, ReadOnly(tmp_path, "mine", (WRITE,)))
        await commits.open()
        done = await asyncio.gather(
            *[commits.submit(WRITE, (value, 0)) for value in ("a", "poison", "b")], return_exceptions=True
        )
        assert [type(result) for result in done] == [type(None), GatewayFault, type(None)]
        await asyncio.wait_for(commits.submit(WRITE, ("c", 0)), 100)
        await commits.close()
        assert backend.rows == ["a", "b", "c"]

    play(story())


def test_a_batch_holds_no_more_bytes_than_it_may_and_always_one_unit(tmp_path: Path) -> None:
    stored = insert("stored", types=("text", "bytea"))
    body, small = bytes(400 * 1024), bytes(10)

    async def act(stage: Stage) -> None:
        first = stage.commits.submit(WRITE, ("first", 0))
        await asyncio.sleep(0.5)  # the first is being written; the others queue up behind it
        await asyncio.gather(
            first,
            *[stage.commits.submit(stored, (f"large {number}", body)) for number in range(5)],
            stage.commits.submit(stored, ("whole", bytes(8 * 1024 * 1024))),
            *[stage.commits.submit(stored, (f"small {number}", small)) for number in range(50)],
        )

    batches = perform(act, tmp_path).backend.batches
    assert [len(batch) for batch in batches] == [1, 2, 2, 1, 1, 50]


def test_a_spool_of_large_rows_is_replayed_in_bounded_batches(tmp_path: Path) -> None:
    values = [str(number) * MAX_BATCH_BYTES for number in range(3)]

    async def act(stage: Stage) -> None:
        stage.backend.is_away = True
        await asyncio.gather(*(stage.submit(value) for value in values))
        stage.backend.is_away = False

    batches = perform(act, tmp_path).backend.batches
    assert [batch for batch in batches if batch] == [[value] for value in values]


def test_a_lone_row_is_written_at_once_and_a_crowd_shares_a_commit(tmp_path: Path) -> None:
    async def act(stage: Stage) -> None:
        stage.backend.writes_now = True
        for turn in ("first", "second"):
            rows = [stage.submit(f"{turn} {number}", FLEETING) for number in range(3)]
            assert [row.done() for row in rows] == [True, False, False]
            await asyncio.gather(*rows)

    stage = perform(act, tmp_path)
    assert stage.backend.batches == [["first 1", "first 2"], ["second 1", "second 2"]]


@dataclass(slots=True)
class SlowBackend(MemoryBackend):
    """It takes no batch of more bytes than `carried`, and answers all the same; `is_locked`: it takes nothing."""

    carried: int = 100_000
    is_locked: bool = False
    late: int = 0

    async def write(self, operations: Sequence[Operation]) -> None:
        if self.is_locked and operations:
            await asyncio.sleep(6)
            raise DatabaseAway("no write goes through") if is_small(operations) else DatabaseLate("late")
        if size_of(operations) > self.carried:
            self.late += 1
            await asyncio.sleep(6)
            raise DatabaseLate("late")
        await MemoryBackend.write(self, operations)


def perform_slowly(act: Callable[[GroupCommit, SlowBackend, SlowBackend], Any], folder: Path) -> list[SlowBackend]:
    async def story() -> list[SlowBackend]:
        backend, patient_backend = SlowBackend(), SlowBackend()
        patient = GroupCommit(patient_backend, Spool(folder / "large", "mine", (WRITE, FLEETING, OWED)))
        commits = GroupCommit(backend, Spool(folder, "mine", (WRITE, FLEETING, OWED)), patient=patient)
        await commits.open()
        await act(commits, backend, patient_backend)
        await asyncio.wait_for(commits.close(), 10_000)
        return [backend, patient_backend]

    return play(story())


def test_a_late_batch_is_halved_until_it_goes_through_and_the_next_is_small_at_once(tmp_path: Path) -> None:
    async def act(commits: GroupCommit, backend: SlowBackend, patient: SlowBackend) -> None:
        rows = [(f"{number:03d}", "x" * 10_000) for number in range(64)]
        watch = asyncio.create_task(watch_readiness(commits))
        await asyncio.gather(*(commits.submit(WRITE, row) for row in rows))
        late = backend.late
        assert late == 7  # of 64, 2 × 32 and 4 × 16 rows
        assert backend.rows == [row[0] for row in rows]
        await asyncio.gather(*(commits.submit(WRITE, (f"next {row[0]}", row[1])) for row in rows))
        assert backend.late <= late + 1
        assert commits.is_connected
        watch.cancel()

    async def watch_readiness(commits: GroupCommit) -> None:
        while True:
            assert commits.is_connected
            await asyncio.sleep(0.5)

    perform_slowly(act, tmp_path)
    assert not list(tmp_path.glob("*.spool"))


def test_a_large_unit_waits_apart_and_is_spooled_as_one_while_others_are_written(tmp_path: Path) -> None:
    async def act(commits: GroupCommit, backend: SlowBackend, patient: SlowBackend) -> None:
        large = commits.submit(WRITE, ("large", bytes(MAX_BATCH_BYTES + 1)))
        for number in range(3):
            await commits.submit(WRITE, (number, 0))
        assert not large.done()
        await large  # into the spool
        assert (commits.is_connected, commits.is_writable) == (True, True)
        assert [path.name for path in (tmp_path / "large").iterdir()] == ["mine.spool"]
        await commits.submit(WRITE, ("after", 0))
        patient.carried = 2 * MAX_BATCH_BYTES
        await asyncio.sleep(20)
        assert patient.rows == ["large"]

    backend, _ = perform_slowly(act, tmp_path)
    assert backend.rows == [0, 1, 2, "after"]
    assert list((tmp_path / "large").iterdir()) == []


def test_a_single_unit_that_is_late_goes_to_the_patient_one(tmp_path: Path) -> None:
    async def act(commits: GroupCommit, backend: SlowBackend, patient: SlowBackend) -> None:
        patient.carried = MAX_BATCH_BYTES
        slow = commits.submit(WRITE, ("slow", "x" * 200_000))
        await commits.submit(WRITE, ("quick", 0))
        await slow
        assert commits.is_connected

    backend, patient = perform_slowly(act, tmp_path)
    assert (backend.rows, patient.rows) == (["quick"], ["slow"])


def test_a_database_that_takes_no_small_write_is_away_though_it_answers(tmp_path: Path) -> None:
    """The database is behind a lock: readiness says so, and no call waits for it any more."""

    async def act(commits: GroupCommit, backend: SlowBackend, patient: SlowBackend) -> None:
        backend.is_locked = True
        await asyncio.gather(*(commits.submit(WRITE, (number, "x" * 20_000)) for number in range(10)))
        assert not commits.is_connected
        began = asyncio.get_running_loop().time()
        await commits.submit(WRITE, ("next", 0))
        assert asyncio.get_running_loop().time() == began
        backend.is_locked = False
        await asyncio.sleep(30)
        assert commits.is_connected

    assert perform_slowly(act, tmp_path)[0].rows == [*range(10), "next"]


def test_a_large_unit_is_never_written_before_an_earlier_row_that_is_spooled(tmp_path: Path) -> None:
    """Its closing would find no open row."""

    async def act(commits: GroupCommit, backend: SlowBackend, patient: SlowBackend) -> None:
        patient.carried = 2 * MAX_BATCH_BYTES
        backend.is_away = True
        await commits.submit(WRITE, ("open", 0))
        await commits.submit(WRITE, ("close", bytes(MAX_BATCH_BYTES + 1)))
        await asyncio.sleep(10)
        assert patient.rows == []
        backend.is_away = False
        await asyncio.sleep(10)
        assert (backend.rows, patient.rows) == (["open"], ["close"])

    perform_slowly(act, tmp_path)


def test_an_end_does_not_wait_for_a_large_unit_for_ever_and_spools_it(tmp_path: Path) -> None:
    class Endless(SlowBackend):
        async def write(self, operations: Sequence[Operation]) -> None:
            await asyncio.sleep(1e6)

    async def story() -> None:
        statements = (WRITE,)
        patient = GroupCommit(Endless(), Spool(tmp_path / "large", "mine", statements))
        commits = GroupCommit(SlowBackend(), Spool(tmp_path, "mine", statements), patient=patient)
        await commits.open()
        for number in range(2):
            commits.submit(WRITE, (f"large {number}", bytes(MAX_BATCH_BYTES + 1)))
        await asyncio.sleep(1)
        await commits.close()
        assert asyncio.get_running_loop().time() < 100

    play(story())
    rows = (tmp_path / "large" / "mine.spool").read_bytes()
    assert b"large 0" in rows
    assert b"large 1" in rows


def test_a_batch_holds_no_more_rows_than_it_may(tmp_path: Path) -> None:
    async def act(stage: Stage) -> None:
        await asyncio.gather(*(stage.submit(number) for number in range(2 * MAX_BATCH_ROWS + 5)))

    assert [len(batch) for batch in perform(act, tmp_path).backend.batches] == [MAX_BATCH_ROWS, MAX_BATCH_ROWS, 5]


def test_texts_count_as_bytes(tmp_path: Path) -> None:
    assert size_of([(WRITE, ("name", "x" * 100, b"y" * 10, 7, None))]) == 114
