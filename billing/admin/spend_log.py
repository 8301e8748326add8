"""Screens of the spend log: read-only, newest first."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.contrib import admin
from django.contrib.admin.utils import unquote
from django.db import models
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _
from unfold.contrib.filters.admin import ChoicesDropdownFilter, DropdownFilter, RelatedDropdownFilter
from unfold.decorators import display
from unfold.paginator import InfinitePaginator as UnfoldInfinitePaginator

from billing.amounts import plain, price_label, usd_exact
from billing.models import Price, SpendLog, UsageHour
from billing.pricing import COUNTS, PriceLines, component_cost
from gateway.protocol.amounts import PLACES, usd_text
from tenants.admin.console import ConsoleAdmin, badge, clipped_text, code, muted_text, number, timestamp, two_lines
from tenants.models import Organization, Team, VirtualKey

TOKENS_OUT = ("output_tokens", "output_audio_tokens", "reasoning_tokens")
TOKENS_IN = tuple(name for name in COUNTS if name not in TOKENS_OUT)
DIED = _("Its process died before the end was known.")

# Cells, also for the dashboard


def duration(log: SpendLog) -> object:
    return seconds(log.ended_at - log.started_at) if log.ended_at else muted_text("–")


def seconds(span: timedelta) -> str:
    spent = span.total_seconds()
    if spent < 1:
        return f"{spent * 1000:.0f} ms"
    return f"{spent:.2f} s" if spent < 60 else f"{int(spent // 60)} min {int(spent % 60):02d} s"


@display(description=_("cost"))
def cost(log: SpendLog) -> SafeString:
    """The exact amount, or why there is none. Unpriced is never shown as $0."""
    match log.state:
        case SpendLog.State.PRICED:
            return with_estimate(log, number(usd_exact(log.cost_pusd or 0)))
        case SpendLog.State.UNPRICED:
            return badge("warning", _("unpriced"), log.price_error or _("No price is known for this deployment."))
        case SpendLog.State.LOST:
            lost = badge("danger", _("lost"), DIED)
            return lost if log.cost_pusd is None else two_lines(lost, number(usd_exact(log.cost_pusd)))
    pending = _("nothing sent") if log.state == SpendLog.State.ABORTED else _("not priced yet")
    return format_html('<span class="tg-muted tg-number">{}</span>', pending)


def with_estimate(log: SpendLog, shown: SafeString) -> SafeString:
    if log.usage_source != "estimated":
        return shown
    title = _("The upstream reported no usage: the tokens are estimated.")
    return format_html(
        '<span class="tg-number" title="{}">{} <span class="tg-muted">{}</span></span>', title, shown, _("est.")
    )


@display(description=_("status"))
def outcome(log: SpendLog) -> SafeString:
    """How the call ended, as its client saw it."""
    if log.state == SpendLog.State.OPEN:
        return badge("info", _("running"))
    if log.state == SpendLog.State.LOST:
        return badge("danger", _("crashed"), DIED)
    if log.state == SpendLog.State.ABORTED:
        return badge("neutral", log.status_code or _("aborted"), log.error_code or _("aborted"))
    if log.finish == "client_gone":
        return badge("warning", _("client gone"))
    text = log.error_code or log.finish.replace("_", " ")
    if log.error_code or log.status_code >= 400 or log.finish not in ("", "complete"):
        return badge("danger", log.status_code or text, text)
    return badge("success", log.status_code or _("complete"))


@display(description=_("model group → deployment"))
def routed(log: SpendLog) -> SafeString:
    """Model group → deployment."""
    return two_lines(
        format_html('<span class="tg-strong">{}</span>', log.model_group), f"→ {log.provider}/{log.upstream_model}"
    )


@display(description=_("key"))
def owner(log: SpendLog) -> SafeString:
    return code(f"{log.key_digest[:8]}…") if log.key_digest and not log.key_alias else clipped_text(log.key_alias)


@display(description=_("tokens in → out"))
def tokens(log: SpendLog) -> SafeString:
    """In, of it cached, out."""
    if log.state == SpendLog.State.OPEN or log.usage_source == "none":
        return muted_text("–")
    cached = format_html(
        '<span class="tg-muted" title="{}">({})</span> ', _("read from cache"), f"{log.cache_read_tokens:,}"
    )
    return format_html(
        '<span class="tg-number"><span title="{}">{}</span> {}→ <span title="{}">{}</span></span>',
        _("input"),
        f"{token_sum(log, TOKENS_IN):,}",
        cached if log.cache_read_tokens else "",
        _("output"),
        f"{token_sum(log, TOKENS_OUT):,}",
    )


def token_sum(log: SpendLog, columns: Iterable[str]) -> int:
    return sum(getattr(log, column) for column in columns)


# Filters and pages that stay cheap on a table of any size


def first_id(instant: datetime) -> UUID:
    """The smallest UUIDv7 of an instant: rows are found by time through the primary key."""
    return UUID(int=(int(instant.timestamp() * 1000) & (1 << 48) - 1) << 80)


class TimeFilter(DropdownFilter):
    title = _("time")
    parameter_name = "when"
    spans = {
        "1h": (_("Last hour"), timedelta(hours=1)),
        "24h": (_("Last 24 hours"), timedelta(days=1)),
        "7d": (_("Last 7 days"), timedelta(days=7)),
        "30d": (_("Last 30 days"), timedelta(days=30)),
    }

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [(value, title) for value, (title, _span) in self.spans.items()]

    def queryset(self, request: HttpRequest, queryset: models.QuerySet[SpendLog]) -> models.QuerySet[SpendLog]:
        if self.value() not in self.spans:
            return queryset
        return queryset.filter(id__gte=first_id(timezone.now() - self.spans[self.value()][1]))


class RecentValuesFilter(DropdownFilter):
    """Offers the values that occurred in the hourly sums of the last 30 days."""

    column = ""

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        used = UsageHour.objects.filter(hour__gte=timezone.now() - timedelta(days=30))
        values = set(used.order_by().values_list(self.column, flat=True).distinct()[:200])
        values |= {request.GET[self.column]} if request.GET.get(self.column) else set()
        return [(value, value) for value in sorted(values)] or [("-", _("nothing yet"))]

    def queryset(self, request: HttpRequest, queryset: models.QuerySet[SpendLog]) -> models.QuerySet[SpendLog]:
        return queryset.filter(**{self.column: self.value()}) if self.value() else queryset


class ModelGroupFilter(RecentValuesFilter):
    title = _("model group")
    column = parameter_name = "model_group"


class ProviderFilter(RecentValuesFilter):
    title = _("provider")
    column = parameter_name = "provider"


class InfinitePaginator(UnfoldInfinitePaginator):
    """Never counts, and ends after 200 pages: from there the time filter is the faster way. (Unfold knows its
    previous/next links by this class name.)"""

    count = 200 * 50


# The detail page


@dataclass(frozen=True, slots=True)
class TokenLine:
    title: Any
    tokens: str
    price: str | None  # USD per million tokens; None: unknown
    amount: str | None  # USD, exact


TOKEN_TITLES = {
    "input_tokens": _("Input"),
    "input_audio_tokens": _("Input audio"),
    "cache_read_tokens": _("Cache read"),
    "cache_write_5m_tokens": _("Cache write, 5 minutes"),
    "cache_write_1h_tokens": _("Cache write, 1 hour"),
    "output_tokens": _("Output"),
    "output_audio_tokens": _("Output audio"),
    "reasoning_tokens": _("Reasoning"),
}


def token_lines(log: SpendLog) -> Iterator[TokenLine]:
    """Unit price × tokens = amount, for every kind of token that occurred (input and output always)."""
    price = Price.objects.filter(id=log.price_id).first() if log.price_id else None
    rates = PriceLines.read(price.lines if price else {}).per_token
    for column, unit in zip(COUNTS, rates, strict=True):
        title, count = TOKEN_TITLES[column], getattr(log, column)
        if not count and column not in ("input_tokens", "output_tokens"):
            continue
        if unit is None:
            yield TokenLine(title, f"{count:,}", None, None)
            continue
        usd_per_token = plain(Decimal(unit).scaleb(-PLACES))
        yield TokenLine(title, f"{count:,}", price_label(usd_per_token), usd_exact(component_cost(count, unit)))


def pretty(text: str) -> str:
    """JSON indented; what is not JSON, as it is."""
    try:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except ValueError:
        return text


@admin.register(SpendLog)
class SpendLogAdmin(ConsoleAdmin):
    list_display = ["time", "key", "route", "operation_shown", "tokens_shown", "cost_shown", "status", "took"]
    list_display_links = ["time"]
    list_filter = [
        TimeFilter,
        ("state", ChoicesDropdownFilter),
        ModelGroupFilter,
        ProviderFilter,
        ("organization", RelatedDropdownFilter),
    ]
    sortable_by: list[str] = []
    search_fields = ["request_id"]
    search_help_text = _("Search by request id or upstream id")
    ordering = ["-id"]
    actions = None
    paginator = InfinitePaginator
    list_fullwidth = True
    show_full_result_count = False
    key = staticmethod(owner)
    route = staticmethod(routed)
    tokens_shown = staticmethod(tokens)
    cost_shown = staticmethod(cost)
    status = staticmethod(outcome)

    def get_search_results(
        self, request: HttpRequest, queryset: models.QuerySet[SpendLog], search_term: str
    ) -> tuple[models.QuerySet[SpendLog], bool]:
        """Exact ids only: each is one look-up in an index."""
        term = search_term.strip()
        if not term:
            return queryset, False
        try:
            known = UUID(term.removeprefix("req_"))
        except ValueError:
            return queryset.filter(upstream_id=term), False
        return queryset.filter(models.Q(request_id=known) | models.Q(id=known)), False

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[SpendLog]:
        rows: models.QuerySet[SpendLog] = super().get_queryset(request)
        return rows.defer("usage", "metadata", "tags")

    @display(description=_("time"))
    def time(self, log: SpendLog) -> SafeString | str:
        return timestamp(log.started_at)

    @display(description=_("operation"))
    def operation_shown(self, log: SpendLog) -> SafeString | str:
        return two_lines(log.operation, _("stream")) if log.stream else log.operation

    @display(description=_("took"))
    def took(self, log: SpendLog) -> object:
        return number(duration(log))

    def refuse_writing(self, request: HttpRequest, obj: SpendLog | None = None) -> bool:
        return False

    has_add_permission = has_change_permission = has_delete_permission = refuse_writing

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        log = self.get_object(request, unquote(object_id))
        if log is None:
            missing: HttpResponse = self._get_obj_does_not_exist_redirect(request, self.opts, object_id)
            return missing
        lines = list(token_lines(log))
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": _("Spend log"),
            "log": log,
            "lines": lines,
            "cost_exact": None if log.cost_pusd is None else usd_text(log.cost_pusd),
            "cost": cost(log),
            "outcome": outcome(log),
            "took": duration(log),
            "first_token_after": seconds(log.first_token_at - log.started_at) if log.first_token_at else None,
            "first_token_percent": first_token_percent(log),
            "total_tokens": f"{token_sum(log, COUNTS):,}",
            "started": timestamp(log.started_at, whole=True),
            "ended": timestamp(log.ended_at, whole=True),
            "priced": timestamp(log.priced_at, whole=True),
            "organization": Organization.objects.filter(pk=log.organization_id).first(),
            "team": Team.objects.filter(pk=log.team_id).first() if log.team_id else None,
            "key": VirtualKey.objects.filter(pk=log.key_id).first() if log.key_id else None,
            "tags": tag_list(log.tags),
            "metadata": "" if log.metadata in ("", "{}") else pretty(log.metadata),
            "usage": pretty(log.usage),
        }
        request.current_app = self.admin_site.name
        return TemplateResponse(request, "console/spend_log.html", context)


def tag_list(text: str) -> list[str]:
    try:
        tags = json.loads(text or "[]")
    except ValueError:
        return [text]
    return [str(tag) for tag in tags] if isinstance(tags, list) else [text]


def first_token_percent(log: SpendLog) -> int | None:
    """Where in the call's time the first token came, for the timings bar."""
    if log.first_token_at is None or log.ended_at is None or log.ended_at <= log.started_at:
        return None
    share = (log.first_token_at - log.started_at) / (log.ended_at - log.started_at)
    return min(100, max(0, round(share * 100)))
