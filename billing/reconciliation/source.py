"""InvoiceSource: how the exports of one provider's billing are read; the lines of a file of it. Pure."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import BinaryIO

from billing.reconciliation.lines import InvoiceLine, InvoiceUnreadable, LineKey, LineSum, add_up
from billing.reconciliation.records import InvoiceFile, Record, fold_name, read_csv, read_json
from gateway.protocol.json.types import Json, JsonMapping

MAX_DEPTH = 4


@dataclass(frozen=True, slots=True)
class RecordFormat:
    """One kind of record. `columns`: folded names that all of its records have. `read`: its lines, none for a charge of
    another service; it raises InvoiceUnreadable."""

    columns: frozenset[str]
    read: Callable[[Record], Iterable[InvoiceLine]]


@dataclass(frozen=True, slots=True)
class InvoiceSource:
    """`providers`: those of the gateway whose calls it charges. `formats`: the first one that fits is taken.
    `find_rows`: the records of a JSON document. Both compute in the context of decimals that `add_up` sets."""

    name: str
    title: str
    providers: tuple[str, ...]
    formats: Sequence[RecordFormat]
    find_rows: Callable[[Json], Iterator[JsonMapping]]


@dataclass(frozen=True, slots=True)
class Invoice:
    digest: str
    records: int
    sums: Mapping[LineKey, LineSum]


def read_invoice(file: BinaryIO, source: InvoiceSource) -> Invoice:
    """The sums of a file. Raises InvoiceUnreadable."""
    reader = _InvoiceReader(InvoiceFile(file), source)
    sums = {key: found for key, found in add_up(reader.read()).items() if found.quantity or found.amount_pusd}
    if not sums:
        raise InvoiceUnreadable(f"none of its {reader.records:,} records is a charge or a count of {source.title}")
    return Invoice(reader.file.digest, reader.records, sums)


class _InvoiceReader:
    def __init__(self, file: InvoiceFile, source: InvoiceSource) -> None:
        self.file = file
        self.records = 0
        self._source = source

    def read(self) -> Iterator[InvoiceLine]:
        for record, record_format in self._read_json() if self.file.is_json() else self._read_csv():
            self.records += 1
            try:
                yield from record_format.read(record)
            except InvoiceUnreadable as error:
                raise InvoiceUnreadable(f"record {self.records:,}: {error}") from None

    def _read_csv(self) -> Iterator[tuple[Record, RecordFormat]]:
        header, records = read_csv(self.file)
        chosen = self._choose(header)
        twice = [name for name in chosen.columns if header.count(name) > 1]
        if twice:
            raise InvoiceUnreadable(f"the header has {twice[0]!r} twice")
        for record in records:
            yield record, chosen

    def _read_json(self) -> Iterator[tuple[Record, RecordFormat]]:
        for document in read_json(self.file):
            for row in self._source.find_rows(document):
                record = flatten(row)
                yield record, self._choose(record)

    def _choose(self, names: Iterable[str]) -> RecordFormat:
        known = frozenset(names)
        for record_format in self._source.formats:
            if record_format.columns <= known:
                return record_format
        wanted = "; or ".join(", ".join(sorted(each.columns)) for each in self._source.formats)
        raise InvoiceUnreadable(f"it is no export of {self._source.title}: it must have the columns {wanted}")


def flatten(row: JsonMapping, prefix: str = "", depth: int = 0) -> dict[str, str]:
    """The values of an object as texts, by folded names: those of an inner object behind its own name, as an export to
    CSV has them. Lists are left out."""
    record: dict[str, str] = {}
    for name, value in row.items():
        folded = prefix + fold_name(str(name))
        if isinstance(value, dict) and depth < MAX_DEPTH:
            record |= flatten(value, folded, depth + 1)
        elif value is None:
            record[folded] = ""
        elif isinstance(value, bool):
            record[folded] = "true" if value else "false"
        elif isinstance(value, str | Decimal):
            record[folded] = _check_text(str(value), folded)
    return record


def _check_text(text: str, name: str) -> str:
    """JSON can escape what no database keeps."""
    if "\0" in text or any("\ud800" <= sign <= "\udfff" for sign in text):
        raise InvoiceUnreadable(f"{name} has a character that is no text")
    return text


def find_buckets(document: Json, begin: str, end: str) -> Iterator[JsonMapping]:
    """The results of a page of buckets, each with the begin and the end of its bucket."""
    pages = document if isinstance(document, list) else [document]
    for page in pages:
        buckets = page.get("data") if isinstance(page, dict) else None
        if not isinstance(buckets, list):
            raise InvoiceUnreadable("a JSON document must be an answer of the provider's API, with 'data'")
        for bucket in buckets:
            results = bucket.get("results") if isinstance(bucket, dict) else None
            if not isinstance(results, list):
                raise InvoiceUnreadable("each bucket of 'data' must have 'results'")
            for result in results:
                if not isinstance(result, dict):
                    raise InvoiceUnreadable("each of the 'results' must be an object")
                yield {**result, begin: bucket.get(begin), end: bucket.get(end)}


def subtract(total: Decimal | None, *parts: Decimal | None) -> Decimal:
    """The rest of a count, without its parts. Raises InvoiceUnreadable for parts that are larger."""
    left = (total or Decimal(0)) - sum((part for part in parts if part is not None), Decimal(0))
    if left < 0:
        raise InvoiceUnreadable("the parts of a count are larger than the count")
    return left


def find_rows_of_table(document: Json) -> Iterator[JsonMapping]:
    """The rows of a table: a list of objects, or one object a line."""
    for row in document if isinstance(document, list) else [document]:
        if not isinstance(row, dict):
            raise InvoiceUnreadable("each record must be an object")
        yield row
