"""The instants at which a schedule is due: an hour of the clock of its zone, on its days. Pure.

Each day has one instant: an hour that the clock skips is the one after it, and of an hour that comes twice the first
counts. So no change of the clock makes a report come twice or not at all.
"""

from calendar import monthrange
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
ONE_DAY = timedelta(days=1)
#: The longest time between two days of a schedule, and a day of reserve on either side for the zone.
MOST_DAYS = 33


@dataclass(frozen=True, slots=True)
class Timing:
    """Daily without `weekday` and `day`. A `day` that a month does not have is its last one."""

    hour: int
    zone: ZoneInfo
    weekday: str = ""
    day: int | None = None

    def find_next(self, after: datetime) -> datetime:
        """The first instant after this one, in UTC."""
        start = after.astimezone(self.zone).date() - ONE_DAY
        return min(instant for instant in self._find_instants(start) if instant > after)

    def find_last(self, at: datetime) -> datetime:
        """The last instant up to this one, in UTC."""
        start = at.astimezone(self.zone).date() - ONE_DAY * (MOST_DAYS - 1)
        return max(instant for instant in self._find_instants(start) if instant <= at)

    def _find_instants(self, start: date) -> Iterator[datetime]:
        for number in range(MOST_DAYS + 1):
            day = start + ONE_DAY * number
            if self._has(day):
                yield datetime.combine(day, time(self.hour), tzinfo=self.zone).astimezone(UTC)

    def _has(self, day: date) -> bool:
        if self.day is not None:
            return day.day == min(self.day, monthrange(day.year, day.month)[1])
        return not self.weekday or day.weekday() == WEEKDAYS.index(self.weekday)
