"""/api/report-schedules: reports of spend that are made and sent again and again."""

from collections.abc import Sequence
from typing import Any

from django.db.models import QuerySet
from django.utils import timezone
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from billing.models import ReportSchedule
from billing.report_schedules.made import MadeReport
from billing.report_schedules.periods import PERIODS
from billing.report_schedules.runs import make_now, send_now
from billing.report_schedules.timing import WEEKDAYS
from billing.report_schedules.writes import FORMATS, Settings, change_schedule, create_schedule, delete_schedule
from billing.reports.query import DIMENSIONS, FILTERS, MORE_MEASURES
from billing.rest.alerts import AlertRow, render_alert
from gateway.protocol.json.types import JsonObject
from tenants.api.fields import Body, Choice, Flag, Text, Whole, texts
from tenants.api.resource import Filter, Operation, Resource
from tenants.keys import find_organization
from tenants.permissions import Area, Caller, Reach, reach_of
from tenants.rest.client_departure import departure_of
from tenants.rest.fields import render_instant

FREQUENCIES = ReportSchedule.Frequency.values
MAX_GROUP_CHARS = 100


class ScheduleChange(Body):
    name = Text(required=False, allow_blank=False)
    group_by = Text(
        required=False,
        allow_blank=False,
        max_length=MAX_GROUP_CHARS,
        help_text=f"One or two of {', '.join(DIMENSIONS)}, with a comma between.",
    )
    period = Choice(
        choices=list(PERIODS), required=False, help_text="The days that it tells of; a week is Monday to Sunday."
    )
    tz = Text(required=False, allow_blank=False, help_text="A time zone; that of the organization without it.")
    format = Choice(choices=FORMATS, required=False, help_text="Of the file in a mail; csv without it.")
    frequency = Choice(choices=FREQUENCIES, required=False)
    weekday = Choice(choices=WEEKDAYS, required=False, help_text="Of a weekly one; monday without it.")
    day = Whole(
        required=False,
        min_value=1,
        max_value=31,
        help_text="Of a monthly one, or the last of a shorter month; 1 without it.",
    )
    hour = Whole(required=False, max_value=23, help_text="By the clock of `tz`; 8 without it.")
    channel_ids = texts(required=False, help_text="1 to 10 alert channels of the same organization.")
    is_enabled = Flag(required=False)
    filters = serializers.DictField(
        child=Text(),
        required=False,
        help_text=f"The rows of these members alone: {', '.join(FILTERS)}, one member of each; {{}}: all rows.",
    )
    measures = Text(
        required=False,
        max_length=MAX_GROUP_CHARS,
        help_text=f"More measures: {', '.join(MORE_MEASURES)} (in schedules of the platform), with a comma between.",
    )


class NewSchedule(ScheduleChange):
    name = Text(allow_blank=False)
    group_by = Text(
        allow_blank=False,
        max_length=MAX_GROUP_CHARS,
        help_text=f"One or two of {', '.join(DIMENSIONS)}, with a comma between.",
    )
    period = Choice(choices=list(PERIODS), help_text="The days that it tells of; a week is Monday to Sunday.")
    frequency = Choice(choices=FREQUENCIES)
    channel_ids = texts(help_text="1 to 10 alert channels of the same organization.")
    organization_id = Text(
        required=False, allow_null=True, help_text="null: the platform's, which tells the spend of all organizations."
    )


class ScheduleRow(serializers.Serializer[Any]):
    id = serializers.CharField()
    organization_id = serializers.CharField(allow_null=True)
    name = serializers.CharField()
    group_by = serializers.CharField()
    period = serializers.ChoiceField(choices=list(PERIODS))
    tz = serializers.CharField()
    format = serializers.ChoiceField(choices=FORMATS)
    frequency = serializers.ChoiceField(choices=FREQUENCIES)
    weekday = serializers.ChoiceField(choices=WEEKDAYS, allow_null=True)
    day = serializers.IntegerField(allow_null=True)
    hour = serializers.IntegerField()
    channel_ids = serializers.ListField(child=serializers.CharField())
    is_enabled = serializers.BooleanField()
    next_at = serializers.DateTimeField(allow_null=True, help_text="When it is due; null while it is not enabled.")
    last_sent_at = serializers.DateTimeField(allow_null=True)
    error = serializers.CharField(help_text="Of the last attempt to make it; empty after a success.")
    created_at = serializers.DateTimeField()
    filters = serializers.DictField(child=serializers.CharField(), help_text="Dimension → its one member.")
    measures = serializers.CharField(help_text="Those beside the usual ones; empty for none.")


class ReportSchedules(Resource[ReportSchedule]):
    area = Area.ALERTS
    least_reach = Reach.ORGANIZATION
    noun = "report schedule"
    id_name = "report_schedule_id"
    operations = {
        "list_rows": Operation("List report schedules", answer=ScheduleRow),
        "create": Operation("Create a report schedule", 201, ScheduleRow, NewSchedule),
        "show": Operation("Show a report schedule", answer=ScheduleRow),
        "update": Operation("Change a report schedule", answer=ScheduleRow, body=ScheduleChange),
        "delete_one": Operation("Delete a report schedule", 204),
        "run": Operation("Send the report of a schedule now", 202, AlertRow),
    }
    filters = {"organization_id": Filter("organization_id")}
    made: MadeReport  # of `run`

    def queryset(self) -> QuerySet[ReportSchedule]:
        return ReportSchedule.objects.all()

    def render(self, rows: Sequence[ReportSchedule]) -> list[JsonObject]:
        return [
            {
                "id": row.id,
                "organization_id": row.organization_id,
                "name": row.name,
                "group_by": row.group_by,
                "period": row.period,
                "tz": row.time_zone,
                "format": row.format,
                "frequency": row.frequency,
                "weekday": row.weekday or None,
                "day": row.day,
                "hour": row.hour,
                "channel_ids": row.channel_ids,
                "is_enabled": row.is_enabled,
                "next_at": render_instant(row.next_at) if row.is_enabled else None,
                "last_sent_at": render_instant(row.last_sent_at),
                "error": row.error,
                "created_at": render_instant(row.created_at),
                "filters": row.filters,
                "measures": row.measures,
            }
            for row in rows
        ]

    def make(self, caller: Caller, body: dict[str, Any]) -> ReportSchedule:
        is_platform = reach_of(caller, self.area, write=True) == Reach.PLATFORM
        owner = body.pop("organization_id", None)
        organization = None if is_platform and owner is None else find_organization(owner)
        return create_schedule(organization, read_settings(body))

    def change(self, caller: Caller, row: ReportSchedule, body: dict[str, Any]) -> ReportSchedule:
        return change_schedule(row, read_settings(body))

    def delete_row(self, caller: Caller, row: ReportSchedule) -> None:
        delete_schedule(row)

    def initial(self, request: Request, *args: object, **kwargs: object) -> None:
        """Makes the report of `run` before the transaction that an Idempotency-Key begins."""
        super().initial(request, *args, **kwargs)
        if self.action == "run":
            self.refuse_body()
            self.made = make_now(self.find(), timezone.now(), departure_of(request))

    def run(self, request: Request, **names: str) -> Response:
        alert = send_now(self.find(), self.made, timezone.now())
        return Response(render_alert(alert), status=202)


def read_settings(body: dict[str, Any]) -> Settings:
    zone = body.pop("tz", None)
    return Settings(time_zone=zone, **body)
