"""A report as a workbook of two sheets, made in parts like the other texts: no file and no whole document in memory.

A workbook is a zip of XML files (ECMA-376, Office Open XML). Texts are inline strings, which no spreadsheet computes,
and are marked as quoted, so that they stay texts when the cell is edited. A spreadsheet keeps 15 digits of a
number: beside each amount, which can be summed there, stands its exact text.
"""

import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from xml.sax.saxutils import escape

from billing.reports.period import Period
from billing.reports.render import Table
from billing.reports.spend import AMOUNTS

XLSX_TYPE = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
#: Larger integers would lose digits as numbers.
MAX_NUMBER = 10**15
MAX_CELL_CHARS = 32_767  # of Excel
COMPRESSION = 1
PART_ROWS = 50  # to write and compress them takes two milliseconds
HEAD, TEXT, AMOUNT = 1, 2, 3  # places among the styles
#: Characters that XML cannot have, and an underscore that Excel would take for an escape of one.
NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
ESCAPE = re.compile(r"_(?=x[0-9A-Fa-f]{4}_)")

_XML = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'
_MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_RELATION = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006"
_TYPE = "application/vnd.openxmlformats-officedocument.spreadsheetml"
_SHEETS = ("Spend", "About")
_SHEET = (
    f'{_XML}<worksheet xmlns="{_MAIN}"><sheetViews><sheetView workbookViewId="0"><pane ySplit="1" topLeftCell="A2" '
    'activePane="bottomLeft" state="frozen"/></sheetView></sheetViews>'
    '<cols><col min="1" max="40" width="20" customWidth="1"/></cols><sheetData>'
)
_END = "</sheetData></worksheet>"
#: Path in the package → its text, of all that is the same in every workbook.
_FRAME: Mapping[str, str] = {
    "[Content_Types].xml": (
        f'{_XML}<Types xmlns="{_PACKAGE}/content-types">'
        '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        '<Default Extension="xml" ContentType="application/xml"/>'
        f'<Override PartName="/xl/workbook.xml" ContentType="{_TYPE}.sheet.main+xml"/>'
        f'<Override PartName="/xl/styles.xml" ContentType="{_TYPE}.styles+xml"/>'
        f'<Override PartName="/xl/worksheets/sheet1.xml" ContentType="{_TYPE}.worksheet+xml"/>'
        f'<Override PartName="/xl/worksheets/sheet2.xml" ContentType="{_TYPE}.worksheet+xml"/></Types>'
    ),
    "_rels/.rels": (
        f'{_XML}<Relationships xmlns="{_PACKAGE}/relationships"><Relationship Id="rId1" '
        f'Type="{_RELATION}/officeDocument" Target="xl/workbook.xml"/></Relationships>'
    ),
    "xl/workbook.xml": (
        f'{_XML}<workbook xmlns="{_MAIN}" xmlns:r="{_RELATION}"><sheets>'
        + "".join(
            f'<sheet name="{name}" sheetId="{place}" r:id="rId{place}"/>' for place, name in enumerate(_SHEETS, 1)
        )
        + "</sheets></workbook>"
    ),
    "xl/_rels/workbook.xml.rels": (
        f'{_XML}<Relationships xmlns="{_PACKAGE}/relationships">'
        f'<Relationship Id="rId1" Type="{_RELATION}/worksheet" Target="worksheets/sheet1.xml"/>'
        f'<Relationship Id="rId2" Type="{_RELATION}/worksheet" Target="worksheets/sheet2.xml"/>'
        f'<Relationship Id="rId3" Type="{_RELATION}/styles" Target="styles.xml"/></Relationships>'
    ),
    "xl/styles.xml": (
        f'{_XML}<styleSheet xmlns="{_MAIN}"><numFmts count="1"><numFmt numFmtId="164" formatCode="0.000000000000"/>'
        '</numFmts><fonts count="2"><font><sz val="11"/><name val="Calibri"/></font>'
        '<font><b/><sz val="11"/><name val="Calibri"/></font></fonts>'
        '<fills count="2"><fill><patternFill patternType="none"/></fill>'
        '<fill><patternFill patternType="gray125"/></fill></fills>'
        '<borders count="1"><border><left/><right/><top/><bottom/><diagonal/></border></borders>'
        '<cellStyleXfs count="1"><xf numFmtId="0" fontId="0" fillId="0" borderId="0"/></cellStyleXfs>'
        '<cellXfs count="4"><xf numFmtId="0" fontId="0" fillId="0" borderId="0" xfId="0"/>'
        '<xf numFmtId="0" fontId="1" fillId="0" borderId="0" xfId="0" applyFont="1"/>'
        '<xf numFmtId="49" fontId="0" fillId="0" borderId="0" xfId="0" quotePrefix="1" applyNumberFormat="1"/>'
        '<xf numFmtId="164" fontId="0" fillId="0" borderId="0" xfId="0" applyNumberFormat="1"/></cellXfs>'
        '<cellStyles count="1"><cellStyle name="Normal" xfId="0" builtinId="0"/></cellStyles></styleSheet>'
    ),
}


class _Sink:
    """The bytes that the zip has written since they were taken. It cannot seek, so the zip never looks back."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: bytes, /) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass

    def take(self) -> bytes:
        taken = b"".join(self._parts)
        self._parts.clear()
        return taken


def render_workbook(report: Table, period: Period) -> Iterator[bytes]:
    """A sheet with a row for each row of the report, and one that says of what period it is, with the total."""
    sink = _Sink()
    files: dict[str, Iterator[str]] = {path: iter([text]) for path, text in _FRAME.items()}
    for place, rows in enumerate((_spend_rows(report), _about_rows(report, period)), 1):
        files[f"xl/worksheets/sheet{place}.xml"] = _join(chain([_SHEET], rows, [_END]))
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED, compresslevel=COMPRESSION) as archive:
        for path, texts in files.items():
            with archive.open(path, "w") as file:
                for text in texts:
                    file.write(text.encode())
                    if part := sink.take():  # the compressor holds some back
                        yield part
    yield sink.take()


def _join(texts: Iterator[str]) -> Iterator[str]:
    """Parts of PART_ROWS rows."""
    part: list[str] = []
    for text in texts:
        part.append(text)
        if len(part) == PART_ROWS:
            yield "".join(part)
            part = []
    yield "".join(part)


def _spend_rows(report: Table) -> Iterator[str]:
    measures = [name for measure in report.total.render(report.measures) for name in _names_of(measure)]
    yield _write_row([_write_text(name, HEAD) for name in (*report.group_by, *measures)])
    for members, sums in report.rows:
        cells = [_write_text(member) for member in members]
        for name, value in sums.render(report.measures).items():
            cells += _write_value(name, value)
        yield _write_row(cells)


def _names_of(name: str) -> Sequence[str]:
    return (name, f"{name}_exact") if _is_amount(name) else (name,)


def _is_amount(name: str) -> bool:
    return name.removeprefix("previous_") in AMOUNTS


def _about_rows(report: Table, period: Period) -> Iterator[str]:
    facts = {
        "first day": str(period.start),
        "last day": str(period.end),
        "time zone": period.zone.key,
        "grouped by": ", ".join(report.group_by),
        "currency": "USD",
    }
    yield _write_row([_write_text("about", HEAD), _write_text("value", HEAD), _write_text("exact", HEAD)])
    for name, fact in facts.items():
        yield _write_row([_write_text(name), _write_text(fact)])
    for name, value in report.total.render(report.measures).items():
        yield _write_row([_write_text(f"total {name}"), *_write_value(name, value)])


def _write_row(cells: Sequence[str]) -> str:
    return f"<row>{''.join(cells)}</row>"


def _write_value(name: str, value: str | int | None) -> Sequence[str]:
    """The cells of a measure: two of an amount, the number and its exact text, also where it is unknown."""
    if value is None:
        return ("<c/>",) * len(_names_of(name))
    if isinstance(value, str):
        return f'<c s="{AMOUNT}"><v>{value}</v></c>', _write_text(value)
    return (f"<c><v>{value}</v></c>" if abs(value) < MAX_NUMBER else _write_text(str(value)),)


def _write_text(text: str, style: int = TEXT) -> str:
    clean = ESCAPE.sub("_x005F_", NOT_XML.sub("�", text[:MAX_CELL_CHARS]))
    return f'<c t="inlineStr" s="{style}"><is><t xml:space="preserve">{escape(clean)}</t></is></c>'
