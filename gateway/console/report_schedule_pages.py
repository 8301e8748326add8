"""The pages of a scheduled report: a new one, and one that is changed, sent now or deleted."""

from django.contrib import messages
from django.contrib.admin import AdminSite
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from billing.models import AlertChannel, AlertDelivery, ReportSchedule
from billing.report_schedules.runs import make_now, send_now
from billing.report_schedules.writes import change_schedule, create_schedule, delete_schedule
from gateway.console.alert_owner import add_refusal, find_row
from gateway.console.report_choice import find_zone
from gateway.console.report_schedule_form import FIELD_OF_PARAM, ScheduleForm
from gateway.protocol.errors import BadRequest, ClientFault, Forbidden, GatewayFault
from tenants.invalid import ArgumentInvalid
from tenants.permissions import Area
from tenants.rest.client_departure import departure_of
from tenants.session_rights import readable_rows

MAX_CHANNELS = 200  # in the list of the form


def show_new_schedule(site: AdminSite, request: HttpRequest) -> HttpResponse:
    channels = readable_rows(request, Area.ALERTS, AlertChannel.objects.select_related("organization"))[:MAX_CHANNELS]
    form = ScheduleForm(request, request.POST or None, channels, initial={"time_zone": find_zone(request)})
    if request.method == "POST" and form.is_valid():
        try:
            create_schedule(form.find_owner(), form.settings())
        except (ArgumentInvalid, BadRequest, Forbidden) as refusal:
            add_refusal(form, refusal, {**FIELD_OF_PARAM, "channel_ids": "channels"})
        else:
            messages.success(request, _("The report is scheduled."))
            return HttpResponseRedirect(reverse("admin:alerts"))
    return _render(site, request, form, None, has_channels=bool(channels))


def show_schedule(site: AdminSite, request: HttpRequest, schedule_id: str) -> HttpResponse:
    """POST changes it; with `action` it is sent now or deleted."""
    row = find_row(request, ReportSchedule.objects.all(), schedule_id, write=True)
    action = request.POST.get("action", "")
    if action == "delete":
        delete_schedule(row)
        messages.success(request, _("The report is no longer sent."))
        return HttpResponseRedirect(reverse("admin:alerts"))
    if action == "run":
        _run(request, row)
        return HttpResponseRedirect(reverse("admin:alerts"))
    owned = AlertChannel.objects.filter(organization=row.organization_id)
    form = ScheduleForm(request, request.POST or None, owned[:MAX_CHANNELS], row=row)
    if request.method == "POST" and form.is_valid():
        try:
            change_schedule(row, form.settings())
        except (ArgumentInvalid, BadRequest, Forbidden) as refusal:
            add_refusal(form, refusal, {**FIELD_OF_PARAM, "channel_ids": "channels"})
        else:
            messages.success(request, _("The scheduled report is changed."))
            return HttpResponseRedirect(reverse("admin:alerts"))
    return _render(site, request, form, row, has_channels=True)


def _run(request: HttpRequest, row: ReportSchedule) -> None:
    try:
        made = make_now(row, timezone.now(), departure_of(request))
        alert = send_now(row, made, timezone.now())
    except (ClientFault, GatewayFault) as fault:
        messages.error(request, fault.message)
        return
    if AlertDelivery.objects.filter(alert=alert).exists():
        messages.success(request, _("The report is on its way. The log of alerts tells when it has arrived."))
    else:
        messages.warning(request, _("The report is made, but none of its channels is enabled: it goes nowhere."))


def _render(
    site: AdminSite, request: HttpRequest, form: ScheduleForm, row: ReportSchedule | None, *, has_channels: bool
) -> HttpResponse:
    context = {
        **site.each_context(request),
        "title": _("Schedule a report") if row is None else _("Scheduled report"),
        "form": form,
        "row": row,
        "has_channels": has_channels,
    }
    return TemplateResponse(request, "console/report_schedule.html", context)
