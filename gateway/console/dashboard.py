"""The dashboard: the spend of a period, the latest calls, and before the first call a quick start.

Its figures are those of the report, by the hours or days of the period.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from urllib.parse import urlencode

from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from billing.admin import spend_cells as screens
from billing.admin.request_attempts import LARGE, FoldedRequest, fold
from billing.log_search import keep_last
from billing.models import SpendLog, UsageSeries
from billing.reports.comparison import find_previous
from billing.reports.guard import guard_report
from billing.reports.kept import has_sums
from billing.reports.period import Period
from billing.reports.query import ReportQuery, read_zone
from billing.reports.spend import NOTHING, Sums, report_spend
from gateway.console.log_links import find_bounds, link_to_span
from gateway.console.report_choice import PRESETS, find_zone, today_in
from gateway.console.report_data import choose_unit, list_units
from gateway.console.spend_report import Change, compare_costs, count_of, sum_tokens
from gateway.protocol.amounts import usd_exact, usd_short
from gateway.protocol.errors import BadRequest, ClientFault, GatewayFault
from tenants.admin.console import Context, timestamp
from tenants.permissions import Area
from tenants.rest.client_departure import departure_of
from tenants.session_rights import caller_of, readable_rows

HOURS = 24
LAST_HOURS = "24h"
PERIODS = ("today", "7d", "30d", "month")  # beside LAST_HOURS, the names of presets
MAX_CHARS = 64  # of the name of a time zone


@dataclass(frozen=True, slots=True)
class Card:
    title: Promise | str
    value: str
    note: Promise | str = ""
    kind: str = ""  # "danger" if an admin should look at it
    exact: str = ""  # the exact value, for the tooltip
    bars: tuple["Bar", ...] = ()
    link: str = ""
    change: Change | None = None  # from the period before


@dataclass(frozen=True, slots=True)
class Bar:
    height: int  # percent of the tallest
    title: str


@dataclass(frozen=True, slots=True)
class Figures:
    """`units`: (name, sums) of each hour or day. `before_pusd`: the cost of the period before; None for the last hours,
    and where its sums are deleted."""

    period: Period
    units: Sequence[tuple[str, Sums]]
    before_pusd: int | None = None
    is_last_hours: bool = False

    @property
    def starts_at(self) -> datetime:
        """The first instant of the first unit that is shown."""
        if not self.is_last_hours:
            return self.period.starts_at
        return find_bounds("hour", self.units[0][0], self.period)[0]

    @property
    def total(self) -> Sums:
        return sum((sums for _name, sums in self.units), NOTHING)


def dashboard(request: HttpRequest, context: Context) -> Context:
    """Adds the variables of the index page. Unfold calls it, as its DASHBOARD_CALLBACK."""
    logs = readable_rows(request, Area.SPEND, SpendLog.objects.all())
    latest = fold(request, list(keep_last(logs).defer(*LARGE)[:10]))
    own = _describe_period(request) if latest else {"base_url": request.build_absolute_uri("/v1")}
    return {**context, "title": _("Dashboard"), "latest": [_render_row(one) for one in latest], **own}


def _describe_period(request: HttpRequest) -> Context:
    name, zone = request.GET.get("period", ""), request.GET.get("tz", "")[:MAX_CHARS]
    chosen = name if name in PERIODS else LAST_HOURS
    zone = zone if _is_zone(zone) else find_zone(request)
    titles = {LAST_HOURS: _("24 hours"), **{key: PRESETS[key].title for key in PERIODS}}
    kept = {"tz": zone} if request.GET.get("tz") else {}
    report = {"period": chosen if chosen in PERIODS else "today", **kept}
    return {
        **_describe_figures(request, chosen, zone),
        "periods": [(title, f"?{urlencode({'period': key, **kept})}", key == chosen) for key, title in titles.items()],
        "zone": zone,
        "report_link": f"{reverse('admin:spend_report')}?{urlencode(report)}",
    }


def _describe_figures(request: HttpRequest, name: str, zone: str) -> Context:
    """The cards, behind the wall of the reports; where it refuses, why."""
    caller = caller_of(request)
    try:
        with guard_report(caller.organization_id if caller is not None else None, departure_of(request)):
            figures = find_figures(request, name, zone)
    except (ClientFault, GatewayFault) as fault:
        return {"cards": (), "error": fault.message}
    return {"cards": _make_cards(figures)}


def _is_zone(name: str) -> bool:
    try:
        read_zone(name)
    except BadRequest:
        return False
    return True


def find_figures(request: HttpRequest, name: str, zone: str) -> Figures:
    """The figures of the last 24 hours, the one that runs included, or of a preset."""
    rows = readable_rows(request, Area.SPEND, SpendLog.objects.all())
    series = readable_rows(request, Area.SPEND, UsageSeries.objects.all())
    today = today_in(zone)
    is_last = name == LAST_HOURS
    start, end = (today - timedelta(days=1), today) if is_last else PRESETS[name].find(today)
    period = Period(start, end, read_zone(zone))
    unit = choose_unit(period)
    query = ReportQuery(period, (unit,))
    sums = {members[0]: row for members, row in report_spend(rows, query, series=series).rows}
    units = list_units(unit, period)
    if unit == "hour":
        now = timezone.now()
        units = [one for one in units if datetime.fromisoformat(one) <= now]
    if is_last:
        return Figures(period, [(one, sums.get(one, NOTHING)) for one in units[-HOURS:]], is_last_hours=True)
    query_before, before = replace(query, period=find_previous(period)), None
    if has_sums(query_before):
        before = report_spend(rows, query_before, series=series).total.cost_pusd
    return Figures(period, [(one, sums.get(one, NOTHING)) for one in units], before)


def _make_cards(figures: Figures) -> list[Card]:
    total = figures.total
    requests, failures, unpriced = (count_of(total, counter) for counter in ("requests", "failures", "unpriced"))
    spend, before = total.cost_pusd, figures.before_pusd
    tokens_in, tokens_out = sum_tokens(total, screens.TOKENS_IN), sum_tokens(total, screens.TOKENS_OUT)
    cached = sum_tokens(total, ("cache_read_tokens",))
    log = link_to_span(figures.starts_at, figures.period.ends_at)
    return [
        Card(
            _("Requests"),
            f"{requests:,}",
            bars=_make_bars(figures, lambda sums: count_of(sums, "requests"), lambda value: f"{value:,}"),
            link=log.requests,
        ),
        Card(
            _("Spend"),
            usd_short(spend),
            exact=usd_exact(spend),
            bars=_make_bars(figures, lambda sums: sums.cost_pusd, usd_short),
            change=None if before is None else compare_costs(spend, before),
        ),
        Card(
            _("Tokens"),
            _shorten(tokens_in + tokens_out),
            _("%(in)s in (%(cached)s cached) · %(out)s out")
            % {"in": _shorten(tokens_in), "cached": _shorten(cached), "out": _shorten(tokens_out)},
            exact=f"{tokens_in + tokens_out:,}",
        ),
        Card(
            _("Error rate"),
            f"{100 * failures / requests:.1f} %" if requests else "–",
            _("%s failed") % f"{failures:,}",
            kind="danger" if requests and failures / requests >= 0.05 else "",
            link=log.failures if failures else "",
        ),
        Card(
            _("Unpriced"),
            f"{unpriced:,}",
            _("calls without a price") if unpriced else _("every call has a price"),
            kind="danger" if unpriced else "",
            link=log.unpriced if unpriced else "",
        ),
    ]


def _make_bars(figures: Figures, read: Callable[[Sums], int], render: Callable[[int], str]) -> tuple[Bar, ...]:
    values = [(name, read(sums)) for name, sums in figures.units]
    tallest = max((value for _name, value in values), default=0) or 1
    return tuple(
        Bar(max(3, 100 * value // tallest) if value > 0 else 0, f"{_name_unit(name)}  {render(value)}")
        for name, value in values
    )


def _name_unit(name: str) -> str:
    """`2026-11-21T14:00:00+01:00` → `14:00`; a day as it is."""
    return name[11:16] if "T" in name else name


def _shorten(count: int) -> str:
    """12,345 → `12.3k`."""
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if count >= 10 * size or (count >= size and unit != "k"):
            return f"{count / size:.1f}{unit}"
    return f"{count:,}"


def _render_row(one: FoldedRequest) -> Context:
    log, total = one.last, one.total
    return {
        "link": reverse("admin:billing_spendlog_change", args=[log.pk]),
        "time": timestamp(total.started_at),
        "owner": screens.render_key(log),
        "route": screens.render_route(log),
        "tokens": screens.render_tokens(total),
        "cost": one.render_cost(),
        "outcome": screens.render_outcome(log),
        "took": screens.render_duration(total),
    }
