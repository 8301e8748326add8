"""Spool: rows that the database could not take, in a local file, each with its length and checksum, fsynced."""

import base64
import contextlib
import fcntl
import json
import logging
import os
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import orjson

from gateway.state.statement import MAX_BATCH_BYTES, Operation, Row, Statement

logger = logging.getLogger(__name__)

BATCH_ROWS = 200
HEAD_BYTES = 8
BEGINNING = b'["'  # of every record's JSON
MORE = b" "  # behind the JSON of a record that the next one belongs to
PIECE_BYTES = 1 << 20


class SpoolFull(Exception):
    """The disk refuses."""


class Spool:
    """One file a process, `folder/<name>.spool`, locked while the process lives; a file whose lock is free was left
    by a dead process and is adopted at the start.

    Shape of a record: length (4 bytes, big endian), CRC-32 (4 bytes), JSON [statement name, columns…]; a column of
    bytes is {"base64": text}. A space behind the JSON says that the next record belongs to the same unit.

    A record that is cut off at the end of a file was never acknowledged. Behind a damaged record the spool looks for
    the next whole one, and it keeps the file as `<name>.damaged`.
    """

    def __init__(self, folder: Path, name: str, statements: Sequence[Statement]) -> None:
        self._folder = folder
        self._make_folder()
        self._path = folder / f"{name}.spool"
        self._statements: Mapping[str, Statement] = {s.name: s for s in statements}
        self._files: list[tuple[Path, int]] = []  # with the descriptors that hold their locks, in the order of replay
        self._own: int | None = None
        self._damaged: set[int] = set()  # descriptors of files that a person should look at
        self._unfit: list[tuple[int, int]] = []  # (descriptor, place) of records that no statement here takes
        for path in sorted(folder.glob("*.spool"), key=lambda path: path.stat().st_mtime):
            self._lock(path)
        self.is_empty = not self._files

    @property
    def size_bytes(self) -> int:
        return 0 if self.is_empty else sum(os.fstat(fd).st_size for _, fd in self._files)

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

    def append(self, *units: Sequence[tuple[str, Row]]) -> None:
        """Units of rows, durable on return. Raises SpoolFull; then no row of them counts."""
        records = b"".join(
            _encode_record(name, row, MORE if place < len(unit) else b"")
            for unit in units
            for place, (name, row) in enumerate(unit, 1)
        )
        if not records:
            return
        try:
            fd = self._own
            if fd is None or os.fstat(fd).st_nlink == 0:  # none yet, or it was removed
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

    def batches(self) -> Iterator[list[list[Operation]]]:
        """The spooled units, oldest file first, in order, some in each batch. Rows that another version of the program
        has written in another shape are left out."""
        self._unfit.clear()
        batch: list[list[Operation]] = []
        unit: list[Operation] = []
        rows = size = 0
        for _, fd in self._files:
            for at, record in self._records(fd):
                name, *columns = orjson.loads(record)
                statement = self._statements.get(name)
                if statement is None or len(columns) != len(statement.types):
                    self._unfit.append((fd, at))
                else:
                    row = [_decode_bytes(column) if type(column) is dict else column for column in columns]
                    unit.append((statement, tuple(row)))
                    rows += 1
                    size += len(record)
                if unit and not record.endswith(MORE):
                    batch.append(unit)
                    unit = []
                if (rows >= BATCH_ROWS or size >= MAX_BATCH_BYTES) and not unit:
                    yield batch
                    batch, rows, size = [], 0, 0
        if unit:
            batch.append(unit)
        if batch:
            yield batch

    def _records(self, fd: int) -> Iterator[tuple[int, bytes]]:
        """(place, JSON) of each."""
        size = os.fstat(fd).st_size
        at = 0
        while at < size:
            record = _read_record(fd, at, size)
            if record is not None:
                yield at, record
                at += HEAD_BYTES + len(record)
                continue
            behind = _find_record(fd, at + 1, size)
            if behind is not None or not _is_cut_off(fd, at, size):
                self._damaged.add(fd)
            at = size if behind is None else behind

    def clear(self) -> None:
        """Removes the files once their rows are in the database; rows of another shape are set aside."""
        self._set_unfit_aside()
        for path, fd in self._files:
            if fd in self._damaged:
                damaged = _free_path(path.with_suffix(".damaged"))
                with contextlib.suppress(FileNotFoundError):  # it was removed
                    path.rename(damaged)
                logger.error(
                    "a spool file cannot be replayed whole, it is kept for a person to look at",
                    extra={"path": str(damaged)},
                )
            else:
                path.unlink(missing_ok=True)
        self.release()
        self.is_empty = True

    def release(self) -> None:
        """Leaves the files to the next process that starts."""
        for _, fd in self._files:
            os.close(fd)
        self._files.clear()
        self._damaged.clear()
        self._unfit.clear()
        self._own = None

    def set_aside(self, name: str, row: Row) -> None:
        """Keeps a row that the database refuses, as a line of JSON for a person to look at."""
        self._refuse([json.dumps([name, *row], default=_render).encode()])  # a refused row may hold any value

    def _set_unfit_aside(self) -> None:
        if not self._unfit:
            return
        counts: Counter[str] = Counter()

        def lines() -> Iterator[bytes]:
            for fd, at in self._unfit:
                record = _read_record(fd, at, os.fstat(fd).st_size)
                if record is not None:
                    counts[orjson.loads(record)[0]] += 1
                    yield record.removesuffix(MORE)

        try:
            self._refuse(lines())
        except OSError as error:  # then the files stay, all of them
            logger.error("rows of another version could not be set aside", extra={"why": str(error)})
            self._damaged.update(fd for fd, _ in self._unfit)
            return
        for name, count in counts.items():
            logger.error(
                "rows of another version fit no statement, they are set aside",
                extra={"statement": name, "rows": count, "path": str(self._refused)},
            )

    @property
    def _refused(self) -> Path:
        return self._path.with_suffix(".refused")

    def _refuse(self, lines: Iterable[bytes]) -> None:
        self._make_folder()
        with self._refused.open("ab") as file:
            for line in lines:
                file.write(line + b"\n")
            file.flush()
            os.fsync(file.fileno())


def _read_record(fd: int, at: int, end: int) -> bytes | None:
    """The JSON of the record at this place, if there is one, undamaged. Read from the descriptor, because the file may
    have been removed, and in pieces, because its length may be wrong."""
    head = os.pread(fd, HEAD_BYTES, at)
    size = int.from_bytes(head[:4], "big")
    if len(head) < HEAD_BYTES or not len(BEGINNING) <= size <= end - at - HEAD_BYTES:
        return None
    at += HEAD_BYTES
    checksum = 0
    for place in range(at, at + size, PIECE_BYTES):
        piece = os.pread(fd, min(PIECE_BYTES, at + size - place), place)
        checksum = zlib.crc32(piece, checksum)
    if checksum != int.from_bytes(head[4:], "big"):
        return None
    return piece if len(piece) == size else os.pread(fd, size, at)


def _find_record(fd: int, at: int, end: int) -> int | None:
    """The place of the next undamaged record, at or behind this one."""
    while at < end:
        piece = os.pread(fd, min(PIECE_BYTES, end - at), at)
        index = piece.find(BEGINNING, HEAD_BYTES)
        while index >= 0:
            place = at + index - HEAD_BYTES
            if _read_record(fd, place, end) is not None:
                return place
            index = piece.find(BEGINNING, index + 1)
        at += max(len(piece) - HEAD_BYTES - 1, 1)  # a beginning may lie across two pieces
    return None


def _is_cut_off(fd: int, at: int, end: int) -> bool:
    """The record at this place goes on behind the end of the file."""
    head = os.pread(fd, HEAD_BYTES, at)
    return len(head) < HEAD_BYTES or int.from_bytes(head[:4], "big") > end - at - HEAD_BYTES


def _free_path(path: Path) -> Path:
    """A path that nothing has: this one, or one with a number."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return free


def _encode_record(name: str, row: Row, mark: bytes) -> bytes:
    record = orjson.dumps([name, *row], default=_encode_bytes) + mark
    return len(record).to_bytes(4, "big") + zlib.crc32(record).to_bytes(4, "big") + record


def _encode_bytes(column: object) -> dict[str, str]:
    if not isinstance(column, bytes):
        raise TypeError
    return {"base64": base64.b64encode(column).decode()}


def _decode_bytes(column: dict[str, str]) -> bytes:
    return base64.b64decode(column["base64"])


def _render(column: object) -> object:
    return _encode_bytes(column) if isinstance(column, bytes) else str(column)
