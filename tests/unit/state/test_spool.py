"""Spool: what was acknowledged is replayed, in order, whatever happened to the file or the process before."""

import fcntl
import os
from pathlib import Path
from typing import Any

import pytest

from gateway.state.spool import BATCH_ROWS, Spool, SpoolFull
from tests.fakes.memory import insert

WRITE, OTHER = insert("write"), insert("other")


def spool(folder: Path, name: str = "mine") -> Spool:
    return Spool(folder, name, (WRITE, OTHER))


def rows(of: Spool) -> list[tuple[Any, ...]]:
    return [(statement.name, *row) for batch in of.batches() for statement, row in batch]


def die(of: Spool) -> None:
    """What the system does to a process's files when it is killed."""
    of.release()


def test_rows_come_back_in_order_with_their_values(tmp_path: Path) -> None:
    mine = spool(tmp_path)
    assert mine.is_empty
    mine.append([("write", ("a", 1, None, True)), ("other", ("你好",))])
    mine.append([("write", ("b",))])
    mine.append([])
    assert not mine.is_empty
    assert rows(mine) == [("write", "a", 1, None, True), ("other", "你好"), ("write", "b")]
    assert rows(mine) == rows(mine)  # reading takes nothing away


def test_a_cleared_spool_leaves_no_file_and_can_be_used_again(tmp_path: Path) -> None:
    mine = spool(tmp_path)
    mine.append([("write", ("a",))])
    mine.clear()
    assert (mine.is_empty, list(tmp_path.iterdir())) == (True, [])
    mine.append([("write", ("b",))])
    assert rows(mine) == [("write", "b")]


def test_batches_are_bounded(tmp_path: Path) -> None:
    mine = spool(tmp_path)
    mine.append([("write", (number,)) for number in range(2 * BATCH_ROWS + 1)])
    assert [len(batch) for batch in mine.batches()] == [BATCH_ROWS, BATCH_ROWS, 1]


def test_only_this_user_can_read_what_is_spooled(tmp_path: Path) -> None:
    spool(tmp_path / "spool").append([("write", ("a",))])
    assert (tmp_path / "spool").stat().st_mode & 0o077 == 0
    assert (tmp_path / "spool" / "mine.spool").stat().st_mode & 0o077 == 0


def test_a_dead_processs_file_is_adopted_before_ones_own_rows(tmp_path: Path) -> None:
    dead = spool(tmp_path, "dead")
    dead.append([("write", ("old",))])
    die(dead)
    heir = spool(tmp_path, "heir")
    assert not heir.is_empty
    heir.append([("write", ("new",))])
    assert rows(heir) == [("write", "old"), ("write", "new")]
    heir.clear()
    assert list(tmp_path.glob("*.spool")) == []


def test_the_oldest_dead_process_comes_first(tmp_path: Path) -> None:
    for age, name in ((100, "z"), (200, "a"), (50, "m")):
        dead = spool(tmp_path / "apart", name)
        dead.append([("write", (name,))])
        die(dead)
        (tmp_path / "apart" / f"{name}.spool").rename(tmp_path / f"{name}.spool")
        os.utime(tmp_path / f"{name}.spool", (age, age))
    assert rows(spool(tmp_path)) == [("write", "m"), ("write", "z"), ("write", "a")]


def test_a_living_processs_file_is_left_alone(tmp_path: Path) -> None:
    living = spool(tmp_path, "living")
    living.append([("write", ("theirs",))])
    mine = spool(tmp_path)
    assert mine.is_empty
    mine.append([("write", ("mine",))])
    mine.clear()
    assert rows(living) == [("write", "theirs")]


@pytest.mark.parametrize("lost", range(1, 30, 3))
def test_a_torn_record_is_dropped_and_all_before_it_kept(tmp_path: Path, lost: int) -> None:
    dead = spool(tmp_path, "dead")
    dead.append([("write", ("kept",))])
    whole = (tmp_path / "dead.spool").stat().st_size
    dead.append([("write", ("torn in the middle",))])
    die(dead)
    with (tmp_path / "dead.spool").open("r+b") as file:
        file.truncate(max((tmp_path / "dead.spool").stat().st_size - lost, whole + 1))
    assert rows(spool(tmp_path)) == [("write", "kept")]


def test_a_damaged_record_is_not_replayed(tmp_path: Path) -> None:
    dead = spool(tmp_path, "dead")
    dead.append([("write", ("kept",)), ("write", ("damaged",))])
    die(dead)
    path = tmp_path / "dead.spool"
    path.write_bytes(path.read_bytes().replace(b"damaged", b"forged!"))
    assert rows(spool(tmp_path)) == [("write", "kept")]


def test_a_torn_file_does_not_hide_the_next_one(tmp_path: Path) -> None:
    (tmp_path / "a.spool").write_bytes(b"\0\0\0\xffgarbage")
    dead = spool(tmp_path / "apart", "b")
    dead.append([("write", ("kept",))])
    die(dead)
    (tmp_path / "apart" / "b.spool").rename(tmp_path / "b.spool")
    assert rows(spool(tmp_path)) == [("write", "kept")]


def test_a_spool_that_another_process_holds_refuses_and_keeps_nothing(tmp_path: Path) -> None:
    with (tmp_path / "mine.spool").open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        mine = spool(tmp_path)
        with pytest.raises(SpoolFull):
            mine.append([("write", ("a",))])
        assert mine.is_empty
        assert (tmp_path / "mine.spool").stat().st_size == 0


def test_a_refused_row_is_set_aside_for_a_person(tmp_path: Path) -> None:
    mine = spool(tmp_path)
    mine.set_aside("write", ("poison",))
    assert b"poison" in (tmp_path / "mine.refused").read_bytes()
    assert mine.is_empty
    assert spool(tmp_path, "next").is_empty
