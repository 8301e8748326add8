"""Spool: what was acknowledged is replayed, in order, whatever happened to the file or the process before."""

import fcntl
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.state.spool import BATCH_ROWS, PIECE_BYTES, Spool, SpoolFull
from tests.fakes.memory import insert

WRITE, OTHER = insert("write", types=("text",)), insert("other", types=("text",))
WIDE = insert("wide", types=("text",) * 4)


def spool(folder: Path, name: str = "mine") -> Spool:
    return Spool(folder, name, (WRITE, OTHER, WIDE))


def rows(of: Spool) -> list[tuple[Any, ...]]:
    return [(statement.name, *row) for batch in of.batches() for unit in batch for statement, row in unit]


def die(of: Spool) -> None:
    """The system closes the files of a process that is killed."""
    of.release()


def test_rows_come_back_in_order_with_their_values(tmp_path: Path) -> None:
    mine = spool(tmp_path)
    assert mine.is_empty
    mine.append([("wide", ("a", 1, None, True)), ("other", ("你好",))])
    mine.append([("write", ("b",))])
    mine.append([])
    assert not mine.is_empty
    assert rows(mine) == [("wide", "a", 1, None, True), ("other", "你好"), ("write", "b")]
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
    for number in range(2 * BATCH_ROWS + 1):
        mine.append([("write", (number,))])
    assert [len(batch) for batch in mine.batches()] == [BATCH_ROWS, BATCH_ROWS, 1]


def test_what_was_submitted_together_is_in_one_batch(tmp_path: Path) -> None:
    mine = spool(tmp_path)
    mine.append(*[[("write", (number,))] for number in range(BATCH_ROWS - 1)])
    mine.append([("write", ("its run",)), ("other", ("its response",))])
    mine.append([("write", ("the next",))])
    die(mine)
    first, second = spool(tmp_path, "heir").batches()
    assert len(first) == BATCH_ROWS
    assert [row for _, row in first[-1]] == [("its run",), ("its response",)]
    assert [row for unit in second for _, row in unit] == [("the next",)]


def test_of_what_was_submitted_together_a_torn_end_takes_nothing_else_along(tmp_path: Path) -> None:
    dead = spool(tmp_path, "dead")
    dead.append([("write", ("a",)), ("write", ("b",)), ("write", ("torn",))])
    die(dead)
    path = tmp_path / "dead.spool"
    path.write_bytes(path.read_bytes()[:-3])
    heir = spool(tmp_path, "heir")
    heir.append([("write", ("new",))])
    assert rows(heir) == [("write", "a"), ("write", "b"), ("write", "new")]


def test_what_an_older_version_wrote_is_replayed_in_bounded_batches(tmp_path: Path) -> None:
    """It did not say what belongs together."""
    records = [b'["write","%d"]' % number for number in range(BATCH_ROWS + 1)]
    heads = [len(one).to_bytes(4, "big") + zlib.crc32(one).to_bytes(4, "big") for one in records]
    (tmp_path / "old.spool").write_bytes(b"".join(head + one for head, one in zip(heads, records, strict=True)))
    assert [len(batch) for batch in spool(tmp_path).batches()] == [BATCH_ROWS, 1]


def written_by_another_version(folder: Path) -> None:
    theirs = (insert("write", types=("text", "text")), insert("gone", types=("bytea",)), OTHER)
    dead = Spool(folder, "dead", theirs)
    dead.append([("write", ("too", "secret wide")), ("other", ("fits",)), ("gone", (b"secret",)), ("write", ())])
    die(dead)


def test_rows_of_another_versions_shape_are_set_aside_and_the_others_replayed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    written_by_another_version(tmp_path)
    heir = spool(tmp_path, "heir")
    for _ in range(3):  # it is read again and again while the database is away
        assert rows(heir) == [("other", "fits")]
    assert not list(tmp_path.glob("*.refused"))
    heir.clear()
    assert [one.name for one in tmp_path.iterdir()] == ["heir.refused"]
    lines = (tmp_path / "heir.refused").read_bytes().splitlines()
    assert lines == [b'["write","too","secret wide"]', b'["gone",{"base64":"c2VjcmV0"}]', b'["write"]']
    assert {(vars(one)["statement"], vars(one)["rows"], one.levelname) for one in caplog.records} == {
        ("write", 2, "ERROR"),
        ("gone", 1, "ERROR"),
    }
    assert "secret" not in str([vars(one) for one in caplog.records])


def test_where_they_cannot_be_set_aside_the_file_stays(tmp_path: Path) -> None:
    written_by_another_version(tmp_path)
    left = (tmp_path / "dead.spool").read_bytes()
    (tmp_path / "heir.refused").mkdir()  # nothing can be written there
    heir = spool(tmp_path, "heir")
    assert rows(heir) == [("other", "fits")]
    heir.clear()
    assert (tmp_path / "dead.damaged").read_bytes() == left
    assert not list(tmp_path.glob("*.spool"))


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


DAMAGE: dict[str, Callable[[bytes, int], bytes]] = {
    "its JSON": lambda data, at: data[: at + 20] + b"?" + data[at + 21 :],
    "its checksum": lambda data, at: data[: at + 4] + bytes([data[at + 4] ^ 1]) + data[at + 5 :],
    "its length, beyond the file": lambda data, at: data[:at] + b"\x7f" + data[at + 1 :],
    "its length, within the file": lambda data, at: data[: at + 3] + b"\x02" + data[at + 4 :],
    "all of it": lambda data, at: data[:at] + bytes(40) + data[at + 40 :],
    "its beginning": lambda data, at: data[:at] + data[at + 5 :],
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
@pytest.mark.parametrize("length", [60, PIECE_BYTES - 30, PIECE_BYTES, 3 * PIECE_BYTES])
def test_what_is_behind_a_damaged_record_is_replayed_and_the_file_kept(
    tmp_path: Path, damage: Callable[[bytes, int], bytes], length: int, caplog: pytest.LogCaptureFixture
) -> None:
    dead = spool(tmp_path, "dead")
    path = tmp_path / "dead.spool"
    dead.append([("write", ("before",))])
    at = path.stat().st_size
    dead.append([("write", ("secret" + '["' * (length // 4),))])
    dead.append([("other", ("behind",)), ("write", (1,))])
    die(dead)
    path.write_bytes(damage(path.read_bytes(), at))
    left = path.read_bytes()
    heir = spool(tmp_path, "heir")
    heir.append([("write", ("new",))])
    whole = [("write", "before"), ("other", "behind"), ("write", 1), ("write", "new")]
    assert rows(heir) == whole
    assert rows(heir) == whole
    heir.clear()
    assert [one.name for one in tmp_path.iterdir()] == ["dead.damaged"]
    assert (tmp_path / "dead.damaged").read_bytes() == left
    [record] = caplog.records
    assert record.levelname == "ERROR"
    assert vars(record)["path"] == str(tmp_path / "dead.damaged")
    assert "secret" not in str(vars(record))


def test_a_whole_record_at_the_end_that_is_damaged_is_kept_for_a_person(tmp_path: Path) -> None:
    dead = spool(tmp_path, "dead")
    dead.append([("write", ("kept",)), ("write", ("damaged",))])
    die(dead)
    path = tmp_path / "dead.spool"
    path.write_bytes(path.read_bytes().replace(b"damaged", b"forged!"))
    heir = spool(tmp_path, "heir")
    assert rows(heir) == [("write", "kept")]
    heir.clear()
    assert b"forged!" in (tmp_path / "dead.damaged").read_bytes()


def test_zeros_at_the_end_stop_nothing(tmp_path: Path) -> None:
    """A loss of power may leave such a file."""
    dead = spool(tmp_path, "dead")
    dead.append([("write", ("kept",))])
    die(dead)
    with (tmp_path / "dead.spool").open("ab") as file:
        file.write(bytes(5000))
    assert rows(spool(tmp_path)) == [("write", "kept")]


def test_a_second_damaged_file_does_not_overwrite_the_first(tmp_path: Path) -> None:
    for name in ("first", "second"):
        mine = spool(tmp_path)
        mine.append([("write", (name,)), ("write", ("behind",))])
        die(mine)
        path = tmp_path / "mine.spool"
        path.write_bytes(path.read_bytes().replace(b'["write","', b'["wrote","', 1))
        heir = spool(tmp_path, "heir")
        assert rows(heir) == [("write", "behind")]
        heir.clear()
    assert b"first" in (tmp_path / "mine.damaged").read_bytes()
    assert b"second" in (tmp_path / "mine-2.damaged").read_bytes()


def test_what_is_torn_is_dropped_without_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dead = spool(tmp_path, "dead")
    dead.append([("write", ("kept",)), ("write", ("torn",))])
    die(dead)
    path = tmp_path / "dead.spool"
    path.write_bytes(path.read_bytes()[:-3])
    heir = spool(tmp_path, "heir")
    assert rows(heir) == [("write", "kept")]
    heir.clear()
    assert (list(tmp_path.iterdir()), caplog.records) == ([], [])


def test_a_file_larger_than_one_read_can_bring_is_read_whole(tmp_path: Path) -> None:
    """Its middle is a hole of zeros, which takes no room on the disk."""
    dead = spool(tmp_path, "dead")
    dead.append([("write", ("first",))])
    path = tmp_path / "dead.spool"
    end = path.stat().st_size
    dead.append([("write", ("last",))])
    die(dead)
    last = path.read_bytes()[end:]
    hole = 0x7FFF_F000 + 10
    with path.open("r+b") as file:
        file.truncate(end)
        file.seek(hole)
        file.write(last)
    assert rows(spool(tmp_path)) == [("write", "first"), ("write", "last")]


def test_a_torn_file_does_not_hide_the_next_one(tmp_path: Path) -> None:
    (tmp_path / "a.spool").write_bytes(b"\0\0\0\xffgarbage")
    dead = spool(tmp_path / "apart", "b")
    dead.append([("write", ("kept",))])
    die(dead)
    (tmp_path / "apart" / "b.spool").rename(tmp_path / "b.spool")
    assert rows(spool(tmp_path)) == [("write", "kept")]


def test_a_spool_that_another_process_holds_refuses_and_keeps_nothing(tmp_path: Path) -> None:
    with (tmp_path / "mine.spool").open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
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
