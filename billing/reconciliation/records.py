"""The records of an invoice's file, read a piece at a time: whatever the file holds, memory is bounded.

CSV: one mapping a line, by the names of the header in lower case without any sign between letters and digits, so that
`lineItem/UsageType` and `line_item_usage_type` are one. JSON: one document, or one a line.
"""

import csv
import json
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from hashlib import sha256
from typing import BinaryIO

from billing.reconciliation.lines import MAX_NUMBER_CHARS, InvoiceUnreadable
from gateway.protocol.json.types import Json

MAX_RECORD_BYTES = 1024 * 1024
MAX_JSON_BYTES = 16 * 1024 * 1024
MAX_COLUMNS = 2_000
BOM = b"\xef\xbb\xbf"
_SIGNS = re.compile(r"[^a-z0-9]+")

Record = Mapping[str, str]


class InvoiceFile:
    """A file that is read once, from its begin to its end, with the digest of what was read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = sha256()
        self._line = 0
        self._peeked: bytes | None = None

    @property
    def digest(self) -> str:
        return self._digest.hexdigest()

    @property
    def line(self) -> int:
        """The number of the line that was read last."""
        return self._line

    def is_json(self) -> bool:
        """The first sign of the file is one of JSON."""
        line = self._read(MAX_RECORD_BYTES)
        self._peeked = line
        return line.removeprefix(BOM).lstrip()[:1] in (b"{", b"[")

    def read_lines(self, limit: int) -> Iterator[str]:
        """Raises InvoiceUnreadable for a line of more than `limit` bytes, and one that is no text."""
        while True:
            raw = self._peeked if self._peeked is not None else b""
            self._peeked = None
            if not raw.endswith(b"\n"):
                raw += self._read(limit + 1 - len(raw)) if len(raw) <= limit else b""
            if not raw:
                return
            self._line += 1
            if len(raw) > limit:
                raise InvoiceUnreadable(f"line {self._line} is longer than {limit:,} bytes")
            if self._line == 1:
                raw = raw.removeprefix(BOM)
            if b"\0" in raw:
                raise InvoiceUnreadable(f"line {self._line} has a NUL character")
            try:
                yield raw.decode()
            except UnicodeDecodeError:
                raise InvoiceUnreadable(f"line {self._line} is no UTF-8 text") from None

    def _read(self, limit: int) -> bytes:
        raw = self._file.readline(limit)
        self._digest.update(raw)
        return raw


def fold_name(name: str) -> str:
    """The name of a column without its signs, in lower case."""
    return _SIGNS.sub("", name.lower())


def read_csv(file: InvoiceFile) -> tuple[tuple[str, ...], Iterator[Record]]:
    """(the folded names of the header, the lines). Raises InvoiceUnreadable, the lines too."""
    rows = _read_rows(file)
    header = tuple(fold_name(name) for name in next(rows, ()))
    if len(header) > MAX_COLUMNS:
        raise InvoiceUnreadable(f"the header has more than {MAX_COLUMNS:,} columns")
    return header, _name_cells(file, header, rows)


def _name_cells(file: InvoiceFile, header: tuple[str, ...], rows: Iterator[list[str]]) -> Iterator[Record]:
    for row in rows:
        if len(row) != len(header):
            raise InvoiceUnreadable(f"line {file.line} has {len(row):,} columns, the header {len(header):,}")
        yield dict(zip(header, row, strict=True))


def _read_rows(file: InvoiceFile) -> Iterator[list[str]]:
    """The rows that are not empty. A row may span lines, in quotes, up to the size of one record."""
    size = 0

    def measure() -> Iterator[str]:
        nonlocal size
        for line in file.read_lines(MAX_RECORD_BYTES):
            size += len(line)
            if size > MAX_RECORD_BYTES:
                raise InvoiceUnreadable(f"the record that ends in line {file.line} is too long")
            yield line

    reader = csv.reader(measure(), strict=True)
    try:
        for row in reader:
            size = 0
            if row:
                yield row
    except csv.Error as error:
        raise InvoiceUnreadable(f"line {file.line} is no CSV: {error}") from None


def read_json(file: InvoiceFile) -> Iterator[Json]:
    """The documents: each line that is one by itself, or the whole file. Raises InvoiceUnreadable."""
    pending: list[str] = []
    size = 0
    for line in file.read_lines(MAX_JSON_BYTES):
        if not pending and not line.strip():
            continue
        size += len(line)
        if size > MAX_JSON_BYTES:
            raise InvoiceUnreadable(
                f"a JSON document is larger than {MAX_JSON_BYTES // 1024**2} MiB: write one page of the answer a line"
            )
        if not pending and line.rstrip().endswith(("}", "]")) and (document := _parse(line)) is not None:
            size = 0
            yield document
        else:
            pending.append(line)
    if pending:
        document = _parse("".join(pending))
        if document is None:
            raise InvoiceUnreadable("the file is no JSON")
        yield document


def _parse(text: str) -> Json:
    """None for a text that is no JSON. Numbers keep their digits."""
    try:
        document: Json = json.loads(text, parse_float=_number, parse_int=_number, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    return document


def _number(text: str) -> Decimal:
    try:
        number = Decimal(text) if len(text) <= MAX_NUMBER_CHARS else None
    except ArithmeticError:  # an exponent beyond all bounds
        number = None
    if number is None:
        raise InvoiceUnreadable(f"{text[:30]!r} is no number that can be read")
    return number


def _refuse(text: str) -> Decimal:
    raise InvoiceUnreadable(f"{text} is no amount")
