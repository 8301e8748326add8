"""The parameters of a spend report, read and checked."""

import re
from collections.abc import Mapping, Sequence
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
    "application": "application",
    "endpoint": "operation",
}
DIMENSIONS = (*UNITS, *COLUMNS, "tag", "status")
FORMATS = ("json", "csv", "xlsx", "focus")
#: What a period can be compared to.
COMPARISONS = ("previous",)
LATENCY, MARGIN = "latency", "margin"
#: Groups of measures that a report has only if they are asked for.
MORE_MEASURES = (LATENCY, MARGIN)
#: Dimension → why a row of FOCUS cannot have it.
NOT_IN_FOCUS: Mapping[str, str] = {
    "tag": "a call with two tags would be charged twice",
    "week": "a week may lie in two billing periods",
}
STATUSES = ("success", "failure")
#: The dimensions that a report can have one member of.
FILTERS = (*COLUMNS, "tag", "status")
MAX_MEMBER_CHARS = 255
PARAMETERS = (*FILTERS, "start_date", "end_date", "group_by", "tz", "format", "compare", "measures")
MAX_DIMENSIONS = 2
MAX_DAYS = 366
FIRST_YEAR, LAST_YEAR = 2000, 2100
SHOWN_CHARS = 60  # of a wrong value


@dataclass(frozen=True, slots=True)
class ReportQuery:
    period: Period
    group_by: tuple[str, ...]
    format: str = FORMATS[0]
    compare: str = ""  # one of COMPARISONS
    measures: tuple[str, ...] = ()  # of MORE_MEASURES
    filters: tuple[tuple[str, str], ...] = ()  # (one of FILTERS, the member whose rows the report is of)

    @classmethod
    def read(cls, fields: Mapping[str, str]) -> "ReportQuery":
        """From the query parameters that are not empty. Raises BadRequest with `param`."""
        start, end = read_days(fields)
        zone = read_zone(fields.get("tz", "UTC"))
        names, text, compare = _read_dimensions(fields), _read_format(fields), _read_comparison(fields)
        if text == "focus":
            _check_focus(names, compare)
        return cls(Period(start, end, zone), names, text, compare, _read_measures(fields), _read_filters(fields))


def read_days(fields: Mapping[str, str]) -> tuple[date, date]:
    """The first and the last day of a report. Raises BadRequest."""
    start, end = _read_day(fields, "start_date"), _read_day(fields, "end_date")
    if end < start:
        raise BadRequest("'end_date' must not be before 'start_date'.", param="end_date")
    if (end - start).days >= MAX_DAYS:
        raise BadRequest(f"A report spans at most {MAX_DAYS} days.", param="end_date")
    return start, end


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


def read_zone(name: str) -> ZoneInfo:
    """Raises BadRequest."""
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
            wrong = f"{name[:SHOWN_CHARS]!r} cannot be grouped by. " if name else ""
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
        wrong = f"The format {text[:SHOWN_CHARS]!r} is not served. "
        raise BadRequest(f"{wrong}'format' must be one of {', '.join(FORMATS)}.", param="format")
    return text


def _read_comparison(fields: Mapping[str, str]) -> str:
    text = fields.get("compare", "")
    if text and text not in COMPARISONS:
        raise BadRequest(f"'compare' must be {' or '.join(COMPARISONS)}.", param="compare")
    return text


def _read_measures(fields: Mapping[str, str]) -> tuple[str, ...]:
    names = {name.strip() for name in fields.get("measures", "").split(",")} - {""}
    if wrong := sorted(names.difference(MORE_MEASURES)):
        raise BadRequest(
            f"There is no measure {wrong[0][:SHOWN_CHARS]!r}. 'measures' may have {', '.join(MORE_MEASURES)}, with a "
            "comma between; a report has the others anyway.",
            param="measures",
        )
    return tuple(name for name in MORE_MEASURES if name in names)


def _read_filters(fields: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    filters = tuple((name, fields[name]) for name in FILTERS if fields.get(name))
    for name, member in filters:
        if len(member) > MAX_MEMBER_CHARS or "\0" in member:
            raise BadRequest(f"{name!r} must be one {name} of at most {MAX_MEMBER_CHARS} characters.", param=name)
        if name == "status" and member not in STATUSES:
            raise BadRequest(f"'status' must be {' or '.join(STATUSES)}.", param=name)
    return filters


def _check_focus(names: Sequence[str], compare: str) -> None:
    """A row of FOCUS is a charge: in one month, once, and of this period alone."""
    wrong = next((name for name in names if name in NOT_IN_FOCUS), None)
    if wrong is not None:
        raise BadRequest(f"The format 'focus' cannot be grouped by {wrong!r}: {NOT_IN_FOCUS[wrong]}.", param="group_by")
    if sum(name in UNITS for name in names) > 1:
        raise BadRequest("The format 'focus' has one charge period: group by one unit of time.", param="group_by")
    if compare:
        raise BadRequest("The format 'focus' has no comparison. Leave 'compare' out.", param="compare")
