"""ProcessFiles: the numbers of processes that live, die and are killed between any two steps add up to the same sum."""

import fcntl
from pathlib import Path

import pytest

from gateway.metrics.definitions import ATTEMPTS, FIRST_TOKEN
from gateway.metrics.numbers import MAX_SERIES, Numbers
from gateway.metrics.process_files import ProcessFiles, ProcessReport

SERIES = (ATTEMPTS.name, "first", "public", "ok")


def report(count: float) -> ProcessReport:
    numbers = Numbers({SERIES: count})
    numbers.observe(FIRST_TOKEN, "public", 0.1)
    return ProcessReport(numbers, {"open": 2}, {"first": 2}, ("first",))


def process(folder: Path, name: str, count: float) -> ProcessFiles:
    files = ProcessFiles(folder, name)
    files.open()
    files.write(report(count))
    return files


def total(files: ProcessFiles) -> float:
    living, ended = files.read_others()
    return sum(part.numbers.counters.get(SERIES, 0) for part in living) + ended.counters.get(SERIES, 0)


def test_a_process_sees_the_others_and_not_itself(tmp_path: Path) -> None:
    first, second = process(tmp_path, "first", 3), process(tmp_path, "second", 4)
    assert (total(first), total(second)) == (4, 3)
    living, _ = first.read_others()
    assert living == [report(4)]


def test_what_a_process_counted_stays_when_it_ends(tmp_path: Path) -> None:
    first, second = process(tmp_path, "first", 3), process(tmp_path, "second", 4)
    second.close()
    assert [total(first) for _ in range(3)] == [4, 4, 4]
    third = process(tmp_path, "third", 5)
    assert (total(first), total(third)) == (9, 7)
    first.close()
    third.close()
    fourth = process(tmp_path, "fourth", 0)
    assert total(fourth) == 12
    assert {path.stem for path in tmp_path.glob("*.lock")} == {"folder", "fourth"}


def test_a_reader_that_is_killed_between_its_steps_adds_none_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process(tmp_path, "second", 4).close()
    kept = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    first = process(tmp_path, "first", 3)
    assert total(first) == 4
    for name in ("second.json", "second.lock"):  # as if the process had died before it removed them
        (tmp_path / name).write_bytes(kept[name])
    assert total(first) == 4
    assert total(first) == 4


def test_a_process_that_is_killed_as_it_writes_leaves_no_file_behind(tmp_path: Path) -> None:
    process(tmp_path, "second", 4).close()
    (tmp_path / "second.draft").write_bytes(b'{"numbers"')
    first = process(tmp_path, "first", 3)
    assert total(first) == 4
    assert {path.stem for path in tmp_path.iterdir()} == {"folder", "ended", "first"}


def test_a_damaged_or_missing_file_costs_only_its_own_numbers(tmp_path: Path) -> None:
    first, second, third = (process(tmp_path, name, 1) for name in ("first", "second", "third"))
    (tmp_path / "second.json").write_bytes(b'{"numbers": {"counters": [[')
    (tmp_path / "third.json").unlink()
    assert total(first) == 0
    (tmp_path / "ended.json").write_bytes(b"\xff\xff")
    second.close()
    third.close()
    assert total(first) == 0
    second = process(tmp_path, "fourth", 5)
    assert total(first) == 5


def test_a_folder_that_vanishes_raises_and_harms_nothing(tmp_path: Path) -> None:
    files = ProcessFiles(tmp_path / "metrics", "first")
    files.open()
    for path in (tmp_path / "metrics").iterdir():
        path.unlink()
    (tmp_path / "metrics").rmdir()
    with pytest.raises(OSError, match="No such file"):
        files.write(report(1))
    files.close()


def test_deployments_that_are_gone_leave_the_sums_of_ended_processes(tmp_path: Path) -> None:
    numbers = Numbers({(ATTEMPTS.name, f"d{index}", "g", "ok"): 1 for index in range(MAX_SERIES // 2 + 1)})
    many = ProcessFiles(tmp_path, "many")
    many.open()
    many.write(ProcessReport(numbers))
    many.close()
    files = ProcessFiles(tmp_path, "first", lambda series: series[1] == "d7")
    files.open()
    _, ended = files.read_others()
    assert set(ended.counters) == {(ATTEMPTS.name, "d7", "g", "ok")}


def test_a_process_that_stands_still_with_the_folder_holds_no_other_for_long(tmp_path: Path) -> None:
    first = process(tmp_path, "first", 1)
    with (tmp_path / "folder.lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(TimeoutError):
            first.read_others()
    assert total(first) == 0
