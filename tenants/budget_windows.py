"""The windows of budgets: calendar-aligned as LiteLLM's `budget_duration`, in the organization's time zone, or rolling.
Pure.

Source: LiteLLM's litellm_core_utils/duration_parser.py: days begin at midnight, 7d on Monday, 30d and months on the
first, hours, minutes and seconds are counted from midnight. A window is a pair of instants, so a day on which the
clocks change has 23 or 25 hours; windows shorter than a day keep their length on it, except the last one, which ends at
midnight as on every day. The windows of a duration follow each other without gap or overlap.

`rolling 30d` is the span of 30 days that ends now: one window without an end. The cost of a call counts from the call's
begin until 30 days after the end of the bucket that holds it, a sixtieth of the span.
"""

import re
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

_DURATION = re.compile(r"([1-9][0-9]{0,8})(mo|s|m|h|d|w)")
_SECONDS = {"s": 1, "m": 60, "h": 3600}
#: The largest counts: a window ends in a year of the calendar.
_MOST = {"s": 10**9, "m": 10**7, "h": 10**6, "d": 36_500, "w": 5200, "mo": 1200}
_DAY_S = 86_400
_EPOCH = datetime(1970, 1, 5, tzinfo=UTC)  # a Monday
_ROLLING = "rolling "
_SHORTEST_ROLLING, _LONGEST_ROLLING = timedelta(minutes=1), timedelta(days=366)
BUCKETS = 60  # of a rolling window


class Span(NamedTuple):
    """From `starts_at` to before `ends_at`, both in UTC; without an end, for all time."""

    starts_at: datetime
    ends_at: datetime | None


#: The window of a budget without a duration.
ALL_TIME = Span(datetime(1970, 1, 1, tzinfo=UTC), None)


def is_duration(text: str) -> bool:
    """True for a number and a unit, s, m, h, d, w or mo, of at most about a century; or `rolling` and a number and a
    unit of at least a minute and at most 366 days."""
    if is_rolling(text):
        length = read_rolling(text)
        return length is not None and _SHORTEST_ROLLING <= length <= _LONGEST_ROLLING
    match = _DURATION.fullmatch(text)
    return match is not None and int(match[1]) <= _MOST[match[2]]


def is_rolling(text: str) -> bool:
    return text.startswith(_ROLLING)


def read_rolling(text: str) -> timedelta | None:
    """The length of a rolling window; None for another duration. A month has no length."""
    match = _DURATION.fullmatch(text.removeprefix(_ROLLING)) if is_rolling(text) else None
    if match is None or match[2] == "mo":
        return None
    seconds = _SECONDS.get(match[2]) or {"d": _DAY_S, "w": 7 * _DAY_S}[match[2]]
    return timedelta(seconds=int(match[1]) * seconds)


def rolling_length(starts_at: datetime, ends_at: datetime | None) -> timedelta | None:
    """The length of a window that is stored with these instants; None where it does not roll. The start of a rolling
    window tells its length, so that a budget whose length changes gets another window."""
    length = starts_at - ALL_TIME.starts_at
    return length if ends_at is None and length else None


def bucket_end(length: timedelta, instant: datetime) -> datetime:
    """The end of the bucket of a rolling window that holds the instant."""
    width = length / BUCKETS
    return ALL_TIME.starts_at + ((instant - ALL_TIME.starts_at) // width + 1) * width


def find_window(duration: str, zone: ZoneInfo, now: datetime) -> Span:
    """The window of this duration that holds `now`. Raises ValueError for what is no duration."""
    if not duration:
        return ALL_TIME
    if (length := read_rolling(duration)) is not None and is_duration(duration):
        return Span(ALL_TIME.starts_at + length, None)
    match = _DURATION.fullmatch(duration)
    if match is None or not is_duration(duration):
        raise ValueError(f"{duration!r} is no duration")
    count, unit = int(match[1]), match[2]
    if unit == "w":
        count, unit = 7 * count, "d"
    elif unit in _SECONDS and count * _SECONDS[unit] % _DAY_S == 0:
        count, unit = count * _SECONDS[unit] // _DAY_S, "d"
    local = now.astimezone(zone)
    if unit == "mo" or (unit == "d" and count == 30):
        count = count if unit == "mo" else 1
        first = (local.year * 12 + local.month - 1) // count * count
        return Span(_month(first, zone), _month(first + count, zone))
    day = local.date().toordinal() - _EPOCH.date().toordinal()
    if unit == "d":
        first = day // count * count
        return Span(_day(first, zone), _day(first + count, zone))
    width = timedelta(seconds=count * _SECONDS[unit])
    if width > timedelta(days=1):  # 36h: on no day's clock
        return _span_since(_EPOCH, width, now)
    span = _span_since(_day(day, zone), width, now)
    return Span(span.starts_at, min(span.starts_at + width, _day(day + 1, zone)))


def _span_since(origin: datetime, width: timedelta, now: datetime) -> Span:
    starts_at = origin + (now - origin) // width * width
    return Span(starts_at, starts_at + width)


def _day(number: int, zone: ZoneInfo) -> datetime:
    """The midnight that begins a day, counted from the epoch; where the clocks skip midnight, the instant they do."""
    date = _EPOCH.date() + timedelta(days=number)
    return datetime(date.year, date.month, date.day, tzinfo=zone).astimezone(UTC)


def _month(number: int, zone: ZoneInfo) -> datetime:
    """The midnight that begins a month, counted from year 0."""
    return datetime(number // 12, number % 12 + 1, 1, tzinfo=zone).astimezone(UTC)
