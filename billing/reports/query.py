"""The parameters of a spend report, read and checked."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from functools import cache
from zoneinfo import ZoneInfo, available_timezones

from billing.reports.period import UNITS, Period
from gateway.protocol.errors import BadRequest

#: Dimension → the column that has it; `tag`, `status` and units of time are computed.
COLUMNS: Mapping[str, str] = {
    "organization": "organization_id",
    "team": "team_id",
    "user": "user_id",
    "key": "key_id",
    "model_group": "model_group",
    "deployment": "deployment_id",
    "provider": "provider",
    "upstream_model": "upstream_model",
    "end_user": "end_user",
    "endpoint": "operation",
}
DIMENSIONS = (*UNITS, *COLUMNS, "tag", "status")
FORMATS = ("json", "csv")
#: Parts of the interface that no version serves yet.
LATER = ("application", "xlsx", "focus")
PARAMETERS = ("start_date", "end_date", "group_by", "tz", "format")
MAX_DIMENSIONS = 2
MAX_DAYS = 366
FIRST_YEAR, LAST_YEAR = 2000, 2100
SHOWN_CHARS = 60  # of a wrong value


@dataclass(frozen=True, slots=True)
class ReportQuery:
    period: Period
    group_by: tuple[str, ...]
    format: str = FORMATS[0]

    @classmethod
    def read(cls, fields: Mapping[str, str]) -> "ReportQuery":
        """From the query parameters that are not empty. Raises BadRequest with `param`."""
        start, end = _read_day(fields, "start_date"), _read_day(fields, "end_date")
        if end < start:
            raise BadRequest("'end_date' must not be before 'start_date'.", param="end_date")
        if (end - start).days >= MAX_DAYS:
            raise BadRequest(f"A report spans at most {MAX_DAYS} days.", param="end_date")
        zone = _read_zone(fields.get("tz", "UTC"))
        return cls(Period(start, end, zone), _read_dimensions(fields), _read_format(fields))


def _read_day(fields: Mapping[str, str], name: str) -> date:
    text = fields.get(name, "")
    try:
        day = date.fromisoformat(text) if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text) else None
    except ValueError:
        day = None
    if day is None:
        raise BadRequest(f"{name!r} must be a day, YYYY-MM-DD.", param=name)
    if not FIRST_YEAR <= day.year <= LAST_YEAR:
        raise BadRequest(f"{name!r} must be in the years {FIRST_YEAR} to {LAST_YEAR}.", param=name)
    return day


def _read_zone(name: str) -> ZoneInfo:
    if name not in _zone_names():
        raise BadRequest("'tz' must be the name of a time zone, for example Europe/Berlin.", param="tz")
    return ZoneInfo(name)


@cache
def _zone_names() -> frozenset[str]:
    """It reads a folder of hundreds of files."""
    return frozenset(available_timezones())


def _read_dimensions(fields: Mapping[str, str]) -> tuple[str, ...]:
    names = tuple(name.strip() for name in fields.get("group_by", "").split(","))
    for name in names:
        if name not in DIMENSIONS:
            wrong = f"{name[:SHOWN_CHARS]!r} cannot be grouped by{' yet' if name in LATER else ''}. " if name else ""
            raise BadRequest(
                f"{wrong}'group_by' must be one or two of {', '.join(DIMENSIONS)}, with a comma between.",
                param="group_by",
            )
    if len(names) > MAX_DIMENSIONS:
        raise BadRequest(f"'group_by' must have at most {MAX_DIMENSIONS} dimensions.", param="group_by")
    if len(set(names)) < len(names):
        raise BadRequest("'group_by' must not have a dimension twice.", param="group_by")
    return names


def _read_format(fields: Mapping[str, str]) -> str:
    text = fields.get("format", FORMATS[0])
    if text not in FORMATS:
        wrong = f"The format {text[:SHOWN_CHARS]!r} is not served{' yet' if text in LATER else ''}. "
        raise BadRequest(f"{wrong}'format' must be one of {', '.join(FORMATS)}.", param="format")
    return text
