"""The days that a scheduled report tells of, seen from the day on which it is due. All of them are over by then."""

from collections.abc import Callable, Mapping
from datetime import date, timedelta

ONE_DAY = timedelta(days=1)
WEEK = 7 * ONE_DAY


def _last(days: int) -> Callable[[date], tuple[date, date]]:
    return lambda today: (today - days * ONE_DAY, today - ONE_DAY)


def _last_week(today: date) -> tuple[date, date]:
    monday = today - ONE_DAY * today.weekday()
    return monday - WEEK, monday - ONE_DAY


def _last_month(today: date) -> tuple[date, date]:
    end = today.replace(day=1) - ONE_DAY
    return end.replace(day=1), end


#: Name → the first and the last day. A week begins on Monday.
PERIODS: Mapping[str, Callable[[date], tuple[date, date]]] = {
    "yesterday": _last(1),
    "last_7_days": _last(7),
    "last_30_days": _last(30),
    "last_week": _last_week,
    "last_month": _last_month,
}
