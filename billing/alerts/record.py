"""Writes alerts, each once, with their deliveries."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice

from django.db import transaction
from django_scopes import scopes_disabled

from billing.models import Alert, AlertChannel, AlertDelivery, AlertKind
from gateway.protocol.json.types import JsonObject
from tenants.ids import new_id

MAX_TITLE = 500
MAX_KEY = 700
BATCH = 500
KEPT_FOR = timedelta(days=400)  # longer than most windows of budgets, whose alerts come once


@dataclass(frozen=True, slots=True)
class NewAlert:
    """`key` tells it from all others: another one with the same key is not written. Without an organization it is the
    platform's. `is_quiet`: it only takes its key; a larger one of the same cause is sent in its place."""

    kind: AlertKind
    key: str
    title: str
    organization_id: str | None = None
    data: JsonObject = field(default_factory=dict)
    is_quiet: bool = False


def record_alerts(found: Iterable[NewAlert], now: datetime) -> int:
    """Returns how many were new."""
    made, rest = 0, iter(found)
    while some := list(islice(rest, BATCH)):
        with scopes_disabled():  # the worker writes the alerts of all organizations
            keys = [one.key[:MAX_KEY] for one in some]
            known = set(Alert.objects.filter(key__in=keys).values_list("key", flat=True))
            made += sum(record_alert(one, now) for one in some if one.key[:MAX_KEY] not in known)
    return made


def purge_alerts(now: datetime) -> None:
    """Deletes old alerts with their deliveries, a batch at a time."""
    with scopes_disabled():  # retention spans all organizations
        old = Alert.objects.filter(created_at__lt=now - KEPT_FOR).order_by("created_at").values_list("pk")
        Alert.objects.filter(pk__in=[pk for (pk,) in old[:BATCH]]).delete()


def record_alert(one: NewAlert, now: datetime) -> bool:
    """False where another process has written it."""
    with transaction.atomic():
        row = Alert(
            id=new_id(),
            organization_id=one.organization_id,
            kind=one.kind,
            key=one.key[:MAX_KEY],
            title=one.title[:MAX_TITLE],
            data=one.data,
        )
        # Two processes may find it at once: one of them inserts nothing, and the database alone tells which
        Alert.objects.bulk_create([row], ignore_conflicts=True)
        if not Alert.objects.filter(id=row.id).exists():
            return False
        if not one.is_quiet:
            deliver_to(row, find_channels(one), now)
        return True


def find_channels(one: NewAlert) -> list[AlertChannel]:
    """Those of its organization, and the platform's, that want this kind."""
    channels = AlertChannel.objects.filter(is_enabled=True)
    owners = channels.filter(organization=None)
    if one.organization_id is not None:
        owners |= channels.filter(organization_id=one.organization_id)
    return [channel for channel in owners if not channel.alert_kinds or one.kind in channel.alert_kinds]


def deliver_to(alert: Alert, channels: Iterable[AlertChannel], now: datetime) -> list[AlertDelivery]:
    rows = [
        AlertDelivery(id=new_id(), organization_id=channel.organization_id, alert=alert, channel=channel, next_at=now)
        for channel in channels
    ]
    return AlertDelivery.objects.bulk_create(rows)
