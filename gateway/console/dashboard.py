"""The dashboard: the last 24 hours, the latest calls, and before the first call a quick start."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db.models import F, Sum
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from billing.admin import spend_cells as screens
from billing.admin.request_attempts import LARGE, FoldedRequest, fold
from billing.log_search import keep_last
from billing.models import SpendLog, UsageHour
from billing.pricing import COUNTS
from gateway.protocol.amounts import usd_exact, usd_short
from tenants.admin.console import Context, timestamp
from tenants.permissions import Area
from tenants.session_rights import readable_rows

HOURS = 24
MONEY_PART = 2**30
SUMS = ("requests", "failures", "unpriced", "estimated", "cost_pusd", *COUNTS)


@dataclass(frozen=True, slots=True)
class Card:
    title: Promise | str
    value: str
    note: Promise | str = ""
    kind: str = ""  # "danger" if an admin should look at it
    exact: str = ""  # the exact value, for the tooltip
    bars: tuple["Bar", ...] = ()
    link: str = ""


@dataclass(frozen=True, slots=True)
class Bar:
    height: int  # percent of the tallest
    title: str


def dashboard(request: HttpRequest, context: Context) -> Context:
    """Adds the variables of the index page. Unfold calls it, as its DASHBOARD_CALLBACK."""
    logs = readable_rows(request, Area.SPEND, SpendLog.objects.all())
    latest = fold(request, list(keep_last(logs).defer(*LARGE)[:10]))
    own: Context = {"cards": _cards(request)} if latest else {"base_url": request.build_absolute_uri("/v1")}
    return {**context, "title": _("Dashboard"), "latest": [_render_row(one) for one in latest], **own}


def _cards(request: HttpRequest) -> list[Card]:
    now = timezone.now().replace(minute=0, second=0, microsecond=0)
    hours = [now - timedelta(hours=back) for back in reversed(range(HOURS))]
    recent = readable_rows(request, Area.SPEND, UsageHour.objects.filter(hour__gte=hours[0]))
    rows = recent.order_by("hour").values("hour")
    # The database adds up each hour only, and its money in two parts, because SQLite's SUM fails beyond 64 bits. The
    # bars need the hours too.
    sums = {f"sum_{name}": Sum(name) for name in SUMS}
    money = F("cost_pusd")
    sums |= {"sum_cost_pusd": Sum(money % MONEY_PART), "sum_cost_parts": Sum(money / MONEY_PART)}
    by_hour: dict[datetime, Any] = {row["hour"]: row for row in rows.annotate(**sums)}
    for row in by_hour.values():
        row["sum_cost_pusd"] += row["sum_cost_parts"] * MONEY_PART

    def total(*name_list: str) -> int:
        return sum(row[f"sum_{name}"] for row in by_hour.values() for name in name_list)

    def make_bars(name: str, render: Callable[[int], str]) -> tuple[Bar, ...]:
        values = [by_hour[hour][f"sum_{name}"] if hour in by_hour else 0 for hour in hours]
        tallest = max(values) or 1
        return tuple(
            Bar(max(3, 100 * value // tallest) if value else 0, f"{_format_hour(hour)}  {render(value)}")
            for hour, value in zip(hours, values, strict=True)
        )

    requests, failures, unpriced, spend = map(total, ("requests", "failures", "unpriced", "cost_pusd"))
    tokens_in, tokens_out, cached = total(*screens.TOKENS_IN), total(*screens.TOKENS_OUT), total("cache_read_tokens")
    logs = reverse("admin:billing_spendlog_changelist")
    return [
        Card(
            _("Requests"),
            f"{requests:,}",
            bars=make_bars("requests", lambda value: f"{value:,}"),
            link=f"{logs}?when=24h",
        ),
        Card(_("Spend"), usd_short(spend), exact=usd_exact(spend), bars=make_bars("cost_pusd", usd_short)),
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
        ),
        Card(
            _("Unpriced"),
            f"{unpriced:,}",
            _("calls without a price") if unpriced else _("every call has a price"),
            kind="danger" if unpriced else "",
            link=f"{logs}?state__exact=unpriced" if unpriced else "",
        ),
    ]


def _format_hour(hour: datetime) -> str:
    return f"{timezone.localtime(hour):%H:%M}"


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
