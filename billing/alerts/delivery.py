"""Sends alerts to their channels: each at least once, again after failures, with the same id."""

import secrets
import smtplib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.core.mail import EmailMessage, get_connection
from django.core.mail.backends.base import BaseEmailBackend
from django.db.models import F, QuerySet, Window
from django.db.models.functions import RowNumber
from django_scopes import scopes_disabled

from billing.alerts.channels import ChannelUnusable, read_address, read_recipients
from billing.alerts.messages import WRITERS, Message, Outgoing, find_refusal
from billing.models import Alert, AlertChannel, AlertDelivery, AlertKind, ReportFile
from tenants.database import database_now

BATCH = 20
#: Of one organization in a batch: half of what is sent at once, so that slow receivers hold up their own alone.
OF_ORGANIZATION = 5
#: A process that ends while it sends leaves its deliveries for others after this time.
LEASE = timedelta(seconds=60)
#: The waits after the first failures, longer or shorter by a fifth; after the last one a delivery has failed.
WAITS = tuple(timedelta(seconds=seconds) for seconds in (10, 60, 300, 1800, 7200, 18_000, 36_000))
JITTER = 0.2
GONE = 410  # the receiver wants no more
MAX_ERROR = 500
UNDER_WAY = "the last attempt has no end yet"
TOO_LARGE = "The report is too large for a mail. Its address in the API is above."
CUT = "the process that made the last attempt ended before its answer"


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to one request; `error` where there was none."""

    status: int = 0
    body: bytes = b""
    error: str = ""


#: Sends requests at once, and returns their replies in order.
SendAll = Callable[[Sequence[Outgoing]], Sequence[Reply]]


def deliver_due(send_all: SendAll) -> int:
    """Tries the deliveries whose time has come; returns how many."""
    with scopes_disabled():  # the worker sends the alerts of all organizations
        now = database_now()
        claimed = _claim(now)
        requests: list[tuple[AlertDelivery, Outgoing]] = []
        for row in claimed:
            if row.channel.kind != AlertChannel.Kind.EMAIL:
                try:
                    requests.append((row, write_request(row, now)))
                except ChannelUnusable as problem:
                    _finish(row, Reply(error=str(problem)), now)
        replies = send_all([request for _, request in requests]) if requests else ()
        for (row, _), reply in zip(requests, replies, strict=True):
            _finish(row, reply, database_now())
        _mail_all([row for row in claimed if row.channel.kind == AlertChannel.Kind.EMAIL])
        return len(claimed)


def write_request(row: AlertDelivery, now: datetime) -> Outgoing:
    """Raises ChannelUnusable."""
    message = _make_message(row, _find_file(row.alert, has_content=False), now)
    return WRITERS[row.channel.kind](message, read_address(row.channel, now))


def _make_message(row: AlertDelivery, file: ReportFile | None, now: datetime) -> Message:
    alert, rows = row.alert, None if file is None else file.rows
    return Message(row.id, alert.kind, alert.title, alert.data, alert.created_at, now, rows)


def _find_file(alert: Alert, *, has_content: bool) -> ReportFile | None:
    """None for an alert that is no report."""
    if alert.kind != AlertKind.REPORT:
        return None
    files = ReportFile.objects.filter(alert=alert)
    return (files if has_content else files.defer("content")).first()


def _claim(now: datetime) -> list[AlertDelivery]:
    """Takes the oldest of each organization in turn. A claim is an attempt: it is counted although its process may end
    before it is noted."""
    claimed: list[AlertDelivery] = []
    for row in _find_due(now):
        turn = AlertDelivery.objects.filter(pk=row.pk, state=row.state, next_at=row.next_at)
        if row.attempts > len(WAITS):
            turn.update(state=AlertDelivery.State.FAILED, error=CUT, ended_at=now)
        elif turn.update(next_at=now + LEASE, attempts=F("attempts") + 1, error=UNDER_WAY, status_code=None):
            row.attempts += 1
            claimed.append(row)
    return claimed


def _find_due(now: datetime) -> QuerySet[AlertDelivery]:
    due = AlertDelivery.objects.filter(state=AlertDelivery.State.PENDING, next_at__lte=now)
    place = Window(RowNumber(), partition_by=F("organization_id"), order_by=("next_at", "id"))
    taken = due.order_by().annotate(place=place).filter(place__lte=OF_ORGANIZATION)
    return taken.select_related("alert", "channel").order_by("place", "next_at")[:BATCH]


def _mail_all(rows: Sequence[AlertDelivery]) -> None:
    """By one connection: a server that is away costs its time-out once. A slow one may cost the rest of the task's
    time, so each mail is noted before the next one is sent."""
    waiting, problem = deque(rows), "TOLLGATE_SMTP_URL is not set"
    if rows and settings.EMAIL_HOST:
        try:
            with get_connection() as connection:
                while waiting:
                    reply = _mail(waiting[0], connection)
                    _finish(waiting.popleft(), reply, database_now())
        except (smtplib.SMTPException, OSError) as error:
            problem = f"the mail server is away: {type(error).__name__}"
    for row in waiting:
        _finish(row, Reply(error=problem), database_now())


def _mail(row: AlertDelivery, connection: BaseEmailBackend) -> Reply:
    try:
        file = _find_file(row.alert, has_content=True)
        lines = _make_message(row, file, row.alert.created_at).lines
        if file is not None and file.content is None:
            lines.append(TOO_LARGE)
        message = EmailMessage(
            " ".join(row.alert.title.split()),  # a header is one line
            "\n".join([row.alert.title, "", *lines, ""]),
            to=read_recipients(row.channel),
            headers={"Message-ID": f"<{row.id}@tollgate>"},
            connection=connection,
        )
        if file is not None and file.content is not None:
            message.attach(file.name, bytes(file.content), file.media_type)
        message.send()
    except ChannelUnusable as problem:
        return Reply(error=str(problem))
    except smtplib.SMTPException as error:
        connection.close()  # the server may have ended it: the next mail opens another
        return Reply(error=f"the mail server did not take it: {type(error).__name__}")
    except ValueError:  # the others of the batch must not wait for an address that no mail can have
        return Reply(error="a recipient cannot be written into a mail")
    return Reply(status=200)


def _finish(row: AlertDelivery, reply: Reply, now: datetime) -> None:
    error = reply.error
    if not error and not 200 <= reply.status < 300:
        error = f"status {reply.status}"
    error = error or find_refusal(row.channel.kind, reply.body)
    fields: dict[str, object] = {"status_code": reply.status or None, "error": error[:MAX_ERROR]}
    if not error:
        fields |= {"state": AlertDelivery.State.DELIVERED, "ended_at": now}
    elif reply.status == GONE or row.attempts > len(WAITS):
        fields |= {"state": AlertDelivery.State.FAILED, "ended_at": now}
    else:
        fields["next_at"] = now + WAITS[row.attempts - 1] * (1 + JITTER * (secrets.randbelow(2001) / 1000 - 1))
    AlertDelivery.objects.filter(pk=row.pk, state=AlertDelivery.State.PENDING).update(**fields)
