"""The windows of budgets follow the calendar of a time zone, without gap or overlap."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenants.budget_windows import ALL_TIME, BUCKETS, bucket_end, find_window, is_duration, rolling_length

#: Clocks that change by an hour, by half an hour, at midnight, and not at all; zones that are half an hour off.
ZONES = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/Havana",
    "Africa/Cairo",
    "Asia/Kolkata",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "Pacific/Chatham",
    "Atlantic/Azores",
]
DURATIONS = [
    "30s",
    "7m",
    "1h",
    "5h",
    "6h",
    "24h",
    "36h",
    "1d",
    "3d",
    "7d",
    "2w",
    "30d",
    "1mo",
    "3mo",
    "5mo",
    "1200mo",
    "36500d",
    "999999999s",
]
BERLIN = ZoneInfo("Europe/Berlin")


def at(text: str, zone: ZoneInfo = BERLIN) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=zone).astimezone(UTC)


@given(
    zone=st.sampled_from(ZONES),
    duration=st.sampled_from(DURATIONS),
    now=st.datetimes(datetime(2024, 1, 1), datetime(2034, 1, 1), timezones=st.just(UTC)),
)
def test_windows_follow_each_other_without_gap_or_overlap(zone: str, duration: str, now: datetime) -> None:
    span = find_window(duration, ZoneInfo(zone), now)
    assert span.ends_at is not None
    assert span.starts_at <= now < span.ends_at
    tick = timedelta(microseconds=1)
    for instant in (span.starts_at, span.ends_at - tick):
        assert find_window(duration, ZoneInfo(zone), instant) == span
    assert find_window(duration, ZoneInfo(zone), span.ends_at).starts_at == span.ends_at
    assert find_window(duration, ZoneInfo(zone), span.starts_at - tick).ends_at == span.starts_at


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("duration", ["1h", "6h", "1d"])
def test_a_year_of_windows_has_no_gap(zone: str, duration: str) -> None:
    now, end = datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)
    while now < end:
        span = find_window(duration, ZoneInfo(zone), now)
        assert span.ends_at is not None
        assert span.starts_at <= now < span.ends_at
        assert find_window(duration, ZoneInfo(zone), span.ends_at).starts_at == span.ends_at
        now = span.ends_at


@pytest.mark.parametrize(
    ("duration", "now", "starts_at", "ends_at"),
    [
        ("1d", "2026-03-29T12:00", "2026-03-29T00:00", "2026-03-30T00:00"),  # 23 hours
        ("1d", "2026-10-25T12:00", "2026-10-25T00:00", "2026-10-26T00:00"),  # 25 hours
        ("24h", "2026-10-25T12:00", "2026-10-25T00:00", "2026-10-26T00:00"),
        ("7d", "2026-11-21T12:00", "2026-11-16T00:00", "2026-11-23T00:00"),  # from Monday
        ("1w", "2026-11-21T12:00", "2026-11-16T00:00", "2026-11-23T00:00"),
        ("30d", "2026-02-28T23:59", "2026-02-01T00:00", "2026-03-01T00:00"),
        ("1mo", "2026-12-31T23:59", "2026-12-01T00:00", "2027-01-01T00:00"),
        ("3mo", "2026-11-21T12:00", "2026-10-01T00:00", "2027-01-01T00:00"),
        ("6h", "2026-11-21T13:30", "2026-11-21T12:00", "2026-11-21T18:00"),
        ("1h", "2026-11-21T13:30", "2026-11-21T13:00", "2026-11-21T14:00"),
        ("30s", "2026-11-21T13:30:45", "2026-11-21T13:30:30", "2026-11-21T13:31:00"),
    ],
)
def test_windows_are_aligned_to_the_calendar(duration: str, now: str, starts_at: str, ends_at: str) -> None:
    assert find_window(duration, BERLIN, at(now)) == (at(starts_at), at(ends_at))


def test_the_hour_that_comes_twice_is_two_windows() -> None:
    first = find_window("1h", BERLIN, datetime(2026, 10, 25, 0, 30, tzinfo=UTC))  # 02:30 of summer time
    second = find_window("1h", BERLIN, datetime(2026, 10, 25, 1, 30, tzinfo=UTC))  # 02:30 of winter time
    assert first.ends_at == second.starts_at == datetime(2026, 10, 25, 1, tzinfo=UTC)


def test_hours_of_a_zone_that_is_half_an_hour_off_begin_on_its_own_clock() -> None:
    span = find_window("1h", ZoneInfo("Asia/Kolkata"), datetime(2026, 11, 21, 12, 45, tzinfo=UTC))
    assert span.starts_at == datetime(2026, 11, 21, 12, 30, tzinfo=UTC)


def test_without_a_duration_the_window_is_all_time() -> None:
    assert find_window("", BERLIN, datetime.now(UTC)) == ALL_TIME


@pytest.mark.parametrize("text", ["0d", "1", "d", "1y", "-1d", "1.5h", "1d ", "1000000000000d", "1201mo"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    assert not is_duration(text)
    with pytest.raises(ValueError, match="is no duration"):
        find_window(text, BERLIN, datetime.now(UTC))


@given(
    minutes=st.integers(1, 366 * 24 * 60),
    now=st.datetimes(datetime(2024, 1, 1), datetime(2034, 1, 1), timezones=st.just(UTC)),
)
def test_a_rolling_window_is_one_for_all_time_that_tells_its_length(minutes: int, now: datetime) -> None:
    span, length = find_window(f"rolling {minutes}m", BERLIN, now), timedelta(minutes=minutes)
    assert rolling_length(*span) == length
    assert rolling_length(*ALL_TIME) is None
    assert rolling_length(*find_window("1h", BERLIN, now)) is None
    end = bucket_end(length, now)
    assert now < end <= now + length / BUCKETS
    assert bucket_end(length, end) == end + length / BUCKETS
