"""The page of the spend report: what the calls of a period cost, by one or two dimensions, as a chart and a table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from django.contrib.admin import AdminSite
from django.http import HttpRequest, HttpResponseBase
from django.template.response import TemplateResponse
from django.utils.translation import gettext_lazy as _

from billing.admin.spend_cells import TOKENS_IN, TOKENS_OUT
from billing.models import SpendLog, UsageSeries
from billing.pricing import COUNTS
from billing.reports.guard import guard_report
from billing.reports.period import UNITS
from billing.reports.query import DIMENSIONS, FORMATS, MARGIN, ReportQuery
from billing.reports.spend import COUNTERS, Sums
from billing.rest.reports import check_measures, send_report
from gateway.console.log_links import LogLinks, link_to_log
from gateway.console.member_names import find_names
from gateway.console.report_choice import COLUMNS, COMPARISONS, OF_REPORT, PRESETS, ReportChoice, read_fields
from gateway.console.report_data import Chart, Figures, Members, find_figures
from gateway.protocol.amounts import PLACES, PUSD, usd_exact, usd_short
from gateway.protocol.errors import BadRequest, ClientFault, GatewayFault
from gateway.protocol.json.types import JsonObject
from tenants.admin.console import Context
from tenants.permissions import Area, Reach
from tenants.rest.client_departure import departure_of
from tenants.session_rights import caller_of, reach_of_user, readable_rows

if TYPE_CHECKING:
    from django_stubs_ext import StrOrPromise

ROWS = 50  # of a page of the table
MAX_CHANGE = 999  # percent that are told; more is "more than"
TITLES: Mapping[str, "StrOrPromise"] = {
    "hour": _("Hour"),
    "day": _("Day"),
    "week": _("Week"),
    "month": _("Month"),
    "organization": _("Organization"),
    "team": _("Team"),
    "user": _("User"),
    "key": _("Virtual key"),
    "model_group": _("Model group"),
    "deployment": _("Deployment"),
    "provider": _("Provider"),
    "upstream_model": _("Upstream model"),
    "end_user": _("End user"),
    "tag": _("Tag"),
    "application": _("Application"),
    "endpoint": _("Endpoint"),
    "status": _("Status"),
}


#: Measure → the title of its column, of those that are chosen.
MORE_COLUMNS: Mapping[str, "StrOrPromise"] = {
    "duration_p50_ms": _("Time, median"),
    "duration_p95_ms": _("Time, 95 %"),
    "ttft_p50_ms": _("First token, median"),
    "ttft_p95_ms": _("First token, 95 %"),
    "provider_cost": _("Provider cost"),
    "margin": _("Margin"),
}


@dataclass(frozen=True, slots=True)
class Member:
    """A cell of a dimension. `name` empty: the member that calls without one have."""

    name: str
    id: str


@dataclass(frozen=True, slots=True)
class Amounts:
    """The cells of the measures, of a row and of the total. `share`: percent of the total's cost."""

    cost: str
    exact: str
    share: int
    change: "Change | None"
    requests: str
    tokens_in: str
    tokens_cached: str
    tokens_out: str
    failures: str
    failure_rate: str
    unpriced: str
    savings: str
    savings_exact: str
    more: Sequence[str]  # the cells of the chosen columns
    is_unknown: bool  # none of its calls has a price: 0 is no cost


@dataclass(frozen=True, slots=True)
class Change:
    text: str
    before: str
    is_more: bool


@dataclass(frozen=True, slots=True)
class Line:
    members: Sequence[Member]
    amounts: Amounts
    log: LogLinks


def may_report(request: HttpRequest) -> bool:
    return reach_of_user(request, Area.SPEND) > Reach.NONE


def show_report(site: AdminSite, request: HttpRequest) -> HttpResponseBase:
    """The page; with `format` the whole report as a file."""
    fields, own = read_fields(request)
    rows = readable_rows(request, Area.SPEND, SpendLog.objects.all())
    series = readable_rows(request, Area.SPEND, UsageSeries.objects.all())
    reach = reach_of_user(request, Area.SPEND)
    context: Context = {**site.each_context(request), "title": _("Spend report"), "fields": fields}
    context |= _form(fields, reach)
    caller = caller_of(request)
    organization_id = caller.organization_id if caller is not None else None
    try:
        with guard_report(organization_id, departure_of(request)):
            if request.GET.get("format"):
                query = ReportQuery.read({name: fields[name] for name in OF_REPORT} | {"format": request.GET["format"]})
                check_measures(query, reach)
                return send_report(rows, query, series=series)
            choice = ReportChoice.read(fields, own)
            check_measures(choice.query, reach)
            figures = find_figures(rows, choice.query, series=series, has_comparison=choice.has_comparison)
    except (ClientFault, GatewayFault) as fault:
        context |= {"error": fault.message, "error_field": fault.param}
        return TemplateResponse(request, "console/spend_report.html", context, status=fault.status)
    context |= _describe(request, choice, figures)
    return TemplateResponse(request, "console/spend_report.html", context)


def _form(fields: Mapping[str, str], reach: Reach) -> Context:
    """The choices of the form, with those that hold."""
    first, _comma, second = fields["group_by"].partition(",")
    dimensions = [(name, TITLES.get(name, name)) for name in DIMENSIONS]
    return {
        "presets": [(name, preset.title) for name, preset in PRESETS.items()],
        "dimensions": dimensions,
        "group_first": first,
        "group_second": second,
        "comparisons": COMPARISONS.items(),
        "choices_of_columns": [
            (name, title) for name, title in COLUMNS.items() if MARGIN not in name or reach == Reach.PLATFORM
        ],
    }


def _describe(request: HttpRequest, choice: ReportChoice, figures: Figures) -> Context:
    ordered = _sort(figures.rows, choice.sort)
    first = (choice.page - 1) * ROWS
    shown = ordered[first : first + ROWS]
    group_by, total = choice.query.group_by, figures.total
    charted = _charted_dimension(group_by)
    names = {
        dimension: find_names(request, dimension, {members[place] for members, _sums in shown})
        for place, dimension in enumerate(group_by)
    }
    chart = figures.chart
    if chart is not None and charted:
        ids = {name for name, _costs in chart.series if name}
        names[charted] = {**names[charted], **find_names(request, charted, ids - names[charted].keys())}
    days = {"start_date": str(choice.query.period.start), "end_date": str(choice.query.period.end), "period": ""}
    whole = {**days, "group_by": ",".join(group_by), "tz": choice.fields["tz"]}
    whole["measures"] = choice.fields["measures"]
    return {
        "choice": choice,
        "preset_links": [
            (title.title, choice.link(period=name, start_date="", end_date="", page=""), name == choice.preset)
            for name, title in PRESETS.items()
        ],
        "columns": [TITLES[name] for name in group_by],
        "sorts": {name: choice.link(sort=name, page="") for name in ("cost", "requests", "tokens", "name")},
        "lines": [
            _make_line(choice.query, members, sums, figures, [names[name] for name in group_by])
            for members, sums in shown
        ],
        "total": _make_amounts(choice.query, total, total, figures.previous_total),
        "more_columns": [title for name, title in MORE_COLUMNS.items() if name in _more_measures(choice.query, total)],
        "total_log": link_to_log(choice.query, ()),
        "has_changes": figures.previous is not None,
        "is_overlapping": "tag" in group_by,
        "count": len(ordered),
        "row_first": first + 1,
        "row_last": first + len(shown),
        "previous_page": choice.link(page=str(choice.page - 1)) if first else "",
        "next_page": choice.link(page=str(choice.page + 1)) if ordered[first + ROWS :] else "",
        "files": [
            (name.upper(), choice.link(**whole, format=name, page="", sort="", compare=""))
            for name in FORMATS
            if _has_format(whole, name)
        ],
        "chart": _draw(chart, names.get(charted, {})) if chart is not None and total.cost_pusd else None,
    }


def _has_format(whole: Mapping[str, str], name: str) -> bool:
    """Some formats cannot have every dimension."""
    try:
        ReportQuery.read({**{field: whole[field] for field in OF_REPORT}, "format": name})
    except BadRequest:
        return False
    return True


def _charted_dimension(group_by: Sequence[str]) -> str:
    """The dimension that the chart's series are of; empty for a report by time alone."""
    return next((name for name in group_by if name not in UNITS), "")


def _sort(rows: Sequence[tuple[Members, Sums]], sort: str) -> Sequence[tuple[Members, Sums]]:
    """Those of the same size in the report's own order."""
    if sort == "requests":
        return sorted(rows, key=lambda row: -count_of(row[1], "requests"))
    if sort == "tokens":
        return sorted(rows, key=lambda row: -sum(row[1].tokens))
    return rows if sort == "name" else sorted(rows, key=lambda row: -row[1].cost_pusd)


def _make_line(
    query: ReportQuery, members: Members, sums: Sums, figures: Figures, names: Sequence[Mapping[str, str]]
) -> Line:
    cells = [Member(known.get(member, ""), member) for member, known in zip(members, names, strict=True)]
    before = None if figures.previous is None else figures.previous.get(members)
    return Line(cells, _make_amounts(query, sums, figures.total, before), link_to_log(query, members))


def _more_measures(query: ReportQuery, sums: Sums) -> Mapping[str, str | int | None]:
    """Those of the chosen columns, in their order."""
    measures = sums.render(query.measures)
    return {name: measures[name] for name in MORE_COLUMNS if name in measures}


def _write_more(value: str | int | None) -> str:
    """A time in milliseconds, or an amount."""
    if value is None:
        return "–"
    return f"{value:,} ms" if isinstance(value, int) else usd_short(int(Decimal(value).scaleb(PLACES)))


def _make_amounts(query: ReportQuery, sums: Sums, total: Sums, before: Sums | None) -> Amounts:
    requests, failures = count_of(sums, "requests"), count_of(sums, "failures")
    unpriced = count_of(sums, "unpriced")
    return Amounts(
        cost=usd_short(sums.cost_pusd),
        exact=usd_exact(sums.cost_pusd),
        share=_percent(sums.cost_pusd, total.cost_pusd),
        change=None if before is None else compare_costs(sums.cost_pusd, before.cost_pusd),
        requests=f"{requests:,}",
        tokens_in=f"{sum_tokens(sums, TOKENS_IN):,}",
        tokens_cached=f"{sum_tokens(sums, ('cache_read_tokens',)):,}",
        tokens_out=f"{sum_tokens(sums, TOKENS_OUT):,}",
        failures=f"{failures:,}",
        failure_rate=f"{100 * failures / requests:.1f} %" if requests and failures else "",
        unpriced=f"{unpriced:,}" if unpriced else "",
        savings=usd_short(sums.saving_pusd) if sums.saving_pusd else "",
        savings_exact=usd_exact(sums.saving_pusd),
        more=[_write_more(value) for value in _more_measures(query, sums).values()],
        is_unknown=bool(unpriced) and not sums.cost_pusd,
    )


def count_of(sums: Sums, counter: str) -> int:
    return sums.counts[COUNTERS.index(counter)]


def sum_tokens(sums: Sums, columns: Sequence[str]) -> int:
    return sum(sums.tokens[COUNTS.index(column)] for column in columns)


def _percent(part: int, whole: int) -> int:
    return min(100, max(0, round(100 * part / whole))) if whole > 0 else 0


def compare_costs(cost: int, before: int) -> Change | None:
    if cost == before:
        return None
    if before <= 0:
        return Change(str(_("new")), usd_exact(before), is_more=True)
    percent = round(100 * (cost - before) / before)
    text = f"> {MAX_CHANGE} %" if percent > MAX_CHANGE else f"{percent:+d} %"
    return Change(text.replace("-", "−"), usd_exact(before), cost > before)


def _draw(chart: Chart, names: Mapping[str, str]) -> JsonObject:
    """The chart for the browser, and its table: amounts in USD, rounded as people read them."""
    labels = [_shorten(unit) for unit in chart.units]
    series: list[JsonObject] = [
        {"name": _name_series(member, names), "values": [cost / PUSD for cost in costs]}
        for member, costs in chart.series
    ]
    rows = [
        [unit, *(usd_short(costs[place]) if costs[place] else "" for _member, costs in chart.series)]
        for place, unit in enumerate(chart.units)
    ]
    return {"data": {"labels": labels, "series": series}, "names": [one["name"] for one in series], "rows": rows}


def _name_series(member: str | None, names: Mapping[str, str]) -> str:
    if member is None:
        return str(_("all others"))
    return names.get(member) or member or str(_("Spend"))


def _shorten(unit: str) -> str:
    """`2026-11-21T14:00:00+01:00` → `11-21 14:00`, `2026-11-21` → `11-21`; a month as it is."""
    return unit[5:16].replace("T", " ") if len(unit) > len("2026-11") else unit
