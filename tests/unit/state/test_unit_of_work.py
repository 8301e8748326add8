"""A unit of work: one transaction, one batch of the spool, and what happens where the database refuses a row of it."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from gateway.protocol.errors import GatewayFault
from gateway.state.statement import DatabaseAway, Statement
from gateway.state.unit_of_work import UnitOfWork
from tests.unit.state.test_commit_queue import FLEETING, OWED, WRITE, FullDisk, Stage, perform


def unit(*values: Any, spend: Any = None, last: Statement = WRITE) -> UnitOfWork:
    """Rows of these values, the last of `last`, and one that is owed."""
    one = UnitOfWork()
    for value in values:
        one.add(last if value == values[-1] else WRITE, (value, 0))
    if spend is not None:
        one.add(OWED, (spend, 0))
    return one


def test_a_unit_is_written_in_one_transaction(tmp_path: Path) -> None:
    async def act(stage: Stage) -> None:
        await stage.commits.commit(unit("response", "item", spend="spend"))

    assert perform(act, tmp_path).backend.batches == [["response", "item", "spend"]]


def test_units_and_rows_that_come_at_once_share_a_commit_in_order_of_rank(tmp_path: Path) -> None:
    async def act(stage: Stage) -> None:
        late = Statement("late", ("text",), "", "", is_durable=True, rank=2)
        units = [unit("a", "b"), UnitOfWork()]
        units[1].add(late, ("last", 0))
        units[1].add(WRITE, ("c", 0))
        await asyncio.gather(*map(stage.commits.commit, units), stage.submit("d"))

    assert perform(act, tmp_path).backend.batches == [["d", "a", "b", "c", "last"]]


def test_of_a_unit_that_is_refused_the_spend_row_is_kept_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def act(stage: Stage) -> None:
        refused, other = unit("response", "poison", spend="spend"), unit("other response", spend="other spend")
        done = await asyncio.gather(stage.commits.commit(refused), stage.commits.commit(other), return_exceptions=True)
        assert [type(result) for result in done] == [GatewayFault, type(None)]

    stage = perform(act, tmp_path)
    assert sorted(stage.backend.rows) == ["other response", "other spend", "spend"]
    assert [vars(one)["statement"] for one in caplog.records] == ["write", "write"]


def test_a_spend_row_that_is_refused_takes_its_unit_along_and_is_set_aside(tmp_path: Path) -> None:
    async def act(stage: Stage) -> None:
        with pytest.raises(GatewayFault):
            await stage.commits.commit(unit("response", spend="poison"))

    assert perform(act, tmp_path).backend.rows == []
    assert b'["owed", "poison", 0]' in (tmp_path / "mine.refused").read_bytes()


def test_units_are_spooled_and_replayed_whole(tmp_path: Path) -> None:
    async def act(stage: Stage) -> None:
        stage.backend.is_away = True
        for name in ("first", "second"):
            await stage.commits.commit(unit(f"{name} response", spend=f"{name} spend"))
        stage.backend.is_away = False
        await asyncio.sleep(5)

    batches = perform(act, tmp_path).backend.batches
    assert [value for batch in batches for value in batch] == [
        "first response",
        "first spend",
        "second response",
        "second spend",
    ]
    assert all(len(batch) % 2 == 0 for batch in batches)


def test_a_unit_that_is_refused_at_its_replay_keeps_its_spend_row_too(tmp_path: Path) -> None:
    async def act(stage: Stage) -> None:
        stage.backend.is_away = True
        await stage.commits.commit(unit("response", "poison", spend="spend"))
        await stage.commits.commit(unit("other response", spend="other spend"))
        stage.backend.is_away = False
        await asyncio.sleep(10)

    assert sorted(perform(act, tmp_path).backend.rows) == ["other response", "other spend", "spend"]


def test_an_outage_while_a_refused_unit_is_taken_apart_loses_no_spend_row(tmp_path: Path) -> None:
    async def act(stage: Stage) -> None:
        committing = asyncio.ensure_future(stage.commits.commit(unit("response", "poison", spend="spend")))
        await asyncio.sleep(2.5)  # it was refused twice; its spend row is on its way
        stage.backend.is_away = True
        await asyncio.wait([committing])
        stage.backend.is_away = False
        await asyncio.sleep(10)

    assert perform(act, tmp_path).backend.rows == ["spend"]


def test_a_unit_with_a_row_that_is_not_spooled_fails_whole_in_an_outage(tmp_path: Path) -> None:
    async def act(stage: Stage) -> None:
        stage.backend.is_away = True
        with pytest.raises(DatabaseAway):
            await stage.commits.commit(unit("a", "b", last=FLEETING))
        assert stage.spool.is_empty
        stage.backend.is_away = False

    assert perform(act, tmp_path).backend.rows == []


def test_what_a_unit_owes_is_kept_in_memory_where_nothing_takes_it(tmp_path: Path) -> None:
    async def act(stage: Stage) -> None:
        full = FullDisk(tmp_path, "full", (WRITE, OWED))
        stage.commits._spool = full
        stage.backend.is_away = True
        with pytest.raises(GatewayFault):
            await stage.commits.commit(unit("response", spend="spend"))
        stage.backend.is_away = False
        await asyncio.sleep(5)

    assert perform(act, tmp_path).backend.rows == ["spend"]


def test_follow_ups_run_in_order_when_the_rows_are_safe(tmp_path: Path) -> None:
    log: list[Any] = []

    async def act(stage: Stage) -> None:
        async def note(name: str) -> None:
            log.append((name, list(stage.backend.rows)))

        one = unit("a")
        one.follow_up(lambda: note("first"))
        one.follow_up(lambda: note("second"))
        await stage.commits.commit(one)

    perform(act, tmp_path)
    assert log == [("first", ["a"]), ("second", ["a"])]


def test_no_follow_up_runs_where_the_rows_are_refused(tmp_path: Path) -> None:
    log: list[str] = []

    async def act(stage: Stage) -> None:
        async def note() -> None:
            log.append("ran")

        one = unit("poison")
        one.follow_up(note)
        with pytest.raises(GatewayFault):
            await stage.commits.commit(one)
        assert one.done is not None
        assert isinstance(one.done.exception(), GatewayFault)

    perform(act, tmp_path)
    assert log == []


def test_a_writer_that_is_cancelled_leaves_a_unit_that_is_written_and_known_to_be(tmp_path: Path) -> None:
    async def act(stage: Stage) -> None:
        async def nothing() -> None:
            raise AssertionError("the writer has gone")

        one = unit("a")
        one.follow_up(nothing)
        writing = asyncio.ensure_future(stage.commits.commit(one))
        await asyncio.sleep(0.5)
        writing.cancel()
        await asyncio.wait([writing])
        assert one.done is not None
        await one.done

    assert perform(act, tmp_path).backend.rows == ["a"]
