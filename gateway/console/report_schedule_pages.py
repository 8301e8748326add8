"""The pages of a scheduled report: a new one, and one that is changed, sent now or deleted."""

from collections.abc import Mapping

from django.contrib import messages
from django.contrib.admin import AdminSite
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from billing.models import AlertChannel, AlertDelivery, ReportSchedule
from billing.report_schedules.runs import make_now, send_now
from billing.report_schedules.writes import change_schedule, create_schedule, delete_schedule
from gateway.console.alert_owner import add_refusal, find_row, may_choose_owner
from gateway.console.report_choice import find_zone
from gateway.console.report_schedule_form import FIELD_OF_PARAM, ScheduleForm
from gateway.protocol.errors import BadRequest, ClientFault, Forbidden, GatewayFault
from tenants.invalid import ArgumentInvalid
from tenants.permissions import Area
from tenants.rest.client_departure import departure_of
from tenants.session_rights import caller_of, readable_rows

MAX_ID = 255


def show_new_schedule(site: AdminSite, request: HttpRequest) -> HttpResponse:
    """The form has the channels of one owner, which are few. Who chooses it asks for them with `show_channels`."""
    channels = list(_find_channels(request))
    is_asking = "show_channels" in request.POST
    proposed = {"time_zone": find_zone(request), **_read_owner(request.GET)}
    initial = {**request.POST.dict(), "is_enabled": "is_enabled" in request.POST} if is_asking else proposed
    form = ScheduleForm(request, None if is_asking else request.POST or None, channels, initial=initial)
    if request.method == "POST" and not is_asking and form.is_valid():
        try:
            create_schedule(form.find_owner(), form.settings())
        except (ArgumentInvalid, BadRequest, Forbidden) as refusal:
            add_refusal(form, refusal, {**FIELD_OF_PARAM, "channel_ids": "channels"})
        else:
            messages.success(request, _("The report is scheduled."))
            return HttpResponseRedirect(reverse("admin:alerts"))
    return _render(site, request, form, None, has_channels=bool(channels))


def _find_channels(request: HttpRequest) -> QuerySet[AlertChannel]:
    """Those of the organization that the form names, or of the platform; of other users' forms their own."""
    rows = readable_rows(request, Area.ALERTS, AlertChannel.objects.select_related("organization"))
    if may_choose_owner(request):
        owner = _read_owner(request.POST if request.method == "POST" else request.GET)
        return rows.filter(organization=owner.get("organization"))
    caller = caller_of(request)
    return rows.filter(organization=caller.organization_id if caller is not None else None)


def _read_owner(fields: Mapping[str, str]) -> dict[str, str]:
    """Empty for the platform."""
    owner = fields.get("organization", "").replace("\0", "")[:MAX_ID]
    return {"organization": owner} if owner else {}


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
    form = ScheduleForm(request, request.POST or None, owned, row=row)
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
