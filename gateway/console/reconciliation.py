"""The page of reconciliation: what invoices charge beside what the gateway has counted, and why they differ."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from hashlib import sha256
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from django.contrib.admin import AdminSite
from django.http import HttpRequest, HttpResponseBase
from django.template.response import TemplateResponse
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from billing.models import InvoiceImport, SpendLog, UsageSeries
from billing.reconciliation.comparison import Cause, Difference
from billing.reconciliation.lines import TOKENS, Component
from billing.reconciliation.ours import SpendRows
from billing.reconciliation.report import (
    Reconciliation,
    ReconciliationQuery,
    per_million,
    percent_of,
    reconcile,
)
from billing.reconciliation.sources import SOURCES
from billing.reports.guard import guard_report
from billing.rest.invoices import send_reconciliation
from gateway.protocol.amounts import usd_exact, usd_short
from gateway.protocol.errors import BadRequest, ClientFault, GatewayFault
from tenants.admin.console import Context
from tenants.permissions import Area
from tenants.rest.client_departure import departure_of
from tenants.session_rights import caller_of, readable_rows

if TYPE_CHECKING:
    from django_stubs_ext import StrOrPromise

ROWS = 50  # of a page
MAX_PAGES = 10_000
MAX_CHARS = 255
SHOWN_CAUSES = 3  # of a row of the table, the largest
SHOWN_NAME = 60  # characters of a model there
DEFAULT_DAYS = 31  # the last ones of the newest import
FIELDS = ("start_date", "end_date", "provider", "sort", "page", "row")
SORTS: Mapping[str, "StrOrPromise"] = {"difference": _("by difference"), "day": _("by day")}
CAUSES: Mapping[Cause, tuple["StrOrPromise", "StrOrPromise"]] = {
    Cause.UNPRICED: (_("unpriced"), _("calls without a price, at the invoice's rates")),
    Cause.UNSETTLED: (_("unsettled"), _("calls that pricing has not reached, or that the sums cannot take")),
    Cause.DAY_BORDER: (_("day border"), _("calls across midnight UTC, which the invoice has on the next day")),
    Cause.ESTIMATED: (_("estimated"), _("calls whose usage is an estimate")),
    Cause.NOT_IN_OURS: (_("not in ours"), _("tokens that the gateway has not seen: calls outside of it")),
    Cause.NOT_IN_THEIRS: (
        _("not in theirs"),
        _("tokens that the invoice does not have: another account, or it is late"),
    ),
    Cause.PRICE: (_("price"), _("the same tokens at another price")),
    Cause.TIER: (_("tier"), _("what batch, flex, priority or long context cost more")),
    Cause.REGION: (_("region"), _("what another region cost more")),
    Cause.OTHER_CHARGES: (_("other charges"), _("charges that are no tokens")),
    Cause.CREDITS: (_("credits"), _("credits of the provider")),
    Cause.TAXES: (_("taxes"), _("taxes of the invoice")),
    Cause.ROUNDING: (_("rounding"), _("less than 0.01 % of the invoice's day")),
    Cause.UNEXPLAINED: (_("unexplained"), _("the invoice has no rate for what differs: import its usage, too")),
}


@dataclass(frozen=True, slots=True)
class Money:
    """An amount, rounded for a glance and exact. `text` of one that is not known is a dash."""

    text: str
    exact: str = ""


@dataclass(frozen=True, slots=True)
class CauseText:
    """A cause of a difference. `share`: of all of them, whatever their sign."""

    title: "StrOrPromise"
    note: "StrOrPromise"
    amount: Money
    tokens: str
    share: str


@dataclass(frozen=True, slots=True)
class RowText:
    """A day of one model. `is_counted_only`: the invoice has tokens and no amounts."""

    day: date
    provider: str
    model: str
    ours: Money
    theirs: Money
    difference: Money
    percent: str
    causes: Sequence[CauseText]
    more: int
    is_counted_only: bool
    link: str


@dataclass(frozen=True, slots=True)
class KindText:
    """One kind of token of the chosen row. Rates: USD per million tokens, empty where they are not known."""

    name: str
    ours: str
    theirs: str
    difference: str
    our_rate: str
    their_rate: str


@dataclass(frozen=True, slots=True)
class DaysText:
    """The days that the imports of a provider have. `missing`: days of the period without one."""

    provider: str
    first: date
    last: date
    count: int
    missing: int


def show_reconciliation(site: AdminSite, request: HttpRequest) -> HttpResponseBase:
    """The page; with `format` the whole report as a file, with `row` one of its rows in full."""
    own = {name: request.GET[name].strip()[:MAX_CHARS] for name in FIELDS if request.GET.get(name)}
    fields = {**_find_defaults(own), **own}
    context: Context = {
        **site.each_context(request),
        "title": _("Reconciliation"),
        "fields": fields,
        "providers": [(source.name, source.title) for source in SOURCES.values()],
        "sorts": SORTS.items(),
        "has_imports": InvoiceImport.objects.exists(),
    }
    caller = caller_of(request)
    try:
        with guard_report(caller.organization_id if caller is not None else None, departure_of(request)):
            query = _read_query(request, fields)
            report = reconcile(
                SpendRows(
                    readable_rows(request, Area.SETTINGS, SpendLog.objects.all()),
                    readable_rows(request, Area.SETTINGS, UsageSeries.objects.all()),
                ),
                query,
            )
            if "format" in request.GET:
                return send_reconciliation(report, query)
            page = _read_page(fields)
    except (ClientFault, GatewayFault) as fault:
        context |= {"error": fault.message}
        return TemplateResponse(request, "console/reconciliation.html", context, status=fault.status)
    context |= _describe(report, query, fields, own, page)
    return TemplateResponse(request, "console/reconciliation.html", context)


def _find_defaults(own: Mapping[str, str]) -> dict[str, str]:
    """The days of the newest import that is complete; without one this month."""
    defaults = {"provider": "", "sort": next(iter(SORTS)), "page": "1", "row": ""}
    if "start_date" in own or "end_date" in own:
        return {**defaults, "start_date": "", "end_date": ""}
    rows = InvoiceImport.objects.exclude(ended_at=None)
    if own.get("provider"):
        rows = rows.filter(source=own["provider"].replace("\0", ""))
    newest = rows.order_by("-id").first()
    end = timezone.now().date() if newest is None else newest.last_day
    start = end.replace(day=1) if newest is None else max(newest.first_day, end - timedelta(days=DEFAULT_DAYS - 1))
    return {**defaults, "start_date": start.isoformat(), "end_date": end.isoformat()}


def _read_query(request: HttpRequest, fields: Mapping[str, str]) -> ReconciliationQuery:
    """Raises BadRequest."""
    names = {name: fields[name] for name in ("start_date", "end_date", "provider")}
    if "format" in request.GET:
        names["format"] = request.GET["format"][:MAX_CHARS]
    return ReconciliationQuery.read(names)


def _read_page(fields: Mapping[str, str]) -> int:
    """Raises BadRequest, for an order that does not exist, too."""
    text = fields["page"]
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= MAX_PAGES:
        raise BadRequest(f"'page' must be a number from 1 to {MAX_PAGES}.", param="page")
    if fields["sort"] not in SORTS:
        raise BadRequest(f"'sort' must be one of {', '.join(SORTS)}.", param="sort")
    return int(text)


# Texts


def _describe(
    report: Reconciliation, query: ReconciliationQuery, fields: Mapping[str, str], own: Mapping[str, str], page: int
) -> Context:
    def link(**changes: str) -> str:
        kept = {**own, "start_date": fields["start_date"], "end_date": fields["end_date"], "row": "", **changes}
        return f"?{urlencode({name: value for name, value in kept.items() if value})}"

    ordered = list(report.rows)
    if fields["sort"] == "difference":
        ordered.sort(key=lambda row: -abs(row[1].pusd or 0))  # those of the same size in the report's own order
    page = min(page, max(1, -(-len(ordered) // ROWS)))  # the days may have fewer rows than when the link was made
    first = (page - 1) * ROWS
    shown = ordered[first : first + ROWS]
    chosen = [row for row in report.rows if _name_row(*row) == fields["row"]] if fields["row"] else []
    total = report.sum_up()
    return {
        "total": {
            "ours": _money(total.ours_pusd),
            "theirs": _money(total.theirs_pusd),
            "difference": _signed(total.difference_pusd),
            "percent": _percent(total.difference_pusd, total.theirs_pusd),
            "explained": f"{total.explained_percent} %",
        },
        "causes": _describe_causes(total.causes, {}, sum(abs(pusd) for pusd in total.causes.values())),
        "days": _describe_days(report, query),
        "rows": [_describe_row(source, row, link(row=_name_row(source, row))) for source, row in shown],
        "chosen": _describe_chosen(report, *chosen[0]) if chosen else None,
        "close": link(),
        "count": f"{len(ordered):,}",
        "row_first": f"{first + 1:,}",
        "row_last": f"{first + len(shown):,}",
        "previous_page": link(page=str(page - 1)) if page > 1 else "",
        "next_page": link(page=str(page + 1)) if ordered[first + ROWS :] and page < MAX_PAGES else "",
        "files": [(name.upper(), link(format=name, page="", sort="")) for name in ("csv", "json")],
    }


def _name_row(source: str, row: Difference) -> str:
    """A short name of a row for its address: names of models are long."""
    return sha256(f"{source}\n{row.day}\n{row.model}".encode(errors="replace")).hexdigest()[:16]


def _describe_row(source: str, row: Difference, link: str) -> RowText:
    causes = sorted(row.causes.items(), key=lambda cause: -abs(cause[1]))
    name = row.model if len(row.model) <= SHOWN_NAME else f"{row.model[: SHOWN_NAME - 1]}…"
    return RowText(
        row.day,
        SOURCES[source].title,
        name,
        _money(row.ours.pusd),
        Money("–") if row.pusd is None else _money(row.theirs.pusd),
        Money("–") if row.pusd is None else _signed(row.pusd),
        _percent(row.pusd, row.theirs.pusd),
        _describe_causes(dict(causes[:SHOWN_CAUSES]), row.tokens, 0),
        len(causes[SHOWN_CAUSES:]),
        row.pusd is None,
        link,
    )


def _describe_chosen(report: Reconciliation, source: str, row: Difference) -> Context:
    theirs, our_rates = row.theirs.count_tokens(), report.rates_of(source, row)
    whole = sum(abs(pusd) for pusd in row.causes.values())
    counted = {cause: 0 for cause, tokens in row.tokens.items() if tokens}  # tokens without a rate have no amount
    return {
        "row": _describe_row(source, row, ""),
        "model": row.model,
        "causes": _describe_causes({**counted, **row.causes}, row.tokens, whole),
        "kinds": [
            KindText(
                kind.value.replace("_", " "),
                f"{row.ours.tokens[kind]:,}",
                f"{theirs[kind]:,}",
                f"{theirs[kind] - row.ours.tokens[kind]:+,}",
                per_million(our_rates[kind]) if kind in our_rates else "",
                per_million(row.rates[kind]) if kind in row.rates else "",
            )
            for kind in TOKENS
            if _has_tokens(row, theirs[kind], kind)
        ],
    }


def _has_tokens(row: Difference, theirs: int, kind: Component) -> bool:
    return bool(row.ours.tokens[kind] or theirs or kind in row.rates)


def _describe_causes(causes: Mapping[Cause, int], tokens: Mapping[Cause, int], whole: int) -> list[CauseText]:
    """In the order of the mapping's sizes; `whole`: what the shares are of."""
    return [
        CauseText(
            *CAUSES[cause],
            _signed(pusd),
            f"{tokens[cause]:+,}" if tokens.get(cause) else "",
            f"{100 * abs(pusd) / whole:.1f} %" if whole else "",
        )
        for cause, pusd in sorted(causes.items(), key=lambda item: -abs(item[1]))
    ]


def _describe_days(report: Reconciliation, query: ReconciliationQuery) -> list[DaysText]:
    length = (query.period.end - query.period.start).days + 1
    return [
        DaysText(SOURCES[source].title, days[0], days[-1], len(days), length - len(days))
        for source, days in report.days.items()
    ]


def _money(pusd: int) -> Money:
    return Money(usd_short(pusd), usd_exact(pusd))


def _signed(pusd: int) -> Money:
    sign = "+" if pusd > 0 else ""
    return Money(f"{sign}{usd_short(pusd)}".replace("-", "−"), f"{sign}{usd_exact(pusd)}")


def _percent(part: int | None, whole: int) -> str:
    text = percent_of(part, whole)
    return "" if text is None else f"{'+' if (part or 0) > 0 else ''}{text} %".replace("-", "−")
