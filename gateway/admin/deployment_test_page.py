"""The page that tests a deployment by one real call, and shows what came of it."""

from datetime import timedelta
from typing import Any

from django import forms
from django.contrib import admin
from django.http import HttpRequest
from django.template.response import TemplateResponse
from django.utils.translation import gettext_lazy as _
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextareaWidget

from billing.admin.spend_cells import format_span
from gateway.models import Deployment
from gateway.pipeline.probe import MAX_PROMPT_CHARS, PROMPT, ProbeMode
from gateway.protocol.amounts import usd_exact
from gateway.protocol.errors import Fault
from gateway.stores.deployment_probe import ProbeReport, probe_deployment
from tenants.admin.console import Context
from tenants.permissions import Caller

MODES = {
    ProbeMode.CHAT: _("Chat"),
    ProbeMode.COMPLETION: _("Completion"),
    ProbeMode.EMBEDDING: _("Embedding"),
    ProbeMode.RESPONSES: _("Response"),
}


class TestForm(forms.Form):
    mode = forms.ChoiceField(
        label=_("Kind of call"),
        choices=[("", _("As the model is"))] + [(mode.value, title) for mode, title in MODES.items()],
        required=False,
        widget=UnfoldAdminSelectWidget(),
    )
    prompt = forms.CharField(
        label=_("Prompt"),
        initial=PROMPT,
        max_length=MAX_PROMPT_CHARS,
        widget=UnfoldAdminTextareaWidget(attrs={"rows": 3}),
    )


def show_test(
    site: admin.AdminSite, options: Any, request: HttpRequest, deployment: Deployment, caller: Caller
) -> TemplateResponse:
    """Makes the call on POST alone: it costs money."""
    form = TestForm(request.POST or None)
    report: ProbeReport | None = None
    refusal = ""
    if request.method == "POST" and form.is_valid():
        cleaned = form.cleaned_data
        try:
            report = probe_deployment(deployment, caller, mode=cleaned["mode"], prompt=cleaned["prompt"])
        except Fault as fault:
            refusal = fault.message
    context = {
        **site.each_context(request),
        "opts": options,
        "title": _("Test a deployment"),
        "deployment": deployment,
        "form": form,
        "refusal": refusal,
        "report": describe(report) if report is not None else None,
    }
    return TemplateResponse(request, "console/deployment_test.html", context)


def describe(report: ProbeReport) -> Context:
    result, fault = report.result, report.result.fault
    return {
        "is_success": fault is None,
        "kind": MODES[result.mode],
        "text": result.text,
        "took": format_span(timedelta(seconds=result.latency_s)),
        "input_tokens": f"{sum(attempt.usage.total_input for attempt in result.attempts):,}",
        "output_tokens": f"{sum(attempt.usage.total_output for attempt in result.attempts):,}",
        "cost": None if report.cost_pusd is None else usd_exact(report.cost_pusd),
        "served_model": result.served_model,
        "request_id": result.request_id,
        "fault": fault,
    }
