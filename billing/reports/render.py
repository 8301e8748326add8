"""The text of a report, in parts of a few rows: no part takes long to make, whatever the size of the report."""

import csv
import io
from collections.abc import Iterator

import orjson

from billing.reports.spend import MEASURES, Report

PART_ROWS = 200
JSON_TYPE = "application/json"
CSV_TYPE = "text/csv; charset=utf-8"
#: The first characters of a cell that spreadsheets take for a formula, the wide ones of East Asia among them.
FORMULA = tuple("=+-@\t\r\n＝＋－＠")


def render_json(report: Report) -> Iterator[bytes]:
    """`{"rows": [{dimension: member, …, measure: …}, …], "total": {measure: …}}`."""
    yield b'{"rows":['
    for first in range(0, len(report.rows), PART_ROWS):
        rows = [
            {**dict(zip(report.group_by, members, strict=True)), **sums.render()}
            for members, sums in report.rows[first : first + PART_ROWS]
        ]
        yield (b"," if first else b"") + orjson.dumps(rows)[1:-1]
    yield b'],"total":' + orjson.dumps(report.total.render()) + b"}"


def render_csv(report: Report) -> Iterator[bytes]:
    """A line of names, and a line for each row; without the total."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow([*report.group_by, *MEASURES])
    for place, (members, sums) in enumerate(report.rows, 1):
        writer.writerow([*map(make_inert, members), *sums.render().values()])
        if place % PART_ROWS == 0:
            yield buffer.getvalue().encode()
            buffer.seek(0)
            buffer.truncate()
    yield buffer.getvalue().encode()


def make_inert(cell: str) -> str:
    """The cell behind an apostrophe where a spreadsheet would compute it."""
    return f"'{cell}" if cell.startswith(FORMULA) else cell
