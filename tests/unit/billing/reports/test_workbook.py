"""A workbook is read back by a spreadsheet library as it was meant: exact, and without a formula."""

import io
import zipfile
from datetime import date
from hashlib import sha256
from zoneinfo import ZoneInfo

import openpyxl
import pytest

from billing.pricing import COUNTS
from billing.reports.comparison import compare
from billing.reports.period import Period
from billing.reports.spend import COUNTERS, MEASURES, NOTHING, Report, Sums
from billing.reports.workbook import PART_ROWS, render_workbook

PERIOD = Period(date(2026, 11, 1), date(2026, 11, 30), ZoneInfo("Asia/Kathmandu"))
DEAR = Sums(123_456_789_012_345_678, (2,) * len(COUNTERS), (10**15, *range(1, len(COUNTS))))


def report_of(*members: str) -> Report:
    rows = [((member,), DEAR) for member in members]
    return Report(("end_user",), rows, sum((each for _, each in rows), NOTHING))


def read(report: Report) -> openpyxl.Workbook:
    return openpyxl.load_workbook(io.BytesIO(b"".join(render_workbook(report, PERIOD))))


def test_every_row_is_in_the_sheet_with_its_exact_amount():
    sheet = read(report_of("a", "b"))["Spend"]
    names, first, second = ([cell.value for cell in row] for row in sheet.iter_rows())
    assert names == ["end_user", "cost", "cost_exact", *MEASURES[1:], "cache_savings_exact"]
    row = dict(zip(names, first, strict=True))
    assert (row["end_user"], row["cost_exact"]) == ("a", "123456.789012345678")
    assert row["cost"] == 123456.789012345678
    assert row["requests"] == 2
    assert row[COUNTS[0]] == str(10**15)  # a number of a spreadsheet has 15 digits
    assert second[0] == "b"


def test_a_second_sheet_says_what_it_is():
    about = {row[0].value: row[1].value for row in read(report_of("a", "b"))["About"].iter_rows()}
    assert (about["first day"], about["last day"]) == ("2026-11-01", "2026-11-30")
    assert (about["time zone"], about["grouped by"], about["currency"]) == ("Asia/Kathmandu", "end_user", "USD")
    assert about["total requests"] == 4
    exact = [row[2].value for row in read(report_of("a", "b"))["About"].iter_rows() if row[0].value == "total cost"]
    assert exact == ["246913.578024691356"]


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", '=HYPERLINK("http://evil")', "＝1+1", "{=1}"])
def test_no_text_is_a_formula(text: str):
    cell = read(report_of(text))["Spend"]["A2"]
    assert cell.value == text
    assert cell.quotePrefix  # it stays a text when the cell is edited
    whole = b"".join(render_workbook(report_of(text), PERIOD))
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        assert b"<f>" not in archive.read("xl/worksheets/sheet1.xml")
        assert b't="inlineStr"' in archive.read("xl/worksheets/sheet1.xml")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<b>&\"'", "<b>&\"'"),
        ("客 🚀", "客 🚀"),
        ("a\x00b\x1bc\ufffe", "a�b�c�"),
        (" both ends ", " both ends "),
        ("two\nlines", "two\nlines"),
        ("x" * 40_000, "x" * 32_767),
    ],
)
def test_any_name_is_a_text(text: str, shown: str):
    assert read(report_of(text))["Spend"]["A2"].value == shown


def test_a_name_like_an_escape_stays_itself():
    whole = b"".join(render_workbook(report_of("a_x0041_b"), PERIOD))
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        assert b">a_x005F_x0041_b<" in archive.read("xl/worksheets/sheet1.xml")


def test_it_is_made_in_parts_and_is_the_same_file_each_time():
    report = report_of(*(sha256(bytes([place % 256, place // 256])).hexdigest() for place in range(50 * PART_ROWS)))
    parts = list(render_workbook(report, PERIOD))
    assert max(map(len, parts)) < len(b"".join(parts)) / 3
    assert all(parts)
    assert b"".join(parts) == b"".join(render_workbook(report, PERIOD))
    with zipfile.ZipFile(io.BytesIO(b"".join(parts))) as archive:
        assert archive.testzip() is None
    assert read(report)["Spend"].max_row == 50 * PART_ROWS + 1


def test_a_comparison_has_its_columns():
    october = Period(date(2026, 10, 1), date(2026, 10, 31), ZoneInfo("UTC"))
    rows = [(("2026-10-30",), DEAR), (("2026-10-31",), DEAR)]
    now = Report(("day",), rows, DEAR + DEAR)
    before = Report(("day",), [(("2026-09-30",), DEAR)], DEAR)
    whole = b"".join(render_workbook(compare(now, before, october), october))
    sheet = openpyxl.load_workbook(io.BytesIO(whole))["Spend"]
    names, first, second = ([cell.value for cell in row] for row in sheet.iter_rows())
    assert names[-3:] == ["previous_cost", "previous_cost_exact", "previous_requests"]
    assert first[-2:] == ["123456.789012345678", 2]
    assert second[-3:] == [None, None, None]
    assert len(second) == len(names)
