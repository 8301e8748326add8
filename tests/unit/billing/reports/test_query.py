"""A report's parameters: what cannot be is refused with its name."""

from datetime import date

import pytest

from billing.reports.query import DIMENSIONS, ReportQuery
from gateway.protocol.errors import BadRequest

GOOD = {"start_date": "2026-11-01", "end_date": "2026-11-30", "group_by": "day,team", "tz": "Asia/Kathmandu"}


def test_parameters_are_read():
    query = ReportQuery.read(GOOD)
    assert (query.period.start, query.period.end) == (date(2026, 11, 1), date(2026, 11, 30))
    assert (query.period.zone.key, query.group_by, query.format) == ("Asia/Kathmandu", ("day", "team"), "json")
    assert query.compare == ""
    assert ReportQuery.read({**GOOD, "tz": "UTC", "format": "csv"}).format == "csv"
    assert ReportQuery.read({**GOOD, "format": "focus"}).format == "focus"
    assert ReportQuery.read({**GOOD, "format": "xlsx", "compare": "previous"}).compare == "previous"


@pytest.mark.parametrize("name", DIMENSIONS)
def test_every_dimension_can_be_asked_for(name: str):
    assert ReportQuery.read({**GOOD, "group_by": name}).group_by == (name,)


@pytest.mark.parametrize(
    ("change", "param", "text"),
    [
        ({"start_date": ""}, "start_date", "YYYY-MM-DD"),
        ({"start_date": "2026-02-30"}, "start_date", "YYYY-MM-DD"),
        ({"start_date": "20261101"}, "start_date", "YYYY-MM-DD"),
        ({"start_date": "２０２６-11-01"}, "start_date", "YYYY-MM-DD"),
        ({"end_date": "2026-11-01T00:00:00"}, "end_date", "YYYY-MM-DD"),
        ({"start_date": "0001-01-01"}, "start_date", "2000"),
        ({"end_date": "9999-12-31"}, "end_date", "2100"),
        ({"end_date": "2026-10-31"}, "end_date", "before"),
        ({"end_date": "2027-11-02"}, "end_date", "366"),
        ({"tz": "../../etc/passwd"}, "tz", "time zone"),
        ({"tz": "/etc/localtime"}, "tz", "time zone"),
        ({"tz": "Europe"}, "tz", "time zone"),
        ({"tz": "CEST+2"}, "tz", "time zone"),
        ({"group_by": ""}, "group_by", "one or two of hour"),
        ({"group_by": "day,"}, "group_by", "one or two of hour"),
        ({"group_by": "day,team,user"}, "group_by", "at most 2"),
        ({"group_by": "team,team"}, "group_by", "twice"),
        ({"group_by": "id; DROP TABLE"}, "group_by", "cannot be grouped by"),
        ({"format": "xml"}, "format", "json, csv, xlsx, focus"),
        ({"compare": "next"}, "compare", "previous"),
        ({"format": "focus", "compare": "previous"}, "compare", "no comparison"),
        ({"format": "focus", "group_by": "tag"}, "group_by", "charged twice"),
        ({"format": "focus", "group_by": "week,team"}, "group_by", "two billing periods"),
        ({"format": "focus", "group_by": "day,hour"}, "group_by", "one unit of time"),
    ],
)
def test_what_cannot_be_is_refused_with_its_name(change: dict[str, str], param: str, text: str):
    with pytest.raises(BadRequest, match=text) as refusal:
        ReportQuery.read(GOOD | change)
    assert refusal.value.param == param


def test_a_leap_year_is_one_report():
    query = ReportQuery.read({**GOOD, "start_date": "2028-01-01", "end_date": "2028-12-31"})
    assert (query.period.ends_at - query.period.starts_at).days == 366
