"""When a schedule is due: each of its days once, in its zone, whatever the clock does there."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from billing.report_schedules.periods import PERIODS
from billing.report_schedules.timing import Timing

BERLIN = ZoneInfo("Europe/Berlin")


def instants(timing: Timing, start: str, count: int) -> list[str]:
    """The next ones, one after the other, in UTC."""
    found, after = [], datetime.fromisoformat(start).replace(tzinfo=UTC)
    for _ in range(count):
        after = timing.find_next(after)
        found.append(f"{after:%m-%d %H:%M}")
    return found


def test_a_day_is_due_at_the_hour_of_its_zone_before_and_after_a_change_of_the_clock() -> None:
    assert instants(Timing(8, BERLIN), "2026-03-27T12:00", 3) == ["03-28 07:00", "03-29 06:00", "03-30 06:00"]
    assert instants(Timing(8, BERLIN), "2026-10-23T12:00", 3) == ["10-24 06:00", "10-25 07:00", "10-26 07:00"]


def test_an_hour_that_the_clock_skips_is_the_next_one_and_one_that_comes_twice_is_once() -> None:
    assert instants(Timing(2, BERLIN), "2026-03-28T12:00", 2) == ["03-29 01:00", "03-30 00:00"]
    assert instants(Timing(2, BERLIN), "2026-10-24T12:00", 2) == ["10-25 00:00", "10-26 01:00"]


def test_a_midnight_and_a_whole_day_that_the_clock_skips() -> None:
    cairo, apia = ZoneInfo("Africa/Cairo"), ZoneInfo("Pacific/Apia")
    assert instants(Timing(0, cairo), "2026-04-23T00:00", 2) == ["04-23 22:00", "04-24 21:00"]
    # Apia had no 30 December 2011: its hour is that of the 31st, which comes once
    assert instants(Timing(8, apia), "2011-12-29T12:00", 3) == ["12-29 18:00", "12-30 18:00", "12-31 18:00"]


def test_a_week_is_due_on_its_weekday() -> None:
    timing = Timing(23, ZoneInfo("America/New_York"), weekday="sunday")
    assert instants(timing, "2026-10-26T00:00", 3) == ["10-26 03:00", "11-02 04:00", "11-09 04:00"]


@pytest.mark.parametrize(
    ("day", "expected"),
    [
        (31, ["01-31 09:00", "02-28 09:00", "03-31 09:00", "04-30 09:00", "05-31 09:00"]),
        (29, ["01-29 09:00", "02-28 09:00", "03-29 09:00", "04-29 09:00", "05-29 09:00"]),
        (1, ["02-01 09:00", "03-01 09:00", "04-01 09:00", "05-01 09:00", "06-01 09:00"]),
    ],
)
def test_a_day_that_a_month_does_not_have_is_its_last_one(day: int, expected: list[str]) -> None:
    assert instants(Timing(9, ZoneInfo("UTC"), day=day), "2026-01-15T00:00", 5) == expected


def test_the_end_of_february_of_a_leap_year() -> None:
    assert instants(Timing(9, ZoneInfo("UTC"), day=31), "2028-02-01T00:00", 1) == ["02-29 09:00"]


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "Pacific/Kiritimati", "America/St_Johns", "Pacific/Apia"])
@pytest.mark.parametrize(("weekday", "day"), [("", None), ("wednesday", None), ("", 31), ("", 1)])
@pytest.mark.parametrize("hour", [0, 2, 23])
def test_the_last_instant_of_any_moment_is_the_one_before_the_next(
    zone: str, weekday: str, day: int | None, hour: int
) -> None:
    timing = Timing(hour, ZoneInfo(zone), weekday, day)
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    for _ in range(400):
        last, following = timing.find_last(moment), timing.find_next(moment)
        assert last <= moment < following
        assert timing.find_next(last) == following
        assert timing.find_last(following) == following
        moment += timedelta(hours=23, minutes=17)


def test_the_days_of_the_periods() -> None:
    today = date(2026, 3, 1)  # a Sunday
    assert {name: find(today) for name, find in PERIODS.items()} == {
        "yesterday": (date(2026, 2, 28), date(2026, 2, 28)),
        "last_7_days": (date(2026, 2, 22), date(2026, 2, 28)),
        "last_30_days": (date(2026, 1, 30), date(2026, 2, 28)),
        "last_week": (date(2026, 2, 16), date(2026, 2, 22)),
        "last_month": (date(2026, 2, 1), date(2026, 2, 28)),
    }
