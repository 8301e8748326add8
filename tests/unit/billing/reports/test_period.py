"""Days of a zone begin and end where its clocks say, and each instant has one hour and one day."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.reports.period import DAY_S, HOUR_S, Period, name_unit

ZONES = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Asia/Kolkata",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "Africa/Casablanca",
    "America/Havana",
    "America/St_Johns",
]


def period(start: str, end: str, zone: str) -> Period:
    return Period(date.fromisoformat(start), date.fromisoformat(end), ZoneInfo(zone))


@pytest.mark.parametrize(
    ("day", "zone", "starts_at", "hours"),
    [
        ("2026-03-29", "Europe/Berlin", "2026-03-28T23:00+00:00", 23),
        ("2026-10-25", "Europe/Berlin", "2026-10-24T22:00+00:00", 25),
        ("2026-03-08", "America/New_York", "2026-03-08T05:00+00:00", 23),
        ("2026-11-01", "America/New_York", "2026-11-01T04:00+00:00", 25),
        ("2026-06-01", "Asia/Kolkata", "2026-05-31T18:30+00:00", 24),
        ("2026-06-01", "Asia/Kathmandu", "2026-05-31T18:15+00:00", 24),
    ],
)
def test_a_day_has_the_hours_that_the_clocks_give_it(day: str, zone: str, starts_at: str, hours: int):
    one = period(day, day, zone)
    assert one.starts_at == datetime.fromisoformat(starts_at)
    assert one.ends_at - one.starts_at == timedelta(hours=hours)


def test_the_change_of_the_clock_is_found_to_the_second():
    berlin = period("2026-10-24", "2026-10-26", "Europe/Berlin")
    change = datetime(2026, 10, 25, 1, tzinfo=UTC)
    assert [offset for _, offset in berlin.find_offsets()] == [2 * HOUR_S, HOUR_S]
    assert berlin.find_offsets()[1][0] == change.timestamp()
    assert len(period("2026-01-01", "2026-12-31", "Africa/Casablanca").find_offsets()) >= 3
    assert len(period("2026-01-01", "2026-12-31", "Asia/Kathmandu").find_offsets()) == 1


def test_the_names_of_units():
    local = int(datetime(2026, 3, 1, 2, tzinfo=UTC).timestamp())  # a Sunday
    assert name_unit("hour", local, 2 * HOUR_S) == "2026-03-01T02:00:00+02:00"
    assert name_unit("hour", local, -12_600) == "2026-03-01T02:00:00-03:30"
    assert name_unit("day", local, 0) == "2026-03-01"
    assert name_unit("week", local, 0) == "2026-02-23"
    assert name_unit("month", local, 0) == "2026-03"


@given(
    zone=st.sampled_from(ZONES),
    start=st.dates(date(2020, 1, 1), date(2030, 1, 1)),
    days=st.integers(0, 365),
    part=st.floats(0, 1, exclude_max=True),
)
def test_the_offsets_agree_with_the_zone_at_every_instant(zone: str, start: date, days: int, part: float):
    some = Period(start, start + timedelta(days=days), ZoneInfo(zone))
    begin, end = int(some.starts_at.timestamp()), int(some.ends_at.timestamp())
    epoch = begin + int((end - begin) * part)
    offset = [offset for since, offset in some.find_offsets() if since <= epoch][-1]
    local = datetime.fromtimestamp(epoch, ZoneInfo(zone))
    unit = (epoch + offset) // DAY_S * DAY_S
    assert offset == local.utcoffset() / timedelta(seconds=1)  # type: ignore[operator]
    assert name_unit("day", unit, 0) == local.date().isoformat()
    assert some.start <= local.date() <= some.end
