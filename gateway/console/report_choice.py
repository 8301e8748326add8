"""The choices on the page of the spend report: the period, its time zone, what to group by, the order, the comparison.

An address of the page has the parameters of `GET /api/reports/spend`, and `period` in the place of both dates.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from django.conf import settings
from django.http import HttpRequest
from django.utils import timezone
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from billing.reports.period import UNITS
from billing.reports.query import ReportQuery
from gateway.protocol.errors import BadRequest
from tenants.models import Organization
from tenants.session_rights import caller_of

MAX_PAGES = 500
DEFAULT_PERIOD = "30d"
DEFAULT_GROUP = "model_group"
COMPARISONS = {"previous": _("Period before"), "none": _("Nothing")}
#: `measures` → its name. Those with the margin are for the platform's roles.
COLUMNS = {
    "": _("The usual ones"),
    "latency": _("Latency too"),
    "margin": _("Provider cost too"),
    "latency,margin": _("All"),
}
SORTS = ("cost", "requests", "tokens", "name")
#: The parameters of a report; the others are of the page alone.
OF_REPORT = ("start_date", "end_date", "group_by", "tz", "measures")
MAX_CHARS = 100  # of a parameter; the longest is the name of a time zone


def _last(days: int) -> Callable[[date], tuple[date, date]]:
    return lambda today: (today - timedelta(days=days - 1), today)


def _this_month(today: date) -> tuple[date, date]:
    return today.replace(day=1), today


def _last_month(today: date) -> tuple[date, date]:
    end = today.replace(day=1) - timedelta(days=1)
    return end.replace(day=1), end


def _yesterday(today: date) -> tuple[date, date]:
    return today - timedelta(days=1), today - timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Preset:
    title: Promise
    find: Callable[[date], tuple[date, date]]


PRESETS: Mapping[str, Preset] = {
    "today": Preset(_("Today"), _last(1)),
    "yesterday": Preset(_("Yesterday"), _yesterday),
    "7d": Preset(_("7 days"), _last(7)),
    "30d": Preset(_("30 days"), _last(30)),
    "90d": Preset(_("90 days"), _last(90)),
    "month": Preset(_("This month"), _this_month),
    "last_month": Preset(_("Last month"), _last_month),
}


@dataclass(frozen=True, slots=True)
class ReportChoice:
    """`fields`: the parameters of the page, with its defaults. `preset`: empty for a period of typed dates."""

    fields: Mapping[str, str]
    query: ReportQuery
    preset: str = ""
    has_comparison: bool = True
    sort: str = SORTS[0]
    page: int = 1
    own: Mapping[str, str] = field(default_factory=dict)  # the parameters that the address had

    @classmethod
    def read(cls, fields: Mapping[str, str], own: Mapping[str, str]) -> "ReportChoice":
        """Raises BadRequest with `param`."""
        query = ReportQuery.read({name: fields[name] for name in OF_REPORT})
        page = fields["page"]
        if not page.isascii() or not page.isdigit() or not 1 <= int(page) <= MAX_PAGES:
            raise BadRequest(f"'page' must be a number from 1 to {MAX_PAGES}.", param="page")
        if fields["compare"] not in COMPARISONS:
            raise BadRequest("'compare' must be previous or none.", param="compare")
        sort = fields["sort"] or ("name" if query.group_by[0] in UNITS else "cost")
        if sort not in SORTS:
            raise BadRequest(f"'sort' must be one of {', '.join(SORTS)}.", param="sort")
        return cls(fields, query, fields["period"], fields["compare"] == "previous", sort, int(page), own)

    def link(self, **changes: str) -> str:
        """The query of the same page with other parameters; an empty one is left out."""
        kept = {name: value for name, value in {**self.own, **changes}.items() if value}
        return f"?{urlencode(kept)}"


def read_fields(request: HttpRequest) -> tuple[dict[str, str], dict[str, str]]:
    """The parameters of the page with their defaults, and those that its address had."""
    names = (*OF_REPORT, "period", "compare", "sort", "page")
    own = {
        name: request.GET[name].strip()[:MAX_CHARS] for name in names if name != "group_by" and request.GET.get(name)
    }
    groups = [name.strip()[:MAX_CHARS] for text in request.GET.getlist("group_by") for name in text.split(",")]
    if any(groups):
        own["group_by"] = ",".join(name for name in groups[:3] if name)
    fields = {"group_by": DEFAULT_GROUP, "compare": "previous", "period": "", "measures": "", **own}
    fields = {"sort": "", "page": "1", **fields}
    fields["tz"] = own.get("tz") or find_zone(request)
    if "start_date" in own or "end_date" in own:
        fields |= {"period": "", "start_date": own.get("start_date", ""), "end_date": own.get("end_date", "")}
    else:
        fields["period"] = own.get("period", DEFAULT_PERIOD)
        fields |= _find_dates(fields["period"], fields["tz"])
    return fields, own


def _find_dates(period: str, zone: str) -> dict[str, str]:
    """The days of a preset; none of one that does not exist, which `ReportChoice.read` refuses."""
    preset = PRESETS.get(period)
    if preset is None:
        return {"start_date": "", "end_date": ""}
    start, end = preset.find(today_in(zone))
    return {"start_date": start.isoformat(), "end_date": end.isoformat()}


def today_in(zone: str) -> date:
    """The day in a time zone; in UTC for a name that is none, which the report refuses."""
    try:
        return timezone.now().astimezone(ZoneInfo(zone)).date()
    except (ValueError, OSError, KeyError):  # ZoneInfo's answers to a path, a folder and an unknown name
        return timezone.now().date()


def find_zone(request: HttpRequest) -> str:
    """The time zone of the user's organization; of a user without one the installation's."""
    caller = caller_of(request)
    organization_id = caller.organization_id if caller is not None else None
    rows = Organization.objects.filter(pk=organization_id) if organization_id else Organization.objects.none()
    return rows.values_list("time_zone", flat=True).first() or str(settings.TIME_ZONE)
