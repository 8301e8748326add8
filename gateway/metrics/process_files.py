"""ProcessFiles: the numbers of each process of a home in a file of its own, so that any of them can show the sum.

The folder holds `<name>.json` and `<name>.lock` of each process, the lock being held while the process lives. What a
dead process has counted is added to `ended.json`, so that no sum ever gets smaller.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import orjson

from gateway.metrics.numbers import MAX_SERIES, Numbers, Series, decode_numbers, encode_numbers
from gateway.protocol.json.types import Json

FOLDER_LOCK = "folder.lock"
ENDED = "ended.json"
DRAFT = ".draft"  # a process that is killed as it writes leaves one
PATIENCE_S, PAUSE_S = 2.0, 0.01
MAX_FILE_BYTES = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ProcessReport:
    """The numbers of one process. `gauges`: its present values by name; `states`: those of the deployments that are not
    healthy, and of no other."""

    numbers: Numbers = field(default_factory=Numbers)
    gauges: Mapping[str, float] = field(default_factory=dict)
    states: Mapping[str, int] = field(default_factory=dict)
    refused: tuple[str, ...] = ()  # deployments whose credential is refused


class ProcessFiles:
    """The folder, as the process `name` uses it. It blocks the thread. Every method may raise OSError. Closes: the
    owner, with `close()`, which leaves the file to the process that reads next.

    `is_known`: false for a series of a deployment or model group that is gone; of many, these are forgotten.
    """

    def __init__(self, folder: Path, name: str, is_known: Callable[[Series], bool] = lambda series: True) -> None:
        self._folder = folder
        self._name = name
        self._is_known = is_known
        self._lock: int | None = None

    def open(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._folder_lock():
            self._lock = os.open(self._folder / f"{self._name}.lock", os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._read_others()  # also tidies up after a process that nothing has read since

    def close(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def write(self, report: ProcessReport) -> None:
        """Replaces the file of this process. A reader sees the old one or the new one."""
        if self._lock is not None:
            _replace(self._folder / f"{self._name}.json", _encode(report))

    def read_others(self) -> tuple[list[ProcessReport], Numbers]:
        """(the reports of the other processes that live, the sum of those that have ended)"""
        with self._folder_lock():
            return self._read_others()

    def _read_others(self) -> tuple[list[ProcessReport], Numbers]:
        ended, added = self._read_ended()
        living: list[ProcessReport] = []
        dead: list[str] = []
        for lock in sorted(self._folder.glob("*.lock")):
            if lock.name in {FOLDER_LOCK, f"{self._name}.lock"}:
                continue
            is_alive = _is_held(lock)  # before the file is read: a process writes it once more when it ends
            report = _decode(_read(lock.with_suffix(".json")))
            if is_alive:
                living.append(report)
                continue
            dead.append(lock.stem)
            if lock.stem not in added:
                ended.merge(report.numbers)
        if dead:
            if len(ended) > MAX_SERIES // 2:
                ended.retain(self._is_known)
            # the names stay until the files are gone: a process that is killed in between adds none twice
            document = {"numbers": encode_numbers(ended), "added": dead}
            _replace(self._folder / ENDED, orjson.dumps(document))
            for name in dead:
                for ending in (DRAFT, ".json", ".lock"):  # by the lock a reader finds what is left
                    (self._folder / f"{name}{ending}").unlink(missing_ok=True)
        return living, ended

    def _read_ended(self) -> tuple[Numbers, frozenset[str]]:
        document = _read(self._folder / ENDED)
        added = document.get("added")
        names = added if isinstance(added, list) else ()
        return decode_numbers(document.get("numbers")), frozenset(name for name in names if isinstance(name, str))

    @contextlib.contextmanager
    def _folder_lock(self) -> Iterator[None]:
        """Raises TimeoutError where a process that is stopped holds it."""
        with (self._folder / FOLDER_LOCK).open("a") as lock:
            deadline = time.monotonic() + PATIENCE_S
            while not _try_lock(lock):
                if time.monotonic() > deadline:
                    raise TimeoutError("another process holds the folder")
                time.sleep(PAUSE_S)
            yield


def _is_held(lock: Path) -> bool:
    with lock.open("r+") as file:
        return not _try_lock(file)


def _try_lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _replace(path: Path, data: bytes) -> None:
    draft = path.with_suffix(DRAFT)
    draft.write_bytes(data)
    draft.replace(path)


def _read(path: Path) -> Mapping[str, Json]:
    """The JSON object in the file; empty where there is none, or something else."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            return {}
        document: Json = orjson.loads(path.read_bytes())
    except (FileNotFoundError, orjson.JSONDecodeError):
        return {}
    return document if isinstance(document, dict) else {}


def _encode(report: ProcessReport) -> bytes:
    return orjson.dumps(
        {
            "numbers": encode_numbers(report.numbers),
            "gauges": dict(report.gauges),
            "states": dict(report.states),
            "refused": list(report.refused),
        }
    )


def _decode(document: Mapping[str, Json]) -> ProcessReport:
    return ProcessReport(
        decode_numbers(document.get("numbers")),
        _numbers_by_name(document.get("gauges")),
        {name: int(value) for name, value in _numbers_by_name(document.get("states")).items()},
        tuple(name for name in document.get("refused") or () if isinstance(name, str)),
    )


def _numbers_by_name(document: Json) -> dict[str, float]:
    entries = document.items() if isinstance(document, dict) else ()
    return {name: value for name, value in entries if type(value) in {int, float}}
