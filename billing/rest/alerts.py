"""/api/alert-channels, /api/alerts and /api/alert-deliveries."""

from collections.abc import Sequence
from typing import Any

from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from billing.alerts.channels import (
    ALERT_KINDS,
    MAX_URL,
    ChannelUnusable,
    change_channel,
    create_channel,
    delete_channel,
    rotate_secret,
)
from billing.alerts.record import send_test
from billing.models import Alert, AlertChannel, AlertDelivery, AlertKind
from gateway.protocol.errors import ClientFault
from gateway.protocol.json.types import JsonObject
from tenants.api.fields import Body, Choice, Flag, Text, texts
from tenants.api.resource import Filter, Operation, Resource
from tenants.keys import find_organization
from tenants.permissions import Area, Caller, Reach, reach_of
from tenants.rest.authentication import caller_of
from tenants.rest.fields import render_instant

KINDS = AlertChannel.Kind.values


class ChannelChange(Body):
    name = Text(required=False, allow_blank=False)
    url = Text(
        required=False,
        allow_blank=False,
        write_only=True,
        max_length=MAX_URL,
        help_text="Kept secret: answers show its host.",
    )
    recipients = texts(required=False, help_text="The addresses of a channel of the kind email.")
    alert_kinds = texts(required=False, help_text=f"Empty for all: {', '.join(ALERT_KINDS)}.")
    is_enabled = Flag(required=False)


class NewChannel(ChannelChange):
    name = Text(allow_blank=False)
    kind = Choice(choices=KINDS)
    organization_id = Text(
        required=False, allow_null=True, help_text="null: the platform's, which gets the alerts of all organizations."
    )
    secret = Text(
        required=False, allow_blank=False, write_only=True, help_text="The one in Feishu's or DingTalk's settings."
    )


class ChannelRow(serializers.Serializer[Any]):
    id = serializers.CharField()
    organization_id = serializers.CharField(allow_null=True)
    name = serializers.CharField()
    kind = serializers.ChoiceField(choices=KINDS)
    hint = serializers.CharField(help_text="The part of the address that is no secret.")
    alert_kinds = serializers.ListField(child=serializers.CharField())
    is_enabled = serializers.BooleanField()
    created_at = serializers.DateTimeField()


class CreatedChannel(ChannelRow):
    secret = serializers.CharField(help_text="The whsec_ secret of a webhook, shown this once; empty for other kinds.")


class AlertRow(serializers.Serializer[Any]):
    id = serializers.CharField()
    organization_id = serializers.CharField(allow_null=True)
    kind = serializers.CharField()
    title = serializers.CharField()
    details = serializers.DictField()
    created_at = serializers.DateTimeField()


class DeliveryRow(serializers.Serializer[Any]):
    id = serializers.CharField()
    organization_id = serializers.CharField(allow_null=True, help_text="The channel's.")
    alert_id = serializers.CharField()
    channel_id = serializers.CharField()
    state = serializers.ChoiceField(choices=AlertDelivery.State.values)
    attempts = serializers.IntegerField()
    status_code = serializers.IntegerField(allow_null=True)
    error = serializers.CharField()
    next_at = serializers.DateTimeField(allow_null=True, help_text="When it is tried again.")
    created_at = serializers.DateTimeField()
    ended_at = serializers.DateTimeField(allow_null=True)


class AlertChannels(Resource[AlertChannel]):
    area = Area.ALERTS
    least_reach = Reach.ORGANIZATION
    noun = "alert channel"
    id_name = "alert_channel_id"
    operations = {
        "list_rows": Operation("List alert channels", answer=ChannelRow),
        "create": Operation("Create an alert channel", 201, CreatedChannel, NewChannel),
        "show": Operation("Show an alert channel", answer=ChannelRow),
        "update": Operation("Change an alert channel", answer=ChannelRow, body=ChannelChange),
        "delete_one": Operation("Delete an alert channel", 204),
        "test": Operation("Send a test alert to a channel", 202, DeliveryRow),
        "rotate": Operation("Rotate the secret of a webhook", answer=CreatedChannel),
    }
    filters = {"organization_id": Filter("organization_id"), "kind": Filter("kind", choices=KINDS)}

    def queryset(self) -> QuerySet[AlertChannel]:
        return AlertChannel.objects.all()

    def render(self, rows: Sequence[AlertChannel]) -> list[JsonObject]:
        return [
            {
                "id": row.id,
                "organization_id": row.organization_id,
                "name": row.name,
                "kind": row.kind,
                "hint": row.hint,
                "alert_kinds": row.alert_kinds,
                "is_enabled": row.is_enabled,
                "created_at": render_instant(row.created_at),
            }
            for row in rows
        ]

    def create(self, request: Request, **names: str) -> Response:
        body = self.read()
        caller = caller_of(request)
        is_platform = reach_of(caller, self.area, write=True) == Reach.PLATFORM
        owner = body.pop("organization_id", None)
        organization = None if is_platform and owner is None else find_organization(owner)
        with transaction.atomic():
            made = create_channel(organization=organization, **body)
        return Response({**self.render([made.channel])[0], "secret": made.secret}, status=201)

    def change(self, caller: Caller, row: AlertChannel, body: dict[str, Any]) -> AlertChannel:
        try:
            return change_channel(row, **body)
        except ChannelUnusable as problem:
            raise _refuse_unusable(problem) from None

    def delete_row(self, caller: Caller, row: AlertChannel) -> None:
        delete_channel(row)

    def test(self, request: Request, **names: str) -> Response:
        self.refuse_body()
        delivery = send_test(self.find(), timezone.now())
        return Response(render_delivery(delivery), status=202)

    def rotate(self, request: Request, **names: str) -> Response:
        self.refuse_body()
        with transaction.atomic():
            channel = self.find()
            try:
                secret = rotate_secret(channel, timezone.now())
            except ChannelUnusable as problem:
                raise _refuse_unusable(problem) from None
        return Response({**self.render([channel])[0], "secret": secret})


def _refuse_unusable(problem: ChannelUnusable) -> ClientFault:
    return ClientFault(str(problem), status=409, code="credential_unusable")


class Alerts(Resource[Alert]):
    area = Area.ALERTS
    least_reach = Reach.ORGANIZATION
    noun = "alert"
    id_name = "alert_id"
    operations = {
        "list_rows": Operation("List alerts", answer=AlertRow),
        "show": Operation("Show an alert", answer=AlertRow),
    }
    filters = {"organization_id": Filter("organization_id"), "kind": Filter("kind", choices=AlertKind.values)}

    def queryset(self) -> QuerySet[Alert]:
        return Alert.objects.all()

    def render(self, rows: Sequence[Alert]) -> list[JsonObject]:
        return [render_alert(row) for row in rows]


class AlertDeliveries(Resource[AlertDelivery]):
    area = Area.ALERTS
    least_reach = Reach.ORGANIZATION
    noun = "alert delivery"
    id_name = "alert_delivery_id"
    operations = {
        "list_rows": Operation("List deliveries of alerts", answer=DeliveryRow),
        "show": Operation("Show a delivery of an alert", answer=DeliveryRow),
    }
    filters = {
        "channel_id": Filter("channel_id"),
        "alert_id": Filter("alert_id"),
        "state": Filter("state", choices=AlertDelivery.State.values),
    }

    def queryset(self) -> QuerySet[AlertDelivery]:
        return AlertDelivery.objects.all()

    def render(self, rows: Sequence[AlertDelivery]) -> list[JsonObject]:
        return [render_delivery(row) for row in rows]


def render_alert(row: Alert) -> JsonObject:
    return {
        "id": row.id,
        "organization_id": row.organization_id,
        "kind": row.kind,
        "title": row.title,
        "details": row.data,
        "created_at": render_instant(row.created_at),
    }


def render_delivery(row: AlertDelivery) -> JsonObject:
    return {
        "id": row.id,
        "organization_id": row.organization_id,
        "alert_id": row.alert_id,
        "channel_id": row.channel_id,
        "state": row.state,
        "attempts": row.attempts,
        "status_code": row.status_code,
        "error": row.error,
        "next_at": render_instant(row.next_at) if row.state == AlertDelivery.State.PENDING else None,
        "created_at": render_instant(row.created_at),
        "ended_at": render_instant(row.ended_at),
    }
