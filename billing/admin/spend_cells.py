"""The cells of spend logs, on the screens that list them and on the dashboard."""

from collections.abc import Iterable
from datetime import timedelta

from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _
from unfold.decorators import display

from billing.models import SpendLog
from billing.pricing import COUNTS
from gateway.protocol.amounts import usd_exact
from tenants.admin.console import badge, clipped_text, code, muted_text, number, two_lines

TOKENS_OUT = ("output_tokens", "output_audio_tokens", "reasoning_tokens")
TOKENS_IN = tuple(name for name in COUNTS if name not in TOKENS_OUT)
CRASHED = _("The gateway process ended before the call did.")


def render_duration(log: SpendLog) -> object:
    return format_span(log.ended_at - log.started_at) if log.ended_at else muted_text("–")


def format_span(span: timedelta) -> str:
    seconds = span.total_seconds()
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.2f} s" if seconds < 60 else f"{int(seconds // 60)} min {int(seconds % 60):02d} s"


@display(description=_("cost"))
def render_cost(log: SpendLog) -> SafeString:
    """The exact amount, or the reason why there is none. An unpriced call is never shown as $0."""
    match log.state:
        case SpendLog.State.PRICED if log.cache_hit:
            return two_lines(number(usd_exact(0)), _("response cache"))
        case SpendLog.State.PRICED:
            return mark_estimate(log, number(usd_exact(log.cost_pusd or 0)))
        case SpendLog.State.UNPRICED:
            return badge("warning", _("unpriced"), log.price_error or _("The deployment has no price."))
        case SpendLog.State.LOST:
            lost = badge("danger", _("lost"), CRASHED)
            return lost if log.cost_pusd is None else two_lines(lost, number(usd_exact(log.cost_pusd)))
        case SpendLog.State.PARKED:
            return badge("danger", _("parked"), log.price_error)
    pending = _("nothing sent") if log.state == SpendLog.State.ABORTED else _("not priced yet")
    return format_html('<span class="tg-muted tg-number">{}</span>', pending)


#: usage source → the reason why an amount is no exact one
ESTIMATES = {
    "estimated": _("The upstream reported no usage: the tokens are estimated."),
    "partial": _("The answer was cut: the upstream reported the input, the output is estimated."),
}


def mark_estimate(log: SpendLog, amount: SafeString) -> SafeString:
    if log.usage_source not in ESTIMATES:
        return amount
    title = ESTIMATES[log.usage_source]
    return format_html(
        '<span class="tg-number" title="{}">{} <span class="tg-muted">{}</span></span>', title, amount, _("est.")
    )


@display(description=_("status"))
def render_outcome(log: SpendLog) -> SafeString:
    """The end of the call as its client saw it."""
    if log.state == SpendLog.State.OPEN:
        return badge("info", _("running"))
    if log.state == SpendLog.State.LOST:
        return badge("danger", _("crashed"), CRASHED)
    if log.error_code == "hedge_lost":
        return badge("neutral", _("outrun"), _("Another deployment, asked at the same time, answered first."))
    if log.finish == "client_gone":
        return badge("warning", _("client left"))
    text = log.error_code or log.finish.replace("_", " ")
    if log.error_code or log.status_code >= 400 or log.finish not in ("", "complete"):
        failure = badge("danger", log.status_code or _("failed"), text)
        return two_lines(failure, text) if text else failure
    if log.state == SpendLog.State.ABORTED:
        return badge("neutral", log.status_code or _("aborted"), _("aborted"))
    return badge("success", log.status_code or _("complete"))


@display(description=_("model group → deployment"))
def render_route(log: SpendLog) -> SafeString:
    return two_lines(
        format_html('<span class="tg-strong">{}</span>', log.model_group), f"→ {log.provider}/{log.upstream_model}"
    )


@display(description=_("key"))
def render_key(log: SpendLog) -> SafeString:
    if log.source:
        return badge("info", log.source, _("A call of the gateway itself, to find out how the deployment is."))
    return code(f"{log.key_digest[:8]}…") if log.key_digest and not log.key_alias else clipped_text(log.key_alias)


@display(description=_("tokens in → out"))
def render_tokens(log: SpendLog) -> SafeString:
    """Input tokens, those of them that were cached, and output tokens."""
    if log.state == SpendLog.State.OPEN or log.usage_source == "none":
        return muted_text("–")
    cached = format_html(
        '<span class="tg-muted" title="{}">({})</span> ', _("read from cache"), f"{log.cache_read_tokens:,}"
    )
    return format_html(
        '<span class="tg-number">{} {}→ {}</span>',
        f"{sum_tokens(log, TOKENS_IN):,}",
        cached if log.cache_read_tokens else "",
        f"{sum_tokens(log, TOKENS_OUT):,}",
    )


def sum_tokens(log: SpendLog, columns: Iterable[str]) -> int:
    return sum(getattr(log, column) for column in columns)
