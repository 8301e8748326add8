"""Spool: rows that the database could not take, in a local file, each with its length and checksum, fsynced."""

import base64
import fcntl
import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

if TYPE_CHECKING:
    from gateway.state.group_commit import Operation, Row, Statement

BATCH_ROWS = 200


class SpoolFull(Exception):
    """The disk refuses."""


class Spool:
    """One file a process, `folder/<name>.spool`, locked while the process lives; a file whose lock is free was left
    by a dead process and is adopted at the start.

    Shape of a record: length (4 bytes, big endian), CRC-32 (4 bytes), JSON [statement name, columns…]; a column of
    bytes is {"base64": text}.
    """

    def __init__(self, folder: Path, name: str, statements: Sequence["Statement"]) -> None:
        self._folder = folder
        self._make_folder()
        self._path = folder / f"{name}.spool"
        self._statements: Mapping[str, Statement] = {s.name: s for s in statements}
        self._files: list[tuple[Path, int]] = []  # with the descriptors that hold their locks, in the order of replay
        self._own: int | None = None
        for path in sorted(folder.glob("*.spool"), key=lambda path: path.stat().st_mtime):
            self._lock(path)
        self.is_empty = not self._files

    def _lock(self, path: Path) -> int | None:
        fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        self._files.append((path, fd))
        return fd

    def _make_folder(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def append(self, rows: Sequence[tuple[str, "Row"]]) -> None:
        """Durable on return. Raises SpoolFull; then nothing of it counts."""
        if not rows:
            return
        records = b"".join(_record(name, row) for name, row in rows)
        try:
            fd = self._own
            if fd is None or os.fstat(fd).st_nlink == 0:  # none yet, or somebody has removed it
                self._make_folder()
                fd = self._own = self._lock(self._path)
            if fd is None:
                raise OSError("another process holds the spool")
            size = os.fstat(fd).st_size
            try:
                if os.write(fd, records) != len(records):
                    raise OSError("the disk took a part only")
                os.fsync(fd)
            except OSError:
                os.ftruncate(fd, size)
                raise
        except OSError as error:
            raise SpoolFull(str(error)) from error
        self.is_empty = False

    def batches(self) -> Iterator[list["Operation"]]:
        """What is spooled, oldest file first, in order. A torn record at a file's end was never acknowledged."""
        batch: list[Operation] = []
        for _, fd in self._files:
            data = os.pread(fd, os.fstat(fd).st_size, 0)  # also of a file that somebody has removed
            at = 0
            while at + 8 <= len(data):
                size = int.from_bytes(data[at : at + 4], "big")
                record = data[at + 8 : at + 8 + size]
                if len(record) < size or zlib.crc32(record) != int.from_bytes(data[at + 4 : at + 8], "big"):
                    break
                at += 8 + size
                name, *columns = orjson.loads(record)
                row = [_bytes(column) if type(column) is dict else column for column in columns]
                statement = self._statements.get(name)
                if statement is None:  # of another version
                    self.set_aside(name, tuple(row))
                    continue
                batch.append((statement, tuple(row)))
                if len(batch) == BATCH_ROWS:
                    yield batch
                    batch = []
        if batch:
            yield batch

    def clear(self) -> None:
        """All of it is in the database."""
        for path, _ in self._files:
            path.unlink(missing_ok=True)
        self.release()
        self.is_empty = True

    def release(self) -> None:
        """Leaves the files to whoever starts next."""
        for _, fd in self._files:
            os.close(fd)
        self._files.clear()
        self._own = None

    def set_aside(self, name: str, row: "Row") -> None:
        """Keeps a row that the database refuses for what it holds, a line of JSON for a person to look at."""
        self._make_folder()
        with self._path.with_suffix(".refused").open("ab") as file:
            file.write(json.dumps([name, *row], default=_shown).encode() + b"\n")  # takes what made the row unfit
            file.flush()
            os.fsync(file.fileno())


def _record(name: str, row: "Row") -> bytes:
    record = orjson.dumps([name, *row], default=_encoded)
    return len(record).to_bytes(4, "big") + zlib.crc32(record).to_bytes(4, "big") + record


def _encoded(column: object) -> dict[str, str]:
    if not isinstance(column, bytes):
        raise TypeError
    return {"base64": base64.b64encode(column).decode()}


def _bytes(column: dict[str, str]) -> bytes:
    return base64.b64decode(column["base64"])


def _shown(column: object) -> object:
    return _encoded(column) if isinstance(column, bytes) else str(column)
