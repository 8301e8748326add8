"""Writes alerts, each once, with their deliveries."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice

from django.db import transaction
from django_scopes import scopes_disabled

from billing.models import Alert, AlertChannel, AlertDelivery, AlertKind
from gateway.protocol.errors import RateLimited
from gateway.protocol.json.types import JsonObject
from tenants.ids import new_id
from tenants.revision import write_transaction

MAX_TITLE = 500
MAX_KEY = 700
BATCH = 500
#: Tests that are sent in TEST_PERIOD at most: a channel's address may be a stranger's.
TESTS_OF_CHANNEL, TESTS_OF_ORGANIZATION = 5, 20
TEST_PERIOD = timedelta(minutes=10)
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


def send_test(channel: AlertChannel, now: datetime) -> AlertDelivery:
    """Raises RateLimited. Tests are counted one after the other, so those that come at once stay within the limit."""
    with write_transaction():
        _count_tests(channel, now)
        alert_id = new_id()
        alert = Alert.objects.create(
            id=alert_id,
            organization_id=channel.organization_id,
            kind=AlertKind.TEST,
            key=f"test:{alert_id}",
            title=f"A test of the alert channel {channel.name}"[:MAX_TITLE],
        )
        [delivery] = deliver_to(alert, [channel], now)
    return delivery


def _count_tests(channel: AlertChannel, now: datetime) -> None:
    recent = Alert.objects.filter(
        kind=AlertKind.TEST, organization_id=channel.organization_id, created_at__gt=now - TEST_PERIOD
    )
    sent = AlertDelivery.objects.filter(alert__in=recent)
    if sent.filter(channel=channel).count() >= TESTS_OF_CHANNEL or recent.count() >= TESTS_OF_ORGANIZATION:
        minutes = TEST_PERIOD // timedelta(minutes=1)
        raise RateLimited(
            f"At most {TESTS_OF_CHANNEL} tests of a channel, and {TESTS_OF_ORGANIZATION} of an organization, are sent "
            f"in {minutes} minutes.",
            code="too_many_tests",
            headers=((b"retry-after", str(int(TEST_PERIOD.total_seconds())).encode()),),
        )


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
