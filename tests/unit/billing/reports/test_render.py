"""The text of a report is whole, exact and inert."""

import csv
import io
import json

import pytest

from billing.pricing import COUNTS
from billing.reports.render import PART_ROWS, make_inert, render_csv, render_json
from billing.reports.spend import COUNTERS, MEASURES, NOTHING, Report, Sums, read_tags

ONE = Sums(1, (1,) * len(COUNTERS), tuple(range(len(COUNTS))))


def report_of(count: int) -> Report:
    rows = [((f"2026-11-{place:05d}", '=1+1, "x"\n'), ONE) for place in range(count)]
    return Report(("day", "tag"), rows, sum((sums for _, sums in rows), NOTHING))


@pytest.mark.parametrize("count", [0, 1, PART_ROWS, 2 * PART_ROWS + 1])
def test_json_and_csv_have_the_same_rows(count: int):
    report = report_of(count)
    answer = json.loads(b"".join(render_json(report)))
    lines = list(csv.reader(io.StringIO(b"".join(render_csv(report)).decode(), newline="")))
    assert lines[0] == ["day", "tag", *MEASURES]
    assert len(answer["rows"]) == len(lines) - 1 == count
    for row, line in zip(answer["rows"], lines[1:], strict=True):
        assert [row["day"], f"'{row['tag']}", *(str(row[name]) for name in MEASURES)] == line
    assert answer["total"]["cost"] == f"0.{count:012d}"
    assert answer["total"]["requests"] == count


def test_cache_writes_are_both_kinds():
    sums = ONE.render()
    assert sums["cost"] == "0.000000000001"
    five, hour = COUNTS.index("cache_write_5m_tokens"), COUNTS.index("cache_write_1h_tokens")
    assert sums["cache_write_tokens"] == five + hour


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r1", "\n1", "＝1+1"])
def test_a_cell_that_a_spreadsheet_would_compute_is_inert(cell: str):
    assert make_inert(cell) == f"'{cell}"


@pytest.mark.parametrize(
    ("cell", "inert"),
    [("a;=1+1;b", "a;'=1+1;b"), ("a;;@b", "a;;'@b"), ("a\n-1", "a\n'-1"), ("=1;=2", "'=1;'=2"), ("\n=1", "'\n'=1")],
)
def test_a_spreadsheet_that_splits_at_semicolons_computes_nothing_either(cell: str, inert: str):
    assert make_inert(cell) == inert


@pytest.mark.parametrize("cell", ["", "gpt-4o", "a=b", "2026-11-01", "a; b", "a,=b"])
def test_any_other_cell_stays(cell: str):
    assert make_inert(cell) == cell


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        ('["a", "b", "a"]', ["a", "b"]),
        ("[]", [""]),
        ("", [""]),
        ("{}", [""]),
        ("nonsense", [""]),
        ('["\\ud800"]', ["?"]),
        ("[1]", ["1"]),
    ],
)
def test_a_row_is_under_each_of_its_tags_once(text: str, tags: list[str]):
    assert read_tags(text) == tags
