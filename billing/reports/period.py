"""Days of a time zone: the instants between which they lie, and the names of their hours, days, weeks and months.

A local time is the seconds since 1970 plus the zone's offset then. Between two changes of the clock the offset is one
number, so the database finds the local hour or day of a row by integers alone, exactly in every zone.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from zoneinfo import ZoneInfo

HOUR_S = 3600
DAY_S = 24 * HOUR_S
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Period:
    """The days from `start` to `end`, both included."""

    start: date
    end: date
    zone: ZoneInfo

    @property
    def starts_at(self) -> datetime:
        return _midnight(self.start, self.zone)

    @property
    def ends_at(self) -> datetime:
        """The first instant after the last day."""
        return _midnight(self.end + timedelta(days=1), self.zone)

    def find_starts(self, units: Sequence[str]) -> Iterator[int]:
        """The epochs at which a day, a week or a month of the units begins, in the period."""
        day = self.start
        while day <= self.end:
            is_start = {"day": True, "week": day.weekday() == 0, "month": day.day == 1}
            if any(is_start.get(unit, False) for unit in units):
                yield int(_midnight(day, self.zone).timestamp())
            day += timedelta(days=1)

    def find_offsets(self) -> list[tuple[int, int]]:
        """(epoch, offset from then on), in seconds, ascending; the first one is of the beginning."""
        begin, end = int(self.starts_at.timestamp()), int(self.ends_at.timestamp())
        offsets = [(begin, self._offset_at(begin))]
        for hour in range(begin, end, HOUR_S):
            later = min(hour + HOUR_S, end)
            if (offset := self._offset_at(later)) != offsets[-1][1]:
                offsets.append((self._find_change(hour, later), offset))
        return offsets

    def _offset_at(self, epoch: int) -> int:
        offset = datetime.fromtimestamp(epoch, self.zone).utcoffset()
        return int(offset.total_seconds()) if offset is not None else 0

    def _find_change(self, before: int, after: int) -> int:
        """The first second with another offset than at `before`."""
        old = self._offset_at(before)
        while after - before > 1:
            middle = (before + after) // 2
            before, after = (middle, after) if self._offset_at(middle) == old else (before, middle)
        return after


def _midnight(day: date, zone: ZoneInfo) -> datetime:
    """In UTC. A midnight that the clock skips is the instant of the change."""
    return datetime.combine(day, time.min, tzinfo=zone).astimezone(UTC)


def _name_hour(local: datetime, offset_s: int) -> str:
    return local.replace(tzinfo=timezone(timedelta(seconds=offset_s))).isoformat()


def _name_day(local: datetime, offset_s: int) -> str:
    return local.date().isoformat()


def _name_week(local: datetime, offset_s: int) -> str:
    return (local.date() - timedelta(days=local.weekday())).isoformat()


def _name_month(local: datetime, offset_s: int) -> str:
    return f"{local:%Y-%m}"


#: Unit of time → its name: an hour's begin with its offset, a day, the Monday of a week, a month.
UNITS: Mapping[str, Callable[[datetime, int], str]] = {
    "hour": _name_hour,
    "day": _name_day,
    "week": _name_week,
    "month": _name_month,
}


def name_unit(unit: str, local_s: int, offset_s: int) -> str:
    """The name of the unit that a local time is in."""
    return UNITS[unit](_EPOCH + timedelta(seconds=local_s), offset_s)
