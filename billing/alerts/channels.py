"""Channels of alerts: the one way to create, change and delete them, and to read their addresses."""

import base64
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import urlsplit

from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.utils import timezone

from billing.alerts.messages import PREFIX, Address
from billing.models import AlertChannel, AlertDelivery, AlertKind, ReportSchedule
from gateway.protocol.json.types import JsonObject
from tenants.audit import Entry, audited, record
from tenants.encryption import decrypt, encrypt
from tenants.ids import new_id
from tenants.invalid import KeyInvalid
from tenants.models import Organization
from tenants.revision import write_transaction

MAX_CHANNELS = 50  # of an organization, and of the platform
MAX_RECIPIENTS = 20
MAX_URL = 2000
SECRET_BYTES = 32
#: A secret that was rotated signs as well for so long.
OVERLAP = timedelta(hours=24)
#: The kinds that may be given a secret of the chat's own settings.
SIGNED_CHATS = frozenset({AlertChannel.Kind.FEISHU, AlertChannel.Kind.DINGTALK})
#: Those that a channel may be narrowed to. Tests and reports go to channels that are named.
ALERT_KINDS = tuple(kind.value for kind in AlertKind if kind not in {AlertKind.TEST, AlertKind.REPORT})


class ChannelUnusable(Exception):
    """No configured encryption key opens the channel's address."""


@dataclass(frozen=True, slots=True)
class NewChannel:
    """A channel, and the secret of a new webhook, which is shown once; empty for other kinds."""

    channel: AlertChannel
    secret: str


def create_channel(
    *,
    organization: Organization | None,
    name: str,
    kind: str,
    url: str = "",
    recipients: Sequence[str] = (),
    secret: str = "",
    alert_kinds: Sequence[str] = (),
    is_enabled: bool = True,
) -> NewChannel:
    """Raises KeyInvalid."""
    own_secret = PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()
    channel = AlertChannel(
        id=new_id(),
        organization=organization,
        name=name,
        kind=kind,
        alert_kinds=_read_kinds(alert_kinds),
        is_enabled=is_enabled,
    )
    values = _read_target(kind, url, recipients)
    if kind == AlertChannel.Kind.WEBHOOK:
        if secret:
            raise KeyInvalid("secret", "is made by the gateway, and shown once")
        values["secret"] = own_secret
    elif secret:
        if kind not in SIGNED_CHATS:
            raise KeyInvalid("secret", f"a channel of the kind {kind!r} has none")
        values["secret"] = secret
    _seal(channel, values)
    with audited("create", channel):  # which takes turns, so that those that come at once are counted
        if AlertChannel.objects.filter(organization=organization).count() >= MAX_CHANNELS:
            raise KeyInvalid("name", f"there are {MAX_CHANNELS} channels already")
        channel.save(force_insert=True)
    return NewChannel(channel, own_secret if kind == AlertChannel.Kind.WEBHOOK else "")


def change_channel(
    channel: AlertChannel,
    *,
    name: str | None = None,
    url: str | None = None,
    recipients: Sequence[str] | None = None,
    alert_kinds: Sequence[str] | None = None,
    is_enabled: bool | None = None,
) -> AlertChannel:
    """None leaves a field as it is. A channel that is disabled gets nothing of what waits for it either. Raises
    KeyInvalid, and ChannelUnusable for a new address beside stored values that cannot be read."""
    with audited("update", channel):
        if url is not None or recipients is not None:
            target, stored = _read_target(channel.kind, url or "", recipients or ()), _unseal(channel)
            _reseal(channel, stored, {**stored, **target})
        channel.name = channel.name if name is None else name
        channel.alert_kinds = channel.alert_kinds if alert_kinds is None else _read_kinds(alert_kinds)
        channel.is_enabled = channel.is_enabled if is_enabled is None else is_enabled
        channel.save()
        if is_enabled is False:
            waiting = AlertDelivery.objects.filter(channel=channel, state=AlertDelivery.State.PENDING)
            failed = AlertDelivery.State.FAILED
            waiting.update(state=failed, error="the channel was disabled", ended_at=timezone.now())
    return channel


def rotate_secret(channel: AlertChannel, now: datetime) -> str:
    """The new secret of a webhook; the one before signs as well for OVERLAP. Raises KeyInvalid and
    ChannelUnusable."""
    if channel.kind != AlertChannel.Kind.WEBHOOK:
        raise KeyInvalid("alert_channel_id", "only a webhook has a secret of the gateway")
    values = _unseal(channel)
    secret = PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()
    ends_at = (now + OVERLAP).isoformat()
    with write_transaction():
        rotated: JsonObject = {"secret": secret, "old_secret": values["secret"], "old_until": ends_at}
        _reseal(channel, values, {**values, **rotated})
        channel.save()
    return secret


def delete_channel(channel: AlertChannel) -> None:
    """Schedules that send to it go on without it."""
    with audited("delete", channel):
        for schedule in ReportSchedule.objects.filter(organization=channel.organization_id):
            if channel.id in schedule.channel_ids:
                schedule.channel_ids = [one for one in schedule.channel_ids if one != channel.id]
                schedule.save(update_fields=["channel_ids"])
        channel.delete()


def read_address(channel: AlertChannel, now: datetime) -> Address:
    """Raises ChannelUnusable."""
    values = _unseal(channel)
    known = [str(values["secret"])] if values.get("secret") else []
    if values.get("old_until") and datetime.fromisoformat(str(values["old_until"])) > now:
        known.append(str(values["old_secret"]))
    return Address(str(values.get("url", "")), known)


def read_recipients(channel: AlertChannel) -> list[str]:
    """The addresses of a channel of the kind e-mail. Raises ChannelUnusable."""
    recipients = _unseal(channel)["recipients"]
    assert isinstance(recipients, list)
    return [str(one) for one in recipients]


def _read_target(kind: str, url: str, recipients: Sequence[str]) -> JsonObject:
    if kind == AlertChannel.Kind.EMAIL:
        if url:
            raise KeyInvalid("url", "a channel of the kind 'email' has 'recipients'")
        return {"recipients": _read_recipients(recipients)}
    if recipients:
        raise KeyInvalid("recipients", f"a channel of the kind {kind!r} has a 'url'")
    return {"url": _read_url(url)}


def _read_recipients(recipients: Sequence[str]) -> list[str]:
    if not 0 < len(recipients) <= MAX_RECIPIENTS:
        raise KeyInvalid("recipients", f"must be 1 to {MAX_RECIPIENTS} addresses")
    for recipient in recipients:
        try:
            validate_email(recipient)
        except ValidationError:
            raise KeyInvalid("recipients", "each must be an e-mail address") from None
    return list(recipients)


def _read_url(url: str) -> str:
    """The guard looks at the address again at each connection: here only its form is checked."""
    problem = KeyInvalid("url", "must be an http or https address without a login")
    try:
        parts = urlsplit(url)
        is_plain = parts.scheme in {"http", "https"} and bool(parts.hostname) and not (parts.username or parts.password)
        is_plain = is_plain and (parts.port is None or parts.port > 0)  # raises ValueError for what is no port
    except ValueError:
        raise problem from None
    if not is_plain or len(url) > MAX_URL or any(ord(one) <= 32 or ord(one) == 127 for one in url):
        raise problem
    return url


def _read_kinds(kinds: Sequence[str]) -> list[str]:
    for kind in kinds:
        if kind not in ALERT_KINDS:
            raise KeyInvalid("alert_kinds", f"each must be one of {', '.join(ALERT_KINDS)}")
    return sorted(set(kinds))


def _seal(channel: AlertChannel, values: JsonObject) -> None:
    channel.credential = encrypt({"for": channel.id, "values": values})
    channel.hint = _hint(values)


def _reseal(channel: AlertChannel, stored: JsonObject, values: JsonObject) -> None:
    """Seals other values, and records which they are, by their names: two addresses at one host have the same hint."""
    _seal(channel, values)
    changed = sorted(name for name in {*stored, *values} if stored.get(name) != values.get(name))
    if changed:
        old, new = {"parts": sorted(stored)}, {"parts": sorted(values), "changed": changed}
        record(Entry("credential", "alertchannel", channel.id, channel.organization_id, old, new))


def _hint(values: Mapping[str, object]) -> str:
    """The part of the address that is no secret: a host, or how many recipients."""
    recipients = values.get("recipients")
    if isinstance(recipients, list):
        domains = sorted({str(one).rpartition("@")[2] for one in recipients})
        return f"{len(recipients)} at {', '.join(domains)}"[:255]
    parts = urlsplit(str(values["url"]))
    return f"{parts.scheme}://{parts.netloc}/…"[:255]


def _unseal(channel: AlertChannel) -> JsonObject:
    plain = decrypt(channel.credential)
    if plain is None or plain.get("for") != channel.id:
        raise ChannelUnusable("no configured encryption key opens the address of this channel")
    values = plain["values"]
    assert isinstance(values, dict)
    return values
