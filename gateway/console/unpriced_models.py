"""The page of the models that were called without a price, with the ways to give them one."""

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from django.contrib.admin import AdminSite
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from billing.unpriced import UnpricedModel, find_unpriced
from gateway.console.set_price import may_set_prices
from gateway.models import Deployment
from tenants.admin.console import timestamp
from tenants.permissions import Area, Reach
from tenants.session_rights import reach_of_user, readable_rows

SHOWN = 100  # models


@dataclass(frozen=True, slots=True)
class UnpricedLine:
    model: UnpricedModel
    requests: str
    input_tokens: str
    output_tokens: str
    first: SafeString | str
    last: SafeString | str
    deployment: str  # the address of its page; empty where it is gone
    log: str
    set_price: str
    take_suggestion: str


def may_see_prices(request: HttpRequest) -> bool:
    return reach_of_user(request, Area.SETTINGS) >= Reach.PLATFORM


def show_unpriced(site: AdminSite, request: HttpRequest) -> HttpResponse:
    models = find_unpriced()
    shown = models[:SHOWN]
    ids = {model.deployment_id for model in shown}
    stored = readable_rows(request, Area.MODELS, Deployment.objects.filter(pk__in=ids))
    context = {
        **site.each_context(request),
        "title": _("Calls without a price"),
        "lines": _make_lines(shown, set(stored.values_list("pk", flat=True))),
        "more": len(models) - len(shown),
        "may_set": may_set_prices(request),
    }
    return TemplateResponse(request, "console/unpriced_models.html", context)


def _make_lines(models: Sequence[UnpricedModel], stored: set[str]) -> list[UnpricedLine]:
    form, log = reverse("admin:set_price"), reverse("admin:billing_spendlog_changelist")
    lines = []
    for model in models:
        is_stored = model.deployment_id in stored
        suggested = {"model": model.deployment_id, "base_model": model.suggestion}
        of_log = {"deployment_id": model.deployment_id, "model_group": model.model_group, "state": "unpriced"}
        lines.append(
            UnpricedLine(
                model,
                f"{model.requests:,}",
                f"{model.input_tokens:,}",
                f"{model.output_tokens:,}",
                timestamp(model.first_at),
                timestamp(model.last_at),
                deployment=reverse("admin:gateway_deployment_change", args=[model.deployment_id]) if is_stored else "",
                log=f"{log}?{urlencode(of_log)}",
                set_price=f"{form}?{urlencode({'model': model.deployment_id})}" if is_stored else "",
                take_suggestion=f"{form}?{urlencode(suggested)}" if is_stored and model.suggestion else "",
            )
        )
    return lines
