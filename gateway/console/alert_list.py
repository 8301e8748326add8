"""The page of alerts: channels, scheduled reports, and what was sent where."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from django.contrib.admin import AdminSite
from django.db.models import Exists, OuterRef, QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from billing.models import Alert, AlertChannel, AlertDelivery, ReportSchedule
from gateway.console.alert_owner import may_change_alerts, sees_all
from gateway.console.report_schedule_form import describe_timing
from tenants.admin.console import Context, timestamp
from tenants.permissions import Area
from tenants.session_rights import readable_rows

if TYPE_CHECKING:
    from django_stubs_ext import StrOrPromise

ALERTS = 50  # of a page
MAX_ROWS = 200  # channels, and schedules: those of four organizations at least
MAX_DELIVERIES = 20  # of one alert
#: State of deliveries → its badge, and its words.
STATES: Mapping[str, tuple[str, "StrOrPromise"]] = {
    AlertDelivery.State.PENDING: ("info", _("waiting")),
    AlertDelivery.State.DELIVERED: ("success", _("delivered")),
    AlertDelivery.State.FAILED: ("danger", _("failed")),
}


@dataclass(frozen=True, slots=True)
class DeliveryText:
    channel: str
    badge: str
    state: "StrOrPromise"
    error: str
    attempts: int
    next_at: SafeString | str  # empty where it is not tried again


@dataclass(frozen=True, slots=True)
class AlertText:
    alert: Alert
    at: SafeString | str
    deliveries: Sequence[DeliveryText]


@dataclass(frozen=True, slots=True)
class ScheduleText:
    schedule: ReportSchedule
    when: str
    next_at: SafeString | str
    last_sent: SafeString | str


def show_alerts(site: AdminSite, request: HttpRequest) -> HttpResponse:
    """The newest alerts, or with `before` those older than one; with `state` those with such a delivery."""
    state = request.GET.get("state", "")
    state = state if state in STATES else ""
    channels = readable_rows(request, Area.ALERTS, AlertChannel.objects.select_related("organization"))
    schedules = readable_rows(request, Area.ALERTS, ReportSchedule.objects.select_related("organization"))
    shown_channels = list(channels.order_by("name", "id")[:MAX_ROWS])
    shown_schedules = list(schedules.order_by("name", "id")[:MAX_ROWS])
    context: Context = {
        **site.each_context(request),
        "title": _("Alerts"),
        "channels": shown_channels,
        "schedules": [_describe_schedule(row) for row in shown_schedules],
        "is_cut": MAX_ROWS in {len(shown_channels), len(shown_schedules)},
        "most": MAX_ROWS,
        "may_change": may_change_alerts(request),
        "sees_all": sees_all(request),
        "state": state,
        "states": [("", _("All")), *((name, words) for name, (_badge, words) in STATES.items())],
        **_find_alerts(request, state),
    }
    return TemplateResponse(request, "console/alerts.html", context)


def _find_alerts(request: HttpRequest, state: str) -> Context:
    deliveries = readable_rows(request, Area.ALERTS, AlertDelivery.objects.all())
    rows: QuerySet[Alert] = readable_rows(request, Area.ALERTS, Alert.objects.select_related("organization"))
    rows = rows.order_by("-id")
    if before := request.GET.get("before", "").replace("\0", "")[:36]:
        rows = rows.filter(id__lt=before)
    if state:
        rows = rows.filter(Exists(deliveries.filter(alert=OuterRef("pk"), state=state)))
    alerts = list(rows[: ALERTS + 1])
    shown = alerts[:ALERTS]
    found: defaultdict[str, list[DeliveryText]] = defaultdict(list)
    for row in deliveries.filter(alert__in=shown).select_related("channel").order_by("channel__name", "id"):
        if len(found[row.alert_id]) < MAX_DELIVERIES:
            found[row.alert_id].append(_describe_delivery(row))
    older = urlencode({"before": shown[-1].id, "state": state}) if len(alerts) > ALERTS else ""
    texts = [AlertText(row, timestamp(row.created_at), found[row.id]) for row in shown]
    return {"alerts": texts, "older": f"?{older}" if older else ""}


def _describe_delivery(row: AlertDelivery) -> DeliveryText:
    badge, state = STATES[row.state]
    is_waiting = row.state == AlertDelivery.State.PENDING
    next_at = timestamp(row.next_at) if is_waiting and row.attempts else ""
    return DeliveryText(row.channel.name, badge, state, row.error, row.attempts, next_at)


def _describe_schedule(row: ReportSchedule) -> ScheduleText:
    next_at = timestamp(row.next_at) if row.is_enabled else "–"
    return ScheduleText(row, describe_timing(row), next_at, timestamp(row.last_sent_at))
