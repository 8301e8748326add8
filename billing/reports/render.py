"""The text of a report, in parts of a few rows: no part takes long to make, whatever the size of the report."""

import csv
import io
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Protocol

import orjson

from billing.reports.comparison import ComparedReport

PART_ROWS = 200
JSON_TYPE = "application/json"
CSV_TYPE = "text/csv; charset=utf-8"
#: A place where a spreadsheet may take what follows for a formula, of the wide characters of East Asia too: the begin
#: of a cell; and behind a semicolon or a line break, because those of many countries split at semicolons, not commas.
FORMULA = re.compile("^(?=[=+\\-@\t\r\n＝＋－＠])|(?<=[;\r\n])(?=[=+\\-@\t＝＋－＠])")


class Measures(Protocol):
    """Sums of a row. An amount is exact decimal text, a count an integer, an unknown one None. `measures`: those of
    `query.MORE_MEASURES` that it has."""

    def render(self, measures: Collection[str] = ()) -> Mapping[str, str | int | None]: ...


class Table(Protocol):
    """A report, compared or not."""

    @property
    def group_by(self) -> tuple[str, ...]: ...

    @property
    def rows(self) -> Sequence[tuple[tuple[str, ...], Measures]]: ...

    @property
    def total(self) -> Measures: ...

    @property
    def measures(self) -> tuple[str, ...]: ...


def render_json(report: Table) -> Iterator[bytes]:
    """`{"rows": [{dimension: member, …, measure: …}, …], "total": {measure: …}}`, and `previous` with the days that a
    compared report is compared to."""
    yield b'{"rows":['
    for first in range(0, len(report.rows), PART_ROWS):
        rows = [
            {**dict(zip(report.group_by, members, strict=True)), **sums.render(report.measures)}
            for members, sums in report.rows[first : first + PART_ROWS]
        ]
        yield (b"," if first else b"") + orjson.dumps(rows)[1:-1]
    yield b'],"total":' + orjson.dumps(report.total.render(report.measures))
    if isinstance(report, ComparedReport):
        days = {"start_date": report.previous.start, "end_date": report.previous.end}
        yield b',"previous":' + orjson.dumps(days)
    yield b"}"


def render_csv(report: Table) -> Iterator[bytes]:
    """A line of names, and a line for each row; without the total."""
    lines = ([*map(make_inert, members), *sums.render(report.measures).values()] for members, sums in report.rows)
    return write_csv([*report.group_by, *report.total.render(report.measures)], lines)


def write_csv(names: Sequence[str], lines: Iterator[Sequence[str | int | None]]) -> Iterator[bytes]:
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(names)
    for place, line in enumerate(lines, 1):
        writer.writerow(line)
        if place % PART_ROWS == 0:
            yield buffer.getvalue().encode()
            buffer.seek(0)
            buffer.truncate()
    yield buffer.getvalue().encode()


def make_inert(cell: str) -> str:
    """The cell with an apostrophe wherever a spreadsheet would compute what follows."""
    return FORMULA.sub("'", cell)
