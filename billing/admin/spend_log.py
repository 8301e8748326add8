"""Screens of the spend log: read-only, newest first."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from django.contrib import admin
from django.db import models
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext
from unfold.decorators import display

from billing.admin.log_filters import FILTERS
from billing.admin.log_list import LogChangeList
from billing.admin.request_attempts import LARGE, fold_one, folded
from billing.admin.spend_cells import (
    format_span,
    render_cost,
    render_duration,
    render_key,
    render_outcome,
    render_route,
    render_tokens,
    sum_tokens,
)
from billing.amounts import plain, price_label
from billing.call_context import make_context, read_raw_usage
from billing.models import Price, SpendLog
from billing.pricing import COUNTS, PriceContext, PriceLines, cache_saving, component_cost, itemize
from gateway.protocol.amounts import PLACES, usd_exact, usd_text
from tenants.admin.console import (
    Context,
    ReadOnlyAdmin,
    indent_json,
    number,
    timestamp,
    two_lines,
)
from tenants.models import Organization, Team, VirtualKey
from tenants.permissions import Area

if TYPE_CHECKING:
    from django_stubs_ext import StrOrPromise

# The detail page


@dataclass(frozen=True, slots=True)
class TokenLine:
    title: "StrOrPromise"
    tokens: str
    price: str | None  # USD per million tokens; None if unknown
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


def find_price(log: SpendLog) -> PriceLines:
    price = Price.objects.filter(id=log.price_id).first() if log.price_id else None
    return PriceLines.read(price.lines if price else {})


def read_context(log: SpendLog, price: PriceLines) -> PriceContext:
    return make_context(log.service_tier, log.started_at, log.ended_at, read_raw_usage(price, log.usage))


def render_cache_saving(log: SpendLog) -> str | None:
    """The saving against the full input price, exact; a minus where the cache cost more than it saved."""
    price = find_price(log)
    saving = cache_saving([getattr(log, column) for column in COUNTS], price, read_context(log, price))
    return None if saving is None else usd_exact(saving)


def token_lines(log: SpendLog) -> Iterator[TokenLine]:
    """One line per kind of token that the call used, always one for input and one for output; then what is charged
    beside tokens."""
    price, counts = find_price(log), [getattr(log, column) for column in COUNTS]
    context = read_context(log, price)
    lines = {line.name: line for line in itemize(counts, price, context) or ()}
    for column, unit in zip(COUNTS, price.select(counts, context).per_token, strict=True):
        title, count = TOKEN_TITLES[column], getattr(log, column)
        if not count and column not in ("input_tokens", "output_tokens"):
            continue
        if unit is None:
            yield TokenLine(title, f"{count:,}", None, None)
            continue
        usd_per_token = plain(Decimal(unit).scaleb(-PLACES))
        amount = usd_exact(lines[column].pusd if column in lines else component_cost(count, unit))
        yield TokenLine(title, f"{count:,}", price_label(usd_per_token), amount)
    for name, line in lines.items():
        if name not in COUNTS and line.pusd:
            yield TokenLine(name.replace("_", " "), f"{line.quantity:,}", None, usd_exact(line.pusd))


@admin.register(SpendLog)
class SpendLogAdmin(ReadOnlyAdmin):
    detail_template = "console/spend_log.html"
    area = Area.SPEND
    list_display = ["time", "key", "route", "operation_display", "tokens_display", "cost_display", "status", "took"]
    list_display_links = ["time"]
    list_filter = list(FILTERS)
    search_fields = ["request_id"]
    search_help_text = _("Search by request id or upstream id")
    ordering = ["-id"]
    actions = None
    row_detail_template = "console/attempts.html"
    key = staticmethod(render_key)
    route = staticmethod(render_route)
    status = staticmethod(render_outcome)

    def get_changelist(self, request: HttpRequest, **kwargs: object) -> type[LogChangeList]:
        return LogChangeList

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[SpendLog]:
        rows: models.QuerySet[SpendLog] = super().get_queryset(request)
        return rows.defer(*LARGE)

    @display(description=_("time"))
    def time(self, log: SpendLog) -> SafeString | str:
        return timestamp(folded(log).total.started_at)

    @display(description=_("tokens in → out"))
    def tokens_display(self, log: SpendLog) -> SafeString:
        tokens: SafeString = render_tokens(folded(log).total)
        return tokens

    @display(description=_("cost"))
    def cost_display(self, log: SpendLog) -> SafeString:
        return folded(log).render_cost()

    @display(description=_("operation"))
    def operation_display(self, log: SpendLog) -> SafeString | str:
        return two_lines(log.operation, _("stream")) if log.stream else log.operation

    @display(description=_("took"))
    def took(self, log: SpendLog) -> SafeString:
        """The time, and where there is more to tell the count of the attempts as a button that shows them."""
        one = folded(log)
        took = number(render_duration(one.total))
        if not one.has_more_to_tell:
            return took
        count = len(one.attempts)
        label = ngettext("%d attempt", "%d attempts", count) % count
        button = format_html(
            '<button type="button" class="tg-fold" x-on:click="open = !open" x-bind:aria-expanded="open"'
            ' aria-expanded="false" aria-label="{}" title="{}">{}</button>',
            label,
            label,
            count,
        )
        return format_html('<span class="tg-two">{}{}</span>', took, button)

    def has_delete_permission(self, request: HttpRequest, obj: SpendLog | None = None) -> bool:
        return False

    def describe(self, log: SpendLog, request: HttpRequest) -> Context:
        request_attempts = fold_one(request, log)
        return {
            "title": _("Spend log"),
            "log": log,
            "attempts": request_attempts.lines(log.pk),
            "attempts_cost": request_attempts.render_cost(),
            "lines": list(token_lines(log)),
            "cache_saving": render_cache_saving(log),
            "cost_exact": None if log.cost_pusd is None else usd_text(log.cost_pusd),
            "cost": render_cost(log),
            "outcome": render_outcome(log),
            "took": render_duration(log),
            "first_token_after": format_span(log.first_token_at - log.started_at) if log.first_token_at else None,
            "first_token_percent": compute_first_token_percent(log),
            "total_tokens": f"{sum_tokens(log, COUNTS):,}",
            "started": timestamp(log.started_at, is_complete=True),
            "ended": timestamp(log.ended_at, is_complete=True),
            "priced": timestamp(log.priced_at, is_complete=True),
            "organization": Organization.objects.filter(pk=log.organization_id).first(),
            "team": Team.objects.filter(pk=log.team_id).first() if log.team_id else None,
            "key": VirtualKey.objects.filter(pk=log.key_id).first() if log.key_id else None,
            "tags": read_tags(log.tags),
            "metadata": "" if log.metadata in ("", "{}") else indent_json(log.metadata),
            "usage": indent_json(log.usage),
        }


def read_tags(text: str) -> list[str]:
    try:
        tags = json.loads(text or "[]")
    except ValueError:
        return [text]
    return [str(tag) for tag in tags] if isinstance(tags, list) else [text]


def compute_first_token_percent(log: SpendLog) -> int | None:
    """The time until the first token as a percentage of the whole call, for the timings bar."""
    if log.first_token_at is None or log.ended_at is None or log.ended_at <= log.started_at:
        return None
    share = (log.first_token_at - log.started_at) / (log.ended_at - log.started_at)
    return min(100, max(0, round(share * 100)))
